//! The part of a batch that applies to one keyspace.

use super::keyspace::Keyspace;
use super::write_batch::WriteBatch;
use crate::engine::write::batch_ops::BatchOpKind;

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
        self.push(BatchOpKind::Insert, key.as_ref(), value.as_ref())
    }

    /// Adds a removal; see [`WriteBatch::remove`].
    #[doc(alias = "delete")]
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(BatchOpKind::Remove, key.as_ref(), &[])
    }

    /// Adds a condition; see [`WriteBatch::require`].
    pub fn require(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(BatchOpKind::RequireValue, key.as_ref(), value.as_ref())
    }

    /// Adds a condition; see [`WriteBatch::require_present`].
    pub fn require_present(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(BatchOpKind::RequirePresent, key.as_ref(), &[])
    }

    /// Adds a condition; see [`WriteBatch::require_absent`].
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(BatchOpKind::RequireAbsent, key.as_ref(), &[])
    }

    fn push(&mut self, kind: BatchOpKind, key: &[u8], value: &[u8]) -> &mut Self {
        self.batch.ops.push(self.place, kind, key, value);
        self
    }
}

impl WriteBatch {
    /// Returns a handle that adds writes and conditions on another keyspace to the batch.
    ///
    /// The keyspace must belong to the same open store. It is looked up when the batch is written.
    /// So writes to a keyspace that was cleared meanwhile apply to its new contents, and a dropped
    /// keyspace is an error.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let (users, by_mail) = (store.keyspace("users")?, store.keyspace("users by mail")?);
    /// let mut batch = mapcask::WriteBatch::new();
    /// batch.on(&by_mail).require_absent("anna@example.org").insert("anna@example.org", "7");
    /// batch.on(&users).insert("7", "Anna");
    /// store.write(batch)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on(&mut self, keyspace: &Keyspace) -> BatchOn<'_> {
        let place = self.ops.place_of(keyspace.inner());
        BatchOn { batch: self, place }
    }
}
