//! Fuzzes a walk over a nearly valid segment.
//!
//! The walk ends, advances, shows no part of a batch without the whole, and finds the records of a
//! naive walk. The search beyond a stop does so too.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use mapcask::format::record::{HEADER_SIZE, RecordKind};
use mapcask::format::record_reader::{Order, RecordAt, ReadAt, ReadStep, RecordReader, beyond};
use mapcask_fuzz::naive::{self, Fields};
use mapcask_fuzz::segment::Recipe;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, rest)) = input.split_first() else { return };
    if mode % 8 == 0 {
        // These are raw bytes, not a built segment.
        check(&rest[..rest.len().min(1024)], 0, 0, Order::Any);
        return;
    }
    let Ok(recipe) = Recipe::arbitrary(&mut Unstructured::new(rest)) else { return };
    let segment = recipe.build();
    let order = if recipe.is_log { Order::Consecutive } else { Order::Any };
    check(&segment.bytes, segment.nonce, segment.start, order);
});

fn check(bytes: &[u8], nonce: u64, start: usize, order: Order) {
    let limit = bytes.len();
    let (found, stop) = walk(bytes, nonce, start, order);
    let (expected, expected_stop) = naive::walk(bytes, nonce, start, limit, order);
    assert_eq!(stop, expected_stop, "the walks stop at one place");
    assert_same(&found, &expected);
    frames_are_whole(&found);
    let mut behind: Vec<RecordAt> = Vec::new();
    let mut source = Counting { bytes, summed: 0 };
    let is_complete = beyond(&mut source, nonce, stop as u64, limit as u64, |_, placed| {
        assert!(behind.last().is_none_or(|last| last.offset < placed.offset), "offsets increase");
        behind.push(*placed);
        Ok(())
    });
    frames_are_whole(&behind);
    // The search may sum 16 times the range, and one record more; found records are read twice at
    // most.
    let allowed = 16 * (limit.max(1 << 16) as u64) + 3 * limit as u64;
    assert!(source.summed <= allowed, "{} bytes summed over a range of {limit}", source.summed);
    let expected = naive::beyond(bytes, nonce, stop, limit);
    if is_complete == Ok(true) {
        assert_same(&behind, &expected);
    } else {
        assert!(behind.iter().zip(&expected).all(|(placed, (at, _))| placed.offset == *at as u64));
    }
}

/// Walks with the library, and returns the records and the place of the stop.
fn walk(bytes: &[u8], nonce: u64, start: usize, order: Order) -> (Vec<RecordAt>, usize) {
    let mut source = bytes;
    let mut walker = RecordReader::new(nonce, start as u64, bytes.len() as u64, order);
    let mut found = Vec::new();
    let stop = loop {
        let before = walker.offset();
        match walker.step(&mut source) {
            Ok(ReadStep::Record(placed)) => {
                assert_eq!(placed.offset, before);
                assert!(walker.offset() > before && walker.offset() <= bytes.len() as u64, "it goes forward");
                found.push(placed);
            }
            Ok(stop) => break stop,
            Err(never) => match never {},
        }
        assert!(found.len() * HEADER_SIZE <= bytes.len(), "each record takes room");
    };
    let at = walker.offset();
    assert_eq!(walker.step(&mut source), Ok(stop), "a stopped walk stays where it is");
    assert_eq!(walker.offset(), at);
    let greatest = found.iter().map(|placed| placed.header.seq).max();
    assert_eq!(walker.last_seq(), greatest);
    (found, usize::try_from(at).expect("it lies in the slice"))
}

/// Checks that every inner record follows its frame, and every frame is followed by its number of
/// records.
fn frames_are_whole(found: &[RecordAt]) {
    let mut left = 0;
    let mut end = 0;
    for placed in found {
        if left > 0 {
            assert!(placed.header.is_inner() && placed.offset + placed.header.size() <= end);
            left -= 1;
            continue;
        }
        assert!(!placed.header.is_inner(), "an inner record without its frame at {}", placed.offset);
        if placed.header.kind == RecordKind::Batch {
            left = placed.header.keyspace.0;
            end = placed.offset + placed.header.size();
        }
    }
    assert_eq!(left, 0, "a frame without all of its records");
}

fn assert_same(found: &[RecordAt], expected: &[(usize, Fields)]) {
    assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
    for (placed, (at, fields)) in found.iter().zip(expected) {
        assert!(placed.offset == *at as u64 && fields.agree(placed), "{placed:?} {fields:?}");
    }
}

/// A source that counts the bytes that go through a payload checksum.
struct Counting<'b> {
    bytes: &'b [u8],
    summed: u64,
}

impl ReadAt for Counting<'_> {
    type Error = std::convert::Infallible;

    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Self::Error> {
        self.bytes.bytes(offset, len)
    }

    fn sum(&mut self, offset: u64, len: u64) -> Result<u32, Self::Error> {
        self.summed += len;
        self.bytes.sum(offset, len)
    }
}
