//! What the background does for one store: it runs the engine's steps, and rests when there is nothing to do.
//!
//! **Concurrency.** While writes go on it looks around every millisecond by itself, so that writers need not call it;
//! when nothing has moved for a while it says so (`idle`) and sleeps. A writer that leaves work for it looks at `idle`
//! after its own time under the writer mutex. The helper takes that mutex once between saying so and looking for work
//! a last time: either the writer was there before, and its work is found, or it comes after, and finds `idle` set.
//! The mutex is each store's own, so this holds store by store, whoever else the thread looks after. It is tried only:
//! where a writer has it, the store is not idle, and the other stores need not wait for that writer.
//! An idle store makes no wake-ups.
//!
//! A panic in a step poisons the store; it does not take the process down, and it is not lost.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mem::page_guard::guard_this_thread;
use crate::sync::worker::{Background, Poll, Task};
use crate::trace;

/// How long the helper rests between two looks while writes go on.
const REST: Duration = Duration::from_millis(1);
/// How long it rests after a failure, so that a full disk is not asked again and again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it rests where something is left to do that nobody will call it for.
const LOOK: Duration = Duration::from_millis(100);
/// How many looks without any movement make it idle.
const QUIET: u32 = 50;

/// Has the background look after a store, until its bell is taken down.
///
/// # Errors
///
/// When the process may have no more threads, or the background was inherited through `fork`.
pub(crate) fn start(engine: &Arc<Engine>, background: &Background) -> Result<()> {
    let offset = engine.allocator.offset();
    let helper = MaintenanceTask { engine: Arc::clone(engine), offset, quiet: 0, failed: false };
    if let Some(post) = background.attach(Box::new(helper), guard_this_thread, engine.shared.dir.path())? {
        engine.notifier.attach_to(post);
    }
    Ok(())
}

/// One store, as the background sees it.
#[derive(Debug)]
struct MaintenanceTask {
    engine: Arc<Engine>,
    /// Where the writer was at the last look.
    offset: u64,
    /// Looks since something has moved.
    quiet: u32,
    /// The last step failed.
    failed: bool,
}

impl Task for MaintenanceTask {
    fn tend(&mut self) -> Poll {
        let _events = crate::trace::at_end();
        if !mem::take(&mut self.failed) {
            match self.engine.step() {
                Ok(true) => {
                    self.quiet = 0;
                    return Poll::Again;
                }
                Ok(false) => {}
                // The writer that needs what failed will meet the same error and report it.
                Err(error) => {
                    trace::background_failed(&error);
                    self.failed = true;
                    self.quiet = QUIET;
                    return Poll::After(PAUSE);
                }
            }
        }
        let now = self.engine.allocator.offset();
        self.quiet = if now == self.offset { self.quiet.saturating_add(1) } else { 0 };
        self.offset = now;
        if self.quiet < QUIET {
            return Poll::After(REST);
        }
        match self.engine.rest_step() {
            Ok(true) => Poll::Again,
            Ok(false) => self.set_idle(),
            Err(error) => {
                trace::background_failed(&error);
                self.set_idle()
            }
        }
    }

    fn is_called(&self) -> bool {
        !self.engine.notifier.is_idle()
    }

    fn panicked(&mut self) {
        let _events = crate::trace::at_end();
        trace::background_panicked();
        self.engine.shared.commit.poison(Error::Panicked { operation: "the background" });
    }
}

impl MaintenanceTask {
    /// Sleeps until the bell rings, or the next sync is due.
    fn set_idle(&mut self) -> Poll {
        let engine = &*self.engine;
        let sound = engine.shared.commit.check().is_ok();
        if let Some(due) = engine.syncer.due(engine).filter(|_| sound) {
            // No bell rings meanwhile, and a writer may need pages before the sync is due.
            return Poll::After(due.min(LOOK));
        }
        if let Some(due) = engine.compactor.due(engine).filter(|_| sound) {
            return Poll::After(due.min(LOOK));
        }
        if engine.catalog.has_retired() || engine.collect_removed() > 0 {
            // Readers say nothing when they go.
            return Poll::After(LOOK);
        }
        engine.notifier.set_idle();
        let tried = engine.writer.try_lock().map(drop);
        if tried.is_none() {
            engine.notifier.set_busy();
            return Poll::After(REST);
        }
        self.quiet = 0;
        if (engine.syncer.is_dirty(engine) || engine.allocator.offset() != self.offset) && sound {
            engine.notifier.set_busy();
            return Poll::Again;
        }
        Poll::Asleep
    }
}
