//! Counts instructions and page faults of single operations, and fails if there are more than a
//! bound.
//!
//! Counts do not depend on the load of the machine, so a continuous check can compare them. Each
//! operation runs in two child processes, which differ only in the number of repetitions. The
//! difference of their counts is that of the operation. callgrind, a tool of valgrind, counts the
//! instructions. The kernel counts the page faults of a run without it. No worker runs: the
//! operation does all work itself.

use std::path::Path;
use std::process::{Command, Stdio};

use mapcask::{Durability, Options, Store, WriteBatch};

use crate::rounds::{Table, number};
use crate::workload::{key, value, value_pool, whole};
use crate::{Lab, Result, scratch};

/// The keys of a store that is read from.
const KEYS: usize = 20_000;
/// The keys in a batch.
const BATCH: usize = 1000;
/// The keys that one call reads.
const MANY: usize = 16;

/// An operation, and the most that it may cost.
struct Bound {
    name: &'static str,
    /// The repetitions of the two processes.
    repetitions: [usize; 2],
    /// The items in one repetition: counts are for one item.
    items: usize,
    /// The most instructions.
    instructions: f64,
    /// The most page faults.
    faults: f64,
}

/// The bounds are about a twentieth above what was counted: the secret of each store differs, and
/// with it the distribution of the keys.
const BOUNDS: [Bound; 12] = [
    Bound { name: "get", repetitions: [0, 40_000], items: 1, instructions: 550.0, faults: 0.01 },
    Bound { name: "get-owned", repetitions: [0, 40_000], items: 1, instructions: 630.0, faults: 0.01 },
    Bound { name: "miss", repetitions: [0, 40_000], items: 1, instructions: 380.0, faults: 0.01 },
    Bound { name: "multi-get", repetitions: [0, 4000], items: MANY, instructions: 1_030.0, faults: 0.01 },
    Bound { name: "iterate", repetitions: [1, 4], items: KEYS, instructions: 530.0, faults: 0.01 },
    Bound { name: "put", repetitions: [20_000, 60_000], items: 1, instructions: 2_550.0, faults: 0.05 },
    Bound { name: "overwrite", repetitions: [20_000, 60_000], items: 1, instructions: 2_570.0, faults: 0.05 },
    Bound { name: "remove", repetitions: [0, 20_000], items: 1, instructions: 2_340.0, faults: 0.05 },
    Bound { name: "batch", repetitions: [20, 60], items: BATCH, instructions: 2_340.0, faults: 0.05 },
    Bound { name: "durable", repetitions: [100, 500], items: 1, instructions: 7_800.0, faults: 1.3 },
    Bound { name: "open", repetitions: [1, 11], items: 1, instructions: 350_000.0, faults: 11.0 },
    Bound { name: "recover", repetitions: [5000, 20_000], items: 1, instructions: 1_560.0, faults: 0.05 },
];

/// Counts every operation.
///
/// # Errors
///
/// Fails if one exceeds its bound, after the table was printed.
pub(crate) fn counts(lab: &Lab) -> Result<Vec<Table>> {
    let headers = &["", "instructions", "bound", "page faults", "bound of page faults"];
    let mut table = Table::new("instructions and page faults of one operation", headers);
    let can_count = cfg!(target_arch = "x86_64") && has_valgrind();
    if !can_count {
        eprintln!("SKIPPED: instructions are counted on x86-64 with valgrind only");
    }
    let mut exceeded = Vec::new();
    for bound in &BOUNDS {
        let [mut instructions, mut faults] = [[0_u64; 2]; 2];
        for (at, repetitions) in bound.repetitions.into_iter().enumerate() {
            faults[at] = run(lab, bound.name, repetitions, false)?;
            if can_count {
                instructions[at] = run(lab, bound.name, repetitions, true)?;
            }
        }
        let items = ((bound.repetitions[1] - bound.repetitions[0]) * bound.items) as f64;
        let each = |counts: [u64; 2]| counts[1].saturating_sub(counts[0]) as f64 / items;
        let (instructions, faults) = (each(instructions), each(faults));
        if instructions > bound.instructions || faults > bound.faults {
            exceeded.push(bound.name);
        }
        let cells = [instructions, bound.instructions, faults, bound.faults].map(number);
        table.row([bound.name.to_owned()].into_iter().chain(cells));
    }
    if exceeded.is_empty() {
        return Ok(vec![table]);
    }
    eprintln!("{}", table.render());
    Err(format!("more than the bound in benches/counts.rs: {}", exceeded.join(", ")).into())
}

fn has_valgrind() -> bool {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Runs an operation in a child. Returns the page faults of the repetitions, or the instructions of
/// the process.
fn run(lab: &Lab, name: &str, repetitions: usize, instructions: bool) -> Result<u64> {
    let directory = lab.directory()?;
    if name == "recover" {
        // Without a worker: the instant at which it writes a file of hints would decide the count.
        scratch::run_child(&["fill-alone", &repetitions.to_string()], directory.path())?;
    }
    let program = std::env::current_exe()?;
    let mut command = if instructions { Command::new("valgrind") } else { Command::new(&program) };
    if instructions {
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(&program);
    }
    command.args(["--child", "count", name, &repetitions.to_string()]).arg(directory.path());
    let output = command.output()?;
    let (printed, told) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    if !output.status.success() {
        return Err(format!("the child that counts {name} failed: {told}").into());
    }
    if !instructions {
        return Ok(printed.trim().parse()?);
    }
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = collected.ok_or("valgrind printed no count")?;
    Ok(count.trim().parse()?)
}

/// Runs a child: `OPERATION REPETITIONS DIR`. It prints the page faults of the repetitions.
pub(crate) fn child(name: &str, repetitions: usize, directory: &str) -> Result<()> {
    let pool = value_pool();
    let options = Options::new().background(false);
    let options = if name == "durable" { options.durability(Durability::Disk) } else { options };
    if name == "open" || name == "recover" {
        return open(name, repetitions, options, Path::new(directory));
    }
    let store = options.open(directory)?;
    let loaded = if matches!(name, "put" | "batch" | "durable") { 0 } else { KEYS };
    for number in 0..loaded {
        store.insert(key(number as u64), value(&pool, number, 0))?;
    }
    let before = faults()?;
    repeat(&store, name, repetitions, &pool)?;
    println!("{}", faults()? - before);
    // Neither a close nor its checkpoint counts.
    std::process::exit(0);
}

fn repeat(store: &Store, name: &str, repetitions: usize, pool: &[u8]) -> Result<()> {
    // A step that visits every key once, in an order that is not that of the log.
    let at = |number: usize| (number * 7919) % KEYS;
    let view = store.view();
    let mut sum = 0_u64;
    match name {
        "get" => {
            for number in 0..repetitions {
                let found = view.get(key(at(number) as u64))?.ok_or("a key is missing")?;
                sum = sum.wrapping_add(whole(found));
            }
        }
        "get-owned" => {
            for number in 0..repetitions {
                let found = store.get(key(at(number) as u64))?.ok_or("a key is missing")?;
                sum = sum.wrapping_add(whole(&found));
            }
        }
        "miss" => {
            for number in 0..repetitions {
                sum += u64::from(view.contains_key(key(number as u64 | 1 << 63))?);
            }
        }
        "multi-get" => {
            let mut found = Vec::with_capacity(MANY);
            for number in 0..repetitions {
                let keys: [_; MANY] = std::array::from_fn(|n| key(at(number * MANY + n) as u64));
                view.get_many_into(&keys, &mut found)?;
                sum += found.drain(..).flatten().map(whole).fold(0, u64::wrapping_add) & 1;
            }
        }
        "iterate" => {
            for _ in 0..repetitions {
                for item in store {
                    sum = sum.wrapping_add(whole(&item?.1));
                }
            }
        }
        "put" | "durable" => {
            for number in 0..repetitions {
                store.insert(key(number as u64), value(pool, number, 0))?;
            }
        }
        "overwrite" => {
            for number in 0..repetitions {
                store.insert(key(at(number) as u64), value(pool, number, 1))?;
            }
        }
        "remove" => {
            for number in 0..repetitions {
                store.remove(key(at(number) as u64))?;
            }
        }
        "batch" => {
            for first in (0..repetitions).map(|number| number * BATCH) {
                let mut batch = WriteBatch::new();
                for number in first..first + BATCH {
                    batch.insert(key(number as u64), value(pool, number, 0));
                }
                store.write(&batch)?;
            }
        }
        other => return Err(format!("no operation is called {other}").into()),
    }
    std::hint::black_box(sum);
    Ok(())
}

/// Opens and closes a loaded store again and again, or opens the store of a killed process once.
fn open(name: &str, repetitions: usize, options: Options, directory: &Path) -> Result<()> {
    if name == "recover" {
        let before = faults()?;
        let store = options.open(directory)?;
        println!("{}", faults()? - before);
        if store.len() != repetitions {
            return Err(format!("{} of {repetitions} keys are there", store.len()).into());
        }
        std::process::exit(0);
    }
    let store = options.clone().open(directory)?;
    scratch::fill(&store, 0, KEYS)?;
    store.close()?;
    let before = faults()?;
    for _ in 0..repetitions {
        let store = options.clone().open(directory)?;
        store.get(key(1))?.ok_or("a key is missing")?;
        store.close()?;
    }
    println!("{}", faults()? - before);
    Ok(())
}

/// Returns the page faults of this process.
fn faults() -> Result<u64> {
    // Fields 10 and 12 of proc(5), counted behind the name in parentheses, which may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    Ok(fields[7].parse::<u64>()? + fields[9].parse::<u64>()?)
}
