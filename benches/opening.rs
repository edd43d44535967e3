//! Measures opening to the first value, after a clean close and after the death of the process.

use std::path::Path;
use std::time::{Duration, Instant};

use mapcask::Store;

use crate::reads::StdMap;
use crate::rounds::{Table, median, number};
use crate::workload::{key, value, value_pool};
use crate::{Lab, Result, scratch};

/// Measures opening by the number of keys.
pub(crate) fn open(lab: &Lab) -> Result<Vec<Table>> {
    let [mut times, mut bytes] = tables();
    for keys in [lab.keys / 100, lab.keys / 10, lab.keys] {
        let clean = lab.directory()?;
        let store = Store::open(clean.path())?;
        scratch::fill(&store, 0, keys)?;
        store.close()?;
        let mut opened: [Vec<Opened>; 4] = Default::default();
        for _ in 0..lab.rounds {
            opened[0].push(measure(clean.path(), keys)?);
            // An open recovers the store, so each round needs a new one. A copy is not trusted: its
            // open reads the log.
            let (killed, copy) = (lab.directory()?, lab.directory()?);
            scratch::run_child(&["fill", &keys.to_string()], killed.path())?;
            scratch::copy(killed.path(), copy.path())?;
            opened[1].push(measure(killed.path(), keys)?);
            drop(killed);
            opened[3].push(measure(copy.path(), keys)?);
            drop(copy);
            let copy = lab.directory()?;
            scratch::copy(clean.path(), copy.path())?;
            remove_image(copy.path())?;
            opened[2].push(measure(copy.path(), keys)?);
        }
        let first =
            |which: usize| median(&mut opened[which].iter().map(|opened| opened.first).collect::<Vec<_>>());
        let log = |which: usize| opened[which][0].log;
        let rate = |which: usize| number(log(which) as f64 / 1_048_576.0 / (first(which) / 1e3));
        let open = median(&mut opened[0].iter().map(|opened| opened.open).collect::<Vec<_>>());
        times.row([
            keys.to_string(),
            number(open),
            number(first(0)),
            number(first(1)),
            number(first(3)),
            rate(3),
            number(first(2)),
            rate(2),
            number(build_map(keys)),
        ]);
        let images = [0, 1].map(|which: usize| opened[which][0].image);
        bytes.row(
            [keys as u64, log(0), images[0], opened[0][0].size, log(1), images[1], log(3), log(2)]
                .map(|count| count.to_string()),
        );
    }
    Ok(vec![
        times.note("Each open is the first act of a new process. Killed: SIGKILL right after the last put, and an open at the same place, with hints. A copy of that directory is opened without \
             them. No image: the clean one without it. \
             HashMap: the same keys and values put into one by one thread, once, for what the machine can do."),
        bytes,
    ])
}

fn tables() -> [Table; 2] {
    let times = Table::new(
        "open to first get, page cache warm, in milliseconds, by the number of keys",
        &[
            "keys",
            "clean: open",
            "clean: to first get",
            "killed",
            "killed, a copy",
            "killed, a copy: MiB/s of log",
            "no image",
            "no image: MiB/s of log",
            "std HashMap, growing",
        ],
    );
    let bytes = Table::new(
        "bytes that an open reads, by the number of keys",
        &[
            "keys",
            "clean: of the log",
            "clean: of the image",
            "image",
            "killed: of the log",
            "killed: of the image",
            "killed, a copy: of the log",
            "no image: of the log",
        ],
    );
    [times, bytes]
}

/// Puts the keys and their values into a map, and returns the milliseconds that it takes.
fn build_map(keys: usize) -> f64 {
    let pool = value_pool();
    let began = Instant::now();
    let mut map = StdMap::new();
    for number in 0..keys {
        map.insert(key(number as u64).to_vec(), value(&pool, number, 0).to_vec());
    }
    std::hint::black_box(&map);
    millis(began.elapsed())
}

/// The cost of opening a store.
struct Opened {
    /// The milliseconds of the open.
    open: f64,
    /// The milliseconds to the first value.
    first: f64,
    /// The bytes read of the log and of the checkpoint, and the size of the checkpoint.
    log: u64,
    image: u64,
    size: u64,
}

fn remove_image(path: &Path) -> Result<()> {
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("INDEX-")) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Opens a store in another process, and reads one key there.
fn measure(path: &Path, keys: usize) -> Result<Opened> {
    let told = scratch::run_child(&["open", &keys.to_string()], path)?;
    let words: Vec<_> = told.split_whitespace().collect();
    let [open, first, log, image, size] = words[..] else {
        return Err("the child tells five numbers".into());
    };
    let (open, first) = (open.parse()?, first.parse()?);
    Ok(Opened { open, first, log: log.parse()?, image: image.parse()?, size: size.parse()? })
}

/// Opens a store, reads one key, and prints the fields of [`Opened`].
pub(crate) fn child(path: &Path, keys: usize) -> Result<()> {
    let began = Instant::now();
    let store = Store::open(path)?;
    let open = began.elapsed();
    let found = store.get(key(keys as u64 / 2))?;
    let first = began.elapsed();
    if found.is_none() || store.len() != keys {
        return Err(format!("{} keys of {keys} are there", store.len()).into());
    }
    let report = store.recovery_report();
    let (log, image) = (report.bytes_read, report.checkpoint_bytes_read);
    println!("{} {} {log} {image} {}", millis(open), millis(first), store.stats().checkpoint_bytes);
    Ok(store.close()?)
}
