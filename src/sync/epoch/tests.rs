//! Tests of pins and limbos.

use std::cell::RefCell;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use super::*;

/// Makes a registry of the test's own, because other tests pin the process's.
fn registry() -> &'static Registry {
    Box::leak(Box::new(Registry::new()))
}

/// Makes garbage, and a function that is true while it is not dropped.
fn garbage() -> (Arc<()>, impl Fn() -> bool) {
    let garbage = Arc::new(());
    let weak = Arc::downgrade(&garbage);
    (garbage, move || weak.strong_count() > 0)
}

fn active_and_age(store: Domain) -> (usize, u64) {
    let Pins { active, oldest_age, .. } = store.pins();
    (active, oldest_age)
}

#[test]
fn earlier_pin_keeps_garbage_until_it_is_dropped() {
    let registry = registry();
    let store = Domain::under(registry);
    let (local, limbo) = (Local::new(registry), Limbo::new(store));
    let (item, is_alive) = garbage();
    let pin = local.pin(store.store);
    limbo.retire(item);
    assert_eq!((limbo.collect(), limbo.len()), (0, 1));
    assert!(is_alive());
    drop(pin);
    assert_eq!((limbo.collect(), limbo.len()), (1, 0));
    assert!(!is_alive());
}

#[test]
fn garbage_is_dropped_at_once_without_pins() {
    let limbo = Limbo::new(Domain::under(registry()));
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
    let store = Domain::under(registry);
    let (local, limbo) = (Local::new(registry), Limbo::new(store));
    limbo.retire(());
    let pin = local.pin(store.store);
    limbo.retire(());
    assert_eq!((limbo.collect(), limbo.len()), (1, 1));
    drop(pin);
    assert_eq!(limbo.collect(), 1);
}

#[test]
fn nested_pins_protect_from_the_first_to_the_last() {
    let registry = registry();
    let store = Domain::under(registry);
    let (local, limbo) = (Local::new(registry), Limbo::new(store));
    let outer = local.pin(store.store);
    limbo.retire(());
    let inner = local.pin(store.store);
    assert_eq!(active_and_age(store), (1, 1));
    drop(outer);
    assert_eq!(limbo.collect(), 0, "the last pin to go counts, not the first to come");
    drop(inner);
    assert_eq!(limbo.collect(), 1);
}

#[test]
fn statistics_tell_how_many_pins_there_are_and_how_old() {
    let registry = registry();
    let store = Domain::under(registry);
    let (first, second) = (Local::new(registry), Local::new(registry));
    let limbo = Limbo::new(store);
    assert_eq!(active_and_age(store), (0, 0));
    let old = first.pin(store.store);
    (0..3).for_each(limbo_retire(&limbo));
    let young = second.pin(store.store);
    assert_eq!(active_and_age(store), (2, 3));
    drop(old);
    assert_eq!(active_and_age(store), (1, 0));
    drop(young);
}

fn limbo_retire(limbo: &Limbo) -> impl Fn(u32) {
    |item| limbo.retire(item)
}

#[test]
fn a_thread_that_ends_gives_its_slot_back() {
    let registry = registry();
    let store = Domain::under(registry);
    for _ in 0..10 * FIRST_CHUNK {
        thread::spawn(move || drop(Local::new(registry).pin(store.store))).join().unwrap();
    }
    assert_eq!(registry.slots().count(), FIRST_CHUNK, "slots are reused");
    assert!(registry.slots().all(|slot| slot.state.load(Ordering::SeqCst) == FREE));
}

#[test]
fn more_threads_than_a_chunk_has_slots_are_all_seen() {
    let registry = registry();
    let store = Domain::under(registry);
    let locals: Vec<_> = (0..5 * FIRST_CHUNK).map(|_| Local::new(registry)).collect();
    let mut pins: Vec<_> = locals.iter().map(|local| local.pin(store.store)).collect();
    let limbo = Limbo::new(store);
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
    let store = Domain::under(registry);
    let local = Local::new(registry);
    let limbo = Limbo::new(store);
    let pin = local.pin(store.store);
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
            let pin = Domain::new().pin();
            self.0.send(pin.slot.state.load(Ordering::SeqCst) >= FIRST_EPOCH).unwrap();
        }
    }
    thread_local!(static AT_EXIT: RefCell<Vec<PinsAtExit>> = const { RefCell::new(Vec::new()) });
    let (send, receive) = mpsc::channel();
    // Thread storage is destroyed in no promised order: one is set up before the slot, one after
    // it.
    for before in [true, false] {
        let send = send.clone();
        thread::spawn(move || {
            let first = (!before).then(|| Domain::new().pin());
            AT_EXIT.with_borrow_mut(|at_exit| at_exit.push(PinsAtExit(send)));
            drop((first, Domain::new().pin()));
        })
        .join()
        .unwrap();
        assert!(receive.recv().unwrap());
    }
}

#[test]
fn next_collection_drops_garbage_of_a_dropped_limbo() {
    let registry = registry();
    let store = Domain::under(registry);
    let (local, limbo) = (Local::new(registry), Limbo::new(store));
    let (item, is_alive) = garbage();
    let pin = local.pin(store.store);
    limbo.retire(item);
    drop(limbo);
    assert!(is_alive(), "the pin outlives the store");
    let other = Limbo::new(store);
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
    let limbo = Arc::new(Limbo::new(Domain::under(registry())));
    limbo.retire(Chain(Arc::clone(&limbo), 10));
    limbo.collect();
    assert_eq!(limbo.len(), 0);
}

#[test]
fn readers_never_see_what_was_dropped() {
    const READERS: usize = 4;
    const ROUNDS: u64 = 20_000;
    /// Marks its entry in the table as dropped.
    struct Entry(Arc<Vec<AtomicBool>>, usize);
    impl Drop for Entry {
        fn drop(&mut self) {
            self.0[self.1].store(true, Ordering::Relaxed);
        }
    }
    let registry = registry();
    let store = Domain::under(registry);
    let gone: Arc<Vec<_>> = Arc::new((0..=ROUNDS).map(|_| AtomicBool::new(false)).collect());
    let current = AtomicU64::new(0);
    let start = Barrier::new(READERS + 1);
    let limbo = Limbo::new(store);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let local = Local::new(registry);
                start.wait();
                let mut seen = 0;
                while seen < ROUNDS {
                    let pin = local.pin(store.store);
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
fn a_store_counts_its_own_pins() {
    let [here, elsewhere] = [Domain::new(), Domain::new()];
    let pin = here.pin();
    assert_eq!((here.pins().active, elsewhere.pins().active), (1, 0));
    let limbo = Limbo::new(elsewhere);
    limbo.retire(());
    assert_eq!(limbo.collect(), 1);
    drop(pin);
    assert_eq!(here.pins().active, 0);
}

#[test]
fn a_pin_of_one_store_keeps_nothing_of_another() {
    let registry = registry();
    let [first, second] = [Domain::under(registry), Domain::under(registry)];
    let local = Local::new(registry);
    let limbo = Limbo::new(second);
    // Pins one of the two first, and for long, in either order.
    let long = local.pin(first.store);
    let short = local.pin(second.store);
    limbo.retire(());
    assert_eq!(limbo.collect(), 0, "a pin inside of another store's protects");
    drop(short);
    assert_eq!(limbo.collect(), 1, "the other store's pin does not");
    let short = local.pin(second.store);
    drop((long, short));
    let long = local.hold(first.store);
    limbo.retire(());
    assert_eq!(limbo.collect(), 1);
    drop(long);
    assert_eq!(registry.slots().filter(|slot| slot.state.load(Ordering::SeqCst) == IDLE).count(), 2);
}

#[test]
fn held_pins_that_overlap_for_ever_keep_what_each_can_see() {
    let registry = registry();
    let store = Domain::under(registry);
    let (local, limbo) = (Local::new(registry), Limbo::new(store));
    let mut held = local.hold(store.store);
    for _ in 0..10 {
        limbo.retire(());
        assert_eq!(limbo.collect(), 0);
        // The next pin is taken before this one is dropped.
        held = local.hold(store.store);
        assert_eq!(limbo.collect(), 1);
    }
    limbo.retire(());
    let read = local.pin(store.store);
    store.renew(&mut held);
    assert_eq!(limbo.collect(), 1, "what was held was let go of");
    limbo.retire(());
    drop(read);
    assert_eq!(limbo.collect(), 0, "the new pin holds");
    drop(held);
    assert_eq!(limbo.collect(), 1);
}

#[test]
fn orphaned_garbage_waits_only_for_pins_of_its_store() {
    let registry = registry();
    let [gone, other] = [Domain::under(registry), Domain::under(registry)];
    let local = Local::new(registry);
    let pin = local.hold(gone.store);
    let limbo = Limbo::new(gone);
    limbo.retire(());
    drop(limbo);
    let later = local.hold(other.store);
    let limbo = Limbo::new(other);
    assert_eq!(limbo.collect(), 0);
    drop(pin);
    assert_eq!(limbo.collect(), 1, "though the other store is pinned");
    drop(later);
}

#[test]
#[should_panic = "a pin of one store does not protect"]
fn a_pin_is_refused_where_it_does_not_protect() {
    let limbo = Limbo::new(Domain::new());
    limbo.covers(&Domain::new().pin());
}
