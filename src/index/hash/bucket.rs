//! The words of a line: entries, and the control word of a bucket.
//!
//! **Format** (in memory; index checkpoints hold lines in this form, without versions and verified
//! bits). A line is a run of entries and one control word. The first line of a bucket is its
//! *head*. Entries that do not fit into the head are in *overflow lines*, linked from the head's
//! control word and from each other's.
//!
//! | bits of an entry | meaning |
//! |---|---|
//! | 0-39 | location; zero only in an empty entry, whose other bits are zero too |
//! | 40 | verified: the record's checksum was seen to match since this open; entries made here have it, but for those from hints |
//! | 41-63 | tag: the 23 bits of the hash above the base bits |
//!
//! | bits of a control word | meaning |
//! |---|---|
//! | 0-27 | link: the number of the next overflow line plus one, or zero |
//! | 28-63 | version: counts the moves and removals in the bucket; heads only |
//!
//! **Concurrency.** Every store here is a release and is made by the one writer; readers load
//! entries relaxed and then fence. The protocol is in the head of `index::hash`. Readers set one
//! bit: *verified*, by an exchange that fails if the writer has changed the entry. The writer may
//! undo it by a move that began before; the record is then verified once more.

use std::num::NonZeroU32;

use crate::mem::line_array::{LINE_WORDS, Line};
use crate::mem::location::{LOCATION_BITS, Location};
use crate::sync::Ordering;

/// The number of entries in a line.
pub(super) const SLOTS: usize = LINE_WORDS - 1;
/// The number of bits of a tag.
pub(super) const TAG_BITS: u32 = u64::BITS - TAG_SHIFT;

const VERIFIED: u64 = 1 << LOCATION_BITS;
const TAG_SHIFT: u32 = LOCATION_BITS + 1;
const LOCATION_MASK: u64 = VERIFIED - 1;

const LINK_BITS: u32 = 28;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
/// The greatest number of overflow lines that links can address.
pub(super) const LINKS: u64 = LINK_MASK;

const _: () = assert!(TAG_BITS == 23);

/// The bits of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry(u64);

impl IndexEntry {
    pub(super) const EMPTY: Self = Self(0);

    /// Makes an entry for a record that this process wrote or verified.
    pub(super) fn new(tag: u64, location: Location) -> Self {
        debug_assert!(tag < 1 << TAG_BITS);
        Self(tag << TAG_SHIFT | VERIFIED | location.to_bits())
    }

    /// Makes an entry for a record that was not verified.
    pub(super) fn unverified(tag: u64, location: Location) -> Self {
        Self(Self::new(tag, location).0 & !VERIFIED)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the tag; zero for an empty entry.
    pub(super) fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    /// Returns the location; `None` for an empty entry.
    pub(super) fn location(self) -> Option<Location> {
        (!self.is_empty()).then(|| Location::from_bits(self.location_bits()))
    }

    /// Returns the bits of the location; zero for an empty entry.
    pub(super) fn location_bits(self) -> u64 {
        self.0 & LOCATION_MASK
    }

    /// True if the record's checksum was seen to match since this open.
    pub(super) fn is_verified(self) -> bool {
        self.0 & VERIFIED != 0
    }

    /// True if the entry leads to this location, verified or not.
    pub(super) fn index_leads_to(self, location: Location) -> bool {
        self.0 & LOCATION_MASK == location.to_bits()
    }
}

/// The number of an overflow line, plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OverflowLink(NonZeroU32);

impl OverflowLink {
    /// Makes the link to an overflow line; `None` if the number is too large.
    pub(super) fn to(line: u64) -> Option<Self> {
        let number = u32::try_from(line + 1).ok().filter(|&number| u64::from(number) <= LINKS)?;
        NonZeroU32::new(number).map(Self)
    }

    /// Returns the number of the overflow line.
    pub(super) fn line(self) -> u64 {
        u64::from(self.0.get()) - 1
    }
}

/// The bits of a control word; the default is that of an unused line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ControlWord(u64);

impl ControlWord {
    pub(super) fn link(self) -> Option<OverflowLink> {
        let number = u32::try_from(self.0 & LINK_MASK).expect("28 bits fit into 32");
        NonZeroU32::new(number).map(OverflowLink)
    }

    pub(super) fn with_link(self, link: Option<OverflowLink>) -> Self {
        Self(self.0 & !LINK_MASK | link.map_or(0, |link| u64::from(link.0.get())))
    }

    /// Returns the word with the next version. It wraps after 2^36 moves, far more than can happen
    /// between two loads of a reader.
    pub(super) fn bumped(self) -> Self {
        Self(self.0.wrapping_add(1 << LINK_BITS))
    }
}

/// A line as entries and a control word.
pub(super) trait Bucket {
    /// Returns an entry as it is now or was recently. The reader fences before it acts on a match
    /// or on a miss.
    fn entry(&self, slot: usize) -> IndexEntry;
    /// Returns the control word, and orders everything that was stored before it.
    fn control(&self) -> ControlWord;
    /// Returns the control word for a comparison that a fence has ordered, or for the writer, which
    /// stored it.
    fn control_unordered(&self) -> ControlWord;
    /// Stores an entry. Writer only.
    fn set_entry(&self, slot: usize, entry: IndexEntry);
    /// Stores the control word. Writer only.
    fn set_control(&self, control: ControlWord);
    /// Marks the record of an entry as verified, if the entry is still in its slot. Any thread may
    /// call it.
    fn set_verified(&self, slot: usize, entry: IndexEntry);
}

impl Bucket for Line {
    #[inline]
    fn entry(&self, slot: usize) -> IndexEntry {
        // Relaxed: readers fence (acquire) before they act on it, which pairs with the release in
        // `set_entry`. The writer reads its own stores, or stores that its mutex ordered.
        IndexEntry(self.words[slot].load(Ordering::Relaxed))
    }

    #[inline]
    fn control(&self) -> ControlWord {
        // Acquire: pairs with the release in `set_control`. A thread that sees a version sees the
        // copies that were made before it, and one that sees a link sees the line behind it.
        ControlWord(self.words[SLOTS].load(Ordering::Acquire))
    }

    #[inline]
    fn control_unordered(&self) -> ControlWord {
        // Relaxed: see the trait.
        ControlWord(self.words[SLOTS].load(Ordering::Relaxed))
    }

    #[inline]
    fn set_entry(&self, slot: usize, entry: IndexEntry) {
        // Release: pairs with the fence (acquire) of a reader that loaded this entry: it sees the
        // published record (I2). If this store removes an entry, the reader sees the version or the
        // bucket count that announced it.
        self.words[slot].store(entry.0, Ordering::Release);
    }

    #[inline]
    fn set_control(&self, control: ControlWord) {
        // Release: pairs with the acquire in `control`.
        self.words[SLOTS].store(control.0, Ordering::Release);
    }

    fn set_verified(&self, slot: usize, entry: IndexEntry) {
        let verified = entry.0 | VERIFIED;
        // Relaxed, both: the bit is about bytes that never change, and an exchange leaves the
        // release of the store before it in force. Failure of the exchange does no harm.
        let _ = self.words[slot].compare_exchange(entry.0, verified, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Clears the bits of a line's words that are valid in this process only.
pub(super) fn clear_unsaved_bits(words: &mut [u64; LINE_WORDS]) {
    let (control, entries) = words.split_last_mut().expect("a line has words");
    entries.iter_mut().for_each(|entry| *entry &= !VERIFIED);
    *control &= LINK_MASK;
}

/// The entries and the link of a checkpoint's line.
#[derive(Debug)]
pub(super) struct Checkpointed {
    pub(super) entries: u64,
    pub(super) link: Option<OverflowLink>,
}

impl Checkpointed {
    /// Checks a line that was read from a checkpoint of an index with this many overflow lines.
    /// `None` for a line that no writer produces and that could mislead a search. All other lines
    /// satisfy X4, as far as one line shows.
    pub(super) fn of(words: &[u64; LINE_WORDS], is_head: bool, overflow_lines: u64) -> Option<Self> {
        let (control, entries) = words.split_last().expect("a line has words");
        let link = ControlWord(*control).link();
        let is_entry = |entry: &u64| *entry == 0 || (*entry & VERIFIED == 0 && *entry & LOCATION_MASK != 0);
        let count = entries.iter().filter(|entry| **entry != 0).count();
        let without_gap = entries[..count].iter().all(|entry| *entry != 0);
        let fits = *control & !LINK_MASK == 0
            && entries.iter().all(is_entry)
            && link.is_none_or(|link| link.line() < overflow_lines && count == SLOTS)
            && (is_head || without_gap);
        fits.then_some(Self { entries: count as u64, link })
    }
}

/// Returns the slots of a line whose entries fulfil a condition.
///
/// All slots are tested before the first branch. A branch per slot is mispredicted at nearly every
/// hit, which ends the overlap of this search's cache misses with those of the next one (measured).
#[inline]
pub(super) fn slots_where(
    line: &Line,
    condition: impl Fn(IndexEntry) -> bool,
) -> impl Iterator<Item = usize> + Clone {
    let mut set = (0..SLOTS).fold(0u32, |set, slot| set | u32::from(condition(line.entry(slot))) << slot);
    std::iter::from_fn(move || {
        let slot = (set != 0).then_some(set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(slot)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_back_what_it_was_made_of() {
        for location in [1, 2, LOCATION_MASK] {
            for tag in [0, 1, (1 << TAG_BITS) - 1] {
                let entry = IndexEntry::new(tag, Location::from_bits(location));
                assert_eq!(entry.tag(), tag);
                assert_eq!(entry.location(), Some(Location::from_bits(location)));
                assert!(!entry.is_empty() && entry.index_leads_to(Location::from_bits(location)));
            }
        }
        assert_eq!(IndexEntry::EMPTY.location(), None);
    }

    #[test]
    fn a_control_word_keeps_link_and_version_apart() {
        let last = OverflowLink::to(LINKS - 1);
        assert_eq!(last.map(OverflowLink::line), Some(LINKS - 1));
        assert_eq!(OverflowLink::to(LINKS), None);
        let control = ControlWord(!LINK_MASK).with_link(last);
        assert_eq!(control.bumped().link(), last);
        assert_eq!(control.bumped().with_link(None), ControlWord(0));
    }
}
