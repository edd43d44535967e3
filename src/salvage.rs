//! Salvage: every record whose checksums hold, out of a store that does not open, into another store.
//!
//! It reads and changes nothing in the damaged store. Where the manifest is lost it goes by the segments' headers; where
//! a header is lost, by the manifest. Of each key the newest record that is intact counts; a batch comes back as a
//! whole or not at all. What is missing is listed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::format::keyspace::{Change, Keyspaces};
use crate::format::manifest::{Manifest, SegmentEntry, State};
use crate::format::names::{self, LOCK, Name};
use crate::format::record::{HEADER_SIZE, Kind};
use crate::format::segment_header::SEGMENT_HEADER_SIZE;
use crate::format::walk::{Order, Placed, Source, Step, Walker, beyond};
use crate::format::{Defect, KeyspaceId, SegmentId, Seq};
use crate::fs::real::RealDir;
use crate::fs::{Access, Dir, Lock, LockFailure};
use crate::keyspace::Keyspace;
use crate::recovery::look::change_in;
use crate::recovery::source::FileSource;
use crate::recovery::survey::Survey;
use crate::segment_file::read_header;
use crate::store::Store;

/// A place in a file where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The offset of the damage from the file's start, in bytes.
    pub offset: u64,
    /// What is wrong; `None` where the file is missing.
    pub defect: Option<Defect>,
}

/// What a salvage gave back, and what it met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SalvageReport {
    /// Segment files read.
    pub segments: usize,
    /// Intact records, of all kinds.
    pub records: u64,
    /// Keys that were written to the other store.
    pub keys: u64,
    /// The keyspaces that they were written to; the default one has no name. One whose name is lost has the name
    /// `salvaged-` and its number.
    pub keyspaces: Vec<String>,
    /// The greatest sequence number met.
    pub last_seq: u64,
    /// Where something is wrong. The records there are missing; a key may have come back with an older value.
    pub damage: Vec<Damage>,
}

/// Reads every intact record of a damaged store, and writes the newest of each key into another store.
///
/// Nothing in the damaged store is changed. `into` may hold other keys; equal ones are overwritten. Keys go to keyspaces
/// of the same names, or of `salvaged-` and a number where the name is lost, or stands for one of another codec in `into`.
///
/// # Errors
///
/// `Locked` while the store is open; `NotFound` where there is none; `Io` where even reading fails for another reason
/// than bad sectors; whatever writing to `into` returns.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let damaged = directory.path().join("damaged");
/// # let store = mapcask::Store::open(&damaged)?;
/// # store.insert("key", "value")?;
/// # store.close()?;
/// let rescued = mapcask::Store::open(directory.path().join("rescued"))?;
/// let report = mapcask::salvage(&damaged, &rescued)?;
/// println!("{} keys came back, {} places are damaged", report.keys, report.damage.len());
/// # assert_eq!(rescued.get("key")?.as_deref(), Some(b"value".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "repair")]
pub fn salvage(from: impl AsRef<Path>, into: &Store) -> Result<SalvageReport> {
    let from = from.as_ref();
    salvage_from(&RealDir::new(from).map_err(|error| Error::io("find", from, error))?, into)
}

/// As [`salvage`], from a simulated disk.
///
/// # Errors
///
/// As [`salvage`].
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub fn salvage_on(from: &crate::fs::sim::SimDisk, into: &Store) -> Result<SalvageReport> {
    salvage_from(from.dir().as_ref(), into)
}

/// How many bytes of values go into one batch.
const BATCH_BYTES: usize = 1 << 20;

fn salvage_from(dir: &dyn Dir, into: &Store) -> Result<SalvageReport> {
    into.engine().liveness.check()?;
    let survey = Survey::of(dir)?;
    let _lock = lock(dir)?;
    let manifest = survey.manifest().map(|(manifest, _)| manifest);
    if manifest.is_none() && survey.segments.is_empty() {
        return Err(Error::NotFound { path: dir.path().to_owned() });
    }
    let mut rescue = Rescue::default();
    if let Some((copy, defect)) = survey.damage() {
        let path = dir.path().join(names::MANIFESTS[copy]);
        rescue.report.damage.push(Damage { path, offset: 0, defect: Some(defect) });
    }
    let listed = manifest.iter().flat_map(|manifest| &manifest.segments);
    for entry in listed.filter(|entry| survey.segments.binary_search(&entry.id).is_err()) {
        let path = dir.path().join(names::segment(entry.id));
        rescue.report.damage.push(Damage { path, offset: 0, defect: None });
    }
    for id in &survey.segments {
        let entry = manifest.as_ref().and_then(|manifest| manifest.segment(*id));
        if manifest.is_none() || entry.is_some() {
            rescue.read_segment(dir, *id, manifest.as_ref(), entry)?;
        }
    }
    rescue.write(manifest.as_ref(), into)?;
    Ok(rescue.report)
}

/// Keeps a writer out, where there is a lock file; makes none.
fn lock(dir: &dyn Dir) -> Result<Option<Box<dyn Lock>>> {
    let names = dir.list().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound { path: dir.path().to_owned() },
        _ => Error::io("list", dir.path(), error),
    })?;
    if !names.iter().any(|name| names::parse(name) == Name::Lock) {
        return Ok(None);
    }
    match dir.lock(LOCK, None, Duration::ZERO) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockFailure::Held(note)) => {
            let pid = std::str::from_utf8(&note).ok().and_then(|note| note.trim().parse().ok());
            Err(Error::Locked { path: dir.path().to_owned(), pid })
        }
        // A directory that cannot be written has no writer that could be kept out.
        Err(LockFailure::Io(_)) => Ok(None),
    }
}

/// The newest intact record of a key.
#[derive(Debug, Clone, Copy)]
struct Newest {
    seq: Seq,
    file: usize,
    /// Where its value lies.
    offset: u64,
    /// The value's length; `None` for a removal.
    len: Option<u32>,
}

#[derive(Default)]
struct Rescue {
    report: SalvageReport,
    files: Vec<FileSource>,
    newest: BTreeMap<KeyspaceId, HashMap<Vec<u8>, Newest>>,
    changes: Vec<(Seq, Change)>,
}

/// What is known of a keyspace.
#[derive(Debug)]
struct Fate {
    name: String,
    codec: String,
    dropped: bool,
}

impl Rescue {
    fn read_segment(
        &mut self,
        dir: &dyn Dir,
        id: SegmentId,
        manifest: Option<&Manifest>,
        entry: Option<&SegmentEntry>,
    ) -> Result<()> {
        let path = dir.path().join(names::segment(id));
        let file =
            dir.open(&names::segment(id), Access::Read).map_err(|error| Error::io("open", &path, error))?;
        let found = file.identity().map_err(|error| Error::io("look at", &path, error))?.size;
        let header = match read_header(file.as_ref(), &path) {
            // The store's own word is better than a guess where both are there.
            Ok(header) if manifest.is_none_or(|manifest| manifest.store == header.store) => Some(header),
            Ok(_) => return Ok(()),
            Err(Error::Corrupt { defect, .. }) => {
                self.damage(&path, 0, defect);
                None
            }
            Err(error) => return Err(error),
        };
        let nonce = header.as_ref().map(|header| header.nonce).or(entry.map(|entry| entry.nonce));
        let Some(nonce) = nonce else { return Ok(()) };
        let start = header.as_ref().map_or(SEGMENT_HEADER_SIZE as u64, |header| header.data_offset());
        let made =
            header.as_ref().map(|header| header.size).or(entry.map(|entry| entry.size)).unwrap_or(found);
        if found != made {
            self.damage(&path, found.min(made), Defect::WrongSize { expected: made, found });
        }
        let known = entry.filter(|entry| entry.state != State::Open).map(|entry| entry.end);
        let limit = known.unwrap_or(found).min(found) & !7;
        let mut source = FileSource::new(Arc::clone(&file), path.clone(), found);
        self.report.segments += 1;
        self.walk(&mut source, nonce, start.min(limit), limit, known.is_some())?;
        self.files.push(source);
        Ok(())
    }

    fn walk(
        &mut self,
        source: &mut FileSource,
        nonce: u64,
        start: u64,
        limit: u64,
        known: bool,
    ) -> Result<()> {
        let mut walker = Walker::new(nonce, start, limit, Order::Any);
        let stop = loop {
            match walker.step(source)? {
                Step::Record(placed) => self.record(source, &placed)?,
                Step::Blank if walker.offset() < limit && known => break Some(Defect::Truncated),
                Step::Blank => break None,
                Step::Invalid(defect) => break Some(defect),
            }
        };
        let path = source.path().to_owned();
        if let Some(defect) = stop {
            self.damage(&path, walker.offset(), defect);
        }
        let before = self.report.records;
        let whole =
            beyond(source, nonce, walker.offset(), limit, |source, placed| self.record(source, placed))?;
        if stop.is_none() && self.report.records > before {
            self.damage(&path, walker.offset(), Defect::Truncated);
        }
        if !whole {
            self.damage(&path, walker.offset(), Defect::LengthOutOfRange);
        }
        Ok(())
    }

    fn record(&mut self, source: &mut FileSource, placed: &Placed) -> Result<()> {
        let header = &placed.header;
        self.report.records += 1;
        self.report.last_seq = self.report.last_seq.max(header.seq.0);
        if header.kind == Kind::Keyspace {
            match change_in(source, placed)? {
                Ok(change) => self.changes.push((header.seq, change)),
                Err(defect) => {
                    let path = source.path().to_owned();
                    self.damage(&path, placed.offset, defect);
                }
            }
        }
        if !matches!(header.kind, Kind::Put | Kind::Tombstone) {
            return Ok(());
        }
        let key_at = placed.offset + HEADER_SIZE as u64;
        let key = source.bytes(key_at, usize::from(header.key_len))?;
        let keys = self.newest.entry(header.keyspace).or_default();
        if keys.get(key).is_some_and(|newest| newest.seq >= header.seq) {
            return Ok(());
        }
        let newest = Newest {
            seq: header.seq,
            file: self.files.len(),
            offset: key_at + u64::from(header.key_len),
            len: (header.kind == Kind::Put).then_some(header.value_len),
        };
        keys.insert(key.to_vec(), newest);
        Ok(())
    }

    fn write(&mut self, manifest: Option<&Manifest>, into: &Store) -> Result<()> {
        let fates = self.fates(manifest);
        let mut taken = HashSet::new();
        // A name that a lost record left to two keyspaces goes to the newer one.
        for (id, keys) in std::mem::take(&mut self.newest).into_iter().rev() {
            let dropped = fates.get(&id).is_some_and(|fate| fate.dropped)
                || (manifest.is_some_and(|manifest| manifest.keyspaces.is_dropped(id)));
            if dropped || keys.values().all(|newest| newest.len.is_none()) {
                continue;
            }
            let numbered = format!("salvaged-{}", id.0);
            let codec = fates.get(&id).map_or("", |fate| fate.codec.as_str());
            let name = fates.get(&id).map(|fate| fate.name.clone()).filter(|name| taken.insert(name.clone()));
            let mut name = name.unwrap_or_else(|| numbered.clone());
            let mut keyspace = into.keyspace_of(&name, codec)?;
            if keyspace.inner().codec() != codec {
                // What is there under the name is encoded otherwise; both together could be read by nobody.
                name = numbered;
                keyspace = into.keyspace_of(&name, codec)?;
            }
            if keyspace.inner().codec() != codec {
                let (stored, asked) = (keyspace.inner().codec().to_owned(), codec.to_owned());
                return Err(Error::CodecMismatch { name, stored, asked });
            }
            self.write_keys(&keys, &keyspace)?;
            self.report.keyspaces.push(name);
        }
        self.report.keyspaces.sort_unstable();
        Ok(())
    }

    /// What the manifest and the intact records say of each keyspace.
    fn fates(&mut self, manifest: Option<&Manifest>) -> BTreeMap<KeyspaceId, Fate> {
        let listed = manifest.map_or_else(Keyspaces::new, |manifest| manifest.keyspaces.clone());
        let upto = manifest.map_or(Seq::ZERO, |manifest| manifest.durable);
        let fate =
            |name: &str, codec: &str| Fate { name: name.to_owned(), codec: codec.to_owned(), dropped: false };
        let mut fates: BTreeMap<_, _> =
            listed.iter().map(|(name, named)| (named.id, fate(name, &named.codec))).collect();
        self.changes.sort_by_key(|(seq, _)| *seq);
        for (_, change) in self.changes.iter().filter(|(seq, _)| *seq > upto) {
            match change {
                Change::Create { id, name, codec } => drop(fates.insert(*id, fate(name, codec))),
                Change::Rename { id, name } => {
                    let known = fates.entry(*id).or_insert_with(|| fate(name, ""));
                    known.name.clone_from(name);
                }
                Change::Clear { id, old, name } => {
                    let before = fates.entry(*old).or_insert_with(|| fate(name, ""));
                    before.dropped = true;
                    let codec = before.codec.clone();
                    fates.insert(*id, fate(name, &codec));
                }
                Change::Drop { id, name } => {
                    fates.entry(*id).or_insert_with(|| fate(name, "")).dropped = true;
                }
            }
        }
        fates
    }

    fn write_keys(&mut self, keys: &HashMap<Vec<u8>, Newest>, keyspace: &Keyspace) -> Result<()> {
        let mut batch = WriteBatch::new();
        let mut bytes = 0;
        for (key, newest) in keys {
            let Some(len) = newest.len else { continue };
            let source = &mut self.files[newest.file];
            let mut value = vec![
                0;
                usize::try_from(len).map_err(|_| Error::Limit {
                    what: "a value is larger than this processor's address space",
                    advice: "salvage on a 64-bit machine",
                })?
            ];
            crate::fs::read_exact_at(source.file().as_ref(), &mut value, newest.offset)
                .map_err(|error| Error::io("read", source.path(), error))?;
            bytes += value.len();
            batch.insert(key, &value);
            self.report.keys += 1;
            if bytes >= BATCH_BYTES {
                keyspace.write(&batch)?;
                batch.clear();
                bytes = 0;
            }
        }
        keyspace.write(&batch).map(drop)
    }

    fn damage(&mut self, path: &Path, offset: u64, defect: Defect) {
        self.report.damage.push(Damage { path: path.to_owned(), offset, defect: Some(defect) });
    }
}
