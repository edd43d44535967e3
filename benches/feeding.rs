//! Measures the change feed, and puts beside other processes that sleep.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mapcask::{ChangeKind, Changes, Follower, Options, Seq, Since, Store, WriteBatch};

use crate::rounds::{Measured, Race, Table};
use crate::scratch::Peer;
use crate::{Lab, Result};

/// The writes in one batch.
const BATCH: usize = 1000;
/// The key and the value of a small event have so many bytes each.
const SMALL: usize = 8;
/// The key whose insertion ends a consumer in another process.
const END: &[u8] = b"end";
/// A time that no wait reaches.
const LONG: Duration = Duration::from_secs(3600);

/// Measures the feed: all that is kept, and what comes, in this process and in another one.
pub(crate) fn feed(lab: &Lab) -> Result<Vec<Table>> {
    Ok(vec![kept(lab)?, live(lab)?])
}

/// Measures puts while another process sleeps.
pub(crate) fn put_watched(lab: &Lab) -> Result<Vec<Table>> {
    let (store, directory) = lab.loaded(Options::new())?;
    let put = |round: usize| {
        Measured::time(lab.keys, || {
            for at in &lab.workload.order {
                store.insert(lab.workload.keys[*at], lab.workload.value(*at, round))?;
            }
            Ok(0)
        })
    };
    let mut race = Race::new("Overwrites in random order, beside another process that sleeps");
    race.add("alone", put);
    let sleepers = [
        ("it waits until a number is durable", "sleep-durable"),
        ("it waits for each record", "sleep-records"),
    ];
    for (label, way) in sleepers {
        let directory = directory.path();
        race.add(label, move |round| {
            let sleeper = Peer::start(&[way], directory)?;
            let measured = put(round);
            sleeper.kill()?;
            measured
        });
    }
    Ok(vec![race.run(lab.rounds)?])
}

fn small(number: usize) -> [u8; SMALL] {
    (number as u64).to_le_bytes()
}

/// Returns the options of a store that keeps every change.
fn keeping() -> Options {
    Options::new().keep_changes(u64::MAX)
}

/// Inserts small records in batches.
fn insert_small(store: &Store, count: usize) -> Result<()> {
    for from in (0..count).step_by(BATCH) {
        let mut batch = WriteBatch::new();
        for number in from..(from + BATCH).min(count) {
            batch.insert(small(number), small(number));
        }
        store.write(batch)?;
    }
    Ok(())
}

/// Reads a feed until there is nothing new. Returns the number of insertions.
fn read_all(changes: &mut Changes) -> Result<u64> {
    let mut count = 0;
    while let Some(change) = changes.next()? {
        if let ChangeKind::Insert { key, value } = change.kind {
            count += u64::from(black_box(key[0] ^ value[0]) < u8::MAX) | 1;
        }
    }
    Ok(count)
}

/// Measures reading everything that is kept.
fn kept(lab: &Lab) -> Result<Table> {
    let directory = lab.directory()?;
    let store = keeping().open(directory.path())?;
    insert_small(&store, lab.keys)?;
    let (large, _directory) = lab.loaded(keeping())?;
    let read = |mut changes: Changes| {
        let began = Instant::now();
        let count = read_all(&mut changes)?;
        Ok(Measured { count, elapsed: began.elapsed(), sum: Some(count) })
    };
    let mut race = Race::new("All changes that a store keeps, from the first one").unit("million/s", 1e6);
    race.add("8-byte keys and values, by the store", |_| read(store.changes(Since::Oldest)?));
    race.add("8-byte keys and values, by a feed of its own", |_| {
        read(Changes::open(directory.path(), Since::Oldest)?)
    });
    race.add("16-byte keys, 100-byte values, by the store", |_| read(large.changes(Since::Oldest)?));
    race.run(lab.rounds)
}

/// Measures writing in batches, alone and to a consumer in another process, to the time at which it
/// has read the last change.
fn live(lab: &Lab) -> Result<Table> {
    let mut race = Race::new("Small records in batches of 1000, and a consumer in another process")
        .unit("million/s", 1e6);
    let count = lab.keys;
    let alone = |_| {
        let directory = lab.directory()?;
        let store = keeping().open(directory.path())?;
        let began = Instant::now();
        insert_small(&store, count)?;
        Ok(Measured { count: count as u64, elapsed: began.elapsed(), sum: None })
    };
    race.add("written, without a consumer", alone);
    race.add("written and read", |_| {
        let directory = lab.directory()?;
        let store = keeping().open(directory.path())?;
        let mut consumer = Peer::start(&["consume"], directory.path())?;
        let began = Instant::now();
        insert_small(&store, count)?;
        store.insert(END, [])?;
        let read: usize = consumer.line()?.parse()?;
        if read != count + 1 {
            return Err(format!("the consumer read {read} changes of {count}").into());
        }
        Ok(Measured { count: count as u64, elapsed: began.elapsed(), sum: None })
    });
    race.run(lab.rounds)
}

/// Runs a child: sleeps beside the writer of a store, or consumes its changes up to the last one.
pub(crate) fn child(way: &str, directory: &str) -> Result<()> {
    if way == "consume" {
        return consume(directory);
    }
    let follower = Follower::open(directory)?;
    println!("ready");
    loop {
        match way {
            "sleep-durable" => drop(follower.wait_durable(Seq::MAX, LONG)?),
            _ => drop(follower.wait(follower.last_seq(), LONG)?),
        }
    }
}

/// Reads the changes of a store up to the last one, and prints their number.
fn consume(directory: &str) -> Result<()> {
    let mut changes = Changes::open(directory, Since::Oldest)?;
    println!("ready");
    let mut count = 0u64;
    while let Some(change) = changes.next_within(LONG)? {
        let ChangeKind::Insert { key, value } = change.kind else { continue };
        black_box(value);
        count += 1;
        if key == END {
            break;
        }
    }
    println!("{count}");
    Ok(())
}
