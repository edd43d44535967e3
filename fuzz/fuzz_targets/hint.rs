//! Fuzzes a chunk of hints: no panic, memory in proportion to the input, one encoding of a decoded
//! front, and only entries that fit the front.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::hint::{HintChunk, HintPart, PART_SIZE, PARTS, part_of};
use mapcask::format::{READ_VERSION, WRITE_VERSION};
use mapcask_fuzz::mend_file_sum;

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut bytes = input.to_vec();
    // A wrong magic would hide all later fields.
    let magic = bytes.len().min(8);
    bytes[..magic].copy_from_slice(&b"MAPCASKH"[..magic]);
    if let Ok(len) = HintChunk::claimed_front_len(&bytes, bytes.len() as u64) {
        mend_file_sum(&mut bytes[..len]);
    }
    // Most inputs are shorter than the table of parts.
    bytes.resize(bytes.len() + PARTS * PART_SIZE, 0);
    check(&bytes);
});

fn check(bytes: &[u8]) {
    let Ok(front) = HintChunk::decode(bytes, bytes.len() as u64) else { return };
    let len = HintChunk::claimed_front_len(bytes, bytes.len() as u64).expect("it was decoded");
    assert_eq!(len, front.front_len());
    assert!(front.size() <= bytes.len() as u64 && front.keyspaces.len() + front.changes.len() <= len / 8);
    let mut again = Vec::new();
    front.encode_front(&mut again);
    assert_eq!(HintChunk::decode(&again, bytes.len() as u64).as_ref(), Ok(&front));
    let versions = [WRITE_VERSION.to_le_bytes(), READ_VERSION.to_le_bytes()].concat();
    if bytes[8..12] == versions && bytes[120..128] == [0; 8] {
        assert_eq!(again, bytes[..len], "there is one way to write a front");
    }
    let mut before = 0;
    for part in 0..PARTS {
        let place = HintPart::decode(bytes[len + part * PART_SIZE..][..PART_SIZE].try_into().expect("8 bytes"));
        let Ok(range) = front.part_range(before, place) else { continue };
        let entries = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let Ok(entries) = front.part(part, place.sum, entries) else { continue };
        for entry in entries {
            assert!(part_of(entry.hash) == part && (front.from..front.to).contains(&entry.offset));
            assert!((entry.keyspace as usize) < front.keyspaces.len());
        }
        before = place.end;
    }
}
