//! A bank whose process is killed in the middle of transfers: no money is made or lost, and no
//! acknowledged transfer is missing.
//!
//! `MAPCASK_TRANSACTION_KILLS` sets the number of kills.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use mapcask::Transaction;

use super::*;

/// The name of the test that is the killed process.
const TEST: &str = "kills::process_transfers_until_it_dies";
const FOLDER: &str = "MAPCASK_TRANSACTION_FOLDER";
const THREADS: u64 = 3;
const ACCOUNTS: u64 = 40;
const MONEY: u64 = 1000;

fn open_bank(folder: &Path) -> (Store, [Keyspace; 2]) {
    let store = Options::new().segment_bytes(64 << 10).open(folder.join("store")).unwrap();
    let both = [store.keyspace("plain").unwrap(), store.ordered_keyspace("ordered").unwrap()];
    (store, both)
}

fn found(folder: &Path) -> File {
    let path = folder.join("acknowledged");
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Returns the number of acknowledged transfers of a thread.
fn acknowledged(file: &File, thread: u64) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 8 * thread).map_or(0, |()| u64::from_le_bytes(word))
}

/// Moves money between two accounts, and counts the transfer. The ordered accounts are found by a range.
fn transfer(
    transaction: &mut Transaction,
    [plain, ordered]: &[Keyspace; 2],
    thread: u64,
    (from, to): (u64, u64),
) -> Result<()> {
    let balance = number(transaction.get(plain, from.to_be_bytes())?.as_deref());
    let amount = balance.min(3);
    transaction.insert(plain, from.to_be_bytes(), (balance - amount).to_le_bytes())?;
    let next = transaction.range(ordered, to.to_be_bytes()..).next().transpose()?;
    let (key, value) = next.expect("there is one account more than numbers are drawn");
    transaction.insert(ordered, &key, (number(Some(&value)) + amount).to_le_bytes())?;
    // Back again, so that no side runs dry.
    let back = number(transaction.get(ordered, from.to_be_bytes())?.as_deref());
    let amount = back.min(3);
    transaction.insert(ordered, from.to_be_bytes(), (back - amount).to_le_bytes())?;
    let balance = number(transaction.get(plain, to.to_be_bytes())?.as_deref());
    transaction.insert(plain, to.to_be_bytes(), (balance + amount).to_le_bytes())?;
    let count = format!("transfers of {thread}");
    let done = number(transaction.get(plain, &count)?.as_deref());
    transaction.insert(plain, &count, (done + 1).to_le_bytes())
}

#[test]
fn process_transfers_until_it_dies() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (store, both) = open_bank(&folder);
    let file = found(&folder);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, both, file) = (&store, &both, &file);
            scope.spawn(move || {
                let mut random = fastrand::Rng::new();
                loop {
                    let accounts = (random.u64(..ACCOUNTS), random.u64(..ACCOUNTS));
                    store.transact(|transaction| transfer(transaction, both, thread, accounts)).unwrap();
                    let done = number(both[0].get(format!("transfers of {thread}")).unwrap().as_deref());
                    file.write_all_at(&done.to_le_bytes(), 8 * thread).unwrap();
                }
            });
        }
    });
}

/// Returns the money of the bank, and checks the counts of transfers.
fn check(folder: &Path, place: &str) -> u64 {
    let (store, both) = open_bank(folder);
    let file = found(folder);
    for thread in 0..THREADS {
        let done = number(both[0].get(format!("transfers of {thread}")).unwrap().as_deref());
        let known = acknowledged(&file, thread);
        assert!(done == known || done == known + 1, "{place}: thread {thread} made {done}, and told {known}");
    }
    store.verify().unwrap();
    let mut sum = 0;
    for keyspace in &both {
        let accounts = (0..ACCOUNTS).chain([ACCOUNTS]);
        sum += accounts.map(|n| number(keyspace.get(n.to_be_bytes()).unwrap().as_deref())).sum::<u64>();
    }
    sum
}

#[test]
fn killed_bank_neither_makes_nor_loses_money() {
    let kills = std::env::var("MAPCASK_TRANSACTION_KILLS").map_or(8, |text| text.parse().unwrap());
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (store, both) = open_bank(directory.path());
    for keyspace in &both {
        for n in 0..=ACCOUNTS {
            keyspace.insert(n.to_be_bytes(), MONEY.to_le_bytes()).unwrap();
        }
    }
    drop(both);
    store.close().unwrap();
    let file = found(directory.path());
    let all = || (0..THREADS).map(|thread| acknowledged(&file, thread)).sum::<u64>();
    let mut random = fastrand::Rng::new();
    for kill in 1..=kills {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
        let mut process = command.env(FOLDER, directory.path()).stdout(Stdio::null()).spawn().unwrap();
        let wanted = all() + random.u64(1..3000);
        while all() < wanted {
            assert!(process.try_wait().unwrap().is_none(), "the process ended by itself");
            thread::yield_now();
        }
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        let place = format!("kill {kill}, after {} transfers", all());
        assert_eq!(check(directory.path(), &place), 2 * (ACCOUNTS + 1) * MONEY, "{place}");
    }
    println!("{kills} kills, {} transfers", all());
}
