//! Fuzzes the control page and its durable word: no panic, and only a word that the writer wrote is
//! accepted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::Seq;
use mapcask::format::control_page::{CONTROL_HEADER_SIZE, ControlHeader, durable_word, parse_durable_word};
use mapcask::format::{READ_VERSION, WRITE_VERSION};
use mapcask_fuzz::{mend_file_sum, take};

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut page: [u8; CONTROL_HEADER_SIZE] = take(&mut { input });
    page[..8].copy_from_slice(b"MAPCASKC");
    mend_file_sum(&mut page);
    check(&page);

    let mut rest = input;
    let word = u64::from_le_bytes(take(&mut rest));
    let nonce = u64::from_le_bytes(take(&mut rest));
    if let Some(seq) = parse_durable_word(word, nonce) {
        assert_eq!(durable_word(seq, nonce), word);
    }
    let seq = Seq(word & Seq::MAX.0);
    let word = durable_word(seq, nonce);
    assert_eq!(parse_durable_word(word, nonce), Some(seq));
    let bit = u32::from(take::<1>(&mut rest)[0] % 64);
    assert_eq!(parse_durable_word(word ^ 1 << bit, nonce), None, "a flipped bit is found");
});

fn check(bytes: &[u8]) {
    let Ok(control) = ControlHeader::decode(bytes) else { return };
    let again = control.encode();
    assert_eq!(ControlHeader::decode(&again), Ok(control));
    let versions = [WRITE_VERSION.to_le_bytes(), READ_VERSION.to_le_bytes()].concat();
    if bytes[8..12] == versions {
        assert_eq!(again, bytes[..CONTROL_HEADER_SIZE], "there is one way to write a page");
    }
}
