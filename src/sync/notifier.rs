//! How a writer calls whoever does its store's work in the background, at the price of one load while that is awake.
//!
//! **Concurrency.** `helper` says why relaxed loads suffice: the writer mutex lies between the two sides.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::worker::TaskHandle;

/// Has one store looked at when it is idle.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    idle: AtomicBool,
    post: OnceLock<TaskHandle>,
}

impl Notifier {
    /// Calls the helper if it is idle; whether it was. Called after the writer mutex was held, and without it.
    #[inline]
    pub(crate) fn notify(&self) -> bool {
        // Relaxed, both: ordered by the writer mutex, and for the helper that is just lying down by the queue's.
        if !self.idle.load(Ordering::Relaxed) || !self.idle.swap(false, Ordering::Relaxed) {
            return false;
        }
        if let Some(post) = self.post.get() {
            post.call();
        }
        true
    }

    /// Says who is called. Before the store has a writer, and once.
    pub(crate) fn attach_to(&self, post: TaskHandle) {
        // A store is attached once, when it is opened.
        drop(self.post.set(post));
    }

    /// Whether nobody does the store's work but its writers.
    pub(crate) fn has_no_worker(&self) -> bool {
        self.post.get().is_none()
    }

    /// Ends the background's work for this store; nothing of it runs when this returns.
    pub(crate) fn detach(&self) {
        if let Some(post) = self.post.get() {
            post.leave();
        }
    }

    /// Says that the helper is idle from now on.
    pub(crate) fn set_idle(&self) {
        // Relaxed: ordered by the writer mutex, which the helper takes next.
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Takes that back.
    pub(crate) fn set_busy(&self) {
        // Relaxed: a ring meanwhile is as good.
        self.idle.store(false, Ordering::Relaxed);
    }

    /// Whether the helper is idle: nobody has rung since it lay down.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: asked with the queue locked, which whoever rings locks afterwards.
        self.idle.load(Ordering::Relaxed)
    }
}
