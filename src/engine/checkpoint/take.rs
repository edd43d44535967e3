//! Taking one checkpoint: from its moment P0 to its name in the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::checkpoint::Checkpointer;
use crate::engine::checkpoint::state::{CheckpointInProgress, CheckpointState, NamedCheckpoint};
use crate::engine::compaction::Compactor;
use crate::engine::state::State;
use crate::engine::state::WriterState;
use crate::engine::state::catalog::KeyspaceState;
use crate::engine::state::index_loader::Whole;
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::format::checkpoint::{CheckpointKeyspace, CheckpointSegment, IndexCheckpoint};
use crate::format::hash::HASH_ID;
use crate::format::manifest::SegmentState;
use crate::index::checkpoint::{CheckpointWriter, WriteStep};
use crate::index::lines::capture::Capture;
use crate::log::segment::Segment;

/// The least number of page copies for a checkpoint before it is abandoned.
const PAGES_MIN: usize = 256;

/// A checkpoint's header, and the captures of its indexes.
struct Begun {
    checkpoint: IndexCheckpoint,
    active: SegmentId,
    captures: Vec<Capture>,
}

impl Checkpointer {
    /// Begins a checkpoint. Returns false if that is not possible now.
    pub(super) fn begin_checkpoint(
        &self,
        state: &State,
        compactor: &Compactor,
        checkpoints: &mut CheckpointState,
        _whole: Whole,
    ) -> Result<bool> {
        state.shared.commit.check()?;
        state.resume()?;
        state.shared.manifest.begin()?;
        let pin = state.pin();
        let has_ended =
            |keyspace: &Arc<KeyspaceState>| keyspace.contents(&pin).is_some_and(|now| now.index.has_ended());
        if state.catalog.all().iter().any(has_ended) {
            // The next open reads its records.
            checkpoints.looked = Some(state.allocator.active_id());
            return Ok(false);
        }
        drop(pin);
        let Some(idle) = compactor.idle() else { return Ok(false) };
        // On a disk with little space or few inodes, the rest is for removals and compaction.
        let allocator = &state.allocator;
        if allocator.space_budget(&state.shared).is_some() || allocator.has_few_files(&state.shared) {
            return Ok(false);
        }
        let dir = state.shared.dir.as_ref();
        // Each failed checkpoint could leave one more.
        if let Err(error) = state.shared.remove_leftovers() {
            checkpoints.looked = Some(allocator.active_id());
            crate::trace::checkpoint_failed(&error);
            return Ok(false);
        }
        let mut nonce = [0; 8];
        dir.random(&mut nonce).map_err(|error| Error::io("draw random bytes for", dir.path(), error))?;
        let number = checkpoints.number + 1;
        let begun = {
            let mut writer = state.writer.lock();
            self.capture(state, &mut writer, number, u64::from_le_bytes(nonce), checkpoints.was_abandoned)
        };
        // A pass may begin now: its lookups find the state at that moment, or a newer one.
        drop(idle);
        let Some(Begun { checkpoint, active, captures }) = begun else { return Ok(false) };
        checkpoints.number = number;
        match CheckpointWriter::start(dir, &checkpoint, captures, &state.shared.leftovers) {
            Ok(writing) => {
                checkpoints.taking = Some(CheckpointInProgress { checkpoint, active, writing, pieces: None })
            }
            Err(error) => {
                // The cause is likely to stop another one that is begun at once.
                checkpoints.looked = Some(active);
                crate::trace::checkpoint_failed(&error);
            }
        }
        Ok(checkpoints.taking.is_some())
    }

    /// Captures the state of the store at this moment. `None` if an index is still being captured.
    fn capture(
        &self,
        state: &State,
        writer: &mut WriterState,
        number: u64,
        nonce: u64,
        whole: bool,
    ) -> Option<Begun> {
        let pin = state.pin();
        let WriterState { log, indexes, .. } = writer;
        let segments = state.shared.segments.read();
        let ids: BTreeMap<usize, SegmentId> =
            segments.values().map(|segment| (segment.mapping().ordinal(), segment.id())).collect();
        let mut all: Vec<_> = state.catalog.all();
        all.retain(|keyspace| keyspace.contents(&pin).is_some());
        all.sort_by_key(|keyspace| keyspace.contents(&pin).map(|contents| contents.id));
        let mut captures = Vec::with_capacity(all.len());
        let mut keyspaces = Vec::with_capacity(all.len());
        for contents in all.iter().filter_map(|keyspace| keyspace.contents(&pin)) {
            let slot = indexes.of(contents);
            // One copy of each page at most, so no writer is held up; of half, while that suffices.
            let pages = contents.index.memory_bytes() / crate::mem::PAGE_SIZE;
            let limit = if whole { usize::MAX } else { (pages / 2).max(PAGES_MIN) };
            let capture = slot.index.begin_checkpoint(limit)?;
            let live = slot.live().map(|(ordinal, bytes)| Some((*ids.get(&ordinal)?, bytes)));
            let mut live =
                live.collect::<Option<Vec<_>>>().expect("what is alive is in a segment of the store");
            live.sort_unstable();
            keyspaces.push(CheckpointKeyspace {
                id: contents.id,
                keys: contents.keys(),
                live_bytes: contents.live_bytes(),
                table: capture.table(),
                live,
            });
            captures.push(capture);
        }
        let checkpoint = IndexCheckpoint {
            store: state.shared.store,
            number,
            nonce,
            last: log.last_seq(),
            hash_id: HASH_ID,
            segments: segments.values().filter_map(|segment| entry_of(segment)).collect(),
            keyspaces,
        };
        let (active, end) = log.position();
        state.hint_writer.cut_at(active.id(), end);
        Some(Begun { checkpoint, active: active.id(), captures })
    }

    /// Does one step of the checkpoint in progress. An error ends it.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(super) fn advance(&self, state: &State, checkpoints: &mut CheckpointState) -> Result<()> {
        let Some(mut taking) = checkpoints.taking.take() else { return Ok(()) };
        let dir = state.shared.dir.as_ref();
        let done = match &mut taking.pieces {
            None => match taking.writing.step(dir) {
                Ok(WriteStep::More) => Ok(false),
                Ok(WriteStep::Written) => {
                    taking.pieces = Some(state.syncer.pieces(state));
                    Ok(false)
                }
                Ok(WriteStep::Abandoned) => {
                    checkpoints.was_abandoned = true;
                    checkpoints.looked = None;
                    return Ok(());
                }
                Err(error) => {
                    crate::trace::checkpoint_failed(&error);
                    return Ok(());
                }
            },
            Some(pieces) => match pieces.pop() {
                Some(piece) => state.syncer.write_back(state, &piece).map(|()| false),
                None => state.sync_upto(taking.checkpoint.last).map(|()| true),
            },
        };
        match done {
            Ok(false) => checkpoints.taking = Some(taking),
            Ok(true) => self.finish_checkpoint(state, checkpoints, taking)?,
            Err(error) => {
                taking.writing.discard(dir);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Names the checkpoint, after it is written and the log is durable to its end.
    fn finish_checkpoint(
        &self,
        state: &State,
        checkpoints: &mut CheckpointState,
        taking: CheckpointInProgress,
    ) -> Result<()> {
        if let Err(error) = state.seal() {
            // Tried again.
            checkpoints.taking = Some(taking);
            return Err(error);
        }
        let CheckpointInProgress { checkpoint, active, writing, .. } = taking;
        let is_sealed = state.shared.manifest.read(|manifest| {
            let open = |segment: &&CheckpointSegment| {
                let entry = manifest.segment(segment.id).filter(|_| segment.id != active);
                entry
                    .is_some_and(|entry| !matches!(entry.state, SegmentState::Sealed | SegmentState::Retired))
            };
            checkpoint.segments.iter().find(open).is_none()
        });
        if !is_sealed {
            // Another thread is updating the manifest.
            checkpoints.taking =
                Some(CheckpointInProgress { checkpoint, active, writing, pieces: Some(Vec::new()) });
            return Ok(());
        }
        let dir = state.shared.dir.as_ref();
        if let Err(error) = writing.finish(dir) {
            crate::trace::checkpoint_failed(&error);
            return Ok(());
        }
        let before = checkpoints.named.replace(NamedCheckpoint::of(&checkpoint));
        checkpoints.was_abandoned = false;
        state.shared.manifest.update(|manifest| {
            manifest.checkpoint = checkpoint.number;
            state.catalog.note_durable(manifest, state.shared.commit.durable());
        })?;
        self.made.add(1);
        self.size.set(checkpoint.size());
        crate::trace::checkpoint_made(checkpoint.number, checkpoint.last.0, checkpoint.size());
        dir.crash_point("image-named");
        self.remove_checkpoint(state, before);
        state.hint_writer.forget_covered(state, &checkpoint.segments);
        Ok(())
    }

    /// Discards the checkpoint in progress.
    pub(super) fn give_up(&self, state: &State, checkpoints: &mut CheckpointState) {
        if let Some(taking) = checkpoints.taking.take() {
            taking.writing.discard(state.shared.dir.as_ref());
        }
    }
}

/// Returns a checkpoint's entry for a segment. `None` for a segment without records.
fn entry_of(segment: &Segment) -> Option<CheckpointSegment> {
    let mapping = segment.mapping();
    let end = mapping.published();
    let counted = mapping.dead_bytes().counted();
    let (first_granule, granules) = segment.range().granules();
    (end > 0).then_some(CheckpointSegment {
        id: segment.id(),
        nonce: segment.nonce(),
        end,
        first_granule,
        granules,
        dead: [counted.hidden, counted.tombstones, counted.notes],
        data_offset: segment.data_offset(),
    })
}
