//! Online backup: a copy of one moment of a store, while it is written to, and the way back.
//!
//! The engine says what belongs to the moment (`engine::moment`). `target` writes it to another
//! directory, with the list of its files last. `restore` makes a store of a backup.
//!
//! docs/design/backup.md has the format, and the proof that a backup is whole at every moment.

mod backup_files;
mod copy_bytes;
pub(crate) mod report;
pub(crate) mod restore;
mod target;

use std::path::Path;
use std::sync::Arc;

use self::report::BackupReport;
use self::target::write;
use crate::api::follower::Follower;
use crate::api::store::Store;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fs::Dir;
use crate::fs::real::RealDir;

impl Store {
    /// Copies the store to a directory, while reads and writes go on.
    ///
    /// The backup holds every write that returned before this call, and some of those made
    /// meanwhile: it is a state that a kill at one moment could have left. [`restore`](crate::restore)
    /// makes a store of it.
    ///
    /// The directory is created if there is none. If it holds an earlier backup of this store, only
    /// segments that are not there yet are copied. The earlier backup stays whole until the new one
    /// is, so a call that was interrupted or failed changes nothing, and the next one continues.
    ///
    /// Every copy is read back and verified. Damage in the store is an error, and the earlier backup
    /// stays.
    ///
    /// The files are copies, so the two share no damage. They lie on the disk of the directory, which
    /// should be another one. Until it is copied, a segment that compaction removes stays on the disk.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let (path, target, restored) =
    /// #     (directory.path().join("data"), directory.path().join("backup"), directory.path().join("new"));
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// let report = store.backup(&target)?;
    /// assert_eq!(report.files_copied, 1);
    ///
    /// store.insert("a", "2")?;
    /// mapcask::restore(&target, &restored)?;
    /// let restored = mapcask::Store::open(&restored)?;
    /// assert_eq!(restored.get("a")?.as_deref(), Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `InvalidTarget` if the directory lies in that of the store, holds other files, or holds a
    ///   backup of another store, or another backup to it, or a restore from it, is running.
    /// - `NoSpace`, `Io`, `ReadOnly` or `Exhausted` if the operating system refuses. Run the backup
    ///   again.
    /// - `Corrupt` if a record of the store, or a copy that was read back, is damaged.
    /// - `Poisoned`, `Closed` or `Forked`.
    #[doc(alias = "checkpoint")]
    #[doc(alias = "export")]
    #[doc(alias = "hot_backup")]
    pub fn backup(&self, target: impl AsRef<Path>) -> Result<BackupReport> {
        let dir = outside(self.engine(), target.as_ref())?;
        self.backup_in(&dir)
    }

    /// Backs the store up as [`Store::backup`] does, to a simulated disk.
    ///
    /// # Errors
    ///
    /// Fails as [`Store::backup`] does.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn backup_on(&self, disk: &crate::fs::sim::SimDisk) -> Result<BackupReport> {
        self.backup_in(&disk.dir())
    }

    fn backup_in(&self, target: &Arc<dyn Dir>) -> Result<BackupReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.fork_guard.check()?;
        write(target.as_ref(), &engine.shared, || engine.moment())
    }
}

impl Follower {
    /// Copies the store to a directory as [`Store::backup`] does, after a refresh.
    ///
    /// The writer does not notice it. The backup holds every write that had returned when this was
    /// called; those that the writer has not made durable, too.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let (path, target) = (directory.path().join("data"), directory.path().join("backup"));
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// // In another process:
    /// let follower = mapcask::Follower::open(&path)?;
    /// follower.backup(&target)?;
    /// // Nothing is new, so nothing is copied.
    /// assert_eq!(follower.backup(&target)?.files_copied, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Follower::refresh`] and [`Store::backup`].
    pub fn backup(&self, target: impl AsRef<Path>) -> Result<BackupReport> {
        let dir = outside(self.engine(), target.as_ref())?;
        self.backup_in(&dir)
    }

    /// Backs the store up as [`Follower::backup`] does, to a simulated disk.
    ///
    /// # Errors
    ///
    /// Fails as [`Follower::backup`] does.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn backup_on(&self, disk: &crate::fs::sim::SimDisk) -> Result<BackupReport> {
        self.backup_in(&disk.dir())
    }

    fn backup_in(&self, target: &Arc<dyn Dir>) -> Result<BackupReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.fork_guard.check()?;
        write(target.as_ref(), &engine.shared, || self.following.moment(engine))
    }
}

/// Returns the directory of a backup, which must not lie in the store's.
fn outside(engine: &Engine, target: &Path) -> Result<Arc<dyn Dir>> {
    let dir = RealDir::new(target).map_err(|error| Error::io("find", target, error))?;
    let store = engine.shared.dir.path();
    if dir.lies_in(store).map_err(|error| Error::io("find", target, error))? {
        let reason = format!("it lies in the store's own directory, {}; choose one outside", store.display());
        return Err(Error::InvalidTarget { path: dir.path().to_owned(), reason });
    }
    Ok(Arc::new(dir))
}
