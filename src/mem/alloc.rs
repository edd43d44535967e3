//! Fallible allocation: an allocation that is large or grows with the data returns an error if
//! memory is short.
//!
//! Allocations of a few hundred bytes use std's infallible ones, which end the process on failure.

use std::io;
use std::sync::OnceLock;

use memmap2::MmapMut;

use crate::error::{RanOut, Resource};

/// The size of the shared zeros in bytes.
const SHARED_LEN: usize = 2 << 20;
/// Zeros that are never written: each of their pages is the one zero page of the kernel.
static SHARED_ZEROS: OnceLock<MmapMut> = OnceLock::new();

/// Returns the shared zeros; `None` if memory is short.
fn shared_zeros() -> Option<&'static MmapMut> {
    if SHARED_ZEROS.get().is_none() {
        // Mapped before the lock, so that a fork at this moment does not leave it locked in the child.
        let zeros = MmapMut::map_anon(SHARED_LEN).ok()?;
        // Another thread may have been quicker.
        drop(SHARED_ZEROS.set(zeros));
    }
    SHARED_ZEROS.get()
}

/// Reserves space for `more` further items.
///
/// # Errors
///
/// Returns an error if memory is short; nothing has changed then.
pub(crate) fn reserve<T>(items: &mut Vec<T>, more: usize) -> io::Result<()> {
    items.try_reserve(more).map_err(|_| refused())
}

/// Returns an empty vector with space for exactly `count` items.
///
/// # Errors
///
/// Returns an error if memory is short.
pub(crate) fn with_capacity<T>(count: usize) -> io::Result<Vec<T>> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| refused())?;
    Ok(items)
}

/// Returns `len` zeros.
///
/// # Errors
///
/// Returns an error if memory is short.
pub(crate) fn zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = with_capacity(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Passes `len` zeros on. Up to 2 MiB take no memory.
///
/// # Errors
///
/// Returns an error if memory is short, or the error of `take`.
pub(crate) fn with_zeros(len: usize, take: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
    match shared_zeros().and_then(|zeros| zeros.get(..len)) {
        Some(zeros) => take(zeros),
        None => take(&zeros(len)?),
    }
}

/// Returns `len` zeros, or `few` if memory is short: for callers that can proceed in small steps.
pub(crate) fn zeros_or_few(len: usize, few: usize) -> Vec<u8> {
    zeros(len).unwrap_or_else(|_| vec![0; few])
}

/// Returns `len` zeros in memory of their own, which goes back to the system when it is dropped.
///
/// An allocator may keep freed memory.
///
/// # Errors
///
/// Returns an error if memory is short.
pub(crate) fn zeros_apart(len: usize) -> io::Result<MmapMut> {
    MmapMut::map_anon(len).map_err(|_| refused())
}

/// Resizes a buffer to `len` bytes; new bytes are zero.
///
/// # Errors
///
/// Returns an error if memory is short; nothing has changed then.
pub(crate) fn resize(bytes: &mut Vec<u8>, len: usize) -> io::Result<()> {
    let more = len.saturating_sub(bytes.len());
    bytes.try_reserve(more).map_err(|_| refused())?;
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
    fn allocation_beyond_the_address_space_is_refused() {
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
        assert!(with_zeros(most, |_| Ok(())).is_err() && zeros_apart(most).is_err());
    }

    /// Cause: each piece of zeros was allocated. Symptom: the allocator kept 2 MiB of them.
    #[test]
    fn zeros_of_2_mib_are_shared_and_larger_ones_are_made() {
        let mut places = Vec::new();
        for len in [2 << 20, 4096, (2 << 20) + 1] {
            let seen = with_zeros(len, |zeros| {
                assert!(zeros.len() == len && zeros.iter().all(|byte| *byte == 0));
                places.push(zeros.as_ptr().addr());
                Ok(())
            });
            seen.unwrap();
        }
        assert_eq!(places[0], places[1]);
        assert_ne!(places[0], places[2]);
    }
}
