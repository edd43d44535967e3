//! The lock of the one writer: on the directory itself, which nobody can swap out, and on the lock file in it. Those who
//! only look share it among themselves, make no file and write nothing.
//!
//! The file's lock keeps out those who know only that, and names the holder. It is worth nothing once the file was
//! removed or replaced: the directory's lock is what counts then, and the file is put back. A file system that locks no
//! directories leaves the file alone to count, and its loss is an error.

use std::fs::{File, TryLockError};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dir_handle::Place;
use super::{Access, Claim, Lock, LockFailure, platform};

/// How often a lock is taken again because its file was replaced meanwhile.
const ATTEMPTS: usize = 16;
/// How long a waiting opener sleeps between two attempts: there is no lock of this kind with a time limit.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The same, once it has waited for a while.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The lock that this process holds through one directory, if it holds it.
pub(super) type HoldingFile = Arc<Mutex<Option<HeldClaim>>>;

/// A lock that is held.
#[derive(Debug)]
pub(super) struct HeldClaim {
    place: Arc<Place>,
    name: String,
    /// The content of the file; `None` where the holder writes nothing.
    note: Option<Vec<u8>>,
    /// Others may hold it, too.
    shared: bool,
    /// The lock file; `None` where there is none and who only looks makes none.
    file: Option<File>,
    /// Whether the directory is locked, too.
    has_dir: bool,
    /// A child that was forked has the same descriptors, and must not let go of what they hold.
    process: u32,
}

/// Held until dropped.
#[derive(Debug)]
pub(super) struct RealLock {
    holding: HoldingFile,
}

impl Lock for RealLock {}

impl Drop for RealLock {
    fn drop(&mut self) {
        self.holding.lock().take();
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        // The file first: its note is that of whoever holds it.
        if let Some(file) = &self.file {
            // Closing it does the same, except for what a forked child inherited.
            drop(file.unlock());
        }
        if self.has_dir {
            self.place.unlock();
        }
    }
}

/// Takes the lock, waiting for it as long as is said.
pub(super) fn take(
    place: &Arc<Place>,
    holding: &HoldingFile,
    name: &str,
    claim: Claim<'_>,
    wait: Duration,
) -> Result<RealLock, LockFailure> {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let failure = match try_take(place, name, claim) {
            Ok(held) => {
                *holding.lock() = Some(held);
                return Ok(RealLock { holding: Arc::clone(holding) });
            }
            Err(failure) => failure,
        };
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() || matches!(failure, LockFailure::Io(_)) {
            return Err(failure);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn try_take(place: &Arc<Place>, name: &str, claim: Claim<'_>) -> Result<HeldClaim, LockFailure> {
    let shared = claim == Claim::Look;
    let locked = place.try_lock(shared).map_err(LockFailure::Io)?;
    if locked == Some(false) {
        // Where those hold it who only look, the note is that of a writer who is gone.
        let is_looked_at = !shared && matches!(place.try_lock(true), Ok(Some(true)));
        if is_looked_at {
            place.unlock();
        }
        return Err(LockFailure::Held(if is_looked_at { Vec::new() } else { note_in(place, name) }));
    }
    let mut held = HeldClaim {
        place: Arc::clone(place),
        name: name.to_owned(),
        note: if let Claim::Write(note) = claim { Some(note.to_vec()) } else { None },
        shared,
        file: None,
        has_dir: locked.is_some(),
        process: std::process::id(),
    };
    held.take_file()?;
    Ok(held)
}

/// What the holder of a lock wrote; empty where it cannot be read, for it is only for a message.
fn note_in(place: &Place, name: &str) -> Vec<u8> {
    let mut note = vec![0; 64];
    let read = place.open_file(name, Access::Read).and_then(|file| platform::read_at(&file, &mut note, 0));
    note.truncate(read.unwrap_or(0));
    note
}

impl HeldClaim {
    /// Whether nobody else can be writing. A lost lock file is put back where the directory's lock is held.
    pub(super) fn is_safe(&mut self) -> bool {
        if self.note.is_none() || self.has_file() {
            return true;
        }
        // Where it cannot be put back the directory's lock still keeps everybody out, and the next change tries again.
        self.has_dir && !matches!(self.take_file(), Err(LockFailure::Held(_)))
    }

    fn has_file(&self) -> bool {
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = self.place.id_of(&self.name);
        // What cannot be found out says nothing.
        ours.is_some_and(|ours| !matches!(there, Ok(there) if there != Some(platform::identity(&ours).inode)))
    }

    /// Locks the file that has the name now, and makes it where it is missing and a note is to be in it.
    fn take_file(&mut self) -> Result<(), LockFailure> {
        for _ in 0..ATTEMPTS {
            let Some(file) = self.open_file().map_err(LockFailure::Io)? else { return Ok(()) };
            match if self.shared { file.try_lock_shared() } else { file.try_lock() } {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    // As in `try_take`; closing the file lets go of what this may take.
                    let is_looked_at = !self.shared && file.try_lock_shared().is_ok();
                    let note = if is_looked_at { Vec::new() } else { note_in(&self.place, &self.name) };
                    return Err(LockFailure::Held(note));
                }
                Err(TryLockError::Error(error)) => return Err(LockFailure::Io(error)),
            }
            // Somebody may have replaced the file between our opening and our locking it, and then another one holds
            // the lock on the file that everybody sees now.
            let ours = file.metadata().map_err(LockFailure::Io)?;
            if self.place.id_of(&self.name).map_err(LockFailure::Io)? == Some(platform::identity(&ours).inode)
            {
                if let Some(note) = &self.note {
                    write_note(&file, note).map_err(LockFailure::Io)?;
                }
                self.file = Some(file);
                return Ok(());
            }
        }
        Err(LockFailure::Io(io::Error::other("the lock file is replaced again and again")))
    }

    fn may_do_without(&self, error: &io::Error) -> bool {
        self.shared && self.has_dir && error.kind() == io::ErrorKind::PermissionDenied
    }

    fn open_file(&self) -> io::Result<Option<File>> {
        let access = if self.note.is_some() { Access::Write } else { Access::Read };
        match self.place.open_file(&self.name, access) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A holder that may not read it has the lock on the directory, and that is enough.
            Err(error) if self.may_do_without(&error) => return Ok(None),
            other => return other.map(Some),
        }
        if self.note.is_none() {
            return Ok(None);
        }
        match self.place.create_file(&self.name) {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.place.open_file(&self.name, access).map(Some)
            }
            other => other.map(Some),
        }
    }
}

/// Writes what is to be in the file of a lock, which may hold a longer note.
fn write_note(file: &File, note: &[u8]) -> io::Result<()> {
    platform::check_size_limit(note.len() as u64)?;
    platform::write_all_at(file, note, 0)?;
    // Seldom: it costs the file system a transaction.
    if file.metadata()?.len() == note.len() as u64 { Ok(()) } else { file.set_len(note.len() as u64) }
}
