//! Models of pins and limbos under loom.
#![expect(unsafe_code, reason = "the model's cells are shared as the index shares its tables")]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;

use super::*;
use crate::sync::thread;

fn registry() -> &'static Registry {
    Box::leak(Box::new(Registry::new()))
}

/// An object with three versions, one of which is linked. loom reports a read of a cell that is not
/// ordered before its drop.
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

    /// Reads the linked version, as a reader under a pin does, and returns its number.
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
        // A later read of it is a failure, even if loom sees an order: no pin may find it.
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
        let store = Domain::under(registry);
        let (object, limbo) = (Object::new(), Limbo::new(store));
        let local = Local::new(registry);
        let reader = {
            let object = Arc::clone(&object);
            thread::spawn(move || {
                let pin = local.pin(store.store);
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
        let store = Domain::under(registry);
        let (object, limbo) = (Object::new(), Limbo::new(store));
        let local = Local::new(registry);
        let reader = {
            let object = Arc::clone(&object);
            thread::spawn(move || {
                for _ in 0..2 {
                    let outer = local.pin(store.store);
                    let inner = local.pin(store.store);
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
fn loom_process_wide_pins_protect_garbage() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let store = Domain::new();
        let (object, limbo) = (Object::new(), Limbo::new(store));
        let reader = {
            let object = Arc::clone(&object);
            thread::spawn(move || {
                let pin = store.pin();
                object.read();
                drop(pin);
            })
        };
        relink(&object, &limbo, 1);
        limbo.collect();
        reader.join().unwrap();
        limbo.collect();
        assert_eq!((limbo.len(), store.pins().active), (0, 0));
    });
}

/// Reads one store inside a pin of another, and after it, for every assignment of slots.
#[test]
fn loom_a_read_inside_of_another_stores_pin_is_safe() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let registry = registry();
        let [first, second] = [Domain::under(registry), Domain::under(registry)];
        let (object, limbo) = (Object::new(), Limbo::new(second));
        let local = Local::new(registry);
        let reader = {
            let object = Arc::clone(&object);
            thread::spawn(move || {
                let outer = local.pin(first.store);
                let inner = local.pin(second.store);
                object.read();
                drop(outer);
                object.read();
                drop(inner);
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
fn loom_a_held_pin_that_is_renewed_protects_what_is_found_anew() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let registry = registry();
        let store = Domain::under(registry);
        let (object, limbo) = (Object::new(), Limbo::new(store));
        let local = Local::new(registry);
        let reader = {
            let object = Arc::clone(&object);
            thread::spawn(move || {
                let mut held = local.hold(store.store);
                object.read();
                store.renew(&mut held);
                object.read();
                object.read();
                drop(held);
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
fn loom_garbage_retired_on_one_thread_is_collected_on_another() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let registry = registry();
        let store = Domain::under(registry);
        let (object, limbo) = (Object::new(), Arc::new(Limbo::new(store)));
        let local = Local::new(registry);
        let reader = {
            let object = Arc::clone(&object);
            thread::spawn(move || {
                let pin = local.pin(store.store);
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
