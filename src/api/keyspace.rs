//! The handle to one keyspace of a store.

use std::fmt;
use std::sync::Arc;

use super::write_batch::WriteBatch;
use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::handle::Handle;
use crate::engine::read::iter::{Iter, Keys, Values};
use crate::engine::read::multi_get::TryGet;
use crate::engine::read::{Value, View};
use crate::engine::state::State;
use crate::engine::state::catalog;
use crate::engine::stats::KeyspaceStats;
use crate::engine::write::{Condition, KeyWrite, Outcome, Returning};
use crate::error::Result;
use crate::format::Seq;

/// A named map in a store: a tree, table, partition or column family of other stores.
///
/// All keyspaces of a store share its log. So a [`WriteBatch`] spans them, and a crash leaves all
/// of them as of one point in the order of writes. Each has an index of its own, of about 16 bytes
/// per key, or up to 256 KiB while it is small. A clone is cheap. Handles may be used from any
/// thread, and keep the store open.
///
/// The store itself is a handle to the keyspace without a name, and has all these methods.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let users = store.keyspace("users")?;
/// users.insert("anna", "admin")?;
/// assert_eq!(users.get("anna")?.as_deref(), Some(b"admin".as_slice()));
/// assert_eq!(store.get("anna")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Tree")]
#[doc(alias = "Table")]
#[doc(alias = "Partition")]
#[doc(alias = "ColumnFamily")]
#[derive(Clone)]
pub struct Keyspace {
    handle: Arc<Handle>,
    inner: Arc<catalog::KeyspaceState>,
    durability: Durability,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspace")
            .field("name", &self.name())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Keyspace {
    pub(crate) fn new(
        handle: Arc<Handle>,
        inner: Arc<catalog::KeyspaceState>,
        durability: Durability,
    ) -> Self {
        Self { handle, inner, durability }
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    #[inline]
    pub(crate) fn state(&self) -> &State {
        &self.handle.state
    }

    /// Returns the engine of the store.
    #[inline]
    pub(crate) fn engine(&self) -> &Engine {
        &self.handle.engine
    }

    pub(crate) fn inner(&self) -> &Arc<catalog::KeyspaceState> {
        &self.inner
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    #[inline]
    pub(crate) fn change(&self, change: &KeyWrite<'_>) -> Result<Outcome> {
        let _events = crate::trace::at_end();
        self.engine().change(&self.inner, change, self.durability)
    }

    /// Returns the keyspace's name, empty for the default one. A dropped keyspace keeps its last
    /// name.
    #[must_use]
    pub fn name(&self) -> String {
        if self.state().fork_guard.is_forked() {
            return String::new();
        }
        self.inner.name().to_string()
    }

    /// Returns a handle whose writes are at least this durable.
    ///
    /// A level below that of this handle has no effect: durability is raised per write, never
    /// lowered.
    ///
    /// ```
    /// use mapcask::Durability;
    ///
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.keyspace("users")?;
    /// users.insert("anna", "admin")?; // survives a kill
    /// users.with_durability(Durability::Disk).insert("berta", "guest")?; // both survive power loss from here on
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self { durability: self.durability.max(durability), ..self.clone() }
    }

    /// Returns the value of a key, without copying it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let value = store.get("a")?.expect("just inserted");
    /// assert_eq!(value, b"1");
    /// assert_eq!(store.get("b")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt` if the record is damaged; `Io` if a page of it cannot be read; `MissingSegment` if
    /// its file is gone; `KeyspaceDropped`; `Closed`; `Forked`.
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.state().get_value(&self.inner, key.as_ref())
    }

    /// Copies the value of a key into `value`, verified by its checksum, and returns `true` if the
    /// key exists. Clears `value` first.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let mut value = Vec::new();
    /// assert!(store.get_into("a", &mut value)?);
    /// assert_eq!(value, b"1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::get`] does.
    pub fn get_into(&self, key: impl AsRef<[u8]>, value: &mut Vec<u8>) -> Result<bool> {
        self.state().get_into(&self.inner, key.as_ref(), value)
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
        View::new(self.state(), &self.inner)
    }

    /// Returns `true` if the key exists.
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::get`] does.
    #[doc(alias = "exists")]
    #[inline]
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.view().contains_key(key)
    }

    /// Returns the values of many keys, in their order, as of one point in the order of writes.
    ///
    /// The memory loads of the keys overlap, so each costs a fraction of a [`get`](Keyspace::get).
    /// After three attempts that a write overlapped, it reads under the writer mutex.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let values = store.multi_get(&["a", "b"])?;
    /// assert_eq!(values[0].as_deref(), Some(b"1".as_slice()));
    /// assert_eq!(values[1], None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::get`] does.
    #[doc(alias = "get_many")]
    pub fn multi_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Value>>> {
        let mut values = Vec::new();
        self.get_many_into(keys, &mut values)?;
        Ok(values)
    }

    /// Appends the result of [`Keyspace::multi_get`] to `values`, so that its memory can be reused.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let mut values = Vec::new();
    /// store.get_many_into(&["a", "b"], &mut values)?;
    /// assert_eq!(values.iter().flatten().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::get`] does; `values` is then unchanged.
    pub fn get_many_into(&self, keys: &[impl AsRef<[u8]>], values: &mut Vec<Option<Value>>) -> Result<()> {
        self.state().get_many_values(&self.inner, keys, values)
    }

    /// Starts to load into the processor's cache the memory that gets of these keys will touch.
    ///
    /// It waits for nothing and reads nothing from the disk; for that see [`Keyspace::try_get`]. It
    /// pays off if there is other work to do before the gets.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// # store.insert("a", "1")?;
    /// store.prefetch(&["a"]);
    /// // ... something else, for a microsecond ...
    /// assert!(store.get("a")?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefetch(&self, keys: &[impl AsRef<[u8]>]) {
        self.state().prefetch(&self.inner, keys);
    }

    /// Returns the value of a key, or [`TryGet::NotResident`] if reading it would wait for the
    /// disk.
    ///
    /// In that case the kernel was asked to read it, so a later call will find it. For callers that
    /// must not block, such as async tasks, which hand such a read to a thread that may. Costs one
    /// or two system calls and, shortly after an open, sometimes the read of one block of the
    /// checkpoint. It is a hint: the kernel may evict memory before it is touched. On systems other
    /// than Linux it returns the value, and may block shortly after an open.
    ///
    /// ```
    /// use mapcask::TryGet;
    ///
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let value = match store.try_get("a")? {
    ///     TryGet::Ready(value) => value,
    ///     TryGet::NotResident => std::thread::spawn(move || store.get("a")).join().expect("no panic")?,
    /// };
    /// assert_eq!(value.as_deref(), Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::get`] does. Also `Io` if the kernel gives no answer.
    pub fn try_get(&self, key: impl AsRef<[u8]>) -> Result<TryGet> {
        self.state().try_get(&self.inner, key.as_ref())
    }

    /// Inserts a key, or overwrites its value. Returns the write's sequence number.
    ///
    /// The old value is not returned, which would cost a read; see [`Keyspace::replace`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let first = store.insert("a", "1")?;
    /// let second = store.insert("a", "2")?;
    /// assert!(second > first);
    /// assert_eq!(store.get("a")?.as_deref(), Some(b"2".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyTooLarge` or `ValueTooLarge`; `NoSpace` or `DiskLimit`, until there is space again;
    /// `Poisoned` after a failed sync; `KeyspaceDropped`, `Corrupt`, `Closed`, `Forked`, `Io`. An
    /// error means that nothing was written, with one exception: after `Poisoned` by the sync of
    /// this very write, at [`Durability::Disk`], the next open may or may not find it.
    #[doc(alias = "upsert")]
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    #[inline]
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Seq> {
        let value = Some(value.as_ref());
        let change =
            KeyWrite { key: key.as_ref(), value, condition: Condition::Always, keep: Returning::Nothing };
        match self.change(&change)? {
            Outcome::Done { seq, .. } => Ok(seq),
            Outcome::Refused(_) => unreachable!("there is no condition"),
        }
    }

    /// Removes a key, and returns `true` if it existed.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// assert!(store.remove("a")?);
    /// assert!(!store.remove("a")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "del")]
    #[doc(alias = "delete")]
    #[inline]
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let change = KeyWrite { key, value: None, condition: Condition::Always, keep: Returning::Nothing };
        let outcome = self.change(&change)?;
        Ok(matches!(outcome, Outcome::Done { was_there: true, .. }))
    }

    /// Writes a batch as a whole or not at all, and returns its last sequence number.
    ///
    /// A batch without writes returns the number of the last write before it. Operations for which
    /// the batch names no keyspace apply to this one.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.keyspace("users")?;
    /// let mut batch = mapcask::WriteBatch::new();
    /// batch.insert("anna", "admin");
    /// batch.on(&store).insert("users", "1");
    /// let seq = users.write(&batch)?;
    /// assert_eq!(users.get("anna")?.as_deref(), Some(b"admin".as_slice()));
    /// assert_eq!(store.last_seq(), seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does. Also `BatchTooLarge` if its records exceed 4 GiB - 1
    /// bytes, `ConditionFailed`, `ForeignKeyspace`.
    #[doc(alias = "transaction")]
    #[doc(alias = "apply_batch")]
    #[doc(alias = "commit")]
    pub fn write(&self, batch: impl AsRef<WriteBatch>) -> Result<Seq> {
        let _events = crate::trace::at_end();
        self.engine().write(&self.inner, &batch.as_ref().ops, self.durability)
    }

    /// Removes all keys in constant time, and returns the write's sequence number.
    ///
    /// If there is no key, nothing is written, and the number is that of the last write. Its place
    /// is in the order of all writes: no reader sees a part of it, and after a crash it happened or
    /// did not. Values that were read stay valid. The index's memory is freed once no reader uses
    /// it, and the bytes on the disk by compaction.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let cache = store.keyspace("cache")?;
    /// cache.insert("a", "1")?;
    /// cache.clear()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does. Also `Limit` after 2^32 - 1 keyspaces and clears.
    #[doc(alias = "truncate")]
    pub fn clear(&self) -> Result<Seq> {
        let _events = crate::trace::at_end();
        self.engine().clear_keyspace(&self.inner, self.durability)
    }

    /// Returns the number of keys, in constant time; zero if the keyspace was dropped.
    #[doc(alias = "count")]
    #[doc(alias = "approximate_len")]
    #[must_use]
    pub fn len(&self) -> usize {
        let pin = self.inner.pin();
        let keys = self.inner.contents(&pin).map_or(0, catalog::KeyspaceData::keys);
        usize::try_from(keys).unwrap_or(usize::MAX)
    }

    /// Returns `true` if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an iterator over all keys and values, in no order.
    ///
    /// There are no ranges or prefixes yet: use a keyspace per prefix, or filter.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("user/anna", "admin")?;
    /// store.insert("user/berta", "guest")?;
    /// store.insert("version", "7")?;
    /// let mut users = Vec::new();
    /// for item in store.iter() {
    ///     let (key, value) = item?;
    ///     if key.starts_with(b"user/") {
    ///         users.push((key, value));
    ///     }
    /// }
    /// users.sort();
    /// assert_eq!(users[1].0, "user/berta");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "scan_prefix")]
    #[doc(alias = "prefix")]
    #[doc(alias = "range")]
    #[doc(alias = "scan")]
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter::new(Arc::clone(&self.handle.state), Arc::clone(&self.inner))
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

    /// Returns a snapshot of the keyspace's counters.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.keyspace("users")?;
    /// users.insert("anna", "admin")?;
    /// let stats = users.keyspace_stats()?;
    /// assert_eq!(stats.keys, 1);
    /// assert!(stats.live_bytes > 0 && stats.live_bytes <= store.stats().live_bytes);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`.
    #[doc(alias = "stats")]
    pub fn keyspace_stats(&self) -> Result<KeyspaceStats> {
        self.state().keyspace_stats(&self.inner)
    }
}

impl IntoIterator for &Keyspace {
    type Item = Result<(Value, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}
