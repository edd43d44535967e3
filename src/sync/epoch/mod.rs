//! Pins and grace periods: what was unlinked is dropped once no reader can still be looking at it.
//!
//! Readers pin one store at a time, and write no shared memory but slots of their own thread. A store gives what it has
//! unlinked to its [`Limbo`]s, which drop it when every pin of that store that was taken before is gone. Nobody waits: a pin
//! that is never given up keeps memory of its store, and blocks neither writers nor `collect`. There is no unsafe code
//! here outside of a model; the unsafe code that follows a pointer under a pin relies on the argument below.
//!
//! **Slots.** A thread has one slot for the pins of reads, which nest, and takes further ones where that slot is pinned for
//! another store, and for each pin that is held ([`Domain::hold`]). So one word says all of a pin: in its low 48 bits the epoch,
//! above them the number of the store. A held pin has its slot alone: two that overlap for ever, each taken before the other is
//! dropped, hold nothing for longer than each of them lasts.
//!
//! **Concurrency.** The epoch counts retirements, those of all stores. A pin stores its store and the epoch it has seen
//! into a slot; garbage carries the epoch before its own retirement; `collect` drops garbage whose epoch is below that of
//! every slot that is pinned for its store. Two cases make up the argument that no reader can reach what is dropped:
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
//! - *W4 does not see R2.* Then W3 comes before R3 in the order of all SeqCst fences (were R3 first, W4 would have to
//!   see R2), so R4 sees W1: the reader never finds the pointer.
//! - *W4 sees R2, with an epoch above the tag.* Then R1 has read what W2 or a later `fetch_add` wrote, and R3, being
//!   an acquire fence as well, acquires W1 from it: R4 sees W1.
//!
//! And a pin that did find the pointer is over before the drop: W4 reads R5 or a later store to the slot. All of them
//! release, and a slot changes hands only through a read-modify-write, so W5 comes after R4. That W1 and W2 may run on
//! another thread than W3 to W5 does no harm: the limbo's mutex lies between them.
//!
//! That W4 passes over the slots of other stores does no harm either: R4 follows pointers of the pin's store only, which
//! whoever follows one asserts ([`Limbo::covers`]), and R2 stores the pin's own number. A pin that is renewed is R5 and R2 in one
//! store. Stores that were made 65,536 others apart share a number: each then keeps its garbage for the other's pins, too.
//!
//! An epoch that R1 read long before R2 is only older: more is kept. A nested pin keeps the epoch of the outer one.
//! A fence by `membarrier` would take the cost of R3 off the readers; it is not used, since an outermost pin costs
//! 7 ns with R3 (a nested one 1 ns; x86-64, 2026-11) and the call is refused in many sandboxes. 48 bits of epoch last for nine
//! years of a retirement every microsecond.
//!
//! **Invariants.** Slots are made in chunks that are never freed, and a slot is claimed for as long as its thread
//! lives. A child made by `fork` inherits the slots of threads it does not have: what they had pinned is kept for ever.

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

/// A slot that no thread has.
const FREE: u64 = 0;
/// A slot whose thread has no pin.
const IDLE: u64 = 1;
/// Every state from here on is a pin: a store's number, and an epoch, which is no smaller than this.
const FIRST_EPOCH: u64 = 2;
/// Bits of the epoch in the state of a pin.
const EPOCH_BITS: u32 = 48;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;

/// The slots of the first chunk; each further chunk has twice as many.
const FIRST_CHUNK: usize = if cfg!(loom) { 2 } else { 64 };
/// With the doubling this is more slots than fit into memory.
const CHUNK_COUNT: usize = 28;

/// What a thread shows to those who collect. Alone on its cache lines, two of which are fetched at a time.
#[derive(Debug)]
#[repr(align(128))]
struct ThreadSlot {
    /// `FREE`, `IDLE`, or the store and the epoch of the outermost pin.
    state: AtomicU64,
    /// How many pins there are. Only the thread that has the slot touches it.
    depth: AtomicU32,
    /// Whether the thread will pin again. Only the thread that has the slot touches it.
    kept: AtomicBool,
}

impl ThreadSlot {
    fn new() -> Self {
        Self { state: AtomicU64::new(FREE), depth: AtomicU32::new(0), kept: AtomicBool::new(false) }
    }

    fn claim(&self, kept: bool) -> bool {
        // Relaxed: the compare-exchange decides; this only spares the cache line.
        if self.state.load(Ordering::Relaxed) != FREE {
            return false;
        }
        // Acquire pairs with the release in `leave`, by which the last owner gave the slot up: its `depth` and `kept`
        // are seen. Being a read-modify-write it leaves that release in force for those who scan.
        let claimed = self.state.compare_exchange(FREE, IDLE, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if claimed {
            // Relaxed: only this thread touches it until the slot is free again.
            self.kept.store(kept, Ordering::Relaxed);
        }
        claimed
    }

    /// Ends the outermost pin, or the claim.
    fn leave(&self, state: u64) {
        // Pairs with the acquire in `Registry::oldest` (R5 and W4 above), and for `FREE` with that in `claim`.
        self.state.store(state, Ordering::Release);
    }

    fn give_up(&self) {
        // Relaxed, both: only this thread touches them.
        self.kept.store(false, Ordering::Relaxed);
        if self.depth.load(Ordering::Relaxed) == 0 {
            self.leave(FREE);
        }
        // Otherwise a pin outlives this thread's own storage, and its drop frees the slot.
    }
}

/// All the slots, and the epoch. The process has one; tests make their own.
struct Registry {
    epoch: Epoch,
    chunks: [OnceLock<Box<[ThreadSlot]>>; CHUNK_COUNT],
    /// What dropped limbos had left, each piece with the number of its store.
    orphans: OnceLock<Mutex<Vec<(u64, Garbage)>>>,
    /// Stores that were given a number.
    stores: Counter,
}

/// The number of retirements so far. Alone on its cache lines: every pin reads it.
#[repr(align(128))]
struct Epoch(AtomicU64);

/// In the order of their tags.
type Garbage = VecDeque<(u64, Box<dyn Send>)>;

#[cfg(not(loom))]
fn process() -> &'static Registry {
    static PROCESS: Registry = Registry::new();
    &PROCESS
}

/// Every run of a model has its own. It is never freed, since the slots of threads that end late lie in it.
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

    /// Comes with its first chunk: loom knows nothing of `OnceLock`, so a chunk that a thread makes later would have
    /// no order with those who scan it.
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

    /// Claims a slot for the calling thread, making one if all are taken.
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
        // A chunk that is made during the walk may be missed. That is the first case of the argument above: making it
        // is part of R2, and not seeing it puts W3 before R3.
        self.chunks.iter().map_while(|chunk| chunk.get()).flat_map(|chunk| chunk.iter())
    }

    /// The epochs of all pins of the store with this number.
    fn pinned(&self, store: u64) -> impl Iterator<Item = u64> {
        // Acquire: W4, pairs with the releases in `pin_on` and `leave`.
        let states = self.slots().map(|slot| slot.state.load(Ordering::Acquire));
        states
            .filter(move |state| *state >= FIRST_EPOCH && state & !EPOCH_MASK == store)
            .map(|state| state & EPOCH_MASK)
    }

    /// Pins a slot that is not pinned.
    fn pin_on(&self, slot: &'static ThreadSlot, store: u64) -> Pin {
        // Relaxed: only this thread touches it.
        slot.depth.store(1, Ordering::Relaxed);
        self.enter(slot, store);
        Pin { slot, store, not_send: PhantomData }
    }

    /// Says that a slot is pinned from now on.
    fn enter(&self, slot: &ThreadSlot, store: u64) {
        // R1. Relaxed: the fence below makes it acquire from the release in `retire`.
        let epoch = self.epoch.0.load(Ordering::Relaxed);
        // R2: pairs with the acquire in `pinned`.
        slot.state.store(store | epoch, Ordering::Release);
        // R3: pairs with the fence in `expired`, and with the release in `retire`.
        fence(Ordering::SeqCst);
    }

    /// Takes out what no pin of its store can see. `garbage` must be what a mutex guards (W1 and W2 before W3).
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
        // Dropped with no lock held: a destructor may retire and collect in turn.
        expired.len()
    }

    /// As `collect`, for what dropped limbos had left.
    fn collect_orphans(&self) -> usize {
        let Some(orphans) = self.orphans.get() else { return 0 };
        let mut expired = Vec::new();
        let mut left = orphans.lock();
        left.retain_mut(|(store, garbage)| {
            expired.append(&mut self.expired(garbage, *store));
            !garbage.is_empty()
        });
        drop(left);
        // Dropped with no lock held, as above.
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
        // A pin may have come after the epoch was looked at.
        Pins { active, oldest_age: oldest.map_or(0, |oldest| epoch.saturating_sub(oldest)), oldest }
    }
}

/// A thread's claim to its slots.
struct Local {
    registry: &'static Registry,
    /// The slot for the pins of reads.
    slot: &'static ThreadSlot,
    /// Further ones, as many as were ever pinned at once.
    others: RefCell<Vec<&'static ThreadSlot>>,
}

impl Local {
    fn new(registry: &'static Registry) -> Self {
        Self { registry, slot: registry.claim(true), others: RefCell::new(Vec::new()) }
    }

    fn pin(&self, store: u64) -> Pin {
        let slot = self.slot;
        // Relaxed: only this thread touches it.
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
        // Relaxed: only this thread touches it.
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

/// Keeps everything of one store alive that was reachable when it was made.
#[must_use = "a pin that is dropped at once protects nothing"]
pub(crate) struct Pin {
    slot: &'static ThreadSlot,
    /// The number of the store, where the state of a slot has it.
    store: u64,
    /// The slot belongs to the thread, so the pin must stay there.
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
        // Relaxed, all: only this thread touches them.
        let depth = self.slot.depth.load(Ordering::Relaxed) - 1;
        self.slot.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            self.slot.leave(if self.slot.kept.load(Ordering::Relaxed) { IDLE } else { FREE });
        }
    }
}

/// What a pin is for: a store, all of whose limbos and pins have this.
#[derive(Clone, Copy)]
pub(crate) struct Domain {
    registry: &'static Registry,
    /// The store's number, where the state of a slot has it.
    store: u64,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Domain").field(&(self.store >> EPOCH_BITS)).finish()
    }
}

impl Domain {
    /// The next store's.
    pub(crate) fn new() -> Self {
        Self::under(process())
    }

    fn under(registry: &'static Registry) -> Self {
        // Relaxed: nothing but the number counts.
        let number = registry.stores.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { registry, store: number << EPOCH_BITS }
    }

    /// Pins the store for the calling thread, for the time of a read. Such pins nest; the first of a thread costs a fence, the
    /// others a counter.
    pub(crate) fn pin(self) -> Pin {
        // While the thread's storage is being destroyed a pin gets a slot of its own, which goes with it.
        LOCAL.try_with(|local| local.pin(self.store)).unwrap_or_else(|_| self.pin_apart())
    }

    /// Pins the store for as long as the caller likes: apart from all other pins of the thread.
    pub(crate) fn hold(self) -> Pin {
        LOCAL.try_with(|local| local.hold(self.store)).unwrap_or_else(|_| self.pin_apart())
    }

    #[cold]
    fn pin_apart(self) -> Pin {
        process().pin_on(process().claim(false), self.store)
    }

    /// Lets go of what a pin that is held has kept, and pins anew.
    pub(crate) fn renew(self, pin: &mut Pin) {
        debug_assert_eq!(pin.store, self.store, "a pin stays with its store");
        // Relaxed: only this thread touches it.
        debug_assert_eq!(
            pin.slot.depth.load(Ordering::Relaxed),
            1,
            "nothing is nested in a pin that is held"
        );
        self.registry.enter(pin.slot, self.store);
    }

    /// The pins of the store.
    pub(crate) fn pins(self) -> Pins {
        self.registry.statistics(self.store)
    }
}

/// How many pins there are, and how far they lie back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Slots that are pinned: reads under way, and pins that are held.
    pub(crate) active: usize,
    /// Retirements in the process since the oldest pin was taken.
    pub(crate) oldest_age: u64,
    /// The epoch of the oldest pin.
    pub(crate) oldest: Option<u64>,
}

/// What a store has unlinked and some reader may still see.
///
/// Dropping it drops what no pin can see and leaves the rest to whichever limbo of the process collects next.
pub(crate) struct Limbo {
    domain: Domain,
    garbage: Mutex<Garbage>,
}

impl Limbo {
    /// Starts empty, under the pins of a store.
    pub(crate) fn new(domain: Domain) -> Self {
        Self { domain, garbage: Mutex::new(Garbage::new()) }
    }

    /// The store.
    pub(crate) fn domain(&self) -> Domain {
        self.domain
    }

    /// Asserts that a pin is one of this store's: it keeps what is retired here.
    #[inline]
    pub(crate) fn covers(&self, pin: &Pin) {
        assert!(pin.store == self.domain.store, "a pin of one store does not protect another's memory");
    }

    /// Takes what the caller has made unreachable for readers that pin from now on.
    ///
    /// It is dropped by a later `collect`, on the thread that calls it.
    pub(crate) fn retire(&self, garbage: impl Send + 'static) {
        let garbage: Box<dyn Send> = Box::new(garbage);
        let mut held = self.garbage.lock();
        // W2: pairs with the fence in `enter`, R3.
        let tag = self.domain.registry.epoch.0.fetch_add(1, Ordering::Release);
        held.push_back((tag, garbage));
    }

    /// Drops everything that no pin taken before its retirement can see, and returns how many pieces that were.
    pub(crate) fn collect(&self) -> usize {
        let Domain { registry, store } = self.domain;
        registry.collect_orphans() + registry.collect(&self.garbage, store)
    }

    /// The pieces that wait for pins.
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
