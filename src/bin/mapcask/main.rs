//! The command line: its commands, options and exit codes.
//!
//! Commands that only read work while another process writes to the store. Nothing in its directory
//! changes, under any user.
//!
//! Exit codes are those of `grep`:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | yes |
//! | 1 | no: the key is absent, the demo found missing or wrong data, a salvage found damage |
//! | 2 | an error, with its causes on standard error |

mod backup;
mod bytes;
mod commands;
mod demo;
mod look;
mod salvage;
mod seconds;
#[cfg(unix)]
mod standby;
mod tail;
mod top;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// The help of `top` behind its options.
const TOP_HELP: &str =
    "It takes no lock and changes no file. A writer that is called open may have been killed.

Rates count what the view has read from the log. Bytes of the log are those of records, with their \
headers. Freed bytes are those of the segments that compaction removed, less the copies it made. If \
compaction was faster than the view, \"jumped\" is true, and the rates of that interval are incomplete. \
Numbers behind the last write count writes that are not durable yet, and the log's own records among them.";

/// The help of `standby` behind its options.
#[cfg(unix)]
const STANDBY_HELP: &str =
    "COMMAND takes the place of this process, so it has its process id, and its exit code is \
COMMAND's. The variable MAPCASK_DIR tells it the directory. A writer may end in any way, by kill -9 too.

  - COMMAND begins after a moment at which no process had the store open, and finds every write that \
had returned.
  - Of several standbys of a store on a machine, one at a time becomes COMMAND. The others wait until \
that process has ended. They agree through the file .standby in DIR.
  - A process that is no standby can open the store before COMMAND does. COMMAND then gets the error \
Locked.
  - COMMAND must not leave the service to a child and end: the next standby would not wait for that.

Exit code 2 without COMMAND's doing: the time is over, the store cannot be opened, or COMMAND cannot be run.";

/// A persistent hash map you can kill.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(
    after_help = "get, scan, keyspaces, stats, top, verify and backup work while another process writes to the store. \
    They change no file, and need only read permission."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stores real files, kills the writer in mid-write, and checks every acknowledged byte
    Demo(demo::DemoArgs),
    /// Inserts a key or overwrites its value; creates the store and the keyspace if there is none
    Put {
        #[command(flatten)]
        place: Place,
        /// The key
        key: OsString,
        /// The value; if it is "-" or missing, it is read from standard input, byte for byte
        #[arg(allow_hyphen_values = true)]
        value: Option<OsString>,
        /// Creates the keyspace as an ordered one, if there is none; refuses one without order
        #[arg(long)]
        ordered: bool,
    },
    /// Writes a key's value to standard output, byte for byte; exits with 1 if the key is absent
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
    /// Lists the keys, one per line and escaped as in a byte string. Those of an ordered keyspace
    /// ascend; others come in no order
    Scan(Scan),
    /// Prints the changes that the log still holds, in order and as lines of JSON. Keys and values are
    /// escaped as in a byte string, or hexadecimal. Exits with 1 if changes are missing behind the
    /// beginning
    Tail(Tail),
    /// Lists the keyspaces, one per line: quoted name, number of keys, live bytes, and "ordered" or
    /// "unordered", separated by tabs. The one without a name comes first
    Keyspaces {
        #[command(flatten)]
        at: At,
    },
    /// Prints the state of the writer, and the counters of the store and of each keyspace. A writer
    /// that is called open may have been killed
    Stats {
        #[command(flatten)]
        at: At,
    },
    /// Shows what happens in a store that another process writes to: rates, sizes, compaction,
    /// durability, and the largest keyspaces. On a terminal it redraws them in place; elsewhere it
    /// prints a line of JSON for each interval
    #[command(after_help = TOP_HELP)]
    Top(top::TopArgs),
    /// Waits until no process has the store open, recovers it, and becomes COMMAND, which serves it
    #[cfg(unix)]
    #[command(after_help = STANDBY_HELP)]
    Standby(standby::StandbyArgs),
    /// Reads everything and compares it with its checksums. A writer that has the store open goes
    /// on; otherwise none can open it meanwhile
    Verify {
        #[command(flatten)]
        at: At,
    },
    /// Compacts the whole store: rewrites live records and frees the space of all others
    Compact {
        #[command(flatten)]
        at: At,
    },
    /// Copies every intact record of a damaged store to a new one; exits with 1 if there is damage
    Salvage {
        /// The damaged store's directory
        from: PathBuf,
        /// The directory of the new store, which must be empty or absent
        into: PathBuf,
    },
    /// Copies the store to a directory, while another process writes to it. A later backup to the same
    /// directory copies only what is new, and an interrupted one changes nothing
    Backup {
        /// The store's directory
        store: PathBuf,
        /// The directory of the backup, which holds nothing or an earlier backup of the store
        target: PathBuf,
    },
    /// Makes a store of a backup, after verifying every file of it
    Restore {
        /// The directory of the backup
        backup: PathBuf,
        /// The directory of the new store, which must be empty or absent
        store: PathBuf,
    },
    #[command(name = demo::WRITER, hide = true)]
    DemoWriter(demo::WriterArgs),
}

/// The store to use.
#[derive(Debug, Args)]
struct At {
    /// The store's directory
    #[arg(long, value_name = "DIR", default_value = "data")]
    store: PathBuf,
}

/// The keyspace to use, and the notation of keys and values on the command line.
#[derive(Debug, Args)]
struct Place {
    #[command(flatten)]
    at: At,
    /// The keyspace; by default the one without a name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    keyspace: String,
    /// Reads and prints keys and values as hexadecimal digits
    #[arg(long)]
    hex: bool,
}

#[derive(Debug, Args)]
struct Scan {
    #[command(flatten)]
    place: Place,
    /// Lists only keys that begin with this prefix
    #[arg(long)]
    prefix: Option<OsString>,
    /// Lists only keys from this one on; needs an ordered keyspace
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,
    /// Lists only keys before this one; needs an ordered keyspace
    #[arg(long, value_name = "KEY")]
    to: Option<OsString>,
    /// Begins at the last key; needs an ordered keyspace
    #[arg(long)]
    reverse: bool,
    /// Lists at most this many keys
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Also prints values, after a tab
    #[arg(long)]
    values: bool,
}

#[derive(Debug, Args)]
struct Tail {
    #[command(flatten)]
    at: At,
    /// Where to begin: oldest, state, now, or behind a sequence number
    #[arg(long, value_name = "oldest|state|now|N", default_value = "oldest")]
    from: String,
    /// Goes on with new changes, until it is interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only changes of this keyspace; may be given several times. The default one has an empty name
    #[arg(long, value_name = "NAME")]
    keyspace: Vec<String>,
    /// Only changes that are durable
    #[arg(long)]
    durable: bool,
    /// Prints keys and values as hexadecimal digits
    #[arg(long)]
    hex: bool,
}

/// Runs the command of the command line, and reports errors.
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        // The reader of the pipe has ended: `mapcask scan | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Errors of files carry a context; any other is an error of standard output.
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
        Command::Put { place, key, value, ordered } => {
            commands::put(&place, &key, value.as_deref(), ordered)?
        }
        Command::Get { place, key } => commands::get(&place, &key)?,
        Command::Del { place, key } => commands::del(&place, &key)?,
        Command::Scan(scan) => commands::scan(&scan)?,
        Command::Tail(args) => tail::tail(&args)?,
        Command::Keyspaces { at } => commands::keyspaces(&at)?,
        Command::Stats { at } => commands::stats(&at)?,
        Command::Top(args) => top::top(&args)?,
        #[cfg(unix)]
        Command::Standby(args) => standby::standby(&args)?,
        Command::Verify { at } => commands::verify(&at)?,
        Command::Compact { at } => commands::compact(&at)?,
        Command::Salvage { from, into } => salvage::run(&from, &into)?,
        Command::Backup { store, target } => backup::backup(&store, &target)?,
        Command::Restore { backup, store } => backup::restore(&backup, &store)?,
    };
    Ok(if is_yes { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns the error with its causes, except those that the text before them quotes.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}\n  because {cause}");
        }
    }
    text
}
