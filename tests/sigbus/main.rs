//! Tests of pages of mapped files that cannot be read or written. They lead to errors, and SIGBUS
//! never kills the process.
//!
//! Most tests run in this process, so a signal that is not caught fails the whole suite. Tests of
//! foreign signals run in a child process. Tests with a file system of their own need root and loop
//! devices. Without these they pass, and print that they have shown nothing.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod cut;
mod devices;
mod file_system;
mod followed;
mod full;
mod signals;

use std::path::{Path, PathBuf};

use mapcask::{Error, Options, Store};

/// Makes a directory on the file system of the build.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options() -> Options {
    Options::new().segment_bytes(1 << 20)
}

/// Returns a key that differs from zeros.
fn key(n: u32) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

/// Returns a value without zeros that contains the key.
fn value(n: u32, len: usize) -> Vec<u8> {
    let mut value = key(n);
    value.resize(len, u8::try_from(n % 255 + 1).unwrap());
    value
}

fn fill(store: &Store, numbers: std::ops::Range<u32>, len: usize) {
    for n in numbers {
        store.insert(key(n), value(n, len)).unwrap();
    }
}

/// Returns the segment files of a store.
fn segments(path: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

/// The numbers of reads that returned the value, and of those that returned an error. Any other
/// result is a failure.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Count {
    right: u32,
    errors: u32,
}

impl Count {
    /// Counts a read. A missing or different value fails the test.
    fn note(&mut self, n: u32, len: usize, read: Result<Option<Vec<u8>>, Error>) {
        match read {
            Ok(found) => {
                assert_eq!(found.as_deref(), Some(value(n, len).as_slice()), "key {n}");
                self.right += 1;
            }
            Err(Error::Io { .. } | Error::Corrupt { .. }) => self.errors += 1,
            Err(other) => panic!("key {n}: {other}"),
        }
    }
}

/// Reads every key in every way, and uses no bytes that [`mapcask::Value::check`] refuses.
fn read_all(store: &Store, count: u32, len: usize) -> Count {
    let mut copied = Count::default();
    let mut owned = Count::default();
    let mut borrowed = Count::default();
    let view = store.view();
    for n in 0..count {
        let mut out = Vec::new();
        let read = store.get_into(key(n), &mut out).map(|found| found.then_some(out));
        copied.note(n, len, read);
        let read = store.get(key(n)).and_then(|found| {
            let copy = found.as_deref().map(<[u8]>::to_vec);
            found.map_or(Ok(()), |found| found.check())?;
            Ok(copy)
        });
        owned.note(n, len, read);
        let read = view.get(key(n)).and_then(|found| {
            let copy = found.map(<[u8]>::to_vec);
            found.map_or(Ok(()), |found| view.check(found))?;
            Ok(copy)
        });
        borrowed.note(n, len, read);
        assert!(!matches!(store.contains_key(key(n)), Ok(false)), "key {n} is missed in silence");
    }
    assert_eq!((owned, borrowed), (copied, copied));
    copied
}
