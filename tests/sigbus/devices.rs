//! Tests of a failing device. The file behind a loop device is cut, so that the kernel's reads
//! beyond its end fail.

use std::fs::{self, File};
use std::path::Path;

use mapcask::{Error, Options, Store};

use super::file_system::{FileSystem, Kind};
use super::{Count, fill, key, options, read_all};

const EXT4: Kind = Kind { name: "ext4", make: &["mkfs.ext4", "-q", "-F"], image_bytes: 64 << 20 };
const KEYS: u32 = 600;
const LEN: usize = 20_000;

/// Makes the kernel drop its cached pages of the files, so that it reads them again.
fn forget(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// Returns a store on a device that fails in part. It was opened before the failure, and only its
/// index is in memory.
fn failing(file_system: &FileSystem, options: &Options) -> Store {
    let path = file_system.mount().join("data");
    let store = options.clone().open(&path).unwrap();
    fill(&store, 0..KEYS, LEN);
    store.close().unwrap();
    forget(&path);
    let store = options.clone().open(&path).unwrap();
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    store.prefetch(&keys);
    forget(&path);
    let image = fs::read(file_system.image()).unwrap();
    let middle = key(KEYS / 2);
    // A record begins at a multiple of eight bytes, and the key follows the header.
    let at = (0..image.len() / 8).find(|at| image[at * 8..].starts_with(&middle)).expect("it is on the disk");
    let image = File::options().write(true).open(file_system.image()).unwrap();
    image.set_len(u64::try_from(at * 8 / 4096 * 4096).unwrap()).unwrap();
    store
}

#[test]
fn reads_of_a_device_that_fails_give_the_value_or_an_error() {
    let Some(file_system) = FileSystem::make("failing", &EXT4) else { return };
    let store = failing(&file_system, &options().background(false));
    let count = read_all(&store, KEYS, LEN);
    assert!(count.right > 0 && count.errors > 0, "{count:?}");
    assert!(store.stats().signals_caught > 0);
    // Beyond the end of its file a loop device returns errors, and sometimes zeros.
    let verified = store.verify();
    assert!(matches!(verified, Err(Error::Io { .. } | Error::Corrupt { .. })), "{verified:?}");
    let _ = store.compact();
    let _ = store.close();
}

#[test]
fn copying_reads_of_a_device_that_fails_need_no_guard() {
    let Some(file_system) = FileSystem::make("unguarded", &EXT4) else { return };
    let store = failing(&file_system, &options().background(false).sigbus_guard(false));
    let mut count = Count::default();
    for n in 0..KEYS {
        let mut out = Vec::new();
        let read = store.get_into(key(n), &mut out).map(|found| found.then_some(out));
        count.note(n, LEN, read);
    }
    assert!(count.right > 0 && count.errors > 0, "{count:?}");
    // Beyond the end of its file a loop device returns errors, and sometimes zeros.
    let verified = store.verify();
    assert!(matches!(verified, Err(Error::Io { .. } | Error::Corrupt { .. })), "{verified:?}");
    assert_eq!(store.stats().signals_caught, 0);
}
