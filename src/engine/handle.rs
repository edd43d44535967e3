//! The handle that all public handles to an open store share. Dropping the last one closes the
//! store.

use std::fmt;
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::maintenance_task;
use crate::engine::state::State;
use crate::error::{Error, Result};

/// The engine, with its worker, which runs until this is dropped.
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    /// The engine's state: a read reaches it through one pointer less.
    pub(crate) state: Arc<State>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl Handle {
    /// Starts the store's worker, if it has one.
    ///
    /// # Errors
    ///
    /// Returns an error if the process may have no more threads, or the worker was inherited
    /// through `fork`.
    pub(crate) fn start(engine: Engine) -> Result<Self> {
        let engine = Arc::new(engine);
        maintenance_task::start(&engine, &engine.config.background)?;
        let state = Arc::clone(&engine.state);
        Ok(Self { engine, state })
    }

    /// Closes the store for all its handles.
    ///
    /// # Errors
    ///
    /// See [`Store::close`](crate::Store::close).
    pub(crate) fn close(&self) -> Result<()> {
        let _events = crate::trace::at_end();
        if self.engine.fork_guard.is_forked() {
            // The worker's thread does not exist in a child: waiting for it would never end.
            return Err(Error::Forked);
        }
        self.engine.notifier.detach();
        self.engine.close()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.engine.fork_guard.is_forked() {
            // The threads and the lock are the parent's. The engine is never dropped here, since
            // that takes locks that threads of the parent may have held.
            std::mem::forget(Arc::clone(&self.engine));
            return;
        }
        // A failure cannot be reported here. `Store::close` reports it, and the next open recovers.
        drop(self.close());
    }
}
