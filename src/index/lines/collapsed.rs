//! Huge pages for an index whose lines were loaded from a checkpoint in the order of the reads.

use super::{IndexLines, Row};

/// The progress of [`IndexLines::collapse_some`]: the next line of each row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Collapsed([u64; 2]);

impl dyn IndexLines {
    /// Puts one piece of the lines onto a huge page, beside readers and the writer. Returns false once
    /// every piece had its turn.
    pub(crate) fn collapse_some(&self, done: &mut Collapsed) -> bool {
        // Only an estimate of the lines that are worth it, while the writer works.
        let lines = self.table().lines;
        for row in [Row::First, Row::Second] {
            let (done, count) = (&mut done.0[row as usize], lines[row as usize]);
            if *done < count {
                *done = self.row(row).collapse(*done, count);
                return true;
            }
        }
        false
    }
}
