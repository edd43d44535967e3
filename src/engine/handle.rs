//! What all handles to an open store share; dropping the last one closes it.

use std::fmt;
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::state::State;
use crate::engine::worker_task;
use crate::error::{Error, Result};

/// The engine, which the background looks after until this is gone.
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    /// The engine's: a read gets to it by one pointer less.
    pub(crate) state: Arc<State>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl Handle {
    /// Has the background look after the store, if it has one.
    ///
    /// # Errors
    ///
    /// When the process may have no more threads, or the background was inherited through `fork`.
    pub(crate) fn start(engine: Engine) -> Result<Self> {
        let engine = Arc::new(engine);
        worker_task::start(&engine, &engine.config.background)?;
        let state = Arc::clone(&engine.state);
        Ok(Self { engine, state })
    }

    /// Closes the store for everybody.
    ///
    /// # Errors
    ///
    /// See [`Store::close`](crate::Store::close).
    pub(crate) fn close(&self) -> Result<()> {
        let _events = crate::trace::at_end();
        if self.engine.fork_guard.is_forked() {
            // The background's thread does not exist in a child; waiting for it would never end.
            return Err(Error::Forked);
        }
        self.engine.notifier.detach();
        self.engine.close()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.engine.fork_guard.is_forked() {
            // The threads and the lock are the parent's. Nor is the engine ever taken apart here: that takes locks, which
            // threads of the parent may have held.
            std::mem::forget(Arc::clone(&self.engine));
            return;
        }
        // A failure cannot be reported here; `Store::close` reports it, and the next open recovers.
        drop(self.close());
    }
}
