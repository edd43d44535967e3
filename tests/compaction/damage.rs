//! Tests compaction of damaged segments. A flipped bit is reported with its place, its segment
//! stays, and all other segments are compacted.

use std::collections::BTreeSet;
use std::time::Duration;

use mapcask::sim::SimDisk;
use mapcask::{Error, Options, Store};

const PAGE: usize = 4096;
/// The number of keys.
const KEYS: u32 = 64;
/// The number of keys if the background is to have work.
const MANY: u32 = 400;
const ROUNDS: u32 = 6;

fn options() -> Options {
    Options::new().segment_bytes(PAGE as u64).background(false)
}

fn value(key: u32, round: u32) -> Vec<u8> {
    [key, round].map(u32::to_le_bytes).concat().repeat(12)
}

/// Returns the round of a key's last write. A fifth of the keys is written only once, so that the
/// first segments keep live records.
fn last_round(key: u32) -> u32 {
    if key.is_multiple_of(5) { 0 } else { ROUNDS - 1 }
}

fn filled(disk: &SimDisk, keys: u32) -> Store {
    let store = options().open_on(disk).unwrap();
    for round in 0..ROUNDS {
        for key in (0..keys).filter(|key| round <= last_round(*key)) {
            store.insert(key.to_le_bytes(), value(key, round)).unwrap();
        }
    }
    store.flush().unwrap();
    store
}

/// Returns the keys without their value, and the value found instead. A read does not verify the
/// checksum.
fn changed(store: &Store, keys: u32) -> Vec<(u32, Option<Vec<u8>>)> {
    let found =
        (0..keys).map(|key| (key, store.get(key.to_le_bytes()).ok().flatten().map(|found| found.to_vec())));
    found.filter(|(key, found)| found.as_ref() != Some(&value(*key, last_round(*key)))).collect()
}

/// Returns the file and the offset of an error about damage.
fn place_of(error: &Error) -> (String, u64) {
    match error {
        Error::Corrupt { path, offset, .. } => {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), *offset)
        }
        other => panic!("expected damage, got {other:?}"),
    }
}

/// Returns the start of each record of a segment, and its end without padding.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut records = Vec::new();
    let mut at = 128;
    while at + 32 <= bytes.len() && bytes[at..at + 8] != [0; 8] {
        let key_len = usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
        let value_len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        let end = at + 32 + key_len + usize::try_from(value_len).unwrap();
        records.push((at, end));
        at = end.next_multiple_of(8);
    }
    records
}

#[test]
fn compact_reports_flipped_bit_and_compacts_other_segments() {
    let disk = SimDisk::new();
    filled(&disk, KEYS);
    let name = disk.files().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    let records = records(&disk.read_file(&name).unwrap());
    assert!(records.len() > 20);
    for (begin, end) in records {
        for at in (begin..end).step_by(19) {
            let place = format!("byte {at} of the record from {begin} to {end}");
            let disk = SimDisk::new();
            let store = filled(&disk, KEYS);
            disk.rot_bit(&name, at as u64, 3).unwrap();
            let before = changed(&store, KEYS);
            assert!(before.len() <= 1, "{place}");
            let found = place_of(&store.compact().unwrap_err());
            assert_eq!(found, (name.clone(), begin as u64), "{place}");
            assert_eq!(place_of(&store.verify().unwrap_err()), found, "{place}");
            assert!(disk.files().contains(&name), "{place}");
            let report = store.compact().unwrap();
            let stats = store.stats();
            assert!(
                report.segments_removed > 1 && stats.compaction.damaged_segments == 1,
                "{place}: {stats:?}"
            );
            assert_eq!(store.compact().unwrap().passes, 0, "{place}");
            // The segment held four live values. It is left, together with the active one.
            assert!(disk.files().contains(&name), "{place}");
            assert_eq!(changed(&store, KEYS), before, "{place}");
            assert_eq!(place_of(&store.verify().unwrap_err()), found, "{place}");
        }
    }
}

#[test]
fn background_reports_damage_once_and_compacts_the_rest() {
    let disk = SimDisk::new();
    let store = filled(&disk, MANY);
    let names = || disk.files().into_iter().filter(|name| name.ends_with(".seg"));
    // These segments still hold old live records, so they are the next victims.
    let damaged: Vec<_> = names().take(10).collect();
    for name in &damaged {
        let (begin, _) = records(&disk.read_file(name).unwrap())[5];
        disk.rot_bit(name, begin as u64 + 40, 0).unwrap();
    }
    let mut reported = Vec::new();
    let mut steps = 0;
    let mut idle = 0;
    while idle < 2 {
        steps += 1;
        assert!(steps < 1000, "it does not come to an end: {:?}", store.stats());
        disk.advance_clock(Duration::from_secs(1));
        match store.step() {
            Ok(true) => idle = 0,
            Ok(false) => {
                idle += 1;
                // The policy examines the segments only after a write.
                store.insert("more", "m").unwrap();
            }
            Err(error) => reported.push(place_of(&error).0),
        }
    }
    let stats = store.stats();
    let once: BTreeSet<_> = reported.iter().collect();
    assert!(!once.is_empty() && once.len() == reported.len(), "{reported:?}, {stats:?}");
    assert!(once.iter().all(|name| damaged.contains(name)), "{reported:?}");
    assert_eq!(stats.compaction.damaged_segments, reported.len());
    assert!(stats.compaction.segments_removed > 4 && stats.compaction.next_reason.is_none(), "{stats:?}");
    damaged.iter().for_each(|name| assert!(names().any(|other| other == *name)));
    assert!(changed(&store, MANY).len() <= damaged.len());
}

/// Changes the keyspace of a record, with the matching checksum. A bit that flips in memory before
/// the write can do so.
fn give_to_another_keyspace(disk: &SimDisk, name: &str, at: usize) {
    const KEYSPACE: usize = 12;
    let before: [u8; 32] = disk.read_file(name).unwrap()[at..at + 32].try_into().unwrap();
    let mut after = before;
    after[KEYSPACE] ^= 1 << 6;
    let sum = u32::from_le_bytes(before[..4].try_into().unwrap());
    // The other part of the sum depends on the place, and stays.
    let sum = sum ^ crc32fast::hash(&before[4..]) ^ crc32fast::hash(&after[4..]);
    after[..4].copy_from_slice(&sum.to_le_bytes());
    for (byte, (before, after)) in before.iter().zip(after).enumerate() {
        for bit in (0..8).filter(|bit| (before ^ after) >> bit & 1 == 1) {
            disk.rot_bit(name, (at + byte) as u64, bit).unwrap();
        }
    }
}

/// Cause: the index still referred to the victims of a pass at its end, and the pass marked none of
/// them as damaged. Symptom: the same segments were chosen for ever, and each time more copies of
/// them stayed. Fix: they are excluded, like segments that cannot be read.
#[test]
fn compaction_excludes_victims_the_index_still_refers_to() {
    let disk = SimDisk::new();
    let store = filled(&disk, KEYS);
    let names: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).take(2).collect();
    let give = |name: &String| {
        let bytes = disk.read_file(name).unwrap();
        // The first live key of the segment, after the segment's start record.
        let key = |at: usize| u32::from_le_bytes(bytes[at + 32..at + 36].try_into().unwrap());
        let alive = records(&bytes).into_iter().skip(1).find(|(at, _)| key(*at).is_multiple_of(5));
        give_to_another_keyspace(&disk, name, alive.unwrap().0);
    };
    names.iter().for_each(give);
    let before = changed(&store, KEYS);
    let found = place_of(&store.compact().unwrap_err());
    assert!(names.contains(&found.0) && found.1 == 0, "{found:?}");
    let mut tries = 1;
    while store.compact().is_err() {
        tries += 1;
        assert!(tries <= names.len(), "{:?}", store.stats());
    }
    assert_eq!(store.compact().unwrap().passes, 0);
    let stats = store.stats();
    assert_eq!(stats.compaction.damaged_segments, names.len(), "{stats:?}");
    names.iter().for_each(|name| assert!(disk.files().contains(name), "{name}"));
    assert_eq!(changed(&store, KEYS), before);
    // After the repair, the segments and their useless copies form a store without damage.
    names.iter().for_each(give);
    store.close().unwrap();
    let store = options().open_on(&disk).unwrap();
    assert_eq!(changed(&store, KEYS), []);
    store.verify().unwrap();
    assert!(store.compact().unwrap().segments_removed >= 2);
    assert_eq!(changed(&store, KEYS), []);
}
