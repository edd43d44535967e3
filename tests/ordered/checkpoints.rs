//! Index checkpoints of stores with ordered keyspaces.

use super::*;

/// A store with an ordered keyspace beside one without order, and the contents of both.
struct Pair {
    store: Store,
    map: Map,
    pool: Vec<Vec<u8>>,
    random: fastrand::Rng,
    writes: u32,
}

impl Pair {
    fn new(disk: &SimDisk, seed: u64) -> Self {
        Self::with_keys(disk, seed, shapes(400))
    }

    fn with_keys(disk: &SimDisk, seed: u64, pool: Vec<Vec<u8>>) -> Self {
        let store = open(disk);
        store.ordered_keyspace("ordered").unwrap();
        Self { store, map: Map::new(), pool, random: fastrand::Rng::with_seed(seed), writes: 0 }
    }

    /// Changes both keyspaces alike.
    fn change(&mut self, count: usize) {
        let ordered = self.store.ordered_keyspace("ordered").unwrap();
        for _ in 0..count {
            let key = &self.pool[self.random.usize(..self.pool.len())];
            self.writes += 1;
            if self.random.u8(..10) < 6 {
                let value = format!("value {}", self.writes);
                ordered.insert(key, &value).unwrap();
                self.store.insert(key, &value).unwrap();
                self.map.insert(key.clone(), value.into_bytes());
            } else {
                ordered.remove(key).unwrap();
                self.store.remove(key).unwrap();
                self.map.remove(key);
            }
        }
    }

    /// Closes the store and opens it again, or opens what a kill leaves.
    fn reopen(self, disk: &SimDisk, is_killed: bool) -> (Self, SimDisk) {
        let Self { store, map, pool, random, writes } = self;
        let disk = if is_killed { disk.kill() } else { disk.clone() };
        if is_killed {
            drop(store);
        } else {
            store.close().unwrap();
        }
        let store = open(&disk);
        (Self { store, map, pool, random, writes }, disk)
    }

    fn check(&self) {
        check(&self.store.ordered_keyspace("ordered").unwrap(), &self.map);
        assert_eq!(self.store.len(), self.map.len());
        for (key, value) in &self.map {
            assert_eq!(self.store.get(key).unwrap().as_deref(), Some(&**value));
        }
    }

    fn took_checkpoint(&self) -> bool {
        self.store.recovery_report().checkpoint_seq.is_some()
    }
}

/// Opens that begin with a checkpoint, with writes behind it, compaction of what it covers, and another
/// checkpoint from there.
#[test]
fn ordered_keyspace_is_opened_from_checkpoints() {
    let mut from_checkpoint = 0;
    for seed in 0..30 {
        let mut disk = SimDisk::new();
        let mut pair = Pair::new(&disk, seed);
        for round in 0..5 {
            pair.change(300);
            assert!(pair.store.take_checkpoint().unwrap());
            if seed % 3 > 0 {
                pair.change(if seed % 3 == 1 { 3 } else { 200 });
            }
            if seed % 2 == 0 {
                // Segments that the checkpoint covers go, and their entries with them.
                pair.store.compact().unwrap();
            }
            (pair, disk) = pair.reopen(&disk, round % 2 == 0);
            from_checkpoint += u32::from(pair.took_checkpoint());
            match seed % 4 {
                0 => pair.change(100),
                1 => settle(&pair.store),
                2 => check_range(
                    &pair.store.ordered_keyspace("ordered").unwrap(),
                    &pair.map,
                    &pair.pool[0],
                    &pair.pool[1],
                ),
                _ => {}
            }
            pair.check();
            pair.store.verify().unwrap();
        }
    }
    assert_eq!(from_checkpoint, 150);
}

#[test]
fn read_only_open_begins_with_a_checkpoint_of_a_tree() {
    let disk = SimDisk::new();
    let mut pair = Pair::new(&disk, 1);
    pair.change(600);
    assert!(pair.store.take_checkpoint().unwrap());
    pair.change(50);
    pair.store.flush().unwrap();
    let follower = Options::new().follow_on(&disk).unwrap();
    let all: Vec<Item> = pair.map.clone().into_iter().collect();
    assert_eq!(items(follower.keyspace("ordered").unwrap().range::<&[u8]>(..)), all);
    let map = pair.map.clone();
    pair.store.close().unwrap();
    let reader = options().read_only(true).open_on(&disk).unwrap();
    assert!(reader.recovery_report().checkpoint_seq.is_some());
    check(&reader.open_keyspace("ordered").unwrap(), &map);
}

/// Returns a closed store with a checkpoint, its contents, and the checkpoint's name.
fn with_checkpoint(disk: &SimDisk) -> (Map, String) {
    let mut pair = Pair::new(disk, 2);
    pair.change(900);
    assert!(pair.store.take_checkpoint().unwrap());
    pair.store.close().unwrap();
    let name = disk.files().into_iter().find(|name| name.starts_with("INDEX-")).unwrap();
    (pair.map, name)
}

/// Each read that meets a damaged block has the indexes rebuilt, and goes on where it was.
#[test]
fn damaged_checkpoint_of_a_tree_is_rebuilt_by_a_read() {
    let disk = SimDisk::new();
    let (map, name) = with_checkpoint(&disk);
    let size = disk.read_file(&name).unwrap().len() as u64;
    let all: Vec<Item> = map.clone().into_iter().collect();
    let mut rebuilds = 0;
    for (round, at) in (0..size).step_by(509).enumerate() {
        let damaged = disk.kill();
        damaged.rot_bit(&name, at, (at % 8) as u8).unwrap();
        let store = open(&damaged);
        let ordered = store.ordered_keyspace("ordered").unwrap();
        match round % 8 {
            0 => assert_eq!(items(ordered.range::<&[u8]>(..)), all),
            1 => {
                let view = ordered.view();
                let back = view.range::<&[u8]>(..).rev().map(|item| item.unwrap().0.to_vec());
                assert!(back.eq(map.keys().rev().cloned()));
            }
            2 => assert_eq!(ordered.count_range::<&[u8]>(..).unwrap(), all.len() as u64),
            3 => {
                let mut left = map.clone();
                while let Some(item) = ordered.pop_last().unwrap() {
                    assert_eq!(left.pop_last(), Some(owned(item)));
                }
                assert!(left.is_empty());
                ordered.clear().unwrap();
                map.iter().for_each(|(key, value)| _ = ordered.insert(key, value).unwrap());
            }
            4 => {
                let snapshot = store.snapshot();
                let ordered = snapshot.keyspace("ordered").unwrap();
                assert_eq!(items(ordered.range::<&[u8]>(..).rev()).len(), all.len());
            }
            5 => {
                let page = ordered.get_range::<&[u8]>(.., 4096).unwrap();
                assert_eq!(page.into_iter().map(owned).collect::<Vec<_>>(), all);
            }
            6 => all.iter().for_each(|(key, value)| _ = ordered.insert(key, value).unwrap()),
            _ => settle(&store),
        }
        check(&ordered, &map);
        rebuilds += store.stats().index_rebuilds;
        // A store whose checkpoint was damaged takes another one.
        assert!(store.take_checkpoint().unwrap());
        check(&open(&damaged.kill()).ordered_keyspace("ordered").unwrap(), &map);
    }
    assert!(rebuilds > 10, "{rebuilds}");
}

/// Returns keys in groups with long common beginnings, so that a few hundred make three levels.
fn groups(count: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(6);
    let mut keys = Vec::new();
    for _ in 0..count {
        let begin: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(900).collect();
        keys.extend((0..40).map(|_| [&begin[..], &random.u32(..).to_be_bytes()].concat()));
    }
    keys
}

/// Writes to a damaged store, and then reads all of it: each answer is right or an error. Returns the
/// number of errors.
fn count_errors(store: &Store, mut map: Map, place: &str) -> usize {
    let mut errors = 0;
    let mut is_damaged = |error: Error| match error {
        // A batch whose keys were in the log when it met the damage ends the keyspace.
        Error::Corrupt { .. } | Error::Io { .. } => errors += 1,
        error => panic!("{place}: {error}"),
    };
    let ordered = store.ordered_keyspace("ordered").unwrap();
    // A scan of what is not loaded yet.
    for item in ordered.range::<&[u8]>(..).take(50) {
        item.map_or_else(&mut is_damaged, |(key, value)| assert_eq!(*value, map[&*key][..], "{place}"));
    }
    // Splits among records that nothing has verified; some fail, and change nothing.
    let near: Vec<_> = map.keys().step_by(3).cloned().collect();
    for (n, key) in near.iter().enumerate().filter(|(_, key)| key.len() < MAX_ORDERED_KEY_LEN - 4) {
        let new = [&key[..], &[0, 7]].concat();
        if n % 2 == 0 {
            match ordered.insert(&new, "new") {
                Ok(_) => drop(map.insert(new, b"new".to_vec())),
                Err(error) => is_damaged(error),
            }
            continue;
        }
        let mut batch = WriteBatch::new();
        let all = [new, [&key[..], &[1]].concat(), [&key[..], &[2]].concat()];
        all.iter().for_each(|key| batch.insert(key, "many"));
        match ordered.write(&batch) {
            Ok(_) => map.extend(all.into_iter().map(|key| (key, b"many".to_vec()))),
            Err(error) => is_damaged(error),
        }
    }
    for (key, value) in &map {
        match ordered.get(key) {
            Ok(found) => assert_eq!(found.as_deref(), Some(&**value), "{place}"),
            Err(error) => is_damaged(error),
        }
    }
    let mut last = None;
    for item in ordered.iter() {
        match item {
            Ok((key, value)) => {
                assert!(last.as_deref() < Some(&*key), "{place}");
                assert_eq!(*value, map[&*key][..], "{place}");
                last = Some(key.to_vec());
            }
            Err(error) => is_damaged(error),
        }
    }
    errors
}

/// A record that no open has read since is verified before its key decides about another one: by a
/// read, by a write, and by the replay of what was written behind the checkpoint.
#[test]
fn damaged_record_under_a_checkpoint_is_an_error_and_no_miss() {
    // The first and the third record of a segment with long keys are of the ordered keyspace.
    let cases = [(shapes(400), 1, 311, 0), (groups(12), 3, 1900, 0), (groups(12), 3, 1900, 200)];
    for (pool, every, step, behind) in cases {
        let disk = SimDisk::new();
        let mut pair = Pair::with_keys(&disk, 2, pool);
        pair.change(900);
        assert!(pair.store.take_checkpoint().unwrap());
        let covered: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
        pair.change(behind);
        // So little that the close takes no other checkpoint.
        pair.store.close().unwrap();
        let map = pair.map;
        let (mut errors, mut refused) = (0, 0);
        for name in covered.iter().step_by(every) {
            let size = disk.read_file(name).unwrap().len() as u64;
            for at in (400..size).step_by(step) {
                let damaged = disk.kill();
                damaged.rot_bit(name, at, (at % 8) as u8).unwrap();
                match options().open_on(&damaged) {
                    Ok(store) => errors += count_errors(&store, map.clone(), &format!("{name} {at}")),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(errors > 30, "{errors} {refused}");
    }
}

/// Returns the number of errors of a range that skipped the keys that `is_passed` names.
fn errors_behind_a_seek<K: AsRef<[u8]>, V>(
    items: impl Iterator<Item = mapcask::Result<(K, V)>>,
    is_passed: impl Fn(&[u8]) -> bool,
) -> usize {
    let keys = items.map(|item| item.map(|(key, _)| assert!(!is_passed(key.as_ref()), "{:?}", key.as_ref())));
    keys.filter(Result::is_err).count()
}

/// Cause: a seek ended at a record that could not be read, and left those behind it.
/// Symptom: keys before that of the seek came after the error.
#[test]
fn seek_passes_damaged_records() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let key = |number: usize| format!("key {number:03}").into_bytes();
    (0..400).for_each(|number| _ = ordered.insert(key(number), "1").unwrap());
    assert!(store.take_checkpoint().unwrap());
    drop(ordered);
    store.close().unwrap();
    let segments: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    let mut errors = 0;
    for rotten in (1..8).chain(390..399) {
        let (damaged, wanted) = (disk.kill(), key(rotten));
        for name in &segments {
            let bytes = disk.read_file(name).unwrap();
            let found = bytes.windows(wanted.len()).position(|window| window == wanted);
            if let Some(at) = found {
                damaged.rot_bit(name, (at + wanted.len() - 1) as u64, 0).unwrap();
            }
        }
        let store = open(&damaged);
        let ordered = store.ordered_keyspace("ordered").unwrap();
        let view = ordered.view();
        for aim in [10, 20, 50, 200] {
            let sought = key(aim);
            let (mut borrowed, mut owned) = (view.range(key(3)..), ordered.range(key(3)..));
            _ = (borrowed.next(), owned.next());
            borrowed.seek(&sought);
            owned.seek(&sought);
            errors += errors_behind_a_seek(borrowed, |key| *key < *sought);
            errors += errors_behind_a_seek(owned, |key| *key < *sought);
            let sought = key(399 - aim);
            let (mut borrowed, mut owned) = (view.range(..key(395)), ordered.range(..key(395)));
            _ = (borrowed.next_back(), owned.next_back());
            borrowed.seek_back(&sought);
            owned.seek_back(&sought);
            errors += errors_behind_a_seek(borrowed.rev(), |key| *key > *sought);
            errors += errors_behind_a_seek(owned.rev(), |key| *key > *sought);
        }
    }
    assert!(errors > 30, "{errors}");
}

/// Cause: a scan asked by the key of a record that nothing had verified whether it was verified.
/// Symptom: the key led to nodes that were not loaded, and the scan waited for them for ever.
#[test]
fn rotten_key_that_leads_elsewhere_ends_no_scan() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let keys = groups(30);
    keys.iter().for_each(|key| _ = ordered.insert(key, "1").unwrap());
    assert!(store.take_checkpoint().unwrap());
    drop(ordered);
    store.close().unwrap();
    let segments: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    let mut errors = 0;
    for key in keys.iter().step_by(50) {
        let damaged = disk.kill();
        for name in &segments {
            let bytes = disk.read_file(name).unwrap();
            for (at, _) in bytes.windows(key.len()).enumerate().filter(|(_, window)| window == key) {
                // The first bit, so that the key lies in the other half of the tree.
                damaged.rot_bit(name, at as u64, 7).unwrap();
            }
        }
        let store = open(&damaged);
        let ordered = store.ordered_keyspace("ordered").unwrap();
        for item in ordered.prefix(&key[..900]) {
            match item {
                Ok((_, value)) => assert_eq!(value, "1"),
                Err(Error::Corrupt { .. }) => errors += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(errors > 10, "{errors}");
}
