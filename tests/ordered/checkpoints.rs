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
        let store = open(disk);
        store.ordered_keyspace("ordered").unwrap();
        Self { store, map: Map::new(), pool: shapes(400), random: fastrand::Rng::with_seed(seed), writes: 0 }
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

/// A record that no open has read since is verified before its key decides about another one.
#[test]
fn damaged_record_under_a_checkpoint_is_an_error_and_no_miss() {
    let disk = SimDisk::new();
    let (map, _) = with_checkpoint(&disk);
    let segments: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    let mut errors = 0;
    for name in &segments {
        let size = disk.read_file(name).unwrap().len() as u64;
        for at in (128..size).step_by(311) {
            let damaged = disk.kill();
            damaged.rot_bit(name, at, (at % 8) as u8).unwrap();
            let Ok(store) = options().open_on(&damaged) else { continue };
            let ordered = store.ordered_keyspace("ordered").unwrap();
            // Splits among records that nothing has verified; some fail, and change nothing.
            let mut put = Map::new();
            for n in 0..200_u32 {
                let key = [&b"p"[..], &n.wrapping_mul(2_654_435_769).to_be_bytes()].concat();
                match ordered.insert(&key, "new") {
                    Ok(_) => drop(put.insert(key, b"new".to_vec())),
                    Err(Error::Corrupt { .. }) => errors += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            for (key, value) in map.iter().filter(|(key, _)| !put.contains_key(*key)).chain(&put) {
                match ordered.get(key) {
                    Ok(found) => assert_eq!(found.as_deref(), Some(&**value), "{name} {at}"),
                    Err(Error::Corrupt { .. }) => errors += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            let mut last = None;
            for item in ordered.range::<&[u8]>(..) {
                match item {
                    Ok((key, value)) => {
                        assert!(last.as_deref() < Some(&*key), "{name} {at}");
                        let expected = put.get(&*key).or_else(|| map.get(&*key)).unwrap();
                        assert_eq!(*value, expected[..]);
                        last = Some(key.to_vec());
                    }
                    Err(Error::Corrupt { .. }) => errors += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    assert!(errors > 50, "{errors}");
}
