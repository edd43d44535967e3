//! Completing an open after a kill that has left the disk as it found it.
//!
//! The worker does so at once, and otherwise the first call that syncs, compacts, takes a checkpoint
//! or closes. A write needs no more of it than the manifest, which it writes itself.
//!
//! **Concurrency.** One thread at a time, under a lock of its own. A close takes that lock once the
//! store is closed. So nothing is done here after the close has released the lock of the directory.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::State;
use crate::engine::state::write_guard::WriteGuard;
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::recovery::quarantine;

/// The part of an open that is still to be done.
#[derive(Debug, Default)]
pub(crate) struct WaitingOpen {
    is_waiting: AtomicBool,
    /// Segments whose files are to be removed once the manifest is written, with their nonces.
    retired: Mutex<Vec<(SegmentId, u64)>>,
}

impl WaitingOpen {
    /// `retired` is `None` if the open was completed.
    pub(super) fn new(retired: Option<Vec<(SegmentId, u64)>>) -> Self {
        Self {
            is_waiting: AtomicBool::new(retired.is_some()),
            retired: Mutex::new(retired.unwrap_or_default()),
        }
    }

    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        // Relaxed: under the lock it is read again.
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// Waits for the thread that completes the open.
    pub(crate) fn pass(&self) {
        drop(self.retired.lock());
    }
}

impl State {
    /// Completes an open that waits: writes the manifest, continues the log in a new segment, and
    /// removes files.
    ///
    /// # Errors
    ///
    /// `Closed` or `Poisoned`, or an error of the operating system.
    #[inline]
    pub(crate) fn resume(&self) -> Result<()> {
        if self.waiting_open.is_waiting() { self.resume_now() } else { Ok(()) }
    }

    #[cold]
    fn resume_now(&self) -> Result<()> {
        let mut retired = self.waiting_open.retired.lock();
        self.check_writable()?;
        if !self.waiting_open.is_waiting() {
            return Ok(());
        }
        // Before the writer mutex is taken, for which reads may wait. The manifest names the segment
        // and what the open has found at once.
        let made = self.allocator.step(&self.shared);
        self.shared.manifest.begin()?;
        if let Err(error) = made.and_then(|_| self.continue_log()) {
            // The store can still be read, and the first write tries again.
            self.shared.commit.check()?;
            crate::trace::no_segment(&error);
        }
        let dir = self.shared.dir.as_ref();
        quarantine::remove(dir, &self.shared.manifest, &retired, &[]).map_err(Error::into_cause)?;
        retired.clear();
        // Relaxed: see `is_waiting`.
        self.waiting_open.is_waiting.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Continues the log in the segment that was made for it, if there is one.
    fn continue_log(&self) -> Result<()> {
        let mut guard = WriteGuard::lock(self)?;
        if guard.writer.log.is_nowhere() && self.allocator.ready_count() > 0 {
            guard.writer.log.roll_now(&self.shared, &self.allocator)?;
            guard.end();
        }
        Ok(())
    }
}
