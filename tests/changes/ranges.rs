//! Ranges of the log that are whole, and those that are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mapcask::{ChangeKind, Error, Options, Seq, Since};

use crate::oracle::{Event, Kind, Shown, Writer};
use crate::{cases, feed, open, options, read};
use mapcask::sim::SimDisk;

/// Runs a history of random steps.
fn history(seed: u64, options: Options, compacts: bool, steps: usize) -> Writer {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut writer = Writer::open(&SimDisk::with_seed(seed), options);
    writer.compacts = compacts;
    for _ in 0..steps {
        let (step, _) = writer.draw(&mut rng);
        writer.act(&step);
    }
    writer
}

fn nameless(events: &[Event]) -> Vec<Event> {
    events.iter().map(Event::nameless).collect()
}

#[test]
fn feed_returns_the_history_from_every_number() {
    for seed in 0..cases(12) {
        let _shown = Shown(seed);
        let checkpoints = if seed % 2 == 0 { 512 } else { 0 };
        let options = options().compaction(false).checkpoint_bytes(checkpoints);
        let writer = history(seed, options, false, 120);
        let last = writer.store().last_seq().0;
        let mut whole = feed(&writer.disk, Since::Oldest);
        assert_eq!(read(&mut whole).unwrap(), writer.events);
        assert_eq!(whole.position().seq().0, writer.events.last().map_or(0, |event| event.seq));
        let borders = writer.borders();
        for seq in 0..=last {
            let expected = writer.after(seq);
            // A number that no write got is one of the log's own, which may have been dropped.
            let is_of_write = borders.contains(&seq) || writer.events.iter().any(|event| event.seq == seq);
            match read(&mut feed(&writer.disk, Seq(seq))) {
                Ok(found) => assert_eq!(nameless(&found), nameless(&expected), "from {seq}"),
                Err(Error::Rewound { read, .. }) if !is_of_write => assert_eq!(read, seq),
                Err(error) => panic!("from {seq}: {error}"),
            }
        }
        let mut beside = writer.store().changes(Seq(last / 2)).unwrap();
        if let Ok(found) = read(&mut beside) {
            assert_eq!(nameless(&found), nameless(&writer.after(last / 2)));
        }
    }
}

#[test]
fn feed_of_one_keyspace_returns_its_changes_alone() {
    for seed in 0..cases(12) {
        let _shown = Shown(seed);
        let writer = history(seed, options().compaction(false), false, 120);
        for name in ["", "one"] {
            let mut changes = feed(&writer.disk, Since::Oldest).only([name]);
            let found = read(&mut changes).unwrap();
            let is_of = |event: &&Event| {
                event.keyspace.as_deref() == Some(name) || event.kind == Kind::Renamed(name.to_owned())
            };
            let expected: Vec<_> = writer.events.iter().filter(is_of).cloned().collect();
            let bare = |events: &[Event]| -> Vec<_> {
                events.iter().map(|event| Event { more: false, ..event.clone() }).collect()
            };
            assert_eq!(bare(&found), bare(&expected));
            // The last change of each batch that is returned ends it.
            for (event, next) in found.iter().zip(found.iter().skip(1)) {
                let border = writer.borders().into_iter().filter(|border| *border < next.seq).max();
                assert_eq!(event.more, border.is_some_and(|border| border < event.seq), "{event:?}");
            }
            assert!(found.last().is_none_or(|event| !event.more));
            assert_eq!(changes.position().seq().0, writer.events.last().map_or(0, |event| event.seq));
        }
    }
}

/// Returns the part of the log that is missing from a number on.
fn lag(writer: &Writer, seq: u64) -> Option<(u64, u64)> {
    let mut changes = feed(&writer.disk, Seq(seq));
    let expected = writer.after(seq);
    match read(&mut changes) {
        Ok(found) => {
            assert_eq!(nameless(&found), nameless(&expected), "from {seq}");
            None
        }
        Err(Error::Lagged { from, to, .. }) => {
            assert_eq!(from, seq + 1);
            // Once, and then the rest.
            let expected = writer.after(to);
            assert_eq!(nameless(&read(&mut changes).unwrap()), nameless(&expected), "behind {to}");
            Some((from, to))
        }
        Err(error) => panic!("from {seq}: {error}"),
    }
}

#[test]
fn feed_lags_exactly_where_the_log_is_not_whole() {
    let (mut whole, mut lagged) = (0, 0);
    for seed in 0..cases(40) {
        let _shown = Shown(seed);
        let writer = history(seed, options(), true, 100);
        let oldest = feed(&writer.disk, Since::Oldest).position().seq().0;
        for seq in writer.borders() {
            match lag(&writer, seq) {
                None => {
                    whole += 1;
                    assert!(seq >= oldest || writer.after(seq) == writer.after(oldest), "from {seq}");
                }
                Some((_, to)) => {
                    lagged += 1;
                    assert!(seq < oldest && to == oldest, "from {seq} to {to}, oldest {oldest}");
                }
            }
        }
    }
    assert!(whole > 100 && lagged > 100, "{whole} whole, {lagged} lagged");
}

#[test]
fn state_comes_first_and_then_each_later_change() {
    for seed in 0..cases(20) {
        let _shown = Shown(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut writer = history(seed, options(), true, 80);
        let (before, from) = (writer.contents.clone(), writer.events.len());
        let mut feeds = [
            feed(&writer.disk, Since::State),
            writer.store().changes(Since::State).unwrap(),
            Options::new().follow_on(&writer.disk).unwrap().changes(Since::State).unwrap(),
        ];
        for _ in 0..20 {
            let (step, _) = writer.draw(&mut rng);
            writer.act(&step);
        }
        for changes in &mut feeds {
            let found = read(changes);
            let found = match found {
                // The rest may have been compacted meanwhile.
                Err(Error::Lagged { .. }) => continue,
                found => found.unwrap(),
            };
            let end = found.iter().position(|event| event.kind == Kind::StateEnd).unwrap();
            let mut state = [(String::new(), Default::default())].into();
            assert!(found[..end].iter().all(|event| event.more) && !found[end].more);
            found[..end].iter().for_each(|event| event.apply(&mut state));
            assert_eq!(state, before);
            assert_eq!(found[end + 1..], writer.events[from..]);
        }
    }
}

#[test]
fn keyspace_made_before_the_state_has_a_name_behind_it() {
    let disk = SimDisk::new();
    let store = Arc::new(open(&disk));
    // Between the place of the feed and the state: a follower attaches for that.
    let (made, writer) = (AtomicBool::new(false), Arc::clone(&store));
    disk.on_crash_point(move |point| {
        if point == "attach-opened" && !made.swap(true, Ordering::Relaxed) {
            writer.keyspace("late").unwrap();
        }
    });
    let mut changes = feed(&disk, Since::State);
    disk.forget_hook();
    let found = read(&mut changes).unwrap();
    assert!(found.iter().any(|event| event.kind == Kind::Created("late".to_owned())), "{found:?}");
    store.keyspace("late").unwrap().insert("a", "1").unwrap();
    assert_eq!(changes.next().unwrap().unwrap().keyspace.name, Some("late"));
}

#[test]
fn feed_beside_a_state_maps_the_log_before_it_is_removed() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for n in 0..3000_u32 {
        store.insert(n.to_le_bytes(), [7; 20]).unwrap();
    }
    let mut changes = store.changes(Since::State).unwrap();
    let mut last = Seq(0);
    let mut count = 0;
    let mut ended = false;
    while let Some(change) = changes.next().unwrap() {
        match change.kind {
            ChangeKind::State { .. } => count += 1,
            ChangeKind::StateEnd => ended = true,
            _ => {
                assert!(ended && change.seq > last);
                last = change.seq;
            }
        }
        if !ended && count % 500 == 1 {
            for n in 0..20_u32 {
                store.insert(n.to_le_bytes(), [8; 20]).unwrap();
            }
            store.compact().unwrap();
        }
    }
    assert_eq!((count, last), (3000, store.last_seq()));
}

#[test]
fn feed_goes_on_over_every_roll_and_close() {
    let disk = SimDisk::new();
    let mut writer = Writer::open(&disk, options());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut changes = writer.store().changes(Since::Now).unwrap();
    let mut found = Vec::new();
    for _ in 0..600 {
        let (step, _) = writer.draw(&mut rng);
        writer.act(&step);
        found.extend(read(&mut changes).unwrap());
        assert_eq!(found, writer.events);
    }
    assert!(writer.store().stats().compaction.segments_removed > 0);
}
