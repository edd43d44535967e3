//! The handle that reads one keyspace and cannot write to it.

use std::fmt;
use std::sync::Arc;

use crate::engine::handle::Handle;
use crate::engine::read::iter::{Iter, Keys, Values};
use crate::engine::read::multi_get::TryGet;
use crate::engine::read::{Value, View};
use crate::engine::state::State;
use crate::engine::state::catalog;
use crate::engine::stats::KeyspaceStats;
use crate::error::Result;

/// A keyspace that can be read through this handle, and not written to.
///
/// Each [`Keyspace`](crate::Keyspace) dereferences to one, so its reading methods stand here. A
/// clone is a handle of its own, for a part of a program that only reads. It sees every write that
/// other handles make, and keeps the store open. A clone is cheap, and may be used from any thread.
///
/// ```
/// use mapcask::Reader;
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let users = store.keyspace("users")?;
/// let reader = Reader::clone(&users);
/// users.insert("anna", "admin")?;
/// assert_eq!(reader.get("anna")?.as_deref(), Some(b"admin".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A write through a reader does not compile:
///
/// ```compile_fail,E0599
/// use mapcask::Reader;
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let users = store.keyspace("users")?;
/// let reader = Reader::clone(&users);
/// reader.insert("anna", "admin")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Reader {
    handle: Arc<Handle>,
    inner: Arc<catalog::KeyspaceState>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("name", &self.name()).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Reader {
    /// Returns the reader of a keyspace of an open store.
    pub(crate) fn new(handle: Arc<Handle>, inner: Arc<catalog::KeyspaceState>) -> Self {
        Self { handle, inner }
    }

    #[inline]
    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    #[inline]
    pub(crate) fn state(&self) -> &State {
        &self.handle.state
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Arc<catalog::KeyspaceState> {
        &self.inner
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
    /// Fails as [`Reader::get`] does.
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
    /// Fails as [`Reader::get`] does.
    #[doc(alias = "exists")]
    #[inline]
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.view().contains_key(key)
    }

    /// Returns the values of many keys, in their order, as of one point in the order of writes.
    ///
    /// The memory loads of the keys overlap, so each costs a fraction of a [`get`](Reader::get).
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
    /// Fails as [`Reader::get`] does.
    #[doc(alias = "get_many")]
    pub fn multi_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Value>>> {
        let mut values = Vec::new();
        self.get_many_into(keys, &mut values)?;
        Ok(values)
    }

    /// Appends the result of [`Reader::multi_get`] to `values`, so that its memory can be reused.
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
    /// Fails as [`Reader::get`] does; `values` is then unchanged.
    pub fn get_many_into(&self, keys: &[impl AsRef<[u8]>], values: &mut Vec<Option<Value>>) -> Result<()> {
        self.state().get_many_values(&self.inner, keys, values)
    }

    /// Starts to load into the processor's cache the memory that gets of these keys will touch.
    ///
    /// It waits for nothing and reads nothing from the disk; for that see [`Reader::try_get`]. It
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
    /// Fails as [`Reader::get`] does. Also `Io` if the kernel gives no answer.
    pub fn try_get(&self, key: impl AsRef<[u8]>) -> Result<TryGet> {
        self.state().try_get(&self.inner, key.as_ref())
    }

    /// Returns the number of keys, in constant time; zero if the keyspace was dropped.
    ///
    /// Just after an open that used hints ([`RecoveryReport::hinted_bytes`](crate::RecoveryReport)), or
    /// whose index checkpoint names segments that compaction has replaced, it first completes the index.
    #[doc(alias = "count")]
    #[doc(alias = "approximate_len")]
    #[must_use]
    pub fn len(&self) -> usize {
        if self.state().fork_guard.check().is_ok() {
            self.state().complete_for_counts();
        }
        let pin = self.inner.pin();
        let keys = self.inner.contents(&pin).map_or(0, catalog::KeyspaceData::keys);
        usize::try_from(keys).unwrap_or(usize::MAX)
    }

    /// Returns `true` if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an iterator over all keys and values: in ascending order if the keyspace is ordered, and
    /// in no order otherwise.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("anna", "admin")?;
    /// store.insert("berta", "guest")?;
    /// let mut users = store.iter().collect::<mapcask::Result<Vec<_>>>()?;
    /// users.sort();
    /// assert_eq!(users[1].0, "berta");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "scan")]
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter::new(Arc::clone(&self.handle.state), Arc::clone(&self.inner))
    }

    /// Returns an iterator over all keys, in the order of [`Reader::iter`].
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys(self.iter())
    }

    /// Returns an iterator over all values, in the order of [`Reader::iter`].
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

impl IntoIterator for &Reader {
    type Item = Result<(Value, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::options::Options;
    use crate::fs::sim::SimDisk;

    #[test]
    fn reader_of_a_handle_reads_the_default_keyspace() {
        let store = Options::new().background(false).open_on(&SimDisk::new()).expect("an empty disk");
        store.insert("a", "1").expect("there is space");
        let handle = Arc::clone(store.handle());
        let inner = Arc::clone(&handle.state.default);
        let reader = Reader::new(handle, inner);
        assert_eq!(reader.get("a").expect("the store is open").as_deref(), Some(b"1".as_slice()));
    }
}
