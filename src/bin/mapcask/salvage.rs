//! The command that copies the intact data of a damaged store to a new one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use mapcask::{Damage, SALVAGE_UNFINISHED, SalvageReport, Store};

/// Returns `true` if there was no damage.
pub(super) fn run(from: &Path, into: &Path) -> Result<bool> {
    if !from.is_dir() {
        bail!("{} is no directory; name the damaged store's", from.display());
    }
    let is_there = into.try_exists().with_context(|| format!("cannot look at {}", into.display()))?;
    let mut holds_files = false;
    if is_there {
        let mut entries = fs::read_dir(into).with_context(|| format!("cannot list {}", into.display()))?;
        holds_files = entries.next().is_some();
    }
    let store = Store::open(into).with_context(|| format!("cannot make a store at {}", into.display()))?;
    // Old values would overwrite those of a store in use. An unfinished salvage is repeated.
    if holds_files && !is_unfinished(&store) {
        bail!("{} is a store already; name a new directory for what comes back", into.display());
    }
    let salvaged = mapcask::salvage(from, &store);
    let is_bare = store.is_empty();
    let closed = store.close();
    if salvaged.is_err() && is_bare && !is_there {
        // The target is empty: remove it, lest it look like a result. The first error is reported.
        let _ = mapcask::destroy(into);
    }
    let report = salvaged.with_context(|| format!("cannot salvage {}", from.display()))?;
    closed.with_context(|| format!("cannot close the store at {}", into.display()))?;
    print(&report)?;
    Ok(report.damage.is_empty())
}

/// Returns `true` if a salvage into this store was interrupted, or has not begun.
fn is_unfinished(store: &Store) -> bool {
    let names = store.keyspace_names();
    names.iter().any(|name| name == SALVAGE_UNFINISHED) || (names.is_empty() && store.is_empty())
}

fn print(report: &SalvageReport) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    for (name, count) in [
        ("keys that came back", report.keys),
        ("keyspaces that came back", report.keyspaces.len() as u64),
        ("intact records", report.records),
        ("segments read", report.segments as u64),
        ("last sequence number", report.last_seq),
        ("damaged places", report.damage.len() as u64),
    ] {
        table.add_row([name, &count.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{table}")?;
    for name in &report.keyspaces {
        match name.as_str() {
            "" => writeln!(out, "keyspace \"\", the one without a name")?,
            name => writeln!(out, "keyspace {name:?}")?,
        }
    }
    for damage in &report.damage {
        let Damage { path, offset, len, cause, missing, .. } = damage;
        write!(out, "{}, offset {offset}, {len} bytes: {cause}", path.display())?;
        match missing {
            Some((first, last)) if first == last => writeln!(out, "; record {first} is missing")?,
            Some((first, last)) => writeln!(out, "; records {first} to {last} are missing")?,
            None => writeln!(out)?,
        }
    }
    if report.doubtful_keys > 0 {
        writeln!(
            out,
            "{} keys came back that a missing record may have overwritten or removed",
            report.doubtful_keys
        )?;
    }
    Ok(())
}
