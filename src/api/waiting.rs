//! The waiting of a follower: for records, and for durability.

use std::time::Duration;

use super::auto_refresh::AutoRefresh;
use super::follower::Follower;
use crate::engine::follow::wait::Wait;
use crate::error::Result;
use crate::format::Seq;

impl Follower {
    /// Waits until the follower shows a record behind `after`, and refreshes for that. Returns false
    /// if the time is over.
    ///
    /// It waits as [`Wait::Sleep`] does. The log's own records count, so a wait may end without a
    /// new write.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::time::Duration;
    ///
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let seen = follower.last_seq();
    /// std::thread::spawn(move || store.insert("a", "1"));
    /// assert!(follower.wait(seen, Duration::from_secs(60))?);
    /// assert_eq!(follower.get("a")?.as_deref(), Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Follower::refresh`]; `Io` if the pages of the writer cannot be opened.
    pub fn wait(&self, after: Seq, timeout: Duration) -> Result<bool> {
        self.wait_with(after, Wait::Sleep, timeout)
    }

    /// Waits as [`Follower::wait`] does, in another way.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::time::Duration;
    ///
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let seen = follower.last_seq();
    /// assert!(!follower.wait_with(seen, mapcask::Wait::Spin, Duration::from_millis(1))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Follower::wait`].
    pub fn wait_with(&self, after: Seq, wait: Wait, timeout: Duration) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.following.wait(self.engine(), after, wait, timeout)
    }

    /// Starts a thread that refreshes the follower whenever the writer has appended something. It
    /// ends when the guard is dropped.
    ///
    /// Reads then show a write some microseconds after it, and two reads may show different
    /// states. A [`Snapshot`](crate::Snapshot), an iterator and [`multi_get`](crate::Reader::multi_get) read one
    /// state.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let refreshing = follower.auto_refresh(mapcask::Wait::Sleep)?;
    /// store.insert("a", "1")?;
    /// while follower.get("a")?.is_none() {
    ///     std::thread::yield_now();
    /// }
    /// drop(refreshing);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` if the process may have no more threads; `Forked`.
    pub fn auto_refresh(&self, wait: Wait) -> Result<AutoRefresh> {
        AutoRefresh::start(self.default.handle(), &self.following, wait)
    }

    /// Waits until the writer calls everything up to a number durable. Returns false if the time is
    /// over, and if the number is that of no record.
    ///
    /// It asks the writer for a sync, and the writer carries it out on its background thread. An idle
    /// writer carries it out only with its next write on Linux before 5.16, and if it is one of more
    /// than 127 stores with a [shared background](crate::Background::shared). A process that may not
    /// write to the file `WAITERS` only waits for syncs that the writer makes anyway.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::time::Duration;
    ///
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// store.insert("a", "1")?;
    /// follower.refresh()?;
    /// assert!(follower.wait_durable(follower.last_seq(), Duration::from_secs(60))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `WriterFailed` if a sync of the writer failed; `Io` if its pages cannot be opened; `Forked`.
    pub fn wait_durable(&self, seq: Seq, timeout: Duration) -> Result<bool> {
        self.following.wait_durable(self.engine(), seq, timeout)
    }
}
