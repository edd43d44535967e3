//! Batch visibility: readers never see a part of a batch that is being applied (I4).
//!
//! The index names only the newest version of a key. While a batch changes entry after entry,
//! `floor` holds its first sequence number. A reader that finds a record at or above the floor
//! takes the prior one from the visibility table. Raising the floor again makes the whole batch
//! visible with one store.
//!
//! **Concurrency.** There is one writer, under the store's writer mutex. Readers never wait, take
//! no lock and write no shared memory.
//!
//! 1. The writer's order: floor down, then for every record its table entry and the index store
//!    (release), then floor up, then the table away.
//! 2. A reader's order: index entry (acquire), floor (acquire), table entry.
//! 3. A reader that sees a new entry sees the floor at or below it, or a later state.
//! 4. The acquire of the floor also orders keys. A reader that saw one key of the batch new never
//!    sees another one old, since it reads its next entry after the floor.

use std::io;

use crate::format::Seq;
use crate::mem::alloc;
use crate::mem::location::Location;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::epoch::{Domain, Pin};
use crate::sync::rcu::RcuCell;

/// The value of the floor while no batch is being applied.
const NO_FLOOR: u64 = u64::MAX;
/// The value of an entry whose key was absent.
const ABSENT: u64 = 0;

/// The state of a key before a record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prior {
    /// The key was absent.
    Absent,
    /// Its record was at this location.
    At(Location),
}

/// The rule for which records are visible.
#[derive(Debug)]
pub(crate) struct Visibility {
    floor: AtomicU64,
    table: RcuCell<VisibilityTable>,
}

/// The entries that one batch replaces, in ascending order of the new locations, since its records
/// are adjacent.
#[derive(Debug)]
struct VisibilityTable {
    entries: Box<[[AtomicU64; 2]]>,
    len: AtomicUsize,
}

/// Memory for the entries that one batch replaces.
#[derive(Debug)]
pub(crate) struct ReservedEntries(Box<[[AtomicU64; 2]]>);

impl ReservedEntries {
    /// Reserves memory for a batch of `count` records.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn of(count: usize) -> io::Result<Self> {
        let mut entries = alloc::with_capacity(count)?;
        entries.extend((0..count).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]));
        Ok(Self(entries.into_boxed_slice()))
    }
}

impl Visibility {
    /// Starts with everything visible.
    pub(crate) fn new(domain: Domain) -> Self {
        Self { floor: AtomicU64::new(NO_FLOOR), table: RcuCell::new(domain) }
    }

    /// Returns true if the record with this number is visible. Called after its index entry was
    /// loaded.
    #[inline]
    pub(crate) fn is_visible(&self, seq: Seq) -> bool {
        // Acquire: pairs with the release stores in `begin` and `end` (module docs).
        seq.0 < self.floor.load(Ordering::Acquire)
    }

    /// Returns the state before the record at `location`.
    ///
    /// `None` if no batch in progress wrote it, so that the reader must look again.
    pub(crate) fn before(&self, location: Location, pin: &Pin) -> Option<Prior> {
        let table = self.table.load(pin)?;
        let at = table.position(location)?;
        // Relaxed: published by `len`.
        match table.entries[at][1].load(Ordering::Relaxed) {
            ABSENT => Some(Prior::Absent),
            bits => Some(Prior::At(Location::from_bits(bits))),
        }
    }

    /// Begins to apply a batch whose first record has the number `first`.
    pub(crate) fn begin(&self, first: Seq, room: ReservedEntries) {
        self.table.replace(Some(Box::new(VisibilityTable { entries: room.0, len: AtomicUsize::new(0) })));
        // Release: pairs with the acquire in `is_visible`. The later index stores are release too,
        // so a reader that sees one of them sees the floor.
        self.floor.store(first.0, Ordering::Release);
    }

    /// Records that the record at `new` replaces `current`, the present index entry.
    ///
    /// No key comes twice: of several records of a batch for one key, only the last enters the
    /// index.
    pub(crate) fn note(&self, new: Location, current: Option<Location>, pin: &Pin) {
        let table = self.table.load(pin).expect("between begin and end there is a table");
        // Relaxed, the loads and the two stores: one writer, and `len` publishes them.
        let len = table.len.load(Ordering::Relaxed);
        table.entries[len][0].store(new.to_bits(), Ordering::Relaxed);
        let bits = current.map_or(ABSENT, Location::to_bits);
        table.entries[len][1].store(bits, Ordering::Relaxed);
        // Release: pairs with the acquire in `position`.
        table.len.store(len + 1, Ordering::Release);
    }

    /// Makes the whole batch visible.
    pub(crate) fn end(&self) {
        // Release: pairs with the acquire in `is_visible`. A reader of this store sees every index
        // store of the batch.
        self.floor.store(NO_FLOOR, Ordering::Release);
        self.table.replace(None);
    }
}

impl VisibilityTable {
    fn position(&self, location: Location) -> Option<usize> {
        // Acquire: pairs with the release in `note`.
        let len = self.len.load(Ordering::Acquire);
        // Relaxed: published by `len`.
        self.entries[..len]
            .binary_search_by_key(&location.to_bits(), |entry| entry[0].load(Ordering::Relaxed))
            .ok()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn at(bits: u64) -> Location {
        Location::from_bits(bits)
    }

    #[test]
    fn a_batch_is_hidden_until_it_ends() {
        let visibility = Visibility::new(Domain::new());
        let pin = visibility.table.pin();
        assert!(visibility.is_visible(Seq(10)));
        visibility.begin(Seq(10), ReservedEntries::of(2).unwrap());
        visibility.note(at(100), Some(at(7)), &pin);
        visibility.note(at(110), None, &pin);
        assert!(visibility.is_visible(Seq(9)) && !visibility.is_visible(Seq(10)));
        assert_eq!(visibility.before(at(100), &pin), Some(Prior::At(at(7))));
        assert_eq!(visibility.before(at(110), &pin), Some(Prior::Absent));
        assert_eq!(visibility.before(at(105), &pin), None);
        visibility.end();
        assert!(visibility.is_visible(Seq(11)));
        assert_eq!(visibility.before(at(100), &pin), None);
    }
}

/// Models of a reader's view, on the code above: the index is two words, and a record's number is
/// its location.
#[cfg(loom)]
#[cfg(test)]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Every schedule with up to three preemptions. All of them would take many minutes, and found
    /// nothing more.
    fn model(check: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(check);
    }

    /// Two keys of an index, and the visibility of their records.
    struct Two {
        entries: [AtomicU64; 2],
        visibility: Visibility,
    }

    impl Two {
        fn new(entries: [u64; 2]) -> Self {
            Self { entries: entries.map(AtomicU64::new), visibility: Visibility::new(Domain::new()) }
        }

        /// Reads a key, as in `State::lookup`. Returns the number of the record that the reader
        /// sees.
        fn get(&self, key: usize) -> u64 {
            let pin = self.visibility.table.pin();
            loop {
                // Acquire: as the index does on a hit.
                let found = self.entries[key].load(Ordering::Acquire);
                if found == ABSENT || self.visibility.is_visible(Seq(found)) {
                    return found;
                }
                match self.visibility.before(Location::from_bits(found), &pin) {
                    Some(Prior::Absent) => return ABSENT,
                    Some(Prior::At(location)) => return location.to_bits(),
                    None => thread::yield_now(),
                }
            }
        }

        /// Writes a batch, as in `batch`: both keys get the records `first` and `first + 1`.
        fn write(&self, first: u64) {
            let pin = self.visibility.table.pin();
            self.visibility.begin(Seq(first), ReservedEntries::of(2).unwrap());
            for (key, entry) in (0..).zip(&self.entries) {
                let current = entry.load(Ordering::Relaxed);
                let current = (current != ABSENT).then(|| Location::from_bits(current));
                self.visibility.note(Location::from_bits(first + key), current, &pin);
                entry.store(first + key, Ordering::Release);
            }
            drop(pin);
            self.visibility.end();
        }
    }

    #[test]
    fn loom_reader_never_sees_part_of_a_batch() {
        model(|| {
            let two = Arc::new(Two::new([1, 2]));
            let writer = {
                let two = Arc::clone(&two);
                thread::spawn(move || two.write(10))
            };
            let first = two.get(1);
            let second = two.get(0);
            assert!([2, 11].contains(&first) && [1, 10].contains(&second));
            assert!(first != 11 || second == 10, "one key was seen new and then the other old");
            writer.join().unwrap();
            assert_eq!((two.get(0), two.get(1)), (10, 11));
        });
    }

    #[test]
    fn loom_key_of_a_batch_is_absent_until_all_keys_are_visible() {
        model(|| {
            let two = Arc::new(Two::new([ABSENT, ABSENT]));
            let writer = {
                let two = Arc::clone(&two);
                thread::spawn(move || two.write(10))
            };
            let first = two.get(0);
            let second = two.get(1);
            assert!(first != 10 || second == 11);
            writer.join().unwrap();
        });
    }

    /// One pin for both reads, as a view has it. The pins of single reads are fences, and here
    /// there is none between.
    #[test]
    fn loom_a_reader_with_one_pin_never_sees_a_part_of_a_batch() {
        model(|| {
            let two = Arc::new(Two::new([1, 2]));
            let writer = {
                let two = Arc::clone(&two);
                thread::spawn(move || two.write(10))
            };
            let view = two.visibility.table.pin();
            let first = two.get(0);
            let second = two.get(1);
            drop(view);
            assert!(first != 10 || second == 11, "one key was seen new and then the other old");
            writer.join().unwrap();
        });
    }

    #[test]
    fn loom_a_reader_between_two_batches_sees_one_of_them() {
        model(|| {
            let two = Arc::new(Two::new([1, 2]));
            let writer = {
                let two = Arc::clone(&two);
                thread::spawn(move || {
                    two.write(10);
                    two.write(20);
                })
            };
            let first = two.get(1) - 1;
            let second = two.get(0);
            assert!([1, 10, 20].contains(&first) && [1, 10, 20].contains(&second));
            assert!(second >= first, "an older batch was seen after a newer one");
            writer.join().unwrap();
        });
    }
}
