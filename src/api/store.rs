//! The face of a store.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use super::options::Options;
use crate::api::keyspace::Keyspace;
use crate::api::snapshot::Snapshot;
use crate::config::Durability;
use crate::engine::read::Value;
use crate::engine::read::iter::Iter;
use crate::error::Result;
use crate::format::Seq;

/// A persistent hash map, or several of them by name.
///
/// It dereferences to its default [`Keyspace`], the one without a name: whatever is said of a keyspace can be said of the
/// store, as in `store.insert(..)`. [`Store::keyspace`] gives others.
///
/// Cloning it is cheap and gives another handle to the same store; handles may be used from any thread. When the last
/// one is dropped the store is closed as by [`Store::close`], except that nobody hears of a failure.
///
/// # Isolation
///
/// | operation | sees |
/// |---|---|
/// | `get`, `view().get`, `contains_key` | the newest write of that key, linearizable; once one key of a batch was seen new, no key of it is seen old |
/// | `multi_get`, `get_many_into` | all keys as of one moment |
/// | a write to one key, with its condition | one step, linearizable |
/// | a batch over any keyspaces, with its conditions | one step, or nothing |
/// | `clear`, and changes to the set of keyspaces | one step, in the order of all writes; a read that began before may see what was there before |
/// | `iter`, `keys`, `values` | every key that is there throughout, exactly once, each with a value it had meanwhile |
///
/// # Fork
///
/// A child made by `fork` that uses an inherited handle gets [`Error::Forked`](crate::Error::Forked), and dropping the
/// handle there touches nothing. Where the parent dies without closing the store, the child keeps the lock as long as it lives.
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
#[doc(alias = "Database")]
#[doc(alias = "Environment")]
#[derive(Clone)]
pub struct Store {
    pub(super) default: Keyspace,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = self.engine();
        let mut text = f.debug_struct("Store");
        text.field("path", &engine.shared.dir.path()).field("keys", &self.len()).finish_non_exhaustive()
    }
}

/// The default keyspace.
impl Deref for Store {
    type Target = Keyspace;

    fn deref(&self) -> &Keyspace {
        &self.default
    }
}

/// The default keyspace.
impl AsRef<Keyspace> for Store {
    fn as_ref(&self) -> &Keyspace {
        &self.default
    }
}

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
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Returns the keyspace of a name, and creates it if need be.
    ///
    /// Names are any text of up to 255 bytes; the empty one is that of the default keyspace, which is always there.
    /// Creating one is a write, durable as the writes of this handle are. Getting one that is there is a read: as a get it
    /// may see what is not durable yet, and goes on after a failed sync.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.keyspace("users")?;
    /// users.insert("anna", "admin")?;
    /// assert_eq!(store.keyspace_names(), ["users"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Keyspace::insert`]; `InvalidKeyspaceName`; `Limit` where there are 16,384 of them, or after 2^32 - 1 keyspaces
    /// and clears.
    #[doc(alias = "open_tree")]
    #[doc(alias = "open_table")]
    #[doc(alias = "open_partition")]
    #[doc(alias = "create_column_family")]
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.keyspace_of(name, "")
    }

    /// Returns the keyspace of a name, if there is one: nothing is created.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// assert!(matches!(store.open_keyspace("users"), Err(mapcask::Error::KeyspaceNotFound { .. })));
    /// store.keyspace("users")?;
    /// assert_eq!(store.open_keyspace("users")?.name(), "users");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`; `Closed`; `Forked`.
    #[doc(alias = "contains_keyspace")]
    pub fn open_keyspace(&self, name: &str) -> Result<Keyspace> {
        let inner = self.engine().open_keyspace(name)?;
        Ok(Keyspace::new(Arc::clone(self.handle()), inner, self.durability()))
    }

    /// The keyspace of a name, created with a codec if need be.
    pub(crate) fn keyspace_of(&self, name: &str, codec: &str) -> Result<Keyspace> {
        let _events = crate::trace::at_end();
        let inner = self.engine().keyspace(name, codec, self.durability())?;
        Ok(Keyspace::new(Arc::clone(self.handle()), inner, self.durability()))
    }

    /// Returns the names of all keyspaces but the default one, in ascending order.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.keyspace("b")?;
    /// store.keyspace("a")?;
    /// assert_eq!(store.keyspace_names(), ["a", "b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "tree_names")]
    #[doc(alias = "list_tables")]
    #[must_use]
    pub fn keyspace_names(&self) -> Vec<String> {
        self.engine().keyspace_names()
    }

    /// Gives a keyspace another name. Handles to it go on.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.keyspace("users")?;
    /// store.rename_keyspace("users", "people")?;
    /// assert_eq!(users.name(), "people");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`; `KeyspaceExists` where the new name is another one's; `InvalidKeyspaceName` also where one of
    /// them is the default keyspace's; else as [`Keyspace::insert`].
    pub fn rename_keyspace(&self, from: &str, to: &str) -> Result<()> {
        let _events = crate::trace::at_end();
        self.engine().rename_keyspace(from, to, self.durability())
    }

    /// Drops a keyspace with everything in it, in constant time, and returns whether it was there.
    ///
    /// Handles to it get [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped) from then on; values that were read stay valid. The memory of the
    /// index is given back as soon as no reader looks at it, the bytes on the disk by compaction.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let cache = store.keyspace("cache")?;
    /// assert!(store.drop_keyspace("cache")?);
    /// assert!(matches!(cache.get("a"), Err(mapcask::Error::KeyspaceDropped { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Keyspace::insert`]; `InvalidKeyspaceName` for the default keyspace, which can only be cleared.
    #[doc(alias = "drop_tree")]
    #[doc(alias = "delete_table")]
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.engine().drop_keyspace(name, self.durability())
    }

    /// Returns a handle whose writes are at least this durable; see [`Keyspace::with_durability`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let durable = store.with_durability(mapcask::Durability::Disk);
    /// let seq = durable.keyspace("orders")?.insert("7", "a bicycle")?;
    /// assert!(store.durable_seq() >= seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self { default: self.default.with_durability(durability) }
    }

    /// Makes every acknowledged write durable: it survives power loss when this returns.
    ///
    /// The modification times of the files that were written to say so from then on, for programs that copy what changed.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let seq = store.insert("a", "1")?;
    /// store.flush()?;
    /// assert!(store.durable_seq() >= seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Poisoned` where a sync failed, now or earlier. What was acknowledged and not durable by then may or may not be
    /// there after the next open, in order, batches whole. `OpenedReadOnly` where not all is durable, and may not be made so.
    #[doc(alias = "sync_all")]
    #[doc(alias = "persist")]
    #[doc(alias = "sync")]
    pub fn flush(&self) -> Result<()> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        if engine.config.read_only {
            return engine.wait_durable(engine.last_seq());
        }
        engine.fork_guard.check()?;
        engine.shared.commit.check()?;
        engine.allocator.tell_time(engine.last_seq());
        engine.flush()
    }

    /// Returns the sequence number of the last write: every write that was acknowledged before this call has at most
    /// this number.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let seq = store.insert("a", "1")?;
    /// assert_eq!(store.last_seq(), seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.engine().last_seq()
    }

    /// Returns the number of a write that survives power loss together with all before it: the last such one, if no sync is
    /// under way. It is never above [`Store::last_seq`], and equal to it once everything is durable.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// store.flush()?;
    /// assert_eq!(store.durable_seq(), store.last_seq());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durable_seq(&self) -> Seq {
        self.engine().durable_seq()
    }

    /// Waits until every write up to this number is durable, and has it made so.
    ///
    /// The number is one that a write of this store returned, or [`Store::last_seq`], or
    /// [`Snapshot::seq`](crate::Snapshot::seq). Where another thread syncs already, both share one sync.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let seq = store.insert("a", "1")?;
    /// store.wait_durable(seq)?;
    /// assert!(store.durable_seq() >= seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Store::flush`]; `UnknownSeq` where no write has this number yet.
    pub fn wait_durable(&self, seq: Seq) -> Result<()> {
        let _events = crate::trace::at_end();
        self.engine().wait_durable(seq)
    }

    /// Takes a snapshot: all keyspaces as of now, readable while writes and compaction go on.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let snapshot = store.snapshot();
    /// store.insert("a", "2")?;
    /// for item in &snapshot {
    ///     let (key, value) = item?;
    ///     assert_eq!((&*key, &*value), (b"a".as_slice(), b"1".as_slice()));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "begin_read")]
    #[doc(alias = "read_txn")]
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.default.handle().state)
    }

    /// Closes the store for all handles: every write durable, the files marked clean, the lock free.
    ///
    /// Values that were read stay valid, and iterators and snapshots go on to their ends. Other handles get [`Error::Closed`](crate::Error::Closed).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let handle = store.clone();
    /// store.close()?;
    /// assert!(matches!(handle.insert("a", "1"), Err(mapcask::Error::Closed)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Poisoned`, `NoSpace` or `Io` when that did not succeed: the store is closed, and the next open recovers it.
    /// `Closed` when it was closed before.
    pub fn close(self) -> Result<()> {
        self.default.handle().close()
    }

    /// Runs one piece of the background's work, and returns whether there was any; for stores that were opened with
    /// [`Options::background`] off.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let store = Options::new().background(false).open_on(&SimDisk::new())?;
    /// store.insert("a", "1")?;
    /// while store.step()? {}
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What a writer that did the work itself would get.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn step(&self) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.engine().fork_guard.check()?;
        self.engine().step()
    }

    /// As [`step`](Store::step), for what the background does once nothing has been written for a while: a store that has
    /// become small gets small files.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let store = Options::new().background(false).open_on(&SimDisk::new())?;
    /// store.insert("a", "1")?;
    /// store.remove("a")?;
    /// while store.step()? || store.rest_step()? {}
    /// assert_eq!(store.stats().segments, 1, "the active one");
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`step`](Store::step).
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn rest_step(&self) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.engine().fork_guard.check()?;
        self.engine().rest_step()
    }
}

impl IntoIterator for &Store {
    type Item = Result<(Value, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}
