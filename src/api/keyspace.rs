//! The handle to one keyspace of a store.

use std::fmt;
use std::ops::{Deref, RangeBounds};
use std::sync::Arc;

use super::reader::Reader;
use super::write_batch::WriteBatch;
use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::handle::Handle;
use crate::engine::read::Value;
use crate::engine::read::iter::Iter;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range_buffer::End;
use crate::engine::state::catalog;
use crate::engine::write::pop::PopOutcome;
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
/// The store itself is a handle to the keyspace without a name, and has all these methods. The
/// methods that read are those of [`Reader`], which a keyspace dereferences to.
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
    reader: Reader,
    durability: Durability,
}

/// Borrows the part that reads.
impl Deref for Keyspace {
    type Target = Reader;

    #[inline]
    fn deref(&self) -> &Reader {
        &self.reader
    }
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
        Self { reader: Reader::new(handle, inner), durability }
    }

    /// Returns the engine of the store.
    #[inline]
    pub(crate) fn engine(&self) -> &Engine {
        &self.reader.handle().engine
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    #[inline]
    pub(crate) fn change(&self, change: &KeyWrite<'_>) -> Result<Outcome> {
        let _events = crate::trace::at_end();
        self.engine().change(self.reader.inner(), change, self.durability)
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

    /// Removes the first key of an ordered keyspace, and returns it with its value.
    ///
    /// It is one step: two callers never get the same key. The value is verified. A damaged one is an
    /// error, and stays.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let jobs = store.ordered_keyspace("jobs")?;
    /// jobs.insert("2/clean", "")?;
    /// jobs.insert("1/repair", "")?;
    /// let (job, _) = jobs.pop_first()?.expect("there are two");
    /// assert_eq!(job, "1/repair");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does. Also `KeyspaceNotOrdered`.
    #[doc(alias = "pop_min")]
    pub fn pop_first(&self) -> Result<Option<(Value, Value)>> {
        self.pop(&KeyRange::all(), End::Front)
    }

    /// Removes the last key of an ordered keyspace, and returns it with its value; see
    /// [`Keyspace::pop_first`].
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::pop_first`] does.
    #[doc(alias = "pop_max")]
    pub fn pop_last(&self) -> Result<Option<(Value, Value)>> {
        self.pop(&KeyRange::all(), End::Back)
    }

    /// Removes the first key of a range of an ordered keyspace, and returns it with its value; see
    /// [`Keyspace::pop_first`].
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::pop_first`] does.
    #[doc(alias = "pop_first_in_range")]
    pub fn pop_first_in<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Option<(Value, Value)>> {
        self.pop(&KeyRange::of(&range), End::Front)
    }

    /// Removes the last key of a range of an ordered keyspace, and returns it with its value; see
    /// [`Keyspace::pop_first`].
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::pop_first`] does.
    #[doc(alias = "pop_last_in_range")]
    pub fn pop_last_in<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Option<(Value, Value)>> {
        self.pop(&KeyRange::of(&range), End::Back)
    }

    pub(super) fn pop(&self, range: &KeyRange, end: End) -> Result<Option<(Value, Value)>> {
        match self.pop_if(range, end, |_| true)? {
            PopOutcome::Done(found) => Ok(found),
            PopOutcome::Refused => unreachable!("every record is accepted"),
        }
    }

    /// Pops a key if the caller accepts its sequence number; see [`Engine::pop`].
    pub(super) fn pop_if(
        &self,
        range: &KeyRange,
        end: End,
        accepts: impl Fn(Option<Seq>) -> bool,
    ) -> Result<PopOutcome> {
        let _events = crate::trace::at_end();
        self.engine().pop(self.reader.inner(), range, end, self.durability, accepts)
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
        self.engine().write(self.reader.inner(), &batch.as_ref().ops, self.durability)
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
    /// Fails as [`Keyspace::insert`] does. Also `Limit` after 2^31 - 1 keyspaces and clears.
    #[doc(alias = "truncate")]
    pub fn clear(&self) -> Result<Seq> {
        let _events = crate::trace::at_end();
        self.engine().clear_keyspace(self.reader.inner(), self.durability)
    }
}

impl IntoIterator for &Keyspace {
    type Item = Result<(Value, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}
