//! Runs a service that survives `kill -9` of its process: standbys follow the store, and one of them
//! takes it over.
//!
//! Each process of the service waits for the store, then counts up in it. This program kills the
//! active one, five times, starts another standby for it, and checks that the count never goes back.
//!
//! `cargo run --example hot_standby`

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mapcask::{Follower, Options, Store, WriteBatch};

/// The number of kills.
const KILLS: usize = 5;
/// The steps that each process makes before it is killed.
const STEPS: u64 = 2000;
/// The time between two steps, as between two requests to a service.
const SPACING: Duration = Duration::from_micros(50);
/// The time after which a take-over that should have come has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const COUNT: &str = "count";
const ACTIVE: &str = "process id of the active one";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [path] => serve(Path::new(path)),
        _ => run(),
    }
}

/// Waits for the store, and serves until this process is killed.
fn serve(path: &Path) -> Result<(), Box<dyn Error>> {
    let follower = Follower::open(path)?;
    // Meanwhile a real service answers reads from the follower.
    let store = follower.take_over(Options::new(), None)?;
    let mut count = number(&store.get(COUNT)?)?;
    loop {
        count += 1;
        let mut batch = WriteBatch::new();
        batch.insert(COUNT, count.to_le_bytes());
        batch.insert(ACTIVE, u64::from(std::process::id()).to_le_bytes());
        store.write(&batch)?;
        std::thread::sleep(SPACING);
    }
}

/// Starts the processes, kills the active one again and again, and checks the count.
fn run() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    // A store to follow must exist.
    Store::open(&path)?.close()?;
    let start = || Command::new(std::env::current_exe()?).arg(&path).spawn();
    let mut processes = vec![start()?, start()?];
    let result = kill_again_and_again(&path, &mut processes, &start);
    for process in &mut processes {
        process.kill()?;
        process.wait()?;
    }
    result
}

fn kill_again_and_again(
    path: &Path,
    processes: &mut [Child],
    start: &dyn Fn() -> std::io::Result<Child>,
) -> Result<(), Box<dyn Error>> {
    let follower = Follower::open(path)?;
    let mut out = std::io::stdout().lock();
    let (mut killed, mut last) = (0, 0);
    for kill in 0..=KILLS {
        let began = Instant::now();
        let (active, first) = await_count(&follower, killed, last + 1)?;
        writeln!(out, "process {active} is active at {first}, {} ms later", began.elapsed().as_millis())?;
        (_, last) = await_count(&follower, killed, first + STEPS)?;
        if kill < KILLS {
            let is_active = |process: &Child| u64::from(process.id()) == active;
            let at = processes.iter().position(is_active).ok_or("an unknown process is active")?;
            processes[at].kill()?;
            processes[at].wait()?;
            processes[at] = start()?;
            killed = active;
        }
    }
    writeln!(out, "{KILLS} kills; the count rose to {last} and never went back")?;
    Ok(())
}

/// Waits until another process than the killed one has counted up to a number. Returns the process
/// and the count.
fn await_count(follower: &Follower, killed: u64, least: u64) -> Result<(u64, u64), Box<dyn Error>> {
    let began = Instant::now();
    let mut before = 0;
    loop {
        let seen = follower.last_seq();
        let snapshot = follower.snapshot();
        let (count, active) = (number(&snapshot.get(COUNT)?)?, number(&snapshot.get(ACTIVE)?)?);
        if count < before {
            return Err(format!("the count went back from {before} to {count}").into());
        }
        before = count;
        if active != killed && active != 0 && count >= least {
            return Ok((active, count));
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("no process goes on after {count}").into());
        }
        follower.wait(seen, PATIENCE)?;
    }
}

fn number(value: &Option<mapcask::Value>) -> Result<u64, Box<dyn Error>> {
    Ok(value.as_deref().map_or(Ok(0), |bytes| bytes.try_into().map(u64::from_le_bytes))?)
}
