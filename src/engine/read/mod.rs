//! What reads give out: values that own a share of their segment, and views that borrow.
//!
//! Nothing here takes a lock; what is written that others read is one bit per record, at the first read of a record that an
//! image of the index led to. A damaged image is the one thing that makes a reader wait: for the indexes to be built anew.

#[cfg(feature = "bytes")]
pub(crate) mod bytes;
pub(crate) mod copy;
pub(crate) mod iter;
pub(crate) mod multi_get;

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::engine::state::State;
use crate::engine::state::catalog::KeyspaceState;
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::hash::Hash;
use crate::mem::address_space::{Record, Slice};
use crate::sync::epoch::Pin;

/// A key or value of the store, without a copy: it lies in the mapped file.
///
/// It stays valid after the key was overwritten or removed, and after the store was closed and dropped; as long as it
/// lives, its segment file stays mapped.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("a", "1")?;
/// let value = store.get("a")?.expect("just inserted");
/// store.remove("a")?;
/// drop(store);
/// assert_eq!(value, "1");
/// assert_eq!(value.len(), 1);
/// let copy: Vec<u8> = value.into();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "IVec")]
#[doc(alias = "Slice")]
#[doc(alias = "PinnableSlice")]
#[doc(alias = "AccessGuard")]
#[derive(Clone)]
pub struct Value(pub(crate) Slice);

impl Value {
    /// Bytes that keep their segment mapped.
    pub(crate) fn from_slice(slice: Slice) -> Self {
        Self(slice)
    }

    /// The value of a record.
    pub(crate) fn of(record: &Record<'_>) -> Self {
        Self(record.keep_value())
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Value {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Value {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        value.to_vec()
    }
}

/// Many reads of one keyspace under one pin: values are borrowed, and no reference is counted.
///
/// A view is no snapshot: each read sees the newest write. It stays on its thread.
///
/// Holding one costs disk and memory, never a writer's time: as long as it lives, every segment file of its store that
/// compaction removes stays on the disk and mapped, so that a store that is overwritten all the while grows by as much as is
/// written. Other stores are not affected. Drop it when the reads are done, or let go with [`View::refresh`] now and then.
/// [`Stats::removed_bytes_in_use`](crate::Stats::removed_bytes_in_use) says how much is held back, which counts against
/// [`Options::max_disk_bytes`](crate::Options::max_disk_bytes), and
/// [`Stats::oldest_pin_wait`](crate::Stats::oldest_pin_wait) for how long.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("a", "1")?;
/// let view = store.view();
/// store.insert("a", "2")?;
/// assert_eq!(view.get("a")?, Some(b"2".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct View<'s> {
    pub(crate) state: &'s State,
    keyspace: &'s KeyspaceState,
    pin: Pin,
    /// The pin belongs to the thread.
    here: PhantomData<*const ()>,
}

impl<'s> View<'s> {
    pub(crate) fn new(state: &'s State, keyspace: &'s KeyspaceState) -> Self {
        Self { state, keyspace, pin: state.pins.hold(), here: PhantomData }
    }

    /// Lets go of what the view holds back, and goes on as a view taken now. What was borrowed from it is gone before.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let mut view = store.view();
    /// for _ in 0..3 {
    ///     assert_eq!(view.get("a")?, Some(b"1".as_slice()));
    ///     view.refresh();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refresh(&mut self) {
        self.state.pins.renew(&mut self.pin);
    }

    /// Returns the value of a key, borrowed from the view.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let view = store.view();
    /// let (a, b) = (view.get("a")?, view.get("b")?);
    /// assert_eq!((a, b), (Some(b"1".as_slice()), None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`KeyspaceState::get`](crate::Keyspace::get).
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>> {
        let record = self.state.get(self.keyspace, key.as_ref(), &self.pin)?;
        Ok(record.map(|record| record.value()))
    }

    /// Returns whether the key is there.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// assert!(store.view().contains_key("a")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`KeyspaceState::get`](crate::Keyspace::get).
    #[inline]
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.state.get(self.keyspace, key.as_ref(), &self.pin)?.is_some())
    }

    /// Appends the values of many keys to `values`, in the order of the keys, all as of one moment; see
    /// [`KeyspaceState::multi_get`](crate::Keyspace::multi_get).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let view = store.view();
    /// let mut values = Vec::new();
    /// view.get_many_into(&["a", "b"], &mut values)?;
    /// assert_eq!(values, [Some(b"1".as_slice()), None]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`KeyspaceState::get`](crate::Keyspace::get); `values` is as it was then.
    pub fn get_many_into<'v>(
        &'v self,
        keys: &[impl AsRef<[u8]>],
        values: &mut Vec<Option<&'v [u8]>>,
    ) -> Result<()> {
        self.state.get_many(self.keyspace, keys, &self.pin, values, |record| record.value())
    }
}

impl State {
    /// The newest visible record of a key.
    #[inline]
    pub(crate) fn get<'p>(
        &'p self,
        keyspace: &'p KeyspaceState,
        key: &[u8],
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        self.fork_guard.check()?;
        let contents = self.contents(keyspace, pin)?;
        let hash = self.hash_key.hash(key);
        let record = match self.lookup(contents, hash, key, pin) {
            Ok(record) => record,
            Err(error) => self.get_rebuilt(keyspace, hash, key, pin, error)?,
        };
        if let (true, Some(record)) = (self.config.verify_reads, &record) {
            self.check_record(record)?;
        }
        Ok(record)
    }

    /// The newest visible record, for a lookup that failed: a damaged image is no reason not to find it.
    #[cold]
    fn get_rebuilt<'p>(
        &'p self,
        keyspace: &'p KeyspaceState,
        hash: Hash,
        key: &[u8],
        pin: &'p Pin,
        mut error: Error,
    ) -> Result<Option<Record<'p>>> {
        while self.rebuild_if_damaged(&error)? {
            match self.lookup(self.contents(keyspace, pin)?, hash, key, pin) {
                Err(next) => error = next,
                found => return found,
            }
        }
        Err(error)
    }

    /// An owned value.
    #[inline]
    pub(crate) fn get_value(&self, keyspace: &KeyspaceState, key: &[u8]) -> Result<Option<Value>> {
        let pin = self.pin();
        Ok(self.get(keyspace, key, &pin)?.map(|record| Value::of(&record)))
    }

    /// An owned value, and the number of the write that it is from.
    pub(crate) fn get_with_seq(&self, keyspace: &KeyspaceState, key: &[u8]) -> Result<Option<(Seq, Value)>> {
        let pin = self.pin();
        Ok(self.get(keyspace, key, &pin)?.map(|record| (record.seq(), Value::of(&record))))
    }
}
