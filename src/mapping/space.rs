//! The flat space of locations: every segment of a store gets a range of it, and an index entry names a place in it.
//!
//! A location is an offset in this space divided by eight. The space is cut into granules of 1 MiB; a table with one
//! slot per granule leads from a location to the mapped bytes with one load. The table is reserved address space that
//! costs memory only where it is used.
//!
//! **Concurrency.** Slots are filled before any index entry leads to them; a reader that finds an empty slot, or a
//! location behind what is published, gets `None`, so that every function here is safe whatever the location is.
#![expect(unsafe_code, reason = "this leads from a location to mapped memory")]

use std::io;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use memmap2::MmapRaw;
use parking_lot::Mutex;

use super::Mapping;
pub(crate) use super::range::Range;
use super::range::{GRANULE_SIZE, GRANULES, Ranges};
use super::tally::Dead;
use crate::epoch::{Limbo, Pin};
use crate::format::record::{HEADER_SIZE, Header, RawHeader};
use crate::format::{KeyspaceId, Seq};
use crate::location::Location;

/// The least number of granules to go on with where address space is scarce: 64 GiB of segments.
const GRANULES_MIN: usize = 1 << 16;

/// One slot of the table. All zero: nothing there.
#[repr(C)]
struct Slot {
    /// The segment's first byte.
    base: AtomicPtr<u8>,
    /// The mapping; owned by `Placed`. Stored last, so that it announces the rest.
    mapping: AtomicPtr<Mapping>,
    /// The flat offset of the segment's first byte.
    start: AtomicU64,
    /// Two slots to a cache line.
    _reserved: AtomicU64,
}

/// The flat space of a store.
#[derive(Debug)]
pub(crate) struct Space {
    table: Arc<Table>,
    /// What was taken out, until no pin can lead there.
    limbo: Limbo,
}

/// The table from granules to segments.
#[derive(Debug)]
struct Table {
    slots: Arc<MmapRaw>,
    granules: usize,
    placed: Mutex<Placed>,
}

/// Which ranges are taken, and the owning reference of each.
#[derive(Debug)]
struct Placed {
    ranges: Ranges,
    /// By ordinal.
    mappings: Vec<Option<(Arc<Mapping>, Range)>>,
    /// Ordinals that were given back.
    ordinals: Vec<usize>,
}

/// The place of a mapping that was taken out; its drop gives the place back.
#[derive(Debug)]
struct Placement {
    table: Arc<Table>,
    ordinal: usize,
    range: Range,
}

impl Space {
    /// Reserves the table.
    ///
    /// # Errors
    ///
    /// What the operating system says when it has no address space left even for the smallest table.
    pub(crate) fn reserve() -> io::Result<Self> {
        let mut granules = GRANULES;
        loop {
            match Mapping::anonymous_memory(granules * size_of::<Slot>()) {
                Ok(slots) => {
                    let ranges = Ranges::of(granules as u64);
                    let placed = Placed { ranges, mappings: Vec::new(), ordinals: Vec::new() };
                    let table = Arc::new(Table { slots, granules, placed: Mutex::new(placed) });
                    return Ok(Self { table, limbo: Limbo::new() });
                }
                Err(_) if granules > GRANULES_MIN => granules /= 4,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a mapping its range; `None` when the space is full.
    pub(crate) fn place(&self, mapping: &Arc<Mapping>) -> Option<Range> {
        let count = (mapping.len() as u64).div_ceil(GRANULE_SIZE).max(1);
        let mut placed = self.table.placed.lock();
        let range = placed.ranges.any(count)?;
        self.fill(&mut placed, mapping, range);
        Some(range)
    }

    /// Gives a mapping the range that its segment had when an image of the index was made; false where the mapping is
    /// longer than the range, or any of it is taken or lies outside of the space, and then nothing was changed.
    ///
    /// Called before any [`Space::place`], so that no range is given away that an image knows.
    #[cfg_attr(not(test), expect(dead_code, reason = "the parts are here before the engine uses them"))]
    pub(crate) fn place_at(&self, mapping: &Arc<Mapping>, range: Range) -> bool {
        if mapping.len() as u64 > range.count * GRANULE_SIZE {
            return false;
        }
        let mut placed = self.table.placed.lock();
        let taken = placed.ranges.take(range);
        if taken {
            self.fill(&mut placed, mapping, range);
        }
        taken
    }

    /// Makes the granules of a range, which was taken for it, lead to a mapping.
    fn fill(&self, placed: &mut Placed, mapping: &Arc<Mapping>, range: Range) {
        let ordinal = placed.ordinals.pop().unwrap_or_else(|| {
            placed.mappings.push(None);
            placed.mappings.len() - 1
        });
        // Relaxed: the stores of the slots' `mapping` below announce it.
        mapping.ordinal.store(ordinal, Ordering::Relaxed);
        for granule in range.first..range.first + range.count {
            let slot = self.table.slot(granule).expect("compared with the table's size above");
            // Relaxed, both: the store of `mapping` below announces them.
            slot.base.store(mapping.base(), Ordering::Relaxed);
            slot.start.store(range.first * GRANULE_SIZE, Ordering::Relaxed);
            // Release: pairs with the acquire load in `record`.
            slot.mapping.store(Arc::as_ptr(mapping).cast_mut(), Ordering::Release);
        }
        placed.mappings[ordinal] = Some((Arc::clone(mapping), range));
    }
}

impl Table {
    #[inline]
    fn slot(&self, granule: u64) -> Option<&Slot> {
        let granule = usize::try_from(granule).ok().filter(|granule| *granule < self.granules)?;
        // SAFETY: the table has `self.granules` slots, so the slot lies inside of it.
        let slot = unsafe { self.slots.as_mut_ptr().cast::<Slot>().add(granule) };
        // SAFETY: aligned (the memory starts at a page, a slot is 32 bytes), live as long as `self`, initialised (zero
        // is a valid value of every field), and only touched through atomics.
        Some(unsafe { &*slot })
    }

    #[inline]
    fn slot_of(&self, location: Location) -> Option<&Slot> {
        self.slot(location.to_bits() * 8 / GRANULE_SIZE)
    }
}

impl Space {
    /// Starts the load of a record's first line.
    #[inline]
    pub(crate) fn prefetch(&self, location: Location) {
        let Some(slot) = self.table.slot_of(location) else { return };
        // Relaxed, both: nothing is read through them here.
        let base = slot.base.load(Ordering::Relaxed);
        let start = slot.start.load(Ordering::Relaxed);
        let offset = (location.to_bits() * 8).wrapping_sub(start);
        prefetch(base.wrapping_add(usize::try_from(offset).unwrap_or(0)));
    }

    /// The published record at a location; `None` where there is none: nothing placed or published there, or lengths
    /// that lead out of what is published, which only damage after opening can cause.
    ///
    /// The pin keeps the segment mapped for `'p`.
    #[inline]
    pub(crate) fn record<'p>(&'p self, location: Location, _pin: &'p Pin) -> Option<Record<'p>> {
        let slot = self.table.slot_of(location)?;
        // Acquire: pairs with the release store in `place`.
        let mapping = slot.mapping.load(Ordering::Acquire);
        if mapping.is_null() {
            return None;
        }
        // SAFETY: not null, so it came from an `Arc` that `placed` holds until the space is dropped (`'p` is shorter), or
        // until after this pin (`retire`).
        let mapping = unsafe { &*mapping };
        // Relaxed, both: announced by the mapping above, and never changed.
        let start = slot.start.load(Ordering::Relaxed);
        let base = slot.base.load(Ordering::Relaxed);
        let offset = (location.to_bits() * 8).checked_sub(start)?;
        let room = mapping.published().checked_sub(offset)?.checked_sub(HEADER_SIZE as u64)?;
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: the header's bytes are published, so they lie inside of the mapping.
        let start = unsafe { base.add(offset) };
        let record = Record { start, mapping };
        (record.raw_header().payload_len() <= room).then_some(record)
    }

    /// Whether the record at a location is in memory, as far as the kernel tells; asks the kernel to read what is not.
    /// What is not published, or lies nowhere, has nothing to wait for.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub(crate) fn bring_in(&self, location: Location, pin: &Pin) -> io::Result<bool> {
        let Some(slot) = self.table.slot_of(location) else { return Ok(true) };
        // Acquire: pairs with the release store in `place`.
        let mapping = slot.mapping.load(Ordering::Acquire);
        if mapping.is_null() {
            return Ok(true);
        }
        // SAFETY: not null, so it came from an `Arc` that `placed` holds as long as the pin (see `record`).
        let mapping = unsafe { &*mapping };
        // Relaxed: announced by the mapping above, and never changed.
        let start = slot.start.load(Ordering::Relaxed);
        let offset = usize::try_from((location.to_bits() * 8).saturating_sub(start)).unwrap_or(0);
        // The header says how long the record is, so it comes first.
        if !mapping.bring_in(offset, HEADER_SIZE)? {
            return Ok(false);
        }
        let Some(record) = self.record(location, pin) else { return Ok(true) };
        let len = usize::try_from(record.raw_header().payload_len()).unwrap_or(usize::MAX);
        mapping.bring_in(offset, HEADER_SIZE.saturating_add(len))
    }

    /// Counts bytes of a segment as dead. Called by the one writer only, about a segment that is still placed.
    #[inline]
    pub(crate) fn add_dead(&self, location: Location, why: Dead, bytes: u64) {
        let Some(slot) = self.table.slot_of(location) else { return };
        // Acquire: pairs with the release store in `place`.
        let mapping = slot.mapping.load(Ordering::Acquire);
        if mapping.is_null() {
            return;
        }
        // SAFETY: not null, so it came from an `Arc` that `placed` holds: it is taken out only after the slots are empty
        // and no pin is left that can have seen them, and the writer is pinned or the segment is its own.
        let mapping = unsafe { &*mapping };
        mapping.tally().add(why, bytes);
    }

    /// Counts values of the segment with this ordinal as hidden. Called by the one writer only.
    pub(crate) fn add_hidden_in(&self, ordinal: usize, bytes: u64) {
        let placed = self.table.placed.lock();
        if let Some(Some((mapping, _))) = placed.mappings.get(ordinal) {
            mapping.tally().add(Dead::Hidden, bytes);
        }
    }

    /// Takes a mapping out of the space, once no pin that was taken before can lead into it; its range and its ordinal
    /// are then given out again. The index must not lead to it any more, and nothing may be counted as live in it.
    pub(crate) fn retire(&self, mapping: &Mapping, range: Range) {
        self.limbo.retire(Placement { table: Arc::clone(&self.table), ordinal: mapping.ordinal(), range });
    }

    /// Gives back what was retired and what no reader can see any more; how many are left.
    pub(crate) fn collect(&self) -> usize {
        self.limbo.collect();
        self.limbo.len()
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        for granule in self.range.first..self.range.first + self.range.count {
            let slot = self.table.slot(granule).expect("it was placed there");
            // Relaxed: no reader has a location in this range (`Space::retire`).
            slot.mapping.store(ptr::null_mut(), Ordering::Relaxed);
        }
        let mut placed = self.table.placed.lock();
        let mapping = placed.mappings[self.ordinal].take();
        placed.ranges.give_back(self.range);
        placed.ordinals.push(self.ordinal);
        drop(placed);
        // Unmapping takes time.
        drop(mapping);
    }
}

/// Starts the load of a cache line for reading.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// A published record, for as long as its segment is pinned. Two words: a get hands it through several layers.
///
/// Its lengths were compared with what is published; its checksums were verified when the record was written or
/// replayed, not now. Fields are read where they are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'p> {
    /// The header's first byte, which is published as the whole header is; the payload follows it.
    start: *const u8,
    mapping: &'p Mapping,
}

impl<'p> Record<'p> {
    /// The header.
    pub(crate) fn header(&self) -> Header {
        self.raw_header().unverified()
    }

    /// The header's bytes.
    #[inline]
    pub(crate) fn raw_header(&self) -> RawHeader<'p> {
        // SAFETY: the header's bytes are published (`Space::record`): initialised, unchanging (I1), mapped for `'p`.
        RawHeader::new(unsafe { &*self.start.cast::<[u8; HEADER_SIZE]>() })
    }

    /// The ordinal of its segment's mapping.
    #[inline]
    pub(crate) fn ordinal(&self) -> usize {
        self.mapping.ordinal()
    }

    /// Its sequence number.
    #[inline]
    pub(crate) fn seq(&self) -> Seq {
        self.raw_header().seq()
    }

    /// Whether it is a value, and not a tombstone.
    #[inline]
    pub(crate) fn is_put(&self) -> bool {
        self.raw_header().is_put()
    }

    /// Whether it is a record of this key.
    #[inline]
    pub(crate) fn is_of(&self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        self.key() == key && self.raw_header().keyspace() == keyspace
    }

    /// The key.
    #[inline]
    pub(crate) fn key(&self) -> &'p [u8] {
        self.payload(0, self.raw_header().key_len())
    }

    /// The value.
    #[inline]
    pub(crate) fn value(&self) -> &'p [u8] {
        let raw = self.raw_header();
        self.payload(raw.key_len(), raw.value_len())
    }

    #[inline]
    fn payload(&self, from: usize, len: usize) -> &'p [u8] {
        debug_assert!((from + len) as u64 <= self.raw_header().payload_len());
        // SAFETY: `Space::record` compared the payload's length with what is published.
        let start = unsafe { self.start.add(HEADER_SIZE + from) };
        // SAFETY: published bytes: initialised, unchanging (I1), mapped for `'p`.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Key and value as owned slices that keep their segment mapped, for later.
    pub(crate) fn keep_record(&self) -> KeptRecord {
        KeptRecord { key: self.key(), value: self.keep_value() }
    }

    /// The value as an owned slice that keeps its segment mapped.
    pub(crate) fn keep_value(&self) -> Slice {
        self.keep(self.value())
    }

    fn keep(&self, bytes: &'p [u8]) -> Slice {
        let value = ptr::from_ref(bytes);
        let mapping: *const Mapping = self.mapping;
        // SAFETY: the mapping lies in an `Arc` that the space still holds (`Space::record`), so its count is not zero
        // for as long as the pin.
        unsafe { Arc::increment_strong_count(mapping) };
        // SAFETY: the reference that the line above added is ours to own.
        let mapping = unsafe { Arc::from_raw(mapping) };
        Slice { value, mapping }
    }

    /// The record's mapping and its offset there, for copying reads.
    pub(crate) fn place(&self) -> (&'p Mapping, usize) {
        (self.mapping, self.start as usize - self.mapping.base() as usize)
    }
}

/// Published bytes that keep their mapping.
#[derive(Debug)]
pub(crate) struct Slice {
    value: *const [u8],
    mapping: Arc<Mapping>,
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: made from a slice over published bytes (unchanging, I1) of `self.mapping`, which is still mapped.
        unsafe { &*self.value }
    }
}

/// A record that keeps its mapping.
#[derive(Debug)]
pub(crate) struct KeptRecord {
    /// In the same mapping as the value.
    key: *const [u8],
    value: Slice,
}

impl KeptRecord {
    /// Its key and its value.
    pub(crate) fn into_parts(self) -> (Slice, Slice) {
        (Slice { value: self.key, mapping: Arc::clone(&self.value.mapping) }, self.value)
    }
}

// SAFETY: as for `Slice`.
unsafe impl Send for KeptRecord {}
// SAFETY: as for `Slice`.
unsafe impl Sync for KeptRecord {}

impl Clone for Slice {
    fn clone(&self) -> Self {
        Self { value: self.value, mapping: Arc::clone(&self.mapping) }
    }
}

// SAFETY: the bytes never change and the mapping is `Send + Sync`; the pointer is only read through.
unsafe impl Send for Slice {}
// SAFETY: as above.
unsafe impl Sync for Slice {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::LOCATION_BITS;

    #[derive(Debug)]
    struct Nothing;
    impl crate::mapping::Backing for Nothing {
        fn sync_range(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn populate_write(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_range_is_given_to_one_whichever_way_it_is_asked_for() {
        let space = Space::reserve().expect("address space");
        let mut random = fastrand::Rng::with_seed(1);
        let mut taken = std::collections::BTreeMap::<u64, u64>::new();
        let overlaps = |taken: &std::collections::BTreeMap<u64, u64>, range: Range| {
            let before = taken.range(..range.first + range.count).next_back();
            before.is_some_and(|(first, count)| first + count > range.first)
        };
        for _ in 0..300 {
            let memory = Mapping::anonymous_memory((1 << 20) * random.usize(1..4)).expect("address space");
            let mapping = Arc::new(Mapping::simulated(memory, false, Arc::new(Nothing)));
            let granules = mapping.len() as u64 / GRANULE_SIZE;
            let range = if random.bool() {
                let range = Range::from_granules(random.u32(1..600), random.u32(1..5)).expect("inside");
                assert_eq!(Range::from_granules(range.granules().0, range.granules().1), Some(range));
                let fits = range.count >= granules && !overlaps(&taken, range);
                assert_eq!(space.place_at(&mapping, range), fits, "{range:?} {taken:?}");
                if !fits {
                    continue;
                }
                range
            } else {
                space.place(&mapping).expect("there is room")
            };
            assert!(!overlaps(&taken, range), "{range:?} {taken:?}");
            taken.insert(range.first, range.count);
            let slot = space.table.slot_of(range.at(8)).expect("inside");
            assert_eq!(slot.mapping.load(Ordering::Relaxed).cast_const(), Arc::as_ptr(&mapping));
        }
    }

    #[test]
    fn a_location_where_nothing_is_placed_has_no_record() {
        let space = Space::reserve().expect("address space");
        let pin = crate::epoch::pin();
        for bits in [1, 1 << 20, (1 << LOCATION_BITS) - 1] {
            assert!(space.record(Location::from_bits(bits), &pin).is_none());
        }
    }
}
