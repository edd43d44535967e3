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
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use memmap2::MmapRaw;
use parking_lot::Mutex;

use super::Mapping;
use super::tally::Dead;
use crate::epoch::{Limbo, Pin};
use crate::format::record::{HEADER_SIZE, Header, RawHeader};
use crate::format::{KeyspaceId, Seq};
use crate::location::{LOCATION_BITS, Location};

/// Size of one granule in bytes.
const GRANULE_SIZE: u64 = 1 << 20;
/// Granules in the whole space.
const GRANULES: usize = 1 << (LOCATION_BITS + 3 - 20);
/// The least number of granules to go on with where address space is scarce: 64 GiB of segments.
const GRANULES_MIN: usize = 1 << 16;

/// The range of the flat space that one segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    first: u64,
    count: u64,
}

impl Range {
    /// The location of the byte at `offset` of the segment.
    pub(crate) fn at(self, offset: u64) -> Location {
        debug_assert!(offset.is_multiple_of(8) && offset < self.count * GRANULE_SIZE);
        Location::from_bits((self.first * GRANULE_SIZE + offset) / 8)
    }

    /// The offset in the segment that a location means, if it lies in this range.
    pub(crate) fn offset_of(self, location: Location) -> Option<u64> {
        let flat = location.to_bits() * 8;
        let start = self.first * GRANULE_SIZE;
        (flat >= start && flat < start + self.count * GRANULE_SIZE).then(|| flat - start)
    }
}

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
    /// The same, and what somebody still holds of it.
    removed: Mutex<Vec<Weak<Mapping>>>,
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
    next: u64,
    /// By ordinal.
    mappings: Vec<Option<Occupied>>,
    /// Ranges that were given back, and ordinals.
    free: Vec<Range>,
    ordinals: Vec<usize>,
}

/// A mapping in its place.
#[derive(Debug)]
struct Occupied {
    mapping: Arc<Mapping>,
    range: Range,
    /// How many [`Stay`]s there are.
    stays: usize,
    /// It was taken out, and no reader of before is left.
    leaves: bool,
}

/// Keeps a mapping in its place, so that locations go on to lead into it, also after it was taken out.
#[derive(Debug)]
pub(crate) struct Stay {
    table: Arc<Table>,
    ordinal: usize,
}

/// The place of a mapping that was taken out; its drop gives the place back.
#[derive(Debug)]
struct Placement {
    table: Arc<Table>,
    ordinal: usize,
}

impl Placed {
    /// A range of so many granules: one that was given back, if one is long enough, and else a new one.
    fn range(&mut self, count: u64, granules: u64) -> Option<Range> {
        let fits = |range: &(usize, &Range)| range.1.count >= count;
        let best = self.free.iter().enumerate().filter(fits).min_by_key(|(_, range)| range.count);
        if let Some((at, range)) = best.map(|(at, range)| (at, *range)) {
            self.free.swap_remove(at);
            if range.count > count {
                self.give_back(Range { first: range.first + count, count: range.count - count });
            }
            return Some(Range { first: range.first, count });
        }
        let range = Range { first: self.next, count };
        if range.first + count > granules {
            return None;
        }
        self.next += count;
        Some(range)
    }

    /// Takes a range back, as one with its neighbours.
    fn give_back(&mut self, mut range: Range) {
        let touches = |one: &Range, other: &Range| one.first + one.count == other.first;
        self.free.retain(|other| {
            let before = touches(other, &range);
            let after = touches(&range, other);
            if before {
                range.first = other.first;
            }
            if before || after {
                range.count += other.count;
            }
            !before && !after
        });
        if range.first + range.count == self.next {
            self.next = range.first;
        } else {
            self.free.push(range);
        }
    }
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
                    // Location zero is the index's "empty", so the first granule is left out.
                    let placed =
                        Placed { next: 1, mappings: Vec::new(), free: Vec::new(), ordinals: Vec::new() };
                    let table = Arc::new(Table { slots, granules, placed: Mutex::new(placed) });
                    return Ok(Self { table, limbo: Limbo::new(), removed: Mutex::default() });
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
        let range = placed.range(count, self.table.granules as u64)?;
        let ordinal = placed.ordinals.pop().unwrap_or_else(|| {
            placed.mappings.push(None);
            placed.mappings.len() - 1
        });
        // Relaxed: the stores of the slots' `mapping` below announce it.
        mapping.ordinal.store(ordinal, Ordering::Relaxed);
        for granule in range.first..range.first + count {
            let slot = self.table.slot(granule).expect("compared with the table's size above");
            // Relaxed, both: the store of `mapping` below announces them.
            slot.base.store(mapping.base(), Ordering::Relaxed);
            slot.start.store(range.first * GRANULE_SIZE, Ordering::Relaxed);
            // Release: pairs with the acquire load in `record`.
            slot.mapping.store(Arc::as_ptr(mapping).cast_mut(), Ordering::Release);
        }
        let mapping = Arc::clone(mapping);
        placed.mappings[ordinal] = Some(Occupied { mapping, range, stays: 0, leaves: false });
        Some(range)
    }
}

impl Table {
    fn weak(&self, ordinal: usize) -> Option<Weak<Mapping>> {
        let placed = self.placed.lock();
        placed.mappings.get(ordinal)?.as_ref().map(|occupied| Arc::downgrade(&occupied.mapping))
    }

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

    /// The mapping that a location lies in; it stays for as long as the pin.
    pub(crate) fn mapping<'p>(&'p self, location: Location, _pin: &'p Pin) -> Option<&'p Mapping> {
        // Acquire: pairs with the release store in `place`.
        let mapping = self.table.slot_of(location)?.mapping.load(Ordering::Acquire);
        // SAFETY: null, or from an `Arc` that `placed` holds as long as the pin (see `record`).
        unsafe { mapping.as_ref() }
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
        if let Some(Some(occupied)) = placed.mappings.get(ordinal) {
            occupied.mapping.tally().add(Dead::Hidden, bytes);
        }
    }

    /// Takes a mapping out of the space, once no pin that was taken before can lead into it; its range and its ordinal
    /// are then given out again. The index must not lead to it any more, and nothing may be counted as live in it.
    pub(crate) fn retire(&self, mapping: &Mapping) {
        let mut removed = self.removed.lock();
        removed.retain(|mapping| mapping.strong_count() > 0);
        removed.extend(self.table.weak(mapping.ordinal()));
        drop(removed);
        self.limbo.retire(Placement { table: Arc::clone(&self.table), ordinal: mapping.ordinal() });
    }

    /// Bytes of mappings that were taken out, and that somebody still holds.
    pub(crate) fn bytes_in_use_of_removed(&self) -> u64 {
        let mut removed = self.removed.lock();
        removed.retain(|mapping| mapping.strong_count() > 0);
        removed.iter().filter_map(Weak::upgrade).map(|mapping| mapping.len() as u64).sum()
    }

    /// Keeps the mapping of an ordinal in its place. Under the writer mutex, while something in it is alive.
    pub(crate) fn stay(&self, ordinal: usize) -> Option<Stay> {
        let mut placed = self.table.placed.lock();
        placed.mappings.get_mut(ordinal)?.as_mut()?.stays += 1;
        drop(placed);
        Some(Stay { table: Arc::clone(&self.table), ordinal })
    }

    /// Gives back what was retired and what no reader can see any more; how many are left.
    pub(crate) fn collect(&self) -> usize {
        self.limbo.collect();
        self.limbo.len()
    }
}

impl Table {
    /// Gives back the place of a mapping that was taken out, unless something stays; what is to be dropped without a lock,
    /// because unmapping takes time.
    fn vacate(&self, placed: &mut Placed, ordinal: usize) -> Option<Occupied> {
        let free = |occupied: &mut Occupied| occupied.leaves && occupied.stays == 0;
        let occupied = placed.mappings[ordinal].take_if(free)?;
        for granule in occupied.range.first..occupied.range.first + occupied.range.count {
            let slot = self.slot(granule).expect("it was placed there");
            // Relaxed: no reader has a location in this range (`Space::retire`).
            slot.mapping.store(ptr::null_mut(), Ordering::Relaxed);
        }
        placed.give_back(occupied.range);
        placed.ordinals.push(ordinal);
        Some(occupied)
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        let mut placed = self.table.placed.lock();
        if let Some(occupied) = &mut placed.mappings[self.ordinal] {
            occupied.leaves = true;
        }
        let gone = self.table.vacate(&mut placed, self.ordinal);
        drop(placed);
        drop(gone);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut placed = self.table.placed.lock();
        if let Some(occupied) = &mut placed.mappings[self.ordinal] {
            occupied.stays -= 1;
        }
        let gone = self.table.vacate(&mut placed, self.ordinal);
        drop(placed);
        drop(gone);
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
        KeptRecord { seq: self.seq(), key: self.key(), value: self.keep_value() }
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
#[derive(Debug, Clone)]
pub(crate) struct KeptRecord {
    seq: Seq,
    /// In the same mapping as the value.
    key: *const [u8],
    value: Slice,
}

impl KeptRecord {
    /// Its sequence number.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// Its key.
    pub(crate) fn key(&self) -> &[u8] {
        // SAFETY: made from a slice over published bytes (unchanging, I1) of the value's mapping, which is still mapped.
        unsafe { &*self.key }
    }

    /// Bytes of key and value.
    pub(crate) fn len(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }

    /// Its value.
    pub(crate) fn into_value(self) -> Slice {
        self.value
    }

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

    #[test]
    fn locations_lead_back_to_offsets() {
        let range = Range { first: 3, count: 2 };
        for offset in [0, 8, 4096, GRANULE_SIZE - 8, GRANULE_SIZE, 2 * GRANULE_SIZE - 8] {
            assert_eq!(range.offset_of(range.at(offset)), Some(offset));
        }
        assert_eq!(range.offset_of(Location::from_bits(8)), None);
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
