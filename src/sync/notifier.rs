//! How a writer calls whoever does its store's work in the background, at the price of one load while that is awake.
//!
//! **Concurrency.** `helper` says why relaxed loads suffice: the writer mutex lies between the two sides.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::worker::Post;

/// Has one store looked at when it is idle.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    idle: AtomicBool,
    post: OnceLock<Post>,
}

impl Bell {
    /// Calls the helper if it is idle; whether it was. Called after the writer mutex was held, and without it.
    #[inline]
    pub(crate) fn ring(&self) -> bool {
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
    pub(crate) fn hang(&self, post: Post) {
        // A store is attached once, when it is opened.
        drop(self.post.set(post));
    }

    /// Whether nobody does the store's work but its writers.
    pub(crate) fn is_unattended(&self) -> bool {
        self.post.get().is_none()
    }

    /// Ends the background's work for this store; nothing of it runs when this returns.
    pub(crate) fn take_down(&self) {
        if let Some(post) = self.post.get() {
            post.leave();
        }
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

    /// Whether the helper is idle: nobody has rung since it lay down.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: asked with the queue locked, which whoever rings locks afterwards.
        self.idle.load(Ordering::Relaxed)
    }
}
