//! Fuzzes the list of a backup: no panic, memory in proportion to the input, and one encoding of a
//! decoded list.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::backup_list::{BackupList, MAGIC};
use mapcask::format::{READ_VERSION, WRITE_VERSION};
use mapcask_fuzz::mend_file_sum;

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut bytes = input.to_vec();
    // A wrong magic, length or checksum would hide all later fields.
    let magic = bytes.len().min(8);
    bytes[..magic].copy_from_slice(&MAGIC[..magic]);
    if bytes.len() >= 24 {
        let len = (bytes.len() as u64).to_le_bytes();
        bytes[16..24].copy_from_slice(&len);
    }
    mend_file_sum(&mut bytes);
    check(&bytes);
});

fn check(bytes: &[u8]) {
    let Ok(Ok(list)) = BackupList::decode(bytes) else { return };
    assert!(list.copies.capacity() <= 2 * list.copies.len() + 4, "no count is believed");
    for (copy, entry) in list.copies.iter().zip(&list.manifest.segments) {
        assert!((copy.id, copy.nonce) == (entry.id, entry.nonce) && copy.end <= entry.size);
    }
    let again = list.encode();
    assert_eq!(BackupList::decode(&again), Ok(Ok(list)));
    let versions = [WRITE_VERSION.to_le_bytes(), READ_VERSION.to_le_bytes()].concat();
    if bytes[8..12] == versions && bytes[64 + 8..64 + 12] == versions {
        assert_eq!(again, bytes[..again.len()], "there is one way to write a list");
    }
}
