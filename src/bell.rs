//! How a writer calls the helper thread, at the price of one load while it is awake.
//!
//! **Concurrency.** `helper` says why relaxed loads suffice: the writer mutex lies between the two sides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use parking_lot::Mutex;

/// Wakes one thread when it is idle.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    idle: AtomicBool,
    stopped: AtomicBool,
    listener: Mutex<Option<Thread>>,
}

impl Bell {
    /// Wakes the helper if it is idle; whether it was. Called after the writer mutex was held, and without it.
    #[inline]
    pub(crate) fn ring(&self) -> bool {
        // Relaxed, both: ordered by the writer mutex.
        if !self.idle.load(Ordering::Relaxed) || !self.idle.swap(false, Ordering::Relaxed) {
            return false;
        }
        if let Some(thread) = &*self.listener.lock() {
            thread.unpark();
        }
        true
    }

    /// Makes the calling thread the one that is woken.
    pub(crate) fn hang(&self) {
        *self.listener.lock() = Some(thread::current());
    }

    /// Says that the helper is idle from now on.
    pub(crate) fn lie_down(&self) {
        // Relaxed: ordered by the writer mutex, which the helper takes next.
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Takes that back.
    pub(crate) fn get_up(&self) {
        // Relaxed: a ring meanwhile is as good.
        self.idle.store(false, Ordering::Relaxed);
    }

    /// Parks until somebody rings, or the helper is to stop.
    pub(crate) fn listen(&self) {
        // Relaxed: `unpark` synchronises with the return of `park`.
        while self.idle.load(Ordering::Relaxed) && !self.is_stopped() {
            thread::park();
        }
    }

    /// Says that the helper is to stop; the caller unparks it.
    pub(crate) fn stop(&self) {
        // Relaxed: nothing is read because of it.
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the helper is to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        // Relaxed: nothing is read because of it.
        self.stopped.load(Ordering::Relaxed)
    }
}
