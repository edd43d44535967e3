//! The worker's task for one store: it runs the engine's steps, and rests when there is no work.
//!
//! **Concurrency.** While writes go on, the worker checks every millisecond by itself, so writers
//! need not call it. After a while without movement it sets the notifier to idle and sleeps. A
//! writer that leaves work for it checks that flag after its own time under the writer mutex. The
//! worker takes that mutex once between setting the flag and its last check for work. So either the
//! writer came before, and its work is found, or it comes after, and finds the flag set.
//!
//! Each store has its own mutex, so this holds for each store, whatever other stores the thread
//! serves. The worker only tries to lock it. If a writer has it, the store is not idle, and the
//! other stores need not wait for that writer. An idle store causes no wake-ups.
//!
//! A panic in a step poisons the store. It neither ends the process nor is lost.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mem::page_guard::guard_this_thread;
use crate::sync::sleep_word::SleepWord;
use crate::sync::worker::{Background, Poll, Task};
use crate::trace;

/// The time between two checks while writes go on.
const REST: Duration = Duration::from_millis(1);
/// The pause after a failure, so that a full disk is not tried again and again.
const PAUSE: Duration = Duration::from_millis(20);
/// The time between two checks for work that no notification announces.
const LOOK: Duration = Duration::from_millis(100);
/// The number of checks without movement after which it is idle.
const QUIET: u32 = 50;

/// Starts the worker on a store, until its notifier is detached.
///
/// # Errors
///
/// Returns an error if the process may have no more threads, or the worker was inherited through
/// `fork`.
pub(crate) fn start(engine: &Arc<Engine>, background: &Background) -> Result<()> {
    let offset = engine.allocator.offset();
    let task = MaintenanceTask { engine: Arc::clone(engine), offset, quiet: 0, failed: false };
    let word = engine.syncer.control.worker_word().map(|word| word as Arc<dyn SleepWord>);
    let path = engine.shared.dir.path();
    if let Some(post) = background.attach(Box::new(task), word, guard_this_thread, path)? {
        engine.notifier.attach_to(post);
    }
    Ok(())
}

/// One store, as the worker sees it.
#[derive(Debug)]
struct MaintenanceTask {
    engine: Arc<Engine>,
    /// The writer's offset at the last check.
    offset: u64,
    /// The number of checks since the last movement.
    quiet: u32,
    /// True if the last step failed.
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
                // The writer that needs the failed work will get the same error and report it.
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
    /// Sleeps until a notification, or until the next sync is due.
    fn set_idle(&mut self) -> Poll {
        let engine = &*self.engine;
        let sound = engine.shared.commit.check().is_ok();
        if let Some(due) = engine.syncer.due(engine).filter(|_| sound) {
            // No notification comes meanwhile, and a writer may need pages before the sync is due.
            return Poll::After(due.min(LOOK));
        }
        if let Some(due) = engine.compactor.due(engine).filter(|_| sound) {
            return Poll::After(due.min(LOOK));
        }
        if engine.waiting_open.is_waiting() && sound {
            // It failed, perhaps for a lack of descriptors. The next step tries again.
            return Poll::After(LOOK);
        }
        if engine.catalog.has_retired() || engine.collect_removed() > 0 {
            // Readers do not announce their end.
            return Poll::After(LOOK);
        }
        engine.notifier.set_idle();
        let tried = engine.writer.try_lock().map(drop);
        if tried.is_none() {
            engine.notifier.set_busy();
            return Poll::After(REST);
        }
        self.quiet = 0;
        let is_dirty = engine.syncer.is_dirty(engine) || engine.syncer.control.is_sync_asked();
        if (is_dirty || engine.allocator.offset() != self.offset) && sound {
            engine.notifier.set_busy();
            return Poll::Again;
        }
        Poll::Asleep
    }
}
