//! The flat space of locations: every segment of a store gets a range of it, and an index entry names a place in it.
//!
//! A location is an offset in this space divided by eight. The space is cut into granules of 1 MiB; a table with one
//! slot per granule leads from a location to the mapped bytes with one load. The table is reserved address space that
//! costs memory only where it is used.
//!
//! **Concurrency.** Slots are filled under the store's writer mutex, before any index entry leads to them; readers find
//! a location through an acquire load of an index entry, so their loads of the slot may be relaxed.
#![expect(unsafe_code, reason = "this leads from a location to mapped memory")]

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use memmap2::MmapRaw;
use parking_lot::Mutex;

use super::Mapping;
use crate::format::record::{HEADER_SIZE, Header, RawHeader};
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
    /// The mapping, as `Arc::into_raw` gave it; owned by `Placed`.
    mapping: AtomicPtr<Mapping>,
    /// The flat offset of the segment's first byte.
    start: AtomicU64,
    /// The segment's length in bytes.
    len: AtomicU64,
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
    mappings: Vec<(Range, Arc<Mapping>)>,
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
        let count = (mapping.len() as u64).div_ceil(GRANULE_SIZE);
        let mut placed = self.placed.lock();
        let range = Range { first: placed.next, count };
        if range.first + count > self.granules as u64 {
            return None;
        }
        placed.next += count;
        for granule in range.first..range.first + count {
            let slot = self.slot(granule);
            // Relaxed, all four: an index entry that leads here is stored later with release order (module docs).
            slot.base.store(mapping.base(), Ordering::Relaxed);
            slot.mapping.store(Arc::as_ptr(mapping).cast_mut(), Ordering::Relaxed);
            slot.start.store(range.first * GRANULE_SIZE, Ordering::Relaxed);
            slot.len.store(mapping.len() as u64, Ordering::Relaxed);
        }
        placed.mappings.push((range, Arc::clone(mapping)));
        Some(range)
    }

    fn slot(&self, granule: u64) -> &Slot {
        let granule = usize::try_from(granule).expect("a granule number fits: the table was reserved");
        assert!(granule < self.granules, "granule outside of the table");
        // SAFETY: the table has `self.granules` slots, so the slot lies inside of it.
        let slot = unsafe { self.slots.as_mut_ptr().cast::<Slot>().add(granule) };
        // SAFETY: aligned (the memory starts at a page, a slot is 32 bytes), live as long as `self`, initialised (zero
        // is a valid value of every field), and only touched through atomics.
        unsafe { &*slot }
    }

    /// Starts the load of a record's first line.
    pub(crate) fn prefetch(&self, location: Location) {
        let slot = self.slot(location.to_bits() * 8 / GRANULE_SIZE);
        // Relaxed, both: see the module docs.
        let base = slot.base.load(Ordering::Relaxed);
        let start = slot.start.load(Ordering::Relaxed);
        prefetch(base.wrapping_add(usize::try_from(location.to_bits() * 8 - start).unwrap_or(0)));
    }

    /// The record at a location.
    ///
    /// `None` where the record's lengths would lead out of its segment, which only damage after opening can cause.
    ///
    /// # Safety
    ///
    /// The location was read from the index (by acquire) while `'p`'s pin was held, so that it leads to a published
    /// record (I2) whose segment stays mapped for `'p`.
    pub(crate) unsafe fn record<'p>(&self, location: Location) -> Option<Record<'p>> {
        let slot = self.slot(location.to_bits() * 8 / GRANULE_SIZE);
        // Relaxed, all: see the module docs.
        let start = slot.start.load(Ordering::Relaxed);
        let len = slot.len.load(Ordering::Relaxed);
        let base = slot.base.load(Ordering::Relaxed);
        let mapping = slot.mapping.load(Ordering::Relaxed);
        let offset = location.to_bits() * 8 - start;
        let room = len.checked_sub(offset)?;
        if room < HEADER_SIZE as u64 {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: `offset + HEADER_SIZE <= len`, the segment's length.
        let start = unsafe { base.add(offset) };
        // SAFETY: the header is published (the caller's promise) and stays mapped for `'p`.
        let raw = unsafe { &*start.cast::<[u8; HEADER_SIZE]>() };
        let header = RawHeader::new(raw).unverified();
        if header.payload_len() > room - HEADER_SIZE as u64 {
            return None;
        }
        Some(Record { start, mapping, header, pinned: PhantomData })
    }
}

/// Starts the load of a cache line for reading.
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

/// A published record, for as long as its segment is pinned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'p> {
    start: *const u8,
    mapping: *const Mapping,
    header: Header,
    pinned: PhantomData<&'p [u8]>,
}

impl<'p> Record<'p> {
    /// The header. Its lengths were compared with the segment's; its checksum was verified when the record was written
    /// or replayed, not now.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The key.
    pub(crate) fn key(&self) -> &'p [u8] {
        self.bytes(0, usize::from(self.header.key_len))
    }

    /// The value.
    pub(crate) fn value(&self) -> &'p [u8] {
        self.bytes(usize::from(self.header.key_len), self.header.value_len as usize)
    }

    fn bytes(&self, from: usize, len: usize) -> &'p [u8] {
        debug_assert!((from + len) as u64 <= self.header.payload_len());
        // SAFETY: `Space::record` compared the payload's length with the segment's.
        let start = unsafe { self.start.add(HEADER_SIZE + from) };
        // SAFETY: a published record's payload is published with it and stays mapped for `'p` (`Space::record`).
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The record's mapping, as a reference of its own that keeps it mapped.
    pub(crate) fn keep(&self) -> Arc<Mapping> {
        // SAFETY: the pointer came from an `Arc` that the space still holds, because the segment is pinned for `'p`;
        // so the count is not zero.
        unsafe { Arc::increment_strong_count(self.mapping) };
        // SAFETY: the reference made in the line above is ours to own.
        unsafe { Arc::from_raw(self.mapping) }
    }

    /// The mapping and the offset of the record in it, for copying reads.
    pub(crate) fn place(&self) -> (&'p Mapping, usize) {
        // SAFETY: pinned for `'p`, see `keep`.
        let mapping = unsafe { &*self.mapping };
        (mapping, self.start as usize - mapping.base() as usize)
    }
}

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
}
