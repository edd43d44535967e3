//! Tests of passes over some of the segments, in every order. No removed key comes back, in any
//! order and after any interruption.
//!
//! The segments that a pass keeps must hide the records that it leaves out. Nothing durable may
//! depend on data that is not. So the process dies and the power fails at every step of every pass,
//! and the contents are compared with the history of writes.

use std::collections::BTreeSet;

use mapcask::sim::{Script, Seeded, SimDisk, Tears};
use mapcask::{Durability, Store};

use super::model_support::{History, State, Write, content, number_from_env, open};

/// The number of keys in a history. It is small, so that most records are overwritten or removed.
const KEYS: u8 = 50;

/// A store with its history.
struct Rig {
    disk: SimDisk,
    store: Store,
    history: History,
}

fn write(store: &Store, history: &mut History, random: &mut fastrand::Rng) {
    let key = format!("{:02}", random.u8(0..KEYS));
    let write = if random.u8(0..5) < 2 {
        Write::remove("", &key)
    } else {
        Write::insert("", &key, vec![random.u8(..); random.usize(0..200)])
    };
    let said = write.run(store).unwrap();
    assert_eq!(said, history.write(&write));
}

/// Returns the numbers of all segments.
fn segments(disk: &SimDisk) -> Vec<u64> {
    let numbers = disk
        .files()
        .into_iter()
        .filter_map(|name| name.strip_suffix(".seg").map(|number| number.parse().unwrap()));
    numbers.collect()
}

impl Rig {
    /// Writes until `sealed` segments are sealed, and then a few records that are not durable.
    fn new(seed: u64, sealed: usize) -> (Self, Vec<u64>) {
        let disk = SimDisk::with_seed(seed);
        let store = open(&disk, Durability::Os).unwrap();
        let mut history = History::new();
        let mut random = fastrand::Rng::with_seed(seed);
        // The active segment counts too.
        while store.stats().segments - store.stats().ready_segments <= sealed {
            write(&store, &mut history, &mut random);
        }
        store.flush().unwrap();
        while store.step().unwrap() {}
        history.make_durable();
        history.forget();
        for _ in 0..8 {
            write(&store, &mut history, &mut random);
        }
        disk.forget_history();
        let mut victims = segments(&disk);
        victims.truncate(sealed);
        (Self { disk, store, history }, victims)
    }

    fn check(&self) {
        assert!(content(&self.store) == *self.history.now());
    }

    /// Continues with the files that an end left.
    fn go_on(&mut self, disk: &SimDisk, judge: impl Fn(&State) -> Result<History, String>, place: &str) {
        self.disk = disk.clone();
        self.store = open(disk, Durability::Os).unwrap_or_else(|error| panic!("{place}: {error:?}"));
        self.history =
            judge(&content(&self.store)).unwrap_or_else(|complaint| panic!("{place}: {complaint}"));
    }

    /// Makes one pass. Returns the segments that it made.
    fn pass(&mut self, victims: &[u64]) -> Vec<u64> {
        let before: BTreeSet<_> = segments(&self.disk).into_iter().collect();
        let report = self.store.compact_segments(victims, |_| true).unwrap();
        assert_eq!((report.passes, report.segments_removed), (1, victims.len() as u64), "{victims:?}");
        self.history.make_durable();
        self.check();
        let after = segments(&self.disk).into_iter().filter(|id| !before.contains(id));
        after.collect()
    }

    /// Makes one pass, and checks that every interruption of it leaves the store's contents.
    fn pass_with_ends(&mut self, victims: &[u64], seed: u64) -> Vec<u64> {
        self.disk.forget_history();
        let before = self.history.clone();
        let made = self.pass(victims);
        for (number, at) in self.disk.positions().into_iter().enumerate() {
            let point = self.disk.crash_point(at, Tears::Any);
            let is_third = |end: usize| (number + end).is_multiple_of(3);
            let place = format!("{victims:?}, {at:?}");
            check_end(&point.kill(), is_third(0), |found| before.check_kill(found, 0), &place);
            let cut = point.cut_power(&mut Seeded::new(seed));
            check_end(&cut, is_third(1), |found| before.check_cut(found), &place);
        }
        // Nothing that was durable before may depend on data that is not.
        let cut = self.disk.crash_at(self.disk.position(), Tears::None, &mut Script::new([]));
        check_end(&cut, true, |found| self.history.check_cut(found), "the power fails right behind the pass");
        made
    }
}

/// Opens the files that an end left, and compares the contents. If `go_on` is true, compacts
/// everything and compares again.
fn check_end(disk: &SimDisk, go_on: bool, judge: impl Fn(&State) -> Result<History, String>, place: &str) {
    let store = open(disk, Durability::Os).unwrap_or_else(|error| panic!("{place}: {error:?}"));
    let found = content(&store);
    judge(&found).unwrap_or_else(|complaint| panic!("{place}: {complaint}"));
    if go_on {
        store.compact().unwrap();
        assert!(content(&store) == found, "{place}: compacted");
        store.close().unwrap();
        let store = open(disk, Durability::Os).unwrap();
        assert!(content(&store) == found, "{place}: closed and opened");
    }
}

/// Returns every permutation of the numbers 0..count.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let longer = shorter.iter().flat_map(|order| {
        (0..=order.len()).map(|at| {
            let mut order = order.clone();
            order.insert(at, count - 1);
            order
        })
    });
    longer.collect()
}

#[test]
fn single_segment_passes_in_any_order_restore_nothing() {
    let mut passes = BTreeSet::new();
    for order in orders(4) {
        let (mut rig, victims) = Rig::new(1, 4);
        assert_eq!(victims.len(), 4);
        let mut made = Vec::new();
        for (at, victim) in order.iter().enumerate() {
            // Interruptions of a common beginning are tested only once.
            made.extend(if passes.insert(order[..=at].to_vec()) {
                rig.pass_with_ends(&[victims[*victim]], at as u64)
            } else {
                rig.pass(&[victims[*victim]])
            });
        }
        // The new segments are compacted as well.
        rig.store.flush().unwrap();
        assert!(!made.is_empty());
        let (last, others) = made.split_last().unwrap();
        rig.pass(&[*last]);
        if !others.is_empty() {
            rig.pass(others);
        }
    }
    assert_eq!(passes.len(), 4 + 12 + 24 + 24);
}

#[test]
fn random_passes_with_crashes_restore_nothing_removed() {
    for seed in 0..number_from_env("MAPCASK_WALKS", 40) {
        let (mut rig, _) = Rig::new(seed, 4 + usize::try_from(seed % 4).unwrap());
        let mut random = fastrand::Rng::with_seed(seed);
        for step in 0..40 {
            let place = format!("seed {seed}, step {step}");
            match random.u8(0..10) {
                0..=4 => {
                    // The victims include outputs of earlier passes.
                    let mut victims = segments(&rig.disk);
                    victims.retain(|_| random.u8(0..3) == 0);
                    rig.disk.forget_history();
                    let before = rig.history.clone();
                    let report = rig.store.compact_segments(&victims, |_| true).unwrap();
                    let positions = rig.disk.positions();
                    let at = positions[random.usize(0..positions.len())];
                    if report.passes > 0 {
                        rig.history.make_durable();
                        rig.check();
                    }
                    let point = rig.disk.crash_point(at, Tears::Any);
                    match random.u8(0..4) {
                        0 => rig.go_on(&point.kill(), |found| before.check_kill(found, 0), &place),
                        1 => {
                            let cut = point.cut_power(&mut Seeded::new(random.u64(..)));
                            rig.go_on(&cut, |found| before.check_cut(found), &place);
                        }
                        _ => {}
                    }
                }
                5 => {
                    rig.store.flush().unwrap();
                    rig.history.make_durable();
                    while rig.store.step().unwrap() {}
                }
                _ => (0..random.usize(0..30)).for_each(|_| write(&rig.store, &mut rig.history, &mut random)),
            }
        }
        rig.store.compact().unwrap();
        rig.check();
        assert_eq!(rig.store.stats().compaction.retained_tombstone_bytes, 0);
        rig.store.verify().unwrap();
    }
}

#[test]
fn pass_keeps_durable_value_whose_successor_is_not_durable() {
    for removed in [false, true] {
        let (mut rig, victims) = Rig::new(7, 2);
        rig.store.flush().unwrap();
        rig.history.make_durable();
        let keys: Vec<_> = rig.store.iter().map(|item| item.unwrap().0.to_vec()).collect();
        for key in keys {
            let key = std::str::from_utf8(&key).unwrap();
            let write = if removed { Write::remove("", key) } else { Write::insert("", key, "new") };
            write.run(&rig.store).unwrap();
            rig.history.write(&write);
        }
        for victim in victims {
            rig.pass_with_ends(&[victim], 3);
        }
    }
}

/// Returns a store with six values, each in a segment that holds a dead one as well.
fn half_dead(seed: u64) -> (SimDisk, Store) {
    let disk = SimDisk::with_seed(seed);
    let store = open(&disk, Durability::Os).unwrap();
    for n in 0..6 {
        store.insert("often", vec![n; 700]).unwrap();
        store.insert(format!("key {n}"), vec![n; 1200]).unwrap();
    }
    store.flush().unwrap();
    while store.step().unwrap() {}
    (disk, store)
}

/// Cause, planted: a file of copies claims that none of its records is hidden by a number given out
/// after the pass began. Symptom: a key was removed between two steps of the pass, and comes back
/// once a second pass has left out its tombstone.
#[test]
fn key_removed_during_a_pass_stays_removed_after_the_next() {
    for step in 1..12 {
        let (disk, store) = half_dead(step);
        let before = segments(&disk);
        let mut steps = 0;
        let removes = |store: &Store| (0..6).for_each(|n| assert!(store.remove(format!("key {n}")).unwrap()));
        let report = store.compact_segments(&before, |_| {
            steps += 1;
            if steps == step {
                removes(&store);
            }
            true
        });
        assert_eq!(report.unwrap().passes, 1);
        if steps < step {
            assert!(step > 5, "only {steps} steps");
            break;
        }
        // These writes seal the segment of the tombstones.
        for n in 0..4 {
            store.insert("often", vec![n; 1800]).unwrap();
        }
        store.flush().unwrap();
        while store.step().unwrap() {}
        let copies: BTreeSet<_> = before.iter().copied().collect();
        let newest = segments(&disk).into_iter().filter(|id| !copies.contains(id)).max().unwrap();
        // Compacts each other segment alone, and never the copies of the first pass.
        for id in segments(&disk).into_iter().filter(|id| *id <= newest) {
            let killed = disk.kill();
            let store = open(&killed, Durability::Os).unwrap();
            store.flush().unwrap();
            while store.step().unwrap() {}
            store.compact_segments(&[id], |_| true).unwrap();
            drop(store);
            let store = open(&killed, Durability::Os).unwrap();
            for n in 0..6 {
                let key = format!("key {n}");
                assert!(!store.contains_key(&key).unwrap(), "step {step}, a pass over {id}: {key} is back");
            }
        }
    }
}

#[test]
fn key_overwritten_during_a_pass_keeps_its_new_value() {
    for step in 1..12 {
        let (disk, store) = half_dead(step);
        let mut steps = 0;
        let report = store.compact_segments(&segments(&disk), |_| {
            steps += 1;
            if steps == step {
                for n in 0..6 {
                    store.insert(format!("key {n}"), "new").unwrap();
                }
            }
            true
        });
        assert_eq!(report.unwrap().passes, 1);
        assert!(steps >= step || step > 5, "only {steps} steps");
        for n in 0..6 {
            let found = store.get(format!("key {n}")).unwrap();
            let is_new = found.as_deref() == Some(b"new".as_slice());
            assert_eq!(is_new, steps >= step, "key {n}, step {step}");
        }
        store.verify().unwrap();
    }
}

/// The manifest names a victim until its file is gone for good, so no open takes it for a file of
/// unknown origin.
#[test]
fn no_open_quarantines_a_victim_after_a_power_cut() {
    let (mut rig, victims) = Rig::new(3, 3);
    rig.pass(&victims);
    let Rig { disk, store, .. } = rig;
    store.close().unwrap();
    for at in disk.positions() {
        let cut = disk.crash_at(at, Tears::None, &mut Script::new([]));
        let store = open(&cut, Durability::Os).unwrap_or_else(|error| panic!("{at:?}: {error:?}"));
        let report = store.recovery_report();
        assert!(report.quarantined.is_empty(), "{at:?}: {report:?}");
    }
}

#[test]
fn tombstone_of_a_key_that_is_there_again_is_dropped() {
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Os).unwrap();
    // Each large value fills a segment, and the tombstone lies behind the second one.
    store.insert("key", [1; 3500]).unwrap();
    store.insert("other", [2; 3500]).unwrap();
    assert!(store.remove("key").unwrap());
    store.insert("key", [3; 3500]).unwrap();
    store.insert("last", [4; 3500]).unwrap();
    store.flush().unwrap();
    while store.step().unwrap() {}
    let retained = || store.stats().compaction.retained_tombstone_bytes;
    assert!(retained() > 0, "the first segment holds a value that it hides");
    let report = store.compact_segments(&segments(&disk)[1..2], |_| true).unwrap();
    assert_eq!(report.segments_removed, 1);
    assert_eq!(retained(), 0);
    assert_eq!(store.get("key").unwrap().as_deref(), Some([3; 3500].as_slice()));
}
