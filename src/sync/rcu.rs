//! An RCU cell: readers follow a pointer under a pin while one writer replaces the value behind it.
//!
//! **Concurrency.** A replaced value goes to the cell's own [`Limbo`] and is dropped once every pin
//! that was taken before is gone (`epoch` has the argument). A reference borrows both the pin and
//! the cell, so it outlives neither.
#![expect(unsafe_code, reason = "this follows a pointer that a pin protects")]

use std::fmt;
use std::ptr;

use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::epoch::{Domain, Limbo, Pin};

/// An optional value that is replaced as a whole.
pub(crate) struct RcuCell<T: Send + Sync + 'static> {
    pointer: AtomicPtr<T>,
    limbo: Limbo,
}

impl<T: Send + Sync + 'static> RcuCell<T> {
    /// Makes an empty cell under the pins of a store.
    pub(crate) fn new(domain: Domain) -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()), limbo: Limbo::new(domain) }
    }

    /// Pins the store for the duration of a read.
    pub(crate) fn pin(&self) -> Pin {
        self.limbo.domain().pin()
    }

    /// Returns the current value; `None` if the cell is empty.
    pub(crate) fn load<'p>(&'p self, pin: &'p Pin) -> Option<&'p T> {
        self.limbo.covers(pin);
        // Acquire: pairs with the release half of the swap in `replace`.
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: the pointer is null, or was made from a `Box` in `replace`. A value that is
        // replaced meanwhile is retired, and not dropped before this pin of the same store (above)
        // is gone. No `&mut` to it exists.
        unsafe { pointer.as_ref() }
    }

    /// Replaces the value and drops earlier values that no pin can see any more.
    pub(crate) fn replace(&self, value: Option<Box<T>>) {
        let new = value.map_or(ptr::null_mut(), Box::into_raw);
        // AcqRel: release pairs with `load`; acquire, so that the thread that drops the old value
        // has seen it whole.
        let old = self.pointer.swap(new, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: made by `Box::into_raw` above in an earlier call, and taken out of the cell
            // by this swap alone.
            self.limbo.retire(unsafe { Box::from_raw(old) });
        }
        self.limbo.collect();
    }

    /// Drops earlier values that no pin can see any more, and returns true if none is left.
    pub(crate) fn collect(&self) -> bool {
        self.limbo.collect();
        self.limbo.len() == 0
    }
}

impl<T: Send + Sync + 'static> Drop for RcuCell<T> {
    fn drop(&mut self) {
        // Relaxed: `&mut self` proves that no other thread has access.
        let pointer = self.pointer.load(Ordering::Relaxed);
        if !pointer.is_null() {
            // SAFETY: made by `Box::into_raw` in `replace`; `&mut self` proves that no reference to
            // it is left.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for RcuCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RcuCell").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_replaced_value_lives_until_the_pin_that_saw_it_is_gone() {
        let cell = RcuCell::new(Domain::new());
        let value = Arc::new(());
        cell.replace(Some(Box::new(Arc::clone(&value))));
        let pinned = cell.pin();
        let seen = cell.load(&pinned).expect("a value");
        cell.replace(None);
        assert_eq!(Arc::strong_count(seen), 2);
        drop(pinned);
        cell.replace(None);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use super::*;
    use crate::sync::atomic::AtomicU64;
    use crate::sync::thread;

    #[test]
    fn loom_a_value_is_whole_for_a_reader_that_finds_it() {
        loom::model(|| {
            let cell = Arc::new(RcuCell::new(Domain::new()));
            let others_cell = Arc::clone(&cell);
            let writer = thread::spawn(move || {
                let value = Box::new(AtomicU64::new(0));
                // Relaxed, here and below: as plain stores into and loads from a value are.
                value.store(1, Ordering::Relaxed);
                others_cell.replace(Some(value));
            });
            let pin = cell.pin();
            if let Some(value) = cell.load(&pin) {
                assert_eq!(value.load(Ordering::Relaxed), 1, "found and not whole");
            }
            drop(pin);
            writer.join().expect("it does not panic");
        });
    }
}
