//! Iterations beside writes, and threads beside threads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mapcask::sim::Operation;

use super::*;

/// The time in which a call that must wait for a writer could return early. A slower call is not caught,
/// and a correct call costs the test this time.
const EARLY: Duration = Duration::from_millis(150);

fn filled(count: u32) -> (Store, Keyspace) {
    let store = open(&SimDisk::new());
    let ordered = store.ordered_keyspace("ordered").unwrap();
    for n in 0..count {
        ordered.insert(n.to_be_bytes(), n.to_string()).unwrap();
    }
    (store, ordered)
}

fn number(key: &[u8]) -> u32 {
    u32::from_be_bytes(key.try_into().unwrap())
}

#[test]
fn range_goes_from_both_ends_until_they_meet() {
    let (_store, ordered) = filled(1000);
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..20 {
        let mut range = ordered.range(100_u32.to_be_bytes()..900_u32.to_be_bytes());
        let (mut front, mut back) = (100, 900);
        while front < back {
            if random.bool() {
                assert_eq!(number(&range.next().unwrap().unwrap().0), front);
                front += 1;
            } else {
                back -= 1;
                assert_eq!(number(&range.next_back().unwrap().unwrap().0), back);
            }
        }
        assert!(range.next().is_none() && range.next_back().is_none() && range.next().is_none());
    }
}

#[test]
fn seek_skips_and_never_goes_back() {
    let (_store, ordered) = filled(1000);
    let view = ordered.view();
    let mut borrowed = view.range::<&[u8]>(..);
    let mut owned = ordered.range::<&[u8]>(..);
    let snapshot = _store.snapshot().keyspace("ordered").unwrap();
    let mut of_snapshot = snapshot.range::<&[u8]>(..);
    for (to, next) in [(5_u32, 5), (3, 6), (7, 7), (20, 20), (500, 500), (499, 501), (990, 990)] {
        borrowed.seek(to.to_be_bytes());
        owned.seek(to.to_be_bytes());
        of_snapshot.seek(to.to_be_bytes());
        assert_eq!(number(borrowed.next().unwrap().unwrap().0), next);
        assert_eq!(number(&owned.next().unwrap().unwrap().0), next);
        assert_eq!(number(&of_snapshot.next().unwrap().unwrap().0), next);
    }
    for (to, next) in [(996_u32, 996), (998, 995)] {
        borrowed.seek_back(to.to_be_bytes());
        owned.seek_back(to.to_be_bytes());
        of_snapshot.seek_back(to.to_be_bytes());
        assert_eq!(number(borrowed.next_back().unwrap().unwrap().0), next);
        assert_eq!(number(&owned.next_back().unwrap().unwrap().0), next);
        assert_eq!(number(&of_snapshot.next_back().unwrap().unwrap().0), next);
    }
    assert_eq!((borrowed.count(), owned.count(), of_snapshot.count()), (4, 4, 4));
    let mut range = ordered.range::<&[u8]>(..);
    range.seek(2000_u32.to_be_bytes());
    assert!(range.next().is_none() && range.next_back().is_none());
}

#[test]
fn seeks_between_steps_from_both_ends_equal_a_model() {
    const KEYS: u32 = 200;
    let (store, ordered) = filled(KEYS);
    let (view, snapshot) = (ordered.view(), store.snapshot().keyspace("ordered").unwrap());
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..300 {
        let mut borrowed = view.range::<&[u8]>(..);
        let mut owned = ordered.range::<&[u8]>(..);
        let mut of_snapshot = snapshot.range::<&[u8]>(..);
        // The keys from `front` on and before `back` are left.
        let (mut front, mut back) = (0_u32, KEYS);
        for _ in 0..random.u32(1..40) {
            let near = random.u32(..30);
            match random.u8(..4) {
                0 | 1 => {
                    let to = front.saturating_sub(5) + near;
                    borrowed.seek(to.to_be_bytes());
                    owned.seek(to.to_be_bytes());
                    of_snapshot.seek(to.to_be_bytes());
                    front = front.max(to);
                }
                2 => {
                    let to = (back + 5).saturating_sub(near);
                    borrowed.seek_back(to.to_be_bytes());
                    owned.seek_back(to.to_be_bytes());
                    of_snapshot.seek_back(to.to_be_bytes());
                    back = back.min(to + 1);
                }
                _ => {}
            }
            let is_front = random.bool();
            let expected = (front < back).then(|| if is_front { front } else { back - 1 });
            let step = |range: &mut dyn DoubleEndedIterator<Item = u32>| {
                if is_front { range.next() } else { range.next_back() }
            };
            assert_eq!(step(&mut borrowed.by_ref().map(|item| number(item.unwrap().0))), expected);
            assert_eq!(step(&mut owned.by_ref().map(|item| number(&item.unwrap().0))), expected);
            assert_eq!(step(&mut of_snapshot.by_ref().map(|item| number(&item.unwrap().0))), expected);
            match expected {
                Some(_) if is_front => front += 1,
                Some(_) => back -= 1,
                None => break,
            }
        }
        let left = back.saturating_sub(front) as usize;
        assert_eq!((borrowed.count(), owned.count(), of_snapshot.count()), (left, left, left));
    }
}

#[test]
fn own_writes_during_an_iteration_are_fine() {
    let (store, ordered) = filled(500);
    let mut seen = 0;
    for item in ordered.range::<&[u8]>(..) {
        let (key, value) = item.unwrap();
        assert_eq!(value, number(&key).to_string());
        // Removing keys merges leaves behind the iterator, and adding some splits those before it.
        ordered.remove(&key).unwrap();
        ordered.insert([&*key, b"new"].concat(), "").unwrap();
        seen += 1;
        if seen % 100 == 0 {
            settle(&store);
        }
        ordered.remove([&*key, b"new"].concat()).unwrap();
    }
    assert_eq!((seen, ordered.len()), (500, 0));
}

#[test]
fn iteration_ends_when_its_keyspace_is_cleared_or_dropped() {
    let (store, ordered) = filled(300);
    let (mut range, mut other) = (ordered.range::<&[u8]>(..), ordered.range::<&[u8]>(..));
    assert!(range.next().is_some() && other.next_back().is_some());
    ordered.clear().unwrap();
    ordered.insert("new", "").unwrap();
    assert!(range.next().is_none() && other.next_back().is_none() && range.next_back().is_none());
    let mut range = ordered.range::<&[u8]>(..);
    store.drop_keyspace("ordered").unwrap();
    assert!(matches!(range.next(), Some(Err(Error::KeyspaceDropped { .. }))));
    assert!(range.next().is_none());
    assert!(matches!(ordered.first_key_value(), Err(Error::KeyspaceDropped { .. })));
    assert!(matches!(ordered.pop_last(), Err(Error::KeyspaceDropped { .. })));
}

#[test]
fn range_of_a_view_ends_when_its_keyspace_is_cleared_or_dropped() {
    let (store, ordered) = filled(300);
    let view = ordered.view();
    let mut range = view.range::<&[u8]>(..);
    assert!(range.next().is_some() && range.next_back().is_some());
    ordered.clear().unwrap();
    ordered.insert("new", "").unwrap();
    assert!(range.next().is_none() && range.next_back().is_none() && range.next().is_none());
    let mut range = view.range::<&[u8]>(..);
    assert_eq!(range.next_back().unwrap().unwrap().0, b"new");
    ordered.insert("other", "").unwrap();
    let mut range = view.range::<&[u8]>(..);
    assert!(range.next().is_some());
    store.drop_keyspace("ordered").unwrap();
    assert!(matches!(range.next(), Some(Err(Error::KeyspaceDropped { .. }))));
    assert!(range.next().is_none() && range.next_back().is_none());
}

#[test]
fn range_goes_on_after_its_store_is_closed() {
    let (store, ordered) = filled(300);
    let mut range = ordered.range::<&[u8]>(..);
    assert_eq!(number(&range.next().unwrap().unwrap().0), 0);
    drop(ordered);
    store.close().unwrap();
    assert_eq!(number(&range.next_back().unwrap().unwrap().0), 299);
    assert_eq!(range.count(), 298);
}

#[test]
fn snapshot_keeps_its_order_beside_writes() {
    let (store, ordered) = filled(400);
    let mut map: Map = items(ordered.iter()).into_iter().collect();
    let mut kept = Vec::new();
    let mut random = fastrand::Rng::with_seed(6);
    for step in 0..3000 {
        let key = random.u32(..600).to_be_bytes();
        if random.bool() {
            ordered.insert(key, step.to_string()).unwrap();
            map.insert(key.to_vec(), step.to_string().into_bytes());
        } else {
            ordered.remove(key).unwrap();
            map.remove(&key[..]);
        }
        if step % 500 == 0 {
            kept.push((store.snapshot(), map.clone()));
        }
        if step % 300 == 0 {
            store.compact().unwrap();
        }
    }
    ordered.clear().unwrap();
    for (snapshot, map) in &kept {
        let seen = snapshot.keyspace("ordered").unwrap();
        let all: Vec<Item> = map.clone().into_iter().collect();
        assert!(seen.is_ordered());
        assert_eq!(items(seen.iter()), all);
        assert_eq!(items(seen.range::<&[u8]>(..)), all);
        let mut back = items(seen.range::<&[u8]>(..).rev());
        back.reverse();
        assert_eq!(back, all);
        assert_eq!(seen.first_key_value().unwrap().map(owned), all.first().cloned());
        assert_eq!(seen.last_key_value().unwrap().map(owned), all.last().cloned());
        assert_eq!(seen.count_range::<&[u8]>(..).unwrap(), all.len() as u64);
        let from = 200_u32.to_be_bytes().to_vec();
        let expected: Vec<Item> =
            map.range(from.clone()..).map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(items(seen.range(&from[..]..)), expected);
        assert_eq!(seen.get_ge(&from).unwrap().map(owned), expected.first().cloned());
        for (key, value) in map {
            assert_eq!(seen.get(key).unwrap().as_deref(), Some(&**value));
        }
    }
}

#[test]
fn pops_of_several_threads_take_each_key_once() {
    let (_store, ordered) = filled(4000);
    let popped: Vec<Vec<u32>> = thread::scope(|scope| {
        let pop = |first: bool| {
            let ordered = &ordered;
            scope.spawn(move || {
                let next = || if first { ordered.pop_first() } else { ordered.pop_last() };
                std::iter::from_fn(|| next().unwrap()).map(|(key, _)| number(&key)).collect()
            })
        };
        [pop(true), pop(false), pop(true)].map(|thread| thread.join().unwrap()).into()
    });
    assert!(popped[0].is_sorted() && popped[2].is_sorted() && popped[1].iter().rev().is_sorted());
    let all: BTreeSet<u32> = popped.iter().flatten().copied().collect();
    assert_eq!((all.len(), popped.iter().flatten().count(), ordered.len()), (4000, 4000, 0));
}

/// A transaction reads the only key and puts one before it, or behind it. A pop that waits for its commit
/// comes after it, so it takes the new key.
#[test]
fn pop_that_waits_for_a_writer_takes_the_end_that_it_leaves() {
    for pops_first in [true, false] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let queue = store.ordered_keyspace("queue").unwrap();
        queue.insert("m", "").unwrap();
        // They take what is preallocated, so that the commit makes a segment, under the writer mutex.
        for n in 0..3_u8 {
            store.insert([n], [7; 3000]).unwrap();
        }
        let new = if pops_first { "a" } else { "z" };
        let gate = disk.hold_nth(Operation::SyncDir, 1);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                store.transact(|transaction| {
                    assert!(transaction.contains_key(&queue, "m")?);
                    transaction.insert(&queue, new, [7; 3000])
                })
            });
            gate.wait();
            let (said, hears) = mpsc::channel();
            let queue = &queue;
            scope.spawn(move || said.send(if pops_first { queue.pop_first() } else { queue.pop_last() }));
            let early = hears.recv_timeout(EARLY);
            gate.open();
            writer.join().unwrap().unwrap();
            let popped = early.unwrap_or_else(|_| hears.recv().unwrap());
            assert_eq!(popped.unwrap().unwrap().0, new);
        });
        assert_eq!(keys(queue.iter()), [b"m"]);
    }
}

/// Keys that no thread touches are found by every iteration, exactly once and in order, while others
/// come and go between them.
#[test]
fn iterations_beside_writers_find_every_key_that_stays() {
    let (store, ordered) = filled(0);
    let ends = AtomicBool::new(false);
    for n in (0..2000_u32).step_by(2) {
        ordered.insert(n.to_be_bytes(), "stays").unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(8);
            for round in 0..60 {
                for _ in 0..500 {
                    let key = (random.u32(..1000) * 2 + 1).to_be_bytes();
                    if (round / 10) % 2 == 0 {
                        ordered.insert(key, "goes").map(drop)
                    } else {
                        ordered.remove(key).map(drop)
                    }
                    .unwrap();
                }
                settle(&store);
            }
            ends.store(true, Ordering::Release);
        });
        let mut rounds = 0;
        while rounds == 0 || !ends.load(Ordering::Acquire) {
            rounds += 1;
            let forward = keys(ordered.range::<&[u8]>(..));
            assert!(forward.is_sorted_by(|one, other| one < other));
            assert_eq!(forward.iter().filter(|key| number(key).is_multiple_of(2)).count(), 1000);
            let view = ordered.view();
            let back: Vec<u32> = view.range::<&[u8]>(..).rev().map(|item| number(item.unwrap().0)).collect();
            assert!(back.is_sorted_by(|one, other| one > other));
            assert_eq!(back.iter().filter(|key| key.is_multiple_of(2)).count(), 1000);
            assert_eq!(number(&ordered.first_key_value().unwrap().unwrap().0), 0);
            assert!(ordered.count_range::<&[u8]>(..).unwrap() >= 1000);
        }
    });
}

/// A batch moves a key, so each one-moment read finds it in exactly one place.
#[test]
fn one_moment_reads_never_see_half_of_a_batch() {
    let (_store, ordered) = filled(0);
    let ends = AtomicBool::new(false);
    for n in 0..300_u32 {
        ordered.insert((n * 2).to_be_bytes(), "").unwrap();
    }
    ordered.insert(301_u32.to_be_bytes(), "moves").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 301_u32;
            for step in 0..5000_u32 {
                let next = (step * 7 % 300) * 2 + 1;
                let mut batch = WriteBatch::new();
                batch.remove(at.to_be_bytes());
                batch.insert(next.to_be_bytes(), "moves");
                ordered.write(batch).unwrap();
                at = next;
            }
            ends.store(true, Ordering::Release);
        });
        let mut rounds = 0;
        while rounds == 0 || !ends.load(Ordering::Acquire) {
            rounds += 1;
            assert_eq!(ordered.count_range::<&[u8]>(..).unwrap(), 301);
            let page = ordered.get_range::<&[u8]>(.., 4096).unwrap();
            assert_eq!(page.iter().filter(|(key, _)| number(key) % 2 == 1).count(), 1);
        }
    });
}
