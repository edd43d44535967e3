//! Random reads and writes: a commit fails if and only if what was read has changed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The keys of a keyspace, each with the number of its last change.
type Keys = BTreeMap<Vec<u8>, u64>;

/// The reads of a transaction from one keyspace, as the documentation says.
#[derive(Default)]
struct Noted {
    keys: BTreeSet<Vec<u8>>,
    /// From a key on to, and without, another one.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Noted {
    fn covers(&self, key: &[u8]) -> bool {
        let in_range = |(from, to): &(Vec<u8>, Vec<u8>)| **from <= *key && *key < **to;
        self.keys.contains(key) || self.ranges.iter().any(in_range)
    }

    /// Returns true if a read key was changed between two states. Absent before and after is none.
    fn has_changed(&self, before: &Keys, after: &Keys) -> bool {
        let all: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        all.into_iter().any(|key| self.covers(key) && before.get(key) != after.get(key))
    }
}

/// A transaction, and a model of it.
struct Modelled {
    transaction: mapcask::Transaction,
    noted: [Noted; 2],
    /// The own writes: true if the key was inserted.
    own: [BTreeMap<Vec<u8>, bool>; 2],
    before: [Keys; 2],
}

struct World {
    keyspaces: [Keyspace; 2],
    keys: [Keys; 2],
    random: fastrand::Rng,
    changes: u64,
}

/// A key of two letters behind all keys.
const BEHIND: &[u8] = b"zz";

impl World {
    fn key(&mut self) -> Vec<u8> {
        format!("{}{}", self.random.char('a'..='e'), self.random.char('a'..='d')).into_bytes()
    }

    fn change(&mut self, of: usize) {
        let key = self.key();
        self.changes += 1;
        if self.random.bool() {
            self.keyspaces[of].insert(&key, self.changes.to_le_bytes()).unwrap();
            self.keys[of].insert(key, self.changes);
        } else {
            self.keyspaces[of].remove(&key).unwrap();
            self.keys[of].remove(&key);
        }
    }

    fn read_key(&mut self, of: usize, modelled: &mut Modelled) {
        let key = self.key();
        let found = modelled.transaction.get(&self.keyspaces[of], &key).unwrap();
        let expected = match modelled.own[of].get(&key) {
            Some(own) => *own,
            None => {
                modelled.noted[of].keys.insert(key.clone());
                modelled.before[of].contains_key(&key)
            }
        };
        assert_eq!(found.is_some(), expected);
    }

    /// Reads some items of a range of the ordered keyspace, from both ends.
    fn read_range(&mut self, modelled: &mut Modelled) {
        let (mut from, mut to) = (self.key(), self.key());
        if self.random.u8(..5) == 0 {
            (from, to) = (Vec::new(), BEHIND.to_vec());
        }
        let mut expected: BTreeSet<Vec<u8>> = modelled.before[1].keys().cloned().collect();
        for (key, is_there) in &modelled.own[1] {
            if *is_there {
                expected.insert(key.clone())
            } else {
                expected.remove(key)
            };
        }
        expected.retain(|key| from <= *key && *key < to);
        let mut range = modelled.transaction.range(&self.keyspaces[1], &from[..]..&to[..]);
        let (mut front, mut back) = (None, None);
        for _ in 0..self.random.u8(..6) {
            let is_front = self.random.bool();
            let found = if is_front { range.next() } else { range.next_back() };
            let found = found.map(|item| item.unwrap().0.to_vec());
            assert_eq!(found, if is_front { expected.pop_first() } else { expected.pop_last() });
            match found {
                None => {
                    modelled.noted[1].ranges.push((from, to));
                    return;
                }
                found if is_front => front = found,
                found => back = found,
            }
        }
        modelled.noted[1].ranges.extend(front.map(|key| (from, [&key[..], &[0]].concat())));
        modelled.noted[1].ranges.extend(back.map(|key| (key, to)));
    }

    fn write(&mut self, of: usize, modelled: &mut Modelled) {
        let key = self.key();
        let inserts = self.random.bool();
        if inserts {
            modelled.transaction.insert(&self.keyspaces[of], &key, "own").unwrap();
        } else {
            modelled.transaction.remove(&self.keyspaces[of], &key).unwrap();
        }
        modelled.own[of].insert(key, inserts);
    }

    fn commit(&mut self, modelled: Modelled) -> bool {
        let Modelled { transaction, noted, own, before } = modelled;
        let writes = own.iter().any(|own| !own.is_empty());
        let changed = (0..2).any(|of| noted[of].has_changed(&before[of], &self.keys[of]));
        let result = transaction.commit();
        assert_eq!(result.is_err(), writes && changed, "{result:?}");
        if result.is_ok() {
            for (of, own) in own.into_iter().enumerate() {
                for (key, is_there) in own {
                    self.changes += 1;
                    if is_there {
                        self.keys[of].insert(key, self.changes);
                    } else {
                        self.keys[of].remove(&key);
                    }
                }
            }
        }
        result.is_ok()
    }
}

#[test]
fn commit_fails_exactly_when_what_was_read_has_changed() {
    let (store, keyspaces) = open_both();
    let (keys, random) = ([Keys::new(), Keys::new()], fastrand::Rng::with_seed(5));
    let mut world = World { keyspaces, keys, random, changes: 0 };
    let mut outcomes = [0; 2];
    for round in 0..20_000 {
        let mut modelled = Modelled {
            transaction: store.begin(),
            noted: <[Noted; 2]>::default(),
            own: <[BTreeMap<Vec<u8>, bool>; 2]>::default(),
            before: world.keys.clone(),
        };
        for _ in 0..world.random.u8(2..16) {
            let of = world.random.usize(..2);
            match world.random.u8(..6) {
                0..2 => world.change(of),
                2 => world.read_key(of, &mut modelled),
                3 => world.read_range(&mut modelled),
                _ => world.write(of, &mut modelled),
            }
        }
        outcomes[usize::from(world.commit(modelled))] += 1;
        if round % 200 == 0 {
            store.compact().unwrap();
            while store.step().unwrap() {}
        }
    }
    assert!(outcomes.iter().all(|count| *count > 1000), "{outcomes:?}");
    for (keyspace, keys) in world.keyspaces.iter().zip(&world.keys) {
        let mut found: Vec<Vec<u8>> = keyspace.keys().map(|key| key.unwrap().to_vec()).collect();
        found.sort_unstable();
        assert!(found.iter().eq(keys.keys()));
    }
    assert_eq!(store.stats().snapshot_bytes, 0, "each released what it kept");
}
