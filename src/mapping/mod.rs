//! Mapped files: a pointer and a length, and the few operations the store performs through them.
//!
//! This module and its children are the place where bytes in a mapping are read and written. They do not know what
//! the bytes mean; `format` does.
//!
//! # Safety contract
//!
//! The log is append-only. Every byte of a mapping is, at any moment, either *unpublished* (only the one writer, under
//! the store's writer mutex, may touch it, and only through raw pointers) or *published* (it never changes again until
//! the mapping is gone: I1). A byte is published by the release store of its frame's first word
//! ([`Mapping::publish_word`]), and everybody else learns of it through an acquire load that happens after that store:
//! of the index entry (I2), or of the first word itself. `&[u8]` is made over published bytes only; no `&mut [u8]`
//! over a mapping exists anywhere. Other *processes* that follow the rules of the store never write to its files
//! (the lock file keeps a second writer out); a program that does not follow them breaks the contract stated at
//! [`Store::open`](crate::Store::open). DESIGN.md, "Soundness of the mapping", argues this at length.
#![expect(unsafe_code, reason = "this is one of the modules that touch mapped memory")]

pub(crate) mod lines;
pub(crate) mod space;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// Size of the pages that this crate reasons in, whatever the processor's are. In bytes.
pub(crate) const PAGE_SIZE: usize = 4096;

/// What stands behind a mapping where it is not the kernel: the simulated disk.
pub(crate) trait Backing: Send + Sync + fmt::Debug {
    /// Makes the range durable.
    fn sync_range(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Makes the range writable without a fault, its blocks allocated.
    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()>;
}

/// One mapped file, unmapped when the last owner is gone.
pub(crate) struct Mapping {
    memory: Arc<MmapRaw>,
    writable: bool,
    backing: Option<Arc<dyn Backing>>,
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
        Ok(Self { memory: Arc::new(memory), writable, backing: None })
    }

    /// Makes zeroed memory that belongs to no file, committed when first touched.
    pub(crate) fn anonymous_memory(len: usize) -> io::Result<Arc<MmapRaw>> {
        let memory: MmapMut = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        Ok(Arc::new(MmapRaw::from(memory)))
    }

    /// A mapping of simulated pages; several may share one memory, as several mappings of one file do.
    #[cfg_attr(not(any(test, feature = "sim", mapcask_internal)), expect(dead_code, reason = "simulation only"))]
    pub(crate) fn simulated(memory: Arc<MmapRaw>, writable: bool, backing: Arc<dyn Backing>) -> Self {
        Self { memory, writable, backing: Some(backing) }
    }

    /// The mapping's length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the mapping was made for writing.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The first byte's address.
    pub(crate) fn base(&self) -> *mut u8 {
        self.memory.as_mut_ptr()
    }

    /// Makes the pages of a range durable (`msync`).
    ///
    /// # Errors
    ///
    /// What the operating system says. The failure is final for the store: the kernel marks the lost pages clean and
    /// does not write them again (I9 and DESIGN.md, "Sync").
    pub(crate) fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        match &self.backing {
            Some(backing) => backing.sync_range(offset, len),
            None => self.memory.flush_range(offset, len),
        }
    }

    /// Makes the pages of a range writable without a fault, their blocks allocated; never changes their content.
    ///
    /// # Errors
    ///
    /// A full disk is an error here, where a plain store would be a fatal signal.
    pub(crate) fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        if let Some(backing) = &self.backing {
            return backing.populate_write(offset, len);
        }
        #[cfg(target_os = "linux")]
        {
            match self.memory.advise_range(memmap2::Advice::PopulateWrite, offset, len) {
                // Before Linux 5.14: blocks are reserved by `File::allocate`, pages come by fault.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                other => other,
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (offset, len);
            Ok(())
        }
    }

    /// Tells the kernel that access is random, so that a cold read brings one page and not the read-ahead window.
    pub(crate) fn advise_random(&self) {
        #[cfg(unix)]
        if self.backing.is_none() {
            // Advice: where it is refused, reads are as correct as before.
            drop(self.memory.advise(memmap2::Advice::Random));
        }
    }

    /// The published bytes of a range.
    ///
    /// # Safety
    ///
    /// Every byte of the range is published, and the caller learned so through an acquire load.
    pub(crate) unsafe fn published(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset <= self.len() && len <= self.len() - offset, "range outside of the mapping");
        // SAFETY: the range lies inside the mapping (asserted above).
        let start = unsafe { self.base().add(offset) };
        // SAFETY: the bytes are initialised (a mapped file is), live as long as `self`, and never change again because
        // they are published (the caller's promise, I1).
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Copies bytes into an unpublished range.
    ///
    /// # Safety
    ///
    /// No byte of the range is published, and the caller is the one writer (holds the writer mutex).
    pub(crate) unsafe fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(self.writable, "store into a read-only mapping");
        assert!(offset <= self.len() && bytes.len() <= self.len() - offset, "range outside of the mapping");
        // SAFETY: the range lies inside the mapping (asserted above).
        let target = unsafe { self.base().add(offset) };
        // SAFETY: the target is valid for writing (asserted above), nobody reads or writes it meanwhile (the caller's
        // promise), and `bytes` cannot overlap it, because nobody has a reference to unpublished bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Stores a frame's first word, which publishes the frame to whoever acquires it.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::copy_in`], and every other byte of the frame has been written.
    pub(crate) unsafe fn publish_word(&self, offset: usize, word: u64) {
        assert!(self.writable, "store into a read-only mapping");
        // Release: pairs with the acquire load of a follower's `load_word`; readers in this process acquire the index
        // entry instead.
        self.word(offset).store(word.to_le(), Ordering::Release);
    }

    /// Loads a word that is only ever written by [`Mapping::publish_word`] or never again.
    pub(crate) fn load_word(&self, offset: usize) -> u64 {
        // Acquire: pairs with the release store in `publish_word`.
        u64::from_le(self.word(offset).load(Ordering::Acquire))
    }

    /// One aligned word of the mapping as an atomic: the shared words of the control page.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "unaligned word");
        assert!(offset <= self.len() && 8 <= self.len() - offset, "word outside of the mapping");
        // SAFETY: inside the mapping (asserted above).
        let word = unsafe { self.base().add(offset) };
        // SAFETY: aligned (a mapping starts at a page; asserted above) and valid for the life of `self`; all access to
        // such words is atomic while they are shared (the module's contract).
        unsafe { AtomicU64::from_ptr(word.cast()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nothing;
    impl Backing for Nothing {
        fn sync_range(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn populate_write(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }
    }

    fn page() -> Mapping {
        let memory = Mapping::anonymous_memory(PAGE_SIZE).expect("memory");
        Mapping::simulated(memory, true, Arc::new(Nothing))
    }

    #[test]
    fn copied_out_bytes_equal_copied_in_bytes_at_every_alignment() {
        let mapping = page();
        let bytes: Vec<u8> = (0..64).collect();
        // SAFETY: nothing in this mapping is published and this test is its only user.
        unsafe { mapping.copy_in(8, &bytes) };
        for start in 0..16 {
            for len in 0..32 {
                let mut out = vec![0; len];
                mapping.copy_out(8 + start, &mut out);
                assert_eq!(out, bytes[start..start + len]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_range_behind_the_end_is_refused() {
        let mapping = page();
        mapping.copy_out(PAGE_SIZE - 4, &mut [0; 8]);
    }
}
