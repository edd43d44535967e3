//! The handle that reads a store which another process writes to.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "serde")]
use serde::{Serialize, de::DeserializeOwned};

use super::options::Options;
use crate::api::reader::Reader;
use crate::api::snapshot::Snapshot;
#[cfg(feature = "serde")]
use crate::api::typed::{codec::Codec, reader::TypedReader};
use crate::config::{Config, Tell};
use crate::engine::Engine;
use crate::engine::follow::{Following, Refreshed};
use crate::engine::handle::Handle;
use crate::engine::read::Value;
use crate::engine::read::iter::Iter;
use crate::engine::scrub::VerifyReport;
use crate::engine::stats::Stats;
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::control_page::WriterStatus;
use crate::fs::Dir;
use crate::fs::read_only::ReadOnlyDir;
use crate::fs::real::RealDir;
use crate::recovery::attach::attach;

/// A store that another process may be writing to, for reading.
///
/// It dereferences to the [`Reader`] of the default keyspace, so every reading method is a method of
/// the follower. It has no method that writes.
///
/// A follower shows the store as of its last [`refresh`](Follower::refresh). It opens a store that
/// is open elsewhere, one that is closed, and one whose writer was killed. It takes no lock and asks
/// for no permission but to read, so it works on a read-only mount, as another user, and from another
/// container. It writes nothing, except that one that waits asks to be woken on the file `WAITERS`,
/// if it may write to it. It never keeps a writer out: a follower that is stopped or killed costs
/// the writer nothing.
///
/// A clone is cheap, and is another handle to the same follower.
///
/// # Order and isolation
///
/// A follower shows a prefix of the writer's log: every write up to one, and none behind it. A batch
/// is shown as a whole. A refresh that begins after a write has returned, in any process, shows that
/// write. Reads, iterators and snapshots have the [isolation](crate#isolation) that they have on the
/// store, where each record or batch that a refresh applies counts as a write. [Several
/// processes](crate#several-processes) has the one exception, a refresh that
/// [jumps](Refreshed::jumped), and the meaning of each error.
///
/// A write is shown when it is in the log, which may be before it is durable and, for an instant,
/// before the writer's own process shows it. A follower goes back only if the log loses its end, as
/// it may after a failed sync and a new open.
///
/// # Cost
///
/// A follower has an index of its own: 16 bytes per key. The files are mapped, and their pages are
/// those that the writer uses. A refresh that finds nothing new loads a few words of mapped pages.
/// While a writer has the store open, it makes a system call only once a second, to check that the
/// store is in its place. Otherwise it verifies and applies each new record, on the calling thread.
/// If compaction has removed a part of the log that was not applied yet, the refresh reads the whole
/// store anew ([`Refreshed::jumped`]).
///
/// A follower keeps the files that compaction removes on the disk until it refreshes or ends.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// // In the writing process:
/// let store = mapcask::Store::open(&path)?;
/// store.insert("a", "1")?;
///
/// // In another one, while the store is open:
/// let follower = mapcask::Follower::open(&path)?;
/// assert_eq!(follower.get("a")?.as_deref(), Some(b"1".as_slice()));
///
/// store.insert("a", "2")?;
/// assert_eq!(follower.get("a")?.as_deref(), Some(b"1".as_slice()));
/// follower.refresh()?;
/// assert_eq!(follower.get("a")?.as_deref(), Some(b"2".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A write through a follower does not compile:
///
/// ```compile_fail,E0599
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// # mapcask::Store::open(&path)?;
/// mapcask::Follower::open(&path)?.insert("a", "1")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "open_read_only")]
#[doc(alias = "secondary")]
#[derive(Clone)]
pub struct Follower {
    pub(super) default: Reader,
    pub(super) following: Arc<Following>,
    /// The directory, for the day on which this process takes the store over.
    pub(super) dir: Arc<dyn Dir>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Follower");
        text.field("path", &self.engine().shared.dir.path()).field("keys", &self.len());
        text.finish_non_exhaustive()
    }
}

/// Borrows the reader of the default keyspace.
impl Deref for Follower {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.default
    }
}

/// Iterates over the default keyspace.
impl IntoIterator for &Follower {
    type Item = Result<(Value, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.default.iter()
    }
}

impl Follower {
    /// Opens a follower of the store in a directory with the default [`Options`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// assert_eq!(mapcask::Follower::open(&path)?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Options::follow`] does.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().follow(path)
    }

    /// Opens a follower of the store at a path.
    pub(super) fn open_at(config: &Config, path: &Path) -> Result<Self> {
        let dir = RealDir::new(path).map_err(|error| Error::io("find", path, error))?;
        Self::open_in(config.clone(), Arc::new(dir))
    }

    /// Opens a follower of the store in a directory that may be simulated.
    pub(super) fn open_in(mut config: Config, dir: Arc<dyn Dir>) -> Result<Self> {
        let _events = crate::trace::at_end();
        (config.read_only, config.create, config.background) = (true, false, false.into());
        let own = Arc::clone(&dir);
        let dir: Arc<dyn Dir> = Arc::new(ReadOnlyDir::with_requests(dir));
        let (recovered, following) = Following::of(attach(&dir, &config)?, config.sigbus_guard);
        // A refresh that reads the store anew holds locks, and the callback may use a clone.
        config.recovery_progress = Tell::default();
        let handle = Arc::new(Handle::start(Engine::start(recovered, config)?)?);
        handle.state.report.announce(dir.path());
        let default = Arc::clone(&handle.state.default);
        let follower =
            Self { default: Reader::new(handle, default), following: Arc::new(following), dir: own };
        // The writer may have appended while the log was read.
        follower.refresh()?;
        Ok(follower)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.default.handle().engine
    }

    /// Applies everything that the writer has appended since the last refresh.
    ///
    /// If compaction has removed a part of the log that was not applied yet, it reads the whole store
    /// anew. That takes as long as an open without an index checkpoint, and memory for a second set
    /// of indexes meanwhile. A follower that is refreshed often rarely meets it.
    ///
    /// Several threads may call it; they take turns. Reads go on meanwhile, and see each record as
    /// it is applied.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let seq = store.insert("a", "1")?;
    /// assert!(follower.refresh()?.seq >= seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `Corrupt`, `MissingSegment` or `Io` if the log cannot be read. The follower keeps showing
    ///   what it showed, and the next refresh tries again.
    /// - `Replaced` if another store is in the directory now.
    /// - `TooNew` if a later version of this crate writes to the store.
    /// - `Exhausted` if memory or mappings run out.
    /// - `Forked`.
    #[doc(alias = "catch_up")]
    #[doc(alias = "try_catch_up_with_primary")]
    pub fn refresh(&self) -> Result<Refreshed> {
        let _events = crate::trace::at_end();
        self.following.refresh(self.engine())
    }

    /// Returns the reader of a keyspace by its name.
    ///
    /// It follows clears and renames, and returns `KeyspaceDropped` after a drop, as a handle of the
    /// store does. A refresh that jumped cannot tell a clear from a drop and a creation of the same
    /// name: both count as a clear.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// store.keyspace("users")?.insert("anna", "admin")?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// assert_eq!(follower.keyspace_names(), ["users"]);
    /// assert!(follower.keyspace("users")?.contains_key("anna")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound` if the follower shows none of this name; `Forked`.
    pub fn keyspace(&self, name: &str) -> Result<Reader> {
        let inner = self.engine().open_keyspace(name)?;
        Ok(Reader::new(Arc::clone(self.default.handle()), inner))
    }

    /// Returns the reader of a keyspace with typed keys and values.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Follower, Postcard, Store};
    ///
    /// let store = Store::open(&path)?;
    /// store.typed_keyspace::<String, u32, _>("ages", Postcard)?.insert(&"anna".to_owned(), &42)?;
    /// let ages = Follower::open(&path)?.typed_keyspace::<String, u32, _>("ages", Postcard)?;
    /// assert_eq!(ages.get(&"anna".to_owned())?, Some(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`; `CodecMismatch` if it was created with another codec; `InvalidOption` if
    /// the codec's id is empty; `Forked`.
    #[cfg(feature = "serde")]
    pub fn typed_keyspace<K, V, C>(&self, name: &str, codec: C) -> Result<TypedReader<K, V, C>>
    where
        K: ?Sized + Serialize,
        V: DeserializeOwned,
        C: Codec,
    {
        TypedReader::of(self.keyspace(name)?, codec)
    }

    /// Returns the names of the keyspaces that the follower shows, but the default one, in
    /// ascending order.
    #[must_use]
    pub fn keyspace_names(&self) -> Vec<String> {
        self.engine().keyspace_names()
    }

    /// Returns a snapshot of what the follower shows now. Refreshes do not change it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let snapshot = follower.snapshot();
    /// store.insert("a", "2")?;
    /// follower.refresh()?;
    /// assert_eq!(snapshot.get("a")?.as_deref(), Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.default.handle().state)
    }

    /// Returns the sequence number of the last record that the follower shows.
    ///
    /// The log's own records have numbers, too, so it is at least that of the last write shown, and
    /// may be one that the writer does not wait for ([`Store::wait_durable`](crate::Store::wait_durable)).
    /// A follower that was opened later may know a smaller one, because a recovery can drop such
    /// records.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.engine().last_seq()
    }

    /// Returns the sequence number up to which the writer calls its log durable now. It may be
    /// greater than [`Follower::last_seq`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// let seq = store.insert("a", "1")?;
    /// store.flush()?;
    /// assert!(follower.durable_seq()? >= seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` if the control page cannot be opened; `Forked`.
    pub fn durable_seq(&self) -> Result<Seq> {
        Ok(self.following.writer(self.engine())?.1)
    }

    /// Returns the status of the store's writer, as the writer last told it.
    ///
    /// `Open` means that a writer opened the store and has not closed it. It may have been killed:
    /// a follower cannot tell, because it takes no lock.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::WriterStatus;
    ///
    /// let store = mapcask::Store::open(&path)?;
    /// let follower = mapcask::Follower::open(&path)?;
    /// assert_eq!(follower.writer_status()?, WriterStatus::Open);
    /// store.close()?;
    /// assert_eq!(follower.writer_status()?, WriterStatus::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` if the control page cannot be opened; `Forked`.
    pub fn writer_status(&self) -> Result<WriterStatus> {
        Ok(self.following.writer(self.engine())?.0)
    }

    /// Returns a snapshot of the counters. Those that describe files are of the last refresh, and
    /// those that describe work are of the follower, which does little. If the control page cannot
    /// be read, the durable number is that of the open.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// assert_eq!(mapcask::Follower::open(&path)?.stats().keys, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.engine().stats();
        if let Ok(durable) = self.durable_seq() {
            stats.durable_seq = durable.0.min(stats.last_seq);
        }
        stats
    }

    /// Returns the size of the store's files on the disk, in bytes, with those that the follower
    /// does not know yet.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// assert!(mapcask::Follower::open(&path)?.size_on_disk()? <= 36 << 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` if the file system cannot be asked; `Forked`.
    #[doc(alias = "disk_space")]
    pub fn size_on_disk(&self) -> Result<u64> {
        self.engine().size_on_disk()
    }

    /// Refreshes, then verifies every record and every index entry that the follower shows.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// assert_eq!(mapcask::Follower::open(&path)?.verify()?.keys, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt` with the first damage found, and the errors of [`Follower::refresh`].
    pub fn verify(&self) -> Result<VerifyReport> {
        self.refresh()?;
        self.engine().verify()
    }
}

impl Options {
    /// Opens a follower of the store in a directory, which another process may be writing to.
    ///
    /// Of the options, [`recovery_progress`](Options::recovery_progress),
    /// [`sigbus_guard`](Options::sigbus_guard) and [`verify_reads`](Options::verify_reads) have a
    /// meaning for a follower. A later refresh reports no progress.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Error, Options, Store};
    ///
    /// assert!(matches!(Options::new().follow(&path), Err(Error::NotFound { .. })));
    /// let store = Store::open(&path)?;
    /// assert!(Options::new().verify_reads(true).follow(&path)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `NotFound`, `Foreign`, `ForeignFile`, `TooNew`, `Destroying`, `Restoring` or
    ///   `UnsupportedFileSystem` if the directory holds no store that can be read here.
    /// - `Corrupt` or `MissingSegment` if durable data is damaged.
    /// - `Io` or `Exhausted` if the operating system refuses.
    pub fn follow(self, path: impl AsRef<Path>) -> Result<Follower> {
        Follower::open_at(&self.config, path.as_ref())
    }

    /// Opens a follower of the store on a simulated disk.
    ///
    /// # Errors
    ///
    /// Fails as [`Options::follow`] does.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn follow_on(self, disk: &crate::fs::sim::SimDisk) -> Result<Follower> {
        Follower::open_in(self.config, disk.dir())
    }
}
