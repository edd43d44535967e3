//! The row about data larger than memory: random gets, beside random reads of the same device.
//!
//! The reading process is in a control group with a quarter of the data's size as its memory. That
//! needs root, and a kernel with control groups.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{Contender, Engine, Survives};
use crate::engines::lmdb::Lmdb;
use crate::rounds::{Measured, Race, Table};
use crate::workload::{key, whole};
use crate::{Lab, Result, cold};

/// The bytes of a value.
const VALUE_LEN: usize = 1000;
/// The part of the data that fits into memory is one in this many.
const TIMES: usize = 4;
/// A run reads one key in this many, by all threads together. As many reads go before and are not
/// counted. So a run touches the pages of more than its memory.
const READ_SHARE: usize = 4;
/// The size of a raw read, and its alignment.
const BLOCK: usize = 4096;
/// The stores that take part. The caches of others have a size of their own.
const STORES: [&str; 2] = ["mapcask", "LMDB"];
/// The name of the contender that reads a file directly.
const RAW: &str = "raw reads of 4 KiB";

/// A control group with little memory.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(bytes: usize) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let first = root.join("memory");
        let (parent, limit) =
            if first.is_dir() { (&*first, "memory.limit_in_bytes") } else { (root, "memory.max") };
        let group = parent.join(format!("mapcask-compare-{}", std::process::id()));
        let made = fs::create_dir(&group).and_then(|()| {
            let group = Self(group);
            fs::write(group.0.join(limit), bytes.to_string()).map(|()| group)
        });
        made.map_err(|error| {
            format!("the row needs root and control groups for memory in {}: {error}", parent.display())
                .into()
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} remains: {error}", self.0.display());
        }
    }
}

/// Measures random gets by 1, 4 and 16 threads.
pub(crate) fn beyond(lab: &Lab) -> Result<Vec<Table>> {
    let bytes = lab.keys * VALUE_LEN;
    let group = MemoryGroup::new(bytes / TIMES)?;
    let directory = lab.directory()?;
    let place = |name: &str| directory.path().join(name);
    fill_raw(&place(RAW), bytes)?;
    let stores: Vec<_> = lab.contenders().filter(|contender| STORES.contains(&contender.name)).collect();
    for contender in &stores {
        run(&["fill", contender.name, &lab.keys.to_string()], &[&place(contender.name)])?;
    }
    let mut tables = Vec::new();
    for threads in [1, 4, 16] {
        let mut race = Race::new(format!("get from data of four times the memory, threads: {threads}"));
        for name in [RAW].into_iter().chain(stores.iter().map(|contender| contender.name)) {
            let (place, group) = (place(name), &group.0);
            race.add(name, move |round| {
                cold::forget(&place)?;
                let words = ["read", name, &lab.keys.to_string(), &threads.to_string(), &round.to_string()];
                let told = run(&words, &[&place, group])?;
                let elapsed = Duration::from_nanos(told.trim().parse()?);
                Ok(Measured { count: (lab.keys / READ_SHARE) as u64, elapsed, sum: None })
            });
        }
        tables.push(race.run(lab.rounds)?);
    }
    Ok(tables)
}

/// Runs a child of this row, and returns the text that it printed.
fn run(words: &[&str], paths: &[&Path]) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("--beyond").args(words).args(paths);
    let output = child.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the process of {words:?} failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a child: `fill NAME KEYS PLACE`, or `read NAME KEYS THREADS SEED PLACE GROUP`, which prints the
/// nanoseconds of all reads.
pub(crate) fn child(arguments: &[String]) -> Result<()> {
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["fill", name, keys, place] => fill(name, keys.parse()?, Path::new(place)),
        ["read", name, keys, threads, seed, place, group] => {
            fs::write(Path::new(group).join("cgroup.procs"), std::process::id().to_string())?;
            let keys: usize = keys.parse()?;
            let run = Run { threads: threads.parse()?, seed: seed.parse()?, reads: keys / READ_SHARE };
            let elapsed = if name == RAW {
                read_raw(Path::new(place), &run)?
            } else {
                let place = Path::new(place);
                let engine: Box<dyn Engine> = match name {
                    // Its default is right for data that fit into memory.
                    "LMDB" => Box::new(Lmdb::open_for_single_reads(place)?),
                    _ => named(name)?.open(place, Survives::Kill)?,
                };
                let get = |number: u64| {
                    let mut sum = 0;
                    match engine.get(&key(number), &mut |value| sum = whole(value)) {
                        Ok(true) => Ok(sum),
                        Ok(false) => Err(format!("{name}: key {number} is missing")),
                        Err(error) => Err(error.to_string()),
                    }
                };
                time(&run, keys as u64, get)?
            };
            println!("{}", elapsed.as_nanos());
            Ok(())
        }
        _ => Err("not a child's arguments".into()),
    }
}

fn named(name: &str) -> Result<Contender> {
    let found = crate::engine::contenders().into_iter().find(|contender| contender.name == name);
    found.ok_or_else(|| format!("no contender is called {name}").into())
}

fn fill(name: &str, keys: u64, place: &Path) -> Result<()> {
    let engine = named(name)?.open(place, Survives::Kill)?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut value = [0; VALUE_LEN];
    for number in 0..keys {
        random.fill(&mut value);
        engine.put(&key(number), &value)?;
    }
    engine.close()
}

fn fill_raw(place: &Path, bytes: usize) -> Result<()> {
    let mut file = File::create(place)?;
    let mut random = fastrand::Rng::with_seed(2);
    let mut piece = vec![0; 1 << 20];
    for _ in 0..bytes.div_ceil(piece.len()) {
        random.fill(&mut piece);
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

/// Reads blocks past the page cache.
fn read_raw(place: &Path, run: &Run) -> Result<Duration> {
    const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(DIRECT).open(place)?;
    let blocks = file.metadata()?.len() / BLOCK as u64;
    time(run, blocks, |block| {
        let mut room = [0; 2 * BLOCK];
        let aligned = room.as_ptr().align_offset(BLOCK);
        let bytes = &mut room[aligned..][..BLOCK];
        file.read_exact_at(bytes, block * BLOCK as u64).map_err(|error| error.to_string())?;
        Ok(whole(bytes))
    })
}

/// A run of reads.
struct Run {
    threads: usize,
    seed: u64,
    /// The reads of all threads together.
    reads: usize,
}

/// Times reads of random places below `places` by several threads.
fn time(
    run: &Run,
    places: u64,
    read: impl Fn(u64) -> std::result::Result<u64, String> + Sync,
) -> Result<Duration> {
    let mut elapsed = Duration::ZERO;
    for part in 0..2 {
        let began = Instant::now();
        let results: Vec<_> = thread::scope(|scope| {
            let mut running = Vec::new();
            for number in 0..run.threads {
                let read = &read;
                running.push(scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(run.seed << 32 | part << 16 | number as u64);
                    let mut sum = 0_u64;
                    for _ in 0..run.reads / run.threads {
                        sum = sum.wrapping_add(read(random.u64(..places))?);
                    }
                    Ok::<u64, String>(std::hint::black_box(sum))
                }));
            }
            running.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        elapsed = began.elapsed();
        for result in results {
            result.map_err(|_| "a thread panicked")??;
        }
    }
    Ok(elapsed)
}
