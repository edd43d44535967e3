//! What reads give out: values that own a share of their segment, views that borrow, iterators.
//!
//! Nothing here takes a lock; what is written that others read is one bit per record, at the first read of a record that an
//! image of the index led to. A damaged image is the one thing that makes a reader wait: for the indexes to be built anew.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use crate::catalog::{Contents, Keyspace};
use crate::engine::{Engine, dropped};
use crate::epoch::{self, Pin};
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::format::{Defect, KeyspaceId, Seq};
use crate::index::scan::Cursor;
use crate::location::Location;
use crate::mapping::space::{KeptRecord, Record, Slice};
use crate::undo::Before;

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
pub struct Value(Slice);

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
/// A view is no snapshot: each read sees the newest write. It holds back the return of memory, never a writer; drop it
/// when the reads are done. It stays on its thread.
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
    engine: &'s Engine,
    keyspace: &'s Keyspace,
    pin: Pin,
    /// The pin belongs to the thread.
    here: PhantomData<*const ()>,
}

impl<'s> View<'s> {
    pub(crate) fn new(engine: &'s Engine, keyspace: &'s Keyspace) -> Self {
        Self { engine, keyspace, pin: epoch::pin(), here: PhantomData }
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
    /// As [`Keyspace::get`](crate::Keyspace::get).
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>> {
        let record = self.engine.get(self.keyspace, key.as_ref(), &self.pin)?;
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
    /// As [`Keyspace::get`](crate::Keyspace::get).
    #[inline]
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.engine.get(self.keyspace, key.as_ref(), &self.pin)?.is_some())
    }

    /// Appends the values of many keys to `values`, in the order of the keys, all as of one moment; see
    /// [`Keyspace::multi_get`](crate::Keyspace::multi_get).
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
    /// As [`Keyspace::get`](crate::Keyspace::get); `values` is as it was then.
    pub fn get_many_into<'v>(
        &'v self,
        keys: &[impl AsRef<[u8]>],
        values: &mut Vec<Option<&'v [u8]>>,
    ) -> Result<()> {
        self.engine.get_many(self.keyspace, keys, &self.pin, values, |record| record.value())
    }
}

impl Engine {
    /// The newest visible record of a key.
    #[inline]
    pub(crate) fn get<'p>(
        &'p self,
        keyspace: &'p Keyspace,
        key: &[u8],
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        self.liveness.check()?;
        let contents = self.contents(keyspace, pin)?;
        let hash = self.hash_key.hash(key);
        let record = match self.lookup(contents, hash, key, pin) {
            Ok(record) => record,
            Err(error) => self.get_mended(keyspace, hash, key, pin, error)?,
        };
        if let (true, Some(record)) = (self.options.verify_reads, &record) {
            self.check_record(record)?;
        }
        Ok(record)
    }

    /// The newest visible record, for a lookup that failed: a damaged image is no reason not to find it.
    #[cold]
    fn get_mended<'p>(
        &'p self,
        keyspace: &'p Keyspace,
        hash: Hash,
        key: &[u8],
        pin: &'p Pin,
        mut error: Error,
    ) -> Result<Option<Record<'p>>> {
        while self.mends(&error)? {
            match self.lookup(self.contents(keyspace, pin)?, hash, key, pin) {
                Err(next) => error = next,
                found => return found,
            }
        }
        Err(error)
    }

    /// An owned value.
    #[inline]
    pub(crate) fn get_value(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Value>> {
        let pin = epoch::pin();
        Ok(self.get(keyspace, key, &pin)?.map(|record| Value::of(&record)))
    }

    /// An owned value, and the number of the write that it is from.
    pub(crate) fn get_with_seq(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<(Seq, Value)>> {
        let pin = epoch::pin();
        Ok(self.get(keyspace, key, &pin)?.map(|record| (record.seq(), Value::of(&record))))
    }

    /// Copies a value, by loads that tolerate a file that changes under us, and verifies the copy.
    pub(crate) fn get_into(&self, keyspace: &Keyspace, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let pin = epoch::pin();
        out.clear();
        let Some(record) = self.get(keyspace, key, &pin)? else { return Ok(false) };
        let header = record.header();
        let key_len = usize::from(header.key_len);
        let len = key_len + header.value_len as usize;
        out.resize(len, 0);
        let (mapping, offset) = record.place();
        mapping.copy_out(offset + crate::format::record::HEADER_SIZE, out);
        if crc32fast::hash(out) != header.payload_sum || !out.starts_with(key) {
            out.clear();
            return Err(self.damage_of(&record, Defect::PayloadChecksum));
        }
        out.drain(..key_len);
        Ok(true)
    }

    /// The record that an entry of the index shows to readers now, if any.
    fn visible<'p>(
        &'p self,
        contents: &Contents,
        location: Location,
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        let record = self.record(location, pin)?;
        if self.visibility.is_visible(record.seq()) {
            if !record.is_put() {
                self.check_record(&record)?;
            }
            if contents.index.is_from_image() {
                self.check_first(&contents.index, self.hash_of(record.key()), location, &record)?;
            }
            return Ok(record.is_put().then_some(record));
        }
        match self.visibility.before(location, pin) {
            Some(Before::Absent) => Ok(None),
            Some(Before::At(location)) => {
                let record = self.record(location, pin)?;
                self.check_former(&contents.index, &record)?;
                Ok(Some(record))
            }
            // The batch ended meanwhile: what the key has now.
            None => self.lookup(contents, self.hash_of(record.key()), record.key(), pin),
        }
    }

    pub(crate) fn hash_of(&self, key: &[u8]) -> Hash {
        self.hash_key.hash(key)
    }
}

/// How many records an iterator asks for ahead of giving them out.
const AHEAD: usize = 64;

/// An iterator over all keys and values, in no order.
///
/// Every key that is there from beginning to end comes exactly once, with a value it had meanwhile; a key that is
/// inserted or removed meanwhile comes once or not at all. It ends once the keyspace is cleared; with
/// [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped) once it is dropped; and with
/// [`Error::Closed`](crate::Error::Closed) once the store is closed, by [`Store::close`](crate::Store::close) or by the
/// drop of its last handle.
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
    engine: Arc<Engine>,
    keyspace: Arc<Keyspace>,
    /// The number of what is gone through; none before the first step.
    id: Option<KeyspaceId>,
    cursor: Option<Cursor>,
    /// What comes next, the last one first.
    found: Vec<Result<KeptRecord>>,
    /// Where it lies; kept for its memory.
    places: Vec<Location>,
}

impl Iter {
    pub(crate) fn new(engine: Arc<Engine>, keyspace: Arc<Keyspace>) -> Self {
        let pin = epoch::pin();
        let id = keyspace.contents(&pin).map(|contents| contents.id);
        drop(pin);
        Self { engine, keyspace, id, cursor: Some(Cursor::START), found: Vec::new(), places: Vec::new() }
    }

    /// One item, or `None` where the entries found so far are used up.
    fn take_found(&mut self) -> Option<Result<(Value, Value)>> {
        // Most buckets of a small store are empty, and a pin costs more than looking at one.
        if self.found.is_empty() {
            return None;
        }
        let pin = epoch::pin();
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
                Ok((Value(key), Value(value)))
            }),
        }
    }

    /// The record that an entry shows, kept: between two items no pin holds, and compaction may move it.
    fn kept(&self, contents: &Contents, location: Location, pin: &Pin) -> Result<Option<KeptRecord>> {
        let Some(record) = self.engine.visible(contents, location, pin)? else { return Ok(None) };
        if self.engine.options.verify_reads {
            self.engine.check_record(&record)?;
        }
        Ok(Some(record.keep_record()))
    }
}

/// What an iterator goes through, if it is still what the keyspace holds.
///
/// # Errors
///
/// `KeyspaceDropped`.
fn still<'p>(keyspace: &'p Keyspace, id: Option<KeyspaceId>, pin: &'p Pin) -> Result<Option<&'p Contents>> {
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
            if let Err(error) = self.engine.liveness.check() {
                return Some(Err(error));
            }
            let pin = epoch::pin();
            // Several buckets at once, so that the loads of their records overlap.
            let mut places = std::mem::take(&mut self.places);
            let contents = loop {
                let contents = match still(&self.keyspace, self.id, &pin) {
                    Ok(contents) => contents?,
                    Err(error) => return Some(Err(error)),
                };
                let Some(at) = cursor.filter(|_| places.len() < AHEAD) else { break contents };
                match contents.index.scan(at, &mut places) {
                    Ok(next) => cursor = next,
                    // A cursor is a place in every index of these keys. On an error the iterator ends: `self.cursor` was taken.
                    Err(unread) => match self.engine.mend(unread) {
                        Ok(()) => {}
                        Err(error) => return Some(Err(error)),
                    },
                }
            };
            self.cursor = cursor;
            for location in &places {
                self.engine.shared.space.prefetch(*location);
            }
            for location in places.drain(..) {
                self.found.extend(self.kept(contents, location, &pin).transpose());
            }
            self.places = places;
        }
    }
}

impl std::iter::FusedIterator for Iter {}

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
