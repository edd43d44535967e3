//! Mapped files: a pointer and a length, and the few operations the store performs through them.
//!
//! This module and its children are the place where bytes in a mapping are read and written. They do not know what
//! the bytes mean; `format` does.
//!
//! # Safety contract
//!
//! The log is append-only. Every byte of a mapping is, at any moment, either *unpublished* (only the one
//! [`Appender`](crate::mem::appender::Appender) of the mapping may touch it, and only through raw pointers) or *published* (it lies
//! below [`Mapping::published`] and never changes again until the mapping is gone: I1). The appender raises that mark
//! with release order after the bytes below it are written; every `&[u8]` is made below a value of the mark that was
//! loaded with acquire order. No `&mut [u8]` over a mapping exists anywhere. So everything this module offers to the
//! rest of the crate is safe to call. Other *processes* that follow the rules of the store never write to its files
//! (the lock file keeps a second writer out); a program that does not follow them breaks the contract stated at
//! [`Options::open`](crate::Options::open). docs/design/memory-safety.md, "Soundness of the mapping",
//! argues this at length.
#![expect(unsafe_code, reason = "this is one of the modules that touch mapped memory")]

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::error::Result;
use crate::mem::dead_bytes::DeadBytes;
use crate::mem::page_guard::PageGuard;
use crate::mem::published_mark::PublishedMark;

/// Size of the pages that this crate reasons in, whatever the processor's are. In bytes.
pub(crate) const PAGE_SIZE: usize = 4096;

/// What stands behind a mapping where it is not the kernel: the simulated disk.
pub(crate) trait Backing: Send + Sync + fmt::Debug {
    /// Makes the range durable.
    fn sync_range(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Makes the range writable without a fault, its blocks allocated.
    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Takes note that the program stored to the range.
    fn note_store(&self, _offset: usize, _len: usize) {}
}

/// How a file is mapped that nobody has needed yet.
pub(crate) trait MapOnDemand: Send + Sync + fmt::Debug {
    /// Maps it, as long as was said.
    ///
    /// # Errors
    ///
    /// What the operating system says, or that the file is not what it was said to be.
    fn map(&self) -> Result<Arc<Mapping>>;
}

/// Mapped pages, and what stands behind them.
pub(super) struct MappedMemory {
    pub(super) pages: Arc<MmapRaw>,
    pub(super) backing: Option<Arc<dyn Backing>>,
}

/// What every read of a mapping looks at, on one cache line.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct MappingMarks {
    /// Bytes below this offset are published.
    pub(super) published: PublishedMark,
    /// Not zero where pages were replaced that could not be read or written; see `guard`.
    pub(super) replaced: AtomicU32,
}

/// One mapped file, unmapped when the last owner is gone.
pub(crate) struct Mapping {
    /// The first field, so that it is dropped before the pages.
    pub(super) watch: PageGuard,
    pub(super) len: usize,
    pub(super) marks: MappingMarks,
    /// The file, for messages.
    pub(super) path: OnceLock<PathBuf>,
    /// There from the beginning, unless `later` says how it comes.
    pub(super) memory: OnceLock<MappedMemory>,
    later: Option<Box<dyn MapOnDemand>>,
    pub(super) writable: bool,
    /// Whether the mapping has had its appender.
    pub(super) claimed: AtomicBool,
    /// What the checksums of the records here are bound to.
    nonce: AtomicU64,
    /// Which of the mappings in the same space it is; free for another one once this is gone from it.
    pub(super) ordinal: AtomicUsize,
    /// How much of what is published is dead.
    dead_bytes: DeadBytes,
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len()).field("writable", &self.writable).finish()
    }
}

impl Mapping {
    /// Maps the first `len` bytes of a file, shared. The file must not be shorter, or a touch behind its end is a
    /// fatal signal: callers compare the size first, and keep comparing it at every sync.
    pub(crate) fn of_file(file: &std::fs::File, len: usize, writable: bool) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(len);
        let memory = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        Ok(Self::new(Arc::new(memory), writable, None))
    }

    /// The mapping of a file of `len` bytes that is mapped when somebody first needs it, for reading only.
    ///
    /// Until [`Mapping::map_now`] has succeeded, nothing may be done that needs its bytes or its address.
    pub(crate) fn later(len: usize, later: Box<dyn MapOnDemand>) -> Self {
        Self::with(len, OnceLock::new(), Some(later), false)
    }

    fn new(pages: Arc<MmapRaw>, writable: bool, backing: Option<Arc<dyn Backing>>) -> Self {
        Self::with(pages.len(), OnceLock::from(MappedMemory { pages, backing }), None, writable)
    }

    fn with(
        len: usize,
        memory: OnceLock<MappedMemory>,
        later: Option<Box<dyn MapOnDemand>>,
        writable: bool,
    ) -> Self {
        Self {
            watch: PageGuard::default(),
            len,
            marks: MappingMarks { published: PublishedMark::new(), replaced: AtomicU32::new(0) },
            path: OnceLock::new(),
            memory,
            later,
            writable,
            claimed: AtomicBool::new(false),
            nonce: AtomicU64::new(0),
            ordinal: AtomicUsize::new(0),
            dead_bytes: DeadBytes::default(),
        }
    }

    /// Makes zeroed memory that belongs to no file, committed when first touched.
    pub(crate) fn anonymous_memory(len: usize) -> io::Result<Arc<MmapRaw>> {
        let memory: MmapMut = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        Ok(Arc::new(MmapRaw::from(memory)))
    }

    /// A writable mapping of zeros that belongs to no file.
    pub(crate) fn in_memory(len: usize) -> io::Result<Self> {
        Ok(Self::new(Self::anonymous_memory(len)?, true, None))
    }

    /// A mapping of simulated pages; several may share one memory, as several mappings of one file do.
    #[cfg_attr(
        not(any(test, feature = "sim", mapcask_internal)),
        expect(dead_code, reason = "simulation only")
    )]
    pub(crate) fn simulated(memory: Arc<MmapRaw>, writable: bool, backing: Arc<dyn Backing>) -> Self {
        Self::new(memory, writable, Some(backing))
    }

    /// Whether the file is mapped.
    pub(crate) fn is_attached(&self) -> bool {
        self.memory.get().is_some()
    }

    /// Maps the file, if it is not; may be tried again.
    ///
    /// # Errors
    ///
    /// As for [`MapOnDemand::map`].
    pub(crate) fn map_now(&self) -> Result<()> {
        let Some(later) = self.later.as_ref().filter(|_| !self.is_attached()) else { return Ok(()) };
        let mapped = Arc::into_inner(later.map()?).expect("a mapping just made has one owner");
        assert!(mapped.len == self.len, "mapped as long as was said");
        if let Some(memory) = mapped.memory.into_inner() {
            // Where another thread was quicker, this one is unmapped again.
            drop(self.memory.set(memory));
        }
        Ok(())
    }

    pub(super) fn memory(&self) -> &MappedMemory {
        self.memory.get().expect("attached before anybody gets to its bytes")
    }

    /// The mapping's length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping was made for writing.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The first byte's address.
    pub(crate) fn base(&self) -> *mut u8 {
        self.memory().pages.as_mut_ptr()
    }

    /// Tells what stands behind the pages that they were stored to; the simulated disk looks where it is told.
    #[inline]
    pub(crate) fn note_store(&self, offset: usize, len: usize) {
        #[cfg(any(test, feature = "sim", mapcask_internal))]
        if let Some(backing) = &self.memory().backing {
            backing.note_store(offset, len);
        }
        let _ = (offset, len);
    }

    /// Makes the pages of a range durable (`msync`).
    ///
    /// # Errors
    ///
    /// What the operating system says. The failure is final for the store: the kernel marks the lost pages clean and
    /// does not write them again (I9 and docs/design/sync.md, "A failed sync is final").
    pub(crate) fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        let MappedMemory { pages, backing } = self.memory();
        match backing {
            Some(backing) => backing.sync_range(offset, len),
            None => pages.flush_range(offset, len),
        }
    }

    /// Makes the pages of a range writable without a fault, their blocks allocated; never changes their content.
    ///
    /// # Errors
    ///
    /// A full disk is an error here, where a plain store would be a fatal signal.
    pub(crate) fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        let MappedMemory { pages, backing } = self.memory();
        if let Some(backing) = backing {
            return backing.populate_write(offset, len);
        }
        #[cfg(target_os = "linux")]
        {
            match pages.advise_range(memmap2::Advice::PopulateWrite, offset, len) {
                // Before Linux 5.14: blocks are reserved by `File::allocate`, pages come by fault.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                other => other,
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (pages, offset, len);
            Ok(())
        }
    }

    /// Whether a range is in memory, as far as the kernel tells; where it is not, the kernel is asked to read it. A range
    /// that leads out of the mapping is cut at its end.
    ///
    /// Elsewhere than on Linux nothing is asked, and everything counts as being in memory.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub(crate) fn bring_near(&self, offset: usize, len: usize) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        {
            let end = offset.saturating_add(len).min(self.len());
            let first = offset - offset % PAGE_SIZE;
            let pages = &self.memory().pages;
            if first >= end || crate::mem::residency::is_resident(pages, first..end)? {
                return Ok(true);
            }
            pages.advise_range(memmap2::Advice::WillNeed, first, end - first)?;
            Ok(false)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (offset, len);
            Ok(true)
        }
    }

    /// Bytes below this offset are published.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.marks.published.get()
    }

    /// Publishes what a file held when it was opened; for mappings that have no appender (yet).
    pub(crate) fn publish_existing(&self, end: u64) {
        // Relaxed: the mapping is still being set up by one thread; a claim by another would be a bug, not a race.
        assert!(!self.claimed.load(Ordering::Relaxed), "the appender publishes");
        assert!(end <= self.len() as u64, "range outside of the mapping");
        self.marks.published.raise(end);
    }

    /// The published bytes of a range, by the book that `space` keeps by hand; `None` where any of it is not published.
    #[cfg(test)]
    pub(crate) fn bytes(&self, offset: u64, len: u64) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.published() {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        let len = usize::try_from(len).ok()?;
        // SAFETY: published bytes lie inside of the mapping, and the range is published (compared above).
        let start = unsafe { self.base().add(offset) };
        // SAFETY: the bytes are initialised (a mapped file is), live as long as `self`, and never change again because
        // they are published (I1).
        Some(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// Notes what the checksums of the records here are bound to; called while the mapping is being set up.
    pub(crate) fn set_nonce(&self, nonce: u64) {
        // Relaxed: whatever leads others to the mapping announces it.
        self.nonce.store(nonce, Ordering::Relaxed);
    }

    /// What the checksums of the records here are bound to.
    pub(crate) fn nonce(&self) -> u64 {
        // Relaxed: see `set_nonce`.
        self.nonce.load(Ordering::Relaxed)
    }

    /// How much of what is published is dead.
    pub(crate) fn dead_bytes(&self) -> &DeadBytes {
        &self.dead_bytes
    }

    /// Which of the mappings in the same space it is.
    #[inline]
    pub(crate) fn ordinal(&self) -> usize {
        // Relaxed: whatever leads to the mapping announces it.
        self.ordinal.load(Ordering::Relaxed)
    }

    /// One aligned word of the mapping as an atomic: the shared words of the control page, and simulated files.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "unaligned word");
        assert!(offset <= self.len() && 8 <= self.len() - offset, "word outside of the mapping");
        // SAFETY: inside the mapping (asserted above).
        let word = unsafe { self.base().add(offset) };
        // SAFETY: aligned (a mapping starts at a page; asserted above) and valid for the life of `self`; all access to
        // such words is atomic while they are shared (the module's contract).
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Consecutive aligned words of the mapping as atomics, checked once.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8), "unaligned words");
        assert!(offset <= self.len() && count <= (self.len() - offset) / 8, "words outside of the mapping");
        // SAFETY: inside the mapping (asserted above).
        let first = unsafe { self.base().add(offset) };
        // SAFETY: aligned (a mapping starts at a page; asserted above) and valid for the life of `self`; all access to
        // such words is atomic while they are shared (the module's contract).
        unsafe { std::slice::from_raw_parts(first.cast::<AtomicU64>(), count) }
    }

    /// Copies a range by relaxed word loads, without a reference to the bytes: for files that may change under us.
    /// The caller verifies the copy.
    pub(crate) fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset <= self.len() && out.len() <= self.len() - offset, "range outside of the mapping");
        let mut at = offset;
        let mut done = 0;
        while done < out.len() {
            let start = at & !7;
            let skip = at - start;
            // Relaxed: the checksum over the copy, not an ordering, decides whether the bytes are good.
            // `from_le` then little-endian bytes is memory order on every machine.
            let word = u64::from_le(self.word(start).load(Ordering::Relaxed)).to_le_bytes();
            let n = (8 - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&word[skip..skip + n]);
            at += n;
            done += n;
        }
    }
}

/// What stands behind memory that is no file, in tests.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Nothing;

#[cfg(test)]
impl Backing for Nothing {
    fn sync_range(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn populate_write(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::appender::Appender;

    fn page() -> Arc<Mapping> {
        let memory = Mapping::anonymous_memory(PAGE_SIZE).expect("memory");
        Arc::new(Mapping::simulated(memory, true, Arc::new(Nothing)))
    }

    #[test]
    fn copied_out_bytes_equal_written_bytes_at_every_alignment() {
        let mapping = page();
        let bytes: Vec<u8> = (0..64).collect();
        Appender::claim(&mapping).expect("first claim").write(8, &bytes);
        for start in 0..16 {
            for len in 0..32 {
                let mut out = vec![0; len];
                mapping.copy_out(8 + start, &mut out);
                assert_eq!(out, bytes[start..start + len]);
            }
        }
    }

    #[test]
    fn bytes_are_readable_once_published_and_not_before() {
        let mapping = page();
        let mut appender = Appender::claim(&mapping).expect("first claim");
        appender.write(8, b"abcdefgh");
        assert_eq!(mapping.bytes(8, 8), None);
        assert!(appender.publish(0, *b"12345678", 16));
        assert_eq!(mapping.bytes(0, 16), Some(b"12345678abcdefgh".as_slice()));
        assert_eq!(mapping.bytes(8, 9), None);
        assert_eq!(mapping.bytes(u64::MAX, 2), None);
    }

    #[test]
    fn a_mapping_has_one_appender() {
        let mapping = page();
        let first = Appender::claim(&mapping);
        assert!(first.is_some() && Appender::claim(&mapping).is_none());
    }

    #[test]
    #[should_panic(expected = "published bytes")]
    fn published_bytes_cannot_be_written_again() {
        let mapping = page();
        mapping.publish_existing(16);
        Appender::claim(&mapping).expect("first claim").write(8, b"x");
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_range_behind_the_end_is_refused() {
        page().copy_out(PAGE_SIZE - 4, &mut [0; 8]);
    }
}
