//! The change from a follower to the writer of its store.

use std::sync::Arc;
use std::time::Duration;

use super::follower::Follower;
use super::opening::open_in;
use super::options::Options;
use super::store::Store;
use crate::error::{Error, Result};
use crate::fs::Misplaced;
use crate::recovery::attach;

impl Follower {
    /// Waits until no process has the store open, and opens it for writing. `None` waits without an
    /// end.
    ///
    /// It is the call of a standby. Any number of processes may wait; the system gives the store to
    /// one of them, and the others go on waiting. A writer that is killed loses the store once the
    /// system has freed its memory: a few milliseconds, and some 200 ms per GiB of its indexes. With
    /// `None` the waiter sleeps in the system until then. With a time it looks every 0.5 to 5 ms.
    ///
    /// It opens the store as [`Options::open`] does: at once after a clean close, with a recovery
    /// after a kill. [`Options::checkpoint_bytes`] bounds how much a recovery reads. The store is
    /// never created, and `options` cannot ask for reading only.
    ///
    /// This follower goes on following the store, now beside a writer in its own process. Followers
    /// in other processes notice nothing.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Follower, Options, Store};
    ///
    /// let writer = Store::open(&path)?;
    /// let standby = Follower::open(&path)?;
    /// writer.insert("a", "1")?;
    /// writer.close()?;
    /// let store = standby.take_over(Options::new(), None)?;
    /// assert_eq!(store.get("a")?.as_deref(), Some(b"1".as_slice()));
    /// store.insert("a", "2")?;
    /// standby.refresh()?;
    /// assert_eq!(standby.get("a")?.as_deref(), Some(b"2".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `Locked` after the time. The follower goes on, and may try again.
    /// - `Replaced` if the store was removed, or another one is in its place.
    /// - `InvalidOption` if `options` ask for reading only; otherwise as for [`Options::open`].
    /// - `Forked`.
    #[doc(alias = "promote")]
    #[doc(alias = "failover")]
    pub fn take_over(&self, options: Options, timeout: Option<Duration>) -> Result<Store> {
        let engine = self.engine();
        engine.fork_guard.check()?;
        let mut config = options.config;
        if config.read_only {
            return Err(Error::InvalidOption {
                option: "read_only",
                value: "true".to_owned(),
                reason: "a take-over opens the store for writing",
            });
        }
        (config.create, config.wait_for_lock) = (false, timeout.unwrap_or(Duration::MAX));
        let replaced = || Error::Replaced { path: engine.shared.dir.path().to_owned() };
        let dir = self.dir.reopen().map_err(|error| Error::io("find", engine.shared.dir.path(), error))?;
        // Before anything is recovered, or waited for: the store of this follower is still there.
        if matches!(engine.shared.dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced)) {
            return Err(replaced());
        }
        match attach::find(dir.as_ref()) {
            Ok(manifest) if manifest.store == engine.shared.store => {}
            Ok(_) | Err(Error::NotFound { .. }) => return Err(replaced()),
            Err(error) => return Err(error),
        }
        let opened = open_in(config, Arc::clone(&dir));
        if matches!(dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced)) {
            return Err(replaced());
        }
        match opened {
            Err(Error::NotFound { .. }) => Err(replaced()),
            Ok(store) if store.engine().shared.store != engine.shared.store => Err(replaced()),
            opened => opened,
        }
    }
}
