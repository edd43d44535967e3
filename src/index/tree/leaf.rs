//! A leaf: entries in the order of their keys.
//!
//! | bits of an entry | meaning |
//! |---|---|
//! | 0-39 | location; never zero |
//! | 40 | verified, as in the hash index |
//! | 41-63 | fragment: the first 23 bits of the key behind the skipped prefix; zeros behind its end |
//!
//! All keys of a leaf begin with the common prefix of its two fences, so the leaf skips it. Fragments never fall from
//! slot to slot. Entries with one fragment are *tied*: the keys in their records decide.

use std::cmp::Ordering;
use std::ops::Range;

use super::EntryPlace;
use super::node::{Control, LEAF_WORDS, TreeNode, Words, key_word, lower_bound};
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::mem::location::{LOCATION_BITS, Location};

/// The most entries of a leaf.
pub(crate) const LEAF_MAX: usize = LEAF_WORDS - 1;

/// The bit that says that the record was seen to match its checksum since this open.
pub(super) const VERIFIED: u64 = 1 << LOCATION_BITS;
const FRAGMENT_SHIFT: u32 = LOCATION_BITS + 1;
/// The number of bits of a fragment.
pub(super) const FRAGMENT_BITS: u32 = u64::BITS - FRAGMENT_SHIFT;

/// The bits of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeafEntry(pub(super) u64);

impl LeafEntry {
    /// Makes the entry of a key in a leaf that skips `skip` bytes, for a record that this process
    /// wrote or verified.
    pub(super) fn new(key: &[u8], skip: usize, location: Location) -> Self {
        Self(fragment(key, skip) << FRAGMENT_SHIFT | VERIFIED | location.to_bits())
    }

    /// Returns the entry for another leaf, which skips `skip` bytes of the key.
    pub(super) fn with_key(self, key: &[u8], skip: usize) -> Self {
        Self(fragment(key, skip) << FRAGMENT_SHIFT | self.0 & ((1 << FRAGMENT_SHIFT) - 1))
    }

    /// Returns the entry for another record of the key.
    pub(super) fn with_location(self, location: Location) -> Self {
        Self(self.0 >> FRAGMENT_SHIFT << FRAGMENT_SHIFT | VERIFIED | location.to_bits())
    }

    pub(super) fn fragment(self) -> u64 {
        self.0 >> FRAGMENT_SHIFT
    }

    pub(super) fn location(self) -> Location {
        Location::from_bits(self.0 & (VERIFIED - 1))
    }

    pub(super) fn place(self) -> EntryPlace {
        (self.location(), self.is_verified())
    }

    pub(super) fn is_verified(self) -> bool {
        self.0 & VERIFIED != 0
    }

    /// Returns the entry of a record that was verified.
    pub(super) fn verified(self) -> Self {
        Self(self.0 | VERIFIED)
    }
}

/// Checks the words of a leaf that was read from a checkpoint. Returns the number of its entries, or
/// `None` for a leaf that no writer makes.
pub(super) fn check(control: Control, words: &[u64]) -> Option<u64> {
    let entries = words.get(1..=control.count())?;
    let is_entry = |entry: &u64| *entry & VERIFIED == 0 && *entry & (VERIFIED - 1) != 0;
    let fits = control.level() == 0
        && control.skip() <= MAX_ORDERED_KEY_LEN
        && entries.iter().all(is_entry)
        && entries.is_sorted_by_key(|entry| entry >> FRAGMENT_SHIFT);
    fits.then_some(entries.len() as u64)
}

/// Returns the fragment of a key in a leaf that skips `skip` bytes.
#[inline]
pub(super) fn fragment(key: &[u8], skip: usize) -> u64 {
    key_word(key, skip) >> FRAGMENT_SHIFT
}

/// Entries that a search reads: those of a leaf, or of a copy.
pub(super) trait LeafEntries {
    /// Returns the length of the prefix that the leaf skips.
    fn skip(&self) -> usize;

    fn count(&self) -> usize;

    fn entry(&self, slot: usize) -> LeafEntry;

    /// Returns the slots with the fragment of a key.
    #[inline]
    fn tied(&self, key: &[u8]) -> Range<usize> {
        let (fragment, count) = (fragment(key, self.skip()), self.count());
        let start = lower_bound(0..count, |slot| self.entry(slot).0 < fragment << FRAGMENT_SHIFT);
        let end = (start..count).find(|slot| self.entry(*slot).fragment() != fragment);
        start..end.unwrap_or(count)
    }

    /// Returns the slot of a key, or the slot before which it belongs. `compare` returns the order of
    /// the key in the record of an entry and of this key.
    #[inline]
    fn search<E>(
        &self,
        key: &[u8],
        compare: impl FnMut(LeafEntry) -> Result<Ordering, E>,
    ) -> Result<Result<usize, usize>, E> {
        self.search_among(self.tied(key), compare)
    }

    /// Searches like [`LeafEntries::search`] among the entries that are tied with the key.
    #[inline]
    fn search_among<E>(
        &self,
        mut tied: Range<usize>,
        mut compare: impl FnMut(LeafEntry) -> Result<Ordering, E>,
    ) -> Result<Result<usize, usize>, E> {
        while !tied.is_empty() {
            let middle = usize::midpoint(tied.start, tied.end);
            match compare(self.entry(middle))? {
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Less => tied.start = middle + 1,
                Ordering::Greater => tied.end = middle,
            }
        }
        Ok(Err(tied.start))
    }

    /// Searches like [`LeafEntries::search_among`], for a key that is likely to belong behind all.
    fn search_from_last<E>(
        &self,
        tied: Range<usize>,
        mut compare: impl FnMut(LeafEntry) -> Result<Ordering, E>,
    ) -> Result<Result<usize, usize>, E> {
        let last = tied.end - 1;
        match compare(self.entry(last))? {
            Ordering::Less => Ok(Err(tied.end)),
            Ordering::Equal => Ok(Ok(last)),
            Ordering::Greater => self.search_among(tied.start..last, compare),
        }
    }

    /// Returns the number of entries whose keys are before a key, which lies between the fences of the
    /// leaf. `is_before` tells if that in the record at a location is; see [`Tree::scan`](super::Tree::scan).
    ///
    /// # Errors
    ///
    /// The error of `is_before`.
    fn count_before<E>(
        &self,
        key: &[u8],
        mut is_before: impl FnMut(EntryPlace, &[u8]) -> Result<bool, E>,
    ) -> Result<usize, E> {
        let (Ok(slot) | Err(slot)) = self.search(key, |entry| {
            let is_before = is_before(entry.place(), key)?;
            Ok::<_, E>(if is_before { Ordering::Less } else { Ordering::Greater })
        })?;
        Ok(slot)
    }

    /// Returns the slot of a key whose record is at a location.
    fn slot_of(&self, key: &[u8], location: Location) -> Option<usize> {
        self.tied(key).find(|slot| self.entry(*slot).location() == location)
    }
}

/// The entries of a leaf where they are. A reader validates what it read by the leaf's control word.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafView<'n> {
    node: TreeNode<'n>,
    control: Control,
}

impl<'n> LeafView<'n> {
    #[inline]
    pub(super) fn new(node: TreeNode<'n>, control: Control) -> Self {
        Self { node, control }
    }

    /// Stores the entries into a node that is being built, with one more. Writer only.
    pub(super) fn write_with(&self, slot: usize, new: LeafEntry, into: TreeNode<'_>) {
        debug_assert!(self.count() < LEAF_MAX);
        into.copy(self.node, 1..slot + 1, 1);
        into.set(slot + 1, new.0);
        into.copy(self.node, slot + 1..self.count() + 1, slot + 2);
    }
}

impl LeafEntries for LeafView<'_> {
    #[inline]
    fn skip(&self) -> usize {
        self.control.skip()
    }

    #[inline]
    fn count(&self) -> usize {
        self.control.count().min(LEAF_MAX)
    }

    #[inline]
    fn entry(&self, slot: usize) -> LeafEntry {
        LeafEntry(self.node.word(slot + 1))
    }
}

impl LeafEntries for LeafCopy {
    fn skip(&self) -> usize {
        self.skip
    }

    fn count(&self) -> usize {
        self.count
    }

    fn entry(&self, slot: usize) -> LeafEntry {
        LeafEntry(self.entries[slot])
    }
}

/// The entries of a leaf, copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafCopy {
    pub(super) skip: usize,
    count: usize,
    entries: [u64; LEAF_MAX + 1],
}

impl LeafCopy {
    /// Makes a copy with no entries.
    pub(super) fn empty(skip: usize) -> Self {
        Self { skip, count: 0, entries: [0; LEAF_MAX + 1] }
    }

    /// Copies the entries of a leaf. A reader validates the copy by the leaf's control word.
    #[inline]
    pub(super) fn read(leaf: TreeNode<'_>, control: Control) -> Self {
        let mut copy = Self::empty(0);
        copy.load(leaf, control);
        copy
    }

    /// Replaces the entries by those of a leaf; see [`LeafCopy::read`].
    #[inline]
    pub(super) fn load(&mut self, leaf: TreeNode<'_>, control: Control) {
        (self.skip, self.count) = (control.skip(), control.count().min(LEAF_MAX));
        for (at, entry) in (1..).zip(&mut self.entries[..self.count]) {
            *entry = leaf.word(at);
        }
    }

    /// Stores the entries into a node that is being built. Writer only.
    pub(super) fn write(&self, leaf: TreeNode<'_>) {
        debug_assert!(self.count <= LEAF_MAX);
        for (at, entry) in (1..).zip(&self.entries[..self.count]) {
            leaf.set(at, *entry);
        }
    }

    /// Iterates over the entries.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = LeafEntry> + ExactSizeIterator {
        self.entries[..self.count].iter().map(|entry| LeafEntry(*entry))
    }

    /// Inserts an entry, possibly one more than a leaf holds: the caller then splits it.
    pub(super) fn insert(&mut self, slot: usize, entry: LeafEntry) {
        self.entries.copy_within(slot..self.count, slot + 1);
        self.entries[slot] = entry.0;
        self.count += 1;
    }

    pub(super) fn set(&mut self, slot: usize, entry: LeafEntry) {
        self.entries[slot] = entry.0;
    }

    pub(super) fn remove(&mut self, slot: usize) {
        self.entries.copy_within(slot + 1..self.count, slot);
        self.count -= 1;
    }

    /// Returns the entries whose location fulfils a condition.
    pub(super) fn retained(&self, keep: impl Fn(Location) -> bool) -> Self {
        let mut copy = Self::empty(self.skip);
        self.entries().filter(|entry| keep(entry.location())).for_each(|entry| copy.push(entry));
        copy
    }

    pub(super) fn push(&mut self, entry: LeafEntry) {
        self.entries[self.count] = entry.0;
        self.count += 1;
    }
}

/// The tied entries next to the place where a key was not found. All others whose fragment is that of the
/// key are farther away.
///
/// Let a wrong key have led the search to a wrong side, the last time at entry e. All keys on that side are
/// then on the other side of the one that is sought, and all comparisons there are right. So the search ends
/// beside e.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside([Option<LeafEntry>; 2]);

impl Beside {
    /// There is no tied entry.
    pub(crate) const NONE: Self = Self([None; 2]);

    pub(super) fn one(entry: LeafEntry) -> Self {
        Self([Some(entry), None])
    }

    /// Returns those among the tied entries of a leaf before which, or behind the last of which, a key belongs.
    pub(super) fn at(leaf: &impl LeafEntries, tied: &Range<usize>, slot: usize) -> Self {
        let beside = [slot.checked_sub(1), Some(slot)];
        Self(beside.map(|slot| slot.filter(|slot| tied.contains(slot)).map(|slot| leaf.entry(slot))))
    }

    /// Returns their locations.
    pub(crate) fn locations(self) -> impl Iterator<Item = Location> {
        self.0.into_iter().flatten().map(LeafEntry::location)
    }

    /// Returns the entries.
    pub(super) fn entries(self) -> impl Iterator<Item = LeafEntry> {
        self.0.into_iter().flatten()
    }
}

/// The entries of a leaf that are tied with a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum TiedEntries {
    None,
    One(LeafEntry),
    /// More than one: the leaf is to be copied.
    Many,
}

impl TiedEntries {
    /// Reads them from a leaf.
    #[inline]
    pub(super) fn read(leaf: LeafView<'_>, key: &[u8]) -> Self {
        let slots = leaf.tied(key);
        match slots.len() {
            0 => Self::None,
            1 => Self::One(leaf.entry(slots.start)),
            _ => Self::Many,
        }
    }
}
