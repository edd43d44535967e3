//! The borders of segments: kills, notes, positions, and what feeds keep.

use mapcask::sim::SimDisk;
use mapcask::{Error, FeedPosition, Options, Seq, Since, Store};

use crate::oracle::{Event, Kind};
use crate::{feed, kill, open, options, read};

pub(crate) fn keys(events: &[Event]) -> Vec<u8> {
    let key = |event: &Event| match &event.kind {
        Kind::Insert(key, _) | Kind::State(key, _) => key.first().copied(),
        _ => None,
    };
    events.iter().filter_map(key).collect()
}

/// Appends a key, in a segment of its own with the one before.
pub(crate) fn put(store: &Store, key: u8) -> Seq {
    store.insert([key], [key; 1500]).unwrap()
}

#[test]
fn position_at_the_end_of_a_removed_segment_stays_whole() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::Now).unwrap();
    put(&store, 1);
    put(&store, 2);
    store.flush().unwrap();
    assert_eq!(keys(&read(&mut changes).unwrap()), [1, 2]);
    let position = changes.position();
    // The number behind the position is not the next one: the process dies.
    kill(&disk, store);
    let store = open(&disk);
    put(&store, 1);
    put(&store, 2);
    put(&store, 3);
    store.flush().unwrap();
    while store.step().unwrap() {}
    store.compact_segments(&[1], |_| true).unwrap();
    assert!(!disk.files().contains(&"0000000001.seg".to_owned()), "{:?}", disk.files());
    assert_eq!(keys(&read(&mut feed(&disk, position)).unwrap()), [1, 2, 3]);
    let before = Seq(position.seq().0 - 1);
    let lagged = read(&mut feed(&disk, before));
    assert!(matches!(lagged, Err(Error::Lagged { from, .. }) if from == position.seq().0), "{lagged:?}");
}

#[test]
fn feed_goes_on_over_segments_without_a_change() {
    let disk = SimDisk::new();
    let mut store = open(&disk);
    let mut live = store.changes(Since::Now).unwrap();
    let mut position = live.position();
    for key in 0..6 {
        // Each of these processes leaves a segment with nothing but the log's own records.
        for _ in 0..2 {
            kill(&disk, store);
            store = open(&disk);
            assert_eq!(live.next().unwrap(), None);
            position = FeedPosition::from_bytes(&live.position().to_bytes()).unwrap();
        }
        let mut resumed = feed(&disk, position);
        put(&store, key);
        assert_eq!(keys(&read(&mut live).unwrap()), [key]);
        assert_eq!(keys(&read(&mut resumed).unwrap()), [key]);
        assert_eq!(keys(&read(&mut feed(&disk, position)).unwrap()), [key]);
    }
}

#[test]
fn position_tells_the_loss_until_it_was_returned() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let position = store.changes(Since::Now).unwrap().position();
    for _ in 0..8 {
        put(&store, 0);
    }
    store.compact().unwrap();
    let mut changes = feed(&disk, position);
    assert_eq!(changes.position(), position);
    let lagged = changes.next().unwrap_err();
    assert!(matches!(lagged, Error::Lagged { from: 1.., .. }), "{lagged}");
    assert!(changes.position().seq() > position.seq());
    assert_eq!(changes.next().unwrap(), None);
    assert_eq!(changes.position().seq(), store.last_seq());
}

#[test]
fn position_within_a_state_begins_it_anew() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, 1);
    put(&store, 2);
    let mut changes = store.changes(Since::State).unwrap();
    changes.next().unwrap();
    let within = changes.position();
    changes.next().unwrap();
    assert_eq!(changes.position(), within);
    assert_eq!(Event::of(&changes.next().unwrap().unwrap()).kind, Kind::StateEnd);
    let behind = changes.position();
    let mut first = keys(&read(&mut feed(&disk, within)).unwrap());
    first.sort_unstable();
    assert_eq!(first, [1, 2]);
    assert_eq!(read(&mut feed(&disk, behind)).unwrap(), []);
}

#[test]
fn position_of_another_store_is_refused() {
    let (one, other) = (SimDisk::with_seed(1), SimDisk::with_seed(2));
    let position = open(&one).changes(Since::Now).unwrap().position();
    open(&other);
    let refused = Options::new().changes_on(&other, position).unwrap_err();
    assert!(matches!(refused, Error::Replaced { .. }), "{refused}");
}

#[test]
fn batch_is_returned_whole_from_a_number_within_it() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let before = put(&store, 0);
    let mut batch = mapcask::WriteBatch::new();
    for key in 1..4_u8 {
        batch.insert([key], "1");
    }
    let last = store.write(&batch).unwrap();
    for seq in before.0..last.0 {
        let mut changes = feed(&disk, Seq(seq));
        let found = read(&mut changes).unwrap();
        assert_eq!(keys(&found), [1, 2, 3], "from {seq}");
        assert_eq!(found.iter().map(|event| event.more).collect::<Vec<_>>(), [true, true, false]);
    }
    assert_eq!(read(&mut feed(&disk, last)).unwrap(), []);
    let mut changes = feed(&disk, before);
    changes.next().unwrap();
    assert_eq!(changes.position().seq(), before);
}

#[test]
fn durable_changes_come_once_they_are_durable() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::Oldest).unwrap().durable();
    let mut all = store.changes(Since::Oldest).unwrap();
    for key in 0..20 {
        put(&store, key);
        let durable = store.durable_seq();
        for event in read(&mut changes).unwrap() {
            assert!(event.seq <= durable.0);
        }
        assert_eq!(keys(&read(&mut all).unwrap()), [key]);
        assert!(changes.position().seq() < store.last_seq());
        if key % 5 == 4 {
            store.flush().unwrap();
            assert!(read(&mut changes).unwrap().last().is_some_and(|event| event.seq == store.last_seq().0));
        }
    }
    put(&store, 20);
    store.close().unwrap();
    assert_eq!(keys(&read(&mut changes).unwrap()), [20]);
}

/// Writes 400 values of a key, and compacts as a worker does.
fn overwrite(store: &Store) {
    for n in 0..400_u32 {
        store.insert("key", n.to_le_bytes().repeat(50)).unwrap();
        while store.step().unwrap() {}
    }
}

#[test]
fn kept_changes_stay_within_the_bound_of_space() {
    const KEEP: u64 = 30_000;
    let space_of = |keep| {
        let disk = SimDisk::new();
        let store = options().keep_changes(keep).open_on(&disk).unwrap();
        let mut from = Vec::new();
        for n in 0..400_u32 {
            from.push(store.insert("key", n.to_le_bytes().repeat(50)).unwrap());
            while store.step().unwrap() {}
        }
        let whole = from.iter().filter(|seq| read(&mut feed(&disk, **seq)).is_ok()).count();
        (store.stats().segment_bytes, whole, store)
    };
    let (without, few, _) = space_of(0);
    let (with, many, store) = space_of(KEEP);
    // A record takes 240 bytes, and the log has records of its own.
    assert!(many >= usize::try_from(KEEP / 300).unwrap() && many < 400 && few < many, "{few}, {many}");
    // A tenth of each file is no record. The oldest segment is kept whole.
    assert!(with > without && with <= without + KEEP * 11 / 10 + 2 * 4096, "{without}, {with}");
    assert!(store.stats().compaction.segments_removed > 0);
    // Asked for, the history ends.
    store.compact().unwrap();
    assert!(store.stats().segment_bytes < with - KEEP / 2);
}

/// Regression. Cause: only their bytes bounded the segments that are kept, and each process that is
/// killed leaves a small one. Symptom: a file and a mapping for each kill. Fix: a bound of their
/// number.
#[test]
fn kept_changes_of_killed_processes_stay_few_files() {
    const KILLS: u32 = 300;
    let disk = SimDisk::new();
    let mut from = Vec::new();
    for n in 0..KILLS {
        let store = options().segment_bytes(1 << 20).keep_changes(8 << 20).open_on(&disk).unwrap();
        from.push(store.insert("key", n.to_le_bytes()).unwrap());
        while store.step().unwrap() {}
        let segments = disk.files().iter().filter(|name| name.ends_with(".seg")).count();
        // Of 72 kept ones and at most 8 small ones. One more is written to, and one is ready.
        assert!(segments <= 72 + 8 + 2, "{segments} after {n} kills");
        kill(&disk, store);
    }
    let whole = from.iter().filter(|seq| read(&mut feed(&disk, **seq)).is_ok()).count();
    assert!((70..100).contains(&whole), "{whole}");
}

#[test]
fn kept_changes_give_way_to_a_limit_on_space() {
    let disk = SimDisk::new();
    let limited = options().keep_changes(1 << 20).max_disk_bytes(40_000);
    let store = limited.open_on(&disk).unwrap();
    overwrite(&store);
    assert_eq!(store.get("key").unwrap().as_deref(), Some(399_u32.to_le_bytes().repeat(50).as_slice()));
    assert!(store.stats().segment_bytes <= 40_000);
}
