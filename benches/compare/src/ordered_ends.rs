//! The rows about the ends of ordered keys, and about the ends of a process: first keys, queues, counts,
//! memory, opens.

use std::path::Path;
use std::time::Instant;

use crate::engine::{OrderedEngine, Survives, ordered_contenders};
use crate::ordered::sorted;
use crate::rounds::{Measured, Race, Table, median, number};
use crate::rows::BATCH;
use crate::workload::{Key, key, value, value_pool, whole};
use crate::{Contender, Lab, Result, ends};

/// The part of the keys that makes the steps of a queue in a round is one in this many.
const QUEUE_SHARE: usize = 200;
/// The keys of a queue.
const QUEUE: usize = 1000;
/// The part of the keys that makes the reads of a first key in a round is one in this many.
const FIRST_SHARE: usize = 10;
/// The keys in a range that is counted.
const COUNTED: usize = 1000;
/// The keys in the first range behind an open.
const FIRST_RANGE: usize = 100;

/// Measures reads of the first key, a queue, and counts of ranges.
pub(crate) fn ends(lab: &Lab) -> Result<Vec<Table>> {
    let loaded = lab.filled_trees(&lab.workload.keys)?;
    let mut first = Race::new("ordered get of the first key");
    let reads = lab.keys / FIRST_SHARE;
    for tree in &loaded {
        first.add(tree.name, move |_| {
            Measured::time(reads, || {
                let mut sum = 0_u64;
                for _ in 0..reads {
                    tree.engine.read(&mut |reads| {
                        let touch = &mut |bytes: &[u8]| sum = sum.wrapping_add(whole(bytes));
                        let is_there = reads.first(touch)?;
                        if is_there { Ok(()) } else { Err("the first key is missing".into()) }
                    })?;
                }
                Ok(sum)
            })
        });
    }
    let first = first.run(lab.rounds)?;

    let keys = sorted(&lab.workload.keys);
    let pairs = lab.workload.order.iter().take(lab.keys / COUNTED).map(|at| {
        let from = at % (keys.len() - COUNTED + 1);
        (&keys[from], keys.get(from + COUNTED))
    });
    // Only the last range has no end.
    let pairs: Vec<_> = pairs.filter_map(|(from, to)| Some((from, to?))).collect();
    let mut counts = Race::new("ordered count of a range of 1000 keys, keys counted");
    for tree in &loaded {
        let pairs = &pairs;
        counts.add(tree.name, move |_| {
            Measured::time(pairs.len() * COUNTED, || {
                let mut sum = 0;
                tree.engine.read(&mut |reads| {
                    for (from, to) in pairs {
                        sum += reads.count(from.as_slice(), to.as_slice())?;
                    }
                    Ok(())
                })?;
                if sum == pairs.len() * COUNTED { Ok(sum as u64) } else { Err("a count is wrong".into()) }
            })
        });
    }
    let counts = counts.run(lab.rounds)?;
    Ok(vec![first, queue(lab)?, counts])
}

/// Measures a queue of 1000 keys: each step removes the first key and puts a new last one.
fn queue(lab: &Lab) -> Result<Table> {
    let steps = lab.keys / QUEUE_SHARE;
    let mut race = Race::new("ordered queue: remove the first key, put a last one");
    for contender in lab.ordered_contenders() {
        race.add(contender.name, move |_| {
            let directory = lab.directory()?;
            let engine = contender.open(directory.path(), Survives::Kill)?;
            let workload = &lab.workload;
            let put = |at: usize| engine.put(&place(at), workload.value(at, 0));
            (0..QUEUE).try_for_each(put)?;
            Measured::time(steps, || {
                let mut sum = 0_u64;
                for step in 0..steps {
                    let touch = &mut |bytes: &[u8]| sum = sum.wrapping_mul(3).wrapping_add(whole(bytes));
                    if !engine.pop_first(touch)? {
                        return Err("the queue is empty".into());
                    }
                    put(QUEUE + step)?;
                }
                Ok(sum)
            })
        });
    }
    race.run(lab.rounds)
}

/// Returns the key of a place in a queue.
fn place(at: usize) -> Key {
    (at as u128).to_be_bytes()
}

/// Measures the anonymous memory that a loaded contender takes, as the row `memory` does.
pub(crate) fn memory(lab: &Lab) -> Result<Vec<Table>> {
    let title = "ordered: anonymous memory after a load, in bytes per key";
    let mut table = Table::new(title, &["", "keys in random order", "keys in ascending order"]);
    for contender in lab.ordered_contenders() {
        let mut cells = vec![contender.name.to_owned()];
        for order in ["random", "ascending"] {
            let directory = lab.directory()?;
            let printed = run(&contender, lab.keys, directory.path(), order)?;
            cells.push(number(printed.trim().parse::<f64>()? / lab.keys as f64));
        }
        table.row(cells);
    }
    Ok(vec![table])
}

/// Measures an open after a close, to the first get and to the end of a range.
pub(crate) fn open(lab: &Lab) -> Result<Vec<Table>> {
    let title = "ordered: open after a close, page cache warm, in milliseconds";
    let headers = &["", "to the first value", "to the first 100 keys and values of a range"];
    let mut table = Table::new(title, headers);
    for contender in lab.ordered_contenders().filter(Contender::is_store) {
        let directory = lab.directory()?;
        run(&contender, lab.keys, directory.path(), "random")?;
        let mut cells = vec![contender.name.to_owned()];
        for read in ["get", "range"] {
            let mut times = Vec::new();
            for _ in 0..lab.rounds {
                times.push(run(&contender, lab.keys, directory.path(), read)?.trim().parse()?);
            }
            cells.push(number(median(&mut times)));
        }
        table.row(cells);
    }
    Ok(vec![table.note("Each open is the first act of a new process.")])
}

fn run(contender: &Contender<dyn OrderedEngine>, keys: usize, directory: &Path, act: &str) -> Result<String> {
    ends::spawn("--ordered", contender.name, keys, directory, act)
}

/// Runs a child: `NAME KEYS random|ascending|get|range DIR`. The first two fill the store, print the bytes
/// of anonymous memory that it gained, and close it. The others open it, read, and print the
/// milliseconds.
pub(crate) fn child(arguments: &[String]) -> Result<()> {
    let [name, keys, act, directory] = arguments else { return Err("not a child's arguments".into()) };
    let contender = ordered_contenders().into_iter().find(|contender| contender.name == *name);
    let contender = contender.ok_or_else(|| format!("no ordered contender is called {name}"))?;
    let (count, directory): (usize, _) = (keys.parse()?, Path::new(directory));
    if act == "get" || act == "range" {
        return open_child(&contender, count, directory, act == "get");
    }
    let mut keys: Vec<Key> = (0..count).map(|number| key(number as u64)).collect();
    if act == "ascending" {
        keys.sort_unstable();
    }
    let pool = value_pool();
    let before = crate::memory::anonymous()?;
    let engine = contender.open(directory, Survives::Kill)?;
    for from in (0..count).step_by(BATCH) {
        let numbers = from..(from + BATCH).min(count);
        let items: Vec<_> = numbers.map(|number| (keys[number], value(&pool, number, 0))).collect();
        engine.put_batch(&items)?;
    }
    println!("{}", crate::memory::anonymous()?.saturating_sub(before));
    engine.close()
}

fn open_child(
    contender: &Contender<dyn OrderedEngine>,
    keys: usize,
    directory: &Path,
    is_get: bool,
) -> Result<()> {
    let middle = key(keys as u64 / 2);
    let mut touched = 0;
    let touch = &mut |bytes: &[u8]| touched += bytes.len();
    let began = Instant::now();
    let engine = contender.open(directory, Survives::Kill)?;
    if is_get {
        engine.get(&middle, touch)?;
    } else {
        engine.read(&mut |reads| reads.range(&middle, FIRST_RANGE, touch).map(drop))?;
    }
    let millis = began.elapsed().as_secs_f64() * 1e3;
    if touched == 0 {
        return Err(format!("{}: the key of the open is missing", contender.name).into());
    }
    println!("{millis}");
    engine.close()
}
