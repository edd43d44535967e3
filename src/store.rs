//! The face of a store.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::batch::WriteBatch;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fs::Dir;
use crate::fs::real::RealDir;
use crate::helper;
use crate::options::Options;
use crate::read::{Iter, Keys, Value, Values, View};
use crate::recovery;
use crate::recovery::report::RecoveryReport;
use crate::stats::Stats;
use crate::verify::VerifyReport;

/// A persistent hash map.
///
/// Cloning it is cheap and gives another handle to the same store; handles may be used from any thread. When the last
/// one is dropped the store is closed as by [`Store::close`], except that nobody hears of a failure.
///
/// # Isolation
///
/// | operation | sees |
/// |---|---|
/// | `get`, `view().get`, `contains_key` | the newest write of that key, linearizable; once one key of a batch was seen new, no key of it is seen old |
/// | `iter`, `keys`, `values` | every key that is there throughout, exactly once, each with a value it had meanwhile |
///
/// # Fork
///
/// A child made by `fork` that uses an inherited handle gets [`Error::Forked`](crate::Error::Forked), and dropping the
/// handle there touches nothing. As long as the child lives, it keeps the store's lock.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// let store = mapcask::Store::open(&path)?;
/// store.insert("key", "value")?;
/// assert_eq!(store.get("key")?.as_deref(), Some(b"value".as_slice()));
/// assert!(store.remove("key")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = self.engine();
        let mut text = f.debug_struct("Store");
        text.field("path", &engine.shared.dir.path()).field("keys", &self.len()).finish_non_exhaustive()
    }
}

/// What all clones share; dropping it closes the store.
#[derive(Debug)]
struct Handle {
    engine: Arc<Engine>,
}

impl Options {
    /// Opens the store in a directory, or creates it there.
    ///
    /// After an unclean end (the process was killed, or the power was cut) the store is recovered; see
    /// [`Store::recovery_report`].
    ///
    /// The files of an open store are mapped into memory. They belong to the store: a program that changes or truncates
    /// them while they are mapped breaks what this crate promises, up to the death of the process by a signal. A lock
    /// keeps a second mapcask out.
    ///
    /// # Errors
    ///
    /// `Locked` when another handle has it open; `Foreign`, `ForeignFile`, `TooNew`, `UnsupportedFileSystem` or
    /// `NotFound` when there is no store that can be opened here, all without touching anything but the lock file; `Corrupt` or
    /// `MissingSegment` when durable data is damaged, likewise (see [`salvage`](crate::salvage)); `NoSpace`,
    /// `ReadOnly`, `Io` or `Limit` when the operating system refuses; `InvalidOption`.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let dir: Arc<dyn Dir> = Arc::new(RealDir::new(path.as_ref()));
        self.open_in(dir)
    }

    /// Opens the store on a simulated disk.
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn open_on(self, disk: &crate::fs::sim::SimDisk) -> Result<Store> {
        self.open_in(disk.dir())
    }

    fn open_in(self, dir: Arc<dyn Dir>) -> Result<Store> {
        let background = self.background.clone();
        let opened = recovery::open(dir, &self)?;
        let engine = Arc::new(Engine::start(opened, self)?);
        helper::start(&engine, &background)?;
        Ok(Store { handle: Arc::new(Handle { engine }) })
    }
}

impl Store {
    /// Opens the store in a directory with the default [`Options`], or creates it there.
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    fn engine(&self) -> &Engine {
        &self.handle.engine
    }

    /// Returns the value of a key, without copying it.
    ///
    /// # Errors
    ///
    /// `Corrupt` where what was written is no longer there; `Closed`; `Forked`.
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.engine().get_value(key.as_ref())
    }

    /// Copies the value of a key into `value`, verifies the copy against its checksum, and returns whether the key was
    /// there. `value` is cleared first.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    pub fn get_into(&self, key: impl AsRef<[u8]>, value: &mut Vec<u8>) -> Result<bool> {
        self.engine().get_into(key.as_ref(), value)
    }

    /// Returns a view: many reads under one pin, with borrowed values.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let view = store.view();
    /// assert_eq!(view.get("a")?, Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self.engine())
    }

    /// Returns whether the key is there.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    #[inline]
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.view().contains_key(key)
    }

    /// Inserts a key, or gives it a new value.
    ///
    /// The old value is not returned: that would cost a read.
    ///
    /// # Errors
    ///
    /// `KeyTooLarge` or `ValueTooLarge` ([`MAX_KEY_LEN`](crate::MAX_KEY_LEN), [`MAX_VALUE_LEN`](crate::MAX_VALUE_LEN));
    /// `NoSpace`, after which writing works again once there is space; `DiskLimit` where it inserts; `Poisoned` after a failed sync; `Corrupt`,
    /// `Closed`, `Forked`, `Io`. On any of them nothing was written; except `Poisoned` at [`Durability::Disk`] by the
    /// sync of this very write, which may or may not be there after the next open.
    ///
    /// [`Durability::Disk`]: crate::Durability::Disk
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let engine = self.engine();
        engine.insert(key.as_ref(), value.as_ref(), engine.options.durability).map(drop)
    }

    /// Removes a key, and returns whether it was there.
    ///
    /// # Errors
    ///
    /// As [`Store::insert`].
    #[doc(alias = "delete")]
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let engine = self.engine();
        engine.remove(key.as_ref(), engine.options.durability)
    }

    /// Carries out a batch: all of it, or nothing.
    ///
    /// # Errors
    ///
    /// As [`Store::insert`]; `BatchTooLarge` where its records take more than 4 GiB.
    pub fn write(&self, batch: impl AsRef<WriteBatch>) -> Result<()> {
        let engine = self.engine();
        engine.write(batch.as_ref(), engine.options.durability)
    }

    /// Returns the number of keys, in constant time.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.engine().stats_keys()).unwrap_or(usize::MAX)
    }

    /// Returns whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an iterator over all keys and values, in no order.
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter::new(Arc::clone(&self.handle.engine))
    }

    /// Returns an iterator over all keys, in no order.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys(self.iter())
    }

    /// Returns an iterator over all values, in no order.
    #[must_use]
    pub fn values(&self) -> Values {
        Values(self.iter())
    }

    /// Makes every acknowledged write durable: it survives power loss when this returns.
    ///
    /// # Errors
    ///
    /// `Poisoned` where a sync failed, now or earlier. What was acknowledged and not durable by then may or may not be
    /// there after the next open, in order, batches whole.
    #[doc(alias = "persist")]
    #[doc(alias = "sync")]
    pub fn flush(&self) -> Result<()> {
        self.engine().liveness.check()?;
        self.engine().flush()
    }

    /// Returns what the store says of itself.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Returns the bytes that the store's files take on the disk.
    ///
    /// # Errors
    ///
    /// `Io`.
    #[doc(alias = "disk_space")]
    pub fn size_on_disk(&self) -> Result<u64> {
        self.engine().size_on_disk()
    }

    /// Reads everything and compares it with its checksums, beside readers and writers.
    ///
    /// # Errors
    ///
    /// `Corrupt` with the first damage; `Io`, `Closed`, `Forked`.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.engine().verify()
    }

    /// Returns what opening the store found and did.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.engine().report
    }

    /// Closes the store for all handles: every write durable, the files marked clean, the lock free.
    ///
    /// Values that were read stay valid. Other handles get [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Errors
    ///
    /// `Poisoned`, `NoSpace` or `Io` when that did not succeed: the store is closed, and the next open recovers it.
    /// `Closed` when it was closed before.
    pub fn close(self) -> Result<()> {
        self.handle.close()
    }

    /// Runs one piece of the background's work, and returns whether there was any; for stores that were opened with
    /// [`Options::background`] off.
    ///
    /// # Errors
    ///
    /// What a writer that did the work itself would get.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn step(&self) -> Result<bool> {
        self.engine().liveness.check()?;
        self.engine().step()
    }
}

impl IntoIterator for &Store {
    type Item = Result<(Value, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl AsRef<WriteBatch> for WriteBatch {
    fn as_ref(&self) -> &WriteBatch {
        self
    }
}

impl Handle {
    fn close(&self) -> Result<()> {
        if self.engine.liveness.is_forked() {
            // The background's thread does not exist in a child; waiting for it would never end.
            return Err(Error::Forked);
        }
        self.engine.bell.take_down();
        self.engine.close()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.engine.liveness.is_forked() {
            // The threads and the lock are the parent's.
            return;
        }
        // A failure cannot be reported here; `Store::close` reports it, and the next open recovers.
        drop(self.close());
    }
}
