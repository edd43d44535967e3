//! Fuzzes file names: every name has one meaning, and the functions that make names make each name
//! that has one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mapcask::format::SegmentId;
use mapcask::format::file_name::{
    BackupName, CONTROL, FileName, LOCK, MANIFESTS, REMOVING, RESTORING, WAITERS, aside, backup_copy, backup_list,
    parse, parse_backup, segment, temporary,
};
use mapcask_fuzz::take;

fuzz_target!(|input: &[u8]| {
    if let Ok(name) = std::str::from_utf8(input) {
        check(name);
    }
    let mut rest = input;
    let id = SegmentId(u64::from_le_bytes(take(&mut rest)) >> (take::<1>(&mut rest)[0] % 64));
    let n = u32::from_le_bytes(take(&mut rest));
    assert_eq!(parse(&segment(id)), FileName::Segment(id));
    assert_eq!(parse(&aside(id, n)), FileName::Aside(id, n));
    assert_eq!(parse(&temporary(&segment(id))), FileName::Temporary);
    assert_eq!(parse(&temporary(&temporary(&segment(id)))), FileName::Foreign);
    let nonce = u64::from_le_bytes(take(&mut rest));
    for (name, meaning) in
        [(backup_list(nonce), BackupName::List(nonce)), (backup_copy(id, nonce, nonce >> n % 64), BackupName::Copy)]
    {
        assert_eq!(parse_backup(&name), meaning);
        assert_eq!(parse_backup(&temporary(&name)), BackupName::Temporary);
        assert_eq!(parse(&name), FileName::Foreign);
    }
    // The names are made of parts of real names.
    let parts = [
        "LOCK",
        "MANIFEST",
        ".0",
        ".1",
        "CONTROL",
        "WAITERS",
        "0000000001",
        ".seg",
        ".hint",
        ".aside",
        "INDEX-",
        "BACKUP-",
        "-0000000000000001",
        ".copy",
        ".tmp",
        "9",
        ".",
    ];
    let made: String = rest.iter().take(8).map(|byte| parts[usize::from(*byte) % parts.len()]).collect();
    check(&made);
});

fn check(name: &str) {
    match parse(name) {
        FileName::Lock => assert_eq!(name, LOCK),
        FileName::Manifest(copy) => assert_eq!(name, MANIFESTS[copy]),
        FileName::Control => assert_eq!(name, CONTROL),
        FileName::Waiters => assert_eq!(name, WAITERS),
        FileName::Segment(id) => assert_eq!(name, segment(id)),
        FileName::Hint(id) => assert_eq!(name, format!("{id}.hint")),
        FileName::Aside(id, n) => assert_eq!(name, aside(id, n)),
        FileName::Checkpoint(n) => assert_eq!(name, format!("INDEX-{n:06}")),
        FileName::Temporary => {
            let stem = name.strip_suffix(".tmp").expect("a temporary name says so");
            assert!(!matches!(parse(stem), FileName::Foreign | FileName::Temporary));
        }
        FileName::Removing => assert_eq!(name, REMOVING),
        FileName::Restoring => assert_eq!(name, RESTORING),
        FileName::Neutral => {
            assert!(name.starts_with('.') || ["lost+found", "Thumbs.db", "desktop.ini"].contains(&name));
        }
        FileName::Foreign => {}
    }
    if let BackupName::List(number) = parse_backup(name) {
        assert_eq!(name, backup_list(number));
    }
}
