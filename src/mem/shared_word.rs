//! A word of a mapping that processes share, behind a pointer that is computed once.
#![expect(unsafe_code, reason = "this is one of the modules that touch mapped memory")]

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::mapping::Mapping;
use crate::sync::sleep_word::SleepWord;

/// An aligned word of eight bytes in a mapping.
pub(crate) struct SharedWord {
    word: NonNull<AtomicU64>,
    /// Keeps the word mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: an `AtomicU64` may be used from any thread, and so may the `Mapping` that keeps it mapped.
unsafe impl Send for SharedWord {}
// SAFETY: as above: sharing a `SharedWord` shares these two alone.
unsafe impl Sync for SharedWord {}

impl fmt::Debug for SharedWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedWord").finish_non_exhaustive()
    }
}

impl SharedWord {
    /// Makes a reference to the word at an offset of a mapped page.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: usize) -> Self {
        Self { word: NonNull::from(mapping.word(offset)), _mapping: Arc::clone(mapping) }
    }
}

impl Deref for SharedWord {
    type Target = AtomicU64;

    #[inline]
    fn deref(&self) -> &AtomicU64 {
        // SAFETY: `Mapping::word` returned it, aligned and inside the mapping. The mapping lives as long
        // as `self`, and all access to such words is atomic.
        unsafe { self.word.as_ref() }
    }
}

/// Such words are in the machine's byte order: they mean nothing after the next boot.
impl SleepWord for SharedWord {
    fn low_half(&self) -> &AtomicU32 {
        let halves = self.as_ptr().cast::<AtomicU32>();
        // SAFETY: both halves lie inside the word.
        let low = unsafe { halves.add(usize::from(cfg!(target_endian = "big"))) };
        // SAFETY: half of an aligned word is aligned, and valid as long as it. Only the system loads
        // it as four bytes.
        unsafe { AtomicU32::from_ptr(low.cast()) }
    }

    fn value(&self) -> u32 {
        // Acquire: what was stored before the word was raised is visible afterwards.
        u32::try_from(self.load(Ordering::Acquire) & u64::from(u32::MAX)).expect("masked")
    }

    fn raise(&self) {
        // Release: see `value`.
        self.fetch_add(1, Ordering::AcqRel);
    }
}
