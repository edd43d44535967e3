//! The commands that back a store up, and that make a store of a backup.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use mapcask::Follower;

/// Backs a store up, beside a process that writes to it.
pub(super) fn backup(store: &Path, target: &Path) -> Result<bool> {
    let follower =
        Follower::open(store).with_context(|| format!("cannot read the store at {}", store.display()))?;
    let report = follower
        .backup(target)
        .with_context(|| format!("cannot back up {} to {}", store.display(), target.display()))?;
    writeln!(
        io::stdout().lock(),
        "{} files, {}; {} copied, {}; {} old ones removed; last sequence number {}",
        report.files,
        HumanBytes(report.bytes),
        report.files_copied,
        HumanBytes(report.bytes_copied),
        report.files_removed,
        report.last_seq,
    )?;
    Ok(true)
}

/// Makes a store of a backup.
pub(super) fn restore(backup: &Path, store: &Path) -> Result<bool> {
    let report = mapcask::restore(backup, store)
        .with_context(|| format!("cannot restore {} to {}", backup.display(), store.display()))?;
    writeln!(
        io::stdout().lock(),
        "{} files, {}; last sequence number {}",
        report.files,
        HumanBytes(report.bytes),
        report.last_seq,
    )?;
    Ok(true)
}
