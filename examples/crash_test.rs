//! Finds a durability bug of a program that embeds mapcask: power cuts on a simulated disk, at
//! every event of a run.
//!
//! The program is a job queue at [`Durability::Os`]. There an insert survives the death of the
//! process, but a power cut only after [`Store::flush`]. One version tells the client "accepted"
//! before the flush, the other one after it.
//!
//! `cargo run --features sim --example crash_test`

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use mapcask::sim::{Position, Seeded, SimDisk, Tears};
use mapcask::{Durability, Options, Store};

/// The jobs in each run.
const JOBS: u32 = 6;
/// The states that are drawn for each cut.
const STATES: u64 = 8;

/// The time at which a queue tells its client that a job is accepted.
#[derive(Clone, Copy)]
enum Acknowledge {
    /// The bug: the job is in the kernel's memory, and the client is already told.
    BeforeFlush,
    AfterFlush,
}

/// The queue under test. A program's own code would stand here, unchanged but for the open of its
/// store.
struct Queue {
    store: Store,
    acknowledge: Acknowledge,
}

impl Queue {
    fn submit(&self, job: &str, accepted: &mut dyn FnMut(&str)) -> mapcask::Result<()> {
        self.store.insert(job, "to be done")?;
        match self.acknowledge {
            Acknowledge::BeforeFlush => {
                accepted(job);
                self.store.flush()
            }
            Acknowledge::AfterFlush => {
                self.store.flush()?;
                accepted(job);
                Ok(())
            }
        }
    }
}

fn open(disk: &SimDisk) -> mapcask::Result<Store> {
    // Without a worker each run is equal, and a failing state can be made again from its seed.
    Options::new().durability(Durability::Os).background(false).segment_bytes(4096).open_on(disk)
}

/// The results of the power cuts.
struct Outcome {
    states: u64,
    /// The states in which a job was missing that a client believed accepted.
    losses: u64,
}

/// Runs the queue once, then cuts the power at every event of that run.
fn cut_everywhere(acknowledge: Acknowledge) -> mapcask::Result<Outcome> {
    let disk = SimDisk::new();
    let queue = Queue { store: open(&disk)?, acknowledge };
    // The clients are no part of the machine: their knowledge survives every cut.
    let mut accepted: Vec<(Position, String)> = Vec::new();
    for number in 0..JOBS {
        let job = format!("job {number}");
        queue.submit(&job, &mut |job| accepted.push((disk.position(), job.to_owned())))?;
    }
    let mut outcome = Outcome { states: 0, losses: 0 };
    for moment in disk.positions() {
        let point = disk.crash_point(moment, Tears::Any);
        for seed in 0..STATES {
            let store = open(&point.cut_power(&mut Seeded::new(seed)))?;
            let mut is_lost = false;
            for (_, job) in accepted.iter().filter(|(since, _)| *since <= moment) {
                is_lost |= !store.contains_key(job)?;
            }
            outcome.states += 1;
            outcome.losses += u64::from(is_lost);
        }
    }
    Ok(outcome)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let buggy = cut_everywhere(Acknowledge::BeforeFlush)?;
    let (losses, states) = (buggy.losses, buggy.states);
    writeln!(out, "accepted before the flush: an accepted job is lost in {losses} of {states} states")?;
    let fixed = cut_everywhere(Acknowledge::AfterFlush)?;
    let (losses, states) = (fixed.losses, fixed.states);
    writeln!(out, "accepted after the flush:  an accepted job is lost in {losses} of {states} states")?;
    let is_as_promised = buggy.losses > 0 && fixed.losses == 0;
    Ok(if is_as_promised { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
