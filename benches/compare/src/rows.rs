//! The rows with small values: loads, reads, overwrites, removals, mixes, durable puts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::engine::{Contender, Engine, NONE, Survives, contenders};
use crate::histogram::Histogram;
use crate::mix::{MIXES, Mix, Operation};
use crate::rounds::{Measured, Race, Table, number};
use crate::workload::{Key, key, value, value_pool, whole};
use crate::{Lab, Result};

/// The writes in one batch.
pub(crate) const BATCH: usize = 1000;
/// The length of one round of durable puts.
const ROUND: Duration = Duration::from_secs(1);

/// A contender that holds every key of the workload.
struct Loaded {
    contender: Contender,
    engine: Box<dyn Engine>,
    _directory: TempDir,
}

impl Lab {
    /// Returns the contenders that the caller chose.
    pub(crate) fn contenders(&self) -> impl Iterator<Item = Contender> {
        contenders().into_iter().filter(|contender| self.has(contender.name))
    }

    fn loaded(&self) -> Result<Vec<Loaded>> {
        let load = |contender: Contender| {
            let directory = self.directory()?;
            let engine = contender.open(directory.path(), Survives::Kill)?;
            self.load(engine.as_ref())?;
            Ok(Loaded { contender, engine, _directory: directory })
        };
        self.contenders().map(load).collect()
    }

    /// Puts every key in batches.
    pub(crate) fn load(&self, engine: &dyn Engine) -> Result<()> {
        self.load_keys(engine, &self.workload.keys)
    }

    /// Puts keys in batches.
    pub(crate) fn load_keys(&self, engine: &dyn Engine, keys: &[Key]) -> Result<()> {
        self.in_batches(keys, |items| engine.put_batch(items))
    }

    /// Calls `put` with keys and their values, batch by batch.
    pub(crate) fn in_batches(&self, keys: &[Key], put: impl Fn(&[(Key, &[u8])]) -> Result<()>) -> Result<()> {
        for from in (0..keys.len()).step_by(BATCH) {
            let numbers = from..(from + BATCH).min(keys.len());
            let items: Vec<_> = numbers.map(|at| (keys[at], self.workload.value(at, 0))).collect();
            put(&items)?;
        }
        Ok(())
    }

    /// Reads every key, and returns the sum over their bytes.
    fn sum(&self, engine: &dyn Engine) -> Result<u64> {
        sum_of(engine, &self.workload.probes)
    }
}

/// Reads keys, and returns the sum over their bytes and their number.
pub(crate) fn sum_of(engine: &dyn Engine, keys: &[Key]) -> Result<u64> {
    let mut sum = 0_u64;
    let found = engine.get_all(keys, &mut |value| sum = sum.wrapping_add(whole(value)))?;
    Ok(sum.wrapping_add(found as u64))
}

/// Measures puts of new keys, one at a time and in batches.
pub(crate) fn load(lab: &Lab) -> Result<Vec<Table>> {
    let mut single = Race::new("put of new keys");
    let mut batches = Race::new("put of new keys in batches of 1000");
    for (contender, other) in lab.contenders().zip(lab.contenders()) {
        let name = contender.name;
        single.add(name, move |_| {
            let directory = lab.directory()?;
            let engine = contender.open(directory.path(), Survives::Kill)?;
            let measured = Measured::time(lab.keys, || {
                for (at, key) in lab.workload.keys.iter().enumerate() {
                    engine.put(key, lab.workload.value(at, 0))?;
                }
                Ok(0)
            })?;
            Ok(Measured { sum: Some(lab.sum(engine.as_ref())?), ..measured })
        });
        batches.add(name, move |_| {
            let directory = lab.directory()?;
            let engine = other.open(directory.path(), Survives::Kill)?;
            let measured = Measured::time(lab.keys, || lab.load(engine.as_ref()).map(|()| 0))?;
            Ok(Measured { sum: Some(lab.sum(engine.as_ref())?), ..measured })
        });
    }
    Ok(vec![single.run(lab.rounds)?, batches.run(lab.rounds)?])
}

/// Measures reads of keys that are there, of absent ones, and of everything.
pub(crate) fn read(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.loaded()?;
    let mut hit = Race::new("get of keys that are there");
    let mut miss = Race::new("get of absent keys");
    let mut all = Race::new("iterate over all keys and values");
    for Loaded { contender, engine, .. } in &loaded {
        let engine = engine.as_ref();
        hit.add(contender.name, |_| Measured::time(lab.keys, || lab.sum(engine)));
        miss.add(contender.name, |_| Measured::time(lab.keys, || sum_of(engine, &lab.workload.absent)));
        if engine.iterate(&mut |_| {})?.is_none() {
            continue;
        }
        all.add(contender.name, |_| {
            Measured::time(lab.keys, || {
                let mut sum = 0_u64;
                let count = engine.iterate(&mut |bytes| sum = sum.wrapping_add(whole(bytes)))?;
                Ok(sum.wrapping_add(count.unwrap_or(0) as u64))
            })
        });
    }
    Ok(vec![hit.run(lab.rounds)?, miss.run(lab.rounds)?, all.run(lab.rounds)?])
}

/// Measures overwrites of all keys in random order.
pub(crate) fn overwrite(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.loaded()?;
    let mut race = Race::new("overwrite of all keys in random order");
    for Loaded { contender, engine, .. } in &loaded {
        race.add(contender.name, |round| {
            let measured = Measured::time(lab.keys, || {
                for at in &lab.workload.order {
                    engine.put(&lab.workload.keys[*at], lab.workload.value(*at, round + 1))?;
                }
                Ok(0)
            })?;
            Ok(Measured { sum: Some(lab.sum(engine.as_ref())?), ..measured })
        });
    }
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures removals of all keys in random order.
pub(crate) fn remove(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.loaded()?;
    let mut race = Race::new("remove of all keys in random order");
    for Loaded { contender, engine, .. } in &loaded {
        race.add(contender.name, |_| {
            let measured = Measured::time(lab.keys, || {
                for key in &lab.workload.probes {
                    engine.remove(key)?;
                }
                Ok(0)
            })?;
            let left = lab.sum(engine.as_ref())?;
            lab.load(engine.as_ref())?;
            Ok(Measured { sum: Some(left), ..measured })
        });
    }
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures mixes of reads and writes, from one thread and from two or more.
pub(crate) fn mix(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.loaded()?;
    let mut tables = Vec::new();
    for mix in &MIXES {
        for threads in &lab.threads {
            let title = format!("YCSB {}: {}, threads: {threads}", mix.name, mix.text);
            let mut race = Race::new(title);
            for Loaded { contender, engine, .. } in &loaded {
                race.add(contender.name, |round| run_mix(lab, engine.as_ref(), mix, *threads, round));
            }
            tables.push(race.run(lab.rounds)?);
        }
    }
    Ok(tables)
}

/// Measures reads by the number of threads.
pub(crate) fn threads(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.loaded()?;
    let reads = MIXES.iter().find(|mix| mix.name == "C").ok_or("no mix that reads")?;
    let mut tables = Vec::new();
    for threads in [1, 2, 4, 8, 16] {
        let mut race = Race::new(format!("get of popular keys, threads: {threads}"));
        for Loaded { contender, engine, .. } in &loaded {
            race.add(contender.name, |round| run_mix(lab, engine.as_ref(), reads, threads, round));
        }
        tables.push(race.run(lab.rounds)?);
    }
    Ok(tables)
}

fn run_mix(lab: &Lab, engine: &dyn Engine, mix: &Mix, threads: usize, round: usize) -> Result<Measured> {
    let each = lab.keys / threads;
    // Each contender gets the same operations in a round.
    let draw = |thread: usize| mix.draw(lab.keys, each, (round * threads + thread) as u64);
    let drawn: Vec<Vec<Operation>> = (0..threads).map(draw).collect();
    let began = Instant::now();
    let results: Vec<_> = thread::scope(|scope| {
        let mut running = Vec::new();
        for operations in &drawn {
            let run = move || run_operations(engine, operations).map_err(|error| error.to_string());
            running.push(scope.spawn(run));
        }
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let elapsed = began.elapsed();
    for result in results {
        result.map_err(|_| "a thread panicked")??;
    }
    Ok(Measured { count: (each * threads) as u64, elapsed, sum: None })
}

fn run_operations(engine: &dyn Engine, operations: &[Operation]) -> Result<()> {
    let pool = value_pool();
    let mut sum = 0_u64;
    for operation in operations {
        match *operation {
            Operation::Read(number) => {
                engine.get(&key(number), &mut |value| sum = sum.wrapping_add(whole(value)))?;
            }
            Operation::Write(number, version) => {
                engine.put(&key(number), value(&pool, usize::try_from(number)?, version))?;
            }
            Operation::ReadThenWrite(number, version) => {
                engine.get(&key(number), &mut |value| sum = sum.wrapping_add(whole(value)))?;
                engine.put(&key(number), value(&pool, usize::try_from(number)?, version))?;
            }
        }
    }
    std::hint::black_box(sum);
    Ok(())
}

/// Measures puts that each survive a power cut.
pub(crate) fn durable(lab: &Lab) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for threads in [1, 8, 32] {
        let mut race = Race::new(format!("durable put, threads: {threads}"));
        let stores = lab.contenders().filter(|contender| contender.is_store() && contender.modes[1] != NONE);
        for contender in stores {
            race.add(contender.name, move |_| {
                let directory = lab.directory()?;
                let engine = contender.open(directory.path(), Survives::PowerCut)?;
                put_durably(engine.as_ref(), threads)
            });
        }
        tables.push(race.run(lab.rounds)?);
    }
    Ok(tables)
}

fn put_durably(engine: &dyn Engine, threads: usize) -> Result<Measured> {
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let results: Vec<_> = thread::scope(|scope| {
        let start = |_| {
            scope.spawn(|| -> std::result::Result<u64, String> {
                let pool = value_pool();
                let mut count = 0;
                while began.elapsed() < ROUND {
                    // Relaxed: each thread only needs another number.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let at = usize::try_from(number).map_err(|error| error.to_string())?;
                    engine.put(&key(number), value(&pool, at, 0)).map_err(|error| error.to_string())?;
                    count += 1;
                }
                Ok(count)
            })
        };
        let running: Vec<_> = (0..threads).map(start).collect();
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let elapsed = began.elapsed();
    let mut count = 0;
    for result in results {
        count += result.map_err(|_| "a thread panicked")??;
    }
    Ok(Measured { count, elapsed, sum: None })
}

/// Measures the duration of single puts.
pub(crate) fn latency(lab: &Lab) -> Result<Vec<Table>> {
    let headers = &["", "p50, us", "p99, us", "p99.9, us", "p99.99, us", "longest, us"];
    let mut table = Table::new("duration of a put of a new key", headers);
    for contender in lab.contenders() {
        let directory = lab.directory()?;
        let engine = contender.open(directory.path(), Survives::Kill)?;
        let mut durations = Histogram::new();
        for (at, key) in lab.workload.keys.iter().enumerate() {
            let began = Instant::now();
            engine.put(key, lab.workload.value(at, 0))?;
            durations.add(began.elapsed());
        }
        let quantiles = [0.5, 0.99, 0.999, 0.9999, 1.0].map(|share| number(durations.quantile(share)));
        table.row([contender.name.to_owned()].into_iter().chain(quantiles));
    }
    Ok(vec![table])
}
