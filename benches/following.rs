//! Measures followers: applying the log, reading, and the time until another process sees a put.

use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant, SystemTime};

use mapcask::{Follower, Options, Store};

use crate::histogram::Histogram;
use crate::rounds::{Measured, Race, Table, median, number};
use crate::{Lab, Result, scratch};

/// The key whose value is the time of its put.
const STAMP: &str = "stamp";
/// The ways of waiting in the other process: the child's argument, the name, the number of puts that
/// are measured, and the nanoseconds between two of them.
const WAITS: [(&str, &str, u64, u64); 2] =
    [("follow", "spinning", 200_000, 10_000), ("follow-asleep", "asleep", 50_000, 100_000)];
/// The number of refreshes without news that one round makes.
const IDLE: usize = 1_000_000;

/// Measures followers of a store with all keys.
pub(crate) fn follow(lab: &Lab) -> Result<Vec<Table>> {
    Ok(vec![apply(lab)?, read(lab)?, idle(lab)?, visible(lab)?])
}

/// Measures a refresh that applies one overwrite of each key, beside the puts themselves.
fn apply(lab: &Lab) -> Result<Table> {
    let (store, directory) = lab.loaded(Options::new())?;
    let follower = Follower::open(directory.path())?;
    let put = |round: usize| -> Result<()> {
        for at in &lab.workload.order {
            store.insert(lab.workload.keys[*at], lab.workload.value(*at, round))?;
        }
        Ok(())
    };
    let mut race = Race::new("Overwrites in random order, and a refresh that applies them");
    let count = lab.keys;
    race.add("put", |round| {
        let began = Instant::now();
        put(round)?;
        let measured = Measured { count: count as u64, elapsed: began.elapsed(), sum: None };
        follower.refresh()?;
        Ok(measured)
    });
    race.add("refresh of a follower", |round| {
        put(round)?;
        let began = Instant::now();
        let refreshed = follower.refresh()?;
        if refreshed.jumped {
            return Err("the follower had to read the store anew".into());
        }
        Ok(Measured { count: refreshed.records, elapsed: began.elapsed(), sum: None })
    });
    race.run(lab.rounds)
}

/// Measures reads of a follower beside those of the store.
fn read(lab: &Lab) -> Result<Table> {
    let (store, directory) = lab.loaded(Options::new())?;
    let follower = Follower::open(directory.path())?;
    let mut race = Race::new("get, in random order");
    let sum = |value: Option<mapcask::Value>| value.map_or(0, |value| u64::from(value[0]));
    race.add("store", |_| {
        Measured::time(lab.keys, || {
            let found = lab.workload.probes.iter().map(|key| Ok(sum(store.get(key)?)));
            found.sum::<Result<u64>>()
        })
    });
    race.add("follower", |_| {
        Measured::time(lab.keys, || {
            let found = lab.workload.probes.iter().map(|key| Ok(sum(follower.get(key)?)));
            found.sum::<Result<u64>>()
        })
    });
    race.run(lab.rounds)
}

/// Measures a refresh without news, and opening a follower of a live store.
fn idle(lab: &Lab) -> Result<Table> {
    let (_store, directory) = lab.loaded(Options::new())?;
    let (mut opened, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..lab.rounds {
        let began = Instant::now();
        let follower = Follower::open(directory.path())?;
        black_box(follower.get(lab.workload.keys[0])?);
        opened.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        for _ in 0..IDLE {
            black_box(follower.refresh()?);
        }
        idle.push(began.elapsed().as_nanos() as f64 / IDLE as f64);
    }
    let headers = &["keys", "open beside a writer, first value (ms)", "refresh without news (ns)"];
    let mut table = Table::new("A follower of a live store", headers);
    table.row([lab.keys.to_string(), number(median(&mut opened)), number(median(&mut idle))]);
    Ok(table)
}

/// Measures the time from before a put to the value in another process.
fn visible(lab: &Lab) -> Result<Table> {
    let headers = &["", "p50 (us)", "p90", "p99", "p99.9"];
    let mut table = Table::new("From before a put to the value in another process", headers);
    for (argument, name, _, spacing) in WAITS {
        let output = delays(lab, argument, spacing)?;
        let mut words = output.split_whitespace().map(str::to_owned);
        let mut word = || words.next().ok_or("the child printed too little");
        table.row([name.to_owned(), word()?, word()?, word()?, word()?]);
    }
    Ok(table.note("A put every 10 us to a reader that refreshes and gets in a loop, and every 100 us to one that sleeps meanwhile. Two cores, of which each process has one if nothing else runs."))
}

/// Puts until a child has seen enough of it. Returns the quantiles of the delay.
fn delays(lab: &Lab, argument: &str, spacing: u64) -> Result<String> {
    let directory = lab.directory()?;
    let store = Store::open(directory.path())?;
    store.insert(STAMP, 0u64.to_le_bytes())?;
    let output = std::thread::scope(|scope| {
        let child =
            scope.spawn(|| scratch::run_child(&[argument], directory.path()).map_err(|e| e.to_string()));
        // The child writes nothing, so it is given puts until it has seen enough of them.
        while !child.is_finished() {
            let begin = now();
            store.insert(STAMP, begin.to_le_bytes())?;
            while now() < begin + spacing {
                spin_loop();
            }
        }
        let output = child.join().map_err(|_| "the child's thread panicked")?;
        Ok::<_, Box<dyn std::error::Error>>(output?)
    })?;
    Ok(output)
}

/// Follows the store that the parent writes to, and prints the quantiles of the delay.
pub(crate) fn child(argument: &str, directory: &str) -> Result<()> {
    let (_, _, stamps, _) = WAITS.iter().find(|(known, ..)| *known == argument).ok_or("no such reader")?;
    let sleeps = argument != "follow";
    let follower = Follower::open(directory)?;
    let mut delays = Histogram::new();
    let (mut last, mut seen) = (0, 0);
    while seen < *stamps {
        if sleeps {
            follower.wait(follower.last_seq(), Duration::from_secs(10))?;
        } else if follower.refresh()?.records == 0 {
            continue;
        }
        let value = follower.get(STAMP)?.ok_or("the stamp is missing")?;
        let stamp = u64::from_le_bytes((*value).try_into()?);
        if stamp != last {
            delays.add(Duration::from_nanos(now().saturating_sub(stamp)));
            (last, seen) = (stamp, seen + 1);
        }
    }
    let quantiles = [0.5, 0.9, 0.99, 0.999].map(|share| number(delays.quantile(share)));
    println!("{}", quantiles.join(" "));
    Ok(())
}

/// Returns the time of a clock that all processes share, in nanoseconds.
fn now() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
