//! Power cuts: a feed continues from its position, or says that the log lost its end.

use mapcask::sim::{SimDisk, Tears};
use mapcask::{Durability, Error, FeedPosition, Options, Seq};

use crate::consumer::Consumer;
use crate::contents::Contents;
use crate::oracle::{Event, Shown, Writer};
use crate::{cases, feed, options, read};

struct Random(fastrand::Rng);

impl mapcask::sim::Chooser for Random {
    fn choose(&mut self, count: usize) -> usize {
        self.0.usize(0..count)
    }
}

/// Compares the feed of a store that lost its end with the history before. `last` is the last change
/// that the store has.
fn check(disk: &SimDisk, writer: &Writer, position: FeedPosition, last: u64) -> Result<(), Error> {
    let mut changes = feed(disk, position);
    let found = match read(&mut changes) {
        Err(Error::Rewound { last: told, read: position_read, .. }) => {
            assert_eq!(position_read, position.seq().0);
            assert!(last < position_read, "{last} is there, and {position_read} was taken back?");
            assert!(told >= last && told < position_read, "{told}, {last}");
            // Once, and then the rest.
            assert_eq!(read(&mut changes)?, []);
            return Err(Error::Rewound { last: told, read: position_read });
        }
        found => found?,
    };
    assert!(position.seq().0 <= last, "{last} is the last one, and {} was read", position.seq());
    let expected: Vec<Event> = writer.after(position.seq().0);
    let kept = expected.iter().filter(|event| event.seq <= last).map(Event::nameless);
    assert_eq!(found.iter().map(Event::nameless).collect::<Vec<_>>(), kept.collect::<Vec<_>>());
    Ok(())
}

/// Runs a history, cuts the power, and looks before and after the next open. Returns true if the feed
/// was rewound.
fn run(seed: u64) -> bool {
    let _shown = Shown(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::with_seed(seed);
    let mut writer = Writer::open(&disk, options().compaction(false));
    writer.compacts = false;
    let mut positions = vec![feed(&disk, Seq(0)).position()];
    let mut consumer = feed(&disk, Seq(0));
    for _ in 0..rng.usize(5..60) {
        let (step, _) = writer.draw(&mut rng);
        writer.act(&step);
        read(&mut consumer).unwrap();
        positions.push(consumer.position());
    }
    let durable = writer.store().durable_seq().0;
    let after = disk.crash_at(disk.position(), Tears::Words(3), &mut Random(rng.fork()));
    let reopened = Options::new().background(false).segment_bytes(4096).open_on(&after);
    let store = reopened.unwrap();
    // The store has the changes up to some number, and everything durable.
    let found = read(&mut feed(&after, Seq(0))).unwrap();
    assert_eq!(found.iter().map(Event::nameless).collect::<Vec<_>>(), {
        let kept = writer.events.iter().take(found.len());
        kept.map(Event::nameless).collect::<Vec<_>>()
    });
    let kept = &writer.events[..found.len()];
    let mut contents = Contents::from([(String::new(), Default::default())]);
    kept.iter().for_each(|event| event.apply(&mut contents));
    assert_eq!(contents, held(&store));
    assert!(writer.events.get(kept.len()).is_none_or(|event| event.seq > durable));
    let last = kept.last().map_or(0, |event| event.seq);
    let mut rewound = false;
    for position in positions {
        rewound |= check(&after, &writer, position, last).is_err();
        let lost = matches!(read(&mut feed(&after, position).durable()), Err(Error::Rewound { .. }));
        assert!(!lost || position.seq().0 > durable);
    }
    rewound
}

/// Returns what a store holds.
fn held(store: &mapcask::Store) -> Contents {
    let map = |reader: &mapcask::Reader| {
        reader.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    };
    let named = store.keyspace_names().into_iter();
    let mut all: Contents =
        named.map(|name| (name.clone(), map(&store.open_keyspace(&name).unwrap()))).collect();
    all.insert(String::new(), map(store));
    all
}

#[test]
fn feed_after_a_power_cut_is_whole_or_rewound() {
    let mut rewound = 0;
    for seed in 0..cases(150) {
        rewound += u64::from(run(seed));
    }
    assert!(rewound > 10, "{rewound}");
}

#[test]
fn rewound_feed_tells_the_numbers_that_were_never_kept() {
    let disk = SimDisk::new();
    let store = crate::open(&disk);
    let first = store.with_durability(Durability::Disk).insert("a", "1").unwrap();
    let mut changes = feed(&disk, Seq(0));
    store.insert("b", "2").unwrap();
    let lost = store.insert("c", "3").unwrap();
    read(&mut changes).unwrap();
    let position = changes.position();
    // The worst of all states: nothing that was not synced is there.
    let after = disk.crash_at(disk.position(), Tears::None, &mut mapcask::sim::Exhaustive::new());
    for round in 0..3 {
        let rewound = feed(&after, position).next().unwrap_err();
        let expected = (first.0, lost.0);
        assert!(
            matches!(rewound, Error::Rewound { last, read, .. } if last >= expected.0 && read == expected.1),
            "round {round}: {rewound}"
        );
        let mut consumer = Consumer::of(Options::new().changes_on(&after, mapcask::Since::State).unwrap());
        consumer.poll(&after).unwrap();
        assert_eq!(consumer.copy()[""].len(), usize::try_from(1 + round).unwrap());
        // Before an open, after one, and after the segments of before are gone.
        let store = crate::open(&after);
        store.insert(format!("d{round}"), vec![7; 3000]).unwrap();
        if round == 1 {
            store.compact().unwrap();
        }
    }
}
