//! Kills and power cuts.

use mapcask::Durability;
use mapcask::sim::{Seeded, Tears};

use super::*;

/// After a kill or a power cut at any moment, an ordered keyspace is as of one point of its writes.
#[test]
fn ordered_keyspace_survives_every_cut_as_of_one_point() {
    let disk = SimDisk::new();
    disk.set_hint_chunk(Some(1024));
    let store = options().durability(Durability::Os).open_on(&disk).unwrap();
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let pool = shapes(60);
    let mut random = fastrand::Rng::with_seed(9);
    let (mut map, mut states) = (Map::new(), vec![Map::new()]);
    let mut durable = 0;
    for step in 0..400_u32 {
        let key = &pool[random.usize(..pool.len())];
        match random.u8(..10) {
            0..6 => {
                let value = step.to_string().into_bytes();
                ordered.insert(key, &value).unwrap();
                map.insert(key.clone(), value);
            }
            6 => drop(ordered.remove(key).map(|_| map.remove(key)).unwrap()),
            7 => assert_eq!(ordered.pop_first().unwrap().map(owned), map.pop_first()),
            8 => {
                let mut batch = WriteBatch::new();
                for key in &pool[..5] {
                    batch.remove(key);
                    map.remove(key);
                }
                batch.insert(key, "batch");
                map.insert(key.clone(), b"batch".to_vec());
                ordered.write(&batch).unwrap();
            }
            _ => {
                settle(&store);
                store.flush().unwrap();
                durable = states.len() - 1;
            }
        }
        states.push(map.clone());
        if step % 20 == 0 {
            let found = |disk: &SimDisk| {
                let store = open(disk);
                let ordered = store.ordered_keyspace("ordered").unwrap();
                let map: Map = items(ordered.iter()).into_iter().collect();
                check(&ordered, &map);
                map
            };
            assert!(found(&disk.kill()) == map, "step {step}");
            for seed in 0..4 {
                let cut = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(seed));
                let after = found(&cut);
                assert!(states[durable..].contains(&after), "step {step}, seed {seed}");
            }
        }
    }
}

/// An ordered keyspace that is younger than the checkpoint that an open begins with.
#[test]
fn ordered_keyspace_beside_an_older_checkpoint() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for n in 0..200_u32 {
        store.insert(n.to_le_bytes(), "plain").unwrap();
    }
    assert!(store.take_checkpoint().unwrap());
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let mut map = Map::new();
    for n in 0..200_u32 {
        ordered.insert(n.to_be_bytes(), n.to_string()).unwrap();
        map.insert(n.to_be_bytes().to_vec(), n.to_string().into_bytes());
        store.insert(n.to_le_bytes(), "again").unwrap();
    }
    store.compact().unwrap();
    let check_all = |store: &Store| {
        check(&store.ordered_keyspace("ordered").unwrap(), &map);
        assert_eq!(store.get(7_u32.to_le_bytes()).unwrap().as_deref(), Some(&b"again"[..]));
        assert_eq!(store.len(), 200);
    };
    check_all(&open(&disk.kill()));
    drop(ordered);
    store.close().unwrap();
    check_all(&open(&disk));
    check_all(&options().read_only(true).open_on(&disk).unwrap());
}
