//! Measures mapcask against hash maps in memory, and against the limits of the kernel and the
//! device.
//!
//! `cargo bench -- [--keys N] [--rounds N] [--date DATE] [--dir DIR] [ROW]...` prints Markdown
//! tables for each row, or for all rows without names. All contenders of a table run in one
//! process, round by round in turn, over the same keys in the same order. They must read the same
//! bytes. Figures are medians. This bench measures no other engines.

#![expect(clippy::print_stdout, reason = "printing tables is what this program is for")]

mod compaction;
mod counts;
mod durable;
mod environment;
mod feeding;
mod following;
mod histogram;
mod large;
mod latency;
mod opening;
mod ordered;
mod reads;
mod rounds;
mod scratch;
mod space;
mod taking_over;
mod transactions;
mod workload;
mod writes;

use std::path::PathBuf;
use std::time::Instant;

use crate::rounds::Table;
use crate::workload::Workload;

/// The result of a function that may fail in any way; the program prints the error and ends.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The input of every row.
pub(crate) struct Lab {
    /// The number of keys.
    pub(crate) keys: usize,
    /// The number of rounds that count.
    pub(crate) rounds: usize,
    /// The directory of the stores.
    pub(crate) directory: PathBuf,
    /// The keys, values and their order.
    pub(crate) workload: Workload,
}

type Row = (&'static str, fn(&Lab) -> Result<Vec<Table>>);

const ROWS: [Row; 24] = [
    ("get", reads::get),
    ("get_miss", reads::get_miss),
    ("multi_get", reads::multi_get),
    ("get_threads", reads::get_threads),
    ("get_verified", reads::get_verified),
    ("iterate", reads::iterate),
    ("ordered", ordered::ordered),
    ("put", writes::put),
    ("put_batch", writes::put_batch),
    ("overwrite", writes::overwrite),
    ("remove", writes::remove),
    ("transactions", transactions::transactions),
    ("large", large::large),
    ("latency", latency::latency),
    ("durable", durable::durable),
    ("open", opening::open),
    ("follow", following::follow),
    ("put_watched", feeding::put_watched),
    ("feed", feeding::feed),
    ("take_over", taking_over::take_over),
    ("memory", space::memory),
    ("disk", space::disk),
    ("compact", compaction::compact),
    ("compact_latency", latency::compact_latency),
];

/// The row that compares counts with bounds. It runs only if it is named.
const COUNTS: Row = ("counts", counts::counts);

/// The arguments of the program.
struct Arguments {
    keys: usize,
    rounds: usize,
    date: String,
    directory: PathBuf,
    rows: Vec<Row>,
}

fn main() -> Result<()> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--child", rest)) = all.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return scratch::child(rest);
    }
    let arguments = parse(&all)?;
    std::fs::create_dir_all(&arguments.directory)?;
    for line in environment::describe(&arguments.directory, &arguments.date) {
        println!("- {line}");
    }
    println!(
        "- regime: {} keys of {} bytes, values of {} bytes, medians of {} rounds, page cache warm\n",
        arguments.keys,
        workload::KEY_LEN,
        workload::VALUE_LEN,
        arguments.rounds
    );
    let lab = Lab {
        keys: arguments.keys,
        rounds: arguments.rounds,
        directory: arguments.directory,
        workload: Workload::new(arguments.keys),
    };
    for (name, row) in arguments.rows {
        let began = Instant::now();
        let load = environment::load();
        for table in row(&lab)? {
            println!("{}", table.render());
        }
        println!("_Load average before and after: {load} and {}._\n", environment::load());
        eprintln!("{name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

fn parse(all: &[String]) -> Result<Arguments> {
    let mut arguments = Arguments {
        keys: 1_000_000,
        rounds: 5,
        date: "not given".to_owned(),
        directory: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench"),
        rows: Vec::new(),
    };
    let mut rest = all.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds this argument.
            "--bench" => {}
            "--keys" => arguments.keys = value()?.parse()?,
            "--rounds" => arguments.rounds = value()?.parse()?,
            "--date" => arguments.date = value()?.clone(),
            "--dir" => arguments.directory = value()?.into(),
            name => {
                let row = ROWS.iter().chain([&COUNTS]).find(|(known, _)| *known == name);
                arguments.rows.push(*row.ok_or_else(|| format!("no row is called {name}: {:?}", names()))?);
            }
        }
    }
    if arguments.rows.is_empty() {
        arguments.rows = ROWS.to_vec();
    }
    if arguments.keys < 1000 || arguments.rounds == 0 {
        return Err("at least 1000 keys and one round".into());
    }
    Ok(arguments)
}

fn names() -> [&'static str; ROWS.len()] {
    ROWS.map(|(name, _)| name)
}
