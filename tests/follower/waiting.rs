//! Waiting, tickets and the automatic refresh, beside a writer in the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Error, Follower, Seq, Wait, WriterStatus};

use super::{assert_same, follow, open, options};

/// The time after which a wait that should have ended has failed.
const PATIENCE: Duration = Duration::from_secs(60);

const WAYS: [Wait; 3] = [Wait::Sleep, Wait::Spin, Wait::Poll(Duration::from_micros(50))];

/// Yields until a condition holds, or fails.
fn until(name: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{name}");
        thread::yield_now();
    }
}

#[test]
fn wait_ends_with_the_next_record_and_shows_it() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    for (n, way) in WAYS.into_iter().cycle().take(30).enumerate() {
        let after = follower.last_seq();
        let waiting = follower.clone();
        let waiter = thread::spawn(move || waiting.wait_with(after, way, PATIENCE).unwrap());
        let seq = store.insert(n.to_le_bytes(), "value").unwrap();
        assert!(waiter.join().unwrap(), "{way:?}");
        assert_eq!(follower.last_seq(), seq);
        assert!(follower.contains_key(n.to_le_bytes()).unwrap());
        // A record that is shown needs no wait.
        assert!(follower.wait_with(after, way, Duration::ZERO).unwrap());
    }
    assert_same(&follower, &store);
}

#[test]
fn wait_without_a_write_ends_with_its_time() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    for way in WAYS {
        for timeout in [Duration::ZERO, Duration::from_millis(3)] {
            assert!(!follower.wait_with(follower.last_seq(), way, timeout).unwrap(), "{way:?} {timeout:?}");
        }
    }
    store.close().unwrap();
    assert!(!follower.wait(follower.last_seq(), Duration::from_millis(3)).unwrap(), "nothing is written");
    assert_eq!(follower.writer_status().unwrap(), WriterStatus::Closed);
}

#[test]
fn many_waiters_of_one_follower_are_all_woken() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    for round in 0..20_u32 {
        let after = follower.last_seq();
        thread::scope(|scope| {
            for way in WAYS.into_iter().cycle().take(9) {
                let follower = &follower;
                scope.spawn(move || assert!(follower.wait_with(after, way, PATIENCE).unwrap()));
            }
            store.insert(round.to_le_bytes(), "value").unwrap();
        });
    }
    assert_same(&follower, &store);
}

#[test]
fn wait_works_without_the_pages_of_a_writer() {
    for gone in [vec!["WAITERS"], vec!["CONTROL"], vec!["CONTROL", "WAITERS"]] {
        let disk = SimDisk::new();
        open(&disk).close().unwrap();
        for name in &gone {
            disk.remove_file(name).unwrap();
        }
        let follower = follow(&disk);
        assert!(!follower.wait(follower.last_seq(), Duration::from_millis(2)).unwrap(), "{gone:?}");
        let store = open(&disk);
        let after = follower.last_seq();
        let waiting = follower.clone();
        let waiter = thread::spawn(move || waiting.wait(after, PATIENCE).unwrap());
        store.insert("a", "1").unwrap();
        assert!(waiter.join().unwrap(), "{gone:?}");
        assert_same(&follower, &store);
    }
}

#[test]
fn waiter_learns_that_the_store_is_gone() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    store.close().unwrap();
    mapcask::destroy_on(&disk).unwrap();
    let error = follower.wait(follower.last_seq(), PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Replaced { .. }), "{error:?}");
}

#[test]
fn ticket_is_kept_once_the_writer_has_synced() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    let seq = store.insert("a", "1").unwrap();
    assert!(!follower.wait_durable(seq, Duration::ZERO).unwrap());
    store.flush().unwrap();
    assert!(follower.wait_durable(seq, Duration::ZERO).unwrap());
    assert!(!follower.wait_durable(Seq(seq.0 + 100), Duration::from_millis(2)).unwrap(), "no record");
}

#[test]
fn ticket_makes_the_writer_sync() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    for round in 0..10_u32 {
        store.insert(round.to_le_bytes(), "value").unwrap();
        follower.refresh().unwrap();
        // Every second time the number is that of a record of the log's own.
        let seq = follower.last_seq();
        let waiting = follower.clone();
        let waiter = thread::spawn(move || waiting.wait_durable(seq, PATIENCE).unwrap());
        until("the writer syncs", || {
            store.step().unwrap();
            waiter.is_finished()
        });
        assert!(waiter.join().unwrap());
        assert!(follower.durable_seq().unwrap() >= seq && store.durable_seq() >= Seq(seq.0 - 1));
        follower.refresh().unwrap();
    }
}

#[test]
fn ticket_of_a_failed_writer_is_an_error() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    let kept = store.insert("a", "1").unwrap();
    store.flush().unwrap();
    let lost = store.insert("a", "2").unwrap();
    // The waiter's request may make the worker sync at once.
    disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
    let waiting = follower.clone();
    let waiter = thread::spawn(move || waiting.wait_durable(lost, PATIENCE));
    store.flush().unwrap_err();
    let error = waiter.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::WriterFailed { .. }), "{error:?}");
    assert_eq!(follower.writer_status().unwrap(), WriterStatus::Failed);
    assert!(follower.wait_durable(kept, Duration::ZERO).unwrap(), "it was durable before");
    store.close().unwrap_err();
    assert_eq!(follower.writer_status().unwrap(), WriterStatus::Failed);
    // The next writer makes durable what is left of it.
    let store = open(&disk);
    store.insert("b", "3").unwrap();
    store.flush().unwrap();
    assert_eq!(follower.writer_status().unwrap(), WriterStatus::Open);
    assert!(follower.wait_durable(kept, Duration::ZERO).unwrap());
}

#[test]
fn automatic_refresh_shows_each_write_and_ends_when_dropped() {
    for way in WAYS {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        let follower = follow(&disk);
        let refreshing = follower.auto_refresh(way).unwrap();
        for n in 0..200_u32 {
            store.insert((n % 7).to_le_bytes(), n.to_le_bytes()).unwrap();
            let shows =
                || follower.get((n % 7).to_le_bytes()).unwrap().as_deref() == Some(&n.to_le_bytes()[..]);
            until("the write is shown", shows);
            if n % 50 == 49 {
                store.compact().unwrap();
                store.close().unwrap();
                store = open(&disk);
            }
        }
        assert_eq!(refreshing.error().map(|error| error.to_string()), None, "{way:?}");
        drop(refreshing);
        let after = follower.last_seq();
        store.insert("late", "1").unwrap();
        assert_eq!(follower.last_seq(), after, "no thread refreshes it any more");
        assert_same(&follower, &store);
    }
}

#[test]
fn automatic_refresh_tells_its_error_and_goes_on_after_it() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    let refreshing = follower.auto_refresh(Wait::Sleep).unwrap();
    store.close().unwrap();
    mapcask::destroy_on(&disk).unwrap();
    until("the error is told", || matches!(refreshing.error(), Some(Error::Replaced { .. })));
    assert_eq!(follower.get("a").unwrap().as_deref(), Some(b"1".as_slice()));
}

#[test]
fn automatic_refreshes_start_and_end_many_times() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    let follower = follow(&disk);
    for n in 0..100_u32 {
        let guards = WAYS.map(|way| follower.auto_refresh(way).unwrap());
        if n % 2 == 0 {
            store.insert(n.to_le_bytes(), "value").unwrap();
        }
        drop(guards);
    }
    assert_same(&follower, &store);
}

/// A reader beside the automatic refresh never sees a part of a batch, in one call.
#[test]
fn automatic_refresh_never_shows_a_part_of_a_batch() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let accounts = store.keyspace("accounts").unwrap();
    let transfer = |from: u64, to: u64, balances: &mut [u64; 4]| {
        let mut batch = mapcask::WriteBatch::new();
        let amount = balances[usize::try_from(from).unwrap()] / 2;
        balances[usize::try_from(from).unwrap()] -= amount;
        balances[usize::try_from(to).unwrap()] += amount;
        for account in [from, to] {
            let balance = balances[usize::try_from(account).unwrap()];
            batch.on(&accounts).insert(account.to_le_bytes(), balance.to_le_bytes());
        }
        store.write(&batch).unwrap();
    };
    let mut balances = [1000, 0, 0, 0];
    for account in 1..4 {
        transfer(0, account, &mut balances);
    }
    let follower: Follower = follow(&disk);
    let reader = follower.keyspace("accounts").unwrap();
    let refreshing = follower.auto_refresh(Wait::Spin).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let keys = [0_u64, 1, 2, 3].map(u64::to_le_bytes);
            let mut looks = 0_u32;
            while !ended.load(Ordering::Relaxed) || looks == 0 {
                let values = reader.multi_get(&keys).unwrap();
                let sum: u64 = values
                    .iter()
                    .map(|value| u64::from_le_bytes(value.as_deref().unwrap().try_into().unwrap()))
                    .sum();
                assert_eq!(sum, 1000);
                looks += 1;
            }
        });
        for n in 0..2000_u64 {
            transfer(n % 4, (n + 1 + n / 7 % 3) % 4, &mut balances);
        }
        ended.store(true, Ordering::Relaxed);
    });
    drop(refreshing);
    assert_same(&follower, &store);
}
