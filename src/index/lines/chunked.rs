//! A segmented array of lines that grows without moving: chunks, each as large as all chunks before
//! it together.
//!
//! **Concurrency.** A chunk is added once, by the writer or by the worker, and stays; pages of it
//! may be released and populated again. Readers reach a line only by a bucket number or a link that
//! the writer published after the chunk existed.

use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use crate::mem::line_array::{Line, LineArray};

/// The number of chunks: the first, and one for each doubling.
const CHUNKS: usize = 24;

/// The lines from number zero on.
#[derive(Debug)]
pub(crate) struct ChunkedLines {
    base_bits: u32,
    chunks: [OnceLock<LineArray>; CHUNKS],
}

impl ChunkedLines {
    /// Makes an empty array whose first chunk will hold `1 << base_bits` lines.
    pub(in crate::index) fn new(base_bits: u32) -> Self {
        Self { base_bits, chunks: [const { OnceLock::new() }; CHUNKS] }
    }

    /// Returns the most lines that the array can hold.
    pub(in crate::index) fn limit(&self) -> u64 {
        1 << (self.base_bits as usize + CHUNKS - 1)
    }

    /// Returns the line of a number, which must have been ensured.
    #[inline]
    pub(in crate::index) fn line(&self, number: u64) -> &Line {
        let (chunk, offset) = self.place(number);
        let lines = self.chunks[chunk].get().expect("the chunk was made before the number was published");
        &lines.as_slice()[offset]
    }

    /// Returns `count` lines from a number on that is a multiple of `count`, a power of two. They must
    /// have been ensured.
    #[inline]
    pub(in crate::index) fn lines(&self, number: u64, count: usize) -> &[Line] {
        let (chunk, offset) = self.place(number);
        let lines = self.chunks[chunk].get().expect("the chunk was made before the number was published");
        &lines.as_slice()[offset..offset + count]
    }

    /// Makes the chunk of a number, unless it exists.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short, or the number is not below the limit.
    pub(in crate::index) fn ensure(&self, number: u64) -> io::Result<()> {
        if number >= self.limit() {
            return Err(io::Error::other("the index has as many lines as its entries can tell apart"));
        }
        let (chunk, _) = self.place(number);
        if self.chunks[chunk].get().is_none() {
            // The writer and the worker may both get here; the loser's lines were never accessed
            // and cost nothing.
            drop(self.chunks[chunk].set(LineArray::new(self.count(chunk)?)?));
        }
        Ok(())
    }

    /// Makes the chunks of a range of numbers.
    ///
    /// # Errors
    ///
    /// As for [`ChunkedLines::ensure`].
    pub(in crate::index) fn ensure_all(&self, numbers: Range<u64>) -> io::Result<()> {
        let mut number = numbers.start;
        while number < numbers.end {
            self.ensure(number)?;
            number = self.chunk_end(number);
        }
        Ok(())
    }

    /// Returns the number of lines in a chunk.
    fn count(&self, chunk: usize) -> io::Result<usize> {
        let count = 1u64 << (self.base_bits as usize + chunk.saturating_sub(1));
        usize::try_from(count).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// Makes the chunks of the first `count` numbers of a new array, few of whose lines are used
    /// for now; see [`ChunkedLines::fill_soon`].
    ///
    /// # Errors
    ///
    /// As for [`ChunkedLines::ensure`].
    pub(in crate::index) fn make_sparse(&mut self, count: u64) -> io::Result<()> {
        let Some(last) = count.checked_sub(1) else { return Ok(()) };
        if last >= self.limit() {
            return Err(io::Error::other("an index has no such shape"));
        }
        let counts =
            (0..=self.place(last).0).map(|chunk| self.count(chunk)).collect::<io::Result<Vec<_>>>()?;
        for (chunk, lines) in self.chunks.iter_mut().zip(LineArray::sparse_together(&counts)?) {
            *chunk = OnceLock::from(lines);
        }
        Ok(())
    }

    /// Advises the kernel that all lines will be used.
    pub(in crate::index) fn fill_soon(&self) {
        self.chunks.iter().filter_map(OnceLock::get).for_each(LineArray::fill_soon);
    }

    /// Puts the first piece of lines at or behind `from` and before `used` onto a huge page; see
    /// [`LineArray::collapse`]. Returns the number behind it, at most `used`.
    pub(in crate::index) fn collapse(&self, from: u64, used: u64) -> u64 {
        if from >= used {
            return used;
        }
        let end = self.chunk_end(from).min(used);
        let (chunk, offset) = self.place(from);
        let (Some(lines), Ok(count)) = (self.chunks[chunk].get(), usize::try_from(end - from)) else {
            return used;
        };
        from + (lines.collapse(offset, offset + count) - offset) as u64
    }

    /// Returns the first number behind the chunk that holds `number`.
    pub(in crate::index) fn chunk_end(&self, number: u64) -> u64 {
        1 << (self.base_bits as usize + self.place(number).0)
    }

    /// Makes the chunks of the given lines and populates their pages.
    ///
    /// # Errors
    ///
    /// As for [`ChunkedLines::ensure`].
    pub(in crate::index) fn populate(&self, numbers: Range<u64>) -> io::Result<()> {
        let mut start = numbers.start;
        while start < numbers.end {
            self.ensure(start)?;
            let end = self.chunk_end(start).min(numbers.end);
            let (chunk, offset) = self.place(start);
            let count = usize::try_from(end - start).map_err(|_| io::ErrorKind::OutOfMemory)?;
            if let Some(lines) = self.chunks[chunk].get() {
                lines.populate(offset..offset + count)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Releases the pages of the given lines, which hold no entry: their words are zero or
    /// unchanged afterwards.
    pub(in crate::index) fn release(&self, numbers: Range<u64>) {
        let mut start = numbers.start;
        while start < numbers.end {
            let end = self.chunk_end(start).min(numbers.end);
            let (chunk, offset) = self.place(start);
            let lines = self.chunks.get(chunk).and_then(OnceLock::get);
            if let (Some(lines), Ok(count)) = (lines, usize::try_from(end - start)) {
                lines.release(offset..offset + count);
            }
            start = end;
        }
    }

    /// Returns the chunk of a number and its offset there.
    #[inline]
    fn place(&self, number: u64) -> (usize, usize) {
        // The bits above the base: zero for the first chunk, and one more for each doubling. One bit more
        // is set, so that no case differs.
        let chunk = u64::BITS - 1 - (number >> self.base_bits << 1 | 1).leading_zeros();
        let first = (1 << chunk >> 1) << self.base_bits;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an offset in a chunk that was mapped fits a usize"
        )]
        {
            (chunk as usize, (number - first) as usize)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn chunked_lines_place_numbers_one_after_the_other() {
        let row = ChunkedLines::new(2);
        let mut next = (0, 0);
        for number in 0..1000 {
            let (chunk, offset) = row.place(number);
            assert!((chunk, offset) == next || (chunk, offset) == (next.0 + 1, 0), "{number}");
            next = (chunk, offset + 1);
            row.ensure(number).unwrap();
            assert!(offset < row.chunks[chunk].get().unwrap().as_slice().len());
            assert!(row.chunk_end(number) > number);
        }
        assert!(row.ensure(row.limit()).is_err());
        row.populate(0..5000).unwrap();
    }
}
