//! The space that insertions leave free on a nearly full disk, so that removals can free some:
//! numbers only.
//!
//! **Problem.** A removal takes space first: its tombstone is written, and the pass that drops both
//! records writes its copies before its victims are deleted.
//!
//! **Rule.** A pass gets G pages, at least one segment. Tombstones get N / G pages, where N is the
//! number of pages in the log. Insertions leave both free.
//!
//! **Proof.**
//!
//! 1. If more than one page in G is dead, the G pages with the most dead bytes fit into G - 1. So
//!    some pass frees a page.
//! 2. So at most N / G pages of dead records cannot be reclaimed by any pass.
//! 3. A tombstone is no larger than the record that it hides. So removals can write N / G pages,
//!    after which a pass is possible.
//! 4. Each further page that removals need is freed by a pass.

use crate::mem::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that the copies of the manifest may need, and the loss at the ends of files.
const MARGIN: u64 = 4;
/// The reserve is at most one part in this many of the space that a store can have in total.
const SHARE: u64 = 3;

/// The parts of the free space that are reserved, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// The bytes that removals leave to passes.
    pub(crate) pass: u64,
    /// The bytes that insertions leave to removals and passes.
    pub(crate) all: u64,
}

impl Reserve {
    /// Computes the reserve for `log` bytes of segments, the largest of `largest` bytes, where
    /// `spare` bytes are available.
    pub(crate) fn of(log: u64, largest: u64, spare: u64) -> Self {
        let pages = log / PAGE;
        let pass = largest.div_ceil(PAGE).max(pages.isqrt()).max(1);
        let tombstones = pages.div_ceil(pass) + MARGIN;
        let (wanted, most) = (pass + tombstones, (pages + spare / PAGE) / SHARE);
        // If that is too much, each gets less of it.
        let (pass, all) = if wanted <= most { (pass, wanted) } else { (pass.min(most - most / 3), most) };
        Self { pass: pass * PAGE, all: all * PAGE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    #[test]
    fn a_large_store_keeps_a_segment_and_little_more() {
        let reserve = Reserve::of(1 << 30, 64 * M, 200 * M);
        assert_eq!(reserve, Reserve { pass: 64 * M, all: 64 * M + (16 + 4) * PAGE });
    }

    #[test]
    fn many_small_segments_keep_the_root_of_their_number_twice() {
        let reserve = Reserve::of(10_000 * PAGE, PAGE, 10_000 * PAGE);
        assert_eq!(reserve, Reserve { pass: 100 * PAGE, all: (100 + 100 + 4) * PAGE });
    }

    #[test]
    fn a_small_disk_is_not_all_reserve() {
        for pages in 0..200 {
            for spare in 0..50 {
                let Reserve { pass, all } = Reserve::of(pages * PAGE, 16 * PAGE, spare * PAGE);
                assert!(all <= (pages + spare) * PAGE / 3 && pass <= all, "{pages} {spare}");
                assert!(all < 3 * PAGE || pass > 0 && all > pass, "{pages} {spare}: {pass} of {all}");
            }
        }
    }
}
