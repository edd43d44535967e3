//! The row about the files while keys are overwritten again and again.

use crate::engine::{Contender, Survives};
use crate::rounds::{Table, number};
use crate::{Lab, Result, ends};

/// The number of times that each key is overwritten.
const TIMES: usize = 10;
/// The moments in one pass over the keys at which the files are measured.
const MOMENTS: usize = 4;

/// Measures the space on the disk while all keys are overwritten ten times in random order, as a
/// multiple of all keys and values.
pub(crate) fn growth(lab: &Lab) -> Result<Vec<Table>> {
    let live = lab.keys * (crate::workload::KEY_LEN + crate::workload::VALUE_LEN);
    let stores: Vec<_> = lab.contenders().filter(Contender::is_store).collect();
    let mut headers = vec!["percent overwritten"];
    headers.extend(stores.iter().map(|contender| contender.name));
    let mut rows: Vec<Vec<String>> =
        (1..=TIMES * MOMENTS).map(|moment| vec![(moment * 100 / MOMENTS).to_string()]).collect();
    for contender in &stores {
        let directory = lab.directory()?;
        let path = directory.path().join("store");
        let engine = contender.open(&path, Survives::Kill)?;
        lab.load(engine.as_ref())?;
        let mut moment = 0;
        for version in 1..=TIMES {
            for (at, number_of_key) in lab.workload.order.iter().enumerate() {
                let value = lab.workload.value(*number_of_key, version);
                engine.put(&lab.workload.keys[*number_of_key], value)?;
                if (at + 1) * MOMENTS / lab.keys > at * MOMENTS / lab.keys {
                    rows[moment].push(number(ends::blocks(&path)? as f64 / live as f64));
                    moment += 1;
                }
            }
        }
        engine.close()?;
    }
    let mut table = Table::new("disk space under overwrites; 1 is all keys and values", &headers);
    for cells in rows {
        table.row(cells);
    }
    Ok(vec![table])
}
