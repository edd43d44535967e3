//! Tests of single damages, each with the line of the account that reports it.

use super::history::{Files, contents, disk_of, files_of, options};
use super::rescue;
use crate::api::salvage::{DamageCause, SalvageReport};
use crate::api::store::Store;
use crate::format::record_reader::{Order, ReadStep, RecordAt, RecordReader};
use crate::format::segment_header::SegmentHeader;
use crate::fs::sim::{SimDisk, Tears};

fn fill(store: &Store, keys: std::ops::Range<u32>) {
    for n in keys {
        store.insert(n.to_le_bytes(), [7; 500]).expect("there is room");
    }
    store.flush().expect("nothing is wrong");
    while store.step().expect("nothing is wrong") {}
}

/// Returns a store with some full segments.
fn filled(seed: u64) -> (SimDisk, Store) {
    let disk = SimDisk::with_seed(seed);
    let store = options().compaction(false).checkpoint_bytes(u64::MAX).open_on(&disk).expect("a new store");
    fill(&store, 0..40);
    (disk, store)
}

fn segments(files: &Files) -> Vec<String> {
    files.keys().filter(|name| name.ends_with(".seg")).cloned().collect()
}

fn has_line(report: &SalvageReport, name: &str, cause: &DamageCause) -> bool {
    report.damage.iter().any(|damage| damage.path.ends_with(name) && damage.cause == *cause)
}

/// Removes the first segment that the manifest names, so that an open refuses the store.
fn without_the_first(files: &mut Files) {
    let first = segments(files).swap_remove(0);
    files.remove(&first);
    assert!(options().open_on(&disk_of(files, None)).is_err(), "{first} is part of the store");
}

fn records(bytes: &[u8]) -> Vec<RecordAt> {
    let header = SegmentHeader::decode(bytes).expect("whole").expect("of this version");
    let mut walker = RecordReader::new(header.nonce, header.data_offset(), bytes.len() as u64, Order::Any);
    let mut source = bytes;
    let mut found = Vec::new();
    while let Ok(ReadStep::Record(placed)) = walker.step(&mut source) {
        found.push(placed);
    }
    found
}

#[test]
fn salvage_reports_an_obsolete_segment() {
    let (disk, store) = filled(1);
    let before = files_of(&disk.kill());
    fill(&store, 0..20);
    store.compact().expect("nothing is wrong");
    fill(&store, 20..60);
    let mut files = files_of(&disk.kill());
    let gone = segments(&before).into_iter().find(|name| !files.contains_key(name)).expect("compacted away");
    without_the_first(&mut files);
    files.insert(gone.clone(), before[&gone].clone());
    let (report, _) = rescue(&disk_of(&files, None)).expect("the rest can be read");
    assert!(has_line(&report, &gone, &DamageCause::Obsolete), "{gone}: {report:?}");
}

#[test]
fn salvage_reports_a_segment_of_another_store() {
    let (disk, _store) = filled(1);
    let (other, _other_store) = filled(2);
    let mut files = files_of(&disk.kill());
    without_the_first(&mut files);
    let foreign = files_of(&other.kill());
    let name = "0000000099.seg".to_owned();
    files.insert(name.clone(), foreign[&segments(&foreign)[1]].clone());
    let (report, _) = rescue(&disk_of(&files, None)).expect("the rest can be read");
    assert!(has_line(&report, &name, &DamageCause::Foreign), "{report:?}");
}

#[test]
fn salvage_reports_a_manifest_older_than_the_segments() {
    let (disk, store) = filled(1);
    let before = files_of(&disk.kill());
    fill(&store, 40..80);
    let mut files = files_of(&disk.kill());
    for name in ["MANIFEST.0", "MANIFEST.1"] {
        files.insert(name.to_owned(), before[name].clone());
    }
    // Without the control page only the segments show that the manifest is outdated.
    files.remove("CONTROL");
    let (report, found) = rescue(&disk_of(&files, None)).expect("everything can be read");
    assert_eq!(found[""].len(), 80, "{report:?}");
    assert!(has_line(&report, "MANIFEST.0", &DamageCause::Outdated), "{report:?}");
}

#[test]
fn salvage_reports_durable_records_missing_at_the_end() {
    let (disk, store) = filled(1);
    store.insert("last", "value").expect("there is room");
    store.flush().expect("nothing is wrong");
    let last = store.last_seq();
    let killed = disk.kill();
    let mut files = files_of(&killed);
    // The segment ends before its last record, as if that had never been written.
    let is_last = |placed: &&RecordAt| placed.header.seq == last;
    let cut = segments(&files).into_iter().find_map(|name| {
        let at = records(&files[&name]).iter().find(is_last)?.offset;
        Some((name, usize::try_from(at).expect("small")))
    });
    let (name, at) = cut.expect("it was written");
    files.get_mut(&name).expect("it is there")[at..].fill(0);
    let boot_id = killed.dir().boot_id();
    let (report, found) = rescue(&disk_of(&files, boot_id)).expect("the rest can be read");
    assert_eq!(found[""].len(), 40);
    let says = |cause: &DamageCause| format!("{cause}").contains(&last.to_string());
    assert!(!report.intact && report.damage.iter().any(|damage| says(&damage.cause)), "{last}: {report:?}");
}

/// Returns the files of a store that was killed after a pass had named its copies, the two victims,
/// and the copy.
fn killed_within_a_pass() -> (Files, [String; 2], String) {
    let disk = SimDisk::with_seed(1);
    let store = options().compaction(false).checkpoint_bytes(u64::MAX).open_on(&disk).expect("a new store");
    store.insert("gone", [7; 500]).expect("there is room");
    // Enough records for the tombstone to be in the second segment.
    for n in 0..10u32 {
        store.insert(n.to_le_bytes(), [7; 500]).expect("there is room");
    }
    store.remove("gone").expect("there is room");
    fill(&store, 10..40);
    let before = files_of(&disk.kill());
    let ids: Vec<u64> = (1..=2).collect();
    let victims = ids.iter().map(|id| format!("{id:010}.seg")).collect::<Vec<_>>().try_into().expect("two");
    store.compact_segments(&ids, |_| true).expect("nothing is wrong");
    let named = disk.points().into_iter().find(|(_, name)| *name == "compaction-switched");
    let (at, _) = named.expect("there was a pass");
    let files = files_of(&disk.crash_point(at, Tears::None).kill());
    let copy =
        segments(&files).into_iter().find(|name| !before.contains_key(name)).expect("made by the pass");
    (files, victims, copy)
}

#[test]
fn salvage_restores_no_key_removed_by_an_interrupted_pass() {
    let (mut files, [_, second], copy) = killed_within_a_pass();
    // The pass had removed one of its two victims, the one with the tombstone.
    files.remove(&second).expect("it was not removed yet");
    let other = segments(&files).into_iter().rfind(|name| *name != copy).expect("there are more");
    files.remove(&other);
    let (report, found) = rescue(&disk_of(&files, None)).expect("the rest can be read");
    assert!(!report.intact && !found[""].contains_key(b"gone".as_slice()), "{report:?}");
}

#[test]
fn victims_are_read_where_their_copies_are_damaged() {
    let (mut files, victims, copy) = killed_within_a_pass();
    let whole = contents(&options().open_on(&disk_of(&files, None)).expect("a kill harms nothing"));
    assert!(victims.iter().all(|name| files.contains_key(name)));
    files.remove(&copy);
    let (report, found) = rescue(&disk_of(&files, None)).expect("the rest can be read");
    assert_eq!(found, whole, "{report:?}");
}
