//! Batches: writes that take effect together or not at all, with conditions.

use crate::engine::write::batch_ops::{BatchOpKind, BatchOps};

/// Writes that take effect together: after any crash all of them exist or none, and no reader sees
/// a part.
///
/// - Of several writes to one key the last one counts.
/// - Methods of the batch itself apply to the keyspace that the batch is written to.
///   [`WriteBatch::on`] adds writes to another one.
/// - Conditions are checked before anything is written, against the state before the batch. Unless
///   all of them hold, nothing is written.
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
    pub(super) ops: BatchOps,
}

impl WriteBatch {
    /// Returns an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an insertion. Lengths are checked when the batch is written.
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.ops.push(0, BatchOpKind::Insert, key.as_ref(), value.as_ref());
    }

    /// Adds a removal. Removing an absent key is not an error.
    #[doc(alias = "delete")]
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.ops.push(0, BatchOpKind::Remove, key.as_ref(), &[]);
    }

    /// Adds a condition: the key must have this value before the batch.
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
        self.ops.push(0, BatchOpKind::RequireValue, key.as_ref(), value.as_ref());
    }

    /// Adds a condition: the key must exist before the batch, with any value. See
    /// [`WriteBatch::require`].
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
        self.ops.push(0, BatchOpKind::RequirePresent, key.as_ref(), &[]);
    }

    /// Adds a condition: the key must be absent before the batch. See [`WriteBatch::require`].
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
        self.ops.push(0, BatchOpKind::RequireAbsent, key.as_ref(), &[]);
    }

    /// Returns the number of writes in the batch, conditions not counted.
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
        self.ops.len()
    }

    /// Returns `true` if the batch holds no writes. It may hold conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.len() == 0
    }

    /// Removes all writes and conditions, and keeps the memory for reuse.
    pub fn clear(&mut self) {
        self.ops.clear();
    }
}

impl AsRef<WriteBatch> for WriteBatch {
    fn as_ref(&self) -> &WriteBatch {
        self
    }
}
