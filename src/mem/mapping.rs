//! Mapped files, and the few operations that the store performs on their bytes.
//!
//! This module and its siblings are the only place that reads and writes bytes of a mapping. They
//! do not interpret the bytes; `format` does.
//!
//! # Safety contract
//!
//! The log is append-only. At any moment, every byte of a mapping is either *unpublished* or
//! *published*. Only the mapping's one [`Appender`](crate::mem::appender::Appender) may access an
//! unpublished byte, and only through raw pointers. A published byte lies below
//! [`Mapping::published`] and never changes again until the mapping is gone (I1). The appender
//! raises that mark with release order after the bytes below it are written. Every `&[u8]` is made
//! below a value of the mark that was loaded with acquire order. No `&mut [u8]` over a mapping
//! exists anywhere. So everything that this module offers to the rest of the crate is safe to call.
//! Other *processes* that follow the store's rules never write to its files (the lock file excludes
//! a second writer). A program that does not follow them breaks the contract stated at
//! [`Options::open`](crate::Options::open). docs/design/memory-safety.md, has the full
//! argument.
#![expect(unsafe_code, reason = "this is one of the modules that touch mapped memory")]

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::error::Result;
use crate::mem::PAGE_SIZE;
use crate::mem::dead_bytes::DeadBytes;
use crate::mem::page_guard::PageGuard;
use crate::mem::published_mark::PublishedMark;

/// Bytes of one request to the kernel to read ahead. Longer ones it cuts to the device's limits.
#[cfg(target_os = "linux")]
const NEAR_PIECE: usize = 128 << 10;

/// The storage behind a mapping that is not a file of the kernel: the simulated disk.
pub(crate) trait Backing: Send + Sync + fmt::Debug {
    /// Makes the range durable.
    fn sync_range(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Makes the range writable without a fault, its blocks allocated.
    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Records that the program stored to the range.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    fn note_store(&self, _offset: usize, _len: usize) {}
}

/// Maps a file at its first use.
pub(crate) trait MapOnDemand: Send + Sync + fmt::Debug {
    /// Maps the file, with the length that was announced.
    ///
    /// # Errors
    ///
    /// Returns the system's error, or an error if the file is not the one that was announced.
    fn map(&self) -> Result<Arc<Mapping>>;
}

/// Mapped pages, and the storage behind them.
pub(super) struct MappedMemory {
    pub(super) pages: Arc<MmapRaw>,
    pub(super) backing: Option<Arc<dyn Backing>>,
}

/// The words that every read of a mapping loads, on one cache line.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct MappingMarks {
    /// Bytes below this offset are published.
    pub(super) published: PublishedMark,
    /// Not zero if pages were replaced that could not be read or written; see `page_guard`.
    pub(super) replaced: AtomicU32,
}

/// One mapped file, unmapped when the last owner is gone.
pub(crate) struct Mapping {
    /// The guard. It is the first field, so that it is dropped before the pages.
    pub(super) watch: PageGuard,
    pub(super) len: usize,
    pub(super) marks: MappingMarks,
    /// The file's path, for messages.
    pub(super) path: OnceLock<PathBuf>,
    /// The pages: present from the beginning, unless `later` says how to map them.
    pub(super) memory: OnceLock<MappedMemory>,
    later: Option<Box<dyn MapOnDemand>>,
    pub(super) writable: bool,
    /// True once the mapping has had its appender.
    pub(super) claimed: AtomicBool,
    /// True once the kernel reads single pages of it.
    reads_singly: AtomicBool,
    /// The nonce that the checksums of the segment's records are bound to.
    nonce: AtomicU64,
    /// The mapping's number in its address space; another mapping may have it once this one has
    /// left the space.
    pub(super) ordinal: AtomicUsize,
    /// The dead bytes among the published ones.
    dead_bytes: DeadBytes,
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len()).field("writable", &self.writable).finish()
    }
}

impl Mapping {
    /// Maps the first `len` bytes of a file, shared. The file must not be shorter: an access behind
    /// its end is a fatal signal. Callers compare the size first, and again at every sync.
    pub(crate) fn of_file(file: &std::fs::File, len: usize, writable: bool) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(len);
        let memory = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        Ok(Self::new(Arc::new(memory), writable, None))
    }

    /// Makes a read-only mapping of a file of `len` bytes that is mapped at its first use.
    ///
    /// Until [`Mapping::map_now`] has succeeded, nothing may be done that needs its bytes or its
    /// address.
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
            reads_singly: AtomicBool::new(false),
            nonce: AtomicU64::new(0),
            ordinal: AtomicUsize::new(0),
            dead_bytes: DeadBytes::default(),
        }
    }

    /// Makes zeroed memory that belongs to no file and is committed when first accessed.
    pub(crate) fn anonymous_memory(len: usize) -> io::Result<Arc<MmapRaw>> {
        let memory: MmapMut = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        Ok(Arc::new(MmapRaw::from(memory)))
    }

    /// Makes a writable mapping of zeros that belongs to no file.
    pub(crate) fn in_memory(len: usize) -> io::Result<Self> {
        Ok(Self::new(Self::anonymous_memory(len)?, true, None))
    }

    /// Makes a mapping of simulated pages; several may share one memory, as several mappings of one
    /// file do.
    #[cfg_attr(
        not(any(test, feature = "sim", mapcask_internal)),
        expect(dead_code, reason = "simulation only")
    )]
    pub(crate) fn simulated(memory: Arc<MmapRaw>, writable: bool, backing: Arc<dyn Backing>) -> Self {
        Self::new(memory, writable, Some(backing))
    }

    /// True if the file is mapped.
    pub(crate) fn is_attached(&self) -> bool {
        self.memory.get().is_some()
    }

    /// Maps the file, unless it is mapped; may be retried.
    ///
    /// # Errors
    ///
    /// As for [`MapOnDemand::map`].
    pub(crate) fn map_now(&self) -> Result<()> {
        let Some(later) = self.later.as_ref().filter(|_| !self.is_attached()) else { return Ok(()) };
        let mapped = Arc::into_inner(later.map()?).expect("a mapping just made has one owner");
        assert!(mapped.len == self.len, "mapped as long as was said");
        if let Some(memory) = mapped.memory.into_inner() {
            // If another thread was quicker, this memory is unmapped again.
            drop(self.memory.set(memory));
        }
        Ok(())
    }

    pub(super) fn memory(&self) -> &MappedMemory {
        self.memory.get().expect("attached before anybody gets to its bytes")
    }

    /// Returns the mapping's length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True if the mapping was made for writing.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns the address of the first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.memory().pages.as_mut_ptr()
    }

    /// Reports a store to the storage behind the pages; the simulated disk looks only at reported
    /// ranges.
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
    /// Returns the system's error. The failure is final for the store: the kernel marks the lost
    /// pages clean and does not write them again (I9 and docs/design/sync.md).
    pub(crate) fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        let MappedMemory { pages, backing } = self.memory();
        match backing {
            Some(backing) => backing.sync_range(offset, len),
            None => pages.flush_range(offset, len),
        }
    }

    /// Makes the pages of a range writable without a fault, with allocated blocks; never changes
    /// their content.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk is full, where a plain store would raise a fatal signal.
    pub(crate) fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        let MappedMemory { pages, backing } = self.memory();
        if let Some(backing) = backing {
            return backing.populate_write(offset, len);
        }
        #[cfg(target_os = "linux")]
        {
            match pages.advise_range(memmap2::Advice::PopulateWrite, offset, len) {
                // Linux before 5.14: `File::allocate` has reserved the blocks, and pages come by
                // fault.
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

    /// Returns true if a range is in memory, according to the kernel, and asks the kernel to read
    /// it otherwise. A range that leads out of the mapping is cut at its end.
    ///
    /// On systems other than Linux it asks nothing and returns true.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn bring_near(&self, offset: usize, len: usize) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        {
            let end = offset.saturating_add(len).min(self.len());
            let first = offset - offset % PAGE_SIZE;
            let pages = &self.memory().pages;
            if first >= end || crate::mem::resident::is_resident(pages, first..end)? {
                return Ok(true);
            }
            // The kernel cuts a longer request.
            for at in (first..end).step_by(NEAR_PIECE) {
                pages.advise_range(memmap2::Advice::WillNeed, at, NEAR_PIECE.min(end - at))?;
            }
            Ok(false)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (offset, len);
            Ok(true)
        }
    }

    /// Advises the kernel to read the faulted page only, and none around it.
    pub(crate) fn read_singly(&self) {
        // Relaxed, both: advice.
        if self.reads_singly.load(Ordering::Relaxed) {
            return;
        }
        #[cfg(unix)]
        // If it is refused, the kernel reads more than is needed.
        drop(self.memory().pages.advise(memmap2::Advice::Random));
        self.reads_singly.store(true, Ordering::Relaxed);
    }

    /// True if the kernel reads single pages.
    pub(crate) fn reads_singly(&self) -> bool {
        // Relaxed: see `read_singly`.
        self.reads_singly.load(Ordering::Relaxed)
    }

    /// Returns the published mark: bytes below this offset are published.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.marks.published.get()
    }

    /// Publishes the bytes that a file held when it was opened; for mappings that have no appender
    /// (yet).
    pub(crate) fn publish_existing(&self, end: u64) {
        // Relaxed: one thread still sets the mapping up; a claim by another would be a bug, not a
        // race.
        assert!(!self.claimed.load(Ordering::Relaxed), "the appender publishes");
        assert!(end <= self.len() as u64, "range outside of the mapping");
        self.marks.published.raise(end);
    }

    /// Returns the published bytes of a range, by the rules that `address_space` follows by hand;
    /// `None` if any of it is not published.
    pub(crate) fn bytes(&self, offset: u64, len: u64) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.published() {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        let len = usize::try_from(len).ok()?;
        // SAFETY: published bytes lie inside the mapping, and the range is published (compared
        // above).
        let start = unsafe { self.base().add(offset) };
        // SAFETY: the bytes are initialised (a mapped file is), live as long as `self`, and never
        // change again because they are published (I1).
        Some(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// Sets the nonce that the checksums of the segment's records are bound to; called while the
    /// mapping is set up.
    pub(crate) fn set_nonce(&self, nonce: u64) {
        // Relaxed: the pointer that leads other threads to the mapping announces it.
        self.nonce.store(nonce, Ordering::Relaxed);
    }

    /// Returns the nonce that the checksums of the segment's records are bound to.
    pub(crate) fn nonce(&self) -> u64 {
        // Relaxed: see `set_nonce`.
        self.nonce.load(Ordering::Relaxed)
    }

    /// Returns the counters of dead bytes.
    pub(crate) fn dead_bytes(&self) -> &DeadBytes {
        &self.dead_bytes
    }

    /// Returns the mapping's number in its address space.
    #[inline]
    pub(crate) fn ordinal(&self) -> usize {
        // Relaxed: the pointer that leads to the mapping announces it.
        self.ordinal.load(Ordering::Relaxed)
    }

    /// Returns one aligned word of the mapping as an atomic: for the shared words of the control
    /// page, and simulated files.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "unaligned word");
        assert!(offset <= self.len() && 8 <= self.len() - offset, "word outside of the mapping");
        // SAFETY: inside the mapping (asserted above).
        let word = unsafe { self.base().add(offset) };
        // SAFETY: aligned (a mapping starts at a page; asserted above) and valid for the life of
        // `self`; all access to such words is atomic while they are shared (the module's contract).
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Returns consecutive aligned words of the mapping as atomics, checked once.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8), "unaligned words");
        assert!(offset <= self.len() && count <= (self.len() - offset) / 8, "words outside of the mapping");
        // SAFETY: inside the mapping (asserted above).
        let first = unsafe { self.base().add(offset) };
        // SAFETY: aligned (a mapping starts at a page; asserted above) and valid for the life of
        // `self`; all access to such words is atomic while they are shared (the module's contract).
        unsafe { std::slice::from_raw_parts(first.cast::<AtomicU64>(), count) }
    }

    /// Copies a range by relaxed word loads, without a reference to the bytes: for files that may
    /// change meanwhile. The caller verifies the copy.
    pub(crate) fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset <= self.len() && out.len() <= self.len() - offset, "range outside of the mapping");
        let mut at = offset;
        let mut done = 0;
        while done < out.len() {
            let start = at & !7;
            let skip = at - start;
            // Relaxed: the checksum over the copy, not an ordering, decides if the bytes are good.
            // `from_le` and then little-endian bytes is memory order on every machine.
            let word = u64::from_le(self.word(start).load(Ordering::Relaxed)).to_le_bytes();
            let n = (8 - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&word[skip..skip + n]);
            at += n;
            done += n;
        }
    }
}

/// Storage for memory that is no file, in tests.
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
