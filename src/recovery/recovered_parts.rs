//! The findings of a recovery, and the manifest that follows from them.

use crate::error::{Error, Result};
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::file_name::MANIFESTS;
use crate::format::hash::HashKey;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::HEADER_SIZE;
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::{Dir, Lock};
use crate::mem::address_space::AddressSpace;
use crate::recovery::directory::DirectoryScan;
use crate::recovery::replay::Replayed;
use crate::recovery::segment_chain::SegmentChain;

/// The state found on the disk.
pub(super) struct RecoveredParts {
    pub(super) manifest: Manifest,
    pub(super) suspect: [bool; 2],
    pub(super) chain: SegmentChain,
    /// Segments that repeat records of other segments.
    pub(super) repeated: Vec<SegmentId>,
    /// The number of records that may have been behind the end of the log.
    pub(super) unseen: u64,
    pub(super) boot_id: Option<[u8; 16]>,
    /// True if the kernel still has every page of the writer before.
    pub(super) has_cache: bool,
    /// True if this open created the store, durably.
    pub(super) created: bool,
}

impl RecoveredParts {
    /// Returns true if everything is as a clean close left it, so the disk need not change before
    /// the first write.
    pub(super) fn is_as_closed(&self, survey: &DirectoryScan, checkpoint: Option<&IndexCheckpoint>) -> bool {
        let Self { manifest, chain, .. } = self;
        manifest.clean
            && chain.resume.is_some()
            && chain.entries == manifest.segments
            && chain.retired.is_empty()
            && survey.temporaries.is_empty()
            && self.keeps_files(survey, checkpoint)
    }

    /// Returns true if the findings can be written later. Until then, another open of the directory
    /// reaches the same ones.
    ///
    /// The other trusts the page cache if the writer before this open did. So hints must not be there,
    /// or this open must have trusted them: else the other would use those that this one refused.
    pub(super) fn can_wait(&self, survey: &DirectoryScan, checkpoint: Option<&IndexCheckpoint>) -> bool {
        let is_trusted = self.has_cache && (self.chain.has_cache || survey.hints.is_empty());
        !self.manifest.clean
            && is_trusted
            && survey.has_equal_copies()
            && self.keeps_files(survey, checkpoint)
    }

    /// Returns true if no file of the store is renamed or repaired, and none is removed but segments
    /// that the manifest calls retired.
    fn keeps_files(&self, survey: &DirectoryScan, checkpoint: Option<&IndexCheckpoint>) -> bool {
        let Self { manifest, suspect, chain, repeated, .. } = self;
        let named = checkpoint.map_or(0, |checkpoint| checkpoint.number);
        *suspect == [false; 2]
            && chain.quarantined.is_empty()
            && chain.asides.is_empty()
            && repeated.is_empty()
            && named == manifest.checkpoint
            && survey.checkpoints.iter().all(|number| *number == named)
    }

    /// Brings the manifest in memory up to the findings. The next numbers are above every one that
    /// can have been assigned.
    ///
    /// # Errors
    ///
    /// `Corrupt` for numbers that no store writes.
    pub(super) fn update_manifest(
        &mut self,
        dir: &dyn Dir,
        survey: &DirectoryScan,
        built: &mut Built,
    ) -> Result<()> {
        let Self { manifest, chain, unseen, .. } = self;
        let Replayed { durable_names, durable, .. } = &mut built.replayed;
        manifest.next_seq = next_seq(dir, manifest, chain, *durable, *unseen)?;
        count_on(dir, survey, manifest)?;
        manifest.segments = std::mem::take(&mut chain.entries);
        manifest.retired_seq = chain.retired_seq;
        manifest.durable = *durable;
        manifest.keyspaces = std::mem::take(durable_names);
        manifest.checkpoint = built.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.number);
        Ok(())
    }
}

/// The structures built in memory.
pub(super) struct Built {
    pub(super) space: AddressSpace,
    pub(super) hash_key: HashKey,
    pub(super) replayed: Replayed,
    pub(super) checkpoint: Option<IndexCheckpoint>,
    pub(super) lock: Box<dyn Lock>,
}

/// Ensures that no segment number is assigned twice, and refuses numbers with no space left above
/// them.
fn count_on(dir: &dyn Dir, survey: &DirectoryScan, manifest: &mut Manifest) -> Result<()> {
    let highest = survey.segments.last().copied().unwrap_or(SegmentId(0));
    manifest.next_segment = manifest.next_segment.max(SegmentId(highest.0.saturating_add(1)));
    manifest.check_room().map_err(|defect| {
        let path = dir.path().join(MANIFESTS[0]);
        Error::Corrupt { path, offset: 0, defect }
    })
}

/// Returns the first number of the new incarnation. After an unclean end it is above every number
/// that can have been assigned.
///
/// # Errors
///
/// `Corrupt` if a closed store holds a number that its close did not know.
fn next_seq(
    dir: &dyn Dir,
    manifest: &Manifest,
    chain: &SegmentChain,
    durable: Seq,
    unseen: u64,
) -> Result<Seq> {
    // A number that compaction filtered by is never assigned again, even if its record no longer
    // exists.
    let filtered = chain.entries.iter().map(|entry| entry.filtered.max(entry.last_seq)).max();
    let seen = chain.last.max(chain.seen).max(durable).max(filtered.unwrap_or(Seq::ZERO));
    let next = manifest.next_seq.max(seen.next());
    if !manifest.clean {
        // A number above the maximum is refused, not assigned.
        return Ok(Seq(next.0.saturating_add(unseen).saturating_add(1)));
    }
    if chain.resume.is_some() && next != manifest.next_seq {
        // The number is greater than the close knew: the log could not continue where it stopped.
        let (path, defect) = (dir.path().join(MANIFESTS[0]), Defect::BadField("next_seq"));
        return Err(Error::Corrupt { path, offset: 0, defect });
    }
    Ok(next)
}

/// Returns the number of records that may have been behind the end of the log. Each segment that
/// was written to, adopted ones included, counts one for each of its smallest possible records.
pub(super) fn numbers_behind(entries: &[SegmentEntry]) -> u64 {
    let written = entries.iter().filter(|entry| entry.state != SegmentState::Sealed);
    written.map(|entry| entry.size / HEADER_SIZE as u64).fold(0, u64::saturating_add)
}
