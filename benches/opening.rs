//! Opening: from nothing to the first value, after a clean close and after the death of the process.

use std::time::{Duration, Instant};

use mapcask::Store;

use crate::rounds::{Table, median, number};
use crate::workload::key;
use crate::{Lab, Result, scratch};

/// By the number of keys.
pub(crate) fn open(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "open, page cache warm, in milliseconds, by the number of keys",
        &[
            "keys",
            "clean: open",
            "clean: to first get",
            "killed: open",
            "killed: to first get",
            "killed: MiB/s of log",
        ],
    );
    for keys in [lab.keys / 100, lab.keys / 10, lab.keys] {
        let clean = lab.directory()?;
        let store = Store::open(clean.path())?;
        scratch::fill(&store, 0, keys)?;
        store.close()?;
        let killed = lab.directory()?;
        scratch::run_child(&["fill", &keys.to_string()], killed.path())?;
        let mut times = [const { Vec::new() }; 4];
        let mut read = 0;
        for _ in 0..lab.rounds {
            let (open, first, _) = measure(clean.path(), keys)?;
            times[0].push(millis(open));
            times[1].push(millis(first));
            // Opening recovers, so each round needs a store of its own that nobody recovered.
            let copy = lab.directory()?;
            scratch::copy(killed.path(), copy.path())?;
            let (open, first, bytes) = measure(copy.path(), keys)?;
            times[2].push(millis(open));
            times[3].push(millis(first));
            read = bytes;
        }
        let [open, first, killed_open, killed_first] = times.map(|mut times| median(&mut times));
        table.row([
            keys.to_string(),
            number(open),
            number(first),
            number(killed_open),
            number(killed_first),
            number(read as f64 / 1_048_576.0 / (killed_open / 1e3)),
        ]);
    }
    Ok(vec![
        table.note("Killed: SIGKILL right after the last put; each round opens a copy of what was left."),
    ])
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How long it takes to open, to have the first value too, and how many bytes were read for it.
fn measure(path: &std::path::Path, keys: usize) -> Result<(Duration, Duration, u64)> {
    let began = Instant::now();
    let store = Store::open(path)?;
    let open = began.elapsed();
    let found = store.get(key(keys as u64 / 2))?;
    let first = began.elapsed();
    if found.is_none() || store.len() != keys {
        return Err(format!("{} keys of {keys} are there", store.len()).into());
    }
    let read = store.recovery_report().bytes_read;
    store.close()?;
    Ok((open, first, read))
}
