//! Fuzzes a manifest: no panic, memory in proportion to the input, and one encoding of a decoded
//! manifest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::manifest::{MANIFEST_HEADER_SIZE, Manifest, SEGMENT_ENTRY_SIZE};
use mapcask::format::{READ_VERSION, WRITE_VERSION};
use mapcask_fuzz::mend_file_sum;

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut bytes = input.to_vec();
    // A wrong magic, length or checksum would hide all later fields.
    let magic = bytes.len().min(8);
    bytes[..magic].copy_from_slice(&b"MAPCASKM"[..magic]);
    if bytes.len() >= 24 {
        let len = (bytes.len() as u64).to_le_bytes();
        bytes[16..24].copy_from_slice(&len);
    }
    mend_file_sum(&mut bytes);
    check(&bytes);
});

fn check(bytes: &[u8]) {
    let Ok(Ok(manifest)) = Manifest::decode(bytes) else { return };
    let keyspaces = manifest.keyspaces.iter().len();
    let least = MANIFEST_HEADER_SIZE + SEGMENT_ENTRY_SIZE * manifest.segments.len() + 6 * keyspaces;
    assert!(least <= bytes.len(), "every entry was there");
    assert!(manifest.segments.capacity() <= 2 * manifest.segments.len() + 4, "no count is believed");
    for entry in &manifest.segments {
        assert_eq!(manifest.segment(entry.id), Some(entry));
        assert!(entry.end <= entry.size && entry.id < manifest.next_segment);
    }
    let again = manifest.encode();
    assert_eq!(Manifest::decode(&again), Ok(Ok(manifest)));
    let versions = [WRITE_VERSION.to_le_bytes(), READ_VERSION.to_le_bytes()].concat();
    if bytes[8..12] == versions {
        assert_eq!(again, bytes[..again.len()], "there is one way to write a manifest");
    }
}
