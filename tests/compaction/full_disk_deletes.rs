//! Tests of a disk that insertions have filled, and of a quota that the disk does not report. Every
//! removal succeeds, for any keys in any order. At the end there is space again.

use mapcask::sim::SimDisk;
use mapcask::{Durability, Error, Options, Store, WriteBatch};

const PAGE: u64 = 4096;

/// A disk, and the data that fills it.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// The pages of a segment.
    segment: u64,
    /// The pages of the disk.
    capacity: u64,
    /// The bytes of a value.
    value: usize,
    durability: Durability,
    /// True if the disk reports how full it is. Otherwise a quota limits it, and the disk does not
    /// report the quota.
    is_told: bool,
}

impl Setting {
    fn options(self) -> Options {
        let segment = self.segment * PAGE;
        Options::new().segment_bytes(segment).background(false).durability(self.durability)
    }

    fn value(self, key: u32) -> Vec<u8> {
        key.to_le_bytes().repeat(self.value / 4)
    }

    /// Limits the disk to this number of pages. `None` removes the limit.
    fn limit(self, disk: &SimDisk, pages: Option<u64>) {
        let bytes = pages.map(|pages| pages * PAGE);
        if self.is_told { disk.set_capacity(bytes) } else { disk.set_quota(bytes) }
    }

    /// Returns a disk, a store on it that accepts no more insertions, and the number of its keys.
    fn full(self) -> (SimDisk, Store, u32) {
        let disk = SimDisk::new();
        self.limit(&disk, Some(self.capacity));
        let store = self.options().open_on(&disk).unwrap();
        let count = self.fill(&store, 0);
        disk.forget_history();
        (disk, store, count)
    }

    /// Inserts keys from `from` on until the disk is full. Returns the first key that was refused.
    fn fill(self, store: &Store, from: u32) -> u32 {
        for key in from.. {
            match store.insert(key.to_le_bytes(), self.value(key)) {
                Ok(_) => {}
                Err(Error::NoSpace { .. }) => return key,
                Err(other) => panic!("{self:?}: {other:?}"),
            }
        }
        unreachable!("numbers end after the disk does")
    }

    /// Removes keys in this order. Checks that every removal succeeds, and that the rest stays
    /// right.
    fn remove_all(self, store: &Store, order: &[u32], what: &str) {
        for (n, key) in order.iter().enumerate() {
            let removed = store.remove(key.to_le_bytes());
            let removed = removed.unwrap_or_else(|error| {
                panic!("{self:?}, {what}: removal {n} of {}: {error}\n{:?}", order.len(), store.stats())
            });
            assert!(removed, "{self:?}, {what}: {key} was not there");
            assert_eq!(store.len(), order.len() - n - 1, "{self:?}, {what}");
            if n.is_multiple_of(97) {
                let left = &order[n + 1..];
                self.check(store, &left[..left.len().min(20)]);
                assert!(!store.contains_key(key.to_le_bytes()).unwrap());
            }
        }
    }

    fn check(self, store: &Store, keys: &[u32]) {
        for key in keys {
            let found = store.get(key.to_le_bytes()).unwrap();
            assert_eq!(found.as_deref(), Some(&*self.value(*key)), "{self:?}: {key}");
        }
    }
}

/// Returns named orders in which `count` keys are removed.
fn orders(count: u32, seeds: u64) -> Vec<(String, Vec<u32>)> {
    let mut orders = vec![
        ("oldest first".to_owned(), (0..count).collect()),
        ("newest first".to_owned(), (0..count).rev().collect()),
    ];
    for stride in [2, 7, 40] {
        let order = (0..stride).flat_map(|from| (from..count).step_by(stride as usize));
        orders.push((format!("every {stride}th"), order.collect()));
    }
    for seed in 0..seeds {
        let mut order: Vec<u32> = (0..count).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        orders.push((format!("seed {seed}"), order));
    }
    orders
}

/// Returns two cases: a disk that reports how full it is, and one that does not.
fn told_and_not<T: Copy>(of: T) -> [(T, bool); 2] {
    [(of, true), (of, false)]
}

/// Fills the disk, removes everything, and fills it again, for each order.
fn check_orders(setting: Setting, seeds: u64) {
    for (setting, is_told) in told_and_not(setting) {
        check_orders_of(Setting { is_told, ..setting }, seeds);
    }
}

fn check_orders_of(setting: Setting, seeds: u64) {
    let (_, _, count) = setting.full();
    for (what, order) in orders(count, seeds) {
        let (disk, store, again) = setting.full();
        assert_eq!(again, count, "{setting:?}: a disk is full at the same key each time");
        setting.remove_all(&store, &order, &what);
        assert!(store.is_empty());
        disk.forget_history();
        // The free space is the same again, except for the remainder of an interrupted size
        // schedule.
        let second = setting.fill(&store, count) - count;
        assert!(second >= count * 3 / 4, "{setting:?}, {what}: {count} keys, then {second}");
        assert_eq!(store.len(), second as usize);
        disk.forget_history();
        let keys: Vec<u32> = (count..count + second).collect();
        setting.check(&store, &keys);
        store.close().unwrap();
        let store = setting.options().open_on(&disk).unwrap();
        assert_eq!(store.len(), second as usize);
        setting.check(&store, &keys);
        store.verify().unwrap();
    }
}

const SIZES: [(u64, u64); 3] = [(1, 40), (4, 40), (16, 40)];

#[test]
fn full_disk_accepts_removals_of_tombstone_sized_values() {
    for (segment, capacity) in SIZES {
        check_orders(Setting { segment, capacity, value: 4, ..MIXED }, 2);
    }
}

#[test]
fn full_disk_accepts_removals_of_small_values() {
    for (segment, capacity) in SIZES {
        for durability in [Durability::Os, Durability::Disk] {
            check_orders(Setting { segment, capacity, value: 200, durability, ..MIXED }, 3);
        }
    }
}

#[test]
fn full_disk_accepts_removals_of_large_values() {
    for (segment, capacity) in SIZES.into_iter().chain([(1, 200), (4, 160), (16, 640)]) {
        let seeds = if capacity == 40 { 8 } else { 1 };
        check_orders(Setting { segment, capacity, value: 1500, ..MIXED }, seeds);
    }
}

/// A small disk, with values three times as large as their tombstones.
const MIXED: Setting =
    Setting { segment: 1, capacity: 40, value: 80, durability: Durability::Os, is_told: true };
/// The bytes of one key's record.
const MIXED_RECORD: u64 = 120;

#[test]
fn insertions_between_removals_leave_the_removal_reserve() {
    let seeds = [(1, 0), (1, 1), (4, 2), (16, 3)];
    for ((segment, seed), is_told) in seeds.into_iter().flat_map(told_and_not) {
        let setting = Setting { segment, is_told, ..MIXED };
        let (disk, store, count) = setting.full();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut keys: Vec<u32> = (0..count).collect();
        let (mut next, mut inserted) = (count, 0);
        while !keys.is_empty() {
            let key = keys.swap_remove(random.usize(0..keys.len()));
            let removed = store.remove(key.to_le_bytes());
            assert!(removed.unwrap_or_else(|error| panic!("{setting:?}, {} left: {error}", keys.len())));
            // While more than half of the keys are left, insertions take all free space.
            if keys.len() > count as usize / 2 && inserted < count {
                let end = setting.fill(&store, next);
                keys.extend(next..end);
                inserted += end - next;
                next = end;
            } else {
                match store.insert(next.to_le_bytes(), setting.value(next)) {
                    Ok(_) => drop(store.remove(next.to_le_bytes()).unwrap()),
                    Err(Error::NoSpace { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!(store.len(), keys.len());
            disk.forget_history();
        }
        assert!(setting.fill(&store, next) - next >= count * 3 / 4);
    }
}

#[test]
fn full_disk_accepts_removal_batches_and_a_clear() {
    for (segment, is_told) in [1, 4, 16].into_iter().flat_map(told_and_not) {
        let setting = Setting { segment, is_told, ..MIXED };
        let (_, store, count) = setting.full();
        let mut left = count as usize;
        // The batch takes every 30th key, so that it finds keys in all segments.
        for from in 0..30 {
            let mut batch = WriteBatch::new();
            let keys = (from..count).step_by(30);
            left -= keys.clone().count();
            keys.for_each(|key| batch.remove(key.to_le_bytes()));
            store.write(&batch).unwrap_or_else(|error| panic!("{setting:?}, batch {from}: {error}"));
            assert_eq!(store.len(), left);
        }
        assert_eq!(left, 0);
        let count = setting.fill(&store, 0);
        store.clear().unwrap();
        assert!(store.is_empty());
        assert!(setting.fill(&store, 0) >= count * 3 / 4);
    }
}

#[test]
fn compact_frees_removed_space_on_a_full_disk() {
    for (segment, is_told) in [1, 4, 16].into_iter().flat_map(told_and_not) {
        let setting = Setting { segment, is_told, ..MIXED };
        let (disk, store, count) = setting.full();
        let (gone, kept): (Vec<u32>, Vec<u32>) = (0..count).partition(|key| key % 3 == 0);
        for key in &gone {
            assert!(store.remove(key.to_le_bytes()).unwrap());
        }
        let report = store.compact().unwrap();
        assert!(report.passes > 0, "{report:?}");
        let stats = store.stats();
        assert_eq!(stats.compaction.retained_tombstone_bytes, 0, "{stats:?}");
        setting.check(&store, &kept);
        // All of the space is free again, except for three pages at the ends of files.
        let more = setting.fill(&store, count) - count;
        let (removed, inserted) = (gone.len() as u64 * MIXED_RECORD, u64::from(more) * MIXED_RECORD);
        assert!(inserted + 3 * PAGE >= removed, "{setting:?}: {inserted} bytes for {removed}");
        assert_eq!(store.len(), kept.len() + more as usize);
        let killed = disk.kill();
        setting.limit(&killed, None);
        let store = setting.options().open_on(&killed).unwrap();
        assert_eq!(store.len(), kept.len() + more as usize);
        setting.check(&store, &kept);
    }
}

#[test]
fn full_store_accepts_removals_after_kill_and_reopen() {
    let seeds = [(1, 5), (4, 6), (16, 7)];
    for ((segment, seed), is_told) in seeds.into_iter().flat_map(told_and_not) {
        let setting = Setting { segment, is_told, ..MIXED };
        let (mut disk, store, count) = setting.full();
        let mut keys: Vec<u32> = (0..count).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut keys);
        disk = disk.kill();
        drop(store);
        for part in (1..=4).map(|part| count as usize * part / 4) {
            let store = setting.options().open_on(&disk);
            let store = store.unwrap_or_else(|error| panic!("{setting:?}, {} left: {error}", keys.len()));
            while count as usize - keys.len() < part {
                let key = keys.pop().unwrap();
                let removed = store.remove(key.to_le_bytes());
                assert!(removed.unwrap_or_else(|error| panic!("{setting:?}, {} left: {error}", keys.len())));
            }
            assert_eq!(store.len(), keys.len());
            setting.check(&store, &keys);
            disk = disk.kill();
        }
    }
}

/// Writes and removes at random until 100 insertions were refused. Returns the remaining keys.
fn churn(setting: Setting, store: &Store, random: &mut fastrand::Rng) -> Vec<u32> {
    // All keys together need twice the space of the disk.
    let keys_max = u32::try_from(2 * setting.capacity * PAGE / MIXED_RECORD).unwrap();
    let mut keys = std::collections::BTreeSet::new();
    let mut refused = 0;
    while refused < 100 {
        let key = random.u32(0..keys_max);
        let done = match random.u8(0..4) {
            0 => store.remove(key.to_le_bytes()).map(|_| keys.remove(&key)),
            _ => store.insert(key.to_le_bytes(), setting.value(key)).map(|_| keys.insert(key)),
        };
        match done {
            Ok(_) => {}
            Err(Error::NoSpace { .. }) => refused += 1,
            Err(other) => panic!("{setting:?}: {other:?}"),
        }
    }
    keys.into_iter().collect()
}

/// Cause: the space reserved for removals became segments to the last block, and each segment
/// lengthened the manifest. Symptom: at the counts where a copy of the manifest needs its next
/// page, no removal was possible, and the store neither closed nor opened. Fix: the blocks of both
/// copies are reserved before a segment is made.
#[test]
fn manifest_keeps_space_for_more_segments_than_there_are() {
    let disk = SimDisk::new();
    let options = Options::new().segment_bytes(PAGE).background(false).compaction(false);
    let store = options.open_on(&disk).unwrap();
    for key in 0..150_u32 {
        store.insert(key.to_le_bytes(), [7; 3000]).unwrap();
        // docs/design/format.md: a fixed part of 160 bytes, and 64 for each segment.
        let wanted = 160 + 64 * (store.stats().segments + 32);
        for name in ["MANIFEST.0", "MANIFEST.1"] {
            let len = disk.read_file(name).unwrap().len() as u64;
            assert!(len >= wanted as u64, "{name} has {len} bytes of {wanted} after {key} insertions");
        }
    }
}

#[test]
fn full_disk_accepts_removals_at_any_segment_count() {
    // A manifest of one page names 61 segments, one of two pages 125. Other files take four pages,
    // and then six.
    for (capacity, is_told) in (65..69).chain(131..133).flat_map(told_and_not) {
        let setting = Setting { capacity, is_told, ..MIXED };
        let disk = SimDisk::new();
        setting.limit(&disk, Some(capacity));
        let store = setting.options().open_on(&disk).unwrap();
        let mut random = fastrand::Rng::with_seed(capacity);
        let mut keys = churn(setting, &store, &mut random);
        disk.forget_history();
        let killed = disk.kill();
        let opened = setting.options().open_on(&killed);
        let opened = opened.unwrap_or_else(|error| panic!("{setting:?}, killed: {error}"));
        assert_eq!(opened.len(), keys.len(), "{setting:?}");
        random.shuffle(&mut keys);
        setting.remove_all(&store, &keys, "any number of segments");
        store.close().unwrap();
        assert!(setting.options().open_on(&disk).unwrap().is_empty(), "{setting:?}");
    }
}

/// Cause: an insertion refused by a quota that the disk does not report had taken all of the quota.
/// Symptom: removals were refused too, and no compaction was possible. Fix: a segment is made only
/// if the space reserved for removals stays available. An open needs a part of that space, and
/// leaves no more of it to insertions.
#[test]
fn repeated_opens_and_insertions_leave_the_removal_reserve() {
    for (segment, is_told) in [4, 16].into_iter().flat_map(told_and_not) {
        let setting = Setting { segment, is_told, ..MIXED };
        let (mut disk, store, count) = setting.full();
        drop(store);
        let mut next = count;
        for _ in 0..10 {
            disk = disk.kill();
            let store = setting.options().open_on(&disk);
            let store = store.unwrap_or_else(|error| panic!("{setting:?}, {next} keys: {error}"));
            next = setting.fill(&store, next);
        }
        disk = disk.kill();
        let store = setting.options().open_on(&disk).unwrap();
        assert_eq!(store.len(), next as usize, "{setting:?}");
        setting.remove_all(&store, &(0..next).collect::<Vec<_>>(), "after opens");
        assert!(setting.fill(&store, next) - next >= count * 3 / 4, "{setting:?}");
    }
}

#[test]
fn insertions_succeed_after_an_unreported_quota_is_raised() {
    for segment in [1, 4, 16] {
        let setting = Setting { segment, is_told: false, ..MIXED };
        let (disk, store, count) = setting.full();
        let before = store.stats().segments;
        setting.limit(&disk, Some(6 * setting.capacity));
        let more = setting.fill(&store, count) - count;
        assert!(more > 3 * count, "{setting:?}: {count}, then {more}");
        // Most segments have the usual size, and a few at both ends are small.
        let made = (store.stats().segments - before) as u64;
        assert!(made <= 6 * setting.capacity / segment + 20, "{setting:?}: {made} segments");
        setting.remove_all(&store, &(0..count + more).collect::<Vec<_>>(), "after it was lifted");
    }
}
