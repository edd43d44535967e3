//! The memory of the index: cache lines of atomic words.
//!
//! The memory belongs to no file, is zero when made and is committed when first accessed. This
//! module does not interpret the words; `index` does.
//!
//! **Concurrency.** A line consists of atomics and is never anything else, so any number of threads
//! may use it at once. The index decides which words may be read when.
//!
//! Under loom, whose atomics cannot be in mapped memory, lines are shorter and are stored in a
//! vector.

use std::io;
use std::ops::Range;
#[cfg(not(loom))]
use std::sync::Arc;

use crate::sync::AtomicU64;

/// The number of words in a line.
#[cfg(not(loom))]
pub(crate) const LINE_WORDS: usize = 8;
/// The number of words in a line: the fewest that still make a bucket overflow, to keep the models
/// small.
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

/// The words of adjacent lines, numbered from zero on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdjacentWords<'a> {
    #[cfg(not(loom))]
    words: &'a [AtomicU64],
    #[cfg(loom)]
    lines: &'a [Line],
}

#[cfg(not(loom))]
impl<'a> AdjacentWords<'a> {
    /// Returns the words of lines that lie one behind the other.
    #[inline]
    #[expect(unsafe_code, reason = "the words of several lines as one slice")]
    pub(crate) fn new(lines: &'a [Line]) -> Self {
        // SAFETY: a line has 64 bytes (asserted above), which are those of its eight words (`repr(C)`). So
        // the slice of lines is one of words, with the same bytes and lifetime, and all access is atomic.
        let words = unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE_WORDS) };
        Self { words }
    }

    /// Returns a word, or `None` behind the last.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&'a AtomicU64> {
        self.words.get(at)
    }

    /// Iterates over a range of words, which are there.
    #[inline]
    pub(crate) fn range(&self, range: Range<usize>) -> impl Iterator<Item = &'a AtomicU64> {
        self.words[range].iter()
    }

    /// Prefetches all lines.
    #[inline]
    pub(crate) fn prefetch(&self) {
        let starts = self.words.iter().step_by(LINE_WORDS);
        starts.for_each(|word| super::address_space::prefetch(std::ptr::from_ref(word).cast()));
    }
}

#[cfg(loom)]
impl<'a> AdjacentWords<'a> {
    pub(crate) fn new(lines: &'a [Line]) -> Self {
        Self { lines }
    }

    pub(crate) fn get(&self, at: usize) -> Option<&'a AtomicU64> {
        self.lines.get(at / LINE_WORDS).map(|line| &line.words[at % LINE_WORDS])
    }

    pub(crate) fn range(&self, range: Range<usize>) -> impl Iterator<Item = &'a AtomicU64> {
        let words = self.lines.iter().flat_map(|line| &line.words);
        words.skip(range.start).take(range.len())
    }

    pub(crate) fn prefetch(&self) {}
}

/// The size in bytes from which the kernel is asked for huge pages: for less memory, the rounding
/// would be noticeable.
#[cfg(not(loom))]
const HUGE_FROM_SIZE: usize = 8 << 20;

/// The size of a huge page in bytes. Where it is another one, the kernel refuses to collapse.
#[cfg(all(target_os = "linux", not(loom)))]
const HUGE_SIZE: usize = 2 << 20;

/// An array of lines.
#[derive(Debug)]
pub(crate) struct LineArray {
    #[cfg(not(loom))]
    first: *const Line,
    #[cfg(not(loom))]
    count: usize,
    /// The memory that holds the lines, possibly with other arrays.
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
    /// Returns the system's error if there is no address space left.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut lines = Self::sparse_together(&[count])?;
        let lines = lines.pop().expect("one was asked for");
        lines.fill_soon();
        Ok(lines)
    }

    /// Reserves several arrays in one piece of memory, with one request to the kernel. They are for
    /// arrays that stay mostly unused for now: the first store commits a small page.
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
            // SAFETY: the arrays lie one behind the other, and the memory is as long as all of
            // them.
            let first = unsafe { memory.as_ptr().cast::<Line>().add(at) };
            at += count;
            Self { first, count: *count, memory: Arc::clone(&memory) }
        });
        Ok(runs.collect())
    }

    /// Advises the kernel that all lines will be used.
    pub(crate) fn fill_soon(&self) {
        #[cfg(target_os = "linux")]
        if self.size() >= HUGE_FROM_SIZE {
            // Advice: if it is refused, the lines are as correct on small pages.
            drop(self.memory.advise_range(memmap2::Advice::HugePage, self.offset(), self.size()));
        }
    }

    /// Asks the kernel to put the content of one piece of lines onto a huge page: the first piece that
    /// begins at or behind line `from` and ends before line `used`. Readers and the writer may use the
    /// lines meanwhile. Returns the line behind the piece; `used` if there is none.
    ///
    /// The kernel gives a huge page at once only to memory that is untouched. Memory whose small
    /// pages were touched one by one gets huge pages after minutes.
    #[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "the kernel moves pages"))]
    pub(crate) fn collapse(&self, from: usize, used: usize) -> usize {
        #[cfg(target_os = "linux")]
        {
            /// `MADV_COLLAPSE` of `linux/mman.h`. Linux before 6.1 does not know it.
            const COLLAPSE: libc::c_int = 25;
            if self.size() < HUGE_FROM_SIZE {
                return used;
            }
            let start = (self.first as usize + from * size_of::<Line>()).next_multiple_of(HUGE_SIZE);
            let end = (start + HUGE_SIZE - self.first as usize) / size_of::<Line>();
            if end > used.min(self.count) {
                return used;
            }
            let at = self.memory.as_mut_ptr().with_addr(start);
            // SAFETY: `start` is at least `first`, and `end` at most `count`, so the range lies within
            // these lines, in private anonymous memory that `self` keeps mapped. The kernel moves the
            // pages and keeps their content, and a thread that uses a line meanwhile waits.
            let result = unsafe { libc::madvise(at.cast(), HUGE_SIZE, COLLAPSE) };
            let is_unknown = result != 0 && io::Error::last_os_error().kind() == io::ErrorKind::InvalidInput;
            // Any other refusal is about this piece: there may be no free huge page for it.
            if is_unknown { used } else { end }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = from;
            used
        }
    }

    #[cfg(target_os = "linux")]
    fn size(&self) -> usize {
        self.count * size_of::<Line>()
    }

    /// Returns the offset of the first line in the memory, in bytes.
    #[cfg(target_os = "linux")]
    fn offset(&self) -> usize {
        self.first as usize - self.memory.as_ptr() as usize
    }

    /// Returns the lines.
    #[inline]
    #[expect(unsafe_code, reason = "the one place where the index's memory becomes lines")]
    pub(crate) fn as_slice(&self) -> &[Line] {
        // SAFETY: the memory is `count` lines long from `first` on, which is a multiple of 64 bytes
        // behind the start of a page, is zeroed (zero is a valid value of every word), lives as
        // long as `self`, and is accessed through these atomics only: no other code has the address
        // of this part, because `sparse_together` made it and gave it out once.
        unsafe { std::slice::from_raw_parts(self.first, self.count) }
    }

    /// Makes the pages of the given lines present, so that the first store into each does not
    /// fault. The content stays. This may run beside readers and the writer.
    ///
    /// # Errors
    ///
    /// Returns the system's error if it has no memory left. Kernels that do not know the request
    /// leave the pages to faults, which is no error.
    pub(crate) fn populate(&self, lines: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let offset = self.offset() + lines.start * size_of::<Line>();
            let size = lines.len() * size_of::<Line>();
            match self.memory.advise_range(memmap2::Advice::PopulateWrite, offset, size) {
                // Linux before 5.14 does not know the request.
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
    /// Returns to the kernel the pages that consist of the given lines only. Their words are zero
    /// afterwards, or unchanged if the kernel refuses, which costs only memory. Readers may load
    /// the lines meanwhile; no thread may store to them.
    #[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "the kernel empties pages"))]
    pub(crate) fn release(&self, lines: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let at = |line: usize| self.offset() + line * size_of::<Line>();
            let start = at(lines.start).next_multiple_of(super::PAGE_SIZE);
            let end = at(lines.end) / super::PAGE_SIZE * super::PAGE_SIZE;
            if start >= end {
                return;
            }
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages hold nothing but these lines, which lie in private anonymous
            // memory: they are filled with zeros at the next access, and zero is a valid value of
            // every word. No reference to a word promises more than an atomic.
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

    pub(crate) fn collapse(&self, _from: usize, used: usize) -> usize {
        used
    }

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
    fn collapsed_lines_keep_their_content() {
        const COUNT: usize = 3 * HUGE_SIZE / size_of::<Line>() + 100;
        // Four pieces lie in here, or three and a part at each end.
        let memory = LineArray::new(COUNT.max(HUGE_FROM_SIZE / size_of::<Line>())).unwrap();
        let lines = memory.as_slice();
        for (number, line) in lines.iter().enumerate().step_by(61) {
            line.words[3].store(number as u64, Ordering::Relaxed);
        }
        let (mut at, mut pieces) = (0, 0);
        while at < lines.len() {
            let next = memory.collapse(at, lines.len());
            assert!(next > at);
            (at, pieces) = (next, pieces + 1);
        }
        // The last call finds no piece.
        assert!((1..=5).contains(&pieces), "{pieces}");
        for (number, line) in lines.iter().enumerate() {
            let expected = if number.is_multiple_of(61) { number as u64 } else { 0 };
            assert_eq!(line.words[3].load(Ordering::Relaxed), expected);
        }
        assert_eq!(memory.collapse(0, 100), 100, "a piece with lines that are not used");
    }

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
        // Only whole pages are released, and no line beside them: line 4000 lies in the middle of
        // one.
        lines.release(60..4000);
        for (number, line) in lines.as_slice().iter().enumerate().step_by(97) {
            let went = cfg!(target_os = "linux") && (64..3968).contains(&number);
            assert_eq!(line.words[7].load(Ordering::Relaxed), if went { 0 } else { number as u64 });
        }
    }
}
