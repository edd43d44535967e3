//! What the fuzz targets share: the format written down a second time, naively, and makers of nearly valid input.
//!
//! Nothing here uses the library's encoders where its decoders are under test, except where it says so.

#[cfg(not(mapcask_internal))]
compile_error!(
    "the targets need the library's internals: set RUSTFLAGS=\"--cfg mapcask_internal\" (just fuzz does)"
);

pub mod naive;
pub mod segment;
pub mod store;

/// Where the checksum of a segment header, a manifest and a control page lies, in bytes from the start.
const FILE_SUM: std::ops::Range<usize> = 12..16;

/// Gives a structure whose checksum covers all of it but itself the checksum that fits, so that what lies behind the
/// check is reached. Shorter input stays as it is.
pub fn mend_file_sum(bytes: &mut [u8]) {
    if bytes.len() < FILE_SUM.end {
        return;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..FILE_SUM.start]);
    hasher.update(&bytes[FILE_SUM.end..]);
    let sum = hasher.finalize();
    bytes[FILE_SUM].copy_from_slice(&sum.to_le_bytes());
}

/// Takes the first `N` bytes off the input; the rest of a short one counts as zeros.
pub fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let (head, rest) = input.split_at(N.min(input.len()));
    taken[..head.len()].copy_from_slice(head);
    *input = rest;
    taken
}
