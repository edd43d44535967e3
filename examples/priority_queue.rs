//! Runs a queue by due time: workers pop the first job that is due, and a job that fails waits again.
//!
//! A key is the time at which the job is due, as big-endian bytes, and the job's number. So the order of
//! keys is the order of times, and `pop_first_in` takes the first job that is due. It gives no job to two
//! workers. A worker that dies behind the pop loses its job; `examples/job_queue.rs` keeps it.
//!
//! `cargo run --example priority_queue`

#![expect(clippy::big_endian_bytes, reason = "keys sort by their numbers")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::thread;

use mapcask::{Keyspace, Result, Store};

const JOBS: u64 = 600;
const WORKERS: usize = 3;
/// The ticks after which a failed job is due again.
const PAUSE: u64 = 1000;
/// Every third job fails once.
const FAILS: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Job {
    due: u64,
    number: u64,
    failures: u8,
}

struct Queue {
    waiting: Keyspace,
}

impl Queue {
    fn key(due: u64, number: u64) -> Vec<u8> {
        [due.to_be_bytes(), number.to_be_bytes()].concat()
    }

    fn push(&self, job: Job) -> Result<()> {
        self.waiting.insert(Self::key(job.due, job.number), [job.failures])?;
        Ok(())
    }

    /// Takes the first job that is due. `None` if no job is due at this time.
    fn pop(&self, now: u64) -> Result<Option<Job>> {
        let until = Self::key(now, u64::MAX);
        let popped = self.waiting.pop_first_in(..=until)?;
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("each key has two numbers"));
        Ok(popped.map(|(key, failures)| Job {
            due: number(&key[..8]),
            number: number(&key[8..]),
            failures: failures[0],
        }))
    }

    /// Does the jobs that are due, and returns those that it did, in this order.
    fn work(&self, now: u64) -> Result<Vec<Job>> {
        let mut done = Vec::new();
        while let Some(job) = self.pop(now)? {
            if job.number.is_multiple_of(FAILS) && job.failures == 0 {
                self.push(Job { due: now + PAUSE, failures: 1, ..job })?;
            } else {
                done.push(job);
            }
        }
        Ok(done)
    }

    /// Lets workers do the jobs that are due.
    fn run(&self, now: u64) -> Result<Vec<Job>> {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| self.work(now))).collect();
            let mut done = Vec::new();
            for worker in workers {
                let jobs = worker.join().expect("no panic")?;
                assert!(
                    jobs.is_sorted_by_key(|job| (job.due, job.number)),
                    "each worker takes the first one"
                );
                done.extend(jobs);
            }
            Ok(done)
        })
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("data"))?;
    let queue = Queue { waiting: store.ordered_keyspace("waiting")? };
    for number in 0..JOBS {
        // In any order.
        queue.push(Job { due: number * 7 % 100, number, failures: 0 })?;
    }

    assert_eq!(queue.pop(0)?.map(|job| (job.due, job.number)), Some((0, 0)), "the first one");
    queue.push(Job { due: 0, number: 0, failures: 0 })?;
    let early = queue.run(49)?;
    assert!(early.iter().all(|job| job.due < 50 && !job.number.is_multiple_of(FAILS)));
    let late = queue.run(99)?;
    assert!(late.iter().all(|job| job.due >= 50 && !job.number.is_multiple_of(FAILS)));
    // Those that failed wait, and are due later.
    assert_eq!(queue.waiting.len() as u64, JOBS / FAILS);
    assert_eq!(queue.run(99)?, []);
    let again = queue.run(99 + PAUSE)?;
    assert!(again.iter().all(|job| job.failures == 1 && job.number.is_multiple_of(FAILS)));

    // Each job was done once.
    let mut times = BTreeMap::new();
    for job in [early, late, again].concat() {
        *times.entry(job.number).or_insert(0) += 1;
    }
    assert!(times.keys().copied().eq(0..JOBS) && times.values().all(|times| *times == 1));
    assert!(queue.waiting.is_empty());
    writeln!(
        std::io::stdout(),
        "{JOBS} jobs done once each by {WORKERS} workers, {} of them at the second try",
        JOBS / FAILS
    )?;
    Ok(store.close()?)
}
