//! Fuzzes a store's directory with arbitrary damage: opening and reading return errors, or values
//! that were once written.
//!
//! Nothing panics and nothing hangs. An undamaged store opens with its content.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mapcask::Store;
use mapcask::sim::SimDisk;
use mapcask_fuzz::store::{IMAGES, IndexCheckpoint, options};

#[derive(Debug, Arbitrary)]
struct Input {
    is_clean: bool,
    reopen: bool,
    edits: Vec<Edit>,
}

/// An edit of the directory.
#[derive(Debug, Arbitrary)]
enum Edit {
    FlipBit {
        file: u8,
        at: u16,
        bit: u8,
    },
    Write {
        file: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    CopyWithin {
        file: u8,
        from: u16,
        to: u16,
        len: u16,
    },
    Truncate {
        file: u8,
        len: u16,
    },
    Extend {
        file: u8,
        by: u8,
    },
    Remove {
        file: u8,
    },
    /// Puts the content of one file under the name of another.
    Replace {
        file: u8,
        with: u8,
    },
    Foreign,
}

/// A pair that is written to a store that opened.
const NEW: (&[u8], &[u8]) = (b"new", b"value");

fuzz_target!(|input: Input| {
    let checkpoint = &IMAGES[usize::from(input.is_clean)];
    let mut files = checkpoint.files.clone();
    for edit in input.edits.iter().take(16) {
        apply(edit, &mut files);
    }
    let is_whole = files == checkpoint.files;
    let disk = SimDisk::with_seed(9);
    for (name, bytes) in &files {
        disk.put_file(name, bytes);
    }
    match options().open_on(&disk) {
        Ok(store) => {
            check(&store, checkpoint, is_whole);
            drop(store);
        }
        Err(error) => {
            assert!(!is_whole, "an undamaged store opens: {error}");
            assert!(!error.to_string().is_empty());
        }
    }
    if input.reopen
        && let Ok(store) = options().open_on(&disk)
    {
        check(&store, checkpoint, is_whole);
    }
});

fn apply(edit: &Edit, files: &mut Vec<(String, Vec<u8>)>) {
    let count = files.len();
    if count == 0 {
        return;
    }
    let file = |number: &u8| usize::from(*number) % count;
    match edit {
        Edit::FlipBit { file: number, at, bit } => {
            let bytes = &mut files[file(number)].1;
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(usize::from(*at) % len) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Edit::Write { file: number, at, bytes: new } => {
            let bytes = &mut files[file(number)].1;
            let at = usize::from(*at) % bytes.len().max(1);
            let end = (at + new.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&new[..end - at]);
        }
        Edit::CopyWithin { file: number, from, to, len } => {
            let bytes = &mut files[file(number)].1;
            let all = bytes.len().max(1);
            let (from, to) = (usize::from(*from) % all, usize::from(*to) % all);
            let len = usize::from(*len).min(bytes.len() - from.max(to).min(bytes.len()));
            bytes.copy_within(from..from + len, to);
        }
        Edit::Truncate { file: number, len } => files[file(number)].1.truncate(usize::from(*len)),
        Edit::Extend { file: number, by } => {
            let bytes = &mut files[file(number)].1;
            bytes.resize(bytes.len() + usize::from(*by) * 16, 0);
        }
        Edit::Remove { file: number } => drop(files.remove(file(number))),
        Edit::Replace { file: number, with } => {
            let content = files[file(with)].1.clone();
            files[file(number)].1 = content;
        }
        Edit::Foreign => files.push(("notes.txt".to_owned(), Vec::new())),
    }
}

fn check(store: &Store, checkpoint: &IndexCheckpoint, is_whole: bool) {
    let is_known = |key: &[u8], value: &[u8]| {
        checkpoint.written.get(key).is_some_and(|values| values.contains(value)) || (key, value) == NEW
    };
    for key in checkpoint.written.keys() {
        match store.get(key) {
            Ok(Some(value)) => assert!(is_known(key, &value), "{key:?} never was {value:?}"),
            Ok(None) => {}
            Err(error) => assert!(!is_whole, "{error}"),
        }
        if is_whole {
            let found = store.get(key).expect("checked above");
            assert_eq!(found.as_deref(), checkpoint.last.get(key).map(Vec::as_slice));
        }
    }
    let bound = 4 * checkpoint.written.len();
    for (count, entry) in store.iter().enumerate() {
        assert!(count <= bound, "iteration ends");
        let Ok((key, value)) = entry else { break };
        assert!(is_known(&key, &value), "{key:?} never was {value:?}");
    }
    let verified = store.verify();
    assert!(!is_whole || verified.is_ok());
    // A store that opened accepts writes, or returns an error.
    if store.insert(NEW.0, NEW.1).is_ok() {
        let found = store.get(NEW.0).expect("what was just written can be read");
        assert_eq!(found.as_deref(), Some(NEW.1));
    }
}
