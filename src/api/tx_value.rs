//! The keys and values that a transaction reads.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::engine::read::Value;
use crate::error::Result;

/// A key or value that a [`Transaction`](crate::Transaction) has read: one of the store, not copied, or
/// one that the transaction itself wrote.
///
/// It stays valid after the transaction has ended, and after the store is closed.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("a", "1")?;
/// let mut transaction = store.begin();
/// transaction.insert(&store, "b", "2")?;
/// let (a, b) = (transaction.get(&store, "a")?, transaction.get(&store, "b")?);
/// drop(transaction);
/// assert_eq!(a.as_deref(), Some(b"1".as_slice()));
/// assert_eq!(b.expect("just inserted"), "2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TxValue(Source);

#[derive(Clone)]
enum Source {
    Stored(Value),
    Own(Arc<[u8]>),
}

impl TxValue {
    /// Wraps a value of the store.
    pub(super) fn stored(value: Value) -> Self {
        Self(Source::Stored(value))
    }

    /// Wraps bytes that the transaction wrote.
    pub(super) fn own(bytes: &Arc<[u8]>) -> Self {
        Self(Source::Own(Arc::clone(bytes)))
    }
}

impl TxValue {
    /// Returns an error if the bytes may no longer be those of the file; see [`Value::check`].
    ///
    /// Call it after reading bytes on which a write depends, if the disk may fail.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// store.transact(|transaction| {
    ///     let value = transaction.get(&store, "a")?.expect("just inserted");
    ///     transaction.insert(&store, "b", &value)?;
    ///     value.check()
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` with the file and the offset of the page.
    pub fn check(&self) -> Result<()> {
        match &self.0 {
            Source::Stored(value) => value.check(),
            Source::Own(_) => Ok(()),
        }
    }
}

impl Deref for TxValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Stored(value) => value,
            Source::Own(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for TxValue {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for TxValue {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for TxValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for TxValue {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for TxValue {}

impl PartialOrd for TxValue {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TxValue {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl std::hash::Hash for TxValue {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl From<TxValue> for Vec<u8> {
    fn from(value: TxValue) -> Self {
        value.to_vec()
    }
}
