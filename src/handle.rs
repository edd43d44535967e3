//! What all handles to an open store share; dropping the last one closes it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::helper::Helper;

/// The engine and its helper thread.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    helper: Mutex<Option<Helper>>,
}

impl Handle {
    /// Starts the helper, if there is to be one.
    ///
    /// # Errors
    ///
    /// When the process may have no more threads.
    pub(crate) fn start(engine: Engine) -> Result<Self> {
        let engine = Arc::new(engine);
        let helper = if engine.options.background { Some(Helper::start(Arc::clone(&engine))?) } else { None };
        Ok(Self { engine, helper: Mutex::new(helper) })
    }

    /// Closes the store for everybody.
    ///
    /// # Errors
    ///
    /// See [`Store::close`](crate::Store::close).
    pub(crate) fn close(&self) -> Result<()> {
        if self.engine.liveness.is_forked() {
            // The helper thread does not exist in a child; waiting for it would never end.
            return Err(Error::Forked);
        }
        // Not with the lock held: a child that is forked meanwhile would find it locked for ever.
        let helper = self.helper.lock().take();
        if let Some(helper) = helper {
            helper.stop(&self.engine.bell);
        }
        self.engine.close()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.engine.liveness.is_forked() {
            // The threads and the lock are the parent's.
            std::mem::forget(self.helper.get_mut().take());
            return;
        }
        // A failure cannot be reported here; `Store::close` reports it, and the next open recovers.
        drop(self.close());
    }
}
