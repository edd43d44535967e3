//! Optimistic transactions: reads from a snapshot, writes at the commit, and a conflict if a read no
//! longer holds then.
//!
//! Until the commit a transaction is a snapshot, a list of what was read from it, and a map of writes. It
//! holds no lock, and no other thread knows of it. `engine::write::commit` checks the reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::keyspace::Keyspace;
use super::snapshot::{KeyspaceSnapshot, Snapshot};
use super::tx_value::TxValue;
use crate::config::Durability;
use crate::engine::handle::Handle;
use crate::engine::state::catalog::KeyspaceState;
use crate::engine::write::batch_ops::{BatchOpKind, BatchOps};
use crate::engine::write::check_len;
use crate::engine::write::read_set::{KeyspaceReads, ReadSet};
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};

/// The most reads that a transaction notes.
const MOST_READS: usize = 1 << 20;
/// The most bytes of their keys, about.
const MOST_READ_BYTES: usize = 64 << 20;

/// The last write of a transaction to a key. `None` is a removal.
pub(super) type OwnValue = Option<Arc<[u8]>>;

/// The writes of a transaction to one keyspace.
pub(super) type OwnWrites = BTreeMap<Arc<[u8]>, OwnValue>;

/// Reads and writes that take effect as one step, or not at all.
///
/// It reads from a [`Snapshot`] and its own writes, and keeps its writes until
/// [`commit`](Transaction::commit). The commit checks that all that was read still holds. If another
/// writer has changed it, by a transaction or a plain write, the commit fails with
/// [`Error::Conflict`], and nothing was written. [`Store::transact`](crate::Store::transact) tries again.
///
/// - Committed transactions and plain writes are strictly serializable: they take effect one after
///   another, each between its begin and its end.
/// - A read is noted exactly: a key, and a range as far as it was read. A new key in a range is a
///   conflict, and one beside it is none.
/// - Writes alone never conflict, and a transaction that wrote nothing always commits.
///
/// It holds no lock: other writers never wait for it, except for the check in its commit. A dropped
/// transaction leaves nothing. While it lives it costs as much as a [`Snapshot`], and some 100 bytes
/// and the key for each noted read. It keeps the store open.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("doctors on call", "2")?;
/// let mut first = store.begin();
/// let mut second = store.begin();
/// for transaction in [&mut first, &mut second] {
///     assert_eq!(transaction.get(&store, "doctors on call")?.expect("inserted"), "2");
///     transaction.insert(&store, "doctors on call", "1")?;
/// }
/// first.commit()?;
/// assert!(matches!(second.commit(), Err(mapcask::Error::Conflict { .. })));
/// assert_eq!(store.get("doctors on call")?.expect("inserted"), "1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "WriteTransaction")]
#[doc(alias = "RwTxn")]
#[doc(alias = "OptimisticTransaction")]
pub struct Transaction {
    handle: Arc<Handle>,
    durability: Durability,
    snapshot: Snapshot,
    pub(super) parts: Vec<TxKeyspace>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("seq", &self.snapshot.seq()).finish_non_exhaustive()
    }
}

/// A keyspace that a transaction has used.
pub(super) struct TxKeyspace {
    /// The keyspace in the snapshot; `None` if it was created since.
    pub(super) seen: Option<KeyspaceSnapshot>,
    pub(super) reads: KeyspaceReads,
    pub(super) own: OwnWrites,
}

impl TxKeyspace {
    /// Returns the value of a key in the snapshot.
    fn stored(&self, key: &[u8]) -> Result<Option<TxValue>> {
        let Some(seen) = &self.seen else { return Ok(None) };
        Ok(seen.get(key)?.map(TxValue::stored))
    }
}

impl Transaction {
    /// Begins one on a store, whose commit is at least so durable.
    pub(super) fn new(handle: Arc<Handle>, durability: Durability) -> Self {
        let snapshot = Snapshot::take(&handle.state);
        Self { handle, durability, snapshot, parts: Vec::new() }
    }
}

/// The reads. Each but [`Transaction::peek`] becomes a part of what must hold at the commit.
impl Transaction {
    /// Returns the value of a key: the transaction's own, or the one of its snapshot.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let mut transaction = store.begin();
    /// assert_eq!(transaction.get(&store, "a")?, None);
    /// transaction.insert(&store, "a", "1")?;
    /// assert_eq!(transaction.get(&store, "a")?.expect("just inserted"), "1");
    /// // That there was none is a read, too.
    /// store.insert("a", "2")?;
    /// assert!(transaction.commit().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt`, `Io` or `MissingSegment`, as for [`Reader::get`](crate::Reader::get);
    /// `KeyspaceDropped` if it was dropped before the transaction began; `ForeignKeyspace`; `Limit` after
    /// 1,048,576 reads, or 64 MiB of keys; `Forked`. Works on a closed store.
    pub fn get(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<TxValue>> {
        let key = key.as_ref();
        let place = self.place_of(keyspace)?;
        if let Some(own) = self.parts[place].own.get(key) {
            return Ok(own.as_ref().map(TxValue::own));
        }
        // No keyspace can get a key of such a length.
        let is_noted = key.len() > MAX_KEY_LEN || self.parts[place].reads.has_key(key);
        if !is_noted {
            self.check_room()?;
        }
        let part = &mut self.parts[place];
        let value = part.stored(key)?;
        if !is_noted {
            part.reads.note_key(key, value.is_some());
        }
        Ok(value)
    }

    /// Returns `true` if a key exists, in the transaction's own writes or in its snapshot.
    ///
    /// An overwritten value is a conflict as for [`Transaction::get`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::get`] does.
    pub fn contains_key(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(keyspace, key)?.is_some())
    }

    /// Returns the value of a key like [`Transaction::get`], but not as a part of what must hold.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("price", "10")?;
    /// let mut transaction = store.begin();
    /// let price = transaction.peek(&store, "price")?.expect("inserted");
    /// transaction.insert(&store, "price of 7", price)?;
    /// store.insert("price", "11")?;
    /// transaction.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::get`] does, without `Limit`.
    pub fn peek(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<TxValue>> {
        let key = key.as_ref();
        if let Some(part) = self.part_of(keyspace) {
            let own = part.own.get(key);
            return own.map_or_else(|| part.stored(key), |own| Ok(own.as_ref().map(TxValue::own)));
        }
        let Some(seen) = self.seen(keyspace)? else { return Ok(None) };
        Ok(seen.get(key)?.map(TxValue::stored))
    }

    /// Returns the snapshot that the transaction reads from, without its own writes. Nothing that is read
    /// from it is a part of what must hold.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let mut transaction = store.begin();
    /// transaction.insert(&store, "a", "1")?;
    /// assert_eq!(transaction.snapshot().get("a")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Refuses one read more than there may be.
    pub(super) fn check_room(&self) -> Result<()> {
        let reads = || self.parts.iter().map(|part| &part.reads);
        let (noted, bytes): (usize, usize) =
            (reads().map(KeyspaceReads::len).sum(), reads().map(KeyspaceReads::key_bytes).sum());
        if noted < MOST_READS && bytes < MOST_READ_BYTES {
            return Ok(());
        }
        Err(Error::Limit {
            what: "a transaction notes at most 1,048,576 reads, and at most 64 MiB of their keys",
            advice: "make it smaller, or use `peek` or its snapshot for what may change",
        })
    }

    fn part_of(&self, keyspace: &Keyspace) -> Option<&TxKeyspace> {
        self.parts.iter().find(|part| Arc::ptr_eq(&part.reads.keyspace, keyspace.inner()))
    }

    /// Returns the place of a keyspace among those that were used.
    pub(super) fn place_of(&mut self, keyspace: &Keyspace) -> Result<usize> {
        let is_it = |part: &TxKeyspace| Arc::ptr_eq(&part.reads.keyspace, keyspace.inner());
        if let Some(place) = self.parts.iter().position(is_it) {
            self.handle.state.fork_guard.check_inherited()?;
            return Ok(place);
        }
        let seen = self.seen(keyspace)?;
        let id = seen.as_ref().map(KeyspaceSnapshot::id);
        let reads = KeyspaceReads::new(Arc::clone(keyspace.inner()), id);
        self.parts.push(TxKeyspace { seen, reads, own: OwnWrites::new() });
        Ok(self.parts.len() - 1)
    }

    /// Returns a keyspace as of the snapshot; `None` if it was created since.
    fn seen(&self, keyspace: &Keyspace) -> Result<Option<KeyspaceSnapshot>> {
        let state = &self.handle.state;
        state.fork_guard.check_inherited()?;
        let inner: &Arc<KeyspaceState> = keyspace.inner();
        if !inner.is_of(&state.catalog) {
            return Err(Error::ForeignKeyspace { name: keyspace.name() });
        }
        match self.snapshot.of(inner) {
            Some(seen) => Ok(Some(seen)),
            // It is refused if it was dropped.
            None => state.contents(inner, &state.pin()).map(|_| None),
        }
    }
}

/// The writes, and the end.
impl Transaction {
    /// Inserts a key, or overwrites its value, once the transaction commits.
    ///
    /// The commit is as durable as the most durable handle of a keyspace that was written to.
    ///
    /// # Errors
    ///
    /// `KeyTooLarge` or `ValueTooLarge`; `KeyspaceDropped`; `ForeignKeyspace`; `Forked`.
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        let value = value.as_ref();
        if value.len() > MAX_VALUE_LEN {
            return Err(Error::ValueTooLarge { len: value.len(), max: MAX_VALUE_LEN });
        }
        self.note_write(keyspace, key.as_ref(), Some(value.into()))
    }

    /// Removes a key once the transaction commits. Removing an absent key is not an error.
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::insert`] does.
    #[doc(alias = "delete")]
    pub fn remove(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        self.note_write(keyspace, key.as_ref(), None)
    }

    fn note_write(&mut self, keyspace: &Keyspace, key: &[u8], value: OwnValue) -> Result<()> {
        let place = self.place_of(keyspace)?;
        if key.len() > MAX_KEY_LEN {
            return Err(Error::KeyTooLarge { len: key.len(), max: MAX_KEY_LEN });
        }
        {
            let state = &self.handle.state;
            check_len(state.contents(keyspace.inner(), &state.pin())?.id, key)?;
        }
        self.durability = self.durability.max(keyspace.durability());
        match self.parts[place].own.get_mut(key) {
            Some(own) => *own = value,
            None => drop(self.parts[place].own.insert(key.into(), value)),
        }
        Ok(())
    }

    /// Makes the commit at least this durable.
    ///
    /// ```
    /// use mapcask::Durability;
    ///
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let mut transaction = store.begin().with_durability(Durability::Disk);
    /// transaction.insert(&store, "paid", "yes")?;
    /// let seq = transaction.commit()?;
    /// assert!(store.durable_seq() >= seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Self {
        Self { durability: self.durability.max(durability), ..self }
    }

    /// Writes what the transaction wrote, as a whole, if all that it read still holds. Returns the number
    /// of the last write.
    ///
    /// A transaction that wrote nothing always commits, at the point of its snapshot, whose number it
    /// returns. It does not wait until what it read is durable.
    ///
    /// The check of the reads takes less time than the reads took. If another write takes effect
    /// meanwhile, it is done again while other writers wait.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.keyspace("users")?;
    /// let mut transaction = store.begin();
    /// transaction.get(&users, "anna")?;
    /// transaction.insert(&users, "berta", "guest")?;
    /// users.insert("anna", "admin")?;
    /// match transaction.commit() {
    ///     Err(mapcask::Error::Conflict { keyspace, key }) => {
    ///         assert_eq!((keyspace.as_str(), key.as_deref()), ("users", Some(b"anna".as_slice())));
    ///     }
    ///     other => panic!("{other:?}"),
    /// }
    /// assert!(!users.contains_key("berta")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Conflict`: run the transaction again, from its begin. Otherwise fails as [`Keyspace::write`] does.
    /// Nothing was written then, except after a failed sync: see [`Keyspace::insert`]. A transaction that
    /// wrote nothing does not fail.
    pub fn commit(mut self) -> Result<Seq> {
        let _events = crate::trace::at_end();
        let mut ops = BatchOps::default();
        for TxKeyspace { reads, own, .. } in &mut self.parts {
            reads.end_range();
            let place = if own.is_empty() { 0 } else { ops.place_of(&reads.keyspace) };
            // Each is freed as soon as it is in the batch.
            while let Some((key, value)) = own.pop_first() {
                match value {
                    Some(value) => ops.push(place, BatchOpKind::Insert, &key, &value),
                    None => ops.push(place, BatchOpKind::Remove, &key, &[]),
                }
            }
        }
        let at = self.snapshot.seq();
        if ops.len() == 0 {
            return Ok(at);
        }
        let (handle, durability) = (Arc::clone(&self.handle), self.durability);
        let keyspaces = self.parts.iter().map(|part| &part.reads).collect();
        let seq = handle.engine.commit(&ReadSet { at, keyspaces }, &ops)?;
        // The snapshot is not needed during the sync.
        drop(self);
        handle.engine.wait_for(seq, durability)?;
        Ok(seq)
    }
}
