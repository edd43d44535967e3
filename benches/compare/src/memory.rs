//! The row about memory: each contender is loaded in a process of its own.

use std::fs;

use crate::rounds::{Table, number};
use crate::{Lab, Result, ends};

/// Measures the anonymous memory that a loaded contender takes. Pages of mapped files are not
/// counted, because the kernel can take them back.
pub(crate) fn memory(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new("anonymous memory after a load, in bytes per key", &["", "loaded"]);
    for contender in lab.contenders() {
        let directory = lab.directory()?;
        let printed = ends::run(&contender, lab.keys, directory.path(), "memory")?;
        let bytes: u64 = printed.trim().parse()?;
        table.row([contender.name.to_owned(), number(bytes as f64 / lab.keys as f64)]);
    }
    Ok(vec![table])
}

/// Returns the bytes of anonymous memory of this process.
pub(crate) fn anonymous() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("no line for it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
