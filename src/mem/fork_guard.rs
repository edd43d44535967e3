//! The fork guard of a handle: refuses a handle that is closed or was inherited by a forked child.
//!
//! The state is a word in a page that the kernel clears in a child (`MADV_WIPEONFORK`), so that a
//! check costs one load and no system call. If the kernel refuses that, the process id is compared
//! instead.
#![expect(unsafe_code, reason = "this advises the kernel about memory and reads a word of it")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;

use super::mapping::Mapping;
use crate::error::{Error, Result};
use crate::mem::PAGE_SIZE;

const FORKED: u64 = 0;
const OPEN: u64 = 1;
const CLOSED: u64 = 2;
/// Open, on a system that does not clear the page in a child.
const OPEN_HERE: u64 = 3;

/// The state of a handle.
#[derive(Debug)]
pub(crate) struct ForkGuard {
    page: Arc<MmapRaw>,
    process: u32,
}

impl ForkGuard {
    /// Makes the state of an open handle.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn new() -> io::Result<Self> {
        let page = Mapping::anonymous_memory(PAGE_SIZE)?;
        let fork_guard = Self { page, process: std::process::id() };
        let open = if fork_guard.wipe_on_fork() { OPEN } else { OPEN_HERE };
        // Relaxed: other threads get the handle after this.
        fork_guard.word().store(open, Ordering::Relaxed);
        Ok(fork_guard)
    }

    #[cfg(target_os = "linux")]
    fn wipe_on_fork(&self) -> bool {
        use rustix::mm::{Advice, madvise};
        // SAFETY: the range is this one private anonymous page, which nothing but `word` uses.
        unsafe { madvise(self.page.as_mut_ptr().cast(), PAGE_SIZE, Advice::LinuxWipeOnFork) }.is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn wipe_on_fork(&self) -> bool {
        false
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page is aligned, mapped as long as `self` lives, and only accessed through
        // this atomic.
        unsafe { AtomicU64::from_ptr(self.page.as_mut_ptr().cast()) }
    }

    /// Refuses a handle that was closed or inherited.
    ///
    /// # Errors
    ///
    /// Returns `Closed` or `Forked`.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        // Relaxed: closing publishes nothing; a caller that must not miss it checks under the
        // writer mutex.
        match self.word().load(Ordering::Relaxed) {
            OPEN => Ok(()),
            other => self.look(other),
        }
    }

    #[cold]
    fn look(&self, state: u64) -> Result<()> {
        match state {
            FORKED => Err(Error::Forked),
            CLOSED => Err(Error::Closed),
            _ if self.process != std::process::id() => Err(Error::Forked),
            _ => Ok(()),
        }
    }

    /// Closes the handle; returns false if it was closed before.
    pub(crate) fn close(&self) -> bool {
        // Relaxed: see `check`.
        self.word().swap(CLOSED, Ordering::Relaxed) != CLOSED
    }

    /// True in a child that inherited the handle.
    pub(crate) fn is_forked(&self) -> bool {
        matches!(self.check(), Err(Error::Forked))
    }

    /// Refuses a handle that was inherited; a closed one is accepted.
    ///
    /// # Errors
    ///
    /// Returns `Forked`.
    pub(crate) fn check_inherited(&self) -> Result<()> {
        if self.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_stays_closed() {
        let fork_guard = ForkGuard::new().expect("memory");
        assert!(fork_guard.check().is_ok());
        assert!(fork_guard.close());
        assert!(!fork_guard.close());
        assert!(matches!(fork_guard.check(), Err(Error::Closed)));
    }
}
