//! Transactions in a store whose indexes are not whole yet: after a kill with hints, from a checkpoint,
//! and from a damaged one.

use super::*;

const COUNT: u32 = 2000;

fn value(n: u32) -> Vec<u8> {
    [n.to_le_bytes(); 25].concat()
}

/// Fills a store without order, with hints for an open after a kill.
fn filled() -> (SimDisk, Store) {
    let disk = SimDisk::new();
    disk.set_hint_chunk(Some(16 << 10));
    let store = Options::new().background(false).open_on(&disk).unwrap();
    for n in 0..COUNT {
        store.insert(n.to_be_bytes(), value(n)).unwrap();
        if n % 64 == 0 {
            while store.step().unwrap() {}
        }
    }
    while store.step().unwrap() {}
    (disk, store)
}

/// Reads and writes keys all over the store, in transactions that commit and in ones that do not.
fn check(store: &Store) {
    // Its writes are to keys that nothing has looked up.
    store
        .transact(|transaction| {
            for n in (0..COUNT).step_by(7) {
                transaction.insert(store, n.to_be_bytes(), "blind")?;
            }
            transaction.remove(store, 1_u32.to_be_bytes())
        })
        .unwrap();
    let mut reading = store.begin();
    let mut losing = store.begin();
    for n in (0..COUNT + 100).filter(|n| n % 5 == 0 || n % 7 == 0) {
        let expected = if n >= COUNT { None } else { Some(value(n)) };
        let expected = if n % 7 == 0 && n < COUNT { Some(b"blind".to_vec()) } else { expected };
        for transaction in [&mut reading, &mut losing] {
            let found = transaction.get(store, n.to_be_bytes()).unwrap();
            assert_eq!(found.as_deref(), expected.as_deref(), "{n}");
            transaction.insert(store, "sum", n.to_be_bytes()).unwrap();
        }
    }
    store.insert(3_u32.to_be_bytes(), "not read").unwrap();
    reading.commit().unwrap();
    store.insert(10_u32.to_be_bytes(), "read").unwrap();
    let key = 10_u32.to_be_bytes().to_vec();
    assert_eq!(conflict(losing.commit()), (String::new(), Some(key)));
    // One key less, and the sum.
    assert_eq!((store.len(), store.iter().count()), (COUNT as usize, COUNT as usize));
    store.verify().unwrap();
}

#[test]
fn transactions_work_while_parts_of_the_index_wait() {
    let (disk, store) = filled();
    let killed = disk.kill();
    drop(store);
    let store = Options::new().background(false).open_on(&killed).unwrap();
    assert!(store.index_parts().0 > 0, "parts wait");
    check(&store);
}

#[test]
fn transactions_work_on_an_index_from_a_checkpoint() {
    let (disk, store) = filled();
    assert!(store.take_checkpoint().unwrap());
    store.close().unwrap();
    let store = Options::new().background(false).open_on(&disk).unwrap();
    assert!(store.recovery_report().checkpoint_seq.is_some());
    check(&store);
}

#[test]
fn transactions_mend_a_damaged_checkpoint() {
    let (disk, store) = filled();
    assert!(store.take_checkpoint().unwrap());
    store.close().unwrap();
    let image = disk.files().into_iter().find(|name| name.starts_with("INDEX")).unwrap();
    let bytes = disk.read_file(&image).unwrap();
    let front = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    for frame in 0..63 {
        disk.rot_bit(&image, front + frame * 4100 + 99, 3).unwrap();
    }
    let store = Options::new().background(false).open_on(&disk).unwrap();
    assert!(store.recovery_report().checkpoint_seq.is_some(), "only its blocks are damaged");
    check(&store);
    assert_eq!(store.stats().index_rebuilds, 1);
}
