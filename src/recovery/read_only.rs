//! The last part of a read-only open: it applies the changes of recovery in memory and none on the
//! disk.
//!
//! The decisions are those of any other open, so the store shows the same contents. Nothing is
//! quarantined, renamed, removed, rewritten or created. The log has no tail segment, and the group
//! commit refuses every write from the beginning.
//!
//! **Memory.** Two pages, for any amount of recovery: the log is read through its files, and none
//! of it is changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Recovered;
use super::directory::DirectoryScan;
use super::recovered_parts::{Built, RecoveredParts};
use crate::error::{Error, Result};
use crate::fs::Dir;
use crate::log::context::LogContext;
use crate::log::control_page::ControlPage;
use crate::log::group_commit::GroupCommit;
use crate::log::manifest::ManifestStore;
use crate::log::segment::{Prefault, Segment};
use crate::log::writer::Tail;
use crate::recovery::replay::Replayed;

/// Assembles the store from the findings.
///
/// # Errors
///
/// `Corrupt` for numbers that no store writes, and errors of the operating system if memory is
/// short.
pub(super) fn apply(
    dir: Arc<dyn Dir>,
    survey: &DirectoryScan,
    mut found: RecoveredParts,
    mut built: Built,
) -> Result<Recovered> {
    // No number is assigned here, but numbers with no space left above them are refused.
    found.update_manifest(dir.as_ref(), survey, &mut built)?;
    let RecoveredParts { manifest, chain, .. } = found;
    let Built { space, hash_key, replayed, checkpoint, lock } = built;
    let Replayed { keyspaces, names, pending, durable, mut report, .. } = replayed;
    report.clean = manifest.clean;
    report.incarnation = manifest.incarnation + 1;
    report.durable_seq = durable.0;
    report.segments = chain.segments.len();
    let (store, incarnation, next_seq) = (manifest.store, manifest.incarnation, manifest.next_seq);

    let refusal = Error::OpenedReadOnly { path: dir.path().to_owned() };
    let commit = Arc::new(GroupCommit::refusing(durable, refusal));
    let manifest = ManifestStore::in_memory(&dir, &commit, manifest);
    let control = Arc::new(ControlPage::in_memory(dir.as_ref())?);
    let segment = Segment::nowhere(&space, dir.path())?;
    let segments = chain.segments.into_iter().map(|segment| (segment.id(), segment)).collect();
    let shared = LogContext::new(dir, store, space, manifest, commit, segments);
    let tail = Tail { segment, offset: 0, previous: None, next_seq, incarnation, durable, last: chain.last };
    Ok(Recovered {
        shared,
        lock,
        control,
        hash_key,
        keyspaces,
        names,
        pending,
        tail,
        ready: chain.ready,
        prefault: Prefault::Plain,
        unsynced: Vec::new(),
        checkpoint,
        hinted: None,
        hint_files: BTreeSet::new(),
        waiting: None,
        report,
    })
}
