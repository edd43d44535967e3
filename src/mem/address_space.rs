//! The address space of a store: maps locations, held by index entries, to bytes of segments.
//!
//! A location is an offset in this space divided by eight. The space is cut into granules of 1 MiB,
//! and each segment has a range of granules. A table with one slot per granule leads from a
//! location to the mapped bytes with one load. The table is reserved address space and takes memory
//! only where it is used.
//!
//! **Concurrency.** Slots are filled before any index entry leads to them, or by the first thread
//! that finds them empty (`lazy_mapping`). A reader gets `None` for a location above the published
//! mark, and for an empty slot without a mapping to make on demand. So every function here is safe
//! for every location.
#![expect(unsafe_code, reason = "this leads from a location to mapped memory")]

use std::collections::BTreeMap;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use memmap2::MmapRaw;
use parking_lot::Mutex;

use super::dead_bytes::DeadCause;
use super::mapping::Mapping;
pub(crate) use super::range_allocator::GranuleRange;
use super::range_allocator::{GRANULE_SIZE, GRANULES, RangeAllocator};
pub(crate) use super::record::{OwnedRecord, Record, Slice};
use crate::error::Result;
use crate::format::record::HEADER_SIZE;
use crate::mem::location::Location;
use crate::sync::epoch::{Domain, Limbo, Pin};

/// The bytes of a cache line.
const LINE: usize = 64;
/// The most lines of a record that are prefetched behind its first.
const LINES_AHEAD: usize = 4;

/// The smallest table to accept if address space is short: it covers 64 GiB of segments.
const GRANULES_MIN: usize = 1 << 16;

/// One slot of the table. All zero means empty.
#[repr(C)]
pub(super) struct GranuleEntry {
    /// The segment's first byte.
    base: AtomicPtr<u8>,
    /// The mapping, owned by `AssignedMapping`. Stored last, so that it announces the other fields.
    pub(super) mapping: AtomicPtr<Mapping>,
    /// The flat offset of the segment's first byte.
    start: AtomicU64,
    /// Padding: two slots fit into a cache line.
    _reserved: AtomicU64,
}

/// The address space of a store.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    pub(super) table: Arc<GranuleTable>,
    /// The granule at which the worker continues mapping segments; `u64::MAX` once none is left.
    pub(super) mapped: AtomicU64,
    /// Retired mappings, until no pin can lead to them.
    limbo: Limbo,
    /// Retired mappings that are still in use, and the bytes on disk that each of them keeps.
    removed: Mutex<Vec<(Weak<Mapping>, u64)>>,
}

/// The table from granules to segments.
#[derive(Debug)]
pub(super) struct GranuleTable {
    slots: Arc<MmapRaw>,
    granules: usize,
    pub(super) placed: Mutex<AssignedMapping>,
    /// True if mappings are put under the page guard.
    pub(super) guarded: bool,
}

/// The ranges that are assigned, and the owning reference of each mapping.
#[derive(Debug)]
pub(super) struct AssignedMapping {
    ranges: RangeAllocator,
    /// The mappings by ordinal.
    pub(super) mappings: Vec<Option<Occupied>>,
    /// Ordinals that are free again.
    ordinals: Vec<usize>,
    /// The ordinals of mappings that are not mapped yet, by first granule. No slot leads to them.
    pub(super) waiting: BTreeMap<u64, usize>,
}

/// A mapping and its range.
#[derive(Debug)]
pub(super) struct Occupied {
    pub(super) mapping: Arc<Mapping>,
    pub(super) range: GranuleRange,
    /// The number of [`RangePin`]s.
    range_pins: usize,
    /// True if it was retired and no earlier reader is left.
    leaves: bool,
}

/// Keeps a mapping in its range, so that locations still lead to it, even after it was retired.
#[derive(Debug)]
pub(crate) struct RangePin {
    table: Arc<GranuleTable>,
    ordinal: usize,
}

/// The range of a retired mapping; dropping this frees the range.
#[derive(Debug)]
struct Placement {
    table: Arc<GranuleTable>,
    ordinal: usize,
}

impl AddressSpace {
    /// Reserves the table of a new store. Readers of the space pin its [`AddressSpace::domain`].
    ///
    /// # Errors
    ///
    /// Returns the system's error if there is no address space even for the smallest table.
    #[cfg(test)]
    pub(crate) fn reserve() -> io::Result<Self> {
        Self::reserve_guarded(true)
    }

    /// Reserves the table. File mappings are put under the page guard if `guarded` is true.
    ///
    /// # Errors
    ///
    /// Returns the system's error if there is no address space even for the smallest table.
    pub(crate) fn reserve_guarded(guarded: bool) -> io::Result<Self> {
        let mut granules = GRANULES;
        loop {
            match Mapping::anonymous_memory(granules * size_of::<GranuleEntry>()) {
                Ok(slots) => {
                    let ranges = RangeAllocator::of(granules as u64);
                    let placed = AssignedMapping {
                        ranges,
                        mappings: Vec::new(),
                        ordinals: Vec::new(),
                        waiting: BTreeMap::new(),
                    };
                    let table =
                        Arc::new(GranuleTable { slots, granules, placed: Mutex::new(placed), guarded });
                    return Ok(Self {
                        table,
                        mapped: AtomicU64::new(0),
                        limbo: Limbo::new(Domain::new()),
                        removed: Mutex::default(),
                    });
                }
                Err(_) if granules > GRANULES_MIN => granules /= 4,
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the domain that readers pin.
    pub(crate) fn domain(&self) -> Domain {
        self.limbo.domain()
    }

    /// Assigns a range to a mapping; `None` if the space is full.
    pub(crate) fn place(&self, mapping: &Arc<Mapping>) -> Option<GranuleRange> {
        let count = (mapping.len() as u64).div_ceil(GRANULE_SIZE).max(1);
        let mut placed = self.table.placed.lock();
        let range = placed.ranges.any(count)?;
        placed.occupy(mapping, range);
        self.table.lead(mapping, range);
        Some(range)
    }

    /// Assigns a mapping the range that its segment had when an index checkpoint was made. Returns
    /// false, and changes nothing, if the mapping is longer than the range, or if the range is
    /// partly taken or outside the space.
    ///
    /// Called before any [`AddressSpace::place`], so that no range of a checkpoint is given to
    /// another segment.
    pub(crate) fn place_at(&self, mapping: &Arc<Mapping>, range: GranuleRange) -> bool {
        if mapping.len() as u64 > range.count * GRANULE_SIZE {
            return false;
        }
        let mut placed = self.table.placed.lock();
        let taken = placed.ranges.take(range);
        if taken {
            let ordinal = placed.occupy(mapping, range);
            if mapping.is_attached() {
                self.table.lead(mapping, range);
            } else {
                placed.waiting.insert(range.first, ordinal);
            }
        }
        taken
    }
}

impl AssignedMapping {
    /// Assigns a range, already marked as taken, to a mapping, and returns the mapping's ordinal.
    fn occupy(&mut self, mapping: &Arc<Mapping>, range: GranuleRange) -> usize {
        let ordinal = self.ordinals.pop().unwrap_or_else(|| {
            self.mappings.push(None);
            self.mappings.len() - 1
        });
        // Relaxed: a slot or this table's lock leads to the mapping and announces it.
        mapping.ordinal.store(ordinal, Ordering::Relaxed);
        let mapping = Arc::clone(mapping);
        self.mappings[ordinal] = Some(Occupied { mapping, range, range_pins: 0, leaves: false });
        ordinal
    }
}

impl GranuleTable {
    /// Makes the granules of a range lead to its mapping.
    pub(super) fn lead(&self, mapping: &Arc<Mapping>, range: GranuleRange) {
        if self.guarded {
            mapping.guard();
        }
        for granule in range.first..range.first + range.count {
            let slot = self.slot(granule).expect("no range leads out of the table");
            // Relaxed, both: the store of `mapping` below announces them.
            slot.base.store(mapping.base(), Ordering::Relaxed);
            slot.start.store(range.first * GRANULE_SIZE, Ordering::Relaxed);
            // Release: pairs with the acquire load in `record`.
            slot.mapping.store(Arc::as_ptr(mapping).cast_mut(), Ordering::Release);
        }
    }

    fn weak(&self, ordinal: usize) -> Option<Weak<Mapping>> {
        let placed = self.placed.lock();
        placed.mappings.get(ordinal)?.as_ref().map(|occupied| Arc::downgrade(&occupied.mapping))
    }

    #[inline]
    fn slot(&self, granule: u64) -> Option<&GranuleEntry> {
        let granule = usize::try_from(granule).ok().filter(|granule| *granule < self.granules)?;
        // SAFETY: the table has `self.granules` slots, so the slot lies inside it.
        let slot = unsafe { self.slots.as_mut_ptr().cast::<GranuleEntry>().add(granule) };
        // SAFETY: aligned (the memory starts at a page, a slot is 32 bytes), live as long as
        // `self`, initialised (zero is a valid value of every field), and accessed only through
        // atomics.
        Some(unsafe { &*slot })
    }

    #[inline]
    pub(super) fn slot_of(&self, location: Location) -> Option<&GranuleEntry> {
        self.slot(location.to_bits() * 8 / GRANULE_SIZE)
    }
}

impl AddressSpace {
    /// Prefetches a record's header, and the payload beside it in the cache.
    #[inline]
    pub(crate) fn prefetch(&self, location: Location) {
        self.prefetch_record(location, LINE);
    }

    /// Prefetches a record that has `len` bytes, or some of them: see [`prefetch_lines`].
    #[inline]
    pub(crate) fn prefetch_record(&self, location: Location, len: usize) {
        let Some(slot) = self.table.slot_of(location) else { return };
        // Relaxed, both: nothing is read through them here.
        let base = slot.base.load(Ordering::Relaxed);
        let start = slot.start.load(Ordering::Relaxed);
        let offset = (location.to_bits() * 8).wrapping_sub(start);
        let address = base.wrapping_add(usize::try_from(offset).unwrap_or(0));
        prefetch(address);
        prefetch_lines(address, len.clamp(LINE, (1 + LINES_AHEAD) * LINE));
    }

    /// Returns the published record at a location; `None` if no mapping is assigned there, nothing
    /// is published there, or the record's lengths lead out of the published bytes. Only damage
    /// after opening can cause the latter. Also `None` if a segment cannot be mapped on demand:
    /// [`AddressSpace::find`] returns the reason.
    ///
    /// The pin keeps the segment mapped for `'p`.
    #[inline]
    pub(crate) fn record<'p>(&'p self, location: Location, pin: &'p Pin) -> Option<Record<'p>> {
        self.limbo.covers(pin);
        let slot = self.table.slot_of(location)?;
        // Acquire: pairs with the release store in `lead`.
        let mut mapping = slot.mapping.load(Ordering::Acquire);
        if mapping.is_null() {
            mapping = self.mapped(slot, location)?.as_ptr();
        }
        // SAFETY: not null, so it came from an `Arc` that `placed` holds until the space is dropped
        // (`'p` is shorter), or until after this pin (`retire`).
        let mapping = unsafe { &*mapping };
        // Relaxed, both: announced by the mapping above, and never changed.
        let start = slot.start.load(Ordering::Relaxed);
        let base = slot.base.load(Ordering::Relaxed);
        let offset = (location.to_bits() * 8).checked_sub(start)?;
        let room = mapping.published().checked_sub(offset)?.checked_sub(HEADER_SIZE as u64)?;
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: the header's bytes are published, so they lie inside the mapping.
        let start = unsafe { base.add(offset) };
        // SAFETY: the header's bytes are published (above), and `'p` is no longer than the pin.
        let record = unsafe { Record::at(start, mapping) };
        (record.raw_header().payload_len() <= room).then_some(record)
    }

    /// Returns the published record at a location, as [`AddressSpace::record`] does, or the reason
    /// why its segment cannot be mapped.
    ///
    /// # Errors
    ///
    /// As for [`MapOnDemand::map`](super::mapping::MapOnDemand::map).
    pub(crate) fn find<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Option<Record<'p>>> {
        if let Some(record) = self.record(location, pin) {
            return Ok(Some(record));
        }
        self.map_at(location)?;
        Ok(self.record(location, pin))
    }

    /// Returns the mapping that holds a location, mapped or not; it stays for as long as the pin.
    pub(crate) fn mapping<'p>(&'p self, location: Location, pin: &'p Pin) -> Option<&'p Mapping> {
        self.limbo.covers(pin);
        let mapping = self.placed_at(location)?;
        // SAFETY: from an `Arc` that `placed` holds as long as the pin (see `record`).
        Some(unsafe { mapping.as_ref() })
    }

    /// Returns the mapping whose range contains a location, mapped or not.
    #[inline]
    fn placed_at(&self, location: Location) -> Option<NonNull<Mapping>> {
        let slot = self.table.slot_of(location)?;
        // Acquire: pairs with the release store in `lead`.
        NonNull::new(slot.mapping.load(Ordering::Acquire)).or_else(|| match self.table.waiting_at(location) {
            Some(mapping) => NonNull::new(Arc::as_ptr(&mapping).cast_mut()),
            // Mapped in the meantime, if there was a mapping. Acquire: as above.
            None => NonNull::new(slot.mapping.load(Ordering::Acquire)),
        })
    }

    /// Returns the mapping of a location, mapped if need be, and the location's offset in it; `None` if no
    /// mapping is assigned there, or it cannot be mapped.
    pub(super) fn place_of<'p>(&'p self, location: Location, pin: &'p Pin) -> Option<(&'p Mapping, usize)> {
        self.limbo.covers(pin);
        let slot = self.table.slot_of(location)?;
        // Acquire: pairs with the release store in `lead`.
        let mapping = NonNull::new(slot.mapping.load(Ordering::Acquire));
        let mapping = mapping.or_else(|| self.mapped(slot, location))?;
        // SAFETY: from an `Arc` that `placed` holds as long as the pin (see `record`).
        let mapping = unsafe { mapping.as_ref() };
        // Relaxed: announced by the mapping above, and never changed.
        let start = slot.start.load(Ordering::Relaxed);
        Some((mapping, usize::try_from((location.to_bits() * 8).saturating_sub(start)).unwrap_or(0)))
    }

    /// Counts bytes of a segment, still assigned, as dead. Called by the one writer only.
    #[inline]
    pub(crate) fn add_dead(&self, location: Location, why: DeadCause, bytes: u64) {
        let Some(mapping) = self.placed_at(location) else { return };
        // SAFETY: it came from an `Arc` that `placed` holds. That is taken out only after the slots
        // are empty and no pin is left that can have seen them, and the writer is pinned or the
        // segment is its own.
        let mapping = unsafe { mapping.as_ref() };
        mapping.dead_bytes().add(why, bytes);
    }

    /// Counts values of the segment with this ordinal as superseded. Called by the one writer only.
    pub(crate) fn add_hidden_in(&self, ordinal: usize, bytes: u64) {
        let placed = self.table.placed.lock();
        if let Some(Some(occupied)) = placed.mappings.get(ordinal) {
            occupied.mapping.dead_bytes().add(DeadCause::Hidden, bytes);
        }
    }

    /// Retires a mapping: it leaves the space once no earlier pin can lead to it, and its range and
    /// ordinal are then reused. The index must not lead to it any more, and none of its bytes may
    /// be counted as live.
    ///
    /// The caller has mapped it, if that is possible: its file is removed now, and readers that saw
    /// the earlier index may still reach it. Until no reader does and no value of it is held,
    /// `kept` bytes of the disk are not free.
    pub(crate) fn retire(&self, mapping: &Mapping, kept: u64) {
        let mut removed = self.removed.lock();
        removed.retain(|(mapping, _)| mapping.strong_count() > 0);
        removed.extend(self.table.weak(mapping.ordinal()).map(|mapping| (mapping, kept)));
        drop(removed);
        self.limbo.retire(Placement { table: Arc::clone(&self.table), ordinal: mapping.ordinal() });
    }

    /// Returns the bytes on disk of retired mappings that are still in use.
    pub(crate) fn bytes_in_use_of_removed(&self) -> u64 {
        let mut removed = self.removed.lock();
        removed.retain(|(mapping, _)| mapping.strong_count() > 0);
        removed.iter().map(|(_, kept)| kept).sum()
    }

    /// True if a retired mapping waits for readers that may see it.
    pub(crate) fn waits(&self) -> bool {
        self.limbo.len() > 0
    }

    /// Keeps the mapping of an ordinal in its range. Called under the writer mutex, while it holds
    /// live data. `None` if no mapping has this ordinal.
    pub(crate) fn pin_range(&self, ordinal: usize) -> Option<RangePin> {
        let mut placed = self.table.placed.lock();
        placed.mappings.get_mut(ordinal)?.as_mut()?.range_pins += 1;
        drop(placed);
        Some(RangePin { table: Arc::clone(&self.table), ordinal })
    }

    /// Frees retired mappings that no reader can see any more. Returns the number of those left.
    pub(crate) fn collect(&self) -> usize {
        self.limbo.collect();
        self.limbo.len()
    }
}

impl GranuleTable {
    /// Frees the range of a retired mapping, unless it is pinned. Returns the data that the caller
    /// drops without a lock, because unmapping takes time.
    fn vacate(&self, placed: &mut AssignedMapping, ordinal: usize) -> Option<Occupied> {
        let free = |occupied: &mut Occupied| occupied.leaves && occupied.range_pins == 0;
        let occupied = placed.mappings[ordinal].take_if(free)?;
        placed.waiting.remove(&occupied.range.first);
        for granule in occupied.range.first..occupied.range.first + occupied.range.count {
            let slot = self.slot(granule).expect("it was placed there");
            // Relaxed: no reader has a location in this range (`AddressSpace::retire`).
            slot.mapping.store(ptr::null_mut(), Ordering::Relaxed);
        }
        placed.ranges.give_back(occupied.range);
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

impl Drop for RangePin {
    fn drop(&mut self) {
        let mut placed = self.table.placed.lock();
        if let Some(occupied) = &mut placed.mappings[self.ordinal] {
            occupied.range_pins -= 1;
        }
        let gone = self.table.vacate(&mut placed, self.ordinal);
        drop(placed);
        drop(gone);
    }
}

/// Prefetches the cache lines of `len` bytes behind the line of the first, up to [`LINES_AHEAD`]. The
/// processor itself fetches ahead in a longer record.
#[inline]
pub(super) fn prefetch_lines(start: *const u8, len: usize) {
    let last = (start as usize % LINE + len - 1) / LINE;
    let mut line = 1;
    // A loop over an inclusive range takes twice as many instructions.
    while line <= last.min(LINES_AHEAD) {
        prefetch(start.wrapping_add(line * LINE));
        line += 1;
    }
}

/// Prefetches a cache line for reading.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch of any address affects only the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::location::LOCATION_BITS;
    use crate::mem::mapping::Nothing;

    /// Places, retires and pins at random: no two mappings ever overlap, and a range is free once
    /// its mapping was retired and is not pinned.
    #[test]
    fn range_is_placed_once_until_it_is_retired_and_unpinned() {
        let space = AddressSpace::reserve().expect("address space");
        let mut random = fastrand::Rng::with_seed(1);
        let mut placed: Vec<(Arc<Mapping>, GranuleRange, Option<RangePin>)> = Vec::new();
        for _ in 0..2_000 {
            if random.bool() && placed.len() < 20 {
                let memory =
                    Mapping::anonymous_memory((1 << 20) * random.usize(1..4)).expect("address space");
                let mapping = Arc::new(Mapping::simulated(memory, false, Arc::new(Nothing)));
                let range = space.place(&mapping).expect("there is room");
                let apart = |(_, other, _): &(_, GranuleRange, _)| {
                    range.first + range.count <= other.first || other.first + other.count <= range.first
                };
                assert!(placed.iter().all(apart));
                let pin_range =
                    random.bool().then(|| space.pin_range(mapping.ordinal()).expect("it is there"));
                placed.push((mapping, range, pin_range));
            } else if !placed.is_empty() {
                let (mapping, range, pin_range) = placed.swap_remove(random.usize(..placed.len()));
                space.retire(&mapping, 0);
                assert_eq!(space.collect(), 0);
                let slot = space.table.slot_of(range.at(8)).expect("inside");
                let there = || slot.mapping.load(Ordering::Relaxed).cast_const();
                assert_eq!(pin_range.is_some(), there() == Arc::as_ptr(&mapping));
                drop(pin_range);
                assert!(there().is_null());
            }
        }
        // At most sixty granules were ever taken at a time.
        assert!(space.table.placed.lock().mappings.len() <= 20);
        while let Some((mapping, ..)) = placed.pop() {
            space.retire(&mapping, 0);
        }
    }

    #[test]
    fn place_and_place_at_never_give_overlapping_ranges() {
        let space = AddressSpace::reserve().expect("address space");
        let mut random = fastrand::Rng::with_seed(1);
        let mut taken = std::collections::BTreeMap::<u64, u64>::new();
        let overlaps = |taken: &std::collections::BTreeMap<u64, u64>, range: GranuleRange| {
            let before = taken.range(..range.first + range.count).next_back();
            before.is_some_and(|(first, count)| first + count > range.first)
        };
        for _ in 0..300 {
            let memory = Mapping::anonymous_memory((1 << 20) * random.usize(1..4)).expect("address space");
            let mapping = Arc::new(Mapping::simulated(memory, false, Arc::new(Nothing)));
            let granules = mapping.len() as u64 / GRANULE_SIZE;
            let range = if random.bool() {
                let range =
                    GranuleRange::from_granules(random.u32(1..600), random.u32(1..5)).expect("inside");
                assert_eq!(GranuleRange::from_granules(range.granules().0, range.granules().1), Some(range));
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
        let space = AddressSpace::reserve().expect("address space");
        let pin = space.domain().pin();
        for bits in [1, 1 << 20, (1 << LOCATION_BITS) - 1] {
            assert!(space.record(Location::from_bits(bits), &pin).is_none());
        }
    }
}
