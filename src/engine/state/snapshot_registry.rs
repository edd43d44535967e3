//! The snapshot registry: old versions of keys and old contents of keyspaces that live snapshots
//! see and the index no longer shows.
//!
//! The index names the newest record of a key. While a snapshot is live, a writer that replaces or
//! removes a record that it sees first puts the record here. It comes with the numbers between
//! which it was the newest: from its own (included) to that of its successor (excluded). Records
//! are kept by reference, so their segments stay mapped as long as they are needed, even if
//! compaction has removed the files. Compaction never moves them.
//!
//! **Concurrency.** A snapshot is taken under the store's writer mutex, never inside a batch, so
//! every record is wholly before or after it.
//!
//! 1. The writer's order: the log, then the old version here, then the index.
//! 2. A reader's order: the index, then here.
//! 3. So a reader that finds no record in the index, or one newer than its snapshot, finds the older
//!    one here, or there was none.
//! 4. A version is removed only when no live snapshot can see it, so a live snapshot need not look
//!    twice.
//!
//! Readers without a snapshot never come here. A writer without live snapshots loads one word.
//!
//! Lock order: the writer mutex, then [`SnapshotRegistry`]'s own, then a map's. Each is held for a
//! few operations at a time. Dropping a snapshot with many versions releases the locks in between.
//!
//! **Removal.** A version belongs to the newest snapshot that sees it. When that one is dropped,
//! the version passes to the next older one that sees it, or is dropped. So each drop costs as much
//! as was written while the snapshot was the newest.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::format::Seq;
use crate::index::key_index::ScanPosition;
use crate::mem::address_space::OwnedRecord;
use crate::mem::alloc;
use crate::sync::statistic::Statistic;

/// The number of versions handled between two moments without a lock.
const RELEASED_AT_ONCE: usize = 64;

/// An old version of a key.
#[derive(Debug)]
struct Version {
    begin: Seq,
    record: OwnedRecord,
}

/// The old versions in one keyspace's contents, by the scan order of their keys and the number at
/// which they ended.
#[derive(Debug, Default)]
pub(crate) struct RetainedVersions {
    map: RwLock<BTreeMap<(ScanPosition, Seq), Version>>,
}

/// The most versions that a search of many looks at under one hold of the map's lock.
const AT_ONCE: u32 = 256;

impl RetainedVersions {
    /// Returns the version of a key as of a number, if it has been replaced since.
    pub(crate) fn find(&self, position: &ScanPosition, key: &[u8], at: Seq) -> Option<OwnedRecord> {
        let map = self.map.read();
        // Versions that ended at or before the number are over.
        let place = |end| (position.clone(), end);
        let mut later = map.range(place(at.next())..=place(Seq(u64::MAX)));
        let found = later.find(|(_, version)| version.begin <= at && version.record.key() == key);
        found.map(|(_, version)| version.record.clone())
    }

    /// Appends the versions of the keys between two scan positions as of a number, if they have
    /// been replaced since.
    pub(crate) fn between(
        &self,
        from: &ScanPosition,
        to: Option<&ScanPosition>,
        at: Seq,
        out: &mut Vec<OwnedRecord>,
    ) {
        let map = self.map.read();
        let range = map.range((from.clone(), Seq::ZERO)..);
        let range = range.take_while(|((position, _), _)| to.is_none_or(|end| position < end));
        let seen = range.filter(|((_, end), version)| version.begin <= at && at < *end);
        out.extend(seen.map(|(_, version)| version.record.clone()));
    }

    /// Returns the first version of a key between two scan positions as of a number, if one of them
    /// has been replaced since. Versions that are added meanwhile may be missed.
    pub(crate) fn first_between(
        &self,
        from: &ScanPosition,
        to: Option<&ScanPosition>,
        at: Seq,
    ) -> Option<OwnedRecord> {
        let mut from = Bound::Included((from.clone(), Seq::ZERO));
        loop {
            let map = self.map.read();
            let mut last = None;
            for (count, (place, version)) in (1..).zip(map.range((from, Bound::Unbounded))) {
                let (position, end) = place;
                if to.is_some_and(|to| position >= to) {
                    return None;
                }
                if version.begin <= at && at < *end {
                    return Some(version.record.clone());
                }
                if count == AT_ONCE {
                    // A writer that waits for the map gets its turn.
                    last = Some(place.clone());
                    break;
                }
            }
            from = Bound::Excluded(last?);
        }
    }
}

/// An item that belongs to a snapshot until the snapshot is dropped.
#[derive(Debug)]
enum Retained {
    Version {
        versions: Arc<RetainedVersions>,
        place: (ScanPosition, Seq),
        begin: Seq,
        bytes: u64,
    },
    /// An object to be dropped when no snapshot sees it any more: the old contents of a keyspace.
    Other {
        begin: Seq,
        release: Release,
    },
}

/// An object that drops its parts once no live snapshot sees them.
pub(crate) trait Forget: Send + Sync + std::fmt::Debug {
    /// Drops the part that ended at this number.
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
    /// One more than the number of the newest. Zero if there is none.
    newest: AtomicU64,
    alive: Mutex<BTreeMap<Seq, LiveSnapshot>>,
    versions: Statistic,
    bytes: Statistic,
}

/// The totals of all live snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotTotals {
    pub(crate) snapshots: usize,
    /// The time at which the oldest was taken, by the store's clock.
    pub(crate) oldest: Option<Duration>,
    pub(crate) versions: u64,
    pub(crate) bytes: u64,
}

impl SnapshotRegistry {
    /// Takes a snapshot as of a number, the last one assigned. Called under the writer mutex.
    pub(crate) fn take(&self, at: Seq, now: Duration) {
        let mut alive = self.alive.lock();
        let new = || LiveSnapshot { count: 0, since: now, held: Vec::new() };
        alive.entry(at).or_insert_with(new).count += 1;
        self.note_newest(&alive);
    }

    /// Returns true if a live snapshot sees a version that began at a number and ends now. Called
    /// under the writer mutex.
    #[inline]
    pub(crate) fn see(&self, begin: Seq) -> bool {
        // Relaxed: a snapshot being taken waits for the mutex. One being dropped may keep a version
        // too long.
        self.newest.load(Ordering::Relaxed) > begin.0
    }

    /// Reserves memory for `count` records that are about to be replaced, under the writer mutex.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    #[inline]
    pub(crate) fn reserve(&self, count: usize) -> io::Result<()> {
        // Relaxed: see `see`.
        if self.newest.load(Ordering::Relaxed) == 0 { Ok(()) } else { self.reserve_for_newest(count) }
    }

    #[cold]
    fn reserve_for_newest(&self, count: usize) -> io::Result<()> {
        let mut alive = self.alive.lock();
        alive.last_entry().map_or(Ok(()), |mut newest| alloc::reserve(&mut newest.get_mut().held, count))
    }

    /// Keeps a record that the one of number `end` is about to replace or remove, under the writer
    /// mutex.
    #[cold]
    pub(crate) fn keep(
        &self,
        versions: &Arc<RetainedVersions>,
        position: ScanPosition,
        record: OwnedRecord,
        begin: Seq,
        end: Seq,
    ) {
        let mut alive = self.alive.lock();
        let Some((_, newest)) = alive.range_mut(begin..).next_back() else { return };
        let bytes = record.len();
        let place = (position, end);
        versions.map.write().insert(place.clone(), Version { begin, record });
        newest.held.push(Retained::Version { versions: Arc::clone(versions), place, begin, bytes });
        self.versions.add(1);
        self.bytes.add(bytes);
    }

    /// Keeps an object until no present snapshot sees it. Returns false if none does. Called under
    /// the writer mutex.
    pub(crate) fn keep_other(&self, target: Arc<dyn Forget>, begin: Seq, end: Seq) -> bool {
        let mut alive = self.alive.lock();
        let Some((_, newest)) = alive.range_mut(begin..).next_back() else { return false };
        newest.held.push(Retained::Other { begin, release: Release { target, end } });
        true
    }

    /// Releases a snapshot, and drops the items that only it has seen.
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
            // Only older snapshots see it besides: it ended before a newer one was taken.
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
                    self.versions.sub(1);
                    self.bytes.sub(*bytes);
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

    /// Returns the totals of all live snapshots.
    pub(crate) fn holding(&self) -> SnapshotTotals {
        let alive = self.alive.lock();
        SnapshotTotals {
            snapshots: alive.values().map(|entry| entry.count).sum(),
            oldest: alive.values().map(|entry| entry.since).min(),
            versions: self.versions.get(),
            bytes: self.bytes.get(),
        }
    }
}
