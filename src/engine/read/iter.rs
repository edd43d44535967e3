//! Iterators over all keys and values of a keyspace, beside writers.
//!
//! Both read the records of several buckets at a time, so that the loads of these records overlap.
//! [`Iter`] owns what it returns, and goes on after its store is closed. [`ViewIter`] borrows.
//!
//! **Concurrency.** Nothing here takes a lock; reads behave as in `read`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pages_ahead::PagesAhead;
use crate::engine::read::{Value, View};
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::engine::state::{State, dropped};
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::index::key_index::{KeyIndex, ScanPosition};
use crate::mem::address_space::{OwnedRecord, Record};
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The number of records that an iterator prefetches before it returns them.
const AHEAD: usize = 64;

/// The progress of an iteration. `R` is a record in the form in which the iterator keeps it.
struct Walk<R> {
    /// The id of the keyspace's contents that are iterated; `None` if the keyspace was dropped
    /// before.
    id: Option<KeyspaceId>,
    /// The position of the keys to read next; `None` at the end.
    cursor: Option<ScanPosition>,
    /// The records to return next, in reverse order.
    found: Vec<R>,
    /// Errors in place of records, returned after those.
    errors: Vec<Error>,
    /// The locations of those records; kept for the allocation.
    places: Vec<Location>,
    /// True if the records at these locations are known to be verified.
    is_verified: bool,
    pages: PagesAhead,
}

impl<R> fmt::Debug for Walk<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl<R> Walk<R> {
    fn new(keyspace: &KeyspaceState, pin: &Pin) -> Self {
        let id = keyspace.contents(pin).map(|contents| contents.id);
        let cursor = Some(ScanPosition::start());
        Self {
            id,
            cursor,
            found: Vec::new(),
            errors: Vec::new(),
            places: Vec::new(),
            is_verified: true,
            pages: PagesAhead::default(),
        }
    }

    /// Returns a record that was found and not yet returned.
    #[inline]
    fn pop(&mut self, keyspace: &KeyspaceState) -> Option<Result<R>> {
        // Most buckets of a small store are empty.
        if self.found.is_empty() && self.errors.is_empty() {
            return None;
        }
        if !keyspace.present.is(self.id) {
            self.look_again(keyspace);
        }
        self.found.pop().map(Ok).or_else(|| self.errors.pop().map(Err))
    }

    /// Ends the iteration if the keyspace's contents are not those that it started with.
    #[cold]
    fn look_again(&mut self, keyspace: &KeyspaceState) {
        let pin = keyspace.pin();
        let end = match self.contents(keyspace, &pin) {
            // They are present, and their number is about to be set.
            Ok(Some(_)) => return,
            end => end.err(),
        };
        self.cursor = None;
        self.found.clear();
        self.errors.clear();
        self.errors.extend(end);
    }

    /// Finds the records of the next buckets, if there are any.
    ///
    /// # Errors
    ///
    /// An error ends the iteration: `KeyspaceDropped`, or that of a part of the index that cannot
    /// be read.
    fn step<'p>(
        &mut self,
        state: &'p State,
        keyspace: &'p KeyspaceState,
        pin: &'p Pin,
        keep: impl Fn(Record<'p>) -> R,
    ) -> Result<()> {
        let mut next = self.cursor.take();
        let contents = loop {
            let Some(contents) = self.contents(keyspace, pin)? else { return Ok(()) };
            // A key that exists throughout is counted, so polling an empty queue reads no bucket.
            let index = &contents.index;
            if next.as_ref().is_some_and(ScanPosition::is_start) && index.len() == 0 && !index.is_partial() {
                return Ok(());
            }
            match self.gather(state, index, &mut next, pin) {
                Ok(()) => break contents,
                // A position is valid in every index of these keys.
                Err(error) if state.rebuild_if_damaged(&error)? => {}
                Err(error) => return Err(error),
            }
        };
        self.cursor = next;
        let is_verified = std::mem::replace(&mut self.is_verified, true);
        self.pages.ask(state, &self.places, |location| *location, pin);
        // The last one found is the first one returned.
        for location in self.places.drain(..).rev() {
            match read(state, contents, (location, is_verified), pin) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    record.prefetch_rest();
                    self.found.push(keep(record));
                }
                Err(error) => self.errors.push(error),
            }
        }
        Ok(())
    }

    /// Collects the locations in the next buckets, and starts to load the records there.
    ///
    /// # Errors
    ///
    /// If a bucket is in an unreadable block of a checkpoint; the bucket is then the next one. Or if a
    /// key at the begin of a scan cannot be read.
    fn gather(
        &mut self,
        state: &State,
        index: &KeyIndex,
        next: &mut Option<ScanPosition>,
        pin: &Pin,
    ) -> Result<()> {
        let is_before = |entry, key: &[u8]| state.is_before(entry, key, pin);
        while let Some(at) = next.as_ref().filter(|_| self.places.len() < AHEAD) {
            let known = self.places.len();
            let is_verified;
            (*next, is_verified) = index.scan(at, &mut self.places, is_before)?;
            self.is_verified &= is_verified;
            for location in &self.places[known..] {
                state.shared.space.prefetch(*location);
            }
        }
        Ok(())
    }

    /// Returns the keyspace's contents if they are still those that the iteration started with.
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`.
    fn contents<'p>(&self, keyspace: &'p KeyspaceState, pin: &'p Pin) -> Result<Option<&'p KeyspaceData>> {
        match keyspace.contents(pin) {
            Some(contents) => Ok(Some(contents).filter(|contents| Some(contents.id) == self.id)),
            None => Err(dropped(keyspace)),
        }
    }
}

/// Returns the record of an entry, if readers see one. The flag says that it is known to be verified.
#[inline]
pub(super) fn read<'p>(
    state: &'p State,
    contents: &KeyspaceData,
    entry: (Location, bool),
    pin: &'p Pin,
) -> Result<Option<Record<'p>>> {
    let Some(record) = state.visible(contents, entry, pin)? else { return Ok(None) };
    if state.config.verify_reads {
        state.check_record(&record)?;
    }
    Ok(Some(record))
}

/// An iterator over all keys and values, in no order.
///
/// A key that exists throughout the iteration is returned exactly once, with a value that it had
/// during it. A key that is inserted or removed meanwhile is returned once or not at all. The
/// iterator ends once the keyspace is cleared. Once the keyspace is dropped it ends with
/// [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped).
///
/// After the store is closed, by [`Store::close`](crate::Store::close) or by the drop of its last
/// handle, the iterator continues to its end over the final contents. Until it is dropped, it keeps
/// the store's index in memory and its files mapped.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// for n in 0..100_u32 {
///     store.insert(n.to_le_bytes(), "")?;
/// }
/// assert_eq!(store.iter().count(), 100);
/// for item in &store {
///     let (key, _) = item?;
///     store.remove(key)?;
/// }
/// assert!(store.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Cursor")]
#[doc(alias = "Iterator")]
#[derive(Debug)]
pub struct Iter {
    state: Arc<State>,
    keyspace: Arc<KeyspaceState>,
    /// Records that are owned: between two items there is no pin, so compaction may move them.
    walk: Walk<OwnedRecord>,
}

impl Iter {
    pub(crate) fn new(state: Arc<State>, keyspace: Arc<KeyspaceState>) -> Self {
        let walk = Walk::new(&keyspace, &state.pin());
        // Relaxed: a concurrent close may order itself before or after this.
        state.counters.iterators.fetch_add(1, Ordering::Relaxed);
        Self { state, keyspace, walk }
    }

    #[inline(never)]
    fn step(&mut self) -> Result<()> {
        let Self { state, keyspace, walk } = self;
        if state.fork_guard.is_forked() {
            walk.cursor = None;
            return Err(Error::Forked);
        }
        walk.step(state, keyspace, &state.pin(), |record| {
            record.bring_large_value();
            record.keep_record()
        })
    }
}

impl Iterator for Iter {
    type Item = Result<(Value, Value)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.walk.pop(&self.keyspace) {
                return Some(found.map(|record| {
                    let (key, value) = record.into_parts();
                    (Value::from_slice(key), Value::from_slice(value))
                }));
            }
            self.walk.cursor.as_ref()?;
            if let Err(error) = self.step() {
                return Some(Err(error));
            }
        }
    }
}

impl std::iter::FusedIterator for Iter {}

impl Drop for Iter {
    fn drop(&mut self) {
        // Relaxed: as in `new`.
        self.state.counters.iterators.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An iterator over all keys; see [`Iter`].
#[derive(Debug)]
pub struct Keys(pub(crate) Iter);

impl Iterator for Keys {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|item| item.map(|(key, _)| key))
    }
}

/// An iterator over all values; see [`Iter`].
#[derive(Debug)]
pub struct Values(pub(crate) Iter);

impl Iterator for Values {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|item| item.map(|(_, value)| value))
    }
}

/// An iterator over all keys and values, borrowed from a [`View`], in no order.
///
/// It returns what [`Iter`] returns, and at less cost, because it counts no references. Once the
/// store is closed, it ends with [`Error::Closed`](crate::Error::Closed).
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("a", "1")?;
/// store.insert("b", "23")?;
/// let view = store.view();
/// let mut bytes = 0;
/// for item in &view {
///     let (key, value) = item?;
///     bytes += key.len() + value.len();
/// }
/// assert_eq!(bytes, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ViewIter<'v> {
    view: &'v View<'v>,
    walk: Walk<Record<'v>>,
}

impl<'v> ViewIter<'v> {
    pub(super) fn new(view: &'v View<'v>) -> Self {
        Self { view, walk: Walk::new(view.keyspace, &view.pin) }
    }

    #[inline(never)]
    fn step(&mut self) -> Result<()> {
        let View { state, keyspace, pin, .. } = self.view;
        if let Err(error) = state.fork_guard.check() {
            self.walk.cursor = None;
            return Err(error);
        }
        self.walk.step(state, keyspace, pin, |record| record)
    }
}

impl<'v> Iterator for ViewIter<'v> {
    type Item = Result<(&'v [u8], &'v [u8])>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.walk.pop(self.view.keyspace) {
                return Some(found.map(|record| (record.key(), record.value())));
            }
            self.walk.cursor.as_ref()?;
            if let Err(error) = self.step() {
                return Some(Err(error));
            }
        }
    }
}

impl std::iter::FusedIterator for ViewIter<'_> {}
