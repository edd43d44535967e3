//! Tests of captures and lazy indexes: exact, complete or refused, and later like a fresh index.

use std::collections::BTreeMap;
use std::thread;

use super::tests::{
    apply, change_all, changes, check_shape, get, hash_of_kind, is_key, key_at, place, scan_all, sorted,
};
use super::*;
use crate::error::Error;
use crate::format::Defect;
use crate::format::checkpoint::{BLOCK_LEN, FRAME_SIZE, IndexTable, frame_sum};
use crate::index::lines::IndexLines as _;
use crate::index::lines::capture::{Abandoned, BLOCK_LINES};
use crate::index::lines::test_file::{FRONT_LEN, NONCE, TestFile, file_of, frames, seal, source_of};

/// Opens an index of a checkpoint that begins with one bucket.
fn open(file: &Arc<TestFile>, table: IndexTable, first_frame: u64) -> io::Result<(Arc<Index>, IndexWriter)> {
    Index::from_checkpoint_with(table, source_of(file, first_frame), 0)
}

/// Captures an index and opens it from the checkpoint.
pub(super) fn reopened(writer: &mut IndexWriter) -> (Arc<Index>, IndexWriter) {
    let capture = writer.begin_checkpoint(0).expect("none is being taken");
    let table = capture.table();
    open(&file_of(frames(capture, 0).expect("nothing is written")), table, 0).expect("nothing fails here")
}

/// Makes an index of the keys `0..count`, whose versions are zero.
fn filled(base_bits: u32, kind: u8, count: u64) -> IndexWriter {
    let (_, mut writer) = Index::with_base_bits(base_bits, 0).expect("there is room");
    for key in 0..count {
        writer.reserve().expect("there is room");
        writer.insert(hash_of_kind(kind, key), place(key, 0));
    }
    writer
}

/// Inserts, replaces and removes keys below `keys`.
struct Churn {
    random: fastrand::Rng,
    there: BTreeMap<u64, Location>,
    kind: u8,
    keys: u64,
    version: u64,
}

impl Churn {
    fn new(seed: u64, kind: u8, keys: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), there: BTreeMap::new(), kind, keys, version: 0 }
    }

    fn change(&mut self, writer: &mut IndexWriter, count: usize) {
        for _ in 0..count {
            self.version += 1;
            let key = self.random.u64(..self.keys);
            let (hash, new) = (hash_of_kind(self.kind, key), place(key, self.version & 0x7fff));
            let old = writer.find(hash, is_key(key)).expect("nothing fails here");
            assert_eq!(old, self.there.get(&key).copied());
            match old {
                None => {
                    writer.reserve().expect("there is room");
                    writer.insert(hash, new);
                    self.there.insert(key, new);
                }
                Some(old) if self.random.u8(..5) < 3 => {
                    assert!(writer.remove(hash, old));
                    self.there.remove(&key);
                }
                Some(old) => {
                    assert!(writer.replace(hash, old, new));
                    self.there.insert(key, new);
                }
            }
        }
    }

    fn all(&self) -> Vec<Location> {
        sorted(self.there.values().copied().collect())
    }
}

#[test]
fn capture_is_exact_while_the_writer_changes_pages() {
    for (seed, kind) in (0..60).zip([0, 0, 2, 4].into_iter().cycle()) {
        let mut churn = Churn::new(seed, kind, 1 << (8 + seed % 5));
        let mut writer = filled(u32::from(kind) % 3, kind, 0);
        churn.change(&mut writer, 3000);
        let then = churn.all();
        let mut capture = writer.begin_checkpoint(usize::MAX).unwrap();
        assert!(writer.begin_checkpoint(usize::MAX).is_none(), "one at a time");
        let table = capture.table();
        assert_eq!(table.entries, then.len() as u64);
        let still = image_of_now(&writer);
        let (mut bytes, mut block) = (vec![7; FRONT_LEN], [0; BLOCK_LEN]);
        let few = churn.random.usize(1..60);
        for number in 0.. {
            churn.change(&mut writer, few);
            if !capture.next_block(&mut block).unwrap() {
                break;
            }
            seal(&mut bytes, number, &block);
        }
        assert!(bytes == still, "seed {seed}");
        drop(capture);
        churn.change(&mut writer, 1);
        check_shape(&writer);
        let (index, loaded) = open(&file_of(bytes), table, 0).unwrap();
        assert_eq!(sorted(scan_all(&index)), then);
        index.lines().load_all().unwrap();
        assert!(!index.is_partial());
        // The next capture works like the first, and kept pages count as memory.
        let before = writer.index().memory_bytes();
        let capture = writer.begin_checkpoint(usize::MAX).unwrap();
        churn.change(&mut writer, 100);
        assert!(writer.index().memory_bytes() > before + BLOCK_LEN);
        drop(capture);
        drop(loaded);
        churn.change(&mut writer, 100);
        check_shape(&writer);
    }
}

/// Buckets that merged between two pages would be in neither of them, or in both.
#[test]
fn capture_keeps_keys_removed_while_it_is_taken() {
    const KEYS: u64 = 4000;
    let mut writer = filled(0, 0, KEYS);
    let mut capture = writer.begin_checkpoint(usize::MAX).unwrap();
    let (table, then) = (capture.table(), sorted(scan_all(writer.index())));
    let still = image_of_now(&writer);
    let (mut bytes, mut block) = (vec![7; FRONT_LEN], [0; BLOCK_LEN]);
    for key in 0..KEYS {
        writer.before_removals(1);
        assert!(writer.remove(hash_of_kind(0, key), place(key, 0)));
    }
    assert!(writer.index().is_sparse(), "it would have shrunk");
    for number in 0.. {
        if !capture.next_block(&mut block).unwrap() {
            break;
        }
        seal(&mut bytes, number, &block);
    }
    assert!(bytes == still);
    drop(capture);
    let (index, _loaded) = open(&file_of(bytes), table, 0).unwrap();
    assert_eq!(sorted(scan_all(&index)), then);
}

/// Returns the frames of the table in memory, while no thread changes it.
fn image_of_now(writer: &IndexWriter) -> Vec<u8> {
    let index = writer.index();
    let mut bytes = vec![7; FRONT_LEN];
    let mut number = 0;
    for (row, lines) in [(&index.heads, index.table().lines[0]), (&index.overflow, index.table().lines[1])] {
        for block in 0..lines.div_ceil(BLOCK_LINES) {
            let mut words = Vec::new();
            for line in block * BLOCK_LINES..(block + 1) * BLOCK_LINES {
                let there = line < lines;
                let load = |word: &AtomicU64| if there { word.load(Ordering::Relaxed) } else { 0 };
                let line = if there { row.line(line) } else { row.line(0) };
                let [entries @ .., control] = line.words.each_ref().map(load);
                words.extend(entries.map(|entry| entry & !(1 << 40)));
                words.push(control & ((1 << 28) - 1));
            }
            let block: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
            seal(&mut bytes, number, &block);
            number += 1;
        }
    }
    bytes
}

#[test]
fn capture_is_exact_while_another_thread_writes() {
    for seed in 0..20 {
        let mut churn = Churn::new(seed, 0, 60_000);
        let mut writer = filled(4, 0, 0);
        churn.change(&mut writer, 60_000);
        let then = churn.all();
        let capture = writer.begin_checkpoint(usize::MAX).unwrap();
        let table = capture.table();
        let bytes = thread::scope(|scope| {
            let checkpoint = scope.spawn(move || frames(capture, 0).unwrap());
            churn.change(&mut writer, 40_000);
            checkpoint.join().unwrap()
        });
        let (index, _writer) = open(&file_of(bytes), table, 0).unwrap();
        assert_eq!(sorted(scan_all(&index)), then, "seed {seed}");
        check_shape(&writer);
    }
}

#[test]
fn writer_abandons_a_capture_that_keeps_too_many_pages() {
    let mut writer = filled(0, 0, 20_000);
    let all = writer.index().memory_bytes();
    let mut capture = writer.begin_checkpoint(3).unwrap();
    let mut block = [0; BLOCK_LEN];
    assert_eq!(capture.next_block(&mut block), Ok(true));
    for key in 0..20_000 {
        assert!(writer.replace(hash_of_kind(0, key), place(key, 0), place(key, 1)));
        assert!(writer.index().memory_bytes() <= all + 4 * BLOCK_LEN);
    }
    assert_eq!(capture.next_block(&mut block), Err(Abandoned));
    // That capture has ended, so another one can begin; one with enough space completes.
    let capture2 = writer.begin_checkpoint(usize::MAX).unwrap();
    let table = capture2.table();
    let (index, _loaded) = open(&file_of(frames(capture2, 0).unwrap()), table, 0).unwrap();
    assert_eq!(scan_all(&index).len(), 20_000);
    drop(capture);
}

#[test]
fn capture_of_any_size_is_restored() {
    for (count, first_frame) in [(0, 0), (1, 3), (1000, 0), (100_000, 1)] {
        for kind in [0, 2] {
            if kind == 2 && count > 1000 {
                continue;
            }
            let mut writer = filled(BASE_BITS, kind, count);
            let capture = writer.begin_checkpoint(0).unwrap();
            let table = capture.table();
            let file = file_of(frames(capture, first_frame).unwrap());
            let (index, mut loaded) = open(&file, table, first_frame).unwrap();
            assert_eq!(index.len() as u64, count);
            assert_eq!(index.memory_bytes(), writer.index().memory_bytes());
            for key in (0..count).step_by(7).chain(count..count + 9) {
                let found = (key < count).then(|| place(key, 0));
                assert_eq!(get(&index, hash_of_kind(kind, key), key), found);
                assert_eq!(loaded.find(hash_of_kind(kind, key), is_key(key)), Ok(found));
            }
            index.lines().load_all().unwrap();
            assert!(!index.is_partial());
            let read = file.read.load(Ordering::Relaxed);
            assert_eq!(sorted(scan_all(&index)), sorted(scan_all(writer.index())));
            assert_eq!(file.read.load(Ordering::Relaxed), read, "a whole index needs no file");
            loaded.reserve().unwrap();
            loaded.insert(hash_of_kind(kind, count), place(count, 0));
            check_shape(&loaded);
        }
    }
}

#[test]
fn partial_index_grows_before_all_blocks_are_loaded() {
    for limit in [100, 20_000, 60_000] {
        let mut writer = filled(0, 0, 20_000);
        for key in (0..20_000).step_by(5) {
            assert!(writer.remove(hash_of_kind(0, key), place(key, 0)));
        }
        let (index, mut loaded) = reopened(&mut writer);
        // Splits reach buckets that were not searched yet.
        loaded.reserve_many(usize::try_from(limit).unwrap()).unwrap();
        for key in 20_000..20_000 + limit {
            loaded.reserve().unwrap();
            assert_eq!(loaded.find(hash_of_kind(0, key), is_key(key)), Ok(None));
            loaded.insert(hash_of_kind(0, key), place(key, 0));
        }
        if limit == 100 {
            assert!(loaded.begin_checkpoint(9).is_none(), "of a whole index only");
            index.lines().load_all().unwrap();
        }
        for key in 0..20_000 + limit {
            let there = (key >= 20_000 || key % 5 != 0).then(|| place(key, 0));
            assert_eq!(get(&index, hash_of_kind(0, key), key), there);
        }
        index.lines().load_all().unwrap();
        assert!(loaded.begin_checkpoint(9).is_some());
        check_shape(&loaded);
    }
}

#[test]
fn opening_and_a_first_get_read_a_few_blocks_at_every_size() {
    for count in [1000, 10_000, 300_000] {
        let mut writer = filled(BASE_BITS, 0, count);
        let capture = writer.begin_checkpoint(0).unwrap();
        let table = capture.table();
        let file = file_of(frames(capture, 0).unwrap());
        let (index, _writer) = open(&file, table, 0).unwrap();
        assert!(index.is_partial() || count < 5000);
        assert_eq!(get(&index, hash_of_kind(0, 5), 5), Some(place(5, 0)));
        let read = file.read.load(Ordering::Relaxed);
        assert!(read <= 6 * FRAME_SIZE, "{read} bytes for {count} keys");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn restored_index_behaves_as_if_never_closed(
        kind in 0..5u8,
        base_bits in 0..3u32,
        before in changes(),
        after in changes(),
        ensure_loaded in 0..3u8,
    ) {
        let (_, mut writer) = Index::with_base_bits(base_bits, 0).unwrap();
        let mut oracle = hashbrown::HashTable::new();
        apply(&mut writer, kind, &before);
        apply(&mut oracle, kind, &before);
        let (index, mut loaded) = reopened(&mut writer);
        if ensure_loaded == 1 {
            index.lines().load_more().unwrap();
        }
        // A scan here would load everything. Loading may come midway, when there are free lines.
        let (first, second) = after.split_at(after.len() / 2);
        change_all(&mut loaded, kind, first);
        change_all(&mut oracle, kind, first);
        if ensure_loaded == 2 {
            index.lines().load_all().unwrap();
        }
        let ours = apply(&mut loaded, kind, second);
        let theirs = apply(&mut oracle, kind, second);
        proptest::prop_assert_eq!(ours, theirs);
        index.lines().load_all().unwrap();
        loaded.reserve().unwrap();
        loaded.insert(hash_of_kind(kind, 1 << 20), place(1 << 20, 0));
        check_shape(&loaded);
    }
}

/// Returns a checkpoint with chains, its table, and its keys.
fn sample() -> (Vec<u8>, IndexTable) {
    let mut writer = filled(0, 0, 2000);
    for key in (0..2000).step_by(3) {
        assert!(writer.remove(hash_of_kind(0, key), place(key, 0)));
    }
    let capture = writer.begin_checkpoint(0).expect("nothing fails here");
    let table = capture.table();
    (frames(capture, 0).expect("nothing fails here"), table)
}

fn offset_of(error: BlockError) -> (u64, Option<Defect>) {
    match Error::from(error) {
        Error::Corrupt { offset, defect, .. } => (offset, Some(defect)),
        Error::Io { .. } => (0, None),
        other => panic!("{other}"),
    }
}

#[test]
fn damaged_block_returns_an_error_and_never_a_miss() {
    let (bytes, table) = sample();
    let frames = (bytes.len() - FRONT_LEN) / FRAME_SIZE;
    let mut errors = 0;
    for frame in 0..frames {
        let mut damaged = bytes.clone();
        let start = FRONT_LEN + frame * FRAME_SIZE;
        damaged[start + (frame * 997) % FRAME_SIZE] ^= 1 << (frame % 8);
        // Damage in one of the two last blocks is found at once.
        let Ok((index, mut writer)) = open(&file_of(damaged), table, 0) else { continue };
        let here = |unread| {
            let (offset, defect) = offset_of(unread);
            assert_eq!((offset, defect), (start as u64, Some(Defect::Checksum)));
        };
        for key in 0..2000u64 {
            let there = (key % 3 != 0).then(|| place(key, 0));
            let matches = |location| Ok::<_, BlockError>(key_at(location) == key);
            match index.find(hash_of_kind(0, key), matches) {
                Ok(found) => assert_eq!(found, there, "key {key}"),
                Err(unread) => {
                    here(unread);
                    errors += 1;
                    here(writer.find(hash_of_kind(0, key), matches).unwrap_err());
                }
            }
        }
        let mut found = 0;
        for _ in 0..5 {
            if let Err(unread) = index.lines().load_all() {
                here(unread);
                found += 1;
            }
        }
        assert_eq!(found, 5);
        assert!(index.is_partial());
        let mut cursor = Ok(Some(scan::Cursor::START));
        while let Ok(Some(at)) = cursor {
            cursor = index.scan(at, &mut Vec::new());
        }
        here(cursor.unwrap_err());
        // A change that violates the contract ends the index.
        if index.find(hash_of_kind(0, 1), |_| Ok::<_, BlockError>(false)).is_err() {
            writer.insert(hash_of_kind(0, 1), place(1, 1));
            assert!(
                (2..9).all(|key| index.find(hash_of_kind(0, key), |_| Ok::<_, BlockError>(false)).is_err())
            );
        }
    }
    assert!(errors > 100, "{errors}");
}

#[test]
fn load_fails_if_the_checkpoint_file_is_cut_or_unreadable() {
    let (bytes, table) = sample();
    for len in (0..bytes.len()).step_by(1000) {
        let Ok((index, _)) = open(&file_of(bytes[..len].to_vec()), table, 0) else { continue };
        assert_eq!(offset_of(index.lines().load_all().unwrap_err()).1, Some(Defect::Truncated));
    }
    let file = file_of(bytes);
    let (index, _writer) = open(&file, table, 0).unwrap();
    file.fails.store(true, Ordering::Relaxed);
    assert_eq!(offset_of(index.lines().load_all().unwrap_err()).1, None);
    file.fails.store(false, Ordering::Relaxed);
    index.lines().load_all().unwrap();
    assert!(!index.is_partial());
}

#[test]
fn load_refuses_hostile_lines() {
    let (bytes, table) = sample();
    let mut random = fastrand::Rng::with_seed(3);
    let frames = (bytes.len() - FRONT_LEN) / FRAME_SIZE;
    let mut refused = 0;
    for _ in 0..400 {
        // Sets any word to a possible link, an entry or zero, with the right checksum.
        let (frame, word) = (random.usize(..frames), random.usize(..BLOCK_LEN / 8));
        let value = [0, random.u64(..table.lines[1] + 2), random.u64(..), 1 << 41][random.usize(..4)];
        let mut hostile = bytes.clone();
        let block = &mut hostile[FRONT_LEN + frame * FRAME_SIZE..][..FRAME_SIZE];
        block[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
        let sum = frame_sum(NONCE, frame as u64, &block[..BLOCK_LEN]).to_le_bytes();
        block[BLOCK_LEN..].copy_from_slice(&sum);
        let Ok((index, mut writer)) = open(&file_of(hostile), table, 0) else { continue };
        // No contents make it hang or panic.
        for key in 0..2000 {
            let hash = hash_of_kind(0, key);
            if writer.find(hash, |location| Ok::<_, BlockError>(location == place(key, 0))).is_ok() {
                writer.remove(hash, place(key, 0));
            }
        }
        refused += usize::from(index.lines().load_all().is_err());
    }
    assert!(refused > 100, "{refused}");
    // The shape is right, but the count of entries is not.
    let (index, _writer) = open(&file_of(bytes), IndexTable { entries: 5, ..table }, 0).unwrap();
    assert!(index.lines().load_all().is_err() && index.is_partial());
    assert!(index.find(hash_of_kind(0, 1), |_| Ok::<_, BlockError>(false)).is_err());
}

#[test]
fn circular_chain_returns_an_error() {
    // Full lines form one chain over three blocks. One in the second links back to the first.
    let mut writer = filled(0, 1, 1000);
    let capture = writer.begin_checkpoint(0).unwrap();
    let table = capture.table();
    let mut bytes = frames(capture, 0).unwrap();
    let frame = table.blocks()[0] + 1;
    let block = &mut bytes[FRONT_LEN + usize::try_from(frame).unwrap() * FRAME_SIZE..][..FRAME_SIZE];
    block[30 * 64 + 56..][..8].copy_from_slice(&1u64.to_le_bytes());
    let sum = frame_sum(NONCE, frame, &block[..BLOCK_LEN]).to_le_bytes();
    block[BLOCK_LEN..].copy_from_slice(&sum);
    let (index, _writer) = open(&file_of(bytes), table, 0).unwrap();
    let found = index.find(hash_of_kind(1, 5000), |_| Ok::<_, BlockError>(false));
    assert_eq!(offset_of(found.unwrap_err()).1, Some(Defect::BadField("line of an index")));
}

#[test]
fn readers_and_writer_load_blocks_concurrently() {
    for seed in 0..10 {
        let mut churn = Churn::new(seed, 0, 30_000);
        let mut writer = filled(4, 0, 0);
        churn.change(&mut writer, 40_000);
        let (index, mut loaded) = reopened(&mut writer);
        // Even keys are never removed, so readers must find all of them.
        let range_pins: Vec<_> = churn.there.keys().copied().filter(|key| key % 2 == 0).collect();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for &key in &range_pins {
                        assert!(get(&index, hash_of_kind(0, key), key).is_some(), "key {key}");
                    }
                });
            }
            scope.spawn(|| index.lines().load_all().unwrap());
            for key in (1..30_000).step_by(2) {
                let hash = hash_of_kind(0, key);
                match loaded.find(hash, is_key(key)).unwrap() {
                    Some(old) => assert!(loaded.remove(hash, old)),
                    None => {
                        loaded.reserve().unwrap();
                        loaded.insert(hash, place(key, 9));
                    }
                }
            }
        });
        assert!(!index.is_partial());
        loaded.reserve().unwrap();
        loaded.insert(hash_of_kind(0, 1 << 20), place(1 << 20, 0));
        check_shape(&loaded);
    }
}
