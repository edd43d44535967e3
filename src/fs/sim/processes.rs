//! Several processes on one machine: a test acts in the middle of a writer's work, and lets a writer
//! die while the machine and the other processes live.

use std::fmt;
use std::sync::Arc;

use super::SimDisk;

/// A test's function that every point calls.
#[derive(Clone, Default)]
pub(super) struct Hook(pub(super) Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

impl SimDisk {
    /// Calls `hook` at every named crash point of a writer on this machine, and between the steps of
    /// a follower's [`refresh`](crate::Follower::refresh), on the thread of that handle.
    ///
    /// Points of followers begin with `follow-` or `attach-`. The handle may hold locks of its own,
    /// so `hook` uses another one: a follower at a point of the writer, or the reverse.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    ///
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// let follower = Options::new().follow_on(&disk)?;
    /// let seen = Arc::new(AtomicUsize::new(0));
    /// let also = Arc::clone(&seen);
    /// disk.on_crash_point(move |point| {
    ///     if point == "append-published" {
    ///         follower.refresh().expect("the log is whole");
    ///         also.store(follower.len(), Ordering::Relaxed);
    ///     }
    /// });
    /// store.insert("a", "1")?;
    /// assert_eq!(seen.load(Ordering::Relaxed), 1);
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn on_crash_point(&self, hook: impl Fn(&'static str) + Send + Sync + 'static) {
        self.shared.lock().hook = Hook(Some(Arc::new(hook)));
    }

    /// Stops calling the function of [`SimDisk::on_crash_point`].
    pub fn forget_hook(&self) {
        // Dropped without the lock: it may hold handles to this disk.
        let hook = std::mem::take(&mut self.shared.lock().hook);
        drop(hook);
    }

    /// Frees the locks of a writer that has died, while the machine and its other processes live.
    ///
    /// The test makes sure that the dead writer does nothing more: it forgets the store, or leaves
    /// its thread waiting for ever.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// let follower = Options::new().follow_on(&disk)?;
    /// store.insert("a", "1")?;
    /// std::mem::forget(store);
    /// disk.free_locks();
    ///
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// assert!(!store.recovery_report().clean);
    /// store.insert("b", "2")?;
    /// follower.refresh()?;
    /// assert_eq!(follower.len(), 2);
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn free_locks(&self) {
        self.shared.lock().locks.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_answers_while_the_machine_is_locked() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        let before = dir.now();
        disk.advance_clock(Duration::from_secs(3));
        let (send, answer) = mpsc::channel();
        // A forked child finds the lock as a thread of its parent left it.
        let machine = disk.shared.lock();
        let asks = thread::spawn(move || send.send(dir.now()));
        let now = answer.recv_timeout(Duration::from_secs(10));
        drop(machine);
        asks.join().unwrap().unwrap();
        assert_eq!(now, Ok(before + Duration::from_secs(3)));
    }
}
