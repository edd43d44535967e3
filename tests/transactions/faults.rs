//! Faults of the disk at every operation of a few transactions.

use mapcask::Durability;
use mapcask::sim::Fault;

use super::*;

const ACCOUNTS: u64 = 6;
const MONEY: u64 = 100;

/// Makes values of several hundred bytes, so that segments fill up.
fn account(balance: u64) -> Vec<u8> {
    balance.to_le_bytes().repeat(60)
}

fn balance(value: Option<TxValue>) -> u64 {
    number(value.as_deref().map(|value| &value[..8]))
}

/// Returns the money of all accounts, and the number of finished transfers.
fn read(store: &Store) -> (u64, u64) {
    let plain = store.keyspace("plain").unwrap();
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let items = plain.iter().chain(ordered.iter()).map(|item| item.unwrap());
    let sum = items.map(|(_, value)| number(value.get(..8))).sum();
    (sum, number(store.get("transfers").unwrap().as_deref()))
}

/// Runs transfers until one fails. Returns the number of those that have returned.
fn transfers(store: &Store, durability: Durability) -> (u64, Result<()>) {
    let plain = store.keyspace("plain").unwrap();
    let ordered = store.ordered_keyspace("ordered").unwrap();
    for n in 0..30_u64 {
        let key = |n: u64| u64::to_be_bytes(n % ACCOUNTS);
        let pay = || {
            let mut transaction = store.begin().with_durability(durability);
            let from = balance(transaction.get(&plain, key(n * 5))?);
            let (to_key, to) = transaction.range(&ordered, key(n * 7)..).next().transpose()?.unwrap();
            transaction.insert(&plain, key(n * 5), account(from - 1))?;
            transaction.insert(&ordered, &to_key, account(balance(Some(to)) + 1))?;
            let count = number(transaction.get(store, "transfers")?.as_deref());
            transaction.insert(store, "transfers", (count + 1).to_le_bytes())?;
            transaction.commit()
        };
        if let Err(error) = pay() {
            return (n, Err(error));
        }
        if let Err(error) = store.step() {
            return (n + 1, Err(error));
        }
    }
    (30, Ok(()))
}

#[test]
fn transactions_are_whole_at_every_fault_of_the_disk() {
    let whole = 2 * ACCOUNTS * MONEY;
    for (durability, fault, sticky) in [
        (Durability::Os, Fault::Io, false),
        (Durability::Os, Fault::NoSpace, true),
        (Durability::Disk, Fault::Io, false),
        (Durability::Disk, Fault::NoSpace, false),
    ] {
        let mut failed = 0;
        for nth in 1.. {
            let disk = SimDisk::new();
            let store = Options::new().segment_bytes(4096).background(false).open_on(&disk).unwrap();
            for keyspace in [store.keyspace("plain").unwrap(), store.ordered_keyspace("ordered").unwrap()] {
                for n in 0..ACCOUNTS {
                    keyspace.insert(n.to_be_bytes(), account(MONEY)).unwrap();
                }
            }
            store.flush().unwrap();
            disk.fail_nth(None, nth, fault, sticky);
            let (done, result) = transfers(&store, durability);
            let has_fired = disk.faults_fired() > 0;
            disk.clear_faults();
            let place = format!("{durability:?}, {fault:?}, operation {nth}: {result:?}");
            // The one whose sync failed may have happened.
            let is_right = |(sum, count): (u64, u64)| sum == whole && (count == done || count == done + 1);
            assert!(is_right(read(&store)), "{place}");
            assert!(is_right(read(&options().open_on(&disk.kill()).unwrap())), "{place}");
            failed += u64::from(result.is_err());
            if !has_fired {
                break;
            }
        }
        assert!(failed > 3, "{durability:?}, {fault:?}: {failed}");
    }
}
