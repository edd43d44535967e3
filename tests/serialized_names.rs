//! Tests the serialised names of statistics and reports: programs read them, so they are public.
#![cfg(feature = "serde")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use mapcask::{Defect, Store};
use serde::Serialize;
use serde_json::{Value, json};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns the fields of a report, in order.
fn fields(report: &impl Serialize) -> Vec<String> {
    let Value::Object(fields) = serde_json::to_value(report).unwrap() else { panic!("no object") };
    fields.keys().cloned().collect()
}

/// Returns the given names, sorted like the fields of a report.
fn sorted(names: &str) -> Vec<String> {
    let mut names: Vec<_> = names.split_whitespace().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

#[test]
fn statistics_and_the_recovery_report_have_these_fields() {
    let directory = directory();
    let store = Store::open(directory.path().join("data")).unwrap();
    store.insert("key", "value").unwrap();
    let expected = sorted(
        "keyspaces keys live_bytes dead_bytes segments ready_segments segment_bytes max_disk_bytes index_bytes checkpoint_bytes checkpoints index_rebuilds last_seq durable_seq syncs waits \
         stalls signals_caught worker_wakes compaction snapshots oldest_snapshot_age snapshot_versions snapshot_bytes removed_bytes_in_use pins oldest_pin_age oldest_pin_wait",
    );
    assert_eq!(fields(&store.stats()), expected);
    assert_eq!(serde_json::to_value(store.stats()).unwrap()["keys"], 1);
    assert_eq!(fields(&store.keyspace_stats().unwrap()), sorted("keys live_bytes index_bytes"));
    let expected = sorted(
        "passes segments_removed bytes_moved bytes_freed running freeable_bytes retained_tombstone_bytes next_segment next_reason \
         damaged_segments",
    );
    assert_eq!(fields(&store.stats().compaction), expected);
    let expected = sorted("passes segments_removed segments_made bytes_read bytes_moved bytes_freed elapsed");
    assert_eq!(fields(&store.compact().unwrap()), expected);
    assert_eq!(serde_json::to_value(mapcask::CompactionReason::Requested).unwrap(), json!("Requested"));
    assert_eq!(serde_json::to_value(store.last_seq()).unwrap(), store.last_seq().0);
    let expected = sorted(
        "created clean incarnation segments records bytes_read checkpoint_seq checkpoint_bytes_read checkpoint_damage hinted_bytes hint_bytes_read keyspaces keys last_seq durable_seq torn_bytes quarantined_records \
         quarantined rewritten_bytes",
    );
    assert_eq!(fields(store.recovery_report()), expected);
    let report = serde_json::to_value(store.recovery_report()).unwrap();
    assert_eq!(
        (&report["created"], &report["incarnation"], &report["quarantined"]),
        (&json!(true), &json!(1), &json!([]))
    );
}

#[test]
fn the_report_of_a_verification_has_these_fields() {
    let directory = directory();
    let store = Store::open(directory.path().join("data")).unwrap();
    store.insert("key", "value").unwrap();
    let report = store.verify().unwrap();
    assert_eq!(fields(&report), sorted("segments records bytes keys"));
    assert_eq!(serde_json::to_value(report).unwrap()["keys"], 1);
}

#[test]
fn the_reports_of_a_backup_and_a_restore_have_these_fields() {
    let directory = directory();
    let [data, backup, restored] = ["data", "backup", "restored"].map(|name| directory.path().join(name));
    let store = Store::open(data).unwrap();
    store.insert("key", "value").unwrap();
    let report = store.backup(&backup).unwrap();
    assert_eq!(fields(&report), sorted("last_seq files bytes files_copied bytes_copied files_removed"));
    let report = mapcask::restore(&backup, &restored).unwrap();
    assert_eq!(fields(&report), sorted("last_seq files bytes"));
    assert_eq!(serde_json::to_value(report).unwrap()["last_seq"], store.last_seq().0);
}

fn segment(store: &Path) -> PathBuf {
    let names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    names.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "seg")).unwrap()
}

#[test]
fn salvage_report_has_these_fields_and_names_its_defects() {
    let directory = directory();
    let damaged = directory.path().join("damaged");
    let store = Store::open(&damaged).unwrap();
    store.insert("key", "the value of the key").unwrap();
    store.close().unwrap();
    let segment = segment(&damaged);
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(9).position(|window| window == b"the value").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let rescued = Store::open(directory.path().join("rescued")).unwrap();
    let report = mapcask::salvage(&damaged, &rescued).unwrap();
    assert_eq!(
        fields(&report),
        sorted("intact segments records keys doubtful_keys keyspaces last_seq damage")
    );
    let damage = serde_json::to_value(&report.damage).unwrap();
    let [lost] = report.damage.as_slice() else { panic!("{damage}") };
    let cause = json!({ "Defect": "PayloadChecksum" });
    // The missing records are the log's start record and the value.
    let expected =
        json!({ "path": segment, "offset": lost.offset, "len": lost.len, "cause": cause, "missing": [2, 2] });
    assert_eq!(damage, json!([expected]));
}

#[test]
fn every_kind_of_defect_is_serialised_by_its_name() {
    let pinned = [
        (Defect::Truncated, json!("Truncated")),
        (Defect::BadMagic, json!("BadMagic")),
        (Defect::HeaderChecksum, json!("HeaderChecksum")),
        (Defect::PayloadChecksum, json!("PayloadChecksum")),
        (Defect::Checksum, json!("Checksum")),
        (Defect::UnknownKind(9), json!({ "UnknownKind": 9 })),
        (Defect::Reserved, json!("Reserved")),
        (Defect::LengthOutOfRange, json!("LengthOutOfRange")),
        (Defect::BadSequence, json!("BadSequence")),
        (Defect::BatchIncomplete, json!("BatchIncomplete")),
        (Defect::BadField("incarnation"), json!({ "BadField": "incarnation" })),
        (Defect::WrongSegment, json!("WrongSegment")),
        (Defect::WrongSize { expected: 2, found: 1 }, json!({ "WrongSize": { "expected": 2, "found": 1 } })),
        (
            Defect::MissingRecords { last: 1, durable: 2 },
            json!({ "MissingRecords": { "last": 1, "durable": 2 } }),
        ),
        (Defect::BrokenChain, json!("BrokenChain")),
        (Defect::IndexMismatch, json!("IndexMismatch")),
    ];
    for (defect, expected) in pinned {
        assert_eq!(serde_json::to_value(defect).unwrap(), expected);
    }
}
