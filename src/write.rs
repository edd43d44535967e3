//! Writing: one mutex, one order.
//!
//! Before the mutex: lengths, hash, checksum, prefetch. Under it: everything that decides, in the order of the I-rules:
//! room in log and index first, so that nothing can fail half done; then the record, then the index, then the counters.
//! After it: waiting for durability.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::allowance::Want;
use crate::batch::{WriteBatch, frame_len};
use crate::engine::{Engine, Writer};
use crate::epoch::{self, Pin};
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::format::record::{BatchSum, HEADER_SIZE, Kind};
use crate::format::{KeyspaceId, Seq};
use crate::location::Location;
use crate::log::{Draft, Frame};
use crate::options::Durability;

/// How many bytes of log lie between two looks at whether the helper sleeps.
const CALL_SPACING: u64 = 64 << 10;

/// The entry that a write found in the index.
#[derive(Debug, Clone, Copy)]
struct Current {
    location: Location,
    size: u64,
    is_put: bool,
}

impl Engine {
    /// Inserts a key.
    ///
    /// # Errors
    ///
    /// See [`Store::insert`](crate::Store::insert).
    pub(crate) fn insert(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<Seq> {
        self.liveness.check()?;
        let hash = self.hash_key.hash(key);
        self.index.prefetch(hash);
        let draft = Draft::new(Kind::Put, KeyspaceId::DEFAULT, key, value)?;
        self.bring_near(hash);
        let pin = epoch::pin();
        let mut writer = self.writer.lock();
        self.check_writable()?;
        let current = self.current(&writer, hash, key, &pin)?;
        self.reserve(&mut writer, Want::Insertion, draft.size(), 1)?;
        let (location, seq) = writer.log.append(&self.shared, &draft);
        self.point(&mut writer, hash, current, location);
        self.count(current, draft.size());
        let work = self.note_position(&writer, seq);
        drop(writer);
        drop(pin);
        self.call_helper(work);
        self.settle(seq, durability)?;
        Ok(seq)
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    ///
    /// See [`Store::remove`](crate::Store::remove).
    pub(crate) fn remove(&self, key: &[u8], durability: Durability) -> Result<bool> {
        self.liveness.check()?;
        let hash = self.hash_key.hash(key);
        self.index.prefetch(hash);
        let draft = Draft::new(Kind::Tombstone, KeyspaceId::DEFAULT, key, &[])?;
        self.bring_near(hash);
        let pin = epoch::pin();
        let mut writer = self.writer.lock();
        self.check_writable()?;
        let Some(current) = self.current(&writer, hash, key, &pin)? else {
            // The key may be absent by a removal that is not durable yet; the answer must not be taken back.
            let seq = writer.log.last_user();
            drop(writer);
            drop(pin);
            self.settle(seq, durability)?;
            return Ok(false);
        };
        self.reserve(&mut writer, Want::Removal, draft.size(), 0)?;
        let (location, seq) = writer.log.append(&self.shared, &draft);
        writer.index.remove(hash, current.location);
        self.shared.space.add_dead(location, draft.size());
        self.count(Some(current), 0);
        let work = self.note_position(&writer, seq);
        drop(writer);
        drop(pin);
        self.call_helper(work);
        self.settle(seq, durability)?;
        Ok(true)
    }

    /// Writes a batch.
    ///
    /// # Errors
    ///
    /// See [`Store::write`](crate::Store::write).
    pub(crate) fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        self.liveness.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut drafts = Vec::with_capacity(batch.len());
        let mut len = 0;
        let mut sum = BatchSum::default();
        for (kind, key, value) in batch.iter() {
            let draft = Draft::new(kind, KeyspaceId::DEFAULT, key, value)?;
            len += draft.size();
            sum.add(draft.payload_sum);
            let hash = self.hash_key.hash(key);
            self.index.prefetch(hash);
            drafts.push((hash, draft));
        }
        let count = u32::try_from(drafts.len())
            .map_err(|_| Error::BatchTooLarge { len, max: u64::from(u32::MAX) })?;
        let frame = Frame { count, len: frame_len(len)?, sum: sum.finish() };
        let superseded = superseded(&drafts);
        for (hash, _) in &drafts {
            self.bring_near(*hash);
        }
        let pin = epoch::pin();
        let mut writer = self.writer.lock();
        self.check_writable()?;
        // Damage is met before anything is written; it also brings the buckets and records near.
        for (hash, draft) in &drafts {
            self.current(&writer, *hash, draft.key, &pin)?;
        }
        let grows = drafts.iter().any(|(_, draft)| draft.kind == Kind::Put);
        let want = if grows { Want::Insertion } else { Want::Removal };
        self.reserve(&mut writer, want, HEADER_SIZE as u64 + len, drafts.len())?;
        let seq = self.apply(&mut writer, frame, &drafts, &superseded, &pin);
        let work = self.note_position(&writer, seq);
        drop(writer);
        drop(pin);
        self.call_helper(work);
        self.settle(seq, durability)
    }

    /// Appends a batch and changes the index; visible as a whole when this returns. The last sequence number.
    ///
    /// The index never leads to a superseded record, not even while the floor hides it: a reader that had loaded such
    /// an entry and looked at the floor after the batch ended would take it for the newest.
    fn apply(
        &self,
        writer: &mut Writer,
        frame: Frame,
        drafts: &[(Hash, Draft<'_>)],
        superseded: &[bool],
        pin: &Pin,
    ) -> Seq {
        let range = writer.log.position().0.id();
        let drafts_alone = drafts.iter().map(|(_, draft)| *draft);
        let (frame_seq, first) = writer.log.append_batch(&self.shared, frame, drafts_alone);
        debug_assert_eq!(range, writer.log.position().0.id(), "a batch lies in one segment");
        let range = writer.log.position().0.range();
        self.shared.space.add_dead(range.at(first - HEADER_SIZE as u64), HEADER_SIZE as u64);
        let mut tombstones = Vec::new();
        self.visibility.begin(frame_seq.next(), drafts.len());
        let mut offset = first;
        for ((hash, draft), superseded) in drafts.iter().zip(superseded) {
            let location = range.at(offset);
            offset += draft.size();
            if *superseded {
                self.shared.space.add_dead(location, draft.size());
                continue;
            }
            let current = self.current_lenient(writer, *hash, draft.key, pin);
            self.visibility.note(location, current.map(|current| current.location), pin);
            if draft.kind == Kind::Put {
                self.point(writer, *hash, current, location);
                self.count(current, draft.size());
                continue;
            }
            self.shared.space.add_dead(location, draft.size());
            if let Some(current) = current {
                // The entry stays until the batch is visible: a miss has no number to compare.
                writer.index.replace(*hash, current.location, location);
                tombstones.push((*hash, location));
                self.count(Some(current), 0);
            }
        }
        self.visibility.end();
        for (hash, location) in tombstones {
            writer.index.remove(hash, location);
        }
        writer.log.last_user()
    }

    /// Starts the loads of the records that the key may have now, before the mutex is taken.
    #[inline]
    fn bring_near(&self, hash: Hash) {
        let Ok(_) = self.index.find(hash, |location| {
            self.shared.space.prefetch(location);
            Ok::<bool, std::convert::Infallible>(false)
        });
    }

    /// Refuses to write to a store that is poisoned or was closed while the caller waited.
    fn check_writable(&self) -> Result<()> {
        self.shared.commit.check()?;
        self.liveness.check()
    }

    /// Makes room, so that nothing can fail half done.
    fn reserve(&self, writer: &mut Writer, want: Want, size: u64, entries: usize) -> Result<()> {
        if entries > 0 {
            let grown = writer.index.reserve_many(entries);
            grown.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error))?;
        }
        writer.log.reserve(&self.shared, &self.provision, want, size)
    }

    /// The entry of a key.
    fn current(&self, writer: &Writer, hash: Hash, key: &[u8], pin: &Pin) -> Result<Option<Current>> {
        let mut current = None;
        writer.index.find(hash, |location| {
            let record = self.record(location, pin)?;
            if record.key() != key {
                self.check_record(&record)?;
                return Ok(false);
            }
            let header = record.header();
            current = Some(Current { location, size: header.size(), is_put: record.is_put() });
            Ok::<bool, Error>(true)
        })?;
        Ok(current)
    }

    /// The entry of a key, damage aside: for the second look, after the first found none.
    fn current_lenient(&self, writer: &Writer, hash: Hash, key: &[u8], pin: &Pin) -> Option<Current> {
        let mut current = None;
        let Ok(_) = writer.index.find(hash, |location| {
            let Some(record) = self.shared.space.record(location, pin) else { return Ok(false) };
            if record.key() != key {
                return Ok(false);
            }
            current = Some(Current { location, size: record.header().size(), is_put: record.is_put() });
            Ok::<bool, std::convert::Infallible>(true)
        });
        current
    }

    /// Has the index lead to a new record.
    fn point(&self, writer: &mut Writer, hash: Hash, current: Option<Current>, location: Location) {
        match current {
            Some(current) => {
                writer.index.replace(hash, current.location, location);
            }
            None => writer.index.insert(hash, location),
        }
    }

    /// Counts a record of `size` bytes that takes the place of `current`; zero for a removal.
    fn count(&self, current: Option<Current>, size: u64) {
        let was = current.filter(|current| current.is_put);
        let old = was.map_or(0, |current| current.size);
        if let Some(was) = was {
            self.shared.space.add_dead(was.location, old);
        }
        add(&self.counters.live_bytes, size.wrapping_sub(old));
        add(&self.counters.keys, u64::from(size > 0).wrapping_sub(u64::from(was.is_some())));
    }

    /// Tells everybody else where the log is; whether the helper should look.
    fn note_position(&self, writer: &Writer, seq: Seq) -> bool {
        let offset = writer.log.position().1;
        let before = self.provision.offset();
        self.provision.set_offset(offset);
        // Relaxed, both: the acknowledgement, not these stores, tells of the write; the helper looks under the mutex.
        self.counters.last_user.store(seq.0, Ordering::Relaxed);
        self.counters.full.store(writer.log.full_count(), Ordering::Relaxed);
        before / CALL_SPACING != offset / CALL_SPACING || self.options.durability == Durability::Interval
    }

    /// Wakes the helper, if it sleeps and there is work.
    #[inline]
    fn call_helper(&self, work: bool) {
        if work && self.bell.ring() {
            // Relaxed: a statistic.
            self.counters.wakes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Which records of a batch are followed by another one of the same key.
fn superseded(drafts: &[(Hash, Draft<'_>)]) -> Vec<bool> {
    let key = |n: usize| (drafts[n].0.to_bits(), drafts[n].1.key);
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_unstable_by_key(|n| (key(*n), *n));
    let mut superseded = vec![false; drafts.len()];
    for pair in order.windows(2).filter(|pair| key(pair[0]) == key(pair[1])) {
        superseded[pair[0]] = true;
    }
    superseded
}

/// Adds to a counter that only the holder of the writer mutex changes.
fn add(counter: &AtomicU64, by: u64) {
    // Relaxed, and not one operation: one writer.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
