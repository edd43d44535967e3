//! Standing by: waiting until no process has a store open, then becoming the command that serves it.
//!
//! The store's lock cannot pass to another program, because it ends with the open store. So between the
//! close here and the open in the command the store is free. A second lock, the *turn*, closes this gap
//! among standbys: a record lock on the file `.standby` in the directory. Such a lock belongs to the
//! process, so it stays with the command after the exec, it does not pass to the command's children,
//! and it ends with the process. A store ignores files whose names begin with a dot.
//!
//! **Order.** The turn first, then the store. So at most one standby waits for the store, and the others
//! wait for the command that it becomes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use clap::Args;
use mapcask::{Changes, Options, Since};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::commands::explained_for;
use super::seconds::parse_seconds;

/// The name of the file that standbys lock.
const TURN: &str = ".standby";
/// The variable that tells the command the directory.
const VARIABLE: &str = "MAPCASK_DIR";
/// The pause between two attempts to get the turn in a limited time.
const PAUSE: Duration = Duration::from_millis(20);

/// The arguments of a standby.
#[derive(Debug, Args)]
pub(super) struct StandbyArgs {
    /// The store's directory
    #[arg(value_name = "DIR")]
    store: PathBuf,
    /// Gives up with exit code 2 after this time
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// The command that opens the store, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

/// Waits for the store, and becomes the command. Returns only an error.
pub(super) fn standby(args: &StandbyArgs) -> Result<bool> {
    let end = args.timeout.map(|time| Instant::now() + time);
    let left = || end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
    let directory = std::path::absolute(&args.store)
        .with_context(|| format!("cannot find the store at {}", args.store.display()))?;
    let advice = "mapcask standby DIR -- COMMAND names another";
    // A mistyped directory is refused before anything is created in it. Only an open judges damage.
    match Changes::open(&directory, Since::Now) {
        Err(error) if !error.is_corruption() => explained_for(Err(error), &directory, advice)?,
        _ => {}
    }
    let turn = take_turn(&directory, left)?;
    let options = Options::new().create(false).wait_for_lock(left());
    // The recovery after a kill happens here, so the command opens a store that was closed.
    let store = explained_for(options.open(&directory), &directory, advice)?;
    store.close().with_context(|| format!("cannot close the store at {}", directory.display()))?;
    // The turn must outlive this program.
    fcntl_setfd(&turn, FdFlags::empty()).context("cannot hand the turn on to the command")?;
    let (program, arguments) = args.command.split_first().context("name a command: -- COMMAND")?;
    let failure = Command::new(program).args(arguments).env(VARIABLE, &directory).exec();
    Err(Error::new(failure).context(format!("cannot run {}", program.display())))
}

/// Opens the file of the turn, and creates it for the owner of the directory. The directory may be
/// another user's: a link is not followed, and nothing but an empty file is locked.
fn open_turn(directory: &Path, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let turn = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?);
    let (found, owner) = (turn.metadata()?, directory.metadata()?);
    if !found.is_file() || found.len() > 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no empty file, so no standby made it",
        ));
    }
    if rustix::process::geteuid().is_root() && found.uid() != owner.uid() {
        // The service that owns the store must be able to lock it, too.
        fchown(&turn, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(turn)
}

/// Waits until no other standby waits for the store, and no command that one became is running.
fn take_turn(directory: &Path, left: impl Fn() -> Duration) -> Result<File> {
    let path = directory.join(TURN);
    let turn = open_turn(directory, &path).with_context(|| format!("cannot open {}", path.display()))?;
    loop {
        let is_limited = left() < Duration::MAX;
        let operation =
            if is_limited { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::LockExclusive };
        match fcntl_lock(&turn, operation) {
            Ok(()) => return Ok(turn),
            Err(Errno::INTR) => {}
            // Systems differ in the number.
            Err(Errno::AGAIN | Errno::ACCESS) if is_limited && !left().is_zero() => {
                thread::sleep(PAUSE.min(left()));
            }
            Err(errno) => {
                let error = Error::new(io::Error::from(errno));
                let path = path.display();
                return Err(error.context(match errno {
                    Errno::AGAIN | Errno::ACCESS => {
                        format!("another standby had its turn all the time, by {path}; give more time with --timeout")
                    }
                    _ => format!("cannot lock {path}"),
                }));
            }
        }
    }
}
