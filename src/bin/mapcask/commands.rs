//! The commands that perform one operation on one store.
//!
//! Only `put` and `salvage` create a store or a keyspace. So a read with a mistyped name creates
//! nothing.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::HumanBytes;
use mapcask::{
    KeyspaceStats, MAX_KEY_LEN, MAX_KEYSPACE_NAME_LEN, MAX_ORDERED_KEY_LEN, MAX_VALUE_LEN, Options, Reader,
    Store, Value,
};

use super::look::{Looked, counts_of};
use super::{At, Place, Scan, bytes};

fn open(at: &At) -> Result<Store> {
    let store = Options::new().create(false).open(&at.store);
    explained(store, &at.store)
}

/// Opens a store for reading only: nothing in its directory changes.
fn look(at: &At) -> Result<Looked> {
    explained(Looked::open(&at.store), &at.store)
}

/// Adds advice for the command line to the error of a keyspace that is not there.
fn existing<T>(found: mapcask::Result<T>, name: &str) -> Result<T> {
    match found {
        Err(mapcask::Error::KeyspaceNotFound { .. }) => {
            bail!("there is no keyspace {name:?} in the store; mapcask keyspaces lists those that are there")
        }
        found => Ok(found?),
    }
}

fn explained<T>(opened: mapcask::Result<T>, path: &Path) -> Result<T> {
    explained_for(opened, path, "--store DIR names another")
}

/// Adds the store's path and advice for the command line to an error of an open.
pub(super) fn explained_for<T>(opened: mapcask::Result<T>, path: &Path, advice: &str) -> Result<T> {
    opened.map_err(|error| {
        let path = path.display();
        let advice = if error.is_corruption() {
            format!("mapcask salvage {path} NEW gets out what is intact")
        } else {
            advice.to_owned()
        };
        anyhow::Error::new(error).context(format!("cannot open the store at {path} ({advice})"))
    })
}

pub(super) fn put(place: &Place, key: &OsStr, value: Option<&OsStr>, ordered: bool) -> Result<bool> {
    let key = bytes::parse(key, place.hex)?;
    // A write that the store would refuse must not create a store first.
    if key.len() > MAX_KEY_LEN {
        bail!("the key has {} bytes; a store takes keys of up to {MAX_KEY_LEN}", key.len());
    }
    if ordered && key.len() > MAX_ORDERED_KEY_LEN {
        bail!(
            "the key has {} bytes; an ordered keyspace takes keys of up to {MAX_ORDERED_KEY_LEN}",
            key.len()
        );
    }
    if ordered && place.keyspace.is_empty() {
        bail!("the keyspace without a name is never ordered; --keyspace NAME names another");
    }
    let value = match value.filter(|value| *value != "-") {
        Some(value) => bytes::parse(value, place.hex)?,
        None => {
            let mut value = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut value)
                .context("cannot read the value from standard input")?;
            value
        }
    };
    if value.len() > MAX_VALUE_LEN {
        bail!("the value has {} bytes; a store takes values of up to {MAX_VALUE_LEN}", value.len());
    }
    if place.keyspace.len() > MAX_KEYSPACE_NAME_LEN {
        let len = place.keyspace.len();
        bail!("the keyspace's name has {len} bytes; a store takes names of up to {MAX_KEYSPACE_NAME_LEN}");
    }
    let store = explained(Store::open(&place.at.store), &place.at.store)?;
    let name = &place.keyspace;
    let keyspace = if ordered { store.ordered_keyspace(name) } else { store.keyspace(name) };
    keyspace?.insert(key, value)?;
    store.close()?;
    Ok(true)
}

pub(super) fn get(place: &Place, key: &OsStr) -> Result<bool> {
    let key = bytes::parse(key, place.hex)?;
    let store = look(&place.at)?;
    let value = existing(store.keyspace(&place.keyspace), &place.keyspace)?.get(key)?;
    if let Some(value) = &value {
        let mut out = io::stdout().lock();
        out.write_all(value)?;
        out.flush()?;
    }
    Ok(value.is_some())
}

pub(super) fn del(place: &Place, key: &OsStr) -> Result<bool> {
    let key = bytes::parse(key, place.hex)?;
    let store = open(&place.at)?;
    let was_there = existing(store.open_keyspace(&place.keyspace), &place.keyspace)?.remove(key)?;
    store.close()?;
    Ok(was_there)
}

pub(super) fn scan(scan: &Scan) -> Result<bool> {
    let (hex, name) = (scan.place.hex, &scan.place.keyspace);
    let store = look(&scan.place.at)?;
    let keyspace = existing(store.keyspace(name), name)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for item in selected(&keyspace, scan)?.take(scan.limit.unwrap_or(usize::MAX)) {
        let (key, value) = item?;
        if scan.values {
            writeln!(out, "{}\t{}", bytes::show(&key, hex), bytes::show(&value, hex))?;
        } else {
            writeln!(out, "{}", bytes::show(&key, hex))?;
        }
    }
    out.flush()?;
    Ok(true)
}

type Items = Box<dyn Iterator<Item = mapcask::Result<(Value, Value)>>>;

/// Returns the items that a scan asks for. Those of an ordered keyspace are found without reading
/// others.
fn selected(keyspace: &Reader, scan: &Scan) -> Result<Items> {
    let parse = |argument: &Option<OsString>| {
        argument.as_deref().map(|argument| bytes::parse(argument, scan.place.hex)).transpose()
    };
    let (from, to) = (parse(&scan.from)?, parse(&scan.to)?);
    let prefix = parse(&scan.prefix)?.unwrap_or_default();
    if !keyspace.is_ordered() {
        if from.is_some() || to.is_some() || scan.reverse {
            let name = &scan.place.keyspace;
            bail!(
                "the keyspace {name:?} is not ordered; --from, --to and --reverse need one that \
                 `put --ordered` or `Store::ordered_keyspace` has created"
            );
        }
        let is_selected = move |item: &mapcask::Result<(Value, Value)>| {
            item.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))
        };
        return Ok(Box::new(keyspace.iter().filter(is_selected)));
    }
    let mut range = keyspace.prefix(prefix);
    if let Some(from) = from {
        range.seek(from);
    }
    if let Some(to) = &to {
        range.seek_back(to);
    }
    // A seek keeps the key itself.
    let is_end = move |item: &mapcask::Result<(Value, Value)>| {
        item.as_ref().is_ok_and(|(key, _)| to.as_ref().is_some_and(|to| *key == *to))
    };
    let items: Items = if scan.reverse { Box::new(range.rev()) } else { Box::new(range) };
    Ok(Box::new(items.filter(move |item| !is_end(item))))
}

/// Returns each keyspace with its counters, and true if it is ordered. The default one, whose name is
/// empty, comes first.
fn all_keyspaces(store: &Looked) -> Result<Vec<(String, KeyspaceStats, bool)>> {
    let names = std::iter::once(String::new()).chain(store.keyspace_names());
    let with_stats = |name: String| {
        let keyspace = store.keyspace(&name)?;
        let stats = keyspace.keyspace_stats()?;
        Ok((name, stats, keyspace.is_ordered()))
    };
    names.map(with_stats).collect()
}

pub(super) fn keyspaces(at: &At) -> Result<bool> {
    let store = look(at)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for (name, stats, is_ordered) in all_keyspaces(&store)? {
        let order = if is_ordered { "ordered" } else { "unordered" };
        // Quoted and escaped: a name may be empty, and may hold tabs and line breaks.
        writeln!(out, "{name:?}\t{}\t{}\t{order}", stats.keys, stats.live_bytes)?;
    }
    out.flush()?;
    Ok(true)
}

pub(super) fn stats(at: &At) -> Result<bool> {
    let store = look(at)?;
    let stats = store.stats()?;
    let size = store.size_on_disk()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{:<14} {}", "writer", store.writer()?)?;
    let others = [
        ("index_bytes", stats.index_bytes as u64),
        ("last_seq", stats.last_seq),
        ("durable_seq", stats.durable_seq),
        ("size_on_disk", size),
    ];
    for (name, count) in counts_of(&stats).into_iter().chain(others) {
        writeln!(out, "{name:<14} {count}")?;
    }
    for (name, stats, is_ordered) in all_keyspaces(&store)? {
        let (keys, live_bytes, index_bytes) = (stats.keys, stats.live_bytes, stats.index_bytes);
        let head = "keyspace";
        writeln!(
            out,
            "{head:<14} {name:?} keys {keys} live_bytes {live_bytes} index_bytes {index_bytes} ordered {is_ordered}"
        )?;
    }
    Ok(true)
}

pub(super) fn verify(at: &At) -> Result<bool> {
    let store = explained(Looked::open_to_verify(&at.store), &at.store)?;
    let report = store.verify()?;
    writeln!(
        io::stdout().lock(),
        "intact: {} keys; {} records in {} segments, {} read",
        report.keys,
        report.records,
        report.segments,
        HumanBytes(report.bytes),
    )?;
    Ok(true)
}

pub(super) fn compact(at: &At) -> Result<bool> {
    let store = open(at)?;
    let report = store.compact()?;
    let mut out = io::stdout().lock();
    if report.passes == 0 {
        writeln!(out, "nothing to do: no segment holds a value that was overwritten or removed")?;
    } else {
        writeln!(
            out,
            "{} segments removed, {} made; {} read, {} moved, {} given back",
            report.segments_removed,
            report.segments_made,
            HumanBytes(report.bytes_read),
            HumanBytes(report.bytes_moved),
            HumanBytes(report.bytes_freed),
        )?;
    }
    store.close()?;
    Ok(true)
}
