//! The end of an open that only reads: what recovery would change is changed in memory, and nothing on the disk.
//!
//! Everything was decided as for any other open, so what is shown is what that would show. What it would copy aside, rename,
//! remove, write again or make stays undone. The log stands nowhere, and the commit refuses from the beginning whatever
//! would write.
//!
//! **Memory.** Two pages, whatever there is to be recovered: the log is read through its files, and nothing of it is changed.

use std::sync::Arc;

use super::directory::DirectoryScan;
use super::{Built, Recovered, RecoveredParts, count_on, next_seq};
use crate::error::{Error, Result};
use crate::fs::Dir;
use crate::log::context::LogContext;
use crate::log::control_page::ControlPage;
use crate::log::group_commit::GroupCommit;
use crate::log::manifest::ManifestStore;
use crate::log::segment::{Prefault, Segment};
use crate::log::writer::Tail;
use crate::recovery::replay::Replayed;

/// Puts together what was found.
///
/// # Errors
///
/// `Corrupt` where numbers are that no store writes; what the operating system says where it has no memory.
pub(super) fn apply(
    dir: Arc<dyn Dir>,
    survey: &DirectoryScan,
    found: RecoveredParts,
    built: Built,
) -> Result<Recovered> {
    let RecoveredParts { mut manifest, chain, unseen, .. } = found;
    let Built { space, hash_key, replayed, checkpoint, lock } = built;
    let Replayed { keyspaces, names, durable_names, pending, durable, mut report } = replayed;
    // Nothing is numbered here; what cannot be counted on is refused as ever.
    manifest.next_seq = next_seq(dir.as_ref(), &manifest, &chain, durable, unseen)?;
    count_on(dir.as_ref(), survey, &mut manifest)?;
    report.clean = manifest.clean;
    report.incarnation = manifest.incarnation + 1;
    report.durable_seq = durable.0;
    report.segments = chain.segments.len();
    manifest.segments = chain.entries;
    manifest.retired_seq = chain.retired_seq;
    manifest.durable = durable;
    manifest.keyspaces = durable_names;
    manifest.checkpoint = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.number);
    let (store, incarnation, next_seq) = (manifest.store, manifest.incarnation, manifest.next_seq);

    let refusal = Error::OpenedReadOnly { path: dir.path().to_owned() };
    let commit = Arc::new(GroupCommit::refusing(durable, refusal));
    let manifest = ManifestStore::in_memory(&dir, &commit, manifest);
    let control = ControlPage::in_memory(dir.as_ref())?;
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
        report,
    })
}
