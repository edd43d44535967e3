//! Huge pages for an index whose lines were loaded from a checkpoint in the order of the reads.

use super::Index;
use crate::sync::Ordering;

/// The progress of [`Index::collapse_some`]: the next line of each row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Collapsed {
    heads: u64,
    overflow: u64,
}

impl Index {
    /// Puts one piece of the lines onto a huge page, beside readers and the writer. Returns false once
    /// every piece had its turn.
    pub(crate) fn collapse_some(&self, done: &mut Collapsed) -> bool {
        let buckets = self.buckets();
        // Relaxed: only an estimate of the lines that are worth it.
        let overflow_lines = self.counters.0.overflow_lines.load(Ordering::Relaxed);
        if done.heads < buckets {
            done.heads = self.heads.collapse(done.heads, buckets);
            return true;
        }
        if done.overflow < overflow_lines {
            done.overflow = self.overflow.collapse(done.overflow, overflow_lines);
            return true;
        }
        false
    }
}
