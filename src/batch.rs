//! A batch: writes that take effect together or not at all.

use crate::error::{Error, Result};
use crate::format::record::Kind;

/// Writes that take effect together: after any crash all of them are there or none, and no reader sees a part.
///
/// Of several writes to one key the last one counts.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let mut batch = mapcask::WriteBatch::new();
/// batch.insert("a", "1");
/// batch.remove("b");
/// store.write(batch)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    operations: Vec<Operation>,
    /// Keys and values behind one another.
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    kind: Kind,
    key_start: usize,
    value_start: usize,
    value_end: usize,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an insertion. Lengths are checked by [`Store::write`](crate::Store::write).
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push(Kind::Put, key.as_ref(), value.as_ref());
    }

    /// Adds a removal. Removing a key that is not there is no error.
    #[doc(alias = "delete")]
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.push(Kind::Tombstone, key.as_ref(), &[]);
    }

    fn push(&mut self, kind: Kind, key: &[u8], value: &[u8]) {
        let key_start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value_start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.operations.push(Operation { kind, key_start, value_start, value_end: self.bytes.len() });
    }

    /// The number of writes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds no writes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Removes all writes, and keeps the memory.
    pub fn clear(&mut self) {
        self.operations.clear();
        self.bytes.clear();
    }

    /// The writes in order: kind, key and value.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (Kind, &[u8], &[u8])> {
        self.operations.iter().map(|operation| {
            let key = &self.bytes[operation.key_start..operation.value_start];
            let value = &self.bytes[operation.value_start..operation.value_end];
            (operation.kind, key, value)
        })
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
