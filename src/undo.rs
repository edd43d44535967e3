//! What a batch replaces, while it is being applied: so that no reader sees part of it (I4).
//!
//! The index names only the newest version of a key. While a batch changes entry after entry, `floor` holds its first
//! sequence number; a reader that meets a record at or above the floor takes what the undo table says was there
//! before. Raising the floor again makes the whole batch visible with one store.
//!
//! **Concurrency.** One writer, under the store's writer mutex; readers never wait, take no lock and write no shared
//! memory. The writer's order: floor down, then for every record its undo entry, then the index store (release), then
//! floor up, then the table away. A reader's order: index entry (acquire), floor (acquire), undo entry. A reader that
//! sees a new entry sees the floor at or below it, or a later state of the world. The acquire of the floor also keeps a
//! reader that saw one key of the batch new from seeing another one old: it reads its next entry after the floor.

use crate::epoch::Pin;
use crate::format::Seq;
use crate::guarded::Guarded;
use crate::location::Location;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// No batch is being applied.
const NO_FLOOR: u64 = u64::MAX;
/// The key was absent before.
const ABSENT: u64 = 0;

/// What was there before a record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The key was absent.
    Absent,
    /// Its record lay here.
    At(Location),
}

/// Which records are visible.
#[derive(Debug)]
pub(crate) struct Visibility {
    floor: AtomicU64,
    table: Guarded<Table>,
}

/// What one batch replaces: in ascending order of the new locations, because its records lie behind one another.
#[derive(Debug)]
struct Table {
    entries: Box<[[AtomicU64; 2]]>,
    len: AtomicUsize,
}

impl Visibility {
    /// Everything is visible.
    pub(crate) fn new() -> Self {
        Self { floor: AtomicU64::new(NO_FLOOR), table: Guarded::new() }
    }

    /// Whether the record with this number is visible; asked after its index entry was loaded.
    #[inline]
    pub(crate) fn is_visible(&self, seq: Seq) -> bool {
        // Acquire: pairs with the release stores in `begin` and `end` (module docs).
        seq.0 < self.floor.load(Ordering::Acquire)
    }

    /// What was there before the record at `location`; `None` where no batch in progress wrote it, so that the reader
    /// must look again.
    pub(crate) fn before(&self, location: Location, pin: &Pin) -> Option<Before> {
        let table = self.table.load(pin)?;
        let at = table.position(location)?;
        // Relaxed: announced by `len`.
        match table.entries[at][1].load(Ordering::Relaxed) {
            ABSENT => Some(Before::Absent),
            bits => Some(Before::At(Location::from_bits(bits))),
        }
    }

    /// Begins to apply a batch of `count` records, the first of which has the number `first`.
    pub(crate) fn begin(&self, first: Seq, count: usize) {
        let entries = (0..count).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        self.table.replace(Some(Box::new(Table { entries, len: AtomicUsize::new(0) })));
        // Release: pairs with the acquire in `is_visible`; the index stores that follow are release too, so a reader
        // that sees one of them sees the floor.
        self.floor.store(first.0, Ordering::Release);
    }

    /// Notes that the record at `new` replaces `current`, the index's entry now. A `current` that belongs to the batch
    /// itself stands for what was there before the batch.
    pub(crate) fn note(&self, new: Location, current: Option<Location>, pin: &Pin) {
        let before = match current {
            None => Before::Absent,
            Some(location) => self.before(location, pin).unwrap_or(Before::At(location)),
        };
        let table = self.table.load(pin).expect("between begin and end there is a table");
        // Relaxed, the loads and the two stores: one writer, and `len` announces them.
        let len = table.len.load(Ordering::Relaxed);
        table.entries[len][0].store(new.to_bits(), Ordering::Relaxed);
        let bits = match before {
            Before::Absent => ABSENT,
            Before::At(location) => location.to_bits(),
        };
        table.entries[len][1].store(bits, Ordering::Relaxed);
        // Release: pairs with the acquire in `position`.
        table.len.store(len + 1, Ordering::Release);
    }

    /// Makes the whole batch visible.
    pub(crate) fn end(&self) {
        // Release: pairs with the acquire in `is_visible`: who sees the floor gone sees every index store of the batch.
        self.floor.store(NO_FLOOR, Ordering::Release);
        self.table.replace(None);
    }
}

impl Table {
    fn position(&self, location: Location) -> Option<usize> {
        // Acquire: pairs with the release in `note`.
        let len = self.len.load(Ordering::Acquire);
        // Relaxed: announced by `len`.
        self.entries[..len]
            .binary_search_by_key(&location.to_bits(), |entry| entry[0].load(Ordering::Relaxed))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::pin;

    fn at(bits: u64) -> Location {
        Location::from_bits(bits)
    }

    #[test]
    fn a_batch_is_hidden_until_it_ends() {
        let visibility = Visibility::new();
        let pin = pin();
        assert!(visibility.is_visible(Seq(10)));
        visibility.begin(Seq(10), 2);
        visibility.note(at(100), Some(at(7)), &pin);
        visibility.note(at(110), None, &pin);
        assert!(visibility.is_visible(Seq(9)) && !visibility.is_visible(Seq(10)));
        assert_eq!(visibility.before(at(100), &pin), Some(Before::At(at(7))));
        assert_eq!(visibility.before(at(110), &pin), Some(Before::Absent));
        assert_eq!(visibility.before(at(105), &pin), None);
        visibility.end();
        assert!(visibility.is_visible(Seq(11)));
        assert_eq!(visibility.before(at(100), &pin), None);
    }

    #[test]
    fn a_key_written_twice_in_a_batch_goes_back_to_before_the_batch() {
        let visibility = Visibility::new();
        let pin = pin();
        visibility.begin(Seq(1), 4);
        visibility.note(at(100), Some(at(7)), &pin);
        visibility.note(at(110), Some(at(100)), &pin);
        visibility.note(at(120), None, &pin);
        visibility.note(at(130), Some(at(120)), &pin);
        assert_eq!(visibility.before(at(110), &pin), Some(Before::At(at(7))));
        assert_eq!(visibility.before(at(130), &pin), Some(Before::Absent));
    }
}
