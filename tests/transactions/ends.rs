//! The ends of a transaction: commits and their durability, drops, refusals, limits, power cuts.

use mapcask::sim::{Fault, Operation, Seeded, Tears};
use mapcask::{Durability, MAX_KEY_LEN, MAX_ORDERED_KEY_LEN};

use super::*;

#[test]
fn dropped_transaction_leaves_nothing() {
    let (store, both) = open_both();
    for keyspace in &both {
        keyspace.insert("a", "1").unwrap();
    }
    let last = store.last_seq();
    let mut transaction = store.begin();
    assert_eq!(store.stats().snapshots, 1);
    for keyspace in &both {
        assert!(transaction.contains_key(keyspace, "a").unwrap());
        transaction.insert(keyspace, "b", "2").unwrap();
        transaction.remove(keyspace, "a").unwrap();
        keyspace.replace("a", "2").unwrap();
    }
    assert!(store.stats().snapshot_bytes > 0);
    drop(transaction);
    assert_eq!((store.stats().snapshots, store.stats().snapshot_bytes), (0, 0));
    assert_eq!(store.last_seq().0, last.0 + 2);
    for keyspace in &both {
        assert_eq!(keyspace.len(), 1);
    }
}

#[test]
fn snapshot_of_a_transaction_ends_with_it() {
    let (store, [plain, _]) = open_both();
    let begin = || {
        let mut transaction = store.begin();
        transaction.get(&plain, "a").unwrap();
        transaction.insert(&plain, "a", "1").unwrap();
        transaction
    };
    let (first, second) = (begin(), begin());
    first.commit().unwrap();
    assert_eq!(store.stats().snapshots, 1);
    second.commit().unwrap_err();
    begin().commit().unwrap();
    assert_eq!((store.stats().snapshots, store.stats().snapshot_bytes), (0, 0));
}

#[test]
fn commit_is_one_step_for_readers_and_one_frame() {
    let (store, [plain, ordered]) = open_both();
    let mut transaction = store.begin();
    transaction.insert(&plain, "a", "1").unwrap();
    transaction.insert(&ordered, "b", "2").unwrap();
    transaction.insert(&store, "c", "3").unwrap();
    let before = store.last_seq();
    assert_eq!((plain.len(), ordered.len(), store.len()), (0, 0, 0));
    let seq = transaction.commit().unwrap();
    assert_eq!((seq, seq.0), (store.last_seq(), before.0 + 4));
    assert_eq!((plain.len(), ordered.len(), store.len()), (1, 1, 1));
}

#[test]
fn commit_is_as_durable_as_was_wanted() {
    let disk = SimDisk::new();
    let store = options().durability(Durability::Os).open_on(&disk).unwrap();
    let keyspace = store.keyspace("plain").unwrap();
    let begins: [fn(&Store) -> mapcask::Transaction; 3] = [
        |store| store.begin().with_durability(Durability::Disk),
        |store| store.with_durability(Durability::Disk).begin(),
        |store| store.with_durability(Durability::Disk).begin().with_durability(Durability::Os),
    ];
    for (n, begin) in (0..).zip(begins) {
        store.insert("before", [n]).unwrap();
        let mut transaction = begin(&store);
        transaction.get(&keyspace, [n]).unwrap();
        transaction.insert(&keyspace, [n], "1").unwrap();
        let seq = transaction.commit().unwrap();
        assert!(store.durable_seq() >= seq);
        let cut = disk.crash_at(disk.position(), Tears::None, &mut Seeded::new(1));
        let after = options().open_on(&cut).unwrap();
        assert!(after.keyspace("plain").unwrap().contains_key([n]).unwrap());
    }
    let mut transaction = store.begin();
    transaction.insert(&keyspace, "os", "1").unwrap();
    assert!(transaction.commit().unwrap() > store.durable_seq());
}

#[test]
fn power_cuts_leave_whole_transactions() {
    let disk = SimDisk::new();
    let store = options().durability(Durability::Os).open_on(&disk).unwrap();
    let accounts = store.ordered_keyspace("accounts").unwrap();
    let mut all = mapcask::WriteBatch::new();
    for n in 0..10_u8 {
        all.on(&accounts).insert([n], 100_u64.to_le_bytes());
    }
    store.with_durability(Durability::Disk).write(&all).unwrap();
    let mut random = fastrand::Rng::with_seed(8);
    for step in 0..200 {
        let (from, to) = (random.u8(..10), random.u8(..10));
        let pay = |transaction: &mut mapcask::Transaction| {
            let balance = number(transaction.get(&accounts, [from])?.as_deref());
            let amount = balance.min(7);
            transaction.insert(&accounts, [from], (balance - amount).to_le_bytes())?;
            let balance = number(transaction.get(&accounts, [to])?.as_deref());
            transaction.insert(&accounts, [to], (balance + amount).to_le_bytes())
        };
        store.transact(pay).unwrap();
        if step % 10 == 0 {
            for seed in 0..4 {
                let cut = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(seed));
                let after = options().open_on(&cut).unwrap();
                let values = after.ordered_keyspace("accounts").unwrap();
                let sum: u64 = values.values().map(|value| number(value.unwrap().get(..))).sum();
                assert_eq!(sum, 1000, "step {step}, seed {seed}");
            }
        }
    }
}

#[test]
fn large_transaction_commits_whole_and_sees_one_change() {
    const MANY: u32 = 20_000;
    let store = Options::new().segment_bytes(1 << 20).open_on(&SimDisk::new()).unwrap();
    let plain = store.keyspace("plain").unwrap();
    let ordered = store.ordered_keyspace("ordered").unwrap();
    store
        .transact(|transaction| {
            for n in 0..MANY {
                transaction.insert(&plain, n.to_be_bytes(), n.to_le_bytes())?;
                transaction.insert(&ordered, n.to_be_bytes(), n.to_le_bytes())?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!((plain.len(), ordered.len()), (MANY as usize, MANY as usize));
    for changes in [false, true] {
        let mut transaction = store.begin();
        for n in 0..2 * MANY {
            assert_eq!(transaction.contains_key(&plain, n.to_be_bytes()).unwrap(), n < MANY);
        }
        assert_eq!(transaction.count_range::<&[u8]>(&ordered, ..).unwrap(), u64::from(MANY));
        for n in 0..MANY {
            transaction.insert(&plain, n.to_be_bytes(), "new").unwrap();
            transaction.remove(&ordered, n.to_be_bytes()).unwrap();
        }
        if changes {
            ordered.insert((MANY / 2).to_be_bytes(), "changed").unwrap();
            let key = Some((MANY / 2).to_be_bytes().to_vec());
            assert_eq!(conflict(transaction.commit()), ("ordered".to_owned(), key));
            assert_eq!(ordered.len(), MANY as usize);
        }
    }
}

#[test]
fn bytes_of_the_keys_that_were_read_are_limited() {
    const MOST: usize = 64 << 20;
    let (store, [plain, ordered]) = open_both();
    let key = |len: usize, n: usize| {
        let mut key = vec![0; len];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    };
    let mut transaction = store.begin();
    let mut read = 0;
    while read < 2000 && transaction.get(&plain, key(MAX_KEY_LEN, read)).is_ok() {
        // It is noted once.
        transaction.get(&plain, key(MAX_KEY_LEN, read)).unwrap();
        read += 1;
    }
    assert_eq!(read, MOST.div_ceil(MAX_KEY_LEN));
    assert!(matches!(transaction.get(&plain, key(8, 0)), Err(Error::Limit { .. })));
    // Two ends of each range. The last range is still being read.
    let len = MAX_ORDERED_KEY_LEN;
    let mut transaction = store.begin();
    let mut read = 0;
    while read < 100_000 && transaction.range(&ordered, key(len, read)..key(len, read + 1)).next().is_none() {
        read += 1;
    }
    assert_eq!(read, MOST.div_ceil(2 * len) + 1);
}

#[test]
fn equal_reads_are_noted_once_and_their_number_is_limited() {
    let (store, [plain, ordered]) = open_both();
    for n in 0..10_u32 {
        ordered.insert(n.to_be_bytes(), "1").unwrap();
    }
    let mut transaction = store.begin();
    // Each range from the front lies in the next one.
    for _ in 0..5 {
        let (key, _) = transaction.first_key_value(&ordered).unwrap().unwrap();
        transaction.remove(&ordered, key).unwrap();
    }
    for n in 0..10_000_u32 {
        assert_eq!(transaction.get(&plain, (n % 1000).to_be_bytes()).unwrap(), None);
        assert!(transaction.first_key_value(&ordered).unwrap().is_some());
    }
    // One range is noted, and the last one may become two.
    for n in 0..(1_u32 << 20) - 5 {
        assert_eq!(transaction.get(&plain, n.to_be_bytes()).unwrap(), None);
    }
    transaction.get(&plain, "1").unwrap();
    transaction.get(&plain, "2").unwrap();
    assert!(matches!(transaction.get(&plain, "3"), Err(Error::Limit { .. })));
    assert!(matches!(transaction.last_key_value(&ordered), Err(Error::Limit { .. })));
    // A known one, an own write, and one that is not noted.
    transaction.get(&plain, "1").unwrap();
    transaction.insert(&plain, "3", "own").unwrap();
    assert_eq!(transaction.get(&plain, "3").unwrap().unwrap(), "own");
    assert_eq!(transaction.peek(&plain, "4").unwrap(), None);
    transaction.commit().unwrap();
}

#[test]
fn keyspace_of_another_store_is_refused() {
    let (store, _) = open_both();
    let (_other, [foreign, ordered]) = open_both();
    let mut transaction = store.begin();
    let refused = |result: Result<()>| matches!(result, Err(Error::ForeignKeyspace { .. }));
    assert!(refused(transaction.get(&foreign, "a").map(drop)));
    assert!(refused(transaction.peek(&foreign, "a").map(drop)));
    assert!(refused(transaction.insert(&foreign, "a", "1")));
    assert!(refused(transaction.remove(&foreign, "a")));
    assert!(refused(transaction.range::<&str>(&ordered, ..).next().unwrap().map(drop)));
    transaction.insert(&store, "a", "1").unwrap();
    transaction.commit().unwrap();
}

#[test]
fn dropped_keyspace_is_refused_from_the_next_transaction_on() {
    let (store, [plain, ordered]) = open_both();
    plain.insert("a", "1").unwrap();
    let mut before = store.begin();
    before.insert(&plain, "b", "2").unwrap();
    store.drop_keyspace("plain").unwrap();
    let mut after = store.begin();
    let refused = |result: Result<()>| matches!(result, Err(Error::KeyspaceDropped { .. }));
    assert!(refused(after.get(&plain, "a").map(drop)));
    assert!(refused(after.insert(&plain, "a", "1")));
    assert!(refused(after.range::<&str>(&plain, ..).next().unwrap().map(drop)));
    // The old transaction still reads it, and does not write to it.
    assert_eq!(before.peek(&plain, "a").unwrap().unwrap(), "1");
    assert!(refused(before.insert(&plain, "c", "1")));
    before.insert(&ordered, "d", "1").unwrap();
    assert!(refused(before.commit().map(drop)));
    assert!(ordered.is_empty());
}

#[test]
fn lengths_are_checked_when_a_write_is_noted() {
    let (store, [plain, ordered]) = open_both();
    let mut transaction = store.begin();
    let refused = |result: Result<()>, most: usize| matches!(result, Err(Error::KeyTooLarge { max, .. }) if max == most);
    assert!(refused(transaction.insert(&plain, vec![0; MAX_KEY_LEN + 1], ""), MAX_KEY_LEN));
    let long = vec![0; MAX_ORDERED_KEY_LEN + 1];
    assert!(refused(transaction.insert(&ordered, &long, ""), MAX_ORDERED_KEY_LEN));
    assert!(refused(transaction.remove(&ordered, &long), MAX_ORDERED_KEY_LEN));
    transaction.insert(&plain, &long, "").unwrap();
    assert_eq!(transaction.get(&ordered, &long).unwrap(), None);
    transaction.commit().unwrap();
    assert!(plain.contains_key(&long).unwrap());
}

#[test]
fn full_store_refuses_a_commit_whole() {
    let options = Options::new().background(false).segment_bytes(4096).max_disk_bytes(64 << 10);
    let store = options.open_on(&SimDisk::new()).unwrap();
    let (plain, ordered) = (store.keyspace("plain").unwrap(), store.ordered_keyspace("ordered").unwrap());
    plain.insert("a", "1").unwrap();
    let mut transaction = store.begin();
    assert!(transaction.contains_key(&plain, "a").unwrap());
    for n in 0..100_u8 {
        transaction.insert(&plain, [n], [n; 1000]).unwrap();
        transaction.insert(&ordered, [n], [n; 1000]).unwrap();
    }
    let last = store.last_seq();
    assert!(matches!(transaction.commit(), Err(Error::DiskLimit { .. })));
    assert_eq!((store.last_seq(), plain.len(), ordered.len()), (last, 1, 0));
    store.transact(|transaction| transaction.insert(&ordered, "b", "2")).unwrap();
    assert_eq!(ordered.len(), 1);
}

#[test]
fn failed_sync_of_a_commit_poisons_the_store() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    store.insert("a", "1").unwrap();
    disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, true);
    disk.fail_nth(Some(Operation::Sync), 1, Fault::Io, true);
    let mut first = store.begin().with_durability(Durability::Disk);
    first.insert(&store, "b", "1").unwrap();
    assert!(matches!(first.commit(), Err(Error::Poisoned { .. })));
    let mut second = store.begin();
    assert_eq!(second.get(&store, "a").unwrap().unwrap(), "1");
    second.insert(&store, "c", "1").unwrap();
    assert!(matches!(second.commit(), Err(Error::Poisoned { .. })));
    let refused: Result<()> = store.transact(|transaction| transaction.insert(&store, "c", "1"));
    assert!(matches!(refused, Err(Error::Poisoned { .. })));
    assert!(store.transact(|transaction| transaction.get(&store, "a")).unwrap().is_some());
}

#[test]
fn transaction_keeps_the_store_open_and_reads_after_a_close() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    let keyspace = store.keyspace("plain").unwrap();
    keyspace.insert("a", "1").unwrap();
    let mut transaction = store.begin();
    drop(store);
    let found = transaction.get(&keyspace, "a").unwrap();
    transaction.insert(&keyspace, "b", "2").unwrap();
    drop(keyspace);
    transaction.commit().unwrap();
    assert_eq!(found.unwrap(), "1", "values outlive all");
    let store = options().open_on(&disk).unwrap();
    let keyspace = store.open_keyspace("plain").unwrap();
    assert_eq!(keyspace.len(), 2);
    let (mut reading, mut writing) = (store.begin(), store.begin());
    writing.insert(&keyspace, "c", "3").unwrap();
    store.close().unwrap();
    assert_eq!(reading.get(&keyspace, "b").unwrap().unwrap(), "2");
    reading.commit().unwrap();
    assert!(matches!(writing.commit(), Err(Error::Closed)));
}

#[test]
fn transaction_may_go_to_another_thread() {
    let (store, [plain, _]) = open_both();
    let mut transaction = store.begin();
    transaction.insert(&plain, "a", "1").unwrap();
    std::thread::scope(|scope| scope.spawn(|| transaction.commit()).join().unwrap()).unwrap();
    assert!(plain.contains_key("a").unwrap());
}

#[test]
fn panic_in_the_body_leaves_nothing() {
    let (store, [plain, _]) = open_both();
    let last = store.last_seq();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.transact(|transaction| {
            transaction.insert(&plain, "a", "1")?;
            assert!(transaction.get(&plain, "a")?.is_none(), "this is the panic");
            Ok::<_, Error>(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!((store.last_seq(), store.stats().snapshots, plain.len()), (last, 0, 0));
    plain.insert("a", "1").unwrap();
}

#[test]
fn transact_gives_up_after_a_thousand_conflicts() {
    let store = open();
    let mut runs = 0_u32;
    let result = store.transact(|transaction| {
        runs += 1;
        transaction.get(&store, "a")?;
        // A write that the transaction does not know of.
        store.insert("a", runs.to_le_bytes())?;
        transaction.insert(&store, "b", "1")
    });
    assert!(matches!(result, Err(Error::Conflict { .. })));
    assert_eq!((runs, store.get("b").unwrap()), (1000, None));
}

#[test]
fn commit_is_as_durable_as_the_keyspaces_that_it_writes() {
    let store = options().durability(Durability::Os).open_on(&SimDisk::new()).unwrap();
    let strict = store.keyspace("strict").unwrap().with_durability(Durability::Disk);
    let mut transaction = store.begin();
    transaction.insert(&store, "a", "1").unwrap();
    transaction.insert(&strict, "a", "1").unwrap();
    let seq = transaction.commit().unwrap();
    assert!(store.durable_seq() >= seq);
}
