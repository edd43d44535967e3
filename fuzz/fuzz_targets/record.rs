//! Fuzzes one record header at any place: nothing panics, and the library and the naive parser
//! agree on validity.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::KeyspaceId;
use mapcask::format::keyspace_change::KeyspaceChange;
use mapcask::format::record::{HEADER_SIZE, RecordPlace, RawHeader, StartRecord, Watermark};
use mapcask_fuzz::{naive, take};

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let place =
        RecordPlace { nonce: u64::from_le_bytes(take(&mut input)), offset: u64::from_le_bytes(take(&mut input)) };
    let room = u64::from_le_bytes(take(&mut input));
    let mut bytes: [u8; HEADER_SIZE] = take(&mut input);
    check(&bytes, place, room);
    // The header gets a valid checksum, which one in 2^32 inputs would have by chance.
    let sum = naive::header_sum(&bytes, place);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    check(&bytes, place, room);
    let _ = RawHeader::new(&bytes).validate(RecordPlace { nonce: place.nonce, offset: place.offset ^ 8 }, room);
    if let Ok(start) = StartRecord::decode(input) {
        assert_eq!(start.encode(), input);
    }
    let name = &input[..input.len().min(usize::from(bytes[0]))];
    let value = &input[name.len()..];
    if let Ok(change) = KeyspaceChange::decode(KeyspaceId(7), name, value) {
        assert_eq!((change.name().as_bytes(), change.encode()), (name, value.to_vec()));
    }
    if let Ok(watermark) = Watermark::decode(input) {
        assert_eq!(watermark.encode(), input);
    }
});

fn check(bytes: &[u8; HEADER_SIZE], place: RecordPlace, room: u64) {
    let raw = RawHeader::new(bytes);
    assert_eq!(raw.is_blank(), bytes[..8].iter().all(|byte| *byte == 0));
    let Ok(header) = raw.validate(place, room) else { return };
    assert!(header.size() <= room, "a valid record lies in the room it was given");
    assert!(header.size().is_multiple_of(8) && header.size() >= HEADER_SIZE as u64 + header.payload_len());
    assert_eq!(header.encode(place), *bytes, "there is one way to write a header");
    assert_eq!(&naive::header_sum(bytes, place).to_le_bytes(), &bytes[..4]);
}
