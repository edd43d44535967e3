//! Conversion of values to `bytes::Bytes`, for programs that pass buffers in that type.

use ::bytes::Bytes;

use crate::engine::read::Value;

/// Converts without a copy: the bytes lie in the mapped file, and keep their segment mapped as the
/// value does.
///
/// To keep a few bytes for long, use `Bytes::copy_from_slice` instead.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// store.insert("page", "<html>")?;
/// let body: bytes::Bytes = store.get("page")?.expect("just inserted").into();
/// store.remove("page")?;
/// store.close()?;
/// assert_eq!(body, "<html>");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl From<Value> for Bytes {
    fn from(value: Value) -> Self {
        Self::from_owner(value)
    }
}
