//! Pages of the simulated disk, shared while they are equal, and their torn mixes.
//!
//! At best, a device guarantees whole sectors of 512 bytes. If the processor stores into a page
//! during its write-back, each word may be old or new. Both kinds of tear are made here.

use std::sync::{Arc, LazyLock};

use super::chooser::Chooser;
use crate::mem::PAGE_SIZE;

/// The unit that a device writes as a whole or not at all. In bytes.
const SECTOR_SIZE: usize = 512;
/// The unit that the processor stores as a whole or not at all. In bytes.
const WORD_SIZE: usize = 8;

/// One page's content at one moment; never changes.
pub(super) type SimPage = Arc<[u8; PAGE_SIZE]>;

static ZERO: LazyLock<SimPage> = LazyLock::new(|| Arc::new([0; PAGE_SIZE]));

/// The torn pages that a power cut may leave, beside whole ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tears {
    /// None: a page has one of its earlier contents.
    None,
    /// Up to this number of mixes by sectors for each two contents: few enough to enumerate.
    Sectors(usize),
    /// Up to this number of mixes by words for each two contents, as a store during write-back
    /// leaves them.
    Words(usize),
    /// Every mix by sectors and every cut by words, drawn from the chooser: for sampling, not for
    /// enumeration.
    Any,
}

/// Returns the page of zeros.
pub(super) fn zero() -> SimPage {
    Arc::clone(&ZERO)
}

/// True if two pages hold equal bytes.
pub(super) fn same(a: &SimPage, b: &SimPage) -> bool {
    Arc::ptr_eq(a, b) || a[..] == b[..]
}

/// Returns the page with all bytes from `len` on replaced by zeros.
pub(super) fn cut(page: &SimPage, len: usize) -> SimPage {
    if page[len..].iter().all(|&byte| byte == 0) {
        return Arc::clone(page);
    }
    let mut bytes = **page;
    bytes[len..].fill(0);
    Arc::new(bytes)
}

/// Returns the offsets of the units in which two pages differ.
fn differing(old: &SimPage, new: &SimPage, unit: usize) -> Vec<usize> {
    (0..PAGE_SIZE).step_by(unit).filter(|&at| old[at..at + unit] != new[at..at + unit]).collect()
}

/// Returns the older page with the given units taken from the newer one.
fn mix(old: &SimPage, new: &SimPage, unit: usize, taken: impl Iterator<Item = usize>) -> SimPage {
    let mut bytes = **old;
    for at in taken {
        bytes[at..at + unit].copy_from_slice(&new[at..at + unit]);
    }
    Arc::new(bytes)
}

/// Returns the first few torn mixes of two pages, the most useful first: the first half, the second
/// half, all but the last unit, only the last one, and so on. None of them equals either page.
pub(super) fn mixes(old: &SimPage, new: &SimPage, tears: Tears) -> Vec<SimPage> {
    let (unit, count) = match tears {
        Tears::None | Tears::Any => return Vec::new(),
        Tears::Sectors(count) => (SECTOR_SIZE, count),
        Tears::Words(count) => (WORD_SIZE, count),
    };
    let units = differing(old, new, unit);
    if units.len() < 2 {
        return Vec::new();
    }
    let half = units.len() / 2;
    let others = (1..units.len()).rev().filter(|&at| at != half);
    let cuts = std::iter::once(half).chain(others);
    let both = cuts.flat_map(|at| {
        let front = mix(old, new, unit, units[..at].iter().copied());
        [front, mix(old, new, unit, units[at..].iter().copied())]
    });
    both.take(count).collect()
}

/// Returns a mix that the chooser decides: any subset of sectors, or a cut between any two words.
pub(super) fn chosen_mix(old: &SimPage, new: &SimPage, chooser: &mut dyn Chooser) -> SimPage {
    if chooser.choose(2) == 0 {
        let units = differing(old, new, SECTOR_SIZE);
        let taken: Vec<usize> = units.into_iter().filter(|_| chooser.choose(2) == 1).collect();
        return mix(old, new, SECTOR_SIZE, taken.into_iter());
    }
    let units = differing(old, new, WORD_SIZE);
    let at = chooser.choose(units.len() + 1);
    mix(old, new, WORD_SIZE, units[..at].iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_proper_and_differ_from_each_other() {
        let new: SimPage = Arc::new([1; PAGE_SIZE]);
        let torn = mixes(&zero(), &new, Tears::Sectors(14));
        assert_eq!(torn.len(), 14);
        for (i, page) in torn.iter().enumerate() {
            assert!(!same(page, &new) && !same(page, &zero()));
            for sector in page.chunks(SECTOR_SIZE) {
                assert!(sector.iter().all(|&byte| byte == sector[0]), "a sector is whole");
            }
            // A cut in the middle and its complement are the only pair of equal halves; none
            // repeats.
            assert!(torn[..i].iter().all(|other| !same(other, page)));
        }
    }

    #[test]
    fn a_change_within_one_sector_tears_by_words_only() {
        let mut bytes = [0; PAGE_SIZE];
        bytes[100..140].fill(9);
        let new: SimPage = Arc::new(bytes);
        assert!(mixes(&zero(), &new, Tears::Sectors(8)).is_empty());
        assert_eq!(mixes(&zero(), &new, Tears::Words(8)).len(), 8);
    }
}
