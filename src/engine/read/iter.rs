//! Iterators over all keys and values of a keyspace, beside writers, and after its store is closed.
//!
//! **Concurrency.** Nothing here takes a lock; reads behave as in `read`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::read::Value;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::engine::state::{State, dropped};
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::index::hash::scan::Cursor;
use crate::mem::address_space::OwnedRecord;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The number of records that an iterator prefetches before it returns them.
const AHEAD: usize = 64;

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
    /// The id of the keyspace's contents that are iterated; `None` if the keyspace was dropped
    /// before.
    id: Option<KeyspaceId>,
    cursor: Option<Cursor>,
    /// The records to return next, in reverse order.
    found: Vec<Result<OwnedRecord>>,
    /// The locations of those records; kept for the allocation.
    places: Vec<Location>,
}

impl Iter {
    pub(crate) fn new(state: Arc<State>, keyspace: Arc<KeyspaceState>) -> Self {
        let pin = state.pin();
        let id = keyspace.contents(&pin).map(|contents| contents.id);
        drop(pin);
        // Relaxed: a concurrent close may order itself before or after this.
        state.counters.iterators.fetch_add(1, Ordering::Relaxed);
        Self { state, keyspace, id, cursor: Some(Cursor::START), found: Vec::new(), places: Vec::new() }
    }

    /// Returns one item, or `None` if no found entry is left.
    fn take_found(&mut self) -> Option<Result<(Value, Value)>> {
        // Most buckets of a small store are empty, and a pin costs more than a look at one.
        if self.found.is_empty() {
            return None;
        }
        let pin = self.state.pin();
        let end = match still(&self.keyspace, self.id, &pin) {
            Ok(Some(_)) => None,
            end => Some(end),
        };
        match end {
            Some(end) => {
                self.found.clear();
                self.cursor = None;
                end.err().map(Err)
            }
            None => self.found.pop().map(|found| {
                let (key, value) = found?.into_parts();
                Ok((Value::from_slice(key), Value::from_slice(value)))
            }),
        }
    }

    /// Returns the record of an entry, owned: between two items there is no pin, so compaction may
    /// move it.
    fn kept(&self, contents: &KeyspaceData, location: Location, pin: &Pin) -> Result<Option<OwnedRecord>> {
        let Some(record) = self.state.visible(contents, location, pin)? else { return Ok(None) };
        if self.state.config.verify_reads {
            self.state.check_record(&record)?;
        }
        Ok(Some(record.keep_record()))
    }
}

/// Returns the keyspace's contents if they are still those that the iterator started with.
///
/// # Errors
///
/// `KeyspaceDropped`.
fn still<'p>(
    keyspace: &'p KeyspaceState,
    id: Option<KeyspaceId>,
    pin: &'p Pin,
) -> Result<Option<&'p KeyspaceData>> {
    match keyspace.contents(pin) {
        Some(contents) => Ok(Some(contents).filter(|contents| Some(contents.id) == id)),
        None => Err(dropped(keyspace)),
    }
}

impl Iterator for Iter {
    type Item = Result<(Value, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.take_found() {
                return Some(item);
            }
            let mut cursor = Some(self.cursor.take()?);
            if self.state.fork_guard.is_forked() {
                return Some(Err(Error::Forked));
            }
            let pin = self.state.pin();
            // Several buckets at once, so that the loads of their records overlap.
            let mut places = std::mem::take(&mut self.places);
            let contents = loop {
                let contents = match still(&self.keyspace, self.id, &pin) {
                    Ok(contents) => contents?,
                    Err(error) => return Some(Err(error)),
                };
                let Some(at) = cursor.filter(|_| places.len() < AHEAD) else { break contents };
                // A key that exists throughout is counted, so polling an empty queue reads no
                // bucket.
                if at == Cursor::START && contents.index.len() == 0 && !contents.index.is_partial() {
                    cursor = None;
                    break contents;
                }
                match contents.index.scan(at, &mut places) {
                    Ok(next) => cursor = next,
                    // A cursor is valid in every index of these keys. An error ends the iterator:
                    // `self.cursor` was taken.
                    Err(unread) => match self.state.rebuild_for(unread) {
                        Ok(()) => {}
                        Err(error) => return Some(Err(error)),
                    },
                }
            };
            self.cursor = cursor;
            for location in &places {
                self.state.shared.space.prefetch(*location);
            }
            for location in places.drain(..) {
                self.found.extend(self.kept(contents, location, &pin).transpose());
            }
            self.places = places;
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
