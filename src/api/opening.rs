//! Opening a store in a directory that another process may be destroying and creating again.

use std::path::Path;
use std::sync::Arc;

use super::keyspace::Keyspace;
use super::options::Options;
use super::store::Store;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::handle::Handle;
use crate::error::{Error, Result};
use crate::fs::read_only::ReadOnlyDir;
use crate::fs::real::RealDir;
use crate::fs::{Dir, Misplaced};
use crate::recovery;

/// The most attempts of an open whose directory disappears during it.
const ATTEMPTS: usize = 100;

impl Store {
    /// Opens the store in a directory with the default [`Options`], or creates it there.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("key", "value")?;
    /// store.close()?;
    /// assert_eq!(mapcask::Store::open(&path)?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Options::open`] does.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }
}

impl Options {
    /// Opens the store in a directory, or creates it there.
    ///
    /// After an unclean end (a kill or a power cut) the store is recovered; see
    /// [`Store::recovery_report`].
    ///
    /// The files of an open store are mapped into memory and belong to the store. A lock keeps
    /// other mapcask processes out. A program that changes or truncates a mapped file breaks what
    /// this crate promises. A page that cannot be read or written is an error of the call that
    /// needs it; see [`Options::sigbus_guard`].
    ///
    /// A relative path is resolved against the working directory once, when this is called. Records
    /// that an index checkpoint covers are not read here. So damage in them, or a truncated segment
    /// file, is an error of the reads that need it. [`Store::verify`] reads everything.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Error, Options};
    ///
    /// let missing = Options::new().create(false).open(&path);
    /// assert!(matches!(missing, Err(Error::NotFound { .. })));
    /// let store = Options::new().open(&path)?;
    /// assert!(store.recovery_report().created);
    /// let second = Options::new().open(&path);
    /// assert!(matches!(second, Err(Error::Locked { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `Locked` if another handle has the store open, unless both only read. A
    ///   [`Follower`](crate::Follower) reads it meanwhile.
    /// - `Foreign`, `ForeignFile`, `TooNew`, `UnsupportedFileSystem`, `NotFound`, `Destroying` or
    ///   `Restoring` if the directory holds no store that can be opened here. At most the lock file
    ///   was touched.
    /// - `Corrupt` or `MissingSegment` if durable data is damaged. At most the lock file was
    ///   touched; see [`salvage`](crate::salvage()).
    /// - `NoSpace`, `ReadOnly`, `Io` or `Limit` if the operating system refuses. A disk that other
    ///   programs filled does not stop a store from being opened and read. Where an open cannot
    ///   write, use [`Options::follow`] or [`Options::read_only`].
    /// - `InvalidOption` if an option has a value out of range.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        open(&self.config, path.as_ref())
    }

    /// Opens the store on a simulated disk.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// // The process dies here; the machine does not.
    /// let store = Options::new().background(false).open_on(&disk.kill())?;
    /// assert!(store.contains_key("a")?);
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Options::open`] does.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn open_on(self, disk: &crate::fs::sim::SimDisk) -> Result<Store> {
        open_in(self.config, disk.dir())
    }
}

/// Opens the store at a path.
///
/// # Errors
///
/// Fails as [`Options::open`] does.
fn open(config: &Config, path: &Path) -> Result<Store> {
    let mut left = ATTEMPTS;
    loop {
        let dir = Arc::new(RealDir::new(path).map_err(|error| Error::io("find", path, error))?);
        let opened = open_in(config.clone(), Arc::clone(&dir) as Arc<dyn Dir>);
        left -= 1;
        // Another process removed the directory during the attempt. Now there is another one, or
        // none.
        let is_gone = || matches!(dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced));
        if opened.is_ok() || left == 0 || !is_gone() {
            return opened;
        }
    }
}

/// Opens the store in a directory that may be simulated.
///
/// # Errors
///
/// Fails as [`open`] does.
pub(super) fn open_in(mut config: Config, mut dir: Arc<dyn Dir>) -> Result<Store> {
    let _events = crate::trace::at_end();
    if config.read_only {
        dir = Arc::new(ReadOnlyDir::new(dir));
        (config.create, config.background) = (false, false.into());
    }
    let durability = config.durability;
    let engine = Engine::start(recovery::open(dir, &config)?, config)?;
    engine.compactor.tidy_up(&engine)?;
    let handle = Arc::new(Handle::start(engine)?);
    handle.state.report.announce(handle.state.shared.dir.path());
    let default = Arc::clone(&handle.state.default);
    Ok(Store { default: Keyspace::new(handle, default, durability) })
}
