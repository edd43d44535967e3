//! Lazy mapping: a segment has its range of the address space and is mapped when it is first
//! needed.
//!
//! An open from an index checkpoint needs the numbers of most segments and the bytes of none.
//! Opening, checking and mapping a file takes longer than all other work for a segment. So a range
//! is assigned and the slots of the table stay empty. A search that meets an empty slot takes the
//! slow path here.
//!
//! **Concurrency.** Several threads may map one file at a time. The first one wins, and the pages
//! of the others are unmapped again. Slots are filled under the table's lock, as elsewhere. A
//! segment that cannot be mapped stays unmapped, so the next search tries again and returns the
//! reason.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::address_space::{AddressSpace, AssignedMapping, GranuleEntry, GranuleTable};
use super::mapping::Mapping;
use super::range_allocator::GRANULE_SIZE;
use crate::error::Result;
use crate::mem::location::Location;

impl AssignedMapping {
    /// Returns the unmapped mapping whose range contains a granule.
    fn waiting(&self, granule: u64) -> Option<&Arc<Mapping>> {
        let (_, ordinal) = self.waiting.range(..=granule).next_back()?;
        let occupied = self.mappings.get(*ordinal)?.as_ref()?;
        (granule < occupied.range.first + occupied.range.count).then_some(&occupied.mapping)
    }

    /// Returns the first unmapped mapping at or behind a granule, and its first granule.
    fn waiting_from(&self, granule: u64) -> Option<(u64, Arc<Mapping>)> {
        let (first, ordinal) = self.waiting.range(granule..).next()?;
        let occupied = self.mappings.get(*ordinal)?.as_ref()?;
        Some((*first, Arc::clone(&occupied.mapping)))
    }
}

impl GranuleTable {
    /// Returns the unmapped mapping whose range contains a location.
    #[cold]
    pub(super) fn waiting_at(&self, location: Location) -> Option<Arc<Mapping>> {
        self.placed.lock().waiting(location.to_bits() * 8 / GRANULE_SIZE).map(Arc::clone)
    }

    /// Maps an unmapped mapping and makes its slots lead to it.
    fn map_now(&self, mapping: &Arc<Mapping>) -> Result<()> {
        mapping.map_now()?;
        let mut placed = self.placed.lock();
        let occupied = placed.mappings.get(mapping.ordinal()).and_then(Option::as_ref);
        // It was retired in the meantime, and no earlier reader is left.
        let Some(occupied) = occupied.filter(|occupied| Arc::ptr_eq(&occupied.mapping, mapping)) else {
            return Ok(());
        };
        let range = occupied.range;
        if placed.waiting.remove(&range.first).is_some() {
            self.lead(mapping, range);
        }
        Ok(())
    }
}

impl AddressSpace {
    /// Returns the mapping of a slot, and maps it if necessary; `None` if there is no mapping or
    /// mapping fails.
    #[cold]
    #[inline(never)]
    pub(super) fn mapped(&self, slot: &GranuleEntry, location: Location) -> Option<NonNull<Mapping>> {
        // `map_at` returns the reason.
        self.map_at(location).ok()?;
        // Acquire: pairs with the release store in `lead`.
        NonNull::new(slot.mapping.load(Ordering::Acquire))
    }

    /// Maps the segment of a location, unless it is mapped or no segment is there.
    ///
    /// # Errors
    ///
    /// As for [`MapOnDemand::map`](super::mapping::MapOnDemand::map).
    #[cold]
    pub(super) fn map_at(&self, location: Location) -> Result<()> {
        match self.table.waiting_at(location) {
            Some(mapping) => self.table.map_now(&mapping),
            None => Ok(()),
        }
    }

    /// True if a location is in an unmapped segment that the worker will still map.
    pub(super) fn is_waiting_for_its_turn(&self, location: Location) -> bool {
        // Relaxed: advice.
        self.mapped.load(Ordering::Relaxed) != u64::MAX && self.table.waiting_at(location).is_some()
    }

    /// Maps a mapping, unless it is mapped.
    ///
    /// # Errors
    ///
    /// As for [`MapOnDemand::map`](super::mapping::MapOnDemand::map).
    pub(crate) fn map_now(&self, mapping: &Arc<Mapping>) -> Result<()> {
        self.table.map_now(mapping)
    }

    /// Maps the next unmapped segment, each once; `None` after the last.
    ///
    /// # Errors
    ///
    /// As for [`MapOnDemand::map`](super::mapping::MapOnDemand::map); the next call continues
    /// behind it.
    pub(crate) fn map_next(&self) -> Option<Result<()>> {
        // Relaxed, all: if two threads read the same granule, one of them finds nothing left to do.
        let granule = self.mapped.load(Ordering::Relaxed);
        if granule == u64::MAX {
            return None;
        }
        let next = self.table.placed.lock().waiting_from(granule);
        let Some((first, mapping)) = next else {
            self.mapped.store(u64::MAX, Ordering::Relaxed);
            return None;
        };
        self.mapped.store(first + 1, Ordering::Relaxed);
        Some(self.table.map_now(&mapping))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::mem::mapping::{MapOnDemand, Nothing};
    use crate::mem::range_allocator::GranuleRange;

    #[derive(Debug)]
    struct Memory;
    impl MapOnDemand for Memory {
        fn map(&self) -> Result<Arc<Mapping>> {
            let memory = Mapping::anonymous_memory(1 << 20).expect("address space");
            Ok(Arc::new(Mapping::simulated(memory, false, Arc::new(Nothing))))
        }
    }

    #[test]
    fn mapping_is_found_before_during_and_after_attachment() {
        let space = AddressSpace::reserve().expect("address space");
        let (found, mapped) = (AtomicBool::new(false), AtomicBool::new(false));
        for granule in 1..1000 {
            let mapping = Arc::new(Mapping::later(1 << 20, Box::new(Memory)));
            let range = GranuleRange::from_granules(granule, 1).expect("inside");
            assert!(space.place_at(&mapping, range) && !mapping.is_attached());
            mapped.store(false, Ordering::Relaxed);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Waits for the first lookup.
                    while !found.swap(false, Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    space.map_now(&mapping).expect("memory");
                    mapped.store(true, Ordering::Release);
                });
                let pin = space.domain().pin();
                loop {
                    let last = mapped.load(Ordering::Acquire);
                    let there = space.mapping(range.at(64), &pin).expect("it has its place");
                    assert!(std::ptr::eq(there, Arc::as_ptr(&mapping)));
                    found.store(true, Ordering::Release);
                    if last {
                        break;
                    }
                }
            });
            found.store(false, Ordering::Relaxed);
            assert!(mapping.is_attached());
        }
        assert!(space.map_next().is_none());
    }

    #[test]
    fn each_lazy_mapping_is_mapped_once() {
        let space = AddressSpace::reserve().expect("address space");
        let mappings: Vec<_> = (0..5).map(|_| Arc::new(Mapping::later(1 << 20, Box::new(Memory)))).collect();
        for (granule, mapping) in (1..).step_by(3).zip(&mappings) {
            assert!(space.place_at(mapping, GranuleRange::from_granules(granule, 2).expect("inside")));
        }
        space.map_now(&mappings[1]).expect("memory");
        for left in (0..4).rev() {
            space.map_next().expect("one is left").expect("memory");
            assert_eq!(mappings.iter().filter(|mapping| !mapping.is_attached()).count(), left);
        }
        assert!(space.map_next().is_none());
    }

    #[test]
    fn attended_prefetch_leaves_mapping_to_the_background() {
        let space = AddressSpace::reserve().expect("address space");
        let mapping = Arc::new(Mapping::later(1 << 20, Box::new(Memory)));
        let range = GranuleRange::from_granules(1, 1).expect("inside");
        assert!(space.place_at(&mapping, range));
        let pin = space.domain().pin();
        let at = range.at(64);
        assert!(!space.bring_near(at, &pin, true).expect("nothing is asked"));
        assert!(!mapping.is_attached());
        space.map_next().expect("it waits").expect("memory");
        assert!(mapping.is_attached());
        // Maps by itself without a worker, and after a worker that could not map it.
        for (granule, attended) in [(2, false), (3, true)] {
            let mapping = Arc::new(Mapping::later(1 << 20, Box::new(Memory)));
            let range = GranuleRange::from_granules(granule, 1).expect("inside");
            if attended {
                assert!(space.map_next().is_none());
            }
            assert!(space.place_at(&mapping, range));
            space.bring_near(range.at(64), &pin, attended).expect("the kernel says");
            assert!(mapping.is_attached());
        }
    }
}
