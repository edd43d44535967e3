//! Models of the index under loom: every interleaving, and every possible value of a relaxed load,
//! of small histories.
//!
//! Lines have two entries here, so that three keys of one bucket already make a chain. The first
//! table has one bucket or two, and hashes are chosen so that splits and overflows are known.

use super::scan::Cursor;

use loom::thread;

use super::*;

/// Returns the location that stands for key and version: its low byte is the key's number plus one.
fn place(key: u64, version: u64) -> Location {
    Location::from_bits(version << 8 | (key + 1))
}

fn hash(bits: u64) -> Hash {
    Hash::from_bits(bits)
}

fn get(index: &Index, bits: u64, key: u64) -> Option<Location> {
    index.find(hash(bits), |location| Ok::<_, Never>(location.to_bits() & 0xff == key + 1)).unwrap_or(None)
}

/// Explores a history: `before` fills the index, `change` runs beside `read`.
fn explore(
    base_bits: u32,
    before: impl Fn(&mut IndexWriter) + Sync + Send + 'static,
    change: impl Fn(&mut IndexWriter) + Sync + Send + 'static,
    read: impl Fn(&Index) + Sync + Send + Clone + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = None;
    model.check(move || {
        let (index, mut writer) = Index::with_base_bits(base_bits, 0).expect("memory");
        before(&mut writer);
        let read = read.clone();
        let reader = thread::spawn(move || read(&index));
        change(&mut writer);
        reader.join().expect("the reader does not panic");
    });
}

fn put(writer: &mut IndexWriter, bits: u64, key: u64) {
    // Reserves without a split: a model asks for its splits.
    writer.reserve_lines(1);
    writer.insert(hash(bits), place(key, 0));
}

#[test]
fn loom_a_split_hides_neither_leavers_nor_stayers() {
    let before = |writer: &mut IndexWriter| {
        put(writer, 0b0, 0);
        put(writer, 0b1, 1);
    };
    for (bits, key) in [(0b0, 0), (0b1, 1)] {
        explore(
            0,
            before,
            |writer| writer.split_one(),
            move |index| {
                assert_eq!(get(index, bits, key), Some(place(key, 0)));
            },
        );
    }
}

#[test]
fn loom_a_split_that_frees_a_line_hides_nothing() {
    // A chain of two lines: leaver, stayer | stayer. The split moves the last into the first's slot
    // and frees the second line.
    let before = |writer: &mut IndexWriter| {
        put(writer, 0b01, 0);
        put(writer, 0b00, 1);
        put(writer, 0b10, 2);
    };
    for (bits, key) in [(0b01, 0), (0b10, 2)] {
        explore(
            0,
            before,
            |writer| writer.split_one(),
            move |index| {
                assert_eq!(get(index, bits, key), Some(place(key, 0)));
            },
        );
    }
}

#[test]
fn loom_a_split_that_shortens_a_chain_hides_nothing() {
    // leaver, stayer | stayer, leaver | stayer: the last moves to the front, and the head's link
    // stays as it is.
    let before = |writer: &mut IndexWriter| {
        for (key, bits) in [(0, 0b001), (1, 0b000), (2, 0b010), (3, 0b011), (4, 0b100)] {
            put(writer, bits, key);
        }
    };
    explore(
        0,
        before,
        |writer| writer.split_one(),
        |index| {
            assert_eq!(get(index, 0b100, 4), Some(place(4, 0)));
        },
    );
}

#[test]
fn loom_reused_line_does_not_mislead_a_search() {
    // Bucket 0 overflows by key 2; its line is freed and given to bucket 1.
    let before = |writer: &mut IndexWriter| {
        for key in 0..3 {
            put(writer, key << 1, key);
        }
        for key in 3..5 {
            put(writer, key << 1 | 1, key);
        }
    };
    explore(
        1,
        before,
        |writer| {
            assert!(writer.remove(hash(0), place(0, 0)));
            put(writer, 5 << 1 | 1, 5);
        },
        |index| {
            assert_eq!(get(index, 2 << 1, 2), Some(place(2, 0)));
        },
    );
}

#[test]
fn loom_a_removal_hides_no_other_key() {
    // A chain of three lines, whose middle becomes the last.
    let before = |writer: &mut IndexWriter| (0..5).for_each(|key| put(writer, key, key));
    explore(
        0,
        before,
        |writer| assert!(writer.remove(hash(1), place(1, 0))),
        |index| {
            assert_eq!(get(index, 4, 4), Some(place(4, 0)));
        },
    );
}

#[test]
fn loom_a_replaced_key_is_found_old_or_new() {
    let before = |writer: &mut IndexWriter| put(writer, 0, 0);
    explore(
        0,
        before,
        |writer| {
            assert!(writer.replace(hash(0), place(0, 0), place(0, 1)));
            assert!(writer.replace(hash(0), place(0, 1), place(0, 2)));
        },
        |index| {
            let first = get(index, 0, 0).expect("the key is there throughout");
            let second = get(index, 0, 0).expect("the key is there throughout");
            assert!(first <= second, "a newer location was followed by an older one");
        },
    );
}

#[test]
fn loom_search_finds_only_published_records() {
    // The record is a word that is stored before its entry (I2).
    loom::model(|| {
        let (index, mut writer) = Index::with_base_bits(0, 0).expect("memory");
        let record = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&record);
        let reader = thread::spawn(move || {
            let check = |_| {
                assert_eq!(seen.load(Ordering::Relaxed), 1, "an entry was seen before its record");
                Ok::<_, Never>(true)
            };
            assert!(index.find(hash(0), check).is_ok());
        });
        record.store(1, Ordering::Relaxed);
        put(&mut writer, 0, 0);
        reader.join().expect("the reader does not panic");
    });
}

#[test]
fn loom_a_scan_step_takes_each_key_that_stays_once() {
    let before = |writer: &mut IndexWriter| {
        put(writer, 0b01, 0);
        put(writer, 0b00, 1);
        put(writer, 0b10, 2);
    };
    explore(
        0,
        before,
        |writer| writer.split_one(),
        |index| {
            let (mut out, mut cursor) = (Vec::new(), Some(Cursor::START));
            while let Some(at) = cursor {
                cursor = index.scan(at, &mut out).expect("it is whole");
            }
            out.sort_unstable();
            assert_eq!(out, [place(0, 0), place(1, 0), place(2, 0)]);
        },
    );
}

#[test]
fn loom_a_scan_step_does_not_take_a_key_in_two_places() {
    // Key 0 is removed from the first slot and inserted into the second.
    let before = |writer: &mut IndexWriter| (0..2).for_each(|key| put(writer, 0, key));
    explore(
        0,
        before,
        |writer| {
            assert!(writer.remove(hash(0), place(0, 0)));
            put(writer, 0, 2);
            assert!(writer.remove(hash(0), place(1, 0)));
            put(writer, 0, 0);
        },
        |index| {
            let mut out = Vec::new();
            assert_eq!(index.scan(Cursor::START, &mut out).expect("it is whole"), None);
            // Key 0 has one location throughout.
            assert!(out.iter().filter(|&&location| location == place(0, 0)).count() <= 1);
        },
    );
}

/// Two buckets of one entry each; and of two lines each, with leavers in both.
const SMALL: &[(u64, u64)] = &[(0, 0b0), (1, 0b1)];
const LONG: &[(u64, u64)] = &[(0, 0b01), (1, 0b11), (2, 0b00), (3, 0b10), (4, 0b100)];

fn two_buckets(writer: &mut IndexWriter, keys: &[(u64, u64)]) {
    keys.iter().for_each(|&(key, bits)| put(writer, bits, key));
    writer.split_one();
}

#[test]
fn loom_a_merge_hides_neither_what_moves_nor_what_stays() {
    for (keys, looked_for) in [(SMALL, [0, 1]), (LONG, [1, 4])] {
        for (key, bits) in looked_for.map(|at: usize| keys[at]) {
            explore(
                0,
                move |writer| two_buckets(writer, keys),
                |writer| writer.merge_one(),
                move |index| assert_eq!(get(index, bits, key), Some(place(key, 0))),
            );
        }
    }
}

#[test]
fn loom_a_bucket_that_goes_and_comes_again_hides_nothing() {
    explore(
        0,
        |writer| two_buckets(writer, SMALL),
        |writer| {
            writer.merge_one();
            writer.split_one();
        },
        |index| assert_eq!(get(index, 0b1, 1), Some(place(1, 0))),
    );
}

#[test]
fn loom_a_scan_takes_each_key_once_across_a_merge() {
    explore(
        0,
        |writer| two_buckets(writer, SMALL),
        |writer| writer.merge_one(),
        |index| {
            let (mut out, mut cursor) = (Vec::new(), Some(Cursor::START));
            while let Some(at) = cursor {
                cursor = index.scan(at, &mut out).expect("it is whole");
            }
            out.sort_unstable();
            assert_eq!(out, [place(0, 0), place(1, 0)]);
        },
    );
}

#[test]
fn loom_capture_holds_each_page_as_it_was() {
    // Two buckets, in pages of their own; both change, one of them twice, while the capture takes
    // them.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = None;
    model.check(|| {
        let (_, mut writer) = Index::with_base_bits(1, 0).expect("memory");
        put(&mut writer, 0, 0);
        put(&mut writer, 1, 1);
        let mut capture = writer.begin_checkpoint(2).expect("none is being taken");
        let checkpoint = thread::spawn(move || {
            [0, 1].map(|key| {
                let mut page = Default::default();
                capture.take(&mut page).expect("there is room for both");
                let [[entry, _, control]] = page;
                assert_eq!((entry & ((1 << 40) - 1), control), (place(key, 0).to_bits(), 0));
            })
        });
        assert!(writer.replace(hash(1), place(1, 0), place(1, 1)));
        assert!(writer.replace(hash(0), place(0, 0), place(0, 1)));
        assert!(writer.remove(hash(0), place(0, 1)));
        checkpoint.join().expect("the checkpoint does not panic");
    });
}

#[test]
fn loom_capture_returns_right_pages_or_abandoned() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = None;
    model.check(|| {
        let (_, mut writer) = Index::with_base_bits(1, 0).expect("memory");
        put(&mut writer, 0, 0);
        put(&mut writer, 1, 1);
        let mut capture = writer.begin_checkpoint(0).expect("none is being taken");
        let checkpoint = thread::spawn(move || {
            for key in 0..2 {
                let mut page = Default::default();
                if capture.take(&mut page).is_err() {
                    break;
                }
                let [[entry, _, _]] = page;
                assert_eq!(entry & ((1 << 40) - 1), place(key, 0).to_bits());
            }
        });
        assert!(writer.replace(hash(1), place(1, 0), place(1, 1)));
        checkpoint.join().expect("the checkpoint does not panic");
    });
}
