//! Reads: values that own a share of their segment, and views that borrow.
//!
//! **Concurrency.** No read takes a lock. A read writes one shared bit per record, at the first
//! read of a record that an index checkpoint led to. Readers wait in one case only: a damaged
//! checkpoint, until the indexes are rebuilt.

#[cfg(feature = "bytes")]
pub(crate) mod bytes;
pub(crate) mod copy;
pub(crate) mod iter;
pub(crate) mod key_range;
pub(crate) mod multi_get;
pub(crate) mod ordered;
pub(crate) mod pages_ahead;
pub(crate) mod range;
pub(crate) mod range_buffer;

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, RangeBounds};

use crate::engine::read::iter::ViewIter;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range::ViewRange;
use crate::engine::state::State;
use crate::engine::state::catalog::KeyspaceState;
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::index::key_index::SearchKey;
use crate::mem::address_space::{Record, Slice};
use crate::sync::epoch::Pin;

/// A key or value of the store, not copied: its bytes lie in the mapped file.
///
/// It stays valid after its key is overwritten or removed, and after the store is closed and
/// dropped. Until it is dropped, its segment file stays mapped.
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
    /// Wraps bytes that keep their segment mapped.
    pub(crate) fn from_slice(slice: Slice) -> Self {
        Self(slice)
    }

    /// Returns the value of a record.
    pub(crate) fn of(record: &Record<'_>) -> Self {
        record.bring_large_value();
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

/// Many reads of one keyspace under one pin. Values are borrowed, and no reference is counted.
///
/// A view is not a snapshot: each read sees the newest write. It cannot be sent to another thread.
///
/// A view costs disk and memory, never a writer's time. Until it is dropped, each segment file of
/// its store that compaction removes stays on the disk and mapped. So a store that is steadily
/// overwritten grows by as much as is written. Other stores are not affected. Drop the view when
/// the reads are done, or call [`View::refresh`] now and then.
/// [`Stats::removed_bytes_in_use`](crate::Stats::removed_bytes_in_use) is the size of these files,
/// which count against [`Options::max_disk_bytes`](crate::Options::max_disk_bytes).
/// [`Stats::oldest_pin_wait`](crate::Stats::oldest_pin_wait) is the time for which the oldest pin
/// has delayed them.
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
    /// Keeps the view on its thread, to which the pin belongs.
    here: PhantomData<*const ()>,
}

impl<'s> View<'s> {
    pub(crate) fn new(state: &'s State, keyspace: &'s KeyspaceState) -> Self {
        Self { state, keyspace, pin: state.pins.hold(), here: PhantomData }
    }

    /// Releases the removed files that the view holds, and continues as a view created now.
    ///
    /// It needs `&mut self`, so nothing that was borrowed from the view is left.
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
    /// Fails as [`Reader::get`](crate::Reader::get) does.
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>> {
        let record = self.state.get(self.keyspace, key.as_ref(), &self.pin)?;
        Ok(record.map(|record| record.value()))
    }

    /// Returns `true` if the key exists.
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
    /// Fails as [`Reader::get`](crate::Reader::get) does.
    #[inline]
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.state.get(self.keyspace, key.as_ref(), &self.pin)?.is_some())
    }

    /// Returns an iterator over all keys and values, borrowed from the view, in no order.
    ///
    /// It is the fastest way to read everything. See [`Iter`](crate::Iter) for what it returns
    /// beside writers.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let view = store.view();
    /// let items = view.iter().collect::<mapcask::Result<Vec<_>>>()?;
    /// assert_eq!(items, [(b"a".as_slice(), b"1".as_slice())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter(&self) -> ViewIter<'_> {
        ViewIter::new(self)
    }

    /// Returns an iterator over a range of the keys of an ordered keyspace and their values, in order,
    /// borrowed from the view.
    ///
    /// See [`Reader::range`](crate::Reader::range).
    #[must_use]
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> ViewRange<'_> {
        ViewRange::new(self, KeyRange::of(&range))
    }

    /// Returns an iterator over the keys of an ordered keyspace that begin with `prefix` and their
    /// values, in order, borrowed from the view.
    ///
    /// See [`Reader::prefix`](crate::Reader::prefix).
    #[doc(alias = "scan_prefix")]
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> ViewRange<'_> {
        ViewRange::new(self, KeyRange::of_prefix(prefix.as_ref()))
    }

    /// Appends the values of many keys to `values`, in their order, as of one point in the order of
    /// writes.
    ///
    /// See [`Reader::multi_get`](crate::Reader::multi_get).
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
    /// Fails as [`Reader::get`](crate::Reader::get) does; `values` is then unchanged.
    pub fn get_many_into<'v>(
        &'v self,
        keys: &[impl AsRef<[u8]>],
        values: &mut Vec<Option<&'v [u8]>>,
    ) -> Result<()> {
        self.state.get_many(self.keyspace, keys, &self.pin, values, |record| record.value())
    }
}

impl<'v> IntoIterator for &'v View<'_> {
    type Item = Result<(&'v [u8], &'v [u8])>;
    type IntoIter = ViewIter<'v>;

    fn into_iter(self) -> ViewIter<'v> {
        self.iter()
    }
}

impl State {
    /// Returns the newest visible record of a key.
    #[inline]
    pub(crate) fn get<'p>(
        &'p self,
        keyspace: &'p KeyspaceState,
        key: &[u8],
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        self.fork_guard.check()?;
        let contents = self.contents(keyspace, pin)?;
        let key = self.search_key(key);
        let record = match self.lookup(contents, key, pin) {
            Ok(record) => record,
            Err(error) => self.get_rebuilt(keyspace, key, pin, error)?,
        };
        if let (true, Some(record)) = (self.config.verify_reads, &record) {
            self.check_record(record)?;
        }
        Ok(record)
    }

    /// Returns the newest visible record after a failed lookup: rebuilds a damaged index and
    /// retries.
    #[cold]
    fn get_rebuilt<'p>(
        &'p self,
        keyspace: &'p KeyspaceState,
        key: SearchKey<'_>,
        pin: &'p Pin,
        mut error: Error,
    ) -> Result<Option<Record<'p>>> {
        while self.rebuild_if_damaged(&error)? {
            match self.lookup(self.contents(keyspace, pin)?, key, pin) {
                Err(next) => error = next,
                found => return found,
            }
        }
        Err(error)
    }

    /// Returns the value of a key as an owned value.
    #[inline]
    pub(crate) fn get_value(&self, keyspace: &KeyspaceState, key: &[u8]) -> Result<Option<Value>> {
        let pin = self.pin();
        Ok(self.get(keyspace, key, &pin)?.map(|record| Value::of(&record)))
    }

    /// Returns an owned value, and the sequence number of the write that it is from.
    pub(crate) fn get_with_seq(&self, keyspace: &KeyspaceState, key: &[u8]) -> Result<Option<(Seq, Value)>> {
        let pin = self.pin();
        Ok(self.get(keyspace, key, &pin)?.map(|record| (record.seq(), Value::of(&record))))
    }
}
