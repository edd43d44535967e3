//! Iterators over a range of the keys of an ordered keyspace, from both ends, beside writers.
//!
//! They gather the records of some leaves at a time, so that the loads of these records overlap: of
//! one leaf first, and of more the longer they go on. Nothing of the tree is kept in between but a
//! key. [`Range`] owns what it returns, and goes on after its store is closed. [`ViewRange`] borrows, and
//! reads a record only when it is returned.
//!
//! **Concurrency.** Nothing here takes a lock but for the name in an error; reads behave as in `read`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fmt, mem};

use super::iter::read;
use super::key_range::KeyRange;
use super::ordered::LEAVES_MAX;
use super::pages_ahead::{AheadWindow, PagesAhead};
use super::range_buffer::{End, Popped, RangeBuffer};
use crate::engine::read::{Value, View};
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::engine::state::{State, dropped};
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::index::key_index::KeyIndex;
use crate::index::tree::EntryPlace;
use crate::mem::address_space::{OwnedRecord, Record};
use crate::sync::epoch::Pin;

/// A view prefetches the record that it returns after this many others.
const RECORDS_AHEAD: usize = 8;

/// The progress of an iteration over a range. `R` is a record, or an error in place of one, in the form in
/// which the iterator keeps it.
struct RangeWalk<R> {
    /// The id of the keyspace's contents that are iterated; `None` if the keyspace was dropped
    /// before.
    id: Option<KeyspaceId>,
    buffer: RangeBuffer<R>,
    /// The places of the records that are being gathered; kept for the allocation.
    places: Vec<EntryPlace>,
    /// The number of leaves to gather next.
    leaves: usize,
}

impl<R> fmt::Debug for RangeWalk<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeWalk").field("left", &self.buffer.left).finish_non_exhaustive()
    }
}

impl<R> RangeWalk<R> {
    fn new(state: &State, keyspace: &KeyspaceState, range: KeyRange, pin: &Pin) -> Self {
        let id = keyspace.contents(pin).map(|contents| contents.id);
        let mut buffer = RangeBuffer::new(range);
        if state.fork_guard.is_forked() {
            // The name is behind a lock, which a child cannot take.
            buffer.end_with(Error::Forked);
        } else if id.is_some_and(|id| !id.is_ordered()) {
            buffer.end_with(Error::KeyspaceNotOrdered { name: keyspace.name().to_string() });
        }
        Self { id, buffer, places: Vec::new(), leaves: 1 }
    }

    /// Returns the next record at an end.
    #[inline]
    fn pop(&mut self, keyspace: &KeyspaceState, end: End) -> Popped<R> {
        if !self.buffer.is_empty() && !keyspace.present.is(self.id) {
            self.look_again(keyspace);
        }
        self.buffer.pop(end)
    }

    /// Ends the iteration if the keyspace's contents are not those that it started with.
    #[cold]
    fn look_again(&mut self, keyspace: &KeyspaceState) {
        match self.contents(keyspace, &keyspace.pin()) {
            // They are present, and their number is about to be set.
            Ok(Some(_)) => {}
            Ok(None) => self.buffer.end(),
            Err(error) => self.buffer.end_with(error),
        }
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

    /// Gathers the places of the records in the next few leaves at an end, in the order in which they are
    /// returned. Returns the contents that they are of; `None` if the keyspace was cleared.
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`, and the errors of [`State::scan_piece`].
    fn gather<'p>(
        &mut self,
        state: &State,
        keyspace: &'p KeyspaceState,
        pin: &'p Pin,
        end: End,
    ) -> Result<Option<&'p KeyspaceData>> {
        loop {
            let Some(contents) = self.contents(keyspace, pin)? else {
                self.buffer.end();
                return Ok(None);
            };
            match self.gather_leaves(state, &contents.index, end, pin) {
                Ok(()) => return Ok(Some(contents)),
                // The bounds of a range are valid in every tree of these keys.
                Err(error) if state.rebuild_if_damaged(&error)? => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gathers the places in the next few leaves of a tree.
    ///
    /// # Errors
    ///
    /// The errors of [`State::scan_piece`] for the first piece.
    fn gather_leaves(&mut self, state: &State, index: &KeyIndex, end: End, pin: &Pin) -> Result<()> {
        let Self { buffer, places, leaves, .. } = self;
        places.clear();
        let mut rest = *leaves;
        state.scan_piece(index, &mut buffer.left, (end, &mut rest), places, pin)?;
        // A piece ends with its parent.
        while rest > 0 && buffer.left.is_some() {
            if state.scan_piece(index, &mut buffer.left, (end, &mut rest), places, pin).is_err() {
                // The next call meets it first.
                break;
            }
        }
        *leaves = (*leaves * 2).min(LEAVES_MAX);
        Ok(())
    }
}

/// An iterator over a range of the keys of an ordered keyspace and their values, in ascending order,
/// or from the back in descending order.
///
/// A key that exists throughout the iteration is returned exactly once, with a value that it had
/// during it. A key that is inserted or removed meanwhile is returned once or not at all. Writes
/// during the iteration are fine, by its own thread, too. The iterator ends once the keyspace is
/// cleared. Once the keyspace is dropped it ends with
/// [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped).
///
/// After the store is closed, the iterator continues to its end over the final contents. Until it is
/// dropped, it keeps the store's index in memory and its files mapped.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let events = store.ordered_keyspace("events")?;
/// for n in 0..100_u32 {
///     events.insert(n.to_be_bytes(), "")?;
/// }
/// let mut range = events.range(10_u32.to_be_bytes()..20_u32.to_be_bytes());
/// assert_eq!(range.next().expect("there are ten")?.0, 10_u32.to_be_bytes());
/// assert_eq!(range.next_back().expect("there are ten")?.0, 19_u32.to_be_bytes());
/// assert_eq!(range.count(), 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Cursor")]
#[derive(Debug)]
pub struct Range {
    state: Arc<State>,
    keyspace: Arc<KeyspaceState>,
    /// Records that are owned: between two items there is no pin, so compaction may move them.
    walk: RangeWalk<Result<OwnedRecord>>,
    pages: PagesAhead,
}

impl Range {
    pub(crate) fn new(state: Arc<State>, keyspace: Arc<KeyspaceState>, range: KeyRange) -> Self {
        let walk = RangeWalk::new(&state, &keyspace, range, &state.pin());
        // Relaxed: a concurrent close may order itself before or after this.
        state.counters.iterators.fetch_add(1, Ordering::Relaxed);
        Self { state, keyspace, walk, pages: PagesAhead::default() }
    }

    /// Leaves an error as the only item: one that it has, or this one.
    #[cfg(feature = "serde")]
    pub(crate) fn refuse(&mut self, error: Error) {
        if !self.walk.buffer.has_failed() {
            self.walk.buffer.end_with(error);
        }
    }

    /// Skips the keys before `key`: the next one from the front is at `key` or behind it. It never goes
    /// back.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let visits = store.ordered_keyspace("visits")?;
    /// for key in ["anna/1", "anna/2", "berta/1", "carla/1"] {
    ///     visits.insert(key, "")?;
    /// }
    /// // The first visit of each person.
    /// let (mut range, mut people) = (visits.range::<&str>(..), Vec::new());
    /// while let Some(item) = range.next() {
    ///     let key = String::from_utf8(item?.0.to_vec())?;
    ///     let (person, _) = key.split_once('/').expect("all keys have one");
    ///     range.seek(format!("{person}0")); // "0" is the character behind "/"
    ///     people.push(person.to_owned());
    /// }
    /// assert_eq!(people, ["anna", "berta", "carla"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "lower_bound")]
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.seek_at(key.as_ref(), End::Front);
    }

    /// Skips the keys behind `key`: the next one from the back is at `key` or before it. It never goes
    /// back.
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.seek_at(key.as_ref(), End::Back);
    }

    fn seek_at(&mut self, key: &[u8], end: End) {
        let order_of = |record: &Result<OwnedRecord>| Some(record.as_ref().ok()?.key().cmp(key));
        self.walk.buffer.seek(key, end, order_of);
    }

    #[inline]
    fn step(&mut self, end: End) -> Option<Result<(Value, Value)>> {
        loop {
            match self.walk.pop(&self.keyspace, end) {
                Popped::Item(found) => {
                    return Some(found.map(|record| {
                        let (key, value) = record.into_parts();
                        (Value::from_slice(key), Value::from_slice(value))
                    }));
                }
                Popped::Failed(error) => return Some(Err(error)),
                Popped::Missing => self.gather(end),
                Popped::End => return None,
            }
        }
    }

    #[inline(never)]
    fn gather(&mut self, end: End) {
        let Self { state, keyspace, walk, pages } = self;
        // It goes on after its store is closed.
        let checked = state.fork_guard.check_inherited();
        let pin = state.pin();
        let gathered = checked.and_then(|()| {
            let Some(contents) = walk.gather(state, keyspace, &pin, end)? else { return Ok(()) };
            pages.ask(state, &walk.places, |(location, _)| *location, &pin);
            for (location, _) in &walk.places {
                state.shared.space.prefetch(*location);
            }
            let mut kept = Vec::with_capacity(walk.places.len());
            for place in walk.places.drain(..) {
                let Some(record) = read(state, contents, place, &pin).transpose() else { continue };
                kept.push(record.map(|record| {
                    record.prefetch_rest();
                    record.bring_large_value();
                    record.keep_record()
                }));
            }
            walk.buffer.fill(end, kept);
            Ok(())
        });
        if let Err(error) = gathered {
            walk.buffer.end_with(error);
        }
    }
}

impl Iterator for Range {
    type Item = Result<(Value, Value)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.step(End::Front)
    }
}

impl DoubleEndedIterator for Range {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(End::Back)
    }
}

impl std::iter::FusedIterator for Range {}

impl Drop for Range {
    fn drop(&mut self) {
        // Relaxed: as in `new`.
        self.state.counters.iterators.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An iterator over a range of the keys of an ordered keyspace and their values, borrowed from a
/// [`View`]; see [`Range`].
///
/// It costs less than a [`Range`], because it counts no references. Once the store is closed, it ends
/// with [`Error::Closed`](crate::Error::Closed).
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let users = store.ordered_keyspace("users")?;
/// users.insert("anna", "admin")?;
/// users.insert("berta", "guest")?;
/// let view = users.view();
/// let names = view.prefix("b").map(|item| Ok(item?.0)).collect::<mapcask::Result<Vec<_>>>()?;
/// assert_eq!(names, [b"berta"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ViewRange<'v> {
    view: &'v View<'v>,
    /// Places of records, which the view's pin keeps where they are.
    walk: RangeWalk<EntryPlace>,
    /// The gathered records at the front and at the back.
    windows: [AheadWindow; 2],
    /// The number of bytes that are prefetched of a record: at first as many as the keyspace's records have on
    /// average, and then as many as the last one had.
    record_len: usize,
}

impl<'v> ViewRange<'v> {
    pub(super) fn new(view: &'v View<'v>, range: KeyRange) -> Self {
        let walk = RangeWalk::new(view.state, view.keyspace, range, &view.pin);
        let record_len = view.keyspace.contents(&view.pin).map_or(0, mean_len);
        Self { view, walk, windows: Default::default(), record_len }
    }

    /// Skips the keys before `key`; see [`Range::seek`].
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.seek_at(key.as_ref(), End::Front);
    }

    /// Skips the keys behind `key`; see [`Range::seek_back`].
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.seek_at(key.as_ref(), End::Back);
    }

    fn seek_at(&mut self, key: &[u8], end: End) {
        let View { state, pin, .. } = self.view;
        // As in `read`, whose next call returns the error.
        if state.fork_guard.is_forked() {
            return;
        }
        self.walk.buffer.seek(key, end, |(location, is_verified)| {
            Some(state.key_at(*location, *is_verified, pin)?.cmp(key))
        });
    }

    #[inline]
    fn step(&mut self, end: End) -> Option<Result<(&'v [u8], &'v [u8])>> {
        loop {
            if self.windows[end as usize].is_due(self.walk.buffer.len(end)) {
                self.ask(end);
            }
            match self.walk.buffer.pop(end) {
                Popped::Item(place) => match self.read(place, end) {
                    Ok(None) => {}
                    Ok(Some(record)) => return Some(Ok((record.key(), record.value()))),
                    Err(error) => return Some(Err(error)),
                },
                Popped::Failed(error) => return Some(Err(error)),
                Popped::Missing => self.gather(end),
                Popped::End => return None,
            }
        }
    }

    /// Returns the record at a place, if readers see one, and prefetches those that are returned later.
    #[inline]
    fn read(&mut self, place: EntryPlace, end: End) -> Result<Option<Record<'v>>> {
        let View { state, keyspace, pin, .. } = self.view;
        // A child process of a fork must not wait for a lock that a record's segment may need.
        let contents = keyspace.contents(pin).filter(|contents| Some(contents.id) == self.walk.id);
        let (Some(contents), true) = (contents, state.fork_guard.check().is_ok()) else {
            return self.end_early().map(|()| None);
        };
        if let Some((location, _)) = self.walk.buffer.coming(end, RECORDS_AHEAD) {
            state.shared.space.prefetch_record(*location, self.record_len);
        }
        let found = read(state, contents, place, pin)?;
        if let Some(record) = &found {
            self.record_len = record.len();
        }
        Ok(found)
    }

    /// Ends the range because the store was closed, or the keyspace cleared or dropped.
    ///
    /// # Errors
    ///
    /// `Closed`, `Forked` or `KeyspaceDropped`.
    #[cold]
    fn end_early(&mut self) -> Result<()> {
        let View { state, keyspace, pin, .. } = self.view;
        self.walk.buffer.end();
        state.fork_guard.check()?;
        self.walk.contents(keyspace, pin).map(drop)
    }

    /// Asks for the pages of the next few gathered records.
    #[cold]
    fn ask(&mut self, end: End) {
        let Self { view: View { state, pin, .. }, walk, windows, .. } = self;
        // As in `read`, which returns the error.
        if !state.fork_guard.is_forked() {
            let buffer = &walk.buffer;
            let of = |distance| buffer.coming(end, distance).map(|(location, _)| *location);
            windows[end as usize].ask(state, buffer.len(end), of, pin);
        }
    }

    #[inline(never)]
    fn gather(&mut self, end: End) {
        let Self { view: View { state, keyspace, pin, .. }, walk, windows, record_len } = self;
        let checked = state.fork_guard.check();
        if let Err(error) = checked.and_then(|()| walk.gather(state, keyspace, pin, end)) {
            walk.buffer.end_with(error);
            return;
        }
        if state.reads_singly() {
            windows[end as usize].note(walk.places.len());
        }
        for (location, _) in walk.places.iter().take(RECORDS_AHEAD + 1) {
            state.shared.space.prefetch_record(*location, *record_len);
        }
        walk.buffer.fill(end, mem::take(&mut walk.places));
    }
}

impl<'v> Iterator for ViewRange<'v> {
    type Item = Result<(&'v [u8], &'v [u8])>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.step(End::Front)
    }
}

impl DoubleEndedIterator for ViewRange<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(End::Back)
    }
}

impl std::iter::FusedIterator for ViewRange<'_> {}

/// Returns the mean length of the records of a keyspace, about.
fn mean_len(contents: &KeyspaceData) -> usize {
    usize::try_from(contents.live_bytes.get() / contents.keys.get().max(1)).unwrap_or(usize::MAX)
}
