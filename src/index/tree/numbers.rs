//! The numbers of nodes: those in the tree, the free ones, and those whose memory exists.

use std::io;

use crate::index::lines::chunked::ChunkedLines;
use crate::mem::alloc;

/// The numbers of nodes of one kind.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Numbers that were used, and are not in the tree. The last one is the next.
    pub(super) free: Vec<u32>,
    /// The number of numbers ever used.
    pub(super) used: u64,
    /// The number of those whose memory exists.
    ensured: u64,
    /// The lines of a node.
    lines: u64,
}

impl Numbers {
    pub(super) fn new(lines: usize, used: u64) -> Self {
        Self { free: Vec::new(), used, ensured: used, lines: lines as u64 }
    }

    pub(super) fn take(&mut self) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        assert!(self.used < self.ensured, "a node was taken that was not reserved");
        self.used += 1;
        u32::try_from(self.used - 1).expect("checked when it was reserved")
    }

    /// Makes the memory of `count` further nodes.
    pub(super) fn ensure(&mut self, count: u64, row: &ChunkedLines) -> io::Result<()> {
        alloc::reserve(&mut self.free, usize::try_from(count).unwrap_or(usize::MAX))?;
        let needed = self.used + count.saturating_sub(self.free.len() as u64);
        if u32::try_from(needed).is_err() {
            return Err(io::Error::other("the index has as many nodes as its slots can tell apart"));
        }
        while self.ensured < needed {
            row.ensure(self.ensured * self.lines)?;
            self.ensured = row.chunk_end(self.ensured * self.lines) / self.lines;
        }
        Ok(())
    }
}
