//! Fuzzes a segment header: no panic, memory in proportion to the input, and one encoding of a
//! decoded header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::segment_header::{SEGMENT_HEADER_SIZE, SegmentHeader};
use mapcask::format::{READ_VERSION, WRITE_VERSION};
use mapcask_fuzz::mend_file_sum;

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut bytes = input.to_vec();
    // A wrong magic would hide all later fields.
    let magic = bytes.len().min(8);
    bytes[..magic].copy_from_slice(&b"MAPCASKS"[..magic]);
    if let Ok(len) = SegmentHeader::encoded_len(&bytes) {
        bytes.truncate(len);
    }
    mend_file_sum(&mut bytes);
    check(&bytes);
});

fn check(bytes: &[u8]) {
    let Ok(Ok(header)) = SegmentHeader::decode(bytes) else { return };
    let len = SegmentHeader::encoded_len(bytes).expect("what was decoded has a length");
    assert_eq!(len, SEGMENT_HEADER_SIZE + 8 * header.replaced.len());
    assert!(len <= bytes.len() && header.replaced.capacity() <= 2 * header.replaced.len() + 4);
    assert!(header.data_offset() == len as u64 && header.size >= len as u64);
    let again = header.encode();
    assert_eq!(SegmentHeader::decode(&again), Ok(Ok(header)));
    let versions = [WRITE_VERSION.to_le_bytes(), READ_VERSION.to_le_bytes()].concat();
    if bytes[8..12] == versions {
        assert_eq!(again, bytes[..len], "there is one way to write a header");
    }
}
