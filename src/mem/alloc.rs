//! Memory that may be refused: what is large, or grows with the data, is asked for, so that a process without any goes on.
//!
//! A few hundred bytes are taken as std takes them: where even those cannot be had, the process ends.

use std::io;

use crate::error::{RanOut, Resource};

/// Makes room for so many more items.
///
/// # Errors
///
/// When memory is short; nothing has changed.
pub(crate) fn reserve<T>(items: &mut Vec<T>, more: usize) -> io::Result<()> {
    items.try_reserve(more).map_err(|_| refused())
}

/// Room for so many items, and no more.
///
/// # Errors
///
/// When memory is short.
pub(crate) fn with_capacity<T>(count: usize) -> io::Result<Vec<T>> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| refused())?;
    Ok(items)
}

/// So many zeros.
///
/// # Errors
///
/// When memory is short.
pub(crate) fn zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = with_capacity(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// So many zeros, or a few where memory is short: for whoever must go on, and can do so by small steps.
pub(crate) fn zeros_or_few(len: usize, few: usize) -> Vec<u8> {
    zeros(len).unwrap_or_else(|_| vec![0; few])
}

/// Makes a buffer so long; what is new in it is zero.
///
/// # Errors
///
/// When memory is short; nothing has changed.
pub(crate) fn resize(bytes: &mut Vec<u8>, len: usize) -> io::Result<()> {
    let more = len.saturating_sub(bytes.len());
    bytes.try_reserve_exact(more).map_err(|_| refused())?;
    bytes.resize(len, 0);
    Ok(())
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, RanOut(Resource::Memory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn more_than_addresses_can_hold_is_refused_and_changes_nothing() {
        let most = isize::MAX.unsigned_abs();
        let mut bytes = vec![7, 8];
        for refused in [
            reserve(&mut bytes, most).unwrap_err(),
            resize(&mut bytes, most).unwrap_err(),
            zeros(most).unwrap_err(),
            with_capacity::<u64>(most).unwrap_err(),
        ] {
            let error = Error::io("read", "data", refused);
            assert!(matches!(error, Error::Exhausted { resource: Resource::Memory, .. }), "{error:?}");
        }
        assert_eq!(bytes, [7, 8]);
        assert_eq!((zeros_or_few(most, 3), zeros_or_few(5, 3)), (vec![0; 3], vec![0; 5]));
        resize(&mut bytes, 4).unwrap();
        assert_eq!((bytes, zeros(2).unwrap()), (vec![7, 8, 0, 0], vec![0, 0]));
    }
}
