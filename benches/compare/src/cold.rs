//! The row about a cold page cache: the first reads after an open whose files are not in memory.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use crate::engine::{Contender, Survives};
use crate::rounds::{Table, median, number};
use crate::workload::whole;
use crate::{Lab, Result, ends};

/// The number of keys that are read after the open.
const READS: usize = 1000;

/// Measures an open to the first value, and the next gets, with no page of the store in memory.
pub(crate) fn cold(lab: &Lab) -> Result<Vec<Table>> {
    let title = "open after a close, page cache cold, in milliseconds; then gets of random keys";
    let mut table = Table::new(title, &["", "to the first value", "next 1000 gets"]);
    for contender in lab.contenders().filter(Contender::is_store) {
        let (mut first, mut next) = (Vec::new(), Vec::new());
        let directory = lab.directory()?;
        ends::run(&contender, lab.keys, directory.path(), "close")?;
        for _ in 0..lab.rounds {
            forget(directory.path())?;
            let began = Instant::now();
            let engine = contender.open(&directory.path().join("store"), Survives::Kill)?;
            let mut sum = 0_u64;
            let mut probes = lab.workload.probes.iter().take(READS + 1);
            let mut get = |key: &[u8]| engine.get(key, &mut |value| sum = sum.wrapping_add(whole(value)));
            let mut found = usize::from(get(probes.next().ok_or("no keys")?)?);
            first.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            for key in probes {
                found += usize::from(get(key)?);
            }
            next.push(began.elapsed().as_secs_f64() * 1e3);
            std::hint::black_box(sum);
            if found != READS.min(lab.keys - 1) + 1 {
                return Err(format!("{}: {found} of {} keys are there", contender.name, READS + 1).into());
            }
            engine.close()?;
        }
        table.row([contender.name.to_owned(), number(median(&mut first)), number(median(&mut next))]);
    }
    Ok(vec![
        table.note("Before each open, all files are synced, and the kernel is asked to drop their pages."),
    ])
}

/// Makes all files below a path durable, and asks the kernel to drop their pages.
pub(crate) fn forget(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            forget(&entry?.path())?;
        }
        return Ok(());
    }
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}
