//! Wakes the worker of a store. A writer pays one load while the worker is busy.
//!
//! **Concurrency.** `maintenance_task` explains why relaxed operations suffice: the writer mutex orders
//! the two sides.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::worker::TaskHandle;

/// The wake-up of one store's idle worker.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    idle: AtomicBool,
    post: OnceLock<TaskHandle>,
}

impl Notifier {
    /// Wakes the worker if it is idle, and returns true if it was. Called after the writer mutex
    /// was held, and without it.
    #[inline]
    pub(crate) fn notify(&self) -> bool {
        // Relaxed, both: ordered by the writer mutex, and for a worker that is about to go idle by
        // the queue's mutex.
        if !self.idle.load(Ordering::Relaxed) || !self.idle.swap(false, Ordering::Relaxed) {
            return false;
        }
        if let Some(post) = self.post.get() {
            post.call();
        }
        true
    }

    /// Attaches the task that is woken. Called once, before the store has a writer.
    pub(crate) fn attach_to(&self, post: TaskHandle) {
        // A store is attached once, when it is opened.
        drop(self.post.set(post));
    }

    /// True if only its writers do the store's work.
    pub(crate) fn has_no_worker(&self) -> bool {
        self.post.get().is_none()
    }

    /// Ends the background work for this store; none of it runs after this returns.
    pub(crate) fn detach(&self) {
        if let Some(post) = self.post.get() {
            post.leave();
        }
    }

    /// Marks the worker as idle.
    pub(crate) fn set_idle(&self) {
        // Relaxed: ordered by the writer mutex, which the worker takes next.
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Marks the worker as busy.
    pub(crate) fn set_busy(&self) {
        // Relaxed: a wake-up in the meantime has the same effect.
        self.idle.store(false, Ordering::Relaxed);
    }

    /// True if the worker is idle and was not woken since it went idle.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: read with the queue locked, and a thread that wakes the worker locks the queue
        // afterwards.
        self.idle.load(Ordering::Relaxed)
    }
}
