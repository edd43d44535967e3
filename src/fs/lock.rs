//! The lock of the one writer: on the directory itself, which no program can replace, and on the
//! lock file in it. Readers share the lock, create no file and write nothing.
//!
//! The file's lock excludes programs that know only the file, and its note names the holder. Once
//! the file is removed or replaced, its lock excludes no one. The directory's lock still does, and
//! the file is put back. On a file system without directory locks only the file's lock counts, and
//! losing the file is an error.

use std::fs::{File, TryLockError};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dir_handle::Place;
use super::{Access, Claim, Lock, LockFailure, identity, platform};

/// The number of times that a lock is retried because its file was replaced meanwhile.
const ATTEMPTS: usize = 16;
/// The first pause of a waiting opener between two attempts. No lock of this kind has a timeout.
const PAUSE_MIN: Duration = Duration::from_micros(500);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// The lock that this process holds through one directory, if it holds it.
pub(super) type HoldingFile = Arc<Mutex<Option<HeldClaim>>>;

/// A held lock.
#[derive(Debug)]
pub(super) struct HeldClaim {
    place: Arc<Place>,
    name: String,
    /// The content of the file; `None` if the holder writes nothing.
    note: Option<Vec<u8>>,
    /// True if others may hold it too.
    shared: bool,
    /// The lock file; `None` for a reader if the file does not exist or may not be read.
    file: Option<File>,
    /// True if the directory is locked too.
    has_dir: bool,
    /// The process that took the lock. A forked child has the same descriptors, and must not
    /// release their locks.
    process: u32,
}

/// The writer's or reader's claim, held until dropped.
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
        // The file is unlocked first, because its note names the holder.
        if let Some(file) = &self.file {
            // Closing it has the same effect, except for descriptors that a forked child inherited.
            drop(file.unlock());
        }
        if self.has_dir {
            self.place.unlock();
        }
    }
}

/// Takes the lock, and waits for it up to `wait`.
///
/// A wait without an end sleeps in the system until the directory's lock is free. Of several such
/// openers, the system wakes one.
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
        if wait == Duration::MAX {
            // The attempt takes the lock again, of the same open directory, which changes nothing.
            place.wait_for_lock(claim == Claim::Look);
        }
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
    let locked = attempt(shared, |shared| place.try_lock(shared), || place.unlock());
    let locked = locked.map_err(LockFailure::Io)?;
    if let Attempt::Held { by_readers } = locked {
        return Err(LockFailure::Held(if by_readers { Vec::new() } else { note_in(place, name) }));
    }
    let mut held = HeldClaim {
        place: Arc::clone(place),
        name: name.to_owned(),
        note: if let Claim::Write(note) = claim { Some(note.to_vec()) } else { None },
        shared,
        file: None,
        has_dir: locked == Attempt::Taken,
        process: std::process::id(),
    };
    held.take_file()?;
    Ok(held)
}

/// The result of an attempt to take one of the locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Taken,
    /// Another holder has it. If readers have it, the note belongs to an earlier writer.
    Held {
        by_readers: bool,
    },
    /// The file system has no such locks.
    Unknown,
}

/// Tries to take a lock, and finds out who has it if that is refused. `try_lock` takes the lock
/// shared if it is given `true`.
///
/// A refused writer takes the lock shared to see that no writer has it, and keeps other writers out
/// meanwhile. So it tries once more after that: if the holder has let go, the last writer to look
/// finds the lock free, and at least one of them gets it.
fn attempt(
    shared: bool,
    mut try_lock: impl FnMut(bool) -> io::Result<Option<bool>>,
    unlock: impl Fn(),
) -> io::Result<Attempt> {
    match try_lock(shared)? {
        Some(true) => return Ok(Attempt::Taken),
        Some(false) => {}
        None => return Ok(Attempt::Unknown),
    }
    if shared || !matches!(try_lock(true), Ok(Some(true))) {
        return Ok(Attempt::Held { by_readers: false });
    }
    unlock();
    Ok(if try_lock(false)? == Some(true) { Attempt::Taken } else { Attempt::Held { by_readers: true } })
}

/// Tries to lock a file, with the results of [`Place::try_lock`].
fn try_lock_file(file: &File, shared: bool) -> io::Result<Option<bool>> {
    match if shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => Ok(Some(true)),
        Err(TryLockError::WouldBlock) => Ok(Some(false)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns the note of the lock's holder; empty if it cannot be read, because it is only for a
/// message.
fn note_in(place: &Place, name: &str) -> Vec<u8> {
    let mut note = vec![0; 64];
    let read = place.open_file(name, Access::Read).and_then(|file| platform::read_at(&file, &mut note, 0));
    note.truncate(read.unwrap_or(0));
    note
}

impl HeldClaim {
    /// True if no other process can be writing. If the directory's lock is held, a lost lock file
    /// is put back.
    pub(super) fn is_safe(&mut self) -> bool {
        if self.note.is_none() || self.has_file() {
            return true;
        }
        // If it cannot be put back, the directory's lock still excludes all others, and the next
        // change tries again.
        self.has_dir && !matches!(self.take_file(), Err(LockFailure::Held(_)))
    }

    fn has_file(&self) -> bool {
        let ours = self.file.as_ref().and_then(|file| identity::identity(file).ok());
        let there = self.place.id_of(&self.name);
        // An unknown identity proves nothing.
        ours.is_some_and(|ours| !matches!(there, Ok(there) if there != Some(ours.inode)))
    }

    /// Locks the file that has the name now. Creates it if it is missing and there is a note for
    /// it.
    fn take_file(&mut self) -> Result<(), LockFailure> {
        for _ in 0..ATTEMPTS {
            let Some(file) = self.open_file().map_err(LockFailure::Io)? else { return Ok(()) };
            let locked = attempt(self.shared, |shared| try_lock_file(&file, shared), || drop(file.unlock()));
            if let Attempt::Held { by_readers } = locked.map_err(LockFailure::Io)? {
                let note = if by_readers { Vec::new() } else { note_in(&self.place, &self.name) };
                return Err(LockFailure::Held(note));
            }
            if self.is_in_place(&file).map_err(LockFailure::Io)? {
                if let Some(note) = &self.note {
                    write_note(&file, note).map_err(LockFailure::Io)?;
                }
                self.file = Some(file);
                return Ok(());
            }
        }
        Err(LockFailure::Io(io::Error::other("the lock file is replaced again and again")))
    }

    /// Returns true if the name leads to this locked file.
    ///
    /// Another process may have replaced the file between the open and the lock. Then a third one
    /// may hold the lock on the file that is visible now.
    fn is_in_place(&self, file: &File) -> io::Result<bool> {
        let ours = identity::identity(file)?.inode;
        Ok(self.place.id_of(&self.name)? == Some(ours))
    }

    fn may_do_without(&self, error: &io::Error) -> bool {
        self.shared && self.has_dir && error.kind() == io::ErrorKind::PermissionDenied
    }

    fn open_file(&self) -> io::Result<Option<File>> {
        let access = if self.note.is_some() { Access::Write } else { Access::Read };
        match self.place.open_file(&self.name, access) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A holder that may not read the file has the lock on the directory, which suffices.
            Err(error) if self.may_do_without(&error) => return Ok(None),
            other => return other.map(Some),
        }
        if self.note.is_none() {
            return Ok(None);
        }
        match self.place.create_file(&self.name) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.place.open_file(&self.name, access).map(Some)
            }
            other => other.map(Some),
        }
    }
}

/// Writes a lock file's note, which may replace a longer one.
fn write_note(file: &File, note: &[u8]) -> io::Result<()> {
    platform::check_size_limit(note.len() as u64)?;
    platform::write_all_at(file, note, 0)?;
    // Rarely needed: it costs the file system a transaction.
    if file.metadata()?.len() == note.len() as u64 { Ok(()) } else { file.set_len(note.len() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a directory, and opens it as several processes would.
    fn opened<const N: usize>() -> (tempfile::TempDir, [Place; N]) {
        let here = std::env::current_exe().expect("the test itself");
        let dir = tempfile::tempdir_in(here.parent().expect("it lies in a folder")).unwrap();
        let places = std::array::from_fn(|_| Place::open(dir.path()).unwrap());
        (dir, places)
    }

    /// Cause: a refused writer looked at the lock after the holder had let go, and kept another
    /// writer out meanwhile. Symptom: both were refused, and the store was open nowhere.
    #[cfg(unix)]
    #[test]
    fn one_of_two_refused_writers_takes_a_lock_that_is_let_go() {
        let (_dir, [holder, one, other]) = opened();
        assert_eq!(holder.try_lock(false).unwrap(), Some(true));
        let (mut calls, mut others) = (0, None);
        let mut lock_as_one = |shared| {
            let locked = one.try_lock(shared);
            calls += 1;
            match calls {
                1 => holder.unlock(),
                // The one has the lock shared, so the other is refused.
                2 => others = Some(attempt(false, |shared| other.try_lock(shared), || other.unlock())),
                _ => {}
            }
            locked
        };
        assert_eq!(attempt(false, &mut lock_as_one, || one.unlock()).unwrap(), Attempt::Taken);
        assert_eq!(others.unwrap().unwrap(), Attempt::Held { by_readers: true });
    }

    #[cfg(unix)]
    #[test]
    fn refused_writer_knows_readers_from_a_writer() {
        let (_dir, [holder, writer]) = opened();
        for shared in [true, false] {
            assert_eq!(holder.try_lock(shared).unwrap(), Some(true));
            let refused = attempt(false, |shared| writer.try_lock(shared), || writer.unlock()).unwrap();
            assert_eq!(refused, Attempt::Held { by_readers: shared });
            holder.unlock();
        }
    }

    #[test]
    fn file_that_was_replaced_before_its_lock_is_not_in_place() {
        let (dir, [place]) = opened();
        let held = HeldClaim {
            place: Arc::new(place),
            name: "LOCK".to_owned(),
            note: Some(b"1\n".to_vec()),
            shared: false,
            file: None,
            has_dir: false,
            process: std::process::id(),
        };
        let file = held.open_file().unwrap().expect("a writer makes one");
        assert!(held.is_in_place(&file).unwrap());
        std::fs::remove_file(dir.path().join("LOCK")).unwrap();
        assert!(!held.is_in_place(&file).unwrap(), "it has no name");
        std::fs::write(dir.path().join("LOCK"), "2\n").unwrap();
        assert!(!held.is_in_place(&file).unwrap(), "its name leads to another file");
    }
}
