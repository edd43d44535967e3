//! The page guard of a mapping: its entry in the table, and queries about replaced pages.
//!
//! On systems without the guard (other than Linux), no page is ever replaced.

use std::io;
use std::path::Path;
use std::sync::Arc;
#[cfg(all(target_os = "linux", not(miri)))]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};

#[cfg(all(target_os = "linux", not(miri)))]
use super::guard_table::Registration;
use super::guard_table::{UNREAD, UNWRITTEN};
use super::mapping::{MappedMemory, Mapping};
#[cfg(all(target_os = "linux", not(miri)))]
use super::sigbus;
use crate::error::{Error, Result};

/// The guard of one mapping, if it has one.
#[derive(Debug, Default)]
pub(super) struct PageGuard {
    #[cfg(all(target_os = "linux", not(miri)))]
    registration: OnceLock<Registration>,
}

#[cfg(all(target_os = "linux", not(miri)))]
impl PageGuard {
    /// Puts the pages under the guard. `flags` and the pages must stay at their addresses until
    /// this is dropped.
    pub(super) fn begin(&self, start: usize, len: usize, writable: bool, flags: &AtomicU32) {
        sigbus::install();
        if self.registration.get().is_none()
            && let Some(registration) = Registration::new(start, len, writable, flags)
        {
            // If another thread was quicker, this entry is returned.
            drop(self.registration.set(registration));
        }
    }

    /// True if the pages are under the guard.
    pub(super) fn is_on(&self) -> bool {
        self.registration.get().is_some()
    }

    /// Sets the descriptor of the file while it is written to.
    pub(super) fn set_file(&self, file: Option<i32>) {
        if let Some(registration) = self.registration.get() {
            registration.set_file(file);
        }
    }

    /// Returns the offset of the first replaced page of a range.
    fn replaced_in(&self, flag: u32, from: usize, to: usize) -> Option<usize> {
        self.registration.get()?.replaced_in(flag, from, to)
    }

    /// Returns the number of replacements.
    pub(super) fn replaced(&self) -> usize {
        self.registration.get().map_or(0, Registration::replaced)
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
impl PageGuard {
    pub(super) fn begin(&self, _: usize, _: usize, _: bool, _: &AtomicU32) {}

    #[cfg(target_os = "linux")]
    pub(super) fn is_on(&self) -> bool {
        false
    }

    pub(super) fn set_file(&self, _: Option<i32>) {}

    fn replaced_in(&self, _: u32, _: usize, _: usize) -> Option<usize> {
        None
    }

    pub(super) fn replaced(&self) -> usize {
        0
    }
}

impl Mapping {
    /// Puts the mapping of a file under the guard: an inaccessible page becomes a flag instead of a
    /// fatal signal. Does nothing for a guarded mapping, and for one without a file.
    pub(crate) fn guard(self: &Arc<Self>) {
        if let Some(MappedMemory { pages, backing: None }) = self.memory.get() {
            // The flags do not move, because they are in an `Arc`; the pages are dropped after the
            // watch.
            self.watch.begin(pages.as_ptr() as usize, self.len, self.writable, &self.marks.replaced);
        }
    }

    /// Sets the descriptor of the file while it is written to. The guard needs it to give the
    /// writer a copy of a page that it cannot store to.
    pub(crate) fn set_file(&self, file: Option<i32>) {
        self.watch.set_file(file);
    }

    /// True if inaccessible pages were replaced: earlier reads from the mapping must be verified,
    /// and nothing more may be written to it.
    #[inline]
    pub(crate) fn is_replaced(&self) -> bool {
        // Neither the compiler nor the processor moves the load before the accesses in question. A
        // handler has stored the word: on this thread, or on another one before it replaced the
        // page (`sigbus`).
        compiler_fence(Ordering::SeqCst);
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fences.
        self.marks.replaced.load(Ordering::Relaxed) != 0
    }

    /// True if a page was replaced by a copy, so that later stores to it are not in the file.
    pub(crate) fn is_unwritten(&self) -> bool {
        // Relaxed: as in `is_replaced`.
        self.is_replaced() && self.marks.replaced.load(Ordering::Relaxed) & UNWRITTEN != 0
    }

    /// Returns the offset of the first page of a range that could not be read, and is zeros now.
    pub(crate) fn replaced_in(&self, from: u64, to: u64) -> Option<u64> {
        self.replaced_with(UNREAD, from, to)
    }

    /// Returns the offset of the first page of a range that could not be written to, and is a copy
    /// now.
    pub(crate) fn unwritten_in(&self, from: u64, to: u64) -> Option<u64> {
        self.replaced_with(UNWRITTEN, from, to)
    }

    /// True if a page of a range was replaced, by zeros or by a copy.
    #[cold]
    pub(crate) fn is_replaced_in(&self, from: u64, to: u64) -> bool {
        self.replaced_in(from, to).is_some() || self.unwritten_in(from, to).is_some()
    }

    fn replaced_with(&self, flag: u32, from: u64, to: u64) -> Option<u64> {
        if !self.is_replaced() {
            return None;
        }
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).unwrap_or(usize::MAX));
        self.watch.replaced_in(flag, from, to).map(|offset| offset as u64)
    }

    /// Returns the number of replacements.
    pub(crate) fn replaced(&self) -> u64 {
        self.watch.replaced() as u64
    }

    /// Sets the file's path, for messages.
    pub(crate) fn set_path(&self, path: &Path) {
        // Set once: a mapping is of one file.
        drop(self.path.set(path.to_owned()));
    }

    /// Returns the error for a reader of a replaced page, at this offset.
    #[cold]
    pub(crate) fn unreadable(&self, offset: u64) -> Error {
        let path = self.path.get().cloned().unwrap_or_default();
        Error::io("read", path, no_page(offset))
    }

    /// Without the guard, has the kernel read a range, so that an unreadable page is an error
    /// before it is accessed. A range that leads out of the mapping is cut at its end. On Linux
    /// before 5.14 and on other systems it does nothing.
    ///
    /// # Errors
    ///
    /// Returns `Io` if a page cannot be read.
    pub(crate) fn reach(&self, offset: usize, len: usize) -> Result<()> {
        #[cfg(target_os = "linux")]
        {
            let MappedMemory { pages, backing } = self.memory();
            if self.watch.is_on() || backing.is_some() {
                return Ok(());
            }
            let end = offset.saturating_add(len).min(self.len());
            let first = offset - offset % super::PAGE_SIZE;
            if first < end
                && let Err(error) = pages.advise_range(memmap2::Advice::PopulateRead, first, end - first)
                && error.kind() != io::ErrorKind::InvalidInput
            {
                return Err(self.unreadable(first as u64));
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, len);
        Ok(())
    }
}

/// Checks that no page of a slice was replaced by zeros.
///
/// # Errors
///
/// Returns `Io`, about the file or directory at `path`, if a page could not be read.
pub(crate) fn check_slice(bytes: &[u8], path: &Path) -> Result<()> {
    match replaced_in(bytes) {
        Some(offset) => Err(Error::io("read", path, no_page(offset as u64))),
        None => Ok(()),
    }
}

/// Enables the guard on this thread, even if the thread that started it has blocked the signal.
pub(crate) fn guard_this_thread() {
    #[cfg(all(target_os = "linux", not(miri)))]
    sigbus::unblock();
}

fn no_page(offset: u64) -> io::Error {
    io::Error::other(format!(
        "the page at offset {offset} could not be had: the disk failed, or the file was cut; \
         close the store, and mend the disk or salvage what is intact"
    ))
}

/// Returns the offset of the first replaced page of a slice, in the slice's mapping; `None` if no
/// page was replaced or the slice is in no mapping.
#[cfg(all(target_os = "linux", not(miri)))]
fn replaced_in(bytes: &[u8]) -> Option<usize> {
    super::guard_table::replaced_in(bytes)
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn replaced_in(_: &[u8]) -> Option<usize> {
    None
}
