//! What a store says of itself.

use std::sync::atomic::Ordering;

use crate::engine::Engine;
use crate::epoch;
use crate::error::{Error, Result};

/// What a store says of itself at one moment; each number on its own, without stopping writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Keys.
    pub keys: u64,
    /// Bytes of the log that records take which are the newest of their key, headers included.
    pub live_bytes: u64,
    /// Bytes of the log that everything else takes: old values, removals, and the log's own records.
    pub dead_bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Segment files that are made and not yet written to.
    pub ready_segments: usize,
    /// Bytes of all segment files, as they were made.
    pub segment_bytes: u64,
    /// The limit of [`Options::max_disk_bytes`](crate::Options::max_disk_bytes) on `segment_bytes`, if there is one.
    pub max_disk_bytes: Option<u64>,
    /// Bytes of memory that the index takes.
    pub index_bytes: usize,
    /// The sequence number of the last write.
    pub last_seq: u64,
    /// Every write up to this number is durable.
    pub durable_seq: u64,
    /// Syncs since the store was opened; each serves all writers that waited when it began.
    pub syncs: u64,
    /// Writes and flushes that had to wait for a sync.
    pub waits: u64,
    /// Writes that had to make a segment or pages ready themselves, because the helper lagged.
    pub stalls: u64,
    /// How often a writer woke the helper thread.
    pub helper_wakes: u64,
    /// Threads of the process that hold a view, or read, right now.
    pub pins: usize,
    /// Pieces of memory that were given up since the oldest of those pins was taken.
    pub oldest_pin_age: u64,
}

impl Engine {
    /// Gathers the numbers.
    pub(crate) fn stats(&self) -> Stats {
        let segments = self.shared.segments.read();
        let pins = epoch::pins();
        // Relaxed, all: statistics.
        Stats {
            keys: self.counters.keys.load(Ordering::Relaxed),
            live_bytes: self.counters.live_bytes.load(Ordering::Relaxed),
            dead_bytes: segments.values().map(|segment| self.shared.space.dead(segment.range())).sum(),
            segments: segments.len(),
            ready_segments: self.provision.ready_count(),
            segment_bytes: segments.values().map(|segment| segment.size()).sum(),
            max_disk_bytes: self.options.max_disk_bytes,
            index_bytes: self.index.memory_bytes(),
            last_seq: self.counters.last_user.load(Ordering::Relaxed),
            durable_seq: self.shared.commit.durable().0,
            syncs: self.shared.commit.groups(),
            waits: self.shared.commit.waits(),
            stalls: self.provision.stalls(),
            helper_wakes: self.counters.wakes.load(Ordering::Relaxed),
            pins: pins.active,
            oldest_pin_age: pins.oldest_age,
        }
    }

    /// Bytes that the store's files take on the disk.
    pub(crate) fn size_on_disk(&self) -> Result<u64> {
        let dir = self.shared.dir.as_ref();
        let mut size = 0;
        for name in dir.list().map_err(|error| Error::io("list", dir.path(), error))? {
            if crate::format::names::parse(&name) == crate::format::names::Name::Foreign {
                continue;
            }
            match dir.open(&name, crate::fs::Access::Read).and_then(|file| file.allocated()) {
                Ok(bytes) => size += bytes,
                // Removed, or given its final name, since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", dir.path().join(name), error)),
            }
        }
        Ok(size)
    }
}
