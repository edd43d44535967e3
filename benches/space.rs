//! Measures space: private memory per key, and bytes on the disk per live byte.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mapcask::Store;

use crate::reads::{FastMap, StdMap};
use crate::rounds::{Table, number};
use crate::workload::{KEY_LEN, VALUE_LEN, key, value, value_pool};
use crate::{Lab, Result, scratch};

/// The number of steps at which memory is read while a store grows. A table needs most right after
/// it doubles.
const STEPS: usize = 16;

/// Measures anonymous memory per key during growth, each contender in its own process.
pub(crate) fn memory(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "anonymous memory while growing, beyond that of the empty one, in bytes per key",
        &["", "at an eighth", "at a quarter", "at half", "at all", "greatest of 16 moments"],
    );
    for contender in ["mapcask", "std HashMap", "hashbrown, foldhash"] {
        let directory = lab.directory()?;
        let printed = scratch::run_child(&["memory", contender, &lab.keys.to_string()], directory.path())?;
        let moments: Vec<f64> = printed.lines().map(str::parse).collect::<std::result::Result<_, _>>()?;
        if moments.len() != STEPS {
            return Err(format!("{contender}: {} of {STEPS} moments", moments.len()).into());
        }
        let greatest = moments.iter().copied().fold(0.0, f64::max);
        let [eighth, quarter, half, all] = [2, 4, 8, 16].map(|step| number(moments[step - 1]));
        table.row([contender.to_owned(), eighth, quarter, half, all, number(greatest)]);
    }
    Ok(vec![table])
}

/// Loads a contender, and prints its memory per key at each step.
pub(crate) fn memory_child(contender: &str, count: usize, directory: &str) -> Result<()> {
    let pool = value_pool();
    match contender {
        "mapcask" => {
            let store = Store::open(directory)?;
            watch(count, |from, to| {
                for number in from..to {
                    store.insert(key(number as u64), value(&pool, number, 0))?;
                }
                Ok(())
            })
        }
        "std HashMap" => {
            let mut map = StdMap::new();
            watch(count, |from, to| {
                map.extend((from..to).map(|at| (key(at as u64).to_vec(), value(&pool, at, 0).to_vec())));
                Ok(())
            })
        }
        "hashbrown, foldhash" => {
            let mut map = FastMap::default();
            watch(count, |from, to| {
                for at in from..to {
                    map.insert(key(at as u64).to_vec(), value(&pool, at, 0).to_vec());
                }
                Ok(())
            })
        }
        other => Err(format!("no contender is called {other}").into()),
    }
}

fn watch(count: usize, mut load: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
    let empty = anonymous()?;
    for step in 0..STEPS {
        load(count * step / STEPS, count * (step + 1) / STEPS)?;
        let keys = count * (step + 1) / STEPS;
        let bytes = anonymous()?.saturating_sub(empty);
        writeln!(std::io::stdout(), "{}", bytes as f64 / keys as f64)?;
    }
    Ok(())
}

/// Returns the bytes of anonymous memory of this process.
fn anonymous() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("no line for it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Measures bytes on the disk per live byte of key and value.
pub(crate) fn disk(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "bytes allocated on the disk per live byte of keys and values",
        &["", "empty, KiB", "loaded", "closed", "all overwritten once"],
    );
    let directory = lab.directory()?;
    let path = directory.path();
    let live = (lab.keys * (KEY_LEN + VALUE_LEN)) as f64;
    let store = Store::open(path)?;
    let empty = allocated(path)?;
    scratch::fill(&store, 0, lab.keys)?;
    let loaded = allocated(path)?;
    store.close()?;
    let closed = allocated(path)?;
    let store = Store::open(path)?;
    scratch::fill(&store, 0, lab.keys)?;
    store.flush()?;
    let overwritten = allocated(path)?;
    let ratio = |bytes: u64| number(bytes as f64 / live);
    table.row([
        "mapcask".to_owned(),
        (empty / 1024).to_string(),
        ratio(loaded),
        ratio(closed),
        ratio(overwritten),
    ]);
    Ok(vec![table])
}

fn allocated(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}
