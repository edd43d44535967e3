//! Values as `bytes::Bytes`, for programs that hand buffers around in that type.

use ::bytes::Bytes;

use crate::engine::read::Value;

/// Without a copy: the bytes lie in the mapped file, and keep their segment mapped as the value does.
///
/// Whoever keeps few bytes for long does better with `Bytes::copy_from_slice`.
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
