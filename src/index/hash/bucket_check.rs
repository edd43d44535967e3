//! The lines of a hash index in a checkpoint: their form, the order in which a search loads them, and
//! the check of blocks that are loaded.
//!
//! **Concurrency.** A search loads the whole chain of its bucket before it looks at any line of it. The
//! writer does so before it changes a chain. Links therefore lead to loaded lines: those of the
//! checkpoint were loaded, and the writer links lines only from chains that it loaded itself, or new
//! lines. A reader whose chain changes while it loads may stop: the writer has loaded that chain.
//!
//! **Damage.** A line that would break X4 is refused like a wrong checksum. So is a second link to one
//! line, which could make a chain a circle.

use std::path::Path;
use std::sync::Arc;

use super::Index;
use super::bucket::{Bucket, Checkpointed, OverflowLink, clear_unsaved_bits};
use crate::format::checkpoint::{IndexKind, IndexTable};
use crate::index::lines::bitset::PagedBits;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::capture::BLOCK_LINES;
use crate::index::lines::chunked::ChunkedLines;
use crate::index::lines::lazy::{BlockCheck, LazyLoader};
use crate::index::lines::{IndexLines, Row};
use crate::mem::line_array::LINE_WORDS;
use crate::sync::{AtomicU64, Ordering, fence};

impl IndexLines for Index {
    fn table(&self) -> IndexTable {
        // Relaxed, all: the caller is the writer, which stored them.
        let overflow_lines = self.counters.0.overflow_lines.load(Ordering::Relaxed);
        let entries = self.counters.0.entries.load(Ordering::Relaxed);
        let kind = IndexKind::Hash { base_bits: self.base_bits };
        IndexTable { kind, entries, lines: [self.buckets(), overflow_lines] }
    }

    fn row(&self, row: Row) -> &ChunkedLines {
        match row {
            Row::First => &self.heads,
            Row::Second => &self.overflow,
        }
    }

    fn clear_unsaved_bits(&self, _: Row, _: u64, words: &mut [u64; LINE_WORDS]) {
        clear_unsaved_bits(words);
    }

    fn captured(&self) -> &AtomicU64 {
        &self.counters.0.captured
    }

    fn loader(&self) -> Option<&LazyLoader> {
        self.loader.as_deref()
    }

    fn flags(&self) -> &AtomicU64 {
        &self.front.0.partial
    }

    fn path(&self) -> Arc<Path> {
        self.waiting.get().map_or_else(|| Arc::from(Path::new("")), |parts| Arc::clone(parts.path()))
    }
}

impl Index {
    /// Returns the index as rows of lines.
    pub(crate) fn lines(&self) -> &(dyn IndexLines + 'static) {
        self
    }

    /// Loads the chain of a bucket; returns at once for a whole index.
    #[cold]
    pub(super) fn ensure_loaded(&self, bucket: u64) -> Result<(), BlockError> {
        let lines = self.lines();
        lines.check_ended()?;
        let Some(loader) = lines.loader() else { return Ok(()) };
        lines.load_block(loader, Row::First, bucket / BLOCK_LINES)?;
        let head = self.heads.line(bucket);
        let control = head.control();
        let mut link = control.link();
        while let Some(next) = link {
            lines.load_block(loader, Row::Second, next.line() / BLOCK_LINES)?;
            let line = self.overflow.line(next.line());
            // Acquire: as in `find`, so that lines that change hands cannot lead in a circle.
            fence(Ordering::Acquire);
            if head.control_unordered() != control {
                break;
            }
            link = line.control().link();
        }
        Ok(())
    }
}

/// The check of the blocks of a hash index.
#[derive(Debug)]
pub(super) struct BucketCheck {
    overflow_lines: u64,
    /// Overflow lines that a loaded line links to.
    linked: PagedBits,
    /// Loaded overflow lines without entries.
    empty: PagedBits,
}

impl BucketCheck {
    pub(super) fn new(overflow_lines: u64) -> Self {
        let bits = || PagedBits::new(overflow_lines);
        Self { overflow_lines, linked: bits(), empty: bits() }
    }
}

impl BlockCheck for BucketCheck {
    fn note(
        &mut self,
        row: Row,
        first: u64,
        lines: &[[u64; LINE_WORDS]],
        free: &mut Vec<u64>,
    ) -> Result<u64, &'static str> {
        const LINE: &str = "line of an index";
        let is_head = row == Row::First;
        let mut entries = 0;
        let mut links: Vec<OverflowLink> = Vec::new();
        for (number, words) in (first..).zip(lines) {
            let line = Checkpointed::of(words, is_head, self.overflow_lines).ok_or(LINE)?;
            entries += line.entries;
            links.extend(line.link);
            if !is_head && line.entries == 0 {
                if self.linked.get(number) {
                    return Err(LINE);
                }
                free.push(number);
            }
        }
        for (at, link) in links.iter().enumerate() {
            let is_empty = self.empty.get(link.line()) || free.contains(&link.line());
            if self.linked.get(link.line()) || links[..at].contains(link) || is_empty {
                return Err(LINE);
            }
        }
        links.iter().for_each(|link| self.linked.set(link.line()));
        free.iter().for_each(|number| self.empty.set(*number));
        Ok(entries)
    }

    fn is_complete(&self) -> bool {
        true
    }
}
