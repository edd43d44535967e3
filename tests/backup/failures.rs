//! Failures of each operation during a backup and a restore, full disks, and damage.

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Error, Store};

use super::contents::{Contents, held};
use super::{contents_of, fill, open, restored};

const OPERATIONS: [Operation; 11] = [
    Operation::CreateDir,
    Operation::List,
    Operation::Create,
    Operation::Open,
    Operation::Rename,
    Operation::Unlink,
    Operation::SyncDir,
    Operation::Lock,
    Operation::Read,
    Operation::Write,
    Operation::Sync,
];

/// Makes a store with a backup, and changes since.
fn changed() -> (SimDisk, SimDisk, Store, Contents) {
    let (disk, target) = (SimDisk::new(), SimDisk::new());
    let store = open(&disk);
    fill(&store, 0, 20, 1);
    store.backup_on(&target).unwrap();
    let before = held(&store);
    fill(&store, 5, 15, 2);
    store.flush().unwrap();
    store.compact().unwrap();
    (disk, target, store, before)
}

#[test]
fn a_failure_at_the_target_leaves_the_old_backup_or_the_new_one() {
    let mut failed = 0;
    for operation in OPERATIONS {
        for nth in 1.. {
            let (_, target, store, before) = changed();
            let after = held(&store);
            target.fail_nth(Some(operation), nth, Fault::Io, false);
            let result = store.backup_on(&target);
            let fired = target.faults_fired();
            target.clear_faults();
            let found = restored(&target);
            match result {
                Ok(_) => assert_eq!(found, after, "{operation:?} {nth}"),
                Err(Error::Io { .. } | Error::Locked { .. } | Error::ReadOnly { .. }) => {
                    failed += 1;
                    assert!(found == before || found == after, "{operation:?} {nth}");
                }
                Err(error) => panic!("{operation:?} {nth}: {error}"),
            }
            store.backup_on(&target).unwrap();
            assert_eq!(restored(&target), after, "{operation:?} {nth}");
            if fired == 0 {
                break;
            }
        }
    }
    assert!(failed > 40, "{failed}");
}

#[test]
fn a_failed_read_of_the_store_leaves_the_old_backup() {
    for operation in [Operation::Open, Operation::Read] {
        for nth in 1.. {
            let (disk, target, store, before) = changed();
            disk.fail_nth(Some(operation), nth, Fault::Io, false);
            let result = store.backup_on(&target);
            let fired = disk.faults_fired();
            disk.clear_faults();
            match result {
                Ok(_) => assert_eq!(fired, 0, "{operation:?} {nth}"),
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. }), "{error}");
                    assert_eq!(restored(&target), before);
                }
            }
            store.backup_on(&target).unwrap();
            assert_eq!(restored(&target), held(&store), "{operation:?} {nth}");
            if fired == 0 {
                break;
            }
        }
    }
}

#[test]
fn a_failed_restore_is_repeated() {
    for operation in OPERATIONS {
        for nth in 1.. {
            let (_, target, _, before) = changed();
            let disk = SimDisk::new();
            disk.fail_nth(Some(operation), nth, Fault::Io, false);
            let result = mapcask::restore_on(&target, &disk);
            let fired = disk.faults_fired();
            disk.clear_faults();
            if let Err(error) = result {
                assert!(matches!(error, Error::Io { .. }), "{operation:?} {nth}: {error}");
                mapcask::restore_on(&target, &disk).unwrap();
            }
            assert_eq!(contents_of(&disk), before, "{operation:?} {nth}");
            if fired == 0 {
                break;
            }
        }
    }
}

/// Returns the bytes that the pages of all files take.
fn used(disk: &SimDisk) -> u64 {
    let len = |name: &String| disk.read_file(name).unwrap().len() as u64;
    disk.files().iter().map(|name| len(name).next_multiple_of(4096)).sum()
}

#[test]
fn a_full_target_keeps_the_old_backup_and_no_rest() {
    let (_, target, store, before) = changed();
    let pages = used(&target);
    let mut refused = 0;
    for more in 0.. {
        target.set_capacity(Some(pages + more * 4096));
        match store.backup_on(&target) {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
        }
        refused += 1;
        assert!(!target.files().iter().any(|name| name.ends_with(".tmp")), "{:?}", target.files());
        assert_eq!(restored(&target), before);
    }
    assert!(refused > 3, "{refused}");
    assert_eq!(restored(&target), held(&store));
}

#[test]
fn copies_that_no_backup_needs_are_removed_before_others() {
    let (_, target, store, _) = changed();
    let pages = used(&target);
    target.fail_nth(Some(Operation::Rename), 4, Fault::Io, false);
    store.backup_on(&target).unwrap_err();
    assert!(used(&target) > pages);
    // All of them are replaced, so the copies that the failed backup left are of no use.
    fill(&store, 0, 20, 9);
    store.compact().unwrap();
    let needed = {
        let other = SimDisk::new();
        store.backup_on(&other).unwrap();
        used(&other)
    };
    target.set_capacity(Some(pages + needed));
    store.backup_on(&target).unwrap();
    assert_eq!(restored(&target), held(&store));
    assert!(used(&target) <= needed);
}

#[test]
fn damage_in_the_store_is_an_error_and_keeps_the_old_backup() {
    let (disk, target, store, before) = changed();
    fill(&store, 60, 20, 4);
    let segments: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
    let newest = &segments[segments.len() - 2];
    disk.rot_bit(newest, 1000, 3).unwrap();
    let error = store.backup_on(&target).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with(newest)), "{error}");
    assert_eq!(restored(&target), before);
}

#[test]
fn a_restore_of_a_damaged_backup_creates_nothing() {
    let (_, target, store, _) = changed();
    store.backup_on(&target).unwrap();
    let copies: Vec<_> = target.files().into_iter().filter(|name| name.ends_with(".copy")).collect();
    for name in &copies {
        let damages: [fn(&SimDisk, &str); 3] = [
            |backup, name| backup.rot_bit(name, 200, 1).unwrap(),
            |backup, name| backup.truncate(name, 150).unwrap(),
            |backup, name| backup.remove_file(name).unwrap(),
        ];
        for damage in damages {
            let (damaged, disk) = (target.kill(), SimDisk::new());
            damage(&damaged, name);
            let error = mapcask::restore_on(&damaged, &disk).unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains(name.as_str()), "{error}");
            assert!(disk.files().is_empty(), "{:?}", disk.files());
        }
    }
}

#[test]
fn a_backup_copies_a_file_of_the_wrong_length_again() {
    let (_, target, store, _) = changed();
    let whole = store.backup_on(&target).unwrap();
    let name = target.files().into_iter().find(|name| name.ends_with(".copy")).unwrap();
    target.truncate(&name, 150).unwrap();
    let report = store.backup_on(&target).unwrap();
    assert_eq!((report.files_copied, report.files), (1, whole.files));
    assert_eq!(restored(&target), held(&store));
}
