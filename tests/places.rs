//! Tests that a store stays in its own directory, wherever its path leads later, and that no file
//! in a directory leads out of it.
//!
//! The tests use the real file system, and the simulated disk where it can do the same.

#![cfg(all(unix, feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use mapcask::sim::SimDisk;
use mapcask::{Error, Options, Store};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options() -> Options {
    Options::new().segment_bytes(64 << 10).background(false)
}

fn open(path: impl AsRef<Path>) -> Store {
    options().open(path).unwrap()
}

/// Writes enough for several segments, or returns the error that stopped it.
fn fill(store: &Store, tag: &str) -> mapcask::Result<()> {
    (0..400_u32).try_for_each(|n| store.insert(format!("{tag}{n}"), [7; 1000]).map(drop))
}

/// Returns every file of a directory with its content.
fn content(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort_unstable();
    files
}

fn is_gone(error: &Error, replaced: bool) -> bool {
    let Error::Poisoned { cause } = error else { return false };
    matches!(**cause, Error::DirectoryGone { replaced: found, .. } if found == replaced)
}

#[test]
fn a_moved_store_never_writes_into_its_successor() {
    let scratch = scratch();
    let (here, there) = (scratch.path().join("data"), scratch.path().join("data.old"));
    let old = open(&here);
    fill(&old, "old").unwrap();
    old.flush().unwrap();
    fs::rename(&here, &there).unwrap();
    let new = open(&here);
    fill(&new, "new").unwrap();
    new.flush().unwrap();
    let before = content(&here);
    let error = fill(&old, "more").unwrap_err();
    assert!(is_gone(&error, true), "{error}");
    assert!(is_gone(&old.flush().unwrap_err(), true));
    assert!(is_gone(&old.compact().unwrap_err(), true));
    assert_eq!(old.get("old7").unwrap().unwrap().len(), 1000, "reads go on");
    assert!(is_gone(&old.close().unwrap_err(), true));
    assert!(content(&here) == before, "nothing of the new store was touched");
    fill(&new, "more").unwrap();
    new.close().unwrap();
    for (path, key) in [(&here, "new7"), (&there, "old7")] {
        let store = open(path);
        store.verify().unwrap();
        assert!(store.contains_key(key).unwrap());
    }
}

#[test]
fn a_moved_store_with_nothing_in_its_place_goes_on() {
    let scratch = scratch();
    let (here, there) = (scratch.path().join("data"), scratch.path().join("data.old"));
    let store = open(&here);
    fs::rename(&here, &there).unwrap();
    fill(&store, "a").unwrap();
    store.flush().unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    assert!(!here.exists());
    assert_eq!(open(&there).len(), 400);
}

#[test]
fn a_removed_store_says_so_and_harms_no_successor() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let old = open(&path);
    old.insert("a", "1").unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert!(is_gone(&old.flush().unwrap_err(), false));
    let old_at_roll = fill(&old, "old").unwrap_err();
    assert!(is_gone(&old_at_roll, false), "{old_at_roll}");
    let new = open(&path);
    fill(&new, "new").unwrap();
    drop(old);
    new.close().unwrap();
    open(&path).verify().unwrap();
}

#[test]
fn a_removed_directory_is_noticed_by_a_roll_without_a_sync() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let store = open(&path);
    store.insert("a", "1").unwrap();
    fs::remove_dir_all(&path).unwrap();
    let error = fill(&store, "b").unwrap_err();
    assert!(is_gone(&error, false), "{error}");
}

#[test]
fn a_store_reached_through_a_link_is_the_directory_behind_it() {
    let scratch = scratch();
    let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink("real", &link).unwrap();
    let store = open(&link);
    fill(&store, "a").unwrap();
    store.close().unwrap();
    assert_eq!(open(&real).len(), 400);
}

#[test]
fn an_empty_path_is_an_error_and_touches_nothing() {
    let scratch = scratch();
    open(scratch.path()).close().unwrap();
    let before = content(scratch.path());
    let error = Store::open("").unwrap_err();
    assert!(matches!(error, Error::Io { operation: "find", .. }), "{error}");
    let rescued = options().open_on(&SimDisk::new()).unwrap();
    assert!(mapcask::salvage("", &rescued).is_err());
    assert!(content(scratch.path()) == before);
}

/// Replaces every file of a store by a link, a fifo, a folder and a hard link. Each is refused, and
/// no file outside is changed.
#[test]
fn links_and_fifos_in_a_store_are_refused_without_waiting() {
    let scratch = scratch();
    let outside = scratch.path().join("precious");
    let text = "precious content\n".repeat(1000);
    for name in ["LOCK", "CONTROL", "MANIFEST.0", "MANIFEST.1", "0000000001.seg"] {
        for kind in ["link", "dangling", "fifo", "folder", "hard link"] {
            let path = scratch.path().join(format!("{name} {kind}"));
            let store = open(&path);
            store.insert("a", "1").unwrap();
            store.close().unwrap();
            fs::write(&outside, &text).unwrap();
            let file = path.join(name);
            let kept = fs::read(&file).unwrap();
            fs::remove_file(&file).unwrap();
            match kind {
                "link" => symlink(&outside, &file).unwrap(),
                "dangling" => symlink(scratch.path().join("made"), &file).unwrap(),
                "fifo" => {
                    let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
                    assert!(made.success());
                }
                "folder" => fs::create_dir(&file).unwrap(),
                _ => {
                    fs::write(&outside, kept).unwrap();
                    fs::hard_link(&outside, &file).unwrap();
                }
            }
            let before = fs::read(&outside).unwrap();
            let opened = options().open(&path);
            assert!(matches!(opened, Err(Error::Io { .. })), "{name} {kind}: {opened:?}");
            let rescued = options().open_on(&SimDisk::new()).unwrap();
            // A salvage may recover some keys. It must return, and change nothing outside.
            drop(mapcask::salvage(&path, &rescued));
            assert!(fs::read(&outside).unwrap() == before, "{name} {kind}");
            assert!(!scratch.path().join("made").exists(), "{name} {kind}");
        }
    }
}

#[test]
fn a_copy_made_of_hard_links_is_refused_with_its_original() {
    let scratch = scratch();
    let (original, copy) = (scratch.path().join("original"), scratch.path().join("copy"));
    let store = open(&original);
    store.insert("a", "1").unwrap();
    store.close().unwrap();
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&original).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    for path in [&original, &copy] {
        let error = options().open(path).unwrap_err();
        assert!(error.to_string().contains("copy the files of a store"), "{error}");
    }
    fs::remove_dir_all(&copy).unwrap();
    assert_eq!(open(&original).len(), 1);
}

#[test]
fn a_second_writer_stays_out_though_the_lock_file_is_gone() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let store = open(&path);
    store.insert("a", "1").unwrap();
    for replace in [false, true] {
        let first = fs::metadata(path.join("LOCK")).unwrap().ino();
        fs::remove_file(path.join("LOCK")).unwrap();
        if replace {
            fs::write(path.join("LOCK"), "").unwrap();
        }
        let second = options().open(&path);
        assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
        assert_eq!(path.join("LOCK").exists(), replace, "a refused open makes no file");
        store.flush().unwrap();
        let note = fs::read_to_string(path.join("LOCK")).unwrap();
        assert_eq!(note.trim(), std::process::id().to_string(), "put back by the next sync");
        assert!(replace || fs::metadata(path.join("LOCK")).unwrap().ino() != first);
        store.insert(format!("b{replace}"), "2").unwrap();
    }
    store.close().unwrap();
    assert_eq!(open(&path).len(), 3);
}

#[test]
fn lost_lock_file_poisons_the_writer_if_directories_lack_locks() {
    let disk = SimDisk::new();
    disk.set_directory_locks(false);
    let store = options().open_on(&disk).unwrap();
    store.insert("a", "1").unwrap();
    store.flush().unwrap();
    disk.remove_file("LOCK").unwrap();
    store.insert("b", "2").unwrap();
    let Err(Error::Poisoned { cause }) = store.flush() else { panic!("the lock is lost") };
    assert!(matches!(*cause, Error::LockLost { .. }), "{cause}");
    // Where directories have locks, the sync puts the lock file back.
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    store.insert("a", "1").unwrap();
    disk.remove_file("LOCK").unwrap();
    assert!(matches!(options().open_on(&disk), Err(Error::Locked { .. })));
    store.flush().unwrap();
    assert!(disk.read_file("LOCK").is_ok());
}

#[test]
fn replaced_directory_stops_every_change_of_a_simulated_store() {
    for round in 0..3 {
        let disk = SimDisk::new();
        let store = options().open_on(&disk).unwrap();
        fill(&store, "a").unwrap();
        let next = disk.replace_dir();
        let names = disk.files();
        let error = match round {
            0 => store.flush(),
            1 => fill(&store, "b"),
            _ => store.compact().map(drop),
        };
        assert!(is_gone(&error.unwrap_err(), true), "{round}");
        assert_eq!(disk.files(), names, "{round}: nothing is made or removed");
        assert!(store.contains_key("a7").unwrap());
        open_and_use(&next);
    }
}

fn open_and_use(disk: &SimDisk) {
    let store = options().open_on(disk).unwrap();
    assert!(store.recovery_report().created);
    store.insert("a", "1").unwrap();
    store.close().unwrap();
}

#[test]
fn waiting_for_the_lock_ends_with_the_holder_or_the_time() {
    use std::time::Duration;
    let scratch = scratch();
    let old = open(scratch.path());
    let refused = options().wait_for_lock(Duration::from_millis(5)).open(scratch.path());
    assert!(matches!(refused, Err(Error::Locked { .. })));
    std::thread::scope(|scope| {
        let waits =
            scope.spawn(|| options().wait_for_lock(Duration::from_secs(600)).open(scratch.path()).unwrap());
        old.close().unwrap();
        waits.join().unwrap().insert("a", "1").unwrap();
    });
}

#[test]
fn system_files_do_not_make_a_directory_foreign() {
    let scratch = scratch();
    for name in [".gitkeep", ".DS_Store", ".nfs0001", "Thumbs.db"] {
        fs::write(scratch.path().join(name), "").unwrap();
    }
    open(scratch.path()).insert("a", "1").unwrap();
    let store = open(scratch.path());
    store.compact().unwrap();
    store.size_on_disk().unwrap();
    assert!(scratch.path().join(".gitkeep").exists());
}

#[test]
fn an_older_backup_over_a_newer_store_is_called_that() {
    let scratch = scratch();
    let store = open(scratch.path());
    store.insert("a", "1").unwrap();
    store.close().unwrap();
    let backup = content(scratch.path());
    let store = open(scratch.path());
    fill(&store, "b").unwrap();
    store.close().unwrap();
    for (path, bytes) in backup {
        fs::write(path, bytes).unwrap();
    }
    let error = options().open(scratch.path()).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("older backup"), "{error}");
}

#[test]
fn destroying_removes_a_store_and_nothing_else() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    assert!(matches!(mapcask::destroy(&path), Err(Error::NotFound { .. })));
    let store = open(&path);
    fill(&store, "a").unwrap();
    assert!(matches!(mapcask::destroy(&path), Err(Error::Locked { .. })));
    store.close().unwrap();
    let other = scratch.path().join("other");
    open(&other).close().unwrap();
    fs::copy(other.join("0000000001.seg"), path.join("0000000777.seg")).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    // The tool's own file of this name is empty.
    fs::write(path.join(".standby"), "mine").unwrap();
    fs::write(other.join(".standby"), "").unwrap();
    fs::write(scratch.path().join("precious"), "precious").unwrap();
    symlink("../precious", path.join("0000000778.seg")).unwrap();
    mapcask::destroy(&path).unwrap();
    let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort_unstable();
    assert_eq!(left, [".standby", "0000000777.seg", "0000000778.seg", "notes.txt"]);
    assert!(scratch.path().join("precious").exists());
    mapcask::destroy(&other).unwrap();
    assert!(!other.exists(), "nothing else was in it");
    fs::write(scratch.path().join("x"), "").unwrap();
    assert!(matches!(mapcask::destroy(scratch.path()), Err(Error::NotFound { .. } | Error::Foreign { .. })));
}

/// After a power cut at any time the store is whole, refused as being destroyed, or removed; and
/// the destruction can be finished.
#[test]
fn an_interrupted_destruction_is_no_store_and_can_be_finished() {
    use mapcask::sim::{Seeded, Tears};
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    fill(&store, "a").unwrap();
    store.close().unwrap();
    disk.forget_history();
    mapcask::destroy_on(&disk).unwrap();
    assert!(disk.files().is_empty());
    let mut seen = [0; 3];
    for at in disk.positions() {
        let point = disk.crash_point(at, Tears::Any);
        for seed in 0..4 {
            let after = if seed == 0 { point.kill() } else { point.cut_power(&mut Seeded::new(seed)) };
            let was_empty = after.files().iter().all(|name| name == "LOCK");
            match options().open_on(&after) {
                Ok(store) if store.recovery_report().created => {
                    assert!(was_empty, "never over what is left");
                    seen[0] += 1;
                }
                Ok(store) => {
                    assert_eq!(store.len(), 400);
                    seen[1] += 1;
                }
                Err(Error::Destroying { .. }) => {
                    let rescued = options().open_on(&SimDisk::new()).unwrap();
                    let salvaged = mapcask::salvage_on(&after, &rescued);
                    assert!(matches!(salvaged, Err(Error::Destroying { .. })));
                    mapcask::destroy_on(&after).unwrap();
                    assert!(after.files().is_empty());
                    seen[2] += 1;
                }
                Err(error) => panic!("{at:?} {seed}: {error}"),
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Sets the time of every segment back, and returns their paths.
fn set_back(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let segments: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    for segment in &segments {
        let file = fs::File::options().write(true).open(segment).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    segments
}

fn is_set_back(path: &Path) -> bool {
    fs::metadata(path).unwrap().mtime() == 0
}

#[test]
fn a_flush_and_a_close_tell_the_times_of_what_was_written() {
    check_times(&scratch());
}

/// In memory no page is written back, so the next store into it is no fault either.
#[test]
fn times_are_told_on_a_file_system_in_memory() {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(scratch) => check_times(&scratch),
        Err(error) => eprintln!("SKIPPED: times_are_told_on_a_file_system_in_memory: /dev/shm: {error}"),
    }
}

fn check_times(scratch: &tempfile::TempDir) {
    let store = open(scratch.path());
    // The page is written to already, so that another write to it is no fault that the kernel would
    // notice.
    store.insert("a", "1").unwrap();
    let segment = set_back(scratch.path()).remove(0);
    store.insert("b", "2").unwrap();
    assert!(is_set_back(&segment), "memory speed");
    store.flush().unwrap();
    assert!(!is_set_back(&segment));
    set_back(scratch.path());
    store.flush().unwrap();
    assert!(is_set_back(&segment), "nothing was written since");
    store.insert("c", "3").unwrap();
    set_back(scratch.path());
    store.close().unwrap();
    assert!(!is_set_back(&segment));
    set_back(scratch.path());
    open(scratch.path()).close().unwrap();
    assert!(is_set_back(&segment), "nothing was written");
}

#[test]
fn a_full_segment_tells_its_time_when_it_is_durable() {
    let scratch = scratch();
    let store = open(scratch.path()).with_durability(mapcask::Durability::Os);
    store.insert("a", "1").unwrap();
    fill(&store, "b").unwrap();
    let segments = set_back(scratch.path());
    assert!(segments.len() > 4);
    store.with_durability(mapcask::Durability::Disk).insert("c", "1").unwrap();
    let full = segments.iter().filter(|path| !is_set_back(path)).count();
    assert!(full >= segments.len() - 2, "all but the active one, and one that is ready: {full}");
}

#[test]
fn new_files_belong_to_the_owner_of_the_store() {
    let scratch = scratch();
    let owner = fs::metadata(scratch.path()).unwrap().uid();
    if owner != 0 || std::os::unix::fs::chown(scratch.path(), Some(1234), Some(5678)).is_err() {
        eprintln!("SKIPPED: new_files_belong_to_the_owner_of_the_store needs root");
        return;
    }
    let store = open(scratch.path());
    fill(&store, "a").unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let store = open(scratch.path());
    store.insert("b", "1").unwrap();
    store.close().unwrap();
    for entry in fs::read_dir(scratch.path()).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 5678), "{:?}", entry.file_name());
    }
}
