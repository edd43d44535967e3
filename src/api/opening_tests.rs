//! Tests of opening stores with contents that no store writes, and with much data to quarantine.

use super::options::Options;
use super::store::Store;
use crate::error::Error;
use crate::format::file_name::{LOCK, MANIFESTS};
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind, RecordPlace, Watermark, payload_sum};
use crate::format::record_reader::{Order, ReadStep, RecordAt, RecordReader};
use crate::format::segment_header::SegmentHeader;
use crate::format::{SegmentId, Seq};
use crate::fs::sim::SimDisk;
use crate::recovery::directory::DirectoryScan;

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

/// Returns all files on a disk without the lock file, which taking the lock writes.
fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.files().into_iter().filter(|name| name != LOCK);
    names.map(|name| (name.clone(), disk.read_file(&name).expect("it is listed"))).collect()
}

fn manifest_of(disk: &SimDisk) -> Manifest {
    DirectoryScan::of(disk.dir().as_ref()).expect("readable").manifest().expect("a whole copy").0
}

fn put_manifest(disk: &SimDisk, manifest: &Manifest) {
    for name in MANIFESTS {
        disk.put_file(name, &manifest.encode());
    }
}

/// Returns the header and the records of a segment.
fn records(bytes: &[u8]) -> (SegmentHeader, Vec<RecordAt>) {
    let header = SegmentHeader::decode(bytes).expect("whole").expect("of this version");
    let mut walker = RecordReader::new(header.nonce, header.data_offset(), bytes.len() as u64, Order::Any);
    let mut source = bytes;
    let mut found = Vec::new();
    while let Ok(ReadStep::Record(placed)) = walker.step(&mut source) {
        found.push(placed);
    }
    (header, found)
}

/// Replaces a record with eight bytes of key and value by a watermark that claims durability up to
/// `durable`.
fn craft_watermark(disk: &SimDisk, name: &str, durable: u64) {
    let mut bytes = disk.read_file(name).expect("it is there");
    let (segment, found) = records(&bytes);
    let old =
        found.iter().find(|placed| placed.header.kind == RecordKind::Put && placed.header.payload_len() == 8);
    let old = old.expect("such a record");
    let value = Watermark(Seq(durable)).encode();
    let header = RecordHeader {
        kind: RecordKind::Watermark,
        key_len: 0,
        value_len: 8,
        keyspace: crate::format::KeyspaceId::DEFAULT,
        payload_sum: payload_sum(b"", &value),
        ..old.header
    };
    let at = usize::try_from(old.offset).expect("small");
    bytes[at..at + HEADER_SIZE]
        .copy_from_slice(&header.encode(RecordPlace { nonce: segment.nonce, offset: old.offset }));
    bytes[at + HEADER_SIZE..at + HEADER_SIZE + 8].copy_from_slice(&value);
    disk.put_file(name, &bytes);
}

#[track_caller]
fn assert_refused_unchanged(disk: &SimDisk, what: &str) {
    let before = files(disk);
    let error = options().open_on(disk).expect_err(what);
    assert!(error.is_corruption(), "{what}: {error}");
    assert!(files(disk) == before, "{what}: a refusal changed files");
}

#[test]
fn impossible_watermark_is_damage() {
    // Regression: a watermark of 2^64 - 1 was believed. `Disk` then made no more syncs, and the
    // manifest was refused for ever.
    for durable in [u64::MAX, Seq::MAX.0, 1 << 40, 1000] {
        for (compacted, closed) in [(false, false), (false, true), (true, true)] {
            let disk = SimDisk::with_seed(1);
            let store = options().open_on(&disk).expect("a new store");
            for n in 0..40u32 {
                store.insert(n.to_le_bytes(), n.to_le_bytes()).expect("there is room");
                store.insert("again and again", "a value").expect("there is room");
            }
            if compacted {
                store.compact().expect("nothing is wrong");
            }
            store.flush().expect("nothing is wrong");
            let disk = if closed { store.close().map(|()| disk).expect("whole") } else { disk.kill() };
            let is_wanted = |bytes: &[u8]| {
                let (header, found) = records(bytes);
                let copies = header.role == crate::format::segment_header::Role::Copies;
                let small = |placed: &RecordAt| {
                    placed.header.kind == RecordKind::Put && placed.header.payload_len() == 8
                };
                copies == compacted && found.iter().any(small)
            };
            let segments = files(&disk).into_iter().filter(|(name, _)| name.ends_with(".seg"));
            let (name, _) =
                segments.into_iter().find(|(_, bytes)| is_wanted(bytes)).expect("one such segment");
            craft_watermark(&disk, &name, durable);
            let mut manifest = manifest_of(&disk);
            manifest.checkpoint = 0;
            if compacted {
                // Without log segments there is nothing to compare with.
                manifest.segments.retain(|entry| names_of(entry) == name);
                manifest.retired_seq = Seq::ZERO;
                for (other, _) in files(&disk).into_iter().filter(|(other, _)| other.ends_with(".seg")) {
                    if other != name {
                        disk.remove_file(&other).expect("it is listed");
                    }
                }
            }
            put_manifest(&disk, &manifest);
            assert_refused_unchanged(&disk, &format!("{durable} {compacted} {closed} in {name}"));
        }
    }
}

#[test]
fn impossible_last_watermark_is_not_a_torn_write() {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).expect("a new store");
    store.insert("first", "a value").expect("there is room");
    store.flush().expect("nothing is wrong");
    // Nothing follows it, and nothing durable is missing without it.
    store.insert(1u32.to_le_bytes(), 1u32.to_le_bytes()).expect("there is room");
    let disk = disk.kill();
    craft_watermark(&disk, "0000000001.seg", 1000);
    assert_refused_unchanged(&disk, "a watermark of what is not there");
}

fn names_of(entry: &SegmentEntry) -> String {
    crate::format::file_name::segment(entry.id)
}

#[test]
fn open_refuses_numbers_without_a_valid_successor() {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).expect("a new store");
    store.insert("key", "value").expect("there is room");
    store.close().expect("nothing is wrong");
    let changes: [fn(&mut Manifest); 10] = [
        |manifest| manifest.generation = u64::MAX / 2,
        |manifest| manifest.incarnation = u64::MAX / 2,
        |manifest| manifest.next_segment = SegmentId(u64::MAX / 2),
        |manifest| manifest.next_seq = Seq::MAX,
        |manifest| manifest.segments[0].filtered = Seq::MAX,
        // The next record would not follow the last one, so the next open would refuse it.
        |manifest| manifest.next_seq = Seq(4097),
        |manifest| manifest.segments[0].filtered = Seq(4096),
        |manifest| manifest.segments[0].last_seq = Seq(4096),
        |manifest| manifest.retired_seq = Seq(4096),
        |manifest| manifest.durable = Seq(4096),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut manifest = manifest_of(&disk);
        change(&mut manifest);
        let crafted = SimDisk::with_seed(2);
        for (name, bytes) in files(&disk) {
            crafted.put_file(&name, &bytes);
        }
        put_manifest(&crafted, &manifest);
        assert_refused_unchanged(&crafted, &format!("change {n}"));
    }
    // A file with the highest possible number.
    let (_, segment) = files(&disk).into_iter().find(|(name, _)| name.ends_with(".seg")).expect("one");
    let mut header = SegmentHeader::decode(&segment).expect("whole").expect("of this version");
    header.id = SegmentId(u64::MAX);
    let mut bytes = header.encode();
    bytes.resize(segment.len(), 0);
    disk.put_file(&crate::format::file_name::segment(header.id), &bytes);
    assert_refused_unchanged(&disk, "a segment with the last number");
}

#[test]
fn open_numbers_records_above_the_bounds_of_compaction() {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).expect("a new store");
    store.insert("key", "value").expect("there is room");
    for _ in 0..4 {
        store.insert("other", [7; 3000]).expect("there is room");
    }
    store.flush().expect("nothing is wrong");
    while store.step().expect("nothing is wrong") {}
    let disk = disk.kill();
    let mut manifest = manifest_of(&disk);
    // A pass looked at records up to this number, and a power cut took them.
    let sealed = manifest.segments.iter_mut().find(|entry| entry.state == SegmentState::Sealed);
    sealed.expect("the first is durable").filtered = Seq(4096);
    put_manifest(&disk, &manifest);
    let store = options().open_on(&disk).expect("nothing is missing");
    assert_eq!(store.get("key").expect("readable").as_deref(), Some(b"value".as_slice()));
    let seq = store.insert("next", "value").expect("there is room");
    assert!(seq > Seq(4096), "{seq} is at or below the bound");
}

#[test]
fn pass_notes_the_last_number_of_the_log_it_removes() {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).expect("a new store");
    for n in 0..40u32 {
        store.insert(n.to_le_bytes(), [7; 500]).expect("there is room");
        store.insert("again and again", "a value").expect("there is room");
    }
    store.flush().expect("nothing is wrong");
    while store.step().expect("nothing is wrong") {}
    let before = manifest_of(&disk);
    let sealed = before.segments.iter().filter(|entry| entry.state == SegmentState::Sealed);
    let (ids, last): (Vec<_>, Vec<_>) = sealed.map(|entry| (entry.id.0, entry.last_seq)).unzip();
    assert!(ids.len() > 2, "{before:?}");
    store.compact_segments(&ids, |_| true).expect("nothing is wrong");
    assert_eq!(Some(manifest_of(&disk).retired_seq), last.into_iter().max());
}

#[test]
fn open_refuses_the_manifests_of_two_stores() {
    let [one, other] = [1, 2].map(|seed| {
        let disk = SimDisk::with_seed(seed);
        let store = options().open_on(&disk).expect("a new store");
        store.insert("key", "value").expect("there is room");
        store.close().expect("nothing is wrong");
        disk
    });
    for name in MANIFESTS {
        let mixed = SimDisk::new();
        for (name, bytes) in files(&one) {
            mixed.put_file(&name, &bytes);
        }
        mixed.put_file(name, &other.read_file(name).expect("it is there"));
        let before = files(&mixed);
        let refused = options().open_on(&mixed).expect_err("one copy is another store's");
        assert!(matches!(refused, Error::ForeignFile { .. }), "{refused}");
        assert!(files(&mixed) == before, "a refusal changed files");
    }
}

#[test]
fn open_does_not_reuse_numbers_of_an_adopted_torn_tail() {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).expect("a new store");
    store.insert("key", "value").expect("there is room");
    store.close().expect("nothing is wrong");
    let closed = disk.read_file(MANIFESTS[0]).expect("it is there");
    let store = options().segment_bytes(1 << 20).open_on(&disk).expect("whole");
    store.insert("key", "the manifest knows now that it is open").expect("there is room");
    let old = disk.read_file(MANIFESTS[0]).expect("it is there");
    // The value gets a segment of its own size, which also takes many small records.
    store.insert("large", vec![7; 200_000]).expect("there is room");
    let written = store.last_seq().0;
    for n in 0..2000u32 {
        store.insert(n.to_le_bytes(), "").expect("there is room");
    }
    let given = store.last_seq().0;
    assert!(given >= written + 2000);
    let killed = disk.kill();
    // One copy of the manifest is damaged, and the other is older than the segments, which are
    // therefore adopted. The power cut lost everything after the large value.
    killed.put_file(MANIFESTS[0], &old);
    killed.put_file(MANIFESTS[1], &[&b"MAPCASKM"[..], &[0; 200]].concat());
    for (name, mut bytes) in files(&killed).into_iter().filter(|(name, _)| name.ends_with(".seg")) {
        let (_, found) = records(&bytes);
        if let Some(first) = found.iter().find(|placed| placed.header.seq.0 > written) {
            bytes[usize::try_from(first.offset).expect("small")..].fill(0);
            killed.put_file(&name, &bytes);
        }
    }
    let _ = killed.remove_file(crate::format::file_name::CONTROL);
    let store = options().open_on(&killed).expect("one copy is whole");
    let seq = store.insert("new", "value").expect("there is room");
    assert!(seq.0 > given, "{seq} was given out before, up to {given}");
    // A copy that says the store was closed cannot be the newest, if later segments hold records.
    let killed = disk.kill();
    killed.put_file(MANIFESTS[0], &closed);
    killed.put_file(MANIFESTS[1], &[&b"MAPCASKM"[..], &[0; 200]].concat());
    assert_refused_unchanged(&killed, "a manifest from before the records");
}

#[test]
fn quarantined_tail_is_copied_in_pieces() {
    // The copy takes several pieces, the last of which is shorter.
    let disk = SimDisk::with_seed(1);
    let store = options().segment_bytes(8 << 20).compaction(false).open_on(&disk).expect("a new store");
    for n in 0..70u32 {
        store.insert(n.to_le_bytes(), vec![7; 50_000]).expect("there is room");
    }
    let killed = disk.kill();
    let _ = killed.remove_file(crate::format::file_name::CONTROL);
    let segments = files(&killed).into_iter().filter(|(name, _)| name.ends_with(".seg"));
    let (name, mut bytes) = segments.max_by_key(|(_, bytes)| records(bytes).1.len()).expect("some");
    let (_, found) = records(&bytes);
    let [hole, behind] = [found[2], found[3]].map(|placed| usize::try_from(placed.offset).expect("small"));
    let last = found.last().expect("many");
    let end = usize::try_from(last.offset + last.header.size()).expect("small");
    bytes[hole..behind].fill(0);
    killed.put_file(&name, &bytes);
    let store = options().open_on(&killed).expect("nothing durable is missing");
    let report = store.recovery_report();
    assert_eq!(report.quarantined_records, found.len() as u64 - 3);
    let aside = report.quarantined[0].file_name().expect("a file").to_str().expect("text").to_owned();
    let copied = killed.read_file(&aside).expect("it was made");
    assert!(copied == bytes[hole..end], "{} bytes of {}", copied.len(), end - hole);
    assert!(copied.len() > 2 << 20);
    drop(store);
    // The next open finds the copy, and makes no second one.
    let again = disk.kill();
    let _ = again.remove_file(crate::format::file_name::CONTROL);
    again.put_file(&name, &bytes);
    again.put_file(&aside, &copied);
    let store = options().open_on(&again).expect("nothing durable is missing");
    assert_eq!(store.recovery_report().quarantined, Vec::<std::path::PathBuf>::new());
    // With one byte changed, it is a copy of other data.
    let mut other = copied.clone();
    other[copied.len() - 1] ^= 1;
    drop(store);
    let again = disk.kill();
    let _ = again.remove_file(crate::format::file_name::CONTROL);
    again.put_file(&name, &bytes);
    again.put_file(&aside, &other);
    let store = options().open_on(&again).expect("nothing durable is missing");
    assert_eq!(store.recovery_report().quarantined.len(), 1);
    drop(store);
}

/// Damages the start record of a segment.
fn tear_start(disk: &SimDisk, id: SegmentId) {
    let name = crate::format::file_name::segment(id);
    let mut bytes = disk.read_file(&name).expect("it is there");
    let (_, found) = records(&bytes);
    let at = usize::try_from(found[0].offset).expect("small");
    bytes[at..at + 8].fill(0);
    disk.put_file(&name, &bytes);
}

/// Overwrites the value of the record with this key, which stands in the first segment.
fn spoil_record(disk: &SimDisk, key: &[u8]) {
    let name = crate::format::file_name::segment(SegmentId(1));
    let mut bytes = disk.read_file(&name).expect("it is there");
    let (_, found) = records(&bytes);
    let at = |placed: &RecordAt| usize::try_from(placed.offset).expect("small") + HEADER_SIZE;
    let is_it = |placed: &&RecordAt| bytes[at(placed)..].starts_with(key);
    let value = at(found.iter().find(is_it).expect("it is written")) + key.len();
    bytes[value..value + 8].fill(0xff);
    disk.put_file(&name, &bytes);
}

/// Returns a disk whose first segment was cut in its middle and then sealed there. The segment
/// behind it is torn.
fn sealed_at_a_cut() -> SimDisk {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).expect("a new store");
    for key in ["before the cut", "at the cut", "behind the cut"] {
        store.insert(key, [1; 100]).expect("there is room");
    }
    let disk = disk.kill();
    spoil_record(&disk, b"at the cut");
    let store = options().open_on(&disk).expect("torn writes are cut");
    assert_eq!(store.recovery_report().quarantined_records, 1);
    store.flush().expect("nothing is wrong");
    while store.step().expect("nothing is wrong") {}
    let disk = disk.kill();
    let mut manifest = manifest_of(&disk);
    let sealed = manifest.segments[0];
    assert_eq!((sealed.id, sealed.state), (SegmentId(1), SegmentState::Sealed));
    // A power cut tore the second segment before any of its records was durable.
    tear_start(&disk, SegmentId(2));
    manifest.durable = sealed.last_seq;
    put_manifest(&disk, &manifest);
    disk.set_boot_id(Some([2; 16]));
    disk
}

#[test]
fn records_behind_a_sealed_cut_are_quarantined_once() {
    // Regression: the open looked for the file of the sealed segment, which it had released.
    let mut disk = sealed_at_a_cut();
    let quarantined = |disk: &SimDisk| disk.files().iter().filter(|name| name.contains("aside")).count();
    assert_eq!(quarantined(&disk), 1, "{:?}", disk.files());
    for _ in 0..3 {
        let store = options().open_on(&disk).expect("the quarantine holds these records");
        assert!(store.contains_key("before the cut").expect("readable"));
        assert_eq!(store.len(), 1);
        assert!(store.recovery_report().quarantined.is_empty());
        drop(store);
        disk = disk.kill();
        assert_eq!(quarantined(&disk), 1, "{:?}", disk.files());
    }
}

#[test]
fn missing_quarantine_of_a_sealed_cut_is_made_again() {
    let disk = sealed_at_a_cut();
    let name = disk.files().into_iter().find(|name| name.contains("aside")).expect("a quarantined tail");
    let before = disk.read_file(&name).expect("it is listed");
    disk.remove_file(&name).expect("it is listed");
    drop(options().open_on(&disk).expect("the records are still in the segment"));
    assert!(disk.read_file(&name).expect("made again") == before);
}

/// Puts records whose keys begin with `prefix` until the worker has made another segment ready. Returns
/// their number.
fn fill_until_one_is_ready(store: &Store, prefix: &[u8]) -> usize {
    for number in 0..20_000_usize {
        if store.stats().ready_segments == 1 {
            return number;
        }
        store.insert([prefix, &number.to_le_bytes()].concat(), [7; 100]).expect("space");
        while store.step().expect("space") {}
    }
    panic!("no segment was made ready");
}

/// Returns the sizes of all segments on a disk.
fn segment_sizes(disk: &SimDisk) -> Vec<usize> {
    files(disk).iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, bytes)| bytes.len()).collect()
}

#[test]
fn open_after_a_kill_does_not_read_reserved_zeros() {
    let disk = SimDisk::new();
    let options = || Options::new().segment_bytes(1 << 20).background(false);
    let store = options().open_on(&disk).expect("an empty disk");
    store.insert("a large value", vec![7; 200 << 10]).expect("space");
    let count = fill_until_one_is_ready(&store, b"") + 1;
    let killed = disk.kill();
    drop(store);
    let sizes = segment_sizes(&killed);
    let ready = *sizes.last().expect("the one made ready");
    assert!(ready >= 1 << 20, "{sizes:?}");
    let before = killed.bytes_read();
    let store = options().open_on(&killed).expect("whole");
    assert_eq!(store.len(), count);
    let read = usize::try_from(killed.bytes_read() - before).expect("small");
    // Half of the segment before it is not written either.
    assert!(read < sizes.iter().sum::<usize>() - ready, "{read} of {sizes:?}");
}

#[test]
fn close_removes_a_large_unused_segment() {
    let disk = SimDisk::new();
    let options = || Options::new().segment_bytes(1 << 20).background(false);
    let mut count = 0;
    for round in 0..3_u8 {
        let store = options().open_on(&disk).expect("whole");
        assert_eq!(store.len(), count);
        assert!(store.recovery_report().clean || round == 0);
        count += fill_until_one_is_ready(&store, &[round]);
        let before = segment_sizes(&disk);
        store.close().expect("sound");
        assert_eq!(segment_sizes(&disk), before[..before.len() - 1], "round {round}");
    }
}

#[test]
fn sealed_segment_behind_a_hole_is_damage() {
    // A hostile manifest: the second segment claims to be sealed, with numbers of the first.
    let disk = sealed_at_a_cut();
    let mut manifest = manifest_of(&disk);
    let first = manifest.segments[0];
    manifest.segments[0].state = SegmentState::Cut;
    let second = &mut manifest.segments[1];
    (second.state, second.end) = (SegmentState::Sealed, 1024);
    (second.first_seq, second.last_seq) = (first.last_seq, first.last_seq);
    put_manifest(&disk, &manifest);
    assert_refused_unchanged(&disk, "a sealed segment that the log does not reach");
}
