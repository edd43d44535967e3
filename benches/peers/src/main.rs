//! Measures mapcask beside other embedded stores.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- [--rounds N] [--date DATE]
//! [--dir DIR] [ROW]...` prints one Markdown table per row. All contenders of a table run in one
//! process, round by round in turn; figures are medians. Each peer runs in its fastest mode whose
//! writes survive the death of the process.

#[path = "../../environment.rs"]
mod environment;
mod large;
#[expect(dead_code, reason = "the benches of mapcask itself use more of it")]
#[path = "../../rounds.rs"]
mod rounds;

use std::path::PathBuf;

use crate::rounds::Table;

/// The result of a function that may fail in any way; the program prints the error and ends.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The inputs of a row.
pub(crate) struct Lab {
    /// The number of rounds that count.
    pub(crate) rounds: usize,
    /// The directory below which stores are made.
    pub(crate) directory: PathBuf,
}

impl Lab {
    /// Makes a new directory below the one that the caller named; it is removed on drop.
    pub(crate) fn directory(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(&self.directory)?)
    }
}

type Row = (&'static str, fn(&Lab) -> Result<Vec<Table>>);

const ROWS: [Row; 1] = [("large", large::put)];

fn main() -> Result<()> {
    let mut rows = Vec::new();
    let mut date = "not given".to_owned();
    let mut lab =
        Lab { rounds: 5, directory: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/stores") };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--rounds" => lab.rounds = value()?.parse()?,
            "--date" => date = value()?,
            "--dir" => lab.directory = value()?.into(),
            name => {
                let row = ROWS.iter().find(|(known, _)| *known == name);
                rows.push(
                    *row.ok_or_else(|| {
                        format!("no row is called {name}: {:?}", ROWS.map(|(known, _)| known))
                    })?,
                );
            }
        }
    }
    if lab.rounds == 0 {
        return Err("at least one round".into());
    }
    if rows.is_empty() {
        rows = ROWS.to_vec();
    }
    std::fs::create_dir_all(&lab.directory)?;
    for line in environment::describe(&lab.directory, &date) {
        println!("- {line}");
    }
    println!("- regime: medians of {} rounds, page cache warm\n", lab.rounds);
    for (_, row) in rows {
        let load = environment::load();
        for table in row(&lab)? {
            println!("{}", table.render());
        }
        println!("_Load average before and after: {load} and {}._\n", environment::load());
    }
    Ok(())
}
