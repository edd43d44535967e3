//! Tests of preallocated pages that need a new block, because a copy of the file shares their
//! blocks, on a full disk.

use std::fs::{self, File};
use std::path::Path;

use mapcask::{Durability, Error, Options, Store, WriteBatch};

use super::file_system::{FileSystem, Kind, run};
use super::{key, value};

const XFS: Kind = Kind { name: "xfs", make: &["mkfs.xfs", "-q", "-f"], image_bytes: 320 << 20 };
const BTRFS: Kind = Kind { name: "btrfs", make: &["mkfs.btrfs", "-q", "-f"], image_bytes: 256 << 20 };
const LEN: usize = 3000;

/// Copies each file in the directory, sharing its blocks.
fn copy_by_reference(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) =
            (File::open(entry.path()).unwrap(), File::create(to.join(entry.file_name())).unwrap());
        rustix::fs::ioctl_ficlone(to, from).unwrap();
    }
}

/// Fills the free space of the file system.
fn fill_up(mount: &Path) {
    let file = File::create(mount.join("filler")).unwrap();
    let mut filled = 0;
    for len in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), filled, len).is_ok() {
            filled += len;
        }
    }
}

/// Checks that every acknowledged write is found.
fn check(store: &Store, count: u32) {
    for n in 0..count {
        assert_eq!(store.get(key(n)).unwrap().as_deref(), Some(value(n, LEN).as_slice()), "key {n}");
    }
    assert!(store.get(key(count)).unwrap().is_none(), "a write that was refused is there");
}

/// Inserts until the store refuses. Returns the number of acknowledged writes.
fn insert_until_full(store: &Store, mut count: u32, batches: bool) -> u32 {
    loop {
        let inserted = if batches {
            let mut batch = WriteBatch::new();
            batch.insert(key(count), value(count, LEN));
            store.write(&batch).map(drop)
        } else {
            store.insert(key(count), value(count, LEN)).map(drop)
        };
        match inserted {
            Ok(()) => count += 1,
            Err(Error::NoSpace { .. }) => return count,
            Err(other) => panic!("{other}"),
        }
        assert!(count < 200_000, "it is never full");
    }
}

/// Copies an open store, fills the disk, and writes. Then frees space, and writes again.
fn meet_a_full_disk(
    file_system: &FileSystem,
    name: &str,
    options: &Options,
    copy: impl Fn(&Path, &Path) -> bool,
) {
    let mount = file_system.mount();
    let path = mount.join(name);
    let data = path.join("data");
    if !path.exists() {
        fs::create_dir(&path).unwrap();
    }
    let store = options.clone().open(&data).unwrap();
    for n in 0..300 {
        store.insert(key(n), value(n, LEN)).unwrap();
    }
    store.flush().unwrap();
    assert!(copy(&path, &mount.join(format!("{name}-copy"))));
    fill_up(&mount);
    let mut count = insert_until_full(&store, 300, false);
    count = insert_until_full(&store, count, true);
    check(&store, count);
    // Tombstones may need missing space too, and are then refused cleanly.
    if let Err(error) = store.remove("absent").and_then(|_| store.remove(key(0))) {
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    } else {
        store.insert(key(0), value(0, LEN)).ok();
    }
    assert!(
        store.stats().signals_caught > 0,
        "{name}: the pages did not need new blocks, so this shows nothing"
    );
    fs::remove_file(mount.join("filler")).unwrap();
    // The kernel frees the space with some delay, and a sync ends it.
    run("sync", &[]).unwrap();
    store.insert(key(0), value(0, LEN)).unwrap();
    for n in count..count + 200 {
        store.insert(key(n), value(n, LEN)).unwrap();
    }
    count += 200;
    check(&store, count);
    store.verify().unwrap();
    store.close().unwrap();
    let store = options.clone().open(&data).unwrap();
    check(&store, count);
    store.verify().unwrap();
    store.close().unwrap();
}

#[test]
fn a_full_disk_under_a_reflink_copy_is_an_error_on_xfs() {
    let Some(file_system) = FileSystem::make("reflink", &XFS) else { return };
    for (name, durability) in [("os", Durability::Os), ("disk", Durability::Disk)] {
        let options = Options::new().segment_bytes(4 << 20).durability(durability);
        meet_a_full_disk(&file_system, name, &options, |from, to| {
            copy_by_reference(&from.join("data"), to);
            true
        });
        fs::remove_dir_all(file_system.mount().join(name)).unwrap();
        fs::remove_dir_all(file_system.mount().join(format!("{name}-copy"))).unwrap();
    }
}

#[test]
fn a_full_disk_under_a_snapshot_is_an_error_on_btrfs() {
    let Some(file_system) = FileSystem::make("snapshot", &BTRFS) else { return };
    let volume = file_system.mount().join("os");
    run("btrfs", &["subvolume", "create", volume.to_str().unwrap()]).unwrap();
    let options = Options::new().segment_bytes(4 << 20);
    meet_a_full_disk(&file_system, "os", &options, |from, to| {
        run("btrfs", &["subvolume", "snapshot", from.to_str().unwrap(), to.to_str().unwrap()]).is_ok()
    });
}
