//! Measures mapcask beside other embedded stores, and beside maps in memory.
//!
//! `cargo run --release --manifest-path benches/compare/Cargo.toml -- [--keys N] [--rounds N]
//! [--threads N,N] [--only NAME,NAME] [--date DATE] [--dir DIR] [ROW]...` prints Markdown tables for
//! each row, or for all rows without names. All contenders of a table run in one process, round by
//! round in turn, over the same keys in the same order. Figures are medians. Each store runs in its
//! fastest mode whose writes survive the death of the process, if it has one. The row `open` counts
//! the puts that a kill lost.

#![expect(clippy::print_stdout, reason = "printing tables is what this program is for")]

mod beyond;
mod cold;
mod ends;
mod engine;
mod engines;
#[path = "../../environment.rs"]
mod environment;
mod growth;
#[path = "../../histogram.rs"]
mod histogram;
mod large;
mod memory;
mod mix;
mod ordered;
mod ordered_ends;
mod ordered_mix;
#[path = "../../rounds.rs"]
mod rounds;
mod rows;
mod sizes;
mod transactions;
#[expect(dead_code, reason = "the benches of mapcask itself use more of it")]
#[path = "../../workload.rs"]
mod workload;

use std::path::PathBuf;

use crate::engine::Contender;
use crate::rounds::Table;
use crate::workload::Workload;

/// The result of a function that may fail in any way; the program prints the error and ends.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The inputs of a row.
pub(crate) struct Lab {
    /// The number of keys.
    pub(crate) keys: usize,
    /// The number of rounds that count.
    pub(crate) rounds: usize,
    /// The numbers of threads of the mixes.
    pub(crate) threads: Vec<usize>,
    /// The names of the contenders that take part; all of them if there is none.
    only: Vec<String>,
    /// The directory below which stores are made.
    pub(crate) directory: PathBuf,
    /// The keys, values and their order.
    pub(crate) workload: Workload,
}

impl Lab {
    /// Makes a new directory below the one that the caller named; it is removed on drop.
    pub(crate) fn directory(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(&self.directory)?)
    }

    /// Returns true if a contender takes part.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

type Row = (&'static str, fn(&Lab) -> Result<Vec<Table>>);

const ROWS: [Row; 25] = [
    ("load", rows::load),
    ("read", rows::read),
    ("overwrite", rows::overwrite),
    ("remove", rows::remove),
    ("mix", rows::mix),
    ("durable", rows::durable),
    ("latency", rows::latency),
    ("threads", rows::threads),
    ("sizes", sizes::sizes),
    ("open", ends::open),
    ("opens", ends::open_by_keys),
    ("cold", cold::cold),
    ("memory", memory::memory),
    ("space", ends::space),
    ("growth", growth::growth),
    ("ordered_put", ordered::put),
    ("ordered_get", ordered::get),
    ("ordered_overwrite", ordered::overwrite),
    ("ordered_scan", ordered::scan),
    ("ordered_range", ordered::range),
    ("ordered_ends", ordered_ends::ends),
    ("ordered_mix", ordered_mix::mix),
    ("ordered_memory", ordered_ends::memory),
    ("ordered_open", ordered_ends::open),
    ("transactions", transactions::transactions),
];

/// Rows of which only one runs without being named. They measure LMDB alone beside mapcask: `large`
/// with values of its own sizes, and `beyond`, which needs root and control groups.
const MORE_ROWS: [Row; 2] = [("large", large::put), ("beyond", beyond::beyond)];

/// The arguments of the program.
struct Arguments {
    lab: Lab,
    date: String,
    rows: Vec<Row>,
}

fn main() -> Result<()> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--child", rest)) = all.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return ends::child(rest);
    }
    if let Some(("--beyond", rest)) = all.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return beyond::child(rest);
    }
    if let Some(("--ordered", rest)) = all.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return ordered_ends::child(rest);
    }
    let Arguments { lab, date, rows } = parse(&all)?;
    std::fs::create_dir_all(&lab.directory)?;
    for line in environment::describe(&lab.directory, &date) {
        println!("- {line}");
    }
    println!(
        "- regime: {} keys of {} bytes, values of {} bytes, medians of {} rounds, page cache warm\n",
        lab.keys,
        workload::KEY_LEN,
        workload::VALUE_LEN,
        lab.rounds
    );
    println!("{}", stores(&lab).render());
    for (name, row) in rows {
        let load = environment::load();
        for table in row(&lab)? {
            println!("{}", table.render());
        }
        println!("_Load average before and after {name}: {load} and {}._\n", environment::load());
    }
    Ok(())
}

/// Returns the table of versions and modes.
fn stores(lab: &Lab) -> Table {
    let headers = &["", "version", "mode, most rows", "mode, durable puts"];
    let mut table = Table::new("The stores", headers);
    for contender in lab.contenders().filter(|contender| contender.is_store()) {
        let version = contender.version().unwrap_or("this one").to_owned();
        let [kill, power] = contender.modes.map(str::to_owned);
        table.row([contender.name.to_owned(), version, kill, power]);
    }
    table
}

fn parse(all: &[String]) -> Result<Arguments> {
    let (mut keys, mut rounds, mut threads, mut only) = (1_000_000, 5, vec![1, 2], Vec::new());
    let mut directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/stores");
    let (mut date, mut rows) = ("not given".to_owned(), Vec::new());
    let mut rest = all.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--keys" => keys = value()?.parse()?,
            "--rounds" => rounds = value()?.parse()?,
            "--threads" => {
                threads = value()?.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?
            }
            "--only" => only = value()?.split(',').map(str::to_owned).collect(),
            "--date" => date = value()?.clone(),
            "--dir" => directory = value()?.into(),
            name => {
                let row = ROWS.iter().chain(&MORE_ROWS).find(|(known, _)| *known == name);
                let names = ROWS.iter().chain(&MORE_ROWS).map(|(known, _)| *known).collect::<Vec<_>>();
                rows.push(*row.ok_or_else(|| format!("no row is called {name}: {names:?}"))?);
            }
        }
    }
    if keys < 1000 || rounds == 0 || threads.contains(&0) {
        return Err("at least 1000 keys, one round and one thread".into());
    }
    let mut known: Vec<_> = engine::contenders().iter().map(|contender| contender.name).collect();
    known.extend(
        engine::ordered_contenders().iter().find(|contender| !contender.is_store()).map(|map| map.name),
    );
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("no contender is called {unknown}: {known:?}").into());
    }
    if rows.is_empty() {
        rows = ROWS.iter().copied().chain([MORE_ROWS[0]]).collect();
    }
    let workload = Workload::new(keys);
    Ok(Arguments { lab: Lab { keys, rounds, threads, only, directory, workload }, date, rows })
}
