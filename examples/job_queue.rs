//! Runs a queue of payments whose worker is killed again and again: no job is lost, none is done
//! twice.
//!
//! The worker is another process of this program. One batch does a job: it removes the job from the
//! queue, records it as done, and changes the balance. Its conditions are that the job is still
//! there, and that the balance is the one that was read. So two threads of the worker may try one
//! job, and a `SIGKILL` may come at any time.
//!
//! `cargo run --example job_queue`

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use mapcask::{Keyspace, Store, WriteBatch};

const JOBS: u64 = 2000;
const THREADS: usize = 2;
const KILLS: usize = 5;
/// The jobs that a worker may do before it must wait, and the number after which it is killed.
const ALLOWED: usize = 300;
const KILLED_AFTER: usize = 200;

struct Queue {
    store: Store,
    pending: Keyspace,
    done: Keyspace,
}

impl Queue {
    fn open(path: &Path) -> mapcask::Result<Self> {
        let store = Store::open(path)?;
        Ok(Self { pending: store.keyspace("pending")?, done: store.keyspace("done")?, store })
    }

    /// Does a job. Returns true if this thread did it.
    fn work_on(&self, job: &[u8]) -> Result<bool, Box<dyn Error>> {
        loop {
            let Some(amount) = self.pending.get(job)? else { return Ok(false) };
            let before = self.store.get("balance")?.ok_or("the balance is made with the queue")?;
            let after = number(&before)? + number(&amount)?;
            let mut batch = WriteBatch::new();
            batch.on(&self.pending).require(job, &amount).remove(job);
            batch.on(&self.done).require_absent(job).insert(job, &amount);
            batch.require("balance", &before);
            batch.insert("balance", after.to_le_bytes());
            match self.store.write(&batch) {
                Ok(_) => return Ok(true),
                // Another thread was faster, with this job or another one, so read again.
                Err(mapcask::Error::ConditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn number(bytes: &[u8]) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

// ---- The worker ---------------------------------------------------------------------------------

/// Does the pending jobs, and prints each. Each job takes a byte of standard input while there is
/// one, so that a worker that is to be killed cannot finish first.
fn work(path: &Path) -> Result<(), Box<dyn Error>> {
    let queue = Queue::open(path)?;
    let permits = Mutex::new(std::io::stdin());
    let thread = || -> Result<(), String> {
        let mut has_permit = false;
        for job in queue.pending.keys() {
            let job = job.map_err(|error| error.to_string())?;
            if !has_permit {
                let _ =
                    permits.lock().expect("no panic").read(&mut [0]).map_err(|error| error.to_string())?;
                has_permit = true;
            }
            if queue.work_on(&job).map_err(|error| error.to_string())? {
                writeln!(std::io::stdout(), "{}", job.escape_ascii()).map_err(|error| error.to_string())?;
                has_permit = false;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(thread)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(queue.store.close()?)
}

// ---- The process that kills it ------------------------------------------------------------------

fn start_worker(path: &Path) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.args(["work".as_ref(), path]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// Lets a worker work and kills it; returns the jobs that it reported as done.
fn work_and_kill(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut worker = start_worker(path)?;
    worker.stdin.as_mut().ok_or("piped")?.write_all(&[0; ALLOWED])?;
    let mut lines = BufReader::new(worker.stdout.take().ok_or("piped")?).lines();
    let mut said = lines.by_ref().take(KILLED_AFTER).collect::<Result<Vec<_>, _>>()?;
    // No code of the worker runs after SIGKILL.
    worker.kill()?;
    said.extend(lines.collect::<Result<Vec<_>, _>>()?);
    assert!(!worker.wait()?.success(), "it was killed");
    Ok(said)
}

/// Checks that every job is in one place, that reported jobs are done, and that the balance is
/// theirs.
fn check(path: &Path, said: &[String]) -> Result<(), Box<dyn Error>> {
    let queue = Queue::open(path)?;
    assert_eq!((queue.pending.len() + queue.done.len()) as u64, JOBS, "no job is lost");
    let mut sum = 0;
    for item in &queue.done {
        let (job, amount) = item?;
        assert!(!queue.pending.contains_key(&job)?, "{job:?} is done");
        sum += number(&amount)?;
    }
    assert_eq!(number(&queue.store.get("balance")?.ok_or("it is there")?)?, sum, "no job is done twice");
    for job in said {
        assert!(queue.done.contains_key(job)?, "{job} was said to be done");
    }
    Ok(queue.store.close()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, work_, path] = &std::env::args_os().collect::<Vec<_>>()[..]
        && work_ == "work"
    {
        return work(path.as_ref());
    }
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    let queue = Queue::open(path)?;
    queue.store.insert("balance", 0_u64.to_le_bytes())?;
    for job in 1..=JOBS {
        queue.pending.insert(format!("job {job}"), job.to_le_bytes())?;
    }
    queue.store.close()?;

    let mut said = Vec::new();
    for _ in 0..KILLS {
        said.extend(work_and_kill(path)?);
        check(path, &said)?;
    }
    // The last worker is not killed, and needs no permits.
    let mut worker = start_worker(path)?;
    drop(worker.stdin.take());
    said.extend(BufReader::new(worker.stdout.take().ok_or("piped")?).lines().collect::<Result<Vec<_>, _>>()?);
    assert!(worker.wait()?.success());
    check(path, &said)?;
    let queue = Queue::open(path)?;
    assert_eq!(number(&queue.store.get("balance")?.ok_or("it is there")?)?, (1..=JOBS).sum::<u64>());
    assert!(queue.pending.is_empty());
    writeln!(
        std::io::stdout(),
        "{JOBS} jobs done once each, by {} workers, {KILLS} of them killed",
        KILLS + 1
    )?;
    Ok(())
}
