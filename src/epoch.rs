//! Pins and grace periods: what was unlinked is dropped once no reader can still be looking at it.
//!
//! Readers pin, one per thread and for the whole process, and write no shared memory but their own slot. A store
//! gives what it has unlinked to its [`Limbo`], which drops it when every pin that was taken before is gone. Nobody
//! waits: a pin that is never given up keeps memory, and blocks neither writers nor `collect`. There is no unsafe code
//! here outside of a model; the unsafe code that follows a pointer under a pin relies on the argument below.
//!
//! **Concurrency.** The epoch counts retirements. A pin stores the epoch it has seen into its thread's slot; garbage
//! carries the epoch before its own retirement; `collect` drops garbage whose epoch is below that of every pinned
//! slot. Two cases make up the argument that no reader can reach what is dropped:
//!
//! ```text
//! reader                                    reclaimer
//! R1  epoch.load            (relaxed)       W1  unlink (any store)
//! R2  slot.store(epoch)     (release)       W2  tag = epoch.fetch_add(1)  (release)
//! R3  fence                 (SeqCst)        W3  fence                     (SeqCst)
//! R4  read pointers                         W4  slot.load                 (acquire)
//! R5  slot.store(IDLE)      (release)       W5  drop, if no slot holds an epoch <= tag
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
//! An epoch that R1 read long before R2 is only older: more is kept. A nested pin keeps the epoch of the outer one.
//! A fence by `membarrier` would take the cost of R3 off the readers; it is not used, since an outermost pin costs
//! 7 ns with R3 (a nested one 1 ns; x86-64, 2026-11) and the call is refused in many sandboxes.
//!
//! **Invariants.** Slots are made in chunks that are never freed, and a slot is claimed for as long as its thread
//! lives. A child made by `fork` inherits the slots of threads it does not have: what they had pinned is kept for ever.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::OnceLock;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// A slot that no thread has.
const FREE: u64 = 0;
/// A slot whose thread has no pin.
const IDLE: u64 = 1;
/// Every state from here on is the epoch of a pin.
const FIRST_EPOCH: u64 = 2;

/// The slots of the first chunk; each further chunk has twice as many.
const FIRST_CHUNK: usize = if cfg!(loom) { 2 } else { 64 };
/// With the doubling this is more slots than Linux allows threads (2^22).
const CHUNK_COUNT: usize = 18;

/// What a thread shows to those who collect. Alone on its cache lines, two of which are fetched at a time.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    /// `FREE`, `IDLE`, or the epoch of the outermost pin.
    state: AtomicU64,
    /// How many pins there are. Only the thread that has the slot touches it.
    depth: AtomicU32,
    /// Whether the thread will pin again. Only the thread that has the slot touches it.
    kept: AtomicBool,
}

impl Slot {
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
    chunks: [OnceLock<Box<[Slot]>>; CHUNK_COUNT],
    /// What dropped limbos had left.
    orphans: OnceLock<Mutex<Garbage>>,
}

/// The number of retirements so far. Alone on its cache lines: every pin reads it.
#[repr(align(128))]
struct Epoch(AtomicU64);

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
        registry.chunks[0].get_or_init(|| (0..FIRST_CHUNK).map(|_| Slot::new()).collect());
        registry
    }

    const fn starting_with(epoch: AtomicU64) -> Self {
        let chunks = [const { OnceLock::new() }; CHUNK_COUNT];
        Self { epoch: Epoch(epoch), chunks, orphans: OnceLock::new() }
    }

    /// Claims a slot for the calling thread, making one if all are taken.
    fn claim(&'static self, kept: bool) -> &'static Slot {
        self.chunks
            .iter()
            .enumerate()
            .flat_map(|(nth, chunk)| {
                chunk.get_or_init(|| (0..FIRST_CHUNK << nth).map(|_| Slot::new()).collect())
            })
            .find(|slot| slot.claim(kept))
            .expect("there are more slots than a system allows threads")
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        // A chunk that is made during the walk may be missed. That is the first case of the argument above: making it
        // is part of R2, and not seeing it puts W3 before R3.
        self.chunks.iter().map_while(|chunk| chunk.get()).flat_map(|chunk| chunk.iter())
    }

    /// The epochs of all pins.
    fn pinned(&self) -> impl Iterator<Item = u64> {
        // Acquire: W4, pairs with the releases in `pin_on` and `leave`.
        self.slots().map(|slot| slot.state.load(Ordering::Acquire)).filter(|&state| state >= FIRST_EPOCH)
    }

    fn pin_on(&self, slot: &'static Slot) -> Pin {
        // Relaxed, both: only this thread touches it.
        let depth = slot.depth.load(Ordering::Relaxed);
        slot.depth.store(depth + 1, Ordering::Relaxed);
        if depth == 0 {
            // R1. Relaxed: the fence below makes it acquire from the release in `retire`.
            let epoch = self.epoch.0.load(Ordering::Relaxed);
            // R2: pairs with the acquire in `pinned`.
            slot.state.store(epoch, Ordering::Release);
            // R3: pairs with the fence in `expired`, and with the release in `retire`.
            fence(Ordering::SeqCst);
        }
        Pin { slot, not_send: PhantomData }
    }

    /// Takes out what no pin can see. `garbage` must be what a mutex guards (W1 and W2 before W3).
    fn expired(&self, garbage: &mut Garbage) -> Vec<Box<dyn Send>> {
        if garbage.is_empty() {
            return Vec::new();
        }
        // W3: pairs with the fence in `pin_on`.
        fence(Ordering::SeqCst);
        let oldest = self.pinned().min().unwrap_or(u64::MAX);
        // In the order of their tags, which were drawn with the mutex held or sorted.
        let count = garbage.partition_point(|&(tag, _)| tag < oldest);
        garbage.drain(..count).map(|(_, item)| item).collect()
    }

    fn collect(&self, garbage: &Mutex<Garbage>) -> usize {
        let expired = self.expired(&mut garbage.lock());
        // Dropped with no lock held: a destructor may retire and collect in turn.
        expired.len()
    }

    fn statistics(&self) -> Pins {
        // Relaxed: a statistic; it orders nothing.
        let epoch = self.epoch.0.load(Ordering::Relaxed);
        let (mut active, mut oldest) = (0, epoch);
        for pinned in self.pinned() {
            active += 1;
            oldest = oldest.min(pinned);
        }
        Pins { active, oldest_age: epoch - oldest }
    }
}

/// A thread's claim to a slot.
struct Local {
    registry: &'static Registry,
    slot: &'static Slot,
}

impl Local {
    fn new(registry: &'static Registry) -> Self {
        Self { registry, slot: registry.claim(true) }
    }

    fn pin(&self) -> Pin {
        self.registry.pin_on(self.slot)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.slot.give_up();
    }
}

/// Keeps everything alive that was reachable when it was made, in every store of the process.
#[must_use = "a pin that is dropped at once protects nothing"]
pub(crate) struct Pin {
    slot: &'static Slot,
    /// The slot belongs to the thread, so the pin must stay there.
    not_send: PhantomData<*const ()>,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: the thread's own last store.
        f.debug_struct("Pin").field("epoch", &self.slot.state.load(Ordering::Relaxed)).finish()
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

/// Pins the calling thread. Pins nest; the first of a thread costs a fence, the others a counter.
pub(crate) fn pin() -> Pin {
    // While the thread's storage is being destroyed a pin gets a slot of its own, which goes with it.
    LOCAL.try_with(Local::pin).unwrap_or_else(|_| process().pin_on(process().claim(false)))
}

/// The pins of the process.
pub(crate) fn pins() -> Pins {
    process().statistics()
}

/// How many pins there are, and how far they lie back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Threads that are pinned.
    pub(crate) active: usize,
    /// Retirements in the process since the oldest pin was taken.
    pub(crate) oldest_age: u64,
}

/// What a store has unlinked and some reader may still see.
///
/// Dropping it drops what no pin can see and leaves the rest to whichever limbo of the process collects next.
pub(crate) struct Limbo {
    registry: &'static Registry,
    garbage: Mutex<Garbage>,
}

impl Limbo {
    /// Starts empty, under the pins of the process.
    pub(crate) fn new() -> Self {
        Self::under(process())
    }

    fn under(registry: &'static Registry) -> Self {
        Self { registry, garbage: Mutex::new(Garbage::new()) }
    }

    /// Takes what the caller has made unreachable for readers that pin from now on.
    ///
    /// It is dropped by a later `collect`, on the thread that calls it.
    pub(crate) fn retire(&self, garbage: impl Send + 'static) {
        let garbage: Box<dyn Send> = Box::new(garbage);
        let mut held = self.garbage.lock();
        // W2: pairs with the fence in `pin_on`, R3.
        let tag = self.registry.epoch.0.fetch_add(1, Ordering::Release);
        held.push_back((tag, garbage));
    }

    /// Drops everything that no pin taken before its retirement can see, and returns how many pieces that were.
    pub(crate) fn collect(&self) -> usize {
        let orphans = self.registry.orphans.get().map_or(0, |orphans| self.registry.collect(orphans));
        orphans + self.registry.collect(&self.garbage)
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
        let mut left = mem::take(&mut *self.garbage.lock());
        if !left.is_empty() {
            let orphans = self.registry.orphans.get_or_init(|| Mutex::new(Garbage::new()));
            let mut orphans = orphans.lock();
            orphans.append(&mut left);
            orphans.make_contiguous().sort_unstable_by_key(|&(tag, _)| tag);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::cell::RefCell;
    use std::sync::{Arc, Barrier, mpsc};
    use std::thread;

    use super::*;

    /// Registries of the tests' own, since other tests pin the process's.
    fn registry() -> &'static Registry {
        Box::leak(Box::new(Registry::new()))
    }

    /// Garbage that can be asked whether it is still there.
    fn garbage() -> (Arc<()>, impl Fn() -> bool) {
        let garbage = Arc::new(());
        let weak = Arc::downgrade(&garbage);
        (garbage, move || weak.strong_count() > 0)
    }

    #[test]
    fn a_pin_taken_before_keeps_garbage_and_its_end_lets_it_go_at_once() {
        let registry = registry();
        let (local, limbo) = (Local::new(registry), Limbo::under(registry));
        let (item, is_alive) = garbage();
        let pin = local.pin();
        limbo.retire(item);
        assert_eq!((limbo.collect(), limbo.len()), (0, 1));
        assert!(is_alive());
        drop(pin);
        assert_eq!((limbo.collect(), limbo.len()), (1, 0));
        assert!(!is_alive());
    }

    #[test]
    fn without_pins_garbage_goes_at_once() {
        let limbo = Limbo::under(registry());
        let (item, is_alive) = garbage();
        limbo.retire(item);
        assert!(is_alive(), "only a collect drops");
        assert_eq!(limbo.collect(), 1);
        assert!(!is_alive());
        assert_eq!(limbo.collect(), 0);
    }

    #[test]
    fn a_pin_taken_after_the_retirement_keeps_nothing() {
        let registry = registry();
        let (local, limbo) = (Local::new(registry), Limbo::under(registry));
        limbo.retire(());
        let pin = local.pin();
        limbo.retire(());
        assert_eq!((limbo.collect(), limbo.len()), (1, 1));
        drop(pin);
        assert_eq!(limbo.collect(), 1);
    }

    #[test]
    fn nested_pins_protect_from_the_first_to_the_last() {
        let registry = registry();
        let (local, limbo) = (Local::new(registry), Limbo::under(registry));
        let outer = local.pin();
        limbo.retire(());
        let inner = local.pin();
        assert_eq!(registry.statistics(), Pins { active: 1, oldest_age: 1 });
        drop(outer);
        assert_eq!(limbo.collect(), 0, "the last pin to go counts, not the first to come");
        drop(inner);
        assert_eq!(limbo.collect(), 1);
    }

    #[test]
    fn statistics_tell_how_many_pins_there_are_and_how_old() {
        let registry = registry();
        let (first, second) = (Local::new(registry), Local::new(registry));
        let limbo = Limbo::under(registry);
        assert_eq!(registry.statistics(), Pins { active: 0, oldest_age: 0 });
        let old = first.pin();
        (0..3).for_each(limbo_retire(&limbo));
        let young = second.pin();
        assert_eq!(registry.statistics(), Pins { active: 2, oldest_age: 3 });
        drop(old);
        assert_eq!(registry.statistics(), Pins { active: 1, oldest_age: 0 });
        drop(young);
    }

    fn limbo_retire(limbo: &Limbo) -> impl Fn(u32) {
        |item| limbo.retire(item)
    }

    #[test]
    fn a_thread_that_ends_gives_its_slot_back() {
        let registry = registry();
        for _ in 0..10 * FIRST_CHUNK {
            thread::spawn(|| drop(Local::new(registry).pin())).join().unwrap();
        }
        assert_eq!(registry.slots().count(), FIRST_CHUNK, "slots are reused");
        assert!(registry.slots().all(|slot| slot.state.load(Ordering::SeqCst) == FREE));
    }

    #[test]
    fn more_threads_than_a_chunk_has_slots_are_all_seen() {
        let registry = registry();
        let locals: Vec<_> = (0..5 * FIRST_CHUNK).map(|_| Local::new(registry)).collect();
        let mut pins: Vec<_> = locals.iter().map(Local::pin).collect();
        let limbo = Limbo::under(registry);
        limbo.retire(());
        let last = pins.pop();
        drop(pins);
        assert_eq!(limbo.collect(), 0, "the pin in the last chunk counts");
        drop(last);
        assert_eq!(limbo.collect(), 1);
    }

    #[test]
    fn a_pin_that_outlives_its_threads_claim_still_protects() {
        let registry = registry();
        let local = Local::new(registry);
        let limbo = Limbo::under(registry);
        let pin = local.pin();
        drop(local);
        limbo.retire(());
        assert_eq!(limbo.collect(), 0);
        drop(pin);
        assert_eq!(limbo.collect(), 1);
        assert!(registry.slots().all(|slot| slot.state.load(Ordering::SeqCst) == FREE));
    }

    #[test]
    fn a_pin_can_be_taken_while_the_threads_storage_is_destroyed() {
        struct PinsAtExit(mpsc::Sender<bool>);
        impl Drop for PinsAtExit {
            fn drop(&mut self) {
                let pin = pin();
                self.0.send(pin.slot.state.load(Ordering::SeqCst) >= FIRST_EPOCH).unwrap();
            }
        }
        thread_local!(static AT_EXIT: RefCell<Vec<PinsAtExit>> = const { RefCell::new(Vec::new()) });
        let (send, receive) = mpsc::channel();
        // Storage is destroyed in an order that is not promised: one is set up before the slot is, one after.
        for before in [true, false] {
            let send = send.clone();
            thread::spawn(move || {
                let first = (!before).then(pin);
                AT_EXIT.with_borrow_mut(|at_exit| at_exit.push(PinsAtExit(send)));
                drop((first, pin()));
            })
            .join()
            .unwrap();
            assert!(receive.recv().unwrap());
        }
    }

    #[test]
    fn what_a_dropped_limbo_leaves_goes_to_the_next_that_collects() {
        let registry = registry();
        let (local, limbo) = (Local::new(registry), Limbo::under(registry));
        let (item, is_alive) = garbage();
        let pin = local.pin();
        limbo.retire(item);
        drop(limbo);
        assert!(is_alive(), "the pin outlives the store");
        let other = Limbo::under(registry);
        assert_eq!(other.collect(), 0);
        drop(pin);
        assert_eq!(other.collect(), 1);
        assert!(!is_alive());
    }

    #[test]
    fn a_destructor_may_retire_and_collect() {
        struct Chain(Arc<Limbo>, u32);
        impl Drop for Chain {
            fn drop(&mut self) {
                if let Some(left) = self.1.checked_sub(1) {
                    self.0.retire(Self(Arc::clone(&self.0), left));
                    self.0.collect();
                }
            }
        }
        let limbo = Arc::new(Limbo::under(registry()));
        limbo.retire(Chain(Arc::clone(&limbo), 10));
        limbo.collect();
        assert_eq!(limbo.len(), 0);
    }

    #[test]
    fn readers_never_see_what_was_dropped() {
        const READERS: usize = 4;
        const ROUNDS: u64 = 20_000;
        /// Marks its place in the table as gone.
        struct Entry(Arc<Vec<AtomicBool>>, usize);
        impl Drop for Entry {
            fn drop(&mut self) {
                self.0[self.1].store(true, Ordering::Relaxed);
            }
        }
        let registry = registry();
        let gone: Arc<Vec<_>> = Arc::new((0..=ROUNDS).map(|_| AtomicBool::new(false)).collect());
        let current = AtomicU64::new(0);
        let start = Barrier::new(READERS + 1);
        let limbo = Limbo::under(registry);
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    let local = Local::new(registry);
                    start.wait();
                    let mut seen = 0;
                    while seen < ROUNDS {
                        let pin = local.pin();
                        seen = current.load(Ordering::Acquire);
                        assert!(!gone[usize::try_from(seen).unwrap()].load(Ordering::Relaxed));
                        drop(pin);
                    }
                });
            }
            start.wait();
            for round in 0..ROUNDS {
                current.store(round + 1, Ordering::Release);
                limbo.retire(Entry(Arc::clone(&gone), usize::try_from(round).unwrap()));
                limbo.collect();
            }
        });
        limbo.collect();
        assert_eq!(limbo.len(), 0);
        assert_eq!(gone.iter().filter(|gone| gone.load(Ordering::Relaxed)).count(), gone.len() - 1);
    }

    #[test]
    fn the_process_counts_this_threads_pin() {
        let pin = pin();
        assert!(pins().active >= 1);
        drop(pin);
        let limbo = Limbo::new();
        limbo.retire(());
        // Other tests may pin at this moment; what is theirs to keep goes when the next limbo collects.
        limbo.collect();
        drop(limbo);
    }
}

#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "the model's cells are shared as the index shares its tables")]
mod loom_models {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::AtomicUsize;

    use super::*;
    use crate::sync::thread;

    fn registry() -> &'static Registry {
        Box::leak(Box::new(Registry::new()))
    }

    /// Two versions of an object, and which is linked. loom reports a read of a cell that its drop does not follow.
    struct Object {
        linked: AtomicUsize,
        versions: [UnsafeCell<()>; 3],
    }

    // SAFETY: the cells hold nothing and are never dereferenced; loom checks that accesses are ordered.
    unsafe impl Send for Object {}
    // SAFETY: as above.
    unsafe impl Sync for Object {}

    impl Object {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                linked: AtomicUsize::new(0),
                versions: [UnsafeCell::new(()), UnsafeCell::new(()), UnsafeCell::new(())],
            })
        }

        /// Reads the linked version, as a reader under a pin does. Returns which it was.
        fn read(&self) -> usize {
            let linked = self.linked.load(Ordering::Acquire);
            self.versions[linked].with(|_| ());
            linked
        }
    }

    struct Version(Arc<Object>, usize);

    impl Drop for Version {
        fn drop(&mut self) {
            self.0.versions[self.1].with_mut(|_| ());
            // Reading it from now on is a failure, also where loom sees an order: no pin may find it.
            assert_ne!(self.0.linked.load(Ordering::Relaxed), self.1);
        }
    }

    fn relink(object: &Arc<Object>, limbo: &Limbo, to: usize) {
        object.linked.store(to, Ordering::Release);
        limbo.retire(Version(Arc::clone(object), to - 1));
    }

    #[test]
    fn loom_a_pinned_reader_never_sees_what_collect_drops() {
        loom::model(|| {
            let registry = registry();
            let (object, limbo) = (Object::new(), Limbo::under(registry));
            let local = Local::new(registry);
            let reader = {
                let object = Arc::clone(&object);
                thread::spawn(move || {
                    let pin = local.pin();
                    let first = object.read();
                    assert!(object.read() >= first);
                    drop(pin);
                })
            };
            relink(&object, &limbo, 1);
            limbo.collect();
            reader.join().unwrap();
            limbo.collect();
            assert_eq!(limbo.len(), 0);
        });
    }

    #[test]
    fn loom_a_reader_that_pins_again_and_nests_is_safe() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let registry = registry();
            let (object, limbo) = (Object::new(), Limbo::under(registry));
            let local = Local::new(registry);
            let reader = {
                let object = Arc::clone(&object);
                thread::spawn(move || {
                    for _ in 0..2 {
                        let outer = local.pin();
                        let inner = local.pin();
                        drop(outer);
                        object.read();
                        drop(inner);
                    }
                })
            };
            relink(&object, &limbo, 1);
            limbo.collect();
            relink(&object, &limbo, 2);
            limbo.collect();
            reader.join().unwrap();
        });
    }

    #[test]
    fn loom_the_processes_pins_and_limbos_are_safe_too() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let (object, limbo) = (Object::new(), Limbo::new());
            let reader = {
                let object = Arc::clone(&object);
                thread::spawn(move || {
                    let pin = pin();
                    object.read();
                    drop(pin);
                })
            };
            relink(&object, &limbo, 1);
            limbo.collect();
            reader.join().unwrap();
            limbo.collect();
            assert_eq!((limbo.len(), pins().active), (0, 0));
        });
    }

    #[test]
    fn loom_garbage_retired_on_one_thread_is_collected_on_another() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let registry = registry();
            let (object, limbo) = (Object::new(), Arc::new(Limbo::under(registry)));
            let local = Local::new(registry);
            let reader = {
                let object = Arc::clone(&object);
                thread::spawn(move || {
                    let pin = local.pin();
                    object.read();
                    drop(pin);
                    // The slot changes hands here, which must not hide that the pin was left.
                })
            };
            let writer = {
                let (object, limbo) = (Arc::clone(&object), Arc::clone(&limbo));
                thread::spawn(move || relink(&object, &limbo, 1))
            };
            limbo.collect();
            reader.join().unwrap();
            writer.join().unwrap();
        });
    }
}
