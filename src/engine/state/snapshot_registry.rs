//! What live snapshots see and the index no longer shows: old versions of keys, and old contents of keyspaces.
//!
//! The index names the newest record of a key. While a snapshot is alive, a writer that replaces or removes a record
//! which the snapshot sees puts it here first, with the numbers between which it was the newest: from its own (included)
//! to that of the record which took its place (excluded). Records are kept by reference, so their segments stay mapped
//! as long as they are needed, whether compaction has removed the files or not; compaction never moves them.
//!
//! **Concurrency.** A snapshot is taken under the store's writer mutex, never inside of a batch, so every record is wholly
//! before or behind it. The writer's order: the log, then the old version here, then the index. A reader's: the index,
//! then here. A reader that finds in the index a record which is newer than its snapshot, or none, therefore finds here
//! what there was, or there was nothing. Versions go when no live snapshot can see them, so a snapshot that is alive need not
//! look twice. Readers that are not of a snapshot never come here; a writer without live snapshots loads one word.
//!
//! Lock order: the writer mutex, then [`SnapshotRegistry`]' own, then a map's. Each is held for a few operations at a time: who
//! drops a snapshot with many versions gives the locks back in between.
//!
//! **Going away.** A version belongs to the newest snapshot that sees it. When that goes, the version belongs to the next
//! older one that sees it, or is dropped: so each drop costs what was written while the snapshot was the newest.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::format::Seq;
use crate::mem::address_space::OwnedRecord;
use crate::mem::alloc;

/// How many versions are gone through between two moments without a lock.
const RELEASED_AT_ONCE: usize = 64;

/// An old version of a key.
#[derive(Debug)]
struct Version {
    begin: Seq,
    record: OwnedRecord,
}

/// The old versions in one keyspace's contents, by the place of the key's hash in the order of a scan, and the number at
/// which they ended.
#[derive(Debug, Default)]
pub(crate) struct RetainedVersions {
    map: RwLock<BTreeMap<(u64, Seq), Version>>,
}

impl RetainedVersions {
    /// What a key had as of a number, if it has got something else since.
    pub(crate) fn find(&self, order: u64, key: &[u8], at: Seq) -> Option<OwnedRecord> {
        let map = self.map.read();
        // Versions that ended at or before the number are over.
        let mut later = map.range((order, at.next())..=(order, Seq(u64::MAX)));
        let found = later.find(|(_, version)| version.begin <= at && version.record.key() == key);
        found.map(|(_, version)| version.record.clone())
    }

    /// Appends what the keys between two places had as of a number, if they have got something else since.
    pub(crate) fn between(&self, from: u64, to: Option<u64>, at: Seq, out: &mut Vec<OwnedRecord>) {
        let map = self.map.read();
        let end = to.unwrap_or(u64::MAX);
        let range = map.range((from, Seq::ZERO)..).take_while(|((order, _), _)| to.is_none() || *order < end);
        let seen = range.filter(|((_, end), version)| version.begin <= at && at < *end);
        out.extend(seen.map(|(_, version)| version.record.clone()));
    }
}

/// What belongs to a snapshot, until that goes.
#[derive(Debug)]
enum Retained {
    Version {
        versions: Arc<RetainedVersions>,
        place: (u64, Seq),
        begin: Seq,
        bytes: u64,
    },
    /// Something that is dropped when no snapshot sees it any more: the old contents of a keyspace.
    Other {
        begin: Seq,
        release: Release,
    },
}

/// Is told that no live snapshot sees something any more.
pub(crate) trait Forget: Send + Sync + std::fmt::Debug {
    /// Drops what ended at this number.
    fn forget(&self, end: Seq);
}

#[derive(Debug)]
struct Release {
    target: Arc<dyn Forget>,
    end: Seq,
}

impl Retained {
    fn begin(&self) -> Seq {
        match self {
            Self::Version { begin, .. } | Self::Other { begin, .. } => *begin,
        }
    }
}

/// The snapshots of one number.
#[derive(Debug)]
struct LiveSnapshot {
    count: usize,
    since: Duration,
    held: Vec<Retained>,
}

/// The live snapshots of a store.
#[derive(Debug, Default)]
pub(crate) struct SnapshotRegistry {
    /// One more than the number of the newest; zero where there is none.
    newest: AtomicU64,
    alive: Mutex<BTreeMap<Seq, LiveSnapshot>>,
    versions: AtomicU64,
    bytes: AtomicU64,
}

/// What the live snapshots hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotTotals {
    pub(crate) snapshots: usize,
    /// When the oldest was taken, by the store's clock.
    pub(crate) oldest: Option<Duration>,
    pub(crate) versions: u64,
    pub(crate) bytes: u64,
}

impl SnapshotRegistry {
    /// Takes a snapshot as of a number; called under the writer mutex, where that is the last one given out.
    pub(crate) fn take(&self, at: Seq, now: Duration) {
        let mut alive = self.alive.lock();
        let new = || LiveSnapshot { count: 0, since: now, held: Vec::new() };
        alive.entry(at).or_insert_with(new).count += 1;
        self.note_newest(&alive);
    }

    /// Whether a live snapshot sees what began at a number and ends now; asked under the writer mutex.
    #[inline]
    pub(crate) fn see(&self, begin: Seq) -> bool {
        // Relaxed: a snapshot that is being taken waits for the mutex; one that goes may keep something too long.
        self.newest.load(Ordering::Relaxed) > begin.0
    }

    /// Makes room for so many records that are about to be replaced; under the writer mutex.
    ///
    /// # Errors
    ///
    /// When memory is short.
    #[inline]
    pub(crate) fn reserve(&self, count: usize) -> io::Result<()> {
        // Relaxed: as in `see`.
        if self.newest.load(Ordering::Relaxed) == 0 { Ok(()) } else { self.reserve_for_newest(count) }
    }

    #[cold]
    fn reserve_for_newest(&self, count: usize) -> io::Result<()> {
        let mut alive = self.alive.lock();
        alive.last_entry().map_or(Ok(()), |mut newest| alloc::reserve(&mut newest.get_mut().held, count))
    }

    /// Keeps a record that is about to be replaced, or removed, by the one of number `end`; under the writer mutex.
    #[cold]
    pub(crate) fn keep(
        &self,
        versions: &Arc<RetainedVersions>,
        order: u64,
        record: OwnedRecord,
        begin: Seq,
        end: Seq,
    ) {
        let mut alive = self.alive.lock();
        let Some((_, newest)) = alive.range_mut(begin..).next_back() else { return };
        let bytes = record.len();
        let place = (order, end);
        versions.map.write().insert(place, Version { begin, record });
        newest.held.push(Retained::Version { versions: Arc::clone(versions), place, begin, bytes });
        // Relaxed, both: statistics.
        self.versions.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Has something kept until no snapshot sees it that is alive now; false where none does. Under the writer mutex.
    pub(crate) fn keep_other(&self, target: Arc<dyn Forget>, begin: Seq, end: Seq) -> bool {
        let mut alive = self.alive.lock();
        let Some((_, newest)) = alive.range_mut(begin..).next_back() else { return false };
        newest.held.push(Retained::Other { begin, release: Release { target, end } });
        true
    }

    /// Gives a snapshot up, and drops what only it has seen.
    pub(crate) fn release(&self, at: Seq) {
        let mut held = {
            let mut alive = self.alive.lock();
            let entry = alive.get_mut(&at).expect("it was taken, and not released yet");
            entry.count -= 1;
            if entry.count > 0 {
                return;
            }
            let held = alive.remove(&at).map(|entry| entry.held).unwrap_or_default();
            self.note_newest(&alive);
            held
        };
        while !held.is_empty() {
            let some = held.split_off(held.len().saturating_sub(RELEASED_AT_ONCE));
            // Dropped without a lock: the last reference to a segment unmaps it.
            drop(self.release_some(at, some));
        }
    }

    fn release_some(&self, at: Seq, some: Vec<Retained>) -> Vec<(Option<Version>, Retained)> {
        let mut gone = Vec::new();
        let mut alive = self.alive.lock();
        for held in some {
            // Every snapshot that sees it is older than the one that went: it ended before a newer one was taken.
            match alive.range_mut(held.begin()..at).next_back() {
                Some((_, older)) => older.held.push(held),
                None => gone.push((None, held)),
            }
        }
        drop(alive);
        for (version, held) in &mut gone {
            match held {
                Retained::Version { versions, place, bytes, .. } => {
                    *version = versions.map.write().remove(place);
                    // Relaxed, both: statistics.
                    self.versions.fetch_sub(1, Ordering::Relaxed);
                    self.bytes.fetch_sub(*bytes, Ordering::Relaxed);
                }
                Retained::Other { release, .. } => release.target.forget(release.end),
            }
        }
        gone
    }

    fn note_newest(&self, alive: &BTreeMap<Seq, LiveSnapshot>) {
        let newest = alive.last_key_value().map_or(0, |(at, _)| at.0 + 1);
        // Relaxed: see `see`.
        self.newest.store(newest, Ordering::Relaxed);
    }

    /// What is held.
    pub(crate) fn holding(&self) -> SnapshotTotals {
        let alive = self.alive.lock();
        // Relaxed, both: statistics.
        SnapshotTotals {
            snapshots: alive.values().map(|entry| entry.count).sum(),
            oldest: alive.values().map(|entry| entry.since).min(),
            versions: self.versions.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
