//! What a store says of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::compaction::report::CompactionStats;
use crate::engine::state::State;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::error::{Error, Result};
use crate::format::file_name;
use crate::format::file_name::FileName;

/// What a store says of itself at one moment; each number on its own, without stopping writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Keyspaces, the default one included.
    pub keyspaces: usize,
    /// Keys, in all keyspaces.
    pub keys: u64,
    /// Bytes of the log that records take which are the newest of their key, headers included.
    pub live_bytes: u64,
    /// Bytes of the log that everything else takes: old values, removals, and the log's own records.
    pub dead_bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Segment files that are made and not yet written to.
    pub ready_segments: usize,
    /// Bytes of all segment files, as they were made; those included that compaction is about to remove.
    pub segment_bytes: u64,
    /// The limit of [`Options::max_disk_bytes`](crate::Options::max_disk_bytes) on `segment_bytes`, if there is one.
    pub max_disk_bytes: Option<u64>,
    /// Bytes of memory that the indexes of all keyspaces take.
    pub index_bytes: usize,
    /// Bytes of the image of the indexes that an open would begin with; zero where there is none.
    pub checkpoint_bytes: u64,
    /// Images made since the store was opened.
    pub checkpoints: u64,
    /// How often the indexes were built anew from the log, because a part of the image turned out to be damaged.
    pub index_rebuilds: u64,
    /// The sequence number of the last write.
    pub last_seq: u64,
    /// Every write up to this number is durable; never above `last_seq`.
    pub durable_seq: u64,
    /// Syncs since the store was opened; each serves all writers that waited when it began.
    pub syncs: u64,
    /// Writes and flushes that had to wait for a sync.
    pub waits: u64,
    /// Writes that had to make a segment or pages ready themselves, because the helper lagged.
    pub stalls: u64,
    /// How often a writer woke the helper thread.
    pub worker_wakes: u64,
    /// How often a page of a segment that is still mapped could not be read or written, and the signal was caught; see
    /// [`Options::sigbus_guard`](crate::Options::sigbus_guard).
    pub signals_caught: u64,
    /// What compaction has done, and would do next.
    pub compaction: CompactionStats,
    /// Snapshots that are alive.
    pub snapshots: usize,
    /// How long ago the oldest of them was taken.
    pub oldest_snapshot_age: Option<Duration>,
    /// Values that are kept for them, which were overwritten or removed since.
    pub snapshot_versions: u64,
    /// Bytes of those, keys included.
    pub snapshot_bytes: u64,
    /// Bytes of segment files that compaction has removed, and that stay on the disk and mapped because a value, an iterator,
    /// a view or a snapshot has something in them. They count against `max_disk_bytes`, beside `segment_bytes`.
    pub removed_bytes_in_use: u64,
    /// Views of the store that are held, and reads under way, right now.
    pub pins: usize,
    /// Pieces of memory that were given up, in all stores of the process, since the oldest of those pins was taken.
    pub oldest_pin_age: u64,
    /// How long removed files have waited for the oldest of those pins, since the background or a call of this first saw them
    /// wait for it; none where none waits.
    pub oldest_pin_wait: Option<Duration>,
}

/// What a keyspace says of itself at one moment; each number on its own, without stopping writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Keys.
    pub keys: u64,
    /// Bytes of the log that records take which are the newest of their key, headers included.
    pub live_bytes: u64,
    /// Bytes of memory that the index takes.
    pub index_bytes: usize,
}

impl KeyspaceStats {
    fn of(contents: &KeyspaceData) -> Self {
        Self {
            keys: contents.keys(),
            live_bytes: contents.live_bytes(),
            index_bytes: contents.index.memory_bytes(),
        }
    }
}

impl State {
    /// The numbers of a keyspace.
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`.
    pub(crate) fn keyspace_stats(&self, keyspace: &KeyspaceState) -> Result<KeyspaceStats> {
        self.fork_guard.check_inherited()?;
        Ok(KeyspaceStats::of(self.contents(keyspace, &self.pin())?))
    }

    /// How many keyspaces there are, and their numbers together.
    pub(crate) fn all_keyspaces(&self) -> (usize, KeyspaceStats) {
        let keyspaces = self.catalog.all();
        let mut sum = KeyspaceStats::default();
        for keyspace in &keyspaces {
            // Gone meanwhile: it counts for nothing.
            let Ok(one) = self.keyspace_stats(keyspace) else { continue };
            sum.keys += one.keys;
            sum.live_bytes += one.live_bytes;
            sum.index_bytes += one.index_bytes;
        }
        (keyspaces.len(), sum)
    }
}

impl Engine {
    /// Gathers the numbers.
    pub(crate) fn stats(&self) -> Stats {
        if self.fork_guard.is_forked() {
            return Stats::default();
        }
        let pins = self.pins.pins();
        let (keyspaces, sum) = self.all_keyspaces();
        let compaction = self.compactor.stats(self);
        let holding = self.catalog.snapshots.holding();
        let segments = self.shared.segments.read();
        let durable = self.durable_seq();
        // Relaxed, all: statistics.
        Stats {
            keyspaces,
            keys: sum.keys,
            live_bytes: sum.live_bytes,
            dead_bytes: segments
                .values()
                .map(|segment| segment.mapping().dead_bytes().counted().dead())
                .sum(),
            segments: segments.len(),
            ready_segments: self.allocator.ready_count(),
            segment_bytes: self.allocator.used(),
            max_disk_bytes: self.config.max_disk_bytes,
            index_bytes: sum.index_bytes,
            checkpoint_bytes: self.checkpointer.size(),
            checkpoints: self.checkpointer.made(),
            index_rebuilds: self.loader.rebuilds(),
            // In this order: what is durable was written before.
            durable_seq: durable.0,
            last_seq: self.last_seq().0,
            syncs: self.shared.commit.groups(),
            waits: self.shared.commit.waits(),
            stalls: self.allocator.stalls(),
            signals_caught: segments.values().map(|segment| segment.mapping().replaced()).sum(),
            worker_wakes: self.counters.wakes.load(Ordering::Relaxed),
            compaction,
            snapshots: holding.snapshots,
            oldest_snapshot_age: holding.oldest.map(|taken| self.shared.dir.now().saturating_sub(taken)),
            snapshot_versions: holding.versions,
            snapshot_bytes: holding.bytes,
            removed_bytes_in_use: self.shared.space.bytes_in_use_of_removed(),
            pins: pins.active,
            oldest_pin_age: pins.oldest_age,
            oldest_pin_wait: self.note_oldest_pin(),
        }
    }

    /// Bytes that the store's files take on the disk.
    pub(crate) fn size_on_disk(&self) -> Result<u64> {
        self.fork_guard.check_inherited()?;
        let dir = self.shared.dir.as_ref();
        let mut size = 0;
        for name in dir.list().map_err(|error| Error::io("list", dir.path(), error))? {
            let meaning = file_name::parse(&name);
            if matches!(meaning, FileName::Foreign | FileName::Neutral) {
                continue;
            }
            match dir.open(&name, crate::fs::Access::Read).and_then(|file| file.allocated()) {
                Ok(bytes) => size += bytes,
                // Removed, or given its final name, since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // A store that is only read may do without it.
                Err(error)
                    if error.kind() == std::io::ErrorKind::PermissionDenied && meaning == FileName::Lock => {}
                Err(error) => return Err(Error::io("look at", dir.path().join(name), error)),
            }
        }
        Ok(size)
    }
}
