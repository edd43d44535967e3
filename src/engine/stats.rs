//! The counters of a store and of a keyspace.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::compaction::report::CompactionStats;
use crate::engine::state::State;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::error::{Error, Result};
use crate::format::file_name;
use crate::format::file_name::FileName;

/// A snapshot of a store's counters. Each is read on its own, without stopping writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Number of keyspaces, the default one included.
    pub keyspaces: usize,
    /// Number of keys, in all keyspaces.
    pub keys: u64,
    /// Bytes of the log in records that are the newest of their key, headers included.
    pub live_bytes: u64,
    /// All other bytes of the log: old values, tombstones, and the log's own records.
    pub dead_bytes: u64,
    /// Number of segment files.
    pub segments: usize,
    /// Number of preallocated segment files, not yet written to.
    pub ready_segments: usize,
    /// Full size of all segment files in bytes, including those that compaction is about to remove.
    pub segment_bytes: u64,
    /// The limit of [`Options::max_disk_bytes`](crate::Options::max_disk_bytes); `None` if there is
    /// none.
    pub max_disk_bytes: Option<u64>,
    /// Memory that the indexes of all keyspaces take, in bytes.
    pub index_bytes: usize,
    /// Size of the index checkpoint that an open would start from, in bytes; zero if there is none.
    pub checkpoint_bytes: u64,
    /// Number of checkpoints written since the store was opened.
    pub checkpoints: u64,
    /// Number of times that damage in the checkpoint made the store rebuild its indexes from the
    /// log.
    pub index_rebuilds: u64,
    /// Sequence number of the last write.
    pub last_seq: u64,
    /// Sequence number up to which every write is durable. It never exceeds `last_seq`.
    pub durable_seq: u64,
    /// Number of syncs since the store was opened. Each serves all writers that waited when it
    /// began.
    pub syncs: u64,
    /// Number of writes and flushes that waited for a sync.
    pub waits: u64,
    /// Number of writes that prepared a segment or pages themselves, because the worker lagged.
    pub stalls: u64,
    /// Number of times that a writer woke the worker thread.
    pub worker_wakes: u64,
    /// Number of caught signals for pages that could not be read or written, in segments still
    /// mapped. See [`Options::sigbus_guard`](crate::Options::sigbus_guard).
    pub signals_caught: u64,
    /// Counters of compaction, and its next choice.
    pub compaction: CompactionStats,
    /// Number of live snapshots.
    pub snapshots: usize,
    /// Age of the oldest live snapshot; `None` if there is none.
    pub oldest_snapshot_age: Option<Duration>,
    /// Number of overwritten or removed values that are retained for snapshots.
    pub snapshot_versions: u64,
    /// Size of these values in bytes, keys included.
    pub snapshot_bytes: u64,
    /// Bytes of removed segment files that stay on the disk and mapped, because a value, an
    /// iterator, a view or a snapshot uses them. They count against `max_disk_bytes`, besides
    /// `segment_bytes`.
    pub removed_bytes_in_use: u64,
    /// Number of views that are held and of reads under way.
    pub pins: usize,
    /// Number of memory blocks retired, in all stores of the process, since the oldest of these
    /// pins was taken.
    pub oldest_pin_age: u64,
    /// Time for which removed files have waited for the oldest of these pins; `None` if none waits.
    /// It counts from when the background, or a call of this, first saw them wait.
    pub oldest_pin_wait: Option<Duration>,
}

/// A snapshot of a keyspace's counters. Each is read on its own, without stopping writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of the log in records that are the newest of their key, headers included.
    pub live_bytes: u64,
    /// Memory that the index takes, in bytes.
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
    /// Returns the counters of a keyspace.
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`.
    pub(crate) fn keyspace_stats(&self, keyspace: &KeyspaceState) -> Result<KeyspaceStats> {
        self.fork_guard.check_inherited()?;
        self.complete_for_counts();
        self.keyspace_stats_now(keyspace)
    }

    fn keyspace_stats_now(&self, keyspace: &KeyspaceState) -> Result<KeyspaceStats> {
        Ok(KeyspaceStats::of(self.contents(keyspace, &self.pin())?))
    }

    /// Returns the number of keyspaces, and the sum of their counters.
    pub(crate) fn all_keyspaces(&self) -> (usize, KeyspaceStats) {
        let keyspaces = self.catalog.all();
        let mut sum = KeyspaceStats::default();
        for keyspace in &keyspaces {
            // Dropped meanwhile: it counts for nothing.
            let Ok(one) = self.keyspace_stats_now(keyspace) else { continue };
            sum.keys += one.keys;
            sum.live_bytes += one.live_bytes;
            sum.index_bytes += one.index_bytes;
        }
        (keyspaces.len(), sum)
    }
}

impl Engine {
    /// Collects the counters.
    pub(crate) fn stats(&self) -> Stats {
        if self.fork_guard.is_forked() {
            return Stats::default();
        }
        self.complete_for_counts();
        let pins = self.pins.pins();
        let (keyspaces, sum) = self.all_keyspaces();
        let compaction = self.compactor.stats(self);
        let holding = self.catalog.snapshots.holding();
        let segments = self.shared.segments.read();
        let durable = self.durable_seq();
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
            // In this order: a durable write was written before.
            durable_seq: durable.0,
            last_seq: self.last_seq().0,
            syncs: self.shared.commit.groups(),
            waits: self.shared.commit.waits(),
            stalls: self.allocator.stalls(),
            signals_caught: segments.values().map(|segment| segment.mapping().replaced()).sum(),
            worker_wakes: self.counters.wakes.get(),
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

    /// Returns the bytes that the store's files take on the disk.
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
                // Removed, or renamed to its final name, since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // A read-only store may lack access to the lock file.
                Err(error)
                    if error.kind() == std::io::ErrorKind::PermissionDenied && meaning == FileName::Lock => {}
                Err(error) => return Err(Error::io("look at", dir.path().join(name), error)),
            }
        }
        Ok(size)
    }
}
