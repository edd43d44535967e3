//! The guard of a thread that refreshes a follower.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::follow::Following;
use crate::engine::follow::wait::Wait;
use crate::engine::handle::Handle;
use crate::error::{Error, Result};

/// The pause of the thread after a failed refresh.
const PAUSE: Duration = Duration::from_millis(20);
/// The time between two attempts to end the thread's sleep. A wake-up is lost if it comes in the
/// instant before the thread falls asleep.
const RETRY: Duration = Duration::from_millis(1);

/// The guard of a thread that refreshes a follower whenever the writer has appended something.
///
/// [`Follower::auto_refresh`](crate::Follower::auto_refresh) returns it. Dropping it ends the
/// thread, and waits for its end.
#[derive(Debug)]
#[must_use = "dropping it ends the automatic refresh"]
pub struct AutoRefresh {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The parts that the thread and its guard share.
#[derive(Debug)]
struct Shared {
    handle: Arc<Handle>,
    following: Arc<Following>,
    is_stopped: AtomicBool,
    /// The error of the last refresh, if it failed.
    error: Mutex<Option<Error>>,
}

impl AutoRefresh {
    /// Starts the thread.
    pub(super) fn start(handle: &Arc<Handle>, following: &Arc<Following>, way: Wait) -> Result<Self> {
        handle.engine.fork_guard.check()?;
        let shared = Arc::new(Shared {
            handle: Arc::clone(handle),
            following: Arc::clone(following),
            is_stopped: AtomicBool::new(false),
            error: Mutex::new(None),
        });
        let ran = Arc::clone(&shared);
        let thread = thread::Builder::new().name("mapcask-follow".to_owned()).spawn(move || ran.run(way));
        let path = || handle.state.shared.dir.path();
        let thread = thread.map_err(|error| Error::io("start the refreshing thread of", path(), error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns the error of the thread's last refresh. `None` if it succeeded.
    ///
    /// After an error, the thread tries again every 20 ms. Meanwhile the follower shows what it
    /// showed before.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let refreshing = follower.auto_refresh(mapcask::Wait::Sleep)?;
    /// if let Some(error) = refreshing.error() {
    ///     eprintln!("the follower lags: {error}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        if self.shared.handle.engine.fork_guard.is_forked() {
            return Some(Error::Forked);
        }
        self.shared.error.lock().clone()
    }
}

impl Drop for AutoRefresh {
    fn drop(&mut self) {
        if self.shared.handle.engine.fork_guard.is_forked() {
            // The thread is the parent's. The handle is not dropped here: that may need its locks.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        let Some(thread) = self.thread.take() else { return };
        // Relaxed: it orders nothing, and the thread looks until it finds it.
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        if thread.thread().id() == thread::current().id() {
            // A subscriber of events drops it. The thread ends after this step.
            return;
        }
        while !thread.is_finished() {
            self.shared.following.end_sleep();
            thread.thread().unpark();
            thread::park_timeout(RETRY);
        }
        // A panic of the thread was printed there.
        drop(thread.join());
    }
}

impl Shared {
    /// Runs the thread.
    fn run(&self, way: Wait) {
        // Relaxed: see `AutoRefresh::drop`.
        while !self.is_stopped.load(Ordering::Relaxed) {
            let _events = crate::trace::at_end();
            let followed = self.following.follow_until(&self.handle.engine, way, &self.is_stopped);
            let failed = followed.is_err();
            *self.error.lock() = followed.err();
            if failed {
                thread::park_timeout(PAUSE);
            }
        }
    }
}
