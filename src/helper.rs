//! The store's one helper thread: it runs the engine's steps, and sleeps when there is nothing to do.
//!
//! **Concurrency.** While writes go on it looks around every millisecond by itself, so that writers need not call it;
//! when nothing has moved for a while it says so (`idle`) and parks. A writer that leaves work for it looks at `idle`
//! after its own time under the writer mutex. The helper takes that mutex once between saying so and looking for work
//! a last time: either the writer was there before, and its work is found, or it comes after, and finds `idle` set.
//! An idle store makes no wake-ups.
//!
//! A panic in a step poisons the store; it does not take the process down, and it is not lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::bell::Bell;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::trace;

/// How long the helper rests between two looks while writes go on.
const REST: Duration = Duration::from_millis(1);
/// How long it rests after a failure, so that a full disk is not asked again and again.
const PAUSE: Duration = Duration::from_millis(20);
/// How many looks without any movement make it idle.
const QUIET: u32 = 50;

/// The running helper.
#[derive(Debug)]
pub(crate) struct Helper {
    handle: JoinHandle<()>,
}

impl Helper {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the process may have no more threads.
    pub(crate) fn start(engine: Arc<Engine>) -> Result<Self> {
        let path = engine.shared.dir.path().to_owned();
        let run = move || {
            engine.bell.hang();
            if catch_unwind(AssertUnwindSafe(|| run(&engine))).is_err() {
                trace::helper_panicked();
                engine.shared.commit.poison(Error::Panicked { operation: "the background" });
            }
        };
        let handle = thread::Builder::new().name("mapcask".to_owned()).spawn(run);
        let handle = handle.map_err(|error| Error::io("start the helper thread of", path, error))?;
        Ok(Self { handle })
    }

    /// Stops the thread and waits for it.
    pub(crate) fn stop(self, bell: &Bell) {
        bell.stop();
        self.handle.thread().unpark();
        // A panic was caught, and has poisoned the store.
        drop(self.handle.join());
    }
}

fn run(engine: &Engine) {
    let mut quiet = 0;
    let mut offset = engine.provision.offset();
    while !engine.bell.is_stopped() {
        match engine.step() {
            Ok(true) => {
                quiet = 0;
                continue;
            }
            Ok(false) => {}
            // The writer that needs what failed will meet the same error and report it.
            Err(error) => {
                trace::helper_failed(&error);
                thread::park_timeout(PAUSE);
                quiet = QUIET;
            }
        }
        let now = engine.provision.offset();
        quiet = if now == offset { quiet + 1 } else { 0 };
        offset = now;
        if quiet < QUIET {
            thread::park_timeout(REST);
        } else if sleep(engine, offset) {
            quiet = 0;
        }
    }
}

/// Parks until the bell rings, or the next sync is due; whether there may be work.
fn sleep(engine: &Engine, offset: u64) -> bool {
    let sound = engine.shared.commit.check().is_ok();
    if let Some(due) = engine.due().filter(|_| sound) {
        thread::park_timeout(due);
        return false;
    }
    engine.bell.lie_down();
    drop(engine.writer.lock());
    if (engine.is_dirty() || engine.provision.offset() != offset) && sound {
        engine.bell.get_up();
        return true;
    }
    engine.bell.listen();
    true
}
