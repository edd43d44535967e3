//! Epoch-based reclamation: drops unlinked data once no reader can still see it.
//!
//! A reader pins one store at a time and writes no shared memory except slots of its own thread. A
//! store hands the data that it unlinked to its [`Limbo`]s. They drop it when every pin of that
//! store that was taken before is gone. No thread waits: a pin that is never dropped keeps memory
//! of its store, and blocks neither writers nor `collect`. This module has no unsafe code outside a
//! model. The unsafe code that follows a pointer under a pin relies on the argument below.
//!
//! **Slots.** A thread has one slot for the pins of reads, which nest. It takes further slots if
//! that slot is pinned for another store, and for each held pin ([`Domain::hold`]). So one word
//! describes a pin: the epoch in its low 48 bits, and the number of the store above them. A held
//! pin has a slot to itself. Two held pins may overlap for ever, each taken before the other is
//! dropped; each still keeps data only for as long as it lasts itself.
//!
//! **Concurrency.** The epoch counts the retirements of all stores. A pin stores its store's number
//! and the current epoch into a slot. Garbage carries the epoch before its own retirement.
//! `collect` drops garbage whose epoch is below that of every slot pinned for its store. No reader
//! can reach dropped data:
//!
//! ```text
//! reader                                    reclaimer
//! R1  epoch.load            (relaxed)       W1  unlink (any store)
//! R2  slot.store(pin)       (release)       W2  tag = epoch.fetch_add(1)  (release)
//! R3  fence                 (SeqCst)        W3  fence                     (SeqCst)
//! R4  read pointers                         W4  slot.load                 (acquire)
//! R5  slot.store(IDLE)      (release)       W5  drop, if no slot holds this store and an epoch <= tag
//! ```
//!
//! 1. *W4 does not see R2.* Then W3 precedes R3 in the order of all SeqCst fences (if R3 were
//!    first, W4 would have to see R2). So R4 sees W1: the reader never finds the pointer.
//! 2. *W4 sees R2, with an epoch above the tag.* Then R1 read a value written by W2 or a later
//!    `fetch_add`. R3 is an acquire fence as well and acquires W1 from it. So R4 sees W1.
//! 3. *The pin found the pointer.* Then it is over before the drop: W4 reads R5 or a later store to
//!    the slot. All of these release, and a slot changes hands only through a read-modify-write, so
//!    W5 comes after R4. W1 and W2 may run on another thread than W3 to W5, because the limbo's
//!    mutex orders them.
//!
//! W4 may skip the slots of other stores. R4 follows pointers of the pin's store only, which the
//! code that follows one asserts ([`Limbo::covers`]), and R2 stores the pin's own number. Renewing
//! a pin is R5 and R2 in one store. If 65,536 stores are made between two stores, these two share a
//! number. Each of them then keeps its garbage for the other's pins, too.
//!
//! If R1 read the epoch long before R2, the pin only carries an older epoch, and more garbage is
//! kept. A nested pin keeps the epoch of the outer one. A fence by `membarrier` would free readers
//! of the cost of R3. It is not used, because many sandboxes refuse the call, and an outermost pin
//! costs only 7 ns with R3 (a nested one 1 ns; x86-64). At one retirement per microsecond, 48 bits
//! of epoch last for nine years.
//!
//! **Invariants.** Slots are made in chunks that are never freed. A thread keeps the slots that it
//! claimed until it ends. A child made by `fork` inherits the slots of threads that it does not
//! have; data pinned by these is kept for ever.

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64 as Counter;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// The state of a slot that no thread owns.
const FREE: u64 = 0;
/// The state of a slot whose thread has no pin.
const IDLE: u64 = 1;
/// The first state that is a pin: a store's number and an epoch, which is at least this.
const FIRST_EPOCH: u64 = 2;
/// Bits of the epoch in the state of a pin.
const EPOCH_BITS: u32 = 48;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;

/// The number of slots in the first chunk; each further chunk has twice as many.
const FIRST_CHUNK: usize = if cfg!(loom) { 2 } else { 64 };
/// The number of chunks. With the doubling they hold more slots than fit into memory.
const CHUNK_COUNT: usize = 28;

/// A thread's slot, which collectors read. It is alone on two cache lines, which are fetched as
/// one.
#[derive(Debug)]
#[repr(align(128))]
struct ThreadSlot {
    /// `FREE`, `IDLE`, or the store and the epoch of the outermost pin.
    state: AtomicU64,
    /// The number of pins. Only the thread that owns the slot accesses it.
    depth: AtomicU32,
    /// True if the thread will pin again. Only the thread that owns the slot accesses it.
    kept: AtomicBool,
}

impl ThreadSlot {
    fn new() -> Self {
        Self { state: AtomicU64::new(FREE), depth: AtomicU32::new(0), kept: AtomicBool::new(false) }
    }

    fn claim(&self, kept: bool) -> bool {
        // Relaxed: the compare-exchange decides; this load only spares the cache line.
        if self.state.load(Ordering::Relaxed) != FREE {
            return false;
        }
        // Acquire pairs with the release in `leave`, by which the last owner gave the slot up: its
        // `depth` and `kept` are seen. As a read-modify-write it keeps that release in force for
        // threads that scan the slots.
        let claimed = self.state.compare_exchange(FREE, IDLE, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if claimed {
            // Relaxed: only this thread accesses it until the slot is free again.
            self.kept.store(kept, Ordering::Relaxed);
        }
        claimed
    }

    /// Ends the outermost pin, or the claim.
    fn leave(&self, state: u64) {
        // Release: pairs with the acquire in `Registry::pinned` (R5 and W4 above), and for `FREE`
        // with that in `claim`.
        self.state.store(state, Ordering::Release);
    }

    fn give_up(&self) {
        // Relaxed, both: only this thread accesses them.
        self.kept.store(false, Ordering::Relaxed);
        if self.depth.load(Ordering::Relaxed) == 0 {
            self.leave(FREE);
        }
        // Otherwise a pin outlives this thread's own storage, and its drop frees the slot.
    }
}

/// All slots and the epoch. The process has one registry; tests make their own.
struct Registry {
    epoch: Epoch,
    chunks: [OnceLock<Box<[ThreadSlot]>>; CHUNK_COUNT],
    /// Garbage left by dropped limbos, each piece with the number of its store.
    orphans: OnceLock<Mutex<Vec<(u64, Garbage)>>>,
    /// The number of stores that were numbered.
    stores: Counter,
}

/// The number of retirements so far. It has its cache lines to itself, because every pin reads it.
#[repr(align(128))]
struct Epoch(AtomicU64);

/// Garbage in the order of its tags.
type Garbage = VecDeque<(u64, Box<dyn Send>)>;

#[cfg(not(loom))]
fn process() -> &'static Registry {
    static PROCESS: Registry = Registry::new();
    &PROCESS
}

/// Each run of a model has a registry of its own. It is never freed, because the slots of threads
/// that end late are in it.
#[cfg(loom)]
fn process() -> &'static Registry {
    loom::lazy_static! {
        static ref PROCESS: &'static Registry = Box::leak(Box::new(Registry::new()));
    }
    *PROCESS
}

#[cfg(not(loom))]
std::thread_local!(static LOCAL: Local = Local::new(process()));
#[cfg(loom)]
loom::thread_local!(static LOCAL: Local = Local::new(process()));

impl Registry {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self::starting_with(AtomicU64::new(FIRST_EPOCH))
    }

    /// Makes a registry with its first chunk. loom does not model `OnceLock`, so a chunk made later
    /// by a thread would have no order with the threads that scan it.
    #[cfg(loom)]
    fn new() -> Self {
        let registry = Self::starting_with(AtomicU64::new(FIRST_EPOCH));
        registry.chunks[0].get_or_init(|| (0..FIRST_CHUNK).map(|_| ThreadSlot::new()).collect());
        registry
    }

    const fn starting_with(epoch: AtomicU64) -> Self {
        let chunks = [const { OnceLock::new() }; CHUNK_COUNT];
        Self { epoch: Epoch(epoch), chunks, orphans: OnceLock::new(), stores: Counter::new(0) }
    }

    /// Claims a slot for the calling thread, and makes one if all are taken.
    fn claim(&'static self, kept: bool) -> &'static ThreadSlot {
        self.chunks
            .iter()
            .enumerate()
            .flat_map(|(nth, chunk)| {
                chunk.get_or_init(|| (0..FIRST_CHUNK << nth).map(|_| ThreadSlot::new()).collect())
            })
            .find(|slot| slot.claim(kept))
            .expect("there are more slots than fit into memory")
    }

    fn slots(&self) -> impl Iterator<Item = &ThreadSlot> {
        // A chunk that is made during the walk may be missed. That is case 1 in the file's head:
        // making it is part of R2, and not seeing it puts W3 before R3.
        self.chunks.iter().map_while(|chunk| chunk.get()).flat_map(|chunk| chunk.iter())
    }

    /// Returns the epochs of all pins of the store with this number.
    fn pinned(&self, store: u64) -> impl Iterator<Item = u64> {
        // Acquire: W4, pairs with the releases in `pin_on` and `leave`.
        let states = self.slots().map(|slot| slot.state.load(Ordering::Acquire));
        states
            .filter(move |state| *state >= FIRST_EPOCH && state & !EPOCH_MASK == store)
            .map(|state| state & EPOCH_MASK)
    }

    /// Pins a slot that is not pinned.
    fn pin_on(&self, slot: &'static ThreadSlot, store: u64) -> Pin {
        // Relaxed: only this thread accesses it.
        slot.depth.store(1, Ordering::Relaxed);
        self.enter(slot, store);
        Pin { slot, store, not_send: PhantomData }
    }

    /// Marks a slot as pinned, at the current epoch.
    fn enter(&self, slot: &ThreadSlot, store: u64) {
        // R1. Relaxed: the fence below makes it acquire from the release in `retire`.
        let epoch = self.epoch.0.load(Ordering::Relaxed);
        // R2: pairs with the acquire in `pinned`.
        slot.state.store(store | epoch, Ordering::Release);
        // R3: pairs with the fence in `expired`, and with the release in `retire`.
        fence(Ordering::SeqCst);
    }

    /// Removes and returns unpinned garbage. `garbage` must be under a mutex (W1 and W2 before W3).
    fn expired(&self, garbage: &mut Garbage, store: u64) -> Vec<Box<dyn Send>> {
        if garbage.is_empty() {
            return Vec::new();
        }
        // W3: pairs with the fence in `enter`.
        fence(Ordering::SeqCst);
        let oldest = self.pinned(store).min().unwrap_or(u64::MAX);
        let count = garbage.partition_point(|&(tag, _)| tag < oldest);
        garbage.drain(..count).map(|(_, item)| item).collect()
    }

    fn collect(&self, garbage: &Mutex<Garbage>, store: u64) -> usize {
        let expired = self.expired(&mut garbage.lock(), store);
        // Dropped with no lock held: a destructor may itself retire and collect.
        expired.len()
    }

    /// Collects the garbage left by dropped limbos.
    fn collect_orphans(&self) -> usize {
        let Some(orphans) = self.orphans.get() else { return 0 };
        let mut expired = Vec::new();
        let mut left = orphans.lock();
        left.retain_mut(|(store, garbage)| {
            expired.append(&mut self.expired(garbage, *store));
            !garbage.is_empty()
        });
        drop(left);
        // Dropped with no lock held, as in `collect`.
        expired.len()
    }

    fn statistics(&self, store: u64) -> Pins {
        // Relaxed: a statistic; it orders nothing.
        let epoch = self.epoch.0.load(Ordering::Relaxed);
        let (mut active, mut oldest) = (0, None);
        for pinned in self.pinned(store) {
            active += 1;
            oldest = Some(oldest.map_or(pinned, |oldest: u64| oldest.min(pinned)));
        }
        // A pin may have been taken after the epoch was read.
        Pins { active, oldest_age: oldest.map_or(0, |oldest| epoch.saturating_sub(oldest)), oldest }
    }
}

/// The slots that a thread has claimed.
struct Local {
    registry: &'static Registry,
    /// The slot for the pins of reads.
    slot: &'static ThreadSlot,
    /// Further slots, as many as were ever pinned at once.
    others: RefCell<Vec<&'static ThreadSlot>>,
}

impl Local {
    fn new(registry: &'static Registry) -> Self {
        Self { registry, slot: registry.claim(true), others: RefCell::new(Vec::new()) }
    }

    fn pin(&self, store: u64) -> Pin {
        let slot = self.slot;
        // Relaxed: only this thread accesses it.
        let depth = slot.depth.load(Ordering::Relaxed);
        if depth == 0 {
            return self.registry.pin_on(slot, store);
        }
        // Relaxed: this thread's last store.
        if slot.state.load(Ordering::Relaxed) & !EPOCH_MASK != store {
            return self.hold(store);
        }
        // Relaxed: as above.
        slot.depth.store(depth + 1, Ordering::Relaxed);
        Pin { slot, store, not_send: PhantomData }
    }

    #[cold]
    fn hold(&self, store: u64) -> Pin {
        let mut others = self.others.borrow_mut();
        // Relaxed: only this thread accesses it.
        let idle = others.iter().find(|slot| slot.depth.load(Ordering::Relaxed) == 0).copied();
        let slot = idle.unwrap_or_else(|| {
            let slot = self.registry.claim(true);
            others.push(slot);
            slot
        });
        self.registry.pin_on(slot, store)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.slot.give_up();
        self.others.get_mut().iter().for_each(|slot| slot.give_up());
    }
}

/// Keeps all data of one store alive that was reachable when the pin was taken.
#[must_use = "a pin that is dropped at once protects nothing"]
pub(crate) struct Pin {
    slot: &'static ThreadSlot,
    /// The store's number, shifted to its position in a slot's state.
    store: u64,
    /// The slot belongs to the thread, so the pin must stay on that thread.
    not_send: PhantomData<*const ()>,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: the thread's own last store.
        let epoch = self.slot.state.load(Ordering::Relaxed) & EPOCH_MASK;
        f.debug_struct("Pin").field("store", &(self.store >> EPOCH_BITS)).field("epoch", &epoch).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // Relaxed, all: only this thread accesses them.
        let depth = self.slot.depth.load(Ordering::Relaxed) - 1;
        self.slot.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            self.slot.leave(if self.slot.kept.load(Ordering::Relaxed) { IDLE } else { FREE });
        }
    }
}

/// The scope of pins: one store, whose limbos and pins all carry this.
#[derive(Clone, Copy)]
pub(crate) struct Domain {
    registry: &'static Registry,
    /// The store's number, shifted to its position in a slot's state.
    store: u64,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Domain").field(&(self.store >> EPOCH_BITS)).finish()
    }
}

impl Domain {
    /// Makes the domain of the next store.
    pub(crate) fn new() -> Self {
        Self::under(process())
    }

    fn under(registry: &'static Registry) -> Self {
        // Relaxed: only the number counts.
        let number = registry.stores.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { registry, store: number << EPOCH_BITS }
    }

    /// Pins the store on the calling thread for the duration of a read. Such pins nest: the first
    /// one of a thread costs a fence, a nested one a counter.
    pub(crate) fn pin(self) -> Pin {
        // While the thread's storage is being destroyed, a pin has its own slot, freed with it.
        LOCAL.try_with(|local| local.pin(self.store)).unwrap_or_else(|_| self.pin_apart())
    }

    /// Pins the store for any length of time, independently of all other pins of the thread.
    pub(crate) fn hold(self) -> Pin {
        LOCAL.try_with(|local| local.hold(self.store)).unwrap_or_else(|_| self.pin_apart())
    }

    #[cold]
    fn pin_apart(self) -> Pin {
        process().pin_on(process().claim(false), self.store)
    }

    /// Releases the data that a held pin kept, and pins again at the current epoch.
    pub(crate) fn renew(self, pin: &mut Pin) {
        debug_assert_eq!(pin.store, self.store, "a pin stays with its store");
        // Relaxed: only this thread accesses it.
        debug_assert_eq!(
            pin.slot.depth.load(Ordering::Relaxed),
            1,
            "nothing is nested in a pin that is held"
        );
        self.registry.enter(pin.slot, self.store);
    }

    /// Returns statistics about the pins of the store.
    pub(crate) fn pins(self) -> Pins {
        self.registry.statistics(self.store)
    }
}

/// The number and the age of pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Pinned slots: running reads, and held pins.
    pub(crate) active: usize,
    /// Retirements in the process since the oldest pin was taken.
    pub(crate) oldest_age: u64,
    /// The epoch of the oldest pin; `None` if there is no pin.
    pub(crate) oldest: Option<u64>,
}

/// Unlinked data of a store that a reader may still see.
///
/// Dropping a limbo drops the data that no pin can see. The rest is dropped by the next `collect`
/// of any limbo of the process that finds it unpinned.
pub(crate) struct Limbo {
    domain: Domain,
    garbage: Mutex<Garbage>,
}

impl Limbo {
    /// Makes an empty limbo under the pins of a store.
    pub(crate) fn new(domain: Domain) -> Self {
        Self { domain, garbage: Mutex::new(Garbage::new()) }
    }

    /// Returns the domain of the store.
    pub(crate) fn domain(&self) -> Domain {
        self.domain
    }

    /// Asserts that a pin belongs to this store, so that it keeps data retired here.
    #[inline]
    pub(crate) fn covers(&self, pin: &Pin) {
        assert!(pin.store == self.domain.store, "a pin of one store does not protect another's memory");
    }

    /// Takes data that the caller has made unreachable for readers that pin from now on.
    ///
    /// A later `collect` drops it, on the thread that calls it.
    pub(crate) fn retire(&self, garbage: impl Send + 'static) {
        let garbage: Box<dyn Send> = Box::new(garbage);
        let mut held = self.garbage.lock();
        // W2: pairs with the fence in `enter`, R3.
        let tag = self.domain.registry.epoch.0.fetch_add(1, Ordering::Release);
        held.push_back((tag, garbage));
    }

    /// Drops data that no pin from before its retirement can see; returns the number of pieces.
    pub(crate) fn collect(&self) -> usize {
        let Domain { registry, store } = self.domain;
        registry.collect_orphans() + registry.collect(&self.garbage, store)
    }

    /// Returns the number of pieces that wait for pins.
    pub(crate) fn len(&self) -> usize {
        self.garbage.lock().len()
    }
}

impl fmt::Debug for Limbo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limbo").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Drop for Limbo {
    fn drop(&mut self) {
        self.collect();
        let left = mem::take(&mut *self.garbage.lock());
        if !left.is_empty() {
            let Domain { registry, store } = self.domain;
            registry.orphans.get_or_init(|| Mutex::new(Vec::new())).lock().push((store, left));
        }
    }
}
