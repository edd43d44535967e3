//! Shares code among the fuzz targets: a naive second parser of the format, and makers of nearly
//! valid input.
//!
//! This code never uses the library's encoders where its decoders are under test, except where it
//! says so.

#[cfg(not(mapcask_internal))]
compile_error!(
    "the targets need the library's internals: set RUSTFLAGS=\"--cfg mapcask_internal\" (just fuzz does)"
);

pub mod naive;
pub mod segment;
pub mod store;

/// The place of the checksum in a segment header, a manifest and a control page, in bytes from the
/// start.
const FILE_SUM: std::ops::Range<usize> = 12..16;

/// Gives a structure a valid checksum over all of it but the checksum, so that the code after the
/// check is reached. Shorter input stays unchanged.
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

/// Takes the first `N` bytes off the input; a short input is filled up with zeros.
pub fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let (head, rest) = input.split_at(N.min(input.len()));
    taken[..head.len()].copy_from_slice(head);
    *input = rest;
    taken
}
