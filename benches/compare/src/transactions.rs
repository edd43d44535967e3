//! The row about transactions: reads that are followed by writes of the same keys.

use crate::engine::{Survives, TransactionEngine, transaction_contenders};
use crate::ordered_mix::in_threads;
use crate::rounds::{Measured, Race, Table};
use crate::workload::{Key, key, whole};
use crate::{Lab, Result};

/// The part of the keys that makes the transactions of a round is one in this many.
const SHARE: usize = 40;
/// The number of accounts that money is moved between.
const ACCOUNTS: u64 = 100;

/// Measures transactions on keys of their own, on one key, and between two keys of a few.
pub(crate) fn transactions(lab: &Lab) -> Result<Vec<Table>> {
    let mut loaded = Vec::new();
    for contender in transaction_contenders().into_iter().filter(|contender| lab.has(contender.name)) {
        let directory = lab.directory()?;
        let engine = contender.open(directory.path(), Survives::Kill)?;
        lab.in_batches(&lab.workload.keys, |items| engine.fill(items))?;
        loaded.push((contender.name, engine, directory));
    }
    let everything = lab.keys as u64;
    let cases = [
        ("transaction: read and write one of all keys", 1, everything, 1),
        ("transaction: read and write one of all keys", 2, everything, 1),
        ("transaction: add to one counter", 2, 1, 1),
        ("transaction: move between two of 100 accounts", 2, ACCOUNTS, 2),
    ];
    let mut tables = Vec::new();
    for (text, threads, keys, touched) in cases {
        let mut race = Race::new(format!("{text}, threads: {threads}"));
        for (name, engine, _) in &loaded {
            race.add(*name, move |round| {
                let each = lab.keys / SHARE / threads;
                let draw = |thread| draw(keys, touched, each, (round * threads + thread) as u64);
                let drawn: Vec<_> = (0..threads).map(draw).collect();
                run(engine.as_ref(), &drawn)
            });
        }
        tables.push(race.run(lab.rounds)?);
    }
    Ok(tables)
}

/// Draws the keys of transactions: one, or two that differ, of the first `keys`.
fn draw(keys: u64, touched: usize, count: usize, seed: u64) -> Vec<Vec<Key>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut draw = |_| {
        let first = random.u64(..keys);
        let step = if touched == 2 { random.u64(1..keys) } else { 0 };
        [first, (first + step) % keys].iter().take(touched).map(|number| key(*number)).collect()
    };
    (0..count).map(&mut draw).collect()
}

/// Runs the transactions of each thread. The sum is over the values of their keys afterwards: they do
/// not depend on the order of the transactions.
fn run(engine: &dyn TransactionEngine, drawn: &[Vec<Vec<Key>>]) -> Result<Measured> {
    let (elapsed, _) = in_threads(drawn.len(), |thread| {
        for keys in &drawn[thread] {
            engine.transact(keys, &move_one)?;
        }
        Ok(())
    })?;
    let (mut sum, mut count) = (0_u64, 0);
    for keys in drawn.iter().flatten() {
        count += 1;
        for key in keys {
            let touch = &mut |value: &[u8]| sum = sum.wrapping_mul(3).wrapping_add(whole(value));
            if !engine.read_one(key, touch)? {
                return Err("a key is missing".into());
            }
        }
    }
    Ok(Measured { count, elapsed, sum: Some(sum) })
}

/// Adds one to the number that the first value begins with, and takes it from the second one, if any.
fn move_one(values: &mut [Vec<u8>]) {
    for (value, step) in values.iter_mut().zip([1, u64::MAX]) {
        if let Some(head) = value.first_chunk_mut() {
            *head = u64::from_le_bytes(*head).wrapping_add(step).to_le_bytes();
        }
    }
}
