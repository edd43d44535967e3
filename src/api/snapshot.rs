//! Snapshots: all keyspaces of a store as of one point in the order of writes.
//!
//! `engine::state::snapshot_registry` keeps the retained versions. A read looks up the index first:
//! a record that is not newer than the snapshot is the key's value. Otherwise the value is among
//! the retained versions, or the key was absent.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::read::Value;
use crate::engine::read::multi_get::WINDOW;
use crate::engine::read::pages_ahead::PagesAhead;
use crate::engine::state::State;
use crate::engine::state::catalog::{ByName, KeyspaceAsOf, KeyspaceState};
use crate::engine::state::hinted_records::waiting_part;
use crate::engine::state::lookup::{FoundRecord, Lookup};
use crate::error::{Error, Result};
use crate::format::{KeyspaceId, Seq};
use crate::index::checkpoint::is_of_checkpoint;
use crate::index::key_index::ScanPosition;
use crate::mem::address_space::OwnedRecord;
use crate::mem::location::Location;

/// The number of records that an iterator prefetches before it returns them.
const AHEAD: usize = 64;

/// All keyspaces of a store as of one moment, readable while writes and compaction go on.
///
/// Taking one costs the same at any size of the store. A read from it costs about as much as a read
/// from the store. It never delays a writer.
///
/// Each value that it sees, and that is overwritten or removed later, takes some 200 bytes of
/// memory besides its space in the files. Both are freed when the snapshot is dropped; see
/// [`Stats::snapshot_bytes`](crate::Stats::snapshot_bytes). A snapshot stays readable after the
/// store is closed and dropped.
///
/// It is a handle to the keyspace without a name, and has all methods of [`KeyspaceSnapshot`]. A
/// clone is another handle to the same snapshot.
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

/// The registration of a snapshot, released with the last handle to it.
struct HeldSnapshot {
    state: Arc<State>,
    at: Seq,
    taken: Duration,
    names: Arc<ByName>,
}

impl Drop for HeldSnapshot {
    fn drop(&mut self) {
        if self.state.fork_guard.is_forked() {
            // Threads that this process lacks may hold the locks. The state is not dropped either.
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

    /// Returns the snapshot of a forked child, which refuses every read. Takes no lock.
    fn of_nothing(state: &Arc<State>) -> Self {
        let (at, taken) = (state.last_seq(), state.shared.dir.now());
        let held = Arc::new(HeldSnapshot { state: Arc::clone(state), at, taken, names: Arc::default() });
        let keyspace = Arc::clone(&state.default);
        let seen = keyspace.seen_now().expect("the default keyspace is never dropped");
        Self { default: KeyspaceSnapshot { held, keyspace, seen } }
    }

    /// Returns a keyspace as of the snapshot.
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
    /// `KeyspaceNotFound` if it had none of this name; `Forked`.
    pub fn keyspace(&self, name: &str) -> Result<KeyspaceSnapshot> {
        self.default.check()?;
        let held = &self.default.held;
        let there = held.names.get(name).and_then(|keyspace| Some((keyspace, keyspace.as_of(held.at)?)));
        let (keyspace, seen) = there.ok_or_else(|| Error::KeyspaceNotFound { name: name.to_owned() })?;
        Ok(KeyspaceSnapshot { held: Arc::clone(held), keyspace: Arc::clone(keyspace), seen })
    }

    /// Returns a keyspace as of the snapshot; `None` if the snapshot lacks it.
    pub(super) fn of(&self, keyspace: &Arc<KeyspaceState>) -> Option<KeyspaceSnapshot> {
        let held = &self.default.held;
        let seen = keyspace.as_of(held.at)?;
        Some(KeyspaceSnapshot { held: Arc::clone(held), keyspace: Arc::clone(keyspace), seen })
    }

    /// Returns the names of all keyspaces of the snapshot but the default one, in ascending order.
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

    /// Returns the number of the last write that the snapshot sees, for
    /// [`Store::wait_durable`](crate::Store::wait_durable).
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

    /// Returns the time since the snapshot was taken.
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
    /// `Corrupt`, as for [`Reader::get`](crate::Reader::get); `Forked`. Works on a closed
    /// store.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.check()?;
        Ok(self.find(key.as_ref())?.map(|record| Value::from_slice(record.into_value())))
    }

    /// Returns `true` if a key existed.
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
    /// Fails as [`get`](KeyspaceSnapshot::get) does.
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
    /// Fails as [`get`](KeyspaceSnapshot::get) does.
    pub fn multi_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Value>>> {
        self.check()?;
        let mut values = Vec::new();
        self.held.state.room_for(&mut values, keys.len())?;
        for window in keys.chunks(WINDOW) {
            for key in window {
                self.seen.index.prefetch_many(self.held.state.search_key(key.as_ref()));
            }
            for key in window {
                values.push(self.find(key.as_ref())?.map(|record| Value::from_slice(record.into_value())));
            }
        }
        Ok(values)
    }

    /// Returns an iterator over all keys and values of the snapshot: in ascending order if the keyspace
    /// is ordered, and in no order otherwise.
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
            cursor: Some(ScanPosition::start()),
            found: Vec::new(),
            places: Vec::new(),
            pages: PagesAhead::default(),
        }
    }

    /// Returns the number of the keyspace.
    pub(super) fn id(&self) -> KeyspaceId {
        self.seen.id
    }

    /// Returns the name that the keyspace has now.
    pub(super) fn name(&self) -> String {
        self.keyspace.name().to_string()
    }

    /// Returns the state of the store.
    pub(super) fn state(&self) -> &State {
        &self.held.state
    }

    /// Returns the number of the last write that the snapshot sees.
    pub(super) fn at(&self) -> Seq {
        self.held.at
    }

    /// Refuses only a child made by `fork`: it has none of the threads that may hold a lock.
    pub(super) fn check(&self) -> Result<()> {
        self.held.state.fork_guard.check_inherited()
    }

    fn find(&self, key: &[u8]) -> Result<Option<OwnedRecord>> {
        self.mended(|seen| self.find_in(seen, key))
    }

    /// Runs a read, and repeats it once a part of the index that waited is complete, or a damaged index
    /// has been rebuilt.
    pub(super) fn mended<T>(&self, mut read: impl FnMut(&KeyspaceAsOf) -> Result<T>) -> Result<T> {
        let error = loop {
            match read(&self.seen) {
                Err(error) if waiting_part(&error).is_some() => {
                    self.held.state.rebuild_if_damaged(&error)?;
                }
                Err(error) if is_of_checkpoint(&error) => break error,
                found => return found,
            }
        };
        let is_another = |seen: &KeyspaceAsOf| !seen.index.is(&self.seen.index);
        let built = || self.keyspace.as_of(self.held.at).filter(is_another);
        // Rebuilt earlier by another reader, or now.
        let seen = match built() {
            None if self.held.state.rebuild_if_damaged(&error)? => built(),
            built => built,
        };
        match seen {
            Some(seen) => read(&seen),
            // The keyspace was dropped or cleared since, so no rebuild covers its old contents.
            None => Err(error),
        }
    }

    fn find_in(&self, seen: &KeyspaceAsOf, key: &[u8]) -> Result<Option<OwnedRecord>> {
        let held = &self.held;
        let state = &*held.state;
        let pin = state.pin();
        let key = state.search_key(key);
        let hit = Lookup { keyspace: seen.id, key }.find(state, &seen.index, &pin)?;
        if let Some(FoundRecord { location, record, is_verified }) =
            hit.filter(|hit| hit.record.seq() <= held.at)
        {
            // A record that is not newer than a snapshot belongs to no batch in progress.
            if !record.is_put() || state.config.verify_reads {
                state.check_record(&record)?;
            }
            if !is_verified {
                state.check_first(&seen.index, key, location, &record)?;
            }
            record.bring_large_value();
            return Ok(record.is_put().then(|| record.keep_record()));
        }
        Ok(seen.versions.find(&seen.index.position_of(key), key.bytes, held.at))
    }
}

impl KeyspaceSnapshot {
    /// Collects the records in the buckets from a cursor on, and returns the next cursor.
    fn gather_from(
        &self,
        seen: &KeyspaceAsOf,
        from: &ScanPosition,
        (places, pages): (&mut Vec<Location>, &mut PagesAhead),
        found: &mut Vec<OwnedRecord>,
    ) -> Result<Option<ScanPosition>> {
        let held = &self.held;
        let state = &*held.state;
        let pin = state.pin();
        let (mut cursor, mut is_verified) = (Some(from.clone()), true);
        places.clear();
        while let Some(at) = cursor.as_ref().filter(|_| places.len() < AHEAD) {
            let is_before = |entry, key: &[u8]| state.is_before(entry, key, &pin);
            let scanned = seen.index.scan(at, places, is_before)?;
            cursor = scanned.0;
            is_verified &= scanned.1;
        }
        pages.ask(state, places, |location| *location, &pin);
        for location in &*places {
            state.shared.space.prefetch(*location);
        }
        let places = places.iter().map(|location| (*location, is_verified));
        self.keep_seen(seen, places, &pin, found)?;
        self.keep_versions(seen, from, cursor.as_ref(), found);
        if self.seen.id.is_ordered() {
            // The last one is returned first.
            found.sort_unstable_by(|one, other| other.key().cmp(one.key()));
        }
        Ok(cursor)
    }
}

/// An iterator over all keys and values of a snapshot: each exactly once, in the order of
/// [`KeyspaceSnapshot::iter`].
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
    cursor: Option<ScanPosition>,
    /// The records to return next, in reverse order.
    found: Vec<OwnedRecord>,
    /// Locations in the index; kept for the allocation.
    places: Vec<Location>,
    pages: PagesAhead,
}

impl SnapshotIter {
    /// Collects the records of the next buckets.
    fn gather(&mut self, from: &ScanPosition) -> Result<()> {
        let Self { snapshot, places, found, pages, .. } = self;
        let cursor = snapshot.mended(|seen| {
            found.clear();
            snapshot.gather_from(seen, from, (places, pages), found)
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
            if let Err(error) = self.snapshot.check().and_then(|()| self.gather(&cursor)) {
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
