//! Tests of the indexes whose parts wait for records.

use super::options::Options;
use crate::fs::sim::SimDisk;

fn options() -> Options {
    Options::new().segment_bytes(64 << 10).background(false)
}

/// Cause: the parts of removed contents counted as complete, though they never got their records. A reader that
/// had begun before found the records of the checkpoint.
#[test]
fn reader_of_removed_contents_finds_no_record_of_the_checkpoint() {
    let key = |number: u32| number.to_le_bytes();
    for is_dropped in [false, true] {
        let disk = SimDisk::new();
        disk.set_hint_chunk(Some(2048));
        let store = options().open_on(&disk).expect("a new store");
        let keyspace = store.keyspace("removed").expect("space");
        let fill = |round: u32| {
            for number in 0..200 {
                keyspace.insert(key(number), [key(round); 10].concat()).expect("space");
            }
        };
        fill(0);
        assert!(store.take_checkpoint().expect("space"));
        fill(1);
        while store.step().expect("space") {}
        let store = options().open_on(&disk.kill()).expect("whole");
        assert!(store.recovery_report().hinted_bytes > 0);
        let keyspace = store.keyspace("removed").expect("it exists");
        let (state, contents) = (keyspace.state(), keyspace.inner());
        let pin = state.pin();
        let before = state.contents(contents, &pin).expect("it exists");
        if is_dropped {
            assert!(store.drop_keyspace("removed").expect("space"));
        } else {
            keyspace.clear().expect("space");
        }
        state.complete_all().expect("nothing fails here");
        for number in 0..200 {
            let found = state.lookup(before, state.search_key(&key(number)), &pin);
            assert!(found.is_err_and(|error| state.rebuild_if_damaged(&error).expect("nothing to do")));
        }
        assert_eq!(state.loader.rebuilds(), 0);
    }
}
