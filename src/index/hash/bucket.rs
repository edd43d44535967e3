//! What the words of a line mean: entries, and the control word of a bucket.
//!
//! **Format** (in memory; images of the index hold lines in the same form, without versions and verified bits). A line is a run of entries and one
//! control word. The first line of a bucket is its *head*; lines that hold what the head has no room for are *overflow
//! lines*, linked from the head's control word and from each other's.
//!
//! | bits of an entry | meaning |
//! |---|---|
//! | 0-39 | location; zero only in an empty entry, whose other bits are zero too |
//! | 40 | verified: the record's checksum was seen to match since this open; every entry made here has it |
//! | 41-63 | tag: the 23 bits of the hash above the base bits |
//!
//! | bits of a control word | meaning |
//! |---|---|
//! | 0-27 | link: the number of the next overflow line plus one, or zero |
//! | 28-63 | version: counts the moves and removals in the bucket; heads only |
//!
//! **Concurrency.** Every store here is a release and is made by the one writer; readers load entries relaxed and
//! then fence. The protocol is in the head of `index`. One bit is set by readers: *verified*, by an exchange that fails
//! where the writer has changed the entry. The writer may undo it by a move that began before; the record is then
//! verified once more.

use std::num::NonZeroU32;

use crate::mem::cache_lines::{LINE_WORDS, Line};
use crate::mem::location::{LOCATION_BITS, Location};
use crate::sync::Ordering;

/// Entries in a line.
pub(super) const SLOTS: usize = LINE_WORDS - 1;
/// Bits of a tag.
pub(super) const TAG_BITS: u32 = u64::BITS - TAG_SHIFT;

const VERIFIED: u64 = 1 << LOCATION_BITS;
const TAG_SHIFT: u32 = LOCATION_BITS + 1;
const LOCATION_MASK: u64 = VERIFIED - 1;

const LINK_BITS: u32 = 28;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
/// The greatest number of overflow lines that links can tell apart.
pub(super) const LINKS: u64 = LINK_MASK;

const _: () = assert!(TAG_BITS == 23);

/// One entry's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry(u64);

impl IndexEntry {
    pub(super) const EMPTY: Self = Self(0);

    /// An entry for a record that this process wrote or verified.
    pub(super) fn new(tag: u64, location: Location) -> Self {
        debug_assert!(tag < 1 << TAG_BITS);
        Self(tag << TAG_SHIFT | VERIFIED | location.to_bits())
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The entry's tag; zero for an empty one.
    pub(super) fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    /// The entry's location, if it is not empty.
    pub(super) fn location(self) -> Option<Location> {
        (!self.is_empty()).then(|| Location::from_bits(self.0 & LOCATION_MASK))
    }

    /// Whether the record's checksum was seen to match since this open.
    pub(super) fn is_verified(self) -> bool {
        self.0 & VERIFIED != 0
    }

    /// Whether the entry leads to this location, verified or not.
    pub(super) fn index_leads_to(self, location: Location) -> bool {
        self.0 & LOCATION_MASK == location.to_bits()
    }
}

/// The number of an overflow line, plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OverflowLink(NonZeroU32);

impl OverflowLink {
    /// The link to an overflow line; `None` where there are too many lines.
    pub(super) fn to(line: u64) -> Option<Self> {
        let number = u32::try_from(line + 1).ok().filter(|&number| u64::from(number) <= LINKS)?;
        NonZeroU32::new(number).map(Self)
    }

    /// The number of the overflow line.
    pub(super) fn line(self) -> u64 {
        u64::from(self.0.get()) - 1
    }
}

/// A control word's bits; those of a line that was never used are the default.
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

    /// The next version. It wraps after 2^36 moves, which no reader sleeps through between two loads.
    pub(super) fn bumped(self) -> Self {
        Self(self.0.wrapping_add(1 << LINK_BITS))
    }
}

/// A line as entries and a control word.
pub(super) trait Bucket {
    /// An entry as it may be now or may have been lately. The reader fences before it uses what it found, or what it
    /// did not find.
    fn entry(&self, slot: usize) -> IndexEntry;
    /// The control word, and everything that was stored before it.
    fn control(&self) -> ControlWord;
    /// The control word for a comparison that a fence has ordered, or for the writer, who stored it.
    fn control_unordered(&self) -> ControlWord;
    /// Stores an entry. Writer only.
    fn set_entry(&self, slot: usize, entry: IndexEntry);
    /// Stores the control word. Writer only.
    fn set_control(&self, control: ControlWord);
    /// Notes that the record of an entry was verified, if the entry is still there. Anybody may.
    fn set_verified(&self, slot: usize, entry: IndexEntry);
}

impl Bucket for Line {
    #[inline]
    fn entry(&self, slot: usize) -> IndexEntry {
        // Relaxed: readers fence (acquire) before they act on it, which pairs with the release in `set_entry`; the
        // writer reads what it stored itself, or what the mutex around it ordered.
        IndexEntry(self.words[slot].load(Ordering::Relaxed))
    }

    #[inline]
    fn control(&self) -> ControlWord {
        // Acquire: pairs with the release in `set_control`, so that whoever sees a version sees the copies that were
        // made before it, and whoever sees a link sees the line behind it.
        ControlWord(self.words[SLOTS].load(Ordering::Acquire))
    }

    #[inline]
    fn control_unordered(&self) -> ControlWord {
        // Relaxed: see the trait.
        ControlWord(self.words[SLOTS].load(Ordering::Relaxed))
    }

    #[inline]
    fn set_entry(&self, slot: usize, entry: IndexEntry) {
        // Release: pairs with the fence (acquire) of a reader that loaded this entry: it sees the published record
        // (I2), and where this store takes something away it sees the version or the bucket count that says so.
        self.words[slot].store(entry.0, Ordering::Release);
    }

    #[inline]
    fn set_control(&self, control: ControlWord) {
        // Release: pairs with the acquire in `control`.
        self.words[SLOTS].store(control.0, Ordering::Release);
    }

    fn set_verified(&self, slot: usize, entry: IndexEntry) {
        let verified = entry.0 | VERIFIED;
        // Relaxed, both: the bit says something of bytes that never change, and an exchange leaves the release of the
        // store before it in force. Whether it succeeds does not matter.
        let _ = self.words[slot].compare_exchange(entry.0, verified, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A line's words as an image holds them: what no other process may believe or need is left out.
pub(super) fn checkpointed(mut words: [u64; LINE_WORDS]) -> [u64; LINE_WORDS] {
    let (control, entries) = words.split_last_mut().expect("a line has words");
    entries.iter_mut().for_each(|entry| *entry &= !VERIFIED);
    *control &= LINK_MASK;
    words
}

/// What a line in an image says about itself.
#[derive(Debug)]
pub(super) struct Imaged {
    pub(super) entries: u64,
    pub(super) link: Option<OverflowLink>,
}

impl Imaged {
    /// Looks at a line that was read from an image of an index with this many overflow lines; `None` for one that no
    /// writer writes, and that could lead a search astray (X4 holds in all others, as far as one line shows).
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

/// The slots of a line whose entries fulfil a condition.
///
/// All slots first and then the branches: a branch per slot is mispredicted at nearly every hit, and with it ends the
/// overlap of this search's cache misses with those of the next one (measured: docs/design/index.md, "Search").
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
