//! Ordered keyspaces by other ways into a store: followers, salvage, feeds, typed handles.

use mapcask::salvage_on;

use super::*;

#[test]
fn follower_reads_an_ordered_keyspace() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let follower = Options::new().follow_on(&disk).unwrap();
    let (mut map, mut random) = (Map::new(), fastrand::Rng::with_seed(10));
    for step in 0..2000_u32 {
        let key = random.u32(..300).to_be_bytes();
        if random.u8(..3) > 0 {
            ordered.insert(key, step.to_string()).unwrap();
            map.insert(key.to_vec(), step.to_string().into_bytes());
        } else {
            ordered.remove(key).unwrap();
            map.remove(&key[..]);
        }
        if step % 400 == 399 {
            store.compact().unwrap();
            follower.refresh().unwrap();
            let reader = follower.keyspace("ordered").unwrap();
            assert!(reader.is_ordered());
            let all: Vec<Item> = map.clone().into_iter().collect();
            assert_eq!(items(reader.range::<&[u8]>(..)), all);
            assert_eq!(items(reader.iter()), all);
            assert_eq!(reader.last_key_value().unwrap().map(owned), all.last().cloned());
            assert_eq!(reader.count_range::<&[u8]>(..).unwrap(), all.len() as u64);
        }
    }
}

/// Returns a store with an ordered keyspace, and its contents.
fn with_history(disk: &SimDisk) -> (Store, Map) {
    let store = open(disk);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let mut map = Map::new();
    for key in shapes(150) {
        ordered.insert(&key, "1").unwrap();
        map.insert(key, b"1".to_vec());
    }
    for _ in 0..20 {
        assert_eq!(ordered.pop_first().unwrap().map(owned), map.pop_first());
    }
    store.insert("plain", "1").unwrap();
    (store, map)
}

#[test]
fn salvage_makes_an_ordered_keyspace_again() {
    let disk = SimDisk::new();
    let (store, map) = with_history(&disk);
    store.close().unwrap();
    let into = open(&SimDisk::new());
    // A keyspace of its name without order is in the way.
    into.keyspace("ordered").unwrap().insert("plain", "1").unwrap();
    salvage_on(&disk, &into).unwrap();
    assert!(!into.open_keyspace("ordered").unwrap().is_ordered());
    let other = into.keyspace_names().into_iter().find(|name| name != "ordered").unwrap();
    check(&into.ordered_keyspace(&other).unwrap(), &map);
    let into = open(&SimDisk::new());
    salvage_on(&disk, &into).unwrap();
    check(&into.ordered_keyspace("ordered").unwrap(), &map);
}

#[test]
fn damage_in_an_ordered_keyspace_is_an_error_and_no_miss() {
    let disk = SimDisk::new();
    let (store, map) = with_history(&disk);
    store.flush().unwrap();
    store.close().unwrap();
    let segments: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    assert!(!segments.is_empty());
    let (mut refused, mut whole) = (0, 0);
    for name in &segments {
        let size = disk.read_file(name).unwrap().len() as u64;
        for at in (0..size).step_by(97) {
            let damaged = disk.kill();
            damaged.rot_bit(name, at, (at % 8) as u8).unwrap();
            match options().open_on(&damaged) {
                Err(_) => refused += 1,
                // The bit lies behind the last record, or in a part that recovery writes again.
                Ok(store) => {
                    check(&store.ordered_keyspace("ordered").unwrap(), &map);
                    whole += 1;
                }
            }
        }
    }
    assert!(refused > 20 && whole > 0, "{refused} {whole}");
}

/// Cause: a search trusted the keys that it compared. Symptom: a key rotted while the store was open, its
/// neighbours were not found, and pops returned one key for ever.
#[test]
fn damage_while_a_store_is_open_is_no_miss_and_no_endless_pop() {
    let name = |n: u32| format!("the same beginning, {n:02}");
    let mut errors = 0;
    for damaged in 0..20_u32 {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = options().open(directory.path().join("store")).unwrap();
        let ordered = store.ordered_keyspace("ordered").unwrap();
        for n in 0..20 {
            ordered.insert(name(n), "1").unwrap();
        }
        rot(&directory.path().join("store"), name(damaged).as_bytes());
        for n in 0..20 {
            match ordered.get(name(n)) {
                Ok(value) => assert_eq!(value.as_deref(), Some(&b"1"[..]), "{n} of {damaged}"),
                Err(Error::Corrupt { .. }) => errors += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let mut popped = 0;
        let end = loop {
            match ordered.pop_first() {
                Ok(Some(_)) => popped += 1,
                other => break other,
            }
            assert!(popped < 20);
        };
        assert!(matches!(end, Err(Error::Corrupt { .. })), "{end:?}");
    }
    assert!(errors >= 20, "{errors}");
}

/// Flips a bit in the last byte of a key in the files of a store.
fn rot(store: &std::path::Path, key: &[u8]) {
    for file in std::fs::read_dir(store).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(key.len()).position(|window| window == key) else { continue };
        let at = at + key.len() - 1;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[bytes[at] ^ 0x40], at as u64).unwrap();
        return;
    }
    panic!("the key is in no file");
}
