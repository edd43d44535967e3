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
use crate::epoch::Pin;
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
    /// Dead bytes of the segment; counted in the slot of its first granule.
    dead: AtomicU64,
}

/// The table from granules to segments.
#[derive(Debug)]
pub(crate) struct Space {
    slots: Arc<MmapRaw>,
    granules: usize,
    placed: Mutex<Placed>,
}

/// Which ranges are taken, and the owning reference of each.
#[derive(Debug)]
struct Placed {
    next: u64,
    mappings: Vec<(Arc<Mapping>, Range)>,
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
                    let placed = Mutex::new(Placed { next: 1, mappings: Vec::new() });
                    return Ok(Self { slots, granules, placed });
                }
                Err(_) if granules > GRANULES_MIN => granules /= 4,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a mapping its range; `None` when the space is full.
    pub(crate) fn place(&self, mapping: &Arc<Mapping>) -> Option<Range> {
        let count = (mapping.len() as u64).div_ceil(GRANULE_SIZE).max(1);
        let mut placed = self.placed.lock();
        let range = Range { first: placed.next, count };
        if range.first + count > self.granules as u64 {
            return None;
        }
        placed.next += count;
        // Relaxed: the stores of the slots' `mapping` below announce it.
        mapping.ordinal.store(placed.mappings.len(), Ordering::Relaxed);
        for granule in range.first..range.first + count {
            let slot = self.slot(granule).expect("compared with the table's size above");
            // Relaxed, both: the store of `mapping` below announces them.
            slot.base.store(mapping.base(), Ordering::Relaxed);
            slot.start.store(range.first * GRANULE_SIZE, Ordering::Relaxed);
            // Release: pairs with the acquire load in `record`.
            slot.mapping.store(Arc::as_ptr(mapping).cast_mut(), Ordering::Release);
        }
        placed.mappings.push((Arc::clone(mapping), range));
        Some(range)
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

    /// Starts the load of a record's first line.
    #[inline]
    pub(crate) fn prefetch(&self, location: Location) {
        let Some(slot) = self.slot_of(location) else { return };
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
        let slot = self.slot_of(location)?;
        // Acquire: pairs with the release store in `place`.
        let mapping = slot.mapping.load(Ordering::Acquire);
        if mapping.is_null() {
            return None;
        }
        // SAFETY: not null, so it came from an `Arc` that `placed` holds until the space is dropped (`'p` is shorter).
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
        let Some(slot) = self.slot_of(location) else { return Ok(true) };
        // Acquire: pairs with the release store in `place`.
        let mapping = slot.mapping.load(Ordering::Acquire);
        if mapping.is_null() {
            return Ok(true);
        }
        // SAFETY: not null, so it came from an `Arc` that `placed` holds until the space is dropped.
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

    /// Counts bytes of a segment as dead. Called by the one writer only.
    pub(crate) fn add_dead(&self, location: Location, bytes: u64) {
        let Some(slot) = self.slot_of(location) else { return };
        // Relaxed: announced by whatever led the writer to the location.
        let first = slot.start.load(Ordering::Relaxed) / GRANULE_SIZE;
        if let Some(slot) = self.slot(first) {
            // Relaxed, and not one operation: a statistic with one writer.
            let dead = slot.dead.load(Ordering::Relaxed);
            slot.dead.store(dead + bytes, Ordering::Relaxed);
        }
    }

    /// Counts bytes of the segment with this ordinal as dead. Called by the one writer only.
    pub(crate) fn add_dead_in(&self, ordinal: usize, bytes: u64) {
        let range = self.placed.lock().mappings.get(ordinal).map(|(_, range)| *range);
        if let Some(range) = range {
            self.add_dead(range.at(0), bytes);
        }
    }

    /// Dead bytes of a segment.
    pub(crate) fn dead(&self, range: Range) -> u64 {
        // Relaxed: a statistic.
        self.slot(range.first).map_or(0, |slot| slot.dead.load(Ordering::Relaxed))
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

    /// The key as an owned slice that keeps its segment mapped.
    pub(crate) fn keep_key(&self) -> Slice {
        self.keep(self.key())
    }

    /// The value as an owned slice that keeps its segment mapped.
    pub(crate) fn keep_value(&self) -> Slice {
        self.keep(self.value())
    }

    fn keep(&self, bytes: &'p [u8]) -> Slice {
        let value = ptr::from_ref(bytes);
        let mapping: *const Mapping = self.mapping;
        // SAFETY: the mapping lies in an `Arc` that the space still holds (`Space::record`), so its count is not zero.
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
