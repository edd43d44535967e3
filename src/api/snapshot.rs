//! Snapshots: a store as of one moment.
//!
//! How one is kept is `versions`' business. Reading: a record of the index that is not newer than the snapshot is what the
//! key had; else what had been there before is among the versions, or there was nothing.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::read::Value;
use crate::engine::state::State;
use crate::engine::state::catalog::{ByName, KeyspaceAsOf, KeyspaceState};
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::index::checkpoint::is_of_checkpoint;
use crate::index::hash::scan::Cursor;
use crate::mem::address_space::OwnedRecord;
use crate::mem::location::Location;

/// How many records an iterator asks for ahead of giving them out.
const AHEAD: usize = 64;

/// All keyspaces of a store as of one moment, while writes and compaction go on.
///
/// Taking one costs the same at any size, and reading from it about what reading from the store costs. It never holds
/// up a writer. While it is alive, each value that it sees and that is overwritten or removed takes some 200 bytes of memory
/// besides its place in the files, whose room comes back when the snapshot is dropped; see
/// [`Stats::snapshot_bytes`](crate::Stats::snapshot_bytes). It stays readable after the store was closed and dropped.
///
/// The snapshot itself is a handle to the keyspace without a name, and has all methods of [`KeyspaceSnapshot`]. Clones are
/// the same snapshot.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("a", "1")?;
/// let snapshot = store.snapshot();
/// store.insert("a", "2")?;
/// store.insert("b", "2")?;
/// assert_eq!(snapshot.get("a")?.as_deref(), Some(b"1".as_slice()));
/// assert_eq!(snapshot.get("b")?, None);
/// assert_eq!(snapshot.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "ReadTransaction")]
#[doc(alias = "RoTxn")]
#[doc(alias = "begin_read")]
#[derive(Clone)]
pub struct Snapshot {
    default: KeyspaceSnapshot,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("seq", &self.seq()).finish_non_exhaustive()
    }
}

impl Deref for Snapshot {
    type Target = KeyspaceSnapshot;

    fn deref(&self) -> &KeyspaceSnapshot {
        &self.default
    }
}

/// One keyspace as of the moment of a snapshot; see [`Snapshot`].
#[derive(Clone)]
pub struct KeyspaceSnapshot {
    held: Arc<HeldSnapshot>,
    keyspace: Arc<KeyspaceState>,
    seen: KeyspaceAsOf,
}

impl fmt::Debug for KeyspaceSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyspaceSnapshot").field("seq", &self.held.at).finish_non_exhaustive()
    }
}

/// A snapshot, until the last handle to it is gone.
struct HeldSnapshot {
    state: Arc<State>,
    at: Seq,
    taken: Duration,
    names: Arc<ByName>,
}

impl Drop for HeldSnapshot {
    fn drop(&mut self) {
        if self.state.fork_guard.is_forked() {
            // The locks may be held by threads that this process does not have, and the state is not taken apart either.
            std::mem::forget(Arc::clone(&self.state));
            return;
        }
        self.state.catalog.snapshots.release(self.at);
    }
}

impl Snapshot {
    pub(crate) fn take(state: &Arc<State>) -> Self {
        if state.fork_guard.is_forked() {
            return Self::of_nothing(state);
        }
        let taken = state.shared.dir.now();
        let writer = state.writer.lock();
        let at = writer.log.last_user();
        state.catalog.snapshots.take(at, taken);
        let names = state.catalog.names();
        drop(writer);
        let held = Arc::new(HeldSnapshot { state: Arc::clone(state), at, taken, names });
        let seen = state.default.as_of(at).expect("the default keyspace is never dropped");
        let keyspace = Arc::clone(&state.default);
        Self { default: KeyspaceSnapshot { held, keyspace, seen } }
    }

    /// What a forked child gets: every read from it is refused. No lock is taken for it.
    fn of_nothing(state: &Arc<State>) -> Self {
        let (at, taken) = (state.last_seq(), state.shared.dir.now());
        let held = Arc::new(HeldSnapshot { state: Arc::clone(state), at, taken, names: Arc::default() });
        let keyspace = Arc::clone(&state.default);
        let seen = keyspace.seen_now().expect("the default keyspace is never dropped");
        Self { default: KeyspaceSnapshot { held, keyspace, seen } }
    }

    /// Returns a keyspace as it was.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.keyspace("users")?.insert("anna", "admin")?;
    /// let snapshot = store.snapshot();
    /// store.drop_keyspace("users")?;
    /// assert!(snapshot.keyspace("users")?.contains_key("anna")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound` where there was none of this name; `Forked`.
    pub fn keyspace(&self, name: &str) -> Result<KeyspaceSnapshot> {
        self.default.check()?;
        let held = &self.default.held;
        let there = held.names.get(name).and_then(|keyspace| Some((keyspace, keyspace.as_of(held.at)?)));
        let (keyspace, seen) = there.ok_or_else(|| Error::KeyspaceNotFound { name: name.to_owned() })?;
        Ok(KeyspaceSnapshot { held: Arc::clone(held), keyspace: Arc::clone(keyspace), seen })
    }

    /// Returns the names of all keyspaces that there were but the default one, in order.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.keyspace("users")?;
    /// let snapshot = store.snapshot();
    /// store.rename_keyspace("users", "people")?;
    /// assert_eq!(snapshot.keyspace_names(), ["users"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn keyspace_names(&self) -> Vec<String> {
        let names = self.default.held.names.keys().filter(|name| !name.is_empty());
        names.map(ToString::to_string).collect()
    }

    /// Returns the number of the last write that the snapshot sees; [`Store::wait_durable`](crate::Store::wait_durable) takes
    /// it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let seq = store.insert("a", "1")?;
    /// assert_eq!(store.snapshot().seq(), seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.default.held.at
    }

    /// Returns how long ago the snapshot was taken.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let snapshot = store.snapshot();
    /// if snapshot.age() > std::time::Duration::from_secs(60) {
    ///     eprintln!("a minute old: {} bytes are kept for snapshots", store.stats().snapshot_bytes);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn age(&self) -> Duration {
        let held = &self.default.held;
        held.state.shared.dir.now().saturating_sub(held.taken)
    }
}

impl KeyspaceSnapshot {
    /// Returns the value that a key had.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let snapshot = store.snapshot();
    /// store.remove("a")?;
    /// assert_eq!(snapshot.get("a")?.as_deref(), Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt`, as for [`KeyspaceState::get`](crate::Keyspace::get); `Forked`. A closed store is no hindrance.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.check()?;
        Ok(self.find(key.as_ref())?.map(|record| Value::from_slice(record.into_value())))
    }

    /// Returns whether a key was there.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let snapshot = store.snapshot();
    /// store.insert("a", "1")?;
    /// assert!(!snapshot.contains_key("a")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](KeyspaceSnapshot::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.check()?;
        Ok(self.find(key.as_ref())?.is_some())
    }

    /// Returns the values that many keys had, in the order of the keys.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let snapshot = store.snapshot();
    /// store.insert("a", "2")?;
    /// let values = snapshot.multi_get(&["a", "b"])?;
    /// assert_eq!(values[0].as_deref(), Some(b"1".as_slice()));
    /// assert_eq!(values[1], None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](KeyspaceSnapshot::get).
    pub fn multi_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Value>>> {
        self.check()?;
        for key in keys {
            self.seen.index.prefetch(self.held.state.hash_of(key.as_ref()));
        }
        let mut values = Vec::new();
        self.held.state.room_for(&mut values, keys.len())?;
        for key in keys {
            values.push(self.find(key.as_ref())?.map(|record| Value::from_slice(record.into_value())));
        }
        Ok(values)
    }

    /// Returns an iterator over all keys and values that there were, in no order.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// for item in store.snapshot().iter() {
    ///     let (key, value) = item?;
    ///     store.insert(key, [&*value, b"2"].concat())?;
    /// }
    /// assert_eq!(store.get("a")?.as_deref(), Some(b"12".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter(&self) -> SnapshotIter {
        SnapshotIter {
            snapshot: self.clone(),
            cursor: Some(Cursor::START),
            found: Vec::new(),
            places: Vec::new(),
        }
    }

    /// A child made by `fork` has none of the threads that might hold a lock.
    fn check(&self) -> Result<()> {
        self.held.state.fork_guard.check_inherited()
    }

    fn find(&self, key: &[u8]) -> Result<Option<OwnedRecord>> {
        self.mended(|seen| self.find_in(seen, key))
    }

    /// Reads; again, where an index was damaged that came from an image, and was built anew.
    fn mended<T>(&self, mut read: impl FnMut(&KeyspaceAsOf) -> Result<T>) -> Result<T> {
        let error = match read(&self.seen) {
            Err(error) if is_of_checkpoint(&error) => error,
            found => return found,
        };
        let is_another = |seen: &KeyspaceAsOf| !Arc::ptr_eq(&seen.index, &self.seen.index);
        let built = || self.keyspace.as_of(self.held.at).filter(is_another);
        // Before, or now.
        let seen = match built() {
            None if self.held.state.rebuild_if_damaged(&error)? => built(),
            built => built,
        };
        match seen {
            Some(seen) => read(&seen),
            // It was dropped or cleared since, and what it was is built by nobody.
            None => Err(error),
        }
    }

    fn find_in(&self, seen: &KeyspaceAsOf, key: &[u8]) -> Result<Option<OwnedRecord>> {
        let held = &self.held;
        let state = &*held.state;
        let pin = state.pin();
        let hash = state.hash_of(key);
        let mut hit = None;
        seen.index.find(hash, |location| {
            let record = state.record_as_it_is(location, &pin)?;
            if record.is_of(seen.id, key) {
                state.check_replaced(&record)?;
                hit = Some((location, record));
                return Ok(true);
            }
            state.check_record(&record)?;
            Ok::<bool, Error>(false)
        })?;
        if let Some((location, record)) = hit.filter(|(_, record)| record.seq() <= held.at) {
            // What is not newer than a snapshot is part of no batch in progress.
            if !record.is_put() || state.config.verify_reads {
                state.check_record(&record)?;
            }
            state.check_first(&seen.index, hash, location, &record)?;
            return Ok(record.is_put().then(|| record.keep_record()));
        }
        Ok(seen.versions.find(seen.index.order_of(hash), key, held.at))
    }
}

impl KeyspaceSnapshot {
    /// Gathers what there was in the buckets from a cursor on; the next cursor.
    fn gather_from(
        &self,
        seen: &KeyspaceAsOf,
        from: Cursor,
        places: &mut Vec<Location>,
        found: &mut Vec<OwnedRecord>,
    ) -> Result<Option<Cursor>> {
        let held = &self.held;
        let state = &*held.state;
        let pin = state.pin();
        let mut cursor = Some(from);
        places.clear();
        while let Some(at) = cursor.filter(|_| places.len() < AHEAD) {
            cursor = seen.index.scan(at, places)?;
        }
        for location in &*places {
            state.shared.space.prefetch(*location);
        }
        for location in &*places {
            let record = state.record(*location, &pin)?;
            if record.seq() <= held.at {
                if !record.is_put() || state.config.verify_reads {
                    state.check_record(&record)?;
                }
                if seen.index.is_from_checkpoint() {
                    state.check_first(&seen.index, state.hash_of(record.key()), *location, &record)?;
                }
                state.check_replaced(&record)?;
                found.extend(record.is_put().then(|| record.keep_record()));
            }
        }
        // After the index: what was replaced or removed before it was looked at there is here by now. What was replaced
        // in between is in both, as the same record.
        seen.versions.between(from.order(), cursor.map(Cursor::order), held.at, found);
        found.sort_unstable_by_key(OwnedRecord::seq);
        found.dedup_by_key(|record| record.seq());
        Ok(cursor)
    }
}

/// An iterator over all keys and values as of the moment of a snapshot, in no order: each exactly once.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("a", "1")?;
/// let mut iter = store.snapshot().iter();
/// store.clear()?;
/// assert_eq!(iter.next().transpose()?.map(|(key, _)| key).as_deref(), Some(b"a".as_slice()));
/// assert!(iter.next().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SnapshotIter {
    snapshot: KeyspaceSnapshot,
    cursor: Option<Cursor>,
    /// What comes next, the last one first.
    found: Vec<OwnedRecord>,
    /// Places in the index; kept for their memory.
    places: Vec<Location>,
}

impl SnapshotIter {
    /// Gathers what there was in the next buckets.
    fn gather(&mut self, from: Cursor) -> Result<()> {
        let Self { snapshot, places, found, .. } = self;
        let cursor = snapshot.mended(|seen| {
            found.clear();
            snapshot.gather_from(seen, from, places, found)
        })?;
        self.cursor = cursor;
        Ok(())
    }
}

impl Iterator for SnapshotIter {
    type Item = Result<(Value, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.found.pop() {
                let (key, value) = record.into_parts();
                return Some(Ok((Value::from_slice(key), Value::from_slice(value))));
            }
            let cursor = self.cursor.take()?;
            if let Err(error) = self.snapshot.check().and_then(|()| self.gather(cursor)) {
                self.found.clear();
                return Some(Err(error));
            }
        }
    }
}

impl std::iter::FusedIterator for SnapshotIter {}

impl IntoIterator for &KeyspaceSnapshot {
    type Item = Result<(Value, Value)>;
    type IntoIter = SnapshotIter;

    fn into_iter(self) -> SnapshotIter {
        self.iter()
    }
}

impl IntoIterator for &Snapshot {
    type Item = Result<(Value, Value)>;
    type IntoIter = SnapshotIter;

    fn into_iter(self) -> SnapshotIter {
        self.iter()
    }
}
