//! The part of an open before it changes anything: it decides about every file, and reads the log.
//!
//! Salvage uses it as well, to learn the result that an open would reach.

use std::sync::Arc;

use super::decision::{DirectoryAction, directory};
use super::directory::{DirectoryScan, Unlisted, look_at_unlisted};
use super::hints::HintUse;
use super::replay::{Replay, Replayed};
use super::restore::Restore;
use super::segment_chain;
use super::segment_chain::SegmentChain;
use crate::config::Config;
use crate::error::{Error, RESERVE_ADDRESSES, Result};
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::file_name::MANIFESTS;
use crate::format::hash::{HASH_ID, HashKey};
use crate::format::keyspace_change::KeyspaceSet;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::{SegmentId, Seq};
use crate::fs::Dir;
use crate::index::checkpoint::is_of_checkpoint;
use crate::log::control_page;
use crate::mem::address_space::AddressSpace;
use crate::trace;

/// The findings of an open before it changes anything.
pub(super) struct Analysis {
    /// The segments of the manifest, and the adopted ones.
    pub(super) entries: Vec<SegmentEntry>,
    pub(super) unlisted: Unlisted,
    pub(super) boot_id: Option<[u8; 16]>,
    /// True if the kernel still has every page of the writer before.
    pub(super) has_cache: bool,
    pub(super) read: Read,
    pub(super) hash_key: HashKey,
}

impl Analysis {
    /// Decides about every file, and reads the log. It changes nothing.
    ///
    /// # Errors
    ///
    /// The refusals of an open, and errors of the operating system.
    pub(super) fn read(
        dir: &Arc<dyn Dir>,
        survey: &DirectoryScan,
        manifest: &Manifest,
        both_copies: bool,
        config: &Config,
        checkpoint: bool,
    ) -> Result<Self> {
        if manifest.hash_id != HASH_ID {
            let path = dir.path().join(MANIFESTS[0]);
            return Err(Error::TooNew { path, found: manifest.hash_id, supported: HASH_ID });
        }
        let unlisted = look_at_unlisted(dir.as_ref(), survey, manifest, both_copies)?;
        let mut entries = manifest.segments.clone();
        entries.extend_from_slice(&unlisted.adopted);
        entries.sort_unstable_by_key(|entry| entry.id);

        let hash_key = HashKey::from_secret(manifest.secret);
        let boot_id = dir.boot_id();
        let control = control_page::read(dir.as_ref(), |control, generation| {
            control.is_of(generation, manifest) && Some(control.boot_id) == boot_id
        })?;
        let durable = manifest.durable.max(control.durable.unwrap_or(Seq::ZERO));
        let there = &survey.segments;
        let hints = match control.has_cache {
            _ if config.read_only || !checkpoint => HintUse::Never,
            true => HintUse::All,
            false => HintUse::Durable,
        };
        let known =
            Listed { manifest, entries: &entries, there, hash_key: &hash_key, durable, hints, config };
        let read = if checkpoint { known.read(dir)? } else { known.read_with(dir, false, hints)? };
        Ok(Self { entries, unlisted, boot_id, has_cache: control.has_cache, read, hash_key })
    }
}

/// The result that an open of a store would reach.
#[derive(Debug)]
pub(crate) struct Examined {
    /// Every segment of the log and of compaction, with the end to which an open would read it.
    pub(crate) segments: Vec<SegmentEntry>,
    /// The keyspaces, according to the log.
    pub(crate) keyspaces: KeyspaceSet,
}

/// Determines the result that an open of a store would reach, without a checkpoint and without
/// changing anything.
///
/// # Errors
///
/// The refusals of an open, and errors of the operating system.
pub(crate) fn examine(dir: &Arc<dyn Dir>, survey: &DirectoryScan) -> Result<Option<Examined>> {
    if directory(survey.facts()) != DirectoryAction::Open || survey.is_mixed() {
        return Ok(None);
    }
    let Some((manifest, suspect)) = survey.manifest() else { return Ok(None) };
    let front = Analysis::read(dir, survey, &manifest, suspect == [false; 2], &Config::default(), false)?;
    let Read { chain, replayed, .. } = front.read;
    let is_read = |entry: &SegmentEntry| entry.state != SegmentState::Retired && entry.end > 0;
    let segments = chain.entries.into_iter().filter(is_read).collect();
    Ok(Some(Examined { segments, keyspaces: replayed.names }))
}

/// The facts known before the log is read.
pub(super) struct Listed<'a> {
    manifest: &'a Manifest,
    entries: &'a [SegmentEntry],
    /// The segments whose files exist.
    there: &'a [SegmentId],
    hash_key: &'a HashKey,
    durable: Seq,
    hints: HintUse,
    config: &'a Config,
}

/// The result of reading the log.
pub(super) struct Read {
    pub(super) space: AddressSpace,
    pub(super) chain: SegmentChain,
    pub(super) replayed: Replayed,
    /// The checkpoint that it began with.
    pub(super) checkpoint: Option<IndexCheckpoint>,
}

impl Listed<'_> {
    /// Reads everything that the manifest's checkpoint does not cover. Without a usable checkpoint
    /// it reads everything.
    fn read(&self, dir: &Arc<dyn Dir>) -> Result<Read> {
        let mut damage = None;
        if self.manifest.checkpoint > 0 {
            match self.read_with(dir, true, self.hints) {
                Err(error) if is_of_checkpoint(&error) => {
                    trace::checkpoint_unusable(&error);
                    damage = Some(error.to_string());
                }
                other => return other,
            }
        }
        // If its checkpoint is damaged, the whole log is read, before which there are no hints.
        let hints = if damage.is_some() { HintUse::Never } else { self.hints };
        let mut read = self.read_with(dir, false, hints)?;
        read.replayed.report.checkpoint_damage = damage;
        Ok(read)
    }

    fn read_with(&self, dir: &Arc<dyn Dir>, checkpoint: bool, hints: HintUse) -> Result<Read> {
        let Self { manifest, entries, there, hash_key, durable, config, .. } = *self;
        let space = AddressSpace::reserve_guarded(config.sigbus_guard)
            .map_err(|error| Error::io(RESERVE_ADDRESSES, dir.path(), error))?;
        let checkpoint =
            checkpoint.then(|| Restore::open(dir, &space, manifest, entries, there)).transpose()?;
        let dir = dir.as_ref();
        let mut replay = Replay::new(dir, &space, hash_key, manifest, durable, &config.recovery_progress);
        let chain = segment_chain::read(dir, manifest, entries, checkpoint.as_ref(), hints, &mut replay)?;
        let mut replayed = replay.finish()?;
        let indexes = replayed.keyspaces.iter().map(|loaded| loaded.slot.index.index());
        let loaded = indexes.map(|index| index.lines().loaded_bytes());
        replayed.report.checkpoint_bytes_read += loaded.sum::<u64>();
        Ok(Read { chain, replayed, checkpoint: checkpoint.map(Restore::into_checkpoint), space })
    }
}
