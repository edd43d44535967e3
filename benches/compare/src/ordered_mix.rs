//! The rows about several kinds of operations on ordered keys: the mix E, and gets beside a writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::OrderedEngine;
use crate::mix::{ScanOperation, draw_scans};
use crate::ordered::sum_of_all;
use crate::rounds::{Measured, Race, Table};
use crate::workload::{key, value, value_pool, whole};
use crate::{Lab, Result};

/// The part of the keys that makes the operations of the mix is one in this many.
const MIX_SHARE: usize = 40;
/// The part of the keys that is read beside a writer is one in this many.
const READ_SHARE: usize = 4;

/// Measures the mix that scans, by the number of threads, and gets beside a thread that overwrites.
pub(crate) fn mix(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.filled_trees(&lab.workload.keys)?;
    let mut tables = Vec::new();
    for threads in &lab.threads {
        let text = "95 % ranges of up to 100 keys, 5 % new keys";
        let mut race = Race::new(format!("ordered YCSB E: {text}, threads: {threads}"));
        for tree in &loaded {
            race.add(tree.name, |round| run_scans(lab, tree.engine.as_ref(), *threads, round));
        }
        tables.push(race.run(lab.rounds)?);
    }
    let mut race = Race::new("ordered get beside a thread that overwrites");
    for tree in &loaded {
        race.add(tree.name, |round| read_beside(lab, tree.engine.as_ref(), round));
    }
    tables.push(race.run(lab.rounds)?);
    Ok(tables)
}

/// Runs `work` with the number of each thread, and returns the time and the results.
pub(crate) fn in_threads<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<(Duration, Vec<T>)> {
    let began = Instant::now();
    let results: Vec<_> = thread::scope(|scope| {
        let mut running = Vec::new();
        for thread in 0..threads {
            let work = &work;
            running.push(scope.spawn(move || work(thread).map_err(|error| error.to_string())));
        }
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let elapsed = began.elapsed();
    let mut found = Vec::new();
    for result in results {
        found.push(result.map_err(|_| "a thread panicked")??);
    }
    Ok((elapsed, found))
}

fn run_scans(lab: &Lab, engine: &dyn OrderedEngine, threads: usize, round: usize) -> Result<Measured> {
    let each = lab.keys / MIX_SHARE / threads;
    // Each contender gets the same operations in a round. No two rounds insert the same key.
    let seed = |thread| (threads << 16 | round << 8 | thread) as u64;
    let drawn: Vec<_> = (0..threads).map(|thread| draw_scans(lab.keys, each, seed(thread))).collect();
    let pool = value_pool();
    let (elapsed, sums) = in_threads(threads, |thread| run_each(engine, &drawn[thread], &pool))?;
    // The ranges of two threads depend on the moments of the other's puts. The keys at the end do not.
    let sum = if threads == 1 { sums[0] } else { sum_of_all(engine)? };
    Ok(Measured { count: (each * threads) as u64, elapsed, sum: Some(sum) })
}

fn run_each(engine: &dyn OrderedEngine, operations: &[ScanOperation], pool: &[u8]) -> Result<u64> {
    let mut sum = 0_u64;
    for operation in operations {
        match *operation {
            ScanOperation::Range(number, limit) => engine.read(&mut |reads| {
                reads.range(&key(number), limit, &mut |bytes| sum = sum.wrapping_add(whole(bytes))).map(drop)
            })?,
            ScanOperation::Insert(number) => {
                engine.put(&key(number), value(pool, usize::try_from(number)?, 0))?;
            }
        }
    }
    Ok(std::hint::black_box(sum))
}

/// Tells another thread that this one has ended, also by an error or a panic.
struct EndOnDrop<'b>(&'b AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        // Relaxed: nothing but the end is told.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Measures gets while another thread overwrites keys as fast as it can.
fn read_beside(lab: &Lab, engine: &dyn OrderedEngine, round: usize) -> Result<Measured> {
    let workload = &lab.workload;
    let probes = &workload.probes[..lab.keys / READ_SHARE];
    let is_over = AtomicBool::new(false);
    let (_, times) = in_threads(2, |thread| {
        if thread == 1 {
            let mut order = workload.order.iter().rev().cycle();
            // Relaxed: nothing but the end is told.
            while !is_over.load(Ordering::Relaxed) {
                let at = *order.next().ok_or("no keys")?;
                engine.put(&workload.keys[at], workload.value(at, round + 1))?;
            }
            return Ok(None);
        }
        let _end = EndOnDrop(&is_over);
        let (mut sum, mut found) = (0_u64, 0);
        let began = Instant::now();
        for key in probes {
            found += usize::from(engine.get(key, &mut |value| sum = sum.wrapping_add(whole(value)))?);
        }
        std::hint::black_box(sum);
        Ok(Some((began.elapsed(), found)))
    })?;
    let (elapsed, found) = times.into_iter().flatten().next().ok_or("no thread has read")?;
    Ok(Measured { count: probes.len() as u64, elapsed, sum: Some(found as u64) })
}
