//! Directories that cannot be targets, and backups that are no store.

use std::fs;

use mapcask::sim::SimDisk;
use mapcask::{Error, Follower, Options, Store};

use super::contents::held;
use super::{fill, open, options};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn is_refused<T: std::fmt::Debug>(result: mapcask::Result<T>, reason: &str) -> bool {
    let error = result.unwrap_err();
    matches!(error, Error::InvalidTarget { .. }) && error.to_string().contains(reason)
}

#[test]
fn a_target_in_the_store_is_refused_and_nothing_is_made() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let store = options().open(&path).unwrap();
    let follower = Follower::open(&path).unwrap();
    let count = || fs::read_dir(&path).unwrap().count();
    let before = count();
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for target in [path.clone(), path.join("backup"), path.join("a/b/c"), link.join("backup")] {
        assert!(is_refused(store.backup(&target), "the store's own directory"), "{target:?}");
        assert!(is_refused(follower.backup(&target), "the store's own directory"), "{target:?}");
    }
    assert_eq!(count(), before);
}

#[test]
fn a_target_with_other_files_is_refused_and_keeps_them() {
    let store = open(&SimDisk::new());
    let other = SimDisk::new();
    other.put_file("notes.txt", b"mine");
    assert!(is_refused(store.backup_on(&other), "\"notes.txt\""));
    assert_eq!(other.files(), ["notes.txt"]);
    let another = SimDisk::new();
    drop(open(&another));
    let files = another.files();
    assert!(is_refused(store.backup_on(&another), "no part of a backup"));
    assert_eq!(another.files(), files);
}

#[test]
fn a_backup_of_another_store_is_kept() {
    let (one, other, target) = (open(&SimDisk::new()), open(&SimDisk::with_seed(7)), SimDisk::new());
    fill(&one, 0, 20, 1);
    one.backup_on(&target).unwrap();
    assert!(is_refused(other.backup_on(&target), "another store"));
    assert_eq!(super::restored(&target), held(&one));
}

#[test]
fn two_backups_to_one_directory_exclude_each_other() {
    let target = SimDisk::new();
    let store = open(&SimDisk::new());
    store.insert("a", "1").unwrap();
    let (also, store_too) = (target.clone(), store.clone());
    target.on_crash_point(move |point| {
        if point == "backup-copied" {
            assert!(is_refused(store_too.backup_on(&also), "is running"));
            assert!(matches!(mapcask::restore_on(&also, &SimDisk::new()), Err(Error::Locked { .. })));
        }
    });
    store.backup_on(&target).unwrap();
    target.forget_hook();
    store.backup_on(&target).unwrap();
}

#[test]
fn a_backup_is_no_store_and_a_store_is_no_backup() {
    let (disk, target) = (SimDisk::new(), SimDisk::new());
    let store = open(&disk);
    store.backup_on(&target).unwrap();
    for options in [Options::new(), Options::new().create(false), Options::new().read_only(true)] {
        assert!(matches!(options.background(false).open_on(&target), Err(Error::Foreign { .. })));
    }
    store.close().unwrap();
    for no_backup in [disk, SimDisk::new()] {
        assert!(matches!(mapcask::restore_on(&no_backup, &SimDisk::new()), Err(Error::NoBackup { .. })));
    }
}

#[test]
fn a_restore_refuses_a_directory_that_is_not_empty() {
    let (disk, target) = (SimDisk::new(), SimDisk::new());
    let store = open(&disk);
    fill(&store, 0, 20, 1);
    store.backup_on(&target).unwrap();
    let other = SimDisk::new();
    other.put_file("notes.txt", b"mine");
    for into in [&disk, &target, &other] {
        let files = into.files();
        let error = mapcask::restore_on(&target.kill(), into).unwrap_err();
        assert!(matches!(error, Error::InvalidTarget { .. }), "{error}");
        assert_eq!(into.files(), files);
    }
    // The mark of a restore makes no other file one of its own.
    other.put_file("RESTORING", b"");
    assert!(is_refused(mapcask::restore_on(&target, &other), "\"notes.txt\""));
}

#[test]
fn a_restored_store_is_another_store_than_the_original() {
    let scratch = scratch();
    let [path, target] = ["data", "backup"].map(|name| scratch.path().join(name));
    let store = options().open(&path).unwrap();
    store.insert("a", "1").unwrap();
    let follower = Follower::open(&path).unwrap();
    store.backup(&target).unwrap();
    assert!(is_refused(mapcask::restore(&target, target.join("new")), "the directory of the backup"));
    store.close().unwrap();
    mapcask::destroy(&path).unwrap();
    mapcask::restore(&target, &path).unwrap();
    assert!(matches!(follower.refresh(), Err(Error::Replaced { .. })));
    let restored = Store::open(&path).unwrap();
    assert_eq!(held(&restored)[""].len(), 1);
    assert!(is_refused(restored.backup(&target), "another store"));
}
