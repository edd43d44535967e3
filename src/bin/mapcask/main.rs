//! The command line: what can be said, and what the exit code means.
//!
//! Commands that only look open the store for reading only. Nothing in its directory changes, under any user.
//!
//! Exit codes are those of `grep`: 0 for yes, 1 for no (the key is absent, the demo found something missing or wrong,
//! a salvage met damage), 2 for an error, with its causes on standard error.

mod bytes;
mod commands;
mod demo;
mod salvage;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// A persistent hash map you can kill.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stores real files from a process that is killed in mid-write, and checks every acknowledged byte
    Demo(demo::DemoArgs),
    /// Inserts a key, or gives it a new value; creates the store and the keyspace if need be
    Put {
        #[command(flatten)]
        place: Place,
        /// The key
        key: OsString,
        /// The value; "-" or nothing reads it from standard input, as it is
        #[arg(allow_hyphen_values = true)]
        value: Option<OsString>,
    },
    /// Writes a key's value to standard output as it is; exits with 1 if the key is absent
    Get {
        #[command(flatten)]
        place: Place,
        /// The key
        key: OsString,
    },
    /// Removes a key; exits with 1 if it was absent
    Del {
        #[command(flatten)]
        place: Place,
        /// The key
        key: OsString,
    },
    /// Lists keys, one per line and in no order, escaped as in a byte string
    Scan(Scan),
    /// Lists the keyspaces, one per line: name in quotes, number of keys, live bytes, with tabs between; the one without
    /// a name comes first
    Keyspaces {
        #[command(flatten)]
        at: At,
    },
    /// Prints what the store and each of its keyspaces say of themselves
    Stats {
        #[command(flatten)]
        at: At,
    },
    /// Reads everything and compares it with its checksums
    Verify {
        #[command(flatten)]
        at: At,
    },
    /// Rewrites what is alive, and gives back the room of what was overwritten and removed
    Compact {
        #[command(flatten)]
        at: At,
    },
    /// Gets every intact record out of a damaged store, which stays as it is; exits with 1 if there is damage
    Salvage {
        /// The damaged store's directory
        from: PathBuf,
        /// The directory of the new store, which must be empty or not be there
        into: PathBuf,
    },
    #[command(name = demo::WRITER, hide = true)]
    DemoWriter(demo::WriterArgs),
}

/// Which store.
#[derive(Debug, Args)]
struct At {
    /// The store's directory
    #[arg(long, value_name = "DIR", default_value = "data")]
    store: PathBuf,
}

/// Which keyspace of which store, and how keys and values are written on the command line.
#[derive(Debug, Args)]
struct Place {
    #[command(flatten)]
    at: At,
    /// The keyspace; left out, it is the one without a name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    keyspace: String,
    /// Keys and values on the command line, and listed ones, are hexadecimal
    #[arg(long)]
    hex: bool,
}

#[derive(Debug, Args)]
struct Scan {
    #[command(flatten)]
    place: Place,
    /// Only keys that begin with this
    #[arg(long)]
    prefix: Option<OsString>,
    /// At most so many keys
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Values too, behind a tab
    #[arg(long)]
    values: bool,
}

/// Reads the command line, does what it says, and reports.
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        // The reader of a pipe has seen enough: `mapcask scan | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // What reads or writes files says so; all else goes to standard output.
            let is_bare = error.chain().count() == 1 && error.is::<io::Error>();
            let error = if is_bare { error.context("cannot write to standard output") } else { error };
            eprintln!("mapcask: {}", with_causes(&error));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let is_yes = match command {
        Command::Demo(args) => demo::run(&args)?,
        Command::DemoWriter(args) => demo::run_writer(&args).map(|()| true)?,
        Command::Put { place, key, value } => commands::put(&place, &key, value.as_deref())?,
        Command::Get { place, key } => commands::get(&place, &key)?,
        Command::Del { place, key } => commands::del(&place, &key)?,
        Command::Scan(scan) => commands::scan(&scan)?,
        Command::Keyspaces { at } => commands::keyspaces(&at)?,
        Command::Stats { at } => commands::stats(&at)?,
        Command::Verify { at } => commands::verify(&at)?,
        Command::Compact { at } => commands::compact(&at)?,
        Command::Salvage { from, into } => salvage::run(&from, &into)?,
    };
    Ok(if is_yes { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, without those that the text before them quotes already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}\n  because {cause}");
        }
    }
    text
}
