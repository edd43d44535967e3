//! Tests of an open store whose files another program truncates.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use mapcask::{Durability, Error, Store, WriteBatch};

use super::{Count, directory, fill, key, options, read_all, segments, value};

const KEYS: u32 = 3000;
const LEN: usize = 1000;

/// Cuts a file to a fraction of its length, unless compaction has removed it since it was listed.
fn cut(path: &Path, of: u64) {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        opened => opened.unwrap(),
    };
    let len = file.metadata().unwrap().len() / of / 4096 * 4096;
    file.set_len(len).unwrap();
}

fn cut_all(path: &Path, of: u64) {
    segments(path).iter().for_each(|path| cut(path, of));
}

fn filled(path: &Path) -> Store {
    let store = options().background(false).open(path).unwrap();
    fill(&store, 0..KEYS, LEN);
    store
}

#[test]
fn reads_of_a_file_that_was_cut_give_the_value_or_an_error() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = filled(&path);
    assert_eq!(read_all(&store, KEYS, LEN), Count { right: KEYS, errors: 0 });
    assert_eq!(store.stats().signals_caught, 0);
    cut_all(&path, 2);
    let count = read_all(&store, KEYS, LEN);
    assert!(count.right > KEYS / 10 && count.errors > KEYS / 10, "{count:?}");
    assert!(store.stats().signals_caught > 0);
    // A page that was lost stays lost, so the next reads have equal results.
    assert_eq!(read_all(&store, KEYS, LEN), count);
    assert!(store.verify().is_err());
}

#[test]
fn batch_snapshot_and_iterator_reads_report_cut_pages() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = filled(&path);
    let snapshot = store.snapshot();
    cut_all(&path, 2);
    let (mut many, mut held, mut gone_through) = (Count::default(), Count::default(), Count::default());
    for n in 0..KEYS {
        let read = store.multi_get(&[key(n)]).and_then(|mut found| {
            let found = found.pop().flatten();
            let copy = found.as_deref().map(<[u8]>::to_vec);
            found.map_or(Ok(()), |found| found.check())?;
            Ok(copy)
        });
        many.note(n, LEN, read);
        let read = snapshot.get(key(n)).and_then(|found| {
            let copy = found.as_deref().map(<[u8]>::to_vec);
            found.map_or(Ok(()), |found| found.check())?;
            Ok(copy)
        });
        held.note(n, LEN, read);
    }
    assert!(many == held && many.errors > KEYS / 10, "{many:?} {held:?}");
    for item in store.iter().chain(snapshot.iter()) {
        let Ok((found, content)) = item else {
            gone_through.errors += 1;
            continue;
        };
        let (found, content) = (found.check().map(|()| found), content.check().map(|()| content));
        match (found, content) {
            (Ok(found), Ok(content)) => {
                let n = std::str::from_utf8(&found[4..]).unwrap().parse().unwrap();
                assert_eq!(content, value(n, LEN));
                gone_through.right += 1;
            }
            _ => gone_through.errors += 1,
        }
    }
    assert!(gone_through.right >= many.right && gone_through.errors > 0, "{gone_through:?}");
}

#[test]
fn value_check_reports_pages_cut_after_the_read() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = filled(&path);
    let values: Vec<_> = (0..KEYS).map(|n| store.get(key(n)).unwrap().unwrap()).collect();
    assert!(values.iter().all(|value| value.check().is_ok()));
    cut_all(&path, 2);
    let mut lost = 0;
    for (n, found) in (0..).zip(&values) {
        let same = *found == value(n, LEN);
        match found.check() {
            Ok(()) => assert!(same, "key {n}"),
            Err(Error::Io { path, source, .. }) => {
                assert!(path.starts_with(directory.path()) && source.to_string().contains("offset"));
                lost += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(lost > KEYS / 10, "{lost}");
}

/// The zeros of a lost page equal these keys, so only another look at the page shows the loss.
#[test]
fn lookup_never_takes_zeros_of_a_lost_page_for_its_key() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().segment_bytes(64 << 10).background(false).open(&path).unwrap();
    // The cuts lie within keys, because these are far longer than headers and values.
    let keys: Vec<_> = (0..24).map(|n| vec![0; 12_000 + 8 * n]).collect();
    for key in &keys {
        store.insert(key, [7; 8]).unwrap();
    }
    cut_all(&path, 2);
    let mut lost = 0;
    for key in &keys {
        let read = store.get_into(key, &mut Vec::new());
        let found = store.contains_key(key);
        assert_eq!(read.is_ok(), found.is_ok(), "{} bytes: {read:?} {found:?}", key.len());
        lost += u32::from(read.is_err());
    }
    assert!(lost > 0 && lost < 24, "{lost}");
}

#[test]
fn conditional_writes_never_compare_zeros_of_a_lost_page() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    // The values are longer than a page, so that keys and headers stay readable.
    fill(&store, 0..200, 20_000);
    cut_all(&path, 2);
    let (mut refused, mut updated) = (0, 0);
    for n in 0..200 {
        let mut expected = value(n, 20_000);
        expected[15_000..].fill(0);
        let swapped = store.compare_and_swap(key(n), Some(&expected), Some("zeros"));
        assert!(!matches!(swapped, Ok(Ok(_))), "key {n}: zeros were taken for the value");
        let mut batch = WriteBatch::new();
        batch.require(key(n), &expected);
        batch.insert(key(n), "zeros");
        assert!(store.write(&batch).is_err());
        let mut seen = None;
        let update = store.update_and_fetch(key(n), |old| {
            let old = old.unwrap();
            seen = Some(old == value(n, 20_000));
            Some(old.to_vec())
        });
        match (update, seen) {
            (Err(_), _) => refused += 1,
            (Ok(_), seen) => {
                assert_eq!(seen, Some(true), "key {n}: something was made of zeros");
                updated += 1;
            }
        }
    }
    assert!(refused > 20 && updated > 20, "{refused} {updated}");
}

/// The comparison itself may be the first to meet a lost page.
#[test]
fn swap_fails_if_it_expects_the_zeros_of_a_lost_page() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    fill(&store, 0..200, 20_000);
    let mut refused = 0;
    for path in segments(&path) {
        let bytes = std::fs::read(&path).unwrap();
        cut(&path, 2);
        let len = usize::try_from(path.metadata().unwrap().len()).unwrap();
        // Each value begins with its key, and the key stands before it.
        let is_record = |at: &usize| {
            let (key, value) = bytes[*at..].split_at(10);
            key.starts_with(b"key ") && value.starts_with(key)
        };
        let Some(at) = (0..len).rev().find(is_record) else { continue };
        let n = std::str::from_utf8(&bytes[at + 4..at + 10]).unwrap().parse().unwrap();
        let mut shown = value(n, 20_000);
        let left = len - (at + 10);
        if left < shown.len() {
            shown[left..].fill(0);
            let swapped = store.compare_and_swap(key(n), Some(&shown), Some("zeros"));
            assert!(swapped.is_err(), "key {n}: {swapped:?}");
            refused += 1;
        }
    }
    assert!(refused > 0, "no value was lost in part");
}

/// A file that was cut has its old length again, so only the lost pages show it.
#[test]
fn flush_fails_if_pages_were_lost_and_the_length_is_back() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = filled(&path);
    let lens: Vec<_> =
        segments(&path).into_iter().map(|path| (path.metadata().unwrap().len(), path)).collect();
    cut_all(&path, 2);
    assert!(read_all(&store, KEYS, LEN).errors > 0);
    for (len, path) in lens {
        OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
    }
    store.flush().unwrap_err();
}

#[test]
fn record_that_was_lost_in_part_leaves_nothing_in_its_file() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    store.insert("first", [1; 3000]).unwrap();
    let files = segments(&path);
    assert_eq!(files.len(), 1);
    OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(4096).unwrap();
    // The record begins in the page that is left.
    store.insert("second", [9; 3000]).unwrap_err();
    let left = std::fs::read(&files[0]).unwrap();
    assert!(left.contains(&1) && !left.windows(8).any(|window| window == [9; 8]));
}

/// A segment whose pages cannot be had keeps its place in the queue, and each try costs none.
#[cfg(feature = "sim")]
#[test]
fn segment_without_pages_is_not_begun_after_a_lost_page() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    let mut count = 0;
    while store.stats().ready_segments == 0 {
        store.insert(key(count), value(count, LEN)).unwrap();
        count += 1;
        while store.step().unwrap() {}
    }
    let lens: Vec<_> =
        segments(&path).into_iter().map(|path| (path.metadata().unwrap().len(), path)).collect();
    for (_, path) in &lens {
        OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
    }
    for _ in 0..8 {
        store.insert("refused", [7; 100]).unwrap_err();
    }
    assert_eq!(segments(&path).len(), lens.len());
    for (len, path) in &lens {
        OpenOptions::new().write(true).open(path).unwrap().set_len(*len).unwrap();
    }
    store.insert("accepted", [7; 100]).unwrap();
    assert_eq!(segments(&path).len(), lens.len());
}

#[test]
fn writes_and_syncs_fail_if_a_file_was_cut() {
    for durability in [Durability::Os, Durability::Disk] {
        let directory = directory();
        let path = directory.path().join("data");
        let store = options().background(false).durability(durability).open(&path).unwrap();
        fill(&store, 0..100, 100);
        cut_all(&path, 4096);
        let refused = (0..2000).find_map(|n| store.insert(key(n), value(n, 1000)).err());
        assert!(refused.is_some() || store.flush().is_err(), "no call noticed");
        // Durable data needs no further sync. The next open reports its loss.
        let (flushed, removed, compacted) = (store.flush(), store.remove(key(1)), store.compact());
        assert!(durability == Durability::Disk || flushed.is_err(), "{removed:?} {compacted:?}");
        let closed = store.close();
        assert!(durability == Durability::Disk || closed.is_err());
        assert!(options().open(&path).is_err());
    }
}

#[test]
fn process_survives_file_cut_during_reads_and_writes() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().open(&path).unwrap();
    fill(&store, 0..KEYS, LEN);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let _ = store.verify();
                    for n in 0..KEYS {
                        let mut out = Vec::new();
                        if let Ok(found) = store.get_into(key(n), &mut out) {
                            assert!(found && out == value(n, LEN), "key {n}");
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            for n in 0..KEYS {
                let _ = store.insert(key(n), value(n, LEN));
                let _ = n.is_multiple_of(500).then(|| store.compact());
            }
        });
        scope.spawn(|| {
            for of in [2, 3, 5] {
                cut_all(&path, of);
                thread::yield_now();
            }
        });
    });
    let _ = store.close();
}

/// The guard covers a segment from its first mapping on, which may happen long after the open.
#[test]
fn reads_fail_cleanly_if_file_was_cut_after_a_lazy_open() {
    let directory = directory();
    let path = directory.path().join("data");
    filled(&path).close().unwrap();
    let store = options().background(false).open(&path).unwrap();
    // These reads map the segments. Records listed by a checkpoint count as unverified.
    assert_eq!(store.get(key(5)).unwrap().unwrap(), value(5, LEN));
    for n in 0..KEYS {
        assert!(store.contains_key(key(n)).unwrap());
    }
    cut_all(&path, 2);
    let count = read_all(&store, KEYS, LEN);
    assert!(count.right > KEYS / 10 && count.errors > KEYS / 10, "{count:?}");
}

/// A rebuild of the index reads the log through its files, and compares keys in the mapping. Zeros
/// of a lost page must not pass for another key, or the key would be in the index twice.
#[cfg(feature = "sim")]
#[test]
fn index_rebuild_never_compares_a_key_with_zeros_of_a_lost_page() {
    use std::os::unix::fs::FileExt;

    let directory = directory();
    let path = directory.path().join("data");
    let store = filled(&path);
    for n in (0..KEYS).step_by(2) {
        store.insert(key(n), "new").unwrap();
    }
    assert!(store.take_checkpoint().unwrap());
    store.close().unwrap();
    let store = options().background(false).open(&path).unwrap();
    assert_eq!(store.get(key(5)).unwrap().unwrap(), value(5, LEN));
    // The page of this value is lost, and with it the former records of its neighbours.
    let segment = path.join("0000000001.seg");
    let bytes = std::fs::read(&segment).unwrap();
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(4096).unwrap();
    assert!(matches!(store.get(key(5)), Err(Error::Io { .. })));
    file.write_all_at(&bytes, 0).unwrap();
    let names = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let index = names.into_iter().find(|path| path.to_str().unwrap().contains("INDEX-")).unwrap();
    let mut bytes = std::fs::read(&index).unwrap();
    let front = bytes.len() % 4100;
    bytes[front..].iter_mut().step_by(4100).for_each(|byte| *byte ^= 1);
    OpenOptions::new().write(true).open(&index).unwrap().write_all_at(&bytes, 0).unwrap();
    // None of these lies in the lost page.
    let read = (100..KEYS).find_map(|n| store.get(key(n)).err());
    assert!(matches!(read, Some(Error::Io { .. })), "{read:?}, {} rebuilds", store.stats().index_rebuilds);
}

/// An open without the guard reads the log through its files, and then compares keys in the
/// mapping. A signal would end this process.
#[test]
fn open_without_the_guard_reports_a_page_lost_meanwhile() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    fill(&store, 0..500, LEN);
    fill(&store, 0..500, LEN);
    // Behind these records the open reports its progress.
    fill(&store, 500..KEYS, LEN);
    let left = directory.path().join("left");
    std::fs::create_dir(&left).unwrap();
    for file in std::fs::read_dir(&path).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), left.join(file.file_name())).unwrap();
    }
    let mut files = segments(&left);
    files.sort();
    // The last file with this key holds its newer record, and not the older one.
    let has_key = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(10).any(|window| window == key(250))
    };
    let at = files.iter().rposition(has_key).unwrap();
    assert!(files[..at].iter().any(has_key));
    let ends: u64 = files[..=at].iter().map(|path| path.metadata().unwrap().len()).sum();
    let newer = files[at].clone();
    let options = options().background(false).sigbus_guard(false).recovery_progress(move |progress| {
        if progress.bytes_read >= ends {
            OpenOptions::new().write(true).open(&newer).unwrap().set_len(4096).unwrap();
        }
    });
    let opened = options.open(&left).map(|store| store.len());
    assert!(matches!(opened, Err(Error::Io { .. })), "{opened:?}");
}
