//! A batch: writes that take effect together or not at all, and what must hold for that.

use std::ops::Range;
use std::sync::Arc;

use crate::catalog::Keyspace;
use crate::error::{Error, Result};

/// Writes that take effect together: after any crash all of them are there or none, and no reader sees a part.
///
/// Of several writes to one key the last one counts. What is added by the methods of the batch itself goes to the
/// keyspace that the batch is written to; [`WriteBatch::on`] adds writes to any other. Conditions are looked at before
/// anything is written, and look at what was there before the batch; unless all of them hold, nothing is written.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let users = store.keyspace("users")?;
/// let mut batch = mapcask::WriteBatch::new();
/// batch.insert("a", "1");
/// batch.remove("b");
/// batch.on(&users).insert("anna", "admin");
/// store.write(batch)?;
/// assert_eq!(users.get("anna")?.as_deref(), Some(b"admin".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Transaction")]
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    entries: Vec<Entry>,
    /// Keys and values behind one another.
    bytes: Vec<u8>,
    /// The keyspaces that were named; the one that the batch is written to comes before them.
    places: Vec<Arc<Keyspace>>,
    /// How many of the entries are writes.
    writes: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Zero for the keyspace that the batch is written to, else one more than the place in `places`.
    place: usize,
    kind: Kind,
    key: Range<usize>,
    value: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Remove,
    RequireValue,
    RequirePresent,
    RequireAbsent,
}

/// One entry of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Insert(&'a [u8]),
    Remove,
    Require(Expected<'a>),
}

/// What a condition expects of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected<'a> {
    Absent,
    Present,
    Value(&'a [u8]),
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an insertion. Lengths are checked when the batch is written.
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push(0, Kind::Insert, key.as_ref(), value.as_ref());
    }

    /// Adds a removal. Removing a key that is not there is no error.
    #[doc(alias = "delete")]
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.push(0, Kind::Remove, key.as_ref(), &[]);
    }

    /// Adds a condition: the key has this value before the batch.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("balance", "10")?;
    /// let mut batch = mapcask::WriteBatch::new();
    /// batch.require("balance", "10");
    /// batch.require_absent("receipt 7");
    /// batch.insert("balance", "8");
    /// batch.insert("receipt 7", "2");
    /// store.write(&batch)?;
    /// // Once more, and nothing is written.
    /// assert!(matches!(store.write(&batch), Err(mapcask::Error::ConditionFailed { .. })));
    /// assert_eq!(store.get("balance")?.as_deref(), Some(b"8".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn require(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push(0, Kind::RequireValue, key.as_ref(), value.as_ref());
    }

    /// Adds a condition: the key is there before the batch, whatever its value. See [`WriteBatch::require`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let mut batch = mapcask::WriteBatch::new();
    /// batch.require_present("anna");
    /// batch.insert("mail of anna", "anna@example.org");
    /// assert!(store.write(&batch).is_err());
    /// store.insert("anna", "admin")?;
    /// store.write(&batch)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn require_present(&mut self, key: impl AsRef<[u8]>) {
        self.push(0, Kind::RequirePresent, key.as_ref(), &[]);
    }

    /// Adds a condition: the key is not there before the batch. See [`WriteBatch::require`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let mut batch = mapcask::WriteBatch::new();
    /// batch.require_absent("anna");
    /// batch.insert("anna", "admin");
    /// store.write(&batch)?;
    /// assert!(store.write(&batch).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) {
        self.push(0, Kind::RequireAbsent, key.as_ref(), &[]);
    }

    /// The number of writes in it; conditions are not counted.
    ///
    /// ```
    /// let mut batch = mapcask::WriteBatch::new();
    /// batch.require_absent("a");
    /// batch.insert("a", "1");
    /// assert_eq!(batch.len(), 1);
    /// batch.clear();
    /// assert!(batch.is_empty());
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes
    }

    /// Whether it holds no writes; it may hold conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes == 0
    }

    /// Removes all writes and conditions, and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.places.clear();
        self.writes = 0;
    }

    /// Says that what is added next goes to a keyspace of the store.
    pub(crate) fn at(&mut self, keyspace: &Arc<Keyspace>) -> BatchOn<'_> {
        let known = self.places.iter().position(|place| Arc::ptr_eq(place, keyspace));
        let place = known.unwrap_or_else(|| {
            self.places.push(Arc::clone(keyspace));
            self.places.len() - 1
        });
        BatchOn { batch: self, place: place + 1 }
    }

    fn push(&mut self, place: usize, kind: Kind, key: &[u8], value: &[u8]) {
        let key_start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value_start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let (key, value) = (key_start..value_start, value_start..self.bytes.len());
        self.entries.push(Entry { place, kind, key, value });
        self.writes += usize::from(matches!(kind, Kind::Insert | Kind::Remove));
    }

    /// The keyspaces that were named; the numbers of [`WriteBatch::iter`] count from one for them.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Arc<Keyspace>> {
        self.places.iter()
    }

    /// The entries in order: number of the keyspace, key, and what is to be done.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8], Step<'_>)> {
        self.entries.iter().map(|entry| {
            let value = &self.bytes[entry.value.clone()];
            let step = match entry.kind {
                Kind::Insert => Step::Insert(value),
                Kind::Remove => Step::Remove,
                Kind::RequireValue => Step::Require(Expected::Value(value)),
                Kind::RequirePresent => Step::Require(Expected::Present),
                Kind::RequireAbsent => Step::Require(Expected::Absent),
            };
            (entry.place, &self.bytes[entry.key.clone()], step)
        })
    }
}

impl AsRef<WriteBatch> for WriteBatch {
    fn as_ref(&self) -> &WriteBatch {
        self
    }
}

/// Adds writes and conditions on one keyspace to a batch; see [`WriteBatch::on`].
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let (users, mails) = (store.keyspace("users")?, store.keyspace("mails")?);
/// let mut batch = mapcask::WriteBatch::new();
/// batch.on(&users).require_absent("anna").insert("anna", "admin");
/// batch.on(&mails).insert("anna", "anna@example.org").remove("berta");
/// store.write(&batch)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchOn<'b> {
    batch: &'b mut WriteBatch,
    place: usize,
}

impl BatchOn<'_> {
    /// Adds an insertion; see [`WriteBatch::insert`].
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(Kind::Insert, key.as_ref(), value.as_ref())
    }

    /// Adds a removal; see [`WriteBatch::remove`].
    #[doc(alias = "delete")]
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(Kind::Remove, key.as_ref(), &[])
    }

    /// Adds a condition; see [`WriteBatch::require`].
    pub fn require(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(Kind::RequireValue, key.as_ref(), value.as_ref())
    }

    /// Adds a condition; see [`WriteBatch::require_present`].
    pub fn require_present(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(Kind::RequirePresent, key.as_ref(), &[])
    }

    /// Adds a condition; see [`WriteBatch::require_absent`].
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(Kind::RequireAbsent, key.as_ref(), &[])
    }

    fn push(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> &mut Self {
        self.batch.push(self.place, kind, key, value);
        self
    }
}

/// The most bytes that the records of a batch may take in the log.
pub(crate) const BATCH_LEN_MAX: u64 = u32::MAX as u64;

/// The size of a batch's records as the frame's header holds it.
///
/// # Errors
///
/// `BatchTooLarge`.
pub(crate) fn frame_len(len: u64) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::BatchTooLarge { len, max: BATCH_LEN_MAX })
}
