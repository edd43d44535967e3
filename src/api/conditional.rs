//! Conditional writes to one key: each is one atomic step for all other threads.

use std::fmt;

use crate::api::keyspace::Keyspace;
use crate::engine::read::Value;
use crate::engine::write::{Condition, KeyWrite, Outcome, Returning};
use crate::error::Result;
use crate::format::Seq;

/// The error of a compare-and-swap whose key did not have the expected value. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareAndSwapError {
    /// The key's current value; `None` if the key is absent.
    pub current: Option<Value>,
}

impl fmt::Display for CompareAndSwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key does not have the expected value; decide anew with the current one")
    }
}

impl std::error::Error for CompareAndSwapError {}

impl Keyspace {
    /// Replaces the value `old` of a key by `new`, in one atomic step. `None` means an absent key
    /// in both.
    ///
    /// The outer result is an error if the store failed. The inner result is an error if the key
    /// had another value.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// assert!(store.compare_and_swap("lock", None::<&str>, Some("me"))?.is_ok());
    /// let error = store.compare_and_swap("lock", None::<&str>, Some("you"))?.unwrap_err();
    /// assert_eq!(error.current.as_deref(), Some(b"me".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "cas")]
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        old: Option<impl AsRef<[u8]>>,
        new: Option<impl AsRef<[u8]>>,
    ) -> Result<Result<Seq, CompareAndSwapError>> {
        let condition = Condition::Value(old.as_ref().map(AsRef::as_ref));
        let value = new.as_ref().map(AsRef::as_ref);
        let change = KeyWrite { key: key.as_ref(), value, condition, keep: Returning::Nothing };
        Ok(match self.change(&change)? {
            Outcome::Done { seq, .. } => Ok(seq),
            Outcome::Refused(current) => Err(CompareAndSwapError { current }),
        })
    }

    /// Inserts a key if it is absent, and returns `true` if it was inserted.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// assert!(store.insert_if_absent("a", "1")?);
    /// assert!(!store.insert_if_absent("a", "2")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "put_if_absent")]
    #[doc(alias = "try_insert")]
    pub fn insert_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        let (value, condition) = (Some(value.as_ref()), Condition::Present(false));
        let change = KeyWrite { key: key.as_ref(), value, condition, keep: Returning::Nothing };
        Ok(matches!(self.change(&change)?, Outcome::Done { .. }))
    }

    /// Inserts a key, or overwrites its value, and returns the previous value.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// assert_eq!(store.replace("a", "1")?, None);
    /// assert_eq!(store.replace("a", "2")?.as_deref(), Some(b"1".as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "swap")]
    pub fn replace(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let value = Some(value.as_ref());
        let change =
            KeyWrite { key: key.as_ref(), value, condition: Condition::Always, keep: Returning::Old };
        self.change(&change).map(kept)
    }

    /// Removes a key, and returns the value that it had.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// assert_eq!(store.take("a")?.as_deref(), Some(b"1".as_slice()));
    /// assert_eq!(store.take("a")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "pop")]
    #[doc(alias = "fetch_and_delete")]
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let change =
            KeyWrite { key: key.as_ref(), value: None, condition: Condition::Always, keep: Returning::Old };
        self.change(&change).map(kept)
    }

    /// Replaces the value of a key by the result of `update`, and returns the previous value.
    ///
    /// `update` is given `None` for an absent key, and returns `None` to remove it. No lock is held
    /// while it runs, so it may use the store. If another write to the key comes between, `update`
    /// is called again with the new value.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let count = |old: Option<&[u8]>| Some(old.map_or(1, |old| old[0] + 1).to_le_bytes());
    /// assert_eq!(store.fetch_and_update("visits", count)?, None);
    /// assert_eq!(store.fetch_and_update("visits", count)?.as_deref(), Some([1].as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "merge")]
    pub fn fetch_and_update<V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        mut update: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Option<Value>> {
        self.update(key.as_ref(), Returning::Old, |old| Ok(update(old)))
    }

    /// Replaces the value of a key by the result of `update`, and returns the new value.
    ///
    /// See [`Keyspace::fetch_and_update`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let count = |old: Option<&[u8]>| Some(old.map_or(1, |old| old[0] + 1).to_le_bytes());
    /// assert_eq!(store.update_and_fetch("visits", count)?.as_deref(), Some([1].as_slice()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does.
    #[doc(alias = "merge")]
    pub fn update_and_fetch<V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        mut update: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Option<Value>> {
        self.update(key.as_ref(), Returning::New, |old| Ok(update(old)))
    }

    /// Updates a key as [`Keyspace::fetch_and_update`] does; an error of `update` writes nothing.
    pub(crate) fn update<V: AsRef<[u8]>>(
        &self,
        key: &[u8],
        keep: Returning,
        mut update: impl FnMut(Option<&[u8]>) -> Result<Option<V>>,
    ) -> Result<Option<Value>> {
        loop {
            let (seq, old) = self.state().get_with_seq(self.inner(), key)?.unzip();
            let new = update(old.as_deref());
            // `update` may have read zeros in place of an unreadable page: its result is then
            // discarded.
            old.as_ref().map_or(Ok(()), Value::check)?;
            let new = new?;
            let value = new.as_ref().map(AsRef::as_ref);
            // Compares the sequence number, not the value: a value may have changed and changed
            // back.
            let change = KeyWrite { key, value, condition: Condition::Seq(seq), keep };
            match self.change(&change)? {
                Outcome::Done { kept, .. } => return Ok(kept),
                Outcome::Refused(_) => {}
            }
        }
    }
}

fn kept(outcome: Outcome) -> Option<Value> {
    match outcome {
        Outcome::Done { kept, .. } => kept,
        Outcome::Refused(_) => unreachable!("there is no condition"),
    }
}
