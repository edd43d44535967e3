//! Measures durable puts: on the disk before the call returns. The reference is the device's write
//! of one block.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Durability, Options, Store};

use crate::environment::file_system;
use crate::rounds::{Measured, Race, Table};
use crate::scratch::Journalled;
use crate::workload::{key, value, value_pool};
use crate::{Lab, Result};

/// The time that a contender runs in a round. It outlasts short changes in the speed of a device.
const ROUND: Duration = Duration::from_millis(700);
/// The size of a block in bytes.
const BLOCK: usize = 4096;
/// The number of blocks that the raw contender writes in turn; all were written before.
const BLOCKS: u64 = 4096;

/// Measures on the file system of the directory, and on ext4 with a journal where one can be
/// mounted.
pub(crate) fn durable(lab: &Lab) -> Result<Vec<Table>> {
    let mut tables = vec![race(lab, &lab.directory)?];
    match Journalled::mount(&lab.directory) {
        Ok(mounted) => tables.push(race(lab, &mounted.directory)?),
        Err(error) => eprintln!("LEFT OUT: durable puts on ext4 with a journal: {error}"),
    }
    Ok(tables)
}

fn race(lab: &Lab, below: &Path) -> Result<Table> {
    let directory = tempfile::tempdir_in(below)?;
    let raw = written_file(&directory.path().join("raw"))?;
    let block = vec![7; BLOCK];
    let mut at = 0;
    let groups = RefCell::new(Vec::new());
    let mut race = Race::new(format!("durable put on {}", file_system(below)));
    race.add("one thread, raw pwrite of a written block and fdatasync", |_| {
        repeat(|| {
            raw.write_all_at(&block, at % BLOCKS * BLOCK as u64)?;
            at += 1;
            Ok(raw.sync_data()?)
        })
    });
    for threads in [1_u64, 8, 32] {
        let store = Options::new()
            .durability(Durability::Disk)
            .open(directory.path().join(format!("store-{threads}")))?;
        let next = AtomicU64::new(0);
        let groups = &groups;
        let rounds = lab.rounds;
        race.add(format!("mapcask, threads: {threads}"), move |round| {
            let before = store.stats();
            let measured = put_from(&store, threads, &next)?;
            let after = store.stats();
            if round == rounds {
                let syncs = (after.syncs - before.syncs).max(1);
                let note = format!("{threads}: {:.2}", measured.count as f64 / syncs as f64);
                groups.borrow_mut().push(note);
            }
            Ok(measured)
        });
    }
    let table = race.run(lab.rounds)?;
    Ok(table.note(format!("Puts per sync in the last round, by threads: {}.", groups.borrow().join(", "))))
}

/// Makes a file whose blocks are on the disk: rewriting them changes only their content.
fn written_file(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    for at in 0..BLOCKS {
        file.write_all_at(&[1; BLOCK], at * BLOCK as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn repeat(mut work: impl FnMut() -> Result<()>) -> Result<Measured> {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < ROUND {
        work()?;
        count += 1;
    }
    Ok(Measured { count, elapsed: began.elapsed(), sum: None })
}

fn put_from(store: &Store, threads: u64, next: &AtomicU64) -> Result<Measured> {
    let pool = value_pool();
    let (pool, began) = (&pool, Instant::now());
    let counts = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || -> mapcask::Result<u64> {
                    let mut count = 0;
                    while began.elapsed() < ROUND {
                        // Relaxed: each thread only needs another number.
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let at = usize::try_from(number).unwrap_or_default();
                        store.insert(key(number), value(pool, at, 0))?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let elapsed = began.elapsed();
    let mut count = 0;
    for result in counts {
        count += result.map_err(|_| "a writing thread panicked")??;
    }
    Ok(Measured { count, elapsed, sum: None })
}
