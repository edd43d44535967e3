//! Memory as cache lines of atomic words: what the index lies in.
//!
//! The memory belongs to no file, is zero when made and is committed when first touched. This module does not know
//! what the words mean; `index` does.
//!
//! **Concurrency.** A line is made of atomics and is never anything else, so any number of threads may use it at once;
//! what may be read when is the index's affair.
//!
//! Under loom, whose atomics cannot live in mapped memory, lines are shorter and lie in a vector.

use std::io;
use std::ops::Range;
#[cfg(not(loom))]
use std::sync::Arc;

use crate::sync::AtomicU64;

/// Words in a line.
#[cfg(not(loom))]
pub(crate) const LINE_WORDS: usize = 8;
/// Words in a line: as few as still make an overflowing bucket, to keep the models small.
#[cfg(loom)]
pub(crate) const LINE_WORDS: usize = 3;

/// One cache line. All words are zero at first.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Line {
    /// The line's words.
    pub(crate) words: [AtomicU64; LINE_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

/// Size of memory from which on the kernel is asked for huge pages, in bytes: below, the rounding would show.
#[cfg(not(loom))]
const HUGE_FROM_SIZE: usize = 8 << 20;

/// A run of lines.
#[derive(Debug)]
pub(crate) struct LineArray {
    #[cfg(not(loom))]
    first: *const Line,
    #[cfg(not(loom))]
    count: usize,
    /// Where they lie, perhaps with others.
    #[cfg(not(loom))]
    memory: Arc<memmap2::MmapRaw>,
    #[cfg(loom)]
    lines: Vec<Line>,
}

#[cfg(not(loom))]
impl LineArray {
    /// Reserves `count` lines of zeros.
    ///
    /// # Errors
    ///
    /// What the operating system says when it has no address space left.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut lines = Self::sparse_together(&[count])?;
        let lines = lines.pop().expect("one was asked for");
        lines.fill_soon();
        Ok(lines)
    }

    /// As [`LineArray::new`], for runs of lines that are few among many for now (the first store costs the kernel a small page), in
    /// one piece of memory: the kernel is asked once, whatever their number.
    ///
    /// # Errors
    ///
    /// As for [`LineArray::new`].
    #[expect(unsafe_code, reason = "the start of each run in the memory that holds all")]
    pub(crate) fn sparse_together(counts: &[usize]) -> io::Result<Vec<Self>> {
        let sum = counts.iter().try_fold(0usize, |sum, count| sum.checked_add(*count));
        let size =
            sum.and_then(|sum| sum.checked_mul(size_of::<Line>())).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = super::mapping::Mapping::anonymous_memory(size)?;
        let mut at = 0;
        let runs = counts.iter().map(|count| {
            // SAFETY: the runs lie one behind the other, and the memory is as long as all of them.
            let first = unsafe { memory.as_ptr().cast::<Line>().add(at) };
            at += count;
            Self { first, count: *count, memory: Arc::clone(&memory) }
        });
        Ok(runs.collect())
    }

    /// Tells the kernel that all lines will be used.
    pub(crate) fn fill_soon(&self) {
        #[cfg(target_os = "linux")]
        if self.size() >= HUGE_FROM_SIZE {
            // Advice: where it is refused, the lines are as correct on small pages.
            drop(self.memory.advise_range(memmap2::Advice::HugePage, self.offset(), self.size()));
        }
    }

    #[cfg(target_os = "linux")]
    fn size(&self) -> usize {
        self.count * size_of::<Line>()
    }

    /// Where they begin in the memory, in bytes.
    #[cfg(target_os = "linux")]
    fn offset(&self) -> usize {
        self.first as usize - self.memory.as_ptr() as usize
    }

    /// The lines.
    #[inline]
    #[expect(unsafe_code, reason = "the one place where the index's memory becomes lines")]
    pub(crate) fn as_slice(&self) -> &[Line] {
        // SAFETY: the memory is `count` lines long from `first` on, which is a multiple of 64 bytes behind the start of a
        // page, is zeroed (zero is a valid value of every word), lives as long as `self`, and is touched through these
        // atomics only: nobody else has the address of this part, since `sparse_together` made it and gave it out once.
        unsafe { std::slice::from_raw_parts(self.first, self.count) }
    }

    /// Makes the pages of the given lines present, so that the first store into each does not fault. The content
    /// stays. Safe to run beside readers and the writer.
    ///
    /// # Errors
    ///
    /// What the operating system says when it has no memory left. Kernels that do not know the request leave the
    /// pages to faults, which is no error.
    pub(crate) fn populate(&self, lines: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let offset = self.offset() + lines.start * size_of::<Line>();
            let size = lines.len() * size_of::<Line>();
            match self.memory.advise_range(memmap2::Advice::PopulateWrite, offset, size) {
                // Before Linux 5.14.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                other => other,
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = lines;
            Ok(())
        }
    }
}

#[cfg(not(loom))]
impl LineArray {
    /// Gives the kernel back those pages that the given lines fill. Their words are zero afterwards, or as they were: a refusal
    /// costs memory, and nothing else. Readers may look meanwhile; nobody may store.
    #[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "the kernel empties pages"))]
    pub(crate) fn release(&self, lines: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let at = |line: usize| self.offset() + line * size_of::<Line>();
            let start = at(lines.start).next_multiple_of(super::mapping::PAGE_SIZE);
            let end = at(lines.end) / super::mapping::PAGE_SIZE * super::mapping::PAGE_SIZE;
            if start >= end {
                return;
            }
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages hold nothing but these lines, which lie in private anonymous memory: they are filled with zeros
            // when somebody looks, and zero is a valid value of every word. No reference to a word promises more than an atomic.
            drop(unsafe { self.memory.unchecked_advise_range(advice, start, end - start) });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = lines;
    }
}

// SAFETY: the pointer leads into `memory`, which is kept, to lines, which are `Send` and `Sync`.
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a pointer into memory that is kept")]
unsafe impl Send for LineArray {}
// SAFETY: as above.
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a pointer into memory that is kept")]
unsafe impl Sync for LineArray {}

#[cfg(loom)]
impl LineArray {
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let line = |_| Line { words: std::array::from_fn(|_| AtomicU64::new(0)) };
        Ok(Self { lines: (0..count).map(line).collect() })
    }

    pub(crate) fn sparse_together(counts: &[usize]) -> io::Result<Vec<Self>> {
        counts.iter().map(|count| Self::new(*count)).collect()
    }

    pub(crate) fn fill_soon(&self) {}

    pub(crate) fn as_slice(&self) -> &[Line] {
        &self.lines
    }

    pub(crate) fn populate(&self, _lines: Range<usize>) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn release(&self, _lines: Range<usize>) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn lines_are_zero_apart_and_keep_their_content_when_populated() {
        let lines = LineArray::new(4096).unwrap();
        assert_eq!(lines.as_slice().len(), 4096);
        for (number, line) in lines.as_slice().iter().enumerate().step_by(97) {
            assert!(line.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
            line.words[7].store(number as u64, Ordering::Relaxed);
        }
        lines.populate(100..4000).unwrap();
        for (number, line) in lines.as_slice().iter().enumerate() {
            let expected = if number.is_multiple_of(97) { number as u64 } else { 0 };
            assert_eq!(line.words[7].load(Ordering::Relaxed), expected);
        }
        // Whole pages go, and no line beside them: 4000 lies in the middle of one.
        lines.release(60..4000);
        for (number, line) in lines.as_slice().iter().enumerate().step_by(97) {
            let went = cfg!(target_os = "linux") && (64..3968).contains(&number);
            assert_eq!(line.words[7].load(Ordering::Relaxed), if went { 0 } else { number as u64 });
        }
    }
}
