//! The handle to an open store.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::api::keyspace::Keyspace;
use crate::api::snapshot::Snapshot;
use crate::config::Durability;
use crate::engine::read::Value;
use crate::engine::read::iter::Iter;
use crate::engine::write::keyspaces::KeyOrder;
use crate::error::Result;
use crate::format::Seq;

/// A persistent hash map, or several of them by name.
///
/// It dereferences to its default [`Keyspace`], the one without a name, so every method of a
/// keyspace is a method of the store, as in `store.insert(..)`. [`Store::keyspace`] returns other
/// keyspaces.
///
/// A clone is cheap and is another handle to the same store. Handles may be used from any thread.
/// Dropping the last handle closes the store as [`Store::close`] does, but discards errors. See the
/// crate's page for [isolation](crate#isolation), [durability](crate#durability),
/// [space](crate#space), [limits](crate#limits), and the effects of [close, kill and
/// `fork`](crate#close-kill-fork-and-failures).
///
/// One process at a time has a store open for writing. Others read it meanwhile through a
/// [`Follower`](crate::Follower); see [several processes](crate#several-processes).
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

/// Borrows the default keyspace.
impl Deref for Store {
    type Target = Keyspace;

    #[inline]
    fn deref(&self) -> &Keyspace {
        &self.default
    }
}

/// Borrows the default keyspace.
impl AsRef<Keyspace> for Store {
    fn as_ref(&self) -> &Keyspace {
        &self.default
    }
}

impl Store {
    /// Returns the keyspace of a name, and creates it if there is none.
    ///
    /// A name is any text of up to 255 bytes. The empty name is that of the default keyspace, which
    /// always exists. Creating a keyspace is a write, as durable as the writes of this handle.
    /// Returning an existing keyspace is a read: it may see one that is not durable yet, and works
    /// after a failed sync.
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
    /// Fails as [`Keyspace::insert`] does. Also `InvalidKeyspaceName`, and `Limit` if there are
    /// 16,384 keyspaces, or after 2^31 - 1 keyspaces and clears.
    #[doc(alias = "open_tree")]
    #[doc(alias = "open_table")]
    #[doc(alias = "open_partition")]
    #[doc(alias = "create_column_family")]
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.keyspace_of(name, "", KeyOrder::Any)
    }

    /// Returns the ordered keyspace of a name, and creates it if there is none.
    ///
    /// Its keys are ordered by their bytes, and at most [`MAX_ORDERED_KEY_LEN`](crate::MAX_ORDERED_KEY_LEN)
    /// bytes long. It does all that other keyspaces do, at somewhat more cost, and has
    /// [`range`](crate::Reader::range), [`prefix`](crate::Reader::prefix),
    /// [`first_key_value`](crate::Reader::first_key_value), [`pop_first`](Keyspace::pop_first) and their
    /// like besides. Its iterators go in order.
    ///
    /// [`Store::keyspace`] returns an ordered keyspace, too, if there is one of the name.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// users.insert("berta", "guest")?;
    /// users.insert("anna", "admin")?;
    /// let (key, value) = users.first_key_value()?.expect("there are two");
    /// assert_eq!((&*key, &*value), (&b"anna"[..], &b"admin"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Store::keyspace`] does. Also `KeyspaceNotOrdered` if there is a keyspace of this name
    /// that is not ordered; the default keyspace never is.
    pub fn ordered_keyspace(&self, name: &str) -> Result<Keyspace> {
        self.keyspace_of(name, "", KeyOrder::Ascending)
    }

    /// Returns the keyspace of a name, and creates nothing.
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
    /// `KeyspaceNotFound` if there is none; `Closed`; `Forked`.
    #[doc(alias = "contains_keyspace")]
    pub fn open_keyspace(&self, name: &str) -> Result<Keyspace> {
        let inner = self.engine().open_keyspace(name)?;
        Ok(Keyspace::new(Arc::clone(self.handle()), inner, self.durability()))
    }

    /// Returns the keyspace of a name, and creates it with this codec and order if there is none.
    pub(crate) fn keyspace_of(&self, name: &str, codec: &str, order: KeyOrder) -> Result<Keyspace> {
        let _events = crate::trace::at_end();
        let inner = self.engine().keyspace(name, codec, order, self.durability())?;
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

    /// Renames a keyspace. Handles to it stay valid.
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
    /// `KeyspaceNotFound`; `KeyspaceExists` if another keyspace has the new name;
    /// `InvalidKeyspaceName`, also if either name is that of the default keyspace. Otherwise fails
    /// as [`Keyspace::insert`] does.
    pub fn rename_keyspace(&self, from: &str, to: &str) -> Result<()> {
        let _events = crate::trace::at_end();
        self.engine().rename_keyspace(from, to, self.durability())
    }

    /// Drops a keyspace with all its keys, in constant time. Returns `true` if it existed.
    ///
    /// Handles to it get [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped) from then on.
    /// Values that were read stay valid. The memory of its index is freed as soon as no reader uses
    /// it, and the bytes on the disk by compaction.
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
    /// Fails as [`Keyspace::insert`] does. Also `InvalidKeyspaceName` for the default keyspace,
    /// which can only be cleared.
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

    /// Makes every acknowledged write durable: each survives power loss once this returns.
    ///
    /// It also updates the modification times of the files that were written to, for programs that
    /// copy changed files.
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
    /// `Poisoned` if a sync failed, in this call or earlier. Of the acknowledged writes that were
    /// not durable, the next open then finds an in-order prefix, possibly empty, with whole
    /// batches. `OpenedReadOnly` if the store is open for reading only and some writes are not
    /// durable.
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

    /// Returns the sequence number of the last write.
    ///
    /// Every write that was acknowledged before this call has at most this number.
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

    /// Returns the sequence number up to which all writes survive power loss.
    ///
    /// If no sync is under way it is the highest such number. It is at most [`Store::last_seq`],
    /// and equal to it once everything is durable.
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

    /// Makes every write up to a sequence number durable, and waits for that.
    ///
    /// The number is one that a write of this store returned, or [`Store::last_seq`], or
    /// [`Snapshot::seq`](crate::Snapshot::seq). If another thread syncs already, both share one
    /// sync.
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
    /// Fails as [`Store::flush`] does. Also `UnknownSeq` if no write has this number yet.
    pub fn wait_durable(&self, seq: Seq) -> Result<()> {
        let _events = crate::trace::at_end();
        self.engine().wait_durable(seq)
    }

    /// Takes a snapshot of all keyspaces, readable while writes and compaction go on.
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

    /// Closes the store for all handles: makes every write durable, marks the files clean, and
    /// frees the lock.
    ///
    /// Values that were read stay valid, and iterators and snapshots stay readable to their ends.
    /// Other handles get [`Error::Closed`](crate::Error::Closed).
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
    /// `Poisoned`, `NoSpace` or `Io` if that failed: the store is closed nevertheless, and the next
    /// open recovers it. `Closed` if the store was already closed.
    pub fn close(self) -> Result<()> {
        self.default.handle().close()
    }

    /// Runs one step of background work, and returns `true` if there was any.
    ///
    /// This is for stores that were opened with [`Options::background`](crate::Options::background) off.
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
    /// Fails as a writer that did this work itself would.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn step(&self) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.engine().fork_guard.check()?;
        self.engine().step()
    }

    /// Runs one step of the work that the background does after a while without writes, and returns
    /// `true` if there was any.
    ///
    /// For example, it gives a store that has become small smaller files. See also
    /// [`step`](Store::step).
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
    /// Fails as [`step`](Store::step) does.
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
