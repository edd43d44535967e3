//! What insertions leave free on a disk that is nearly full, so that removals lead out of it: numbers only.
//!
//! Removing something takes room first: the tombstone is written, and the pass that takes both out writes its copies
//! before its victims go. Let the log have N pages and a pass find room for G of them, one segment at the least. If the
//! share of N that is dead is greater than 1 in G, then the G pages' worth that hold most of it fit into one page less,
//! so there is a pass that gives back a page. So at most N / G pages of dead records lie about that no pass can win. A
//! tombstone is no larger than the record that it hides; so with G pages for a pass and N / G for tombstones
//! removals never end before a pass becomes possible, and each page that they need after that is won by one.

use crate::mem::mapping::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that the copies of the manifest may need, and what is lost at the ends of files.
const MARGIN: u64 = 4;
/// Of what a store can have altogether, the reserve is at most one part in so many.
const SHARE: u64 = 3;

/// How much of what is free is not for everybody, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// Removals leave so much to passes.
    pub(crate) pass: u64,
    /// Insertions leave so much to removals and passes.
    pub(crate) all: u64,
}

impl Reserve {
    /// For segments of `log` bytes, the largest of which has `largest`, where `spare` bytes can be had.
    pub(crate) fn of(log: u64, largest: u64, spare: u64) -> Self {
        let pages = log / PAGE;
        let pass = largest.div_ceil(PAGE).max(pages.isqrt()).max(1);
        let tombstones = pages.div_ceil(pass) + MARGIN;
        let (wanted, most) = (pass + tombstones, (pages + spare / PAGE) / SHARE);
        // Where that is too much, each gets less of it.
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
