//! The waiters page: a mapped page on which followers in other processes ask the writer to wake
//! them, or to sync.
//!
//! It is the only file that a follower writes to, and only a follower that sleeps or asks for a sync
//! does. A follower that may not write to it polls instead. The page is disposable.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::format::waiters::{ASKED_OFFSET, FOR_SYNC, WAITERS_SIZE, WANTED_OFFSET, WORKER_OFFSET};
use crate::format::{Seq, file_name};
use crate::fs::{Access, Dir, File};
use crate::mem::mapping::Mapping;
use crate::mem::shared_word::SharedWord;
use crate::sync::sleep_word::{self, SleepWord};
use crate::sync::wake_up;

/// The page, mapped for writing by the writer and by followers.
#[derive(Debug)]
pub(crate) struct WaitersPage {
    /// The reasons for which waiters ask to be woken.
    asked: SharedWord,
    /// The greatest number that a follower wants to be durable.
    wanted: SharedWord,
    /// The word on which the writer's idle worker sleeps.
    worker: Arc<SharedWord>,
    mapping: Arc<Mapping>,
}

impl WaitersPage {
    /// Opens the writer's page, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn create(dir: &dyn Dir) -> Result<Self> {
        let path = || dir.path().join(file_name::WAITERS);
        let file = match dir.open(file_name::WAITERS, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => dir.create(file_name::WAITERS),
            other => other,
        };
        let file = file.map_err(|error| Error::io("open", path(), error))?;
        let size = file.identity().map_err(|error| Error::io("look at", path(), error))?.size;
        if size < WAITERS_SIZE as u64 {
            file.extend(WAITERS_SIZE as u64).map_err(|error| Error::io("extend", path(), error))?;
        }
        Self::map(file.as_ref()).map_err(|error| Error::io("map", path(), error))
    }

    /// Opens the page of another process. `None` if there is none, this process may not write to it,
    /// or the disk has no space for it.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn open(dir: &dyn Dir) -> Result<Option<Self>> {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        let path = || dir.path().join(file_name::WAITERS);
        let file = match dir.open(file_name::WAITERS, Access::Write) {
            Err(error) if matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem) => {
                return Ok(None);
            }
            other => other.map_err(|error| Error::io("open", path(), error))?,
        };
        let size = file.identity().map_err(|error| Error::io("look at", path(), error))?.size;
        if size < WAITERS_SIZE as u64 {
            // Its writer has only begun.
            return Ok(None);
        }
        let page = Self::map(file.as_ref()).map_err(|error| Error::io("map", path(), error))?;
        // A store into the mapping must not be the first to find a full disk.
        match page.mapping.populate_write(0, WAITERS_SIZE) {
            Ok(()) => Ok(Some(page)),
            Err(_) => Ok(None),
        }
    }

    fn map(file: &dyn File) -> io::Result<Self> {
        let mapping = file.map(WAITERS_SIZE)?;
        let word = |offset| SharedWord::new(&mapping, offset);
        let (asked, wanted) = (word(ASKED_OFFSET), word(WANTED_OFFSET));
        let worker = Arc::new(word(WORKER_OFFSET));
        Ok(Self { asked, wanted, worker, mapping })
    }

    /// Puts the page under the guard: another program may cut the file.
    pub(crate) fn guard(&self) {
        self.mapping.guard();
    }

    // ---- For the writer

    /// Returns the reasons that waiters ask for, of those given. The caller has made the change, and
    /// a fence follows it.
    #[inline]
    pub(crate) fn asked_for(&self, reasons: u64) -> u64 {
        wake_up::asked_for(&*self.asked, reasons)
    }

    /// Wakes the waiters that asked for a reason, and sleep on `wake`.
    #[cold]
    pub(crate) fn answer(&self, wake: &SharedWord, reason: u64) {
        wake_up::answer(&*self.asked, &**wake, reason);
        sleep_word::wake(wake);
    }

    /// Returns true if a follower asks for a sync.
    pub(crate) fn is_sync_asked(&self) -> bool {
        self.asked_for(FOR_SYNC) != 0
    }

    /// Returns the number that followers want to be durable, if one asks, and clears the request.
    pub(crate) fn take_wanted(&self) -> Option<Seq> {
        if !self.is_sync_asked() {
            return None;
        }
        // Acquire: pairs with the release in `ask_for_sync`. The number is the one asked for, or a
        // later one.
        self.asked.fetch_and(!FOR_SYNC, Ordering::AcqRel);
        Some(Seq(self.wanted.load(Ordering::Relaxed)))
    }

    /// Returns the word on which the writer's idle worker sleeps.
    pub(crate) fn worker(&self) -> Arc<SharedWord> {
        Arc::clone(&self.worker)
    }

    // ---- For a follower

    /// Asks to be woken. The caller has loaded the word that it sleeps on, and looks once more
    /// before it sleeps.
    pub(crate) fn ask(&self, reason: u64) {
        wake_up::ask(&*self.asked, reason);
    }

    /// Asks the writer to make everything up to a number durable.
    pub(crate) fn ask_for_sync(&self, seq: Seq) {
        self.wanted.fetch_max(seq.0, Ordering::Relaxed);
        // Release: see `take_wanted`.
        self.asked.fetch_or(FOR_SYNC, Ordering::AcqRel);
        self.worker.raise();
        sleep_word::wake(&*self.worker);
    }
}
