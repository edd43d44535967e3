//! Tests that a follower of a store without a writer shows the same as a read-only open, which
//! judges as every open does.

use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Follower, Options, Result, Store};

use super::contents::{Contents, try_held, try_shown};
use super::states::{fill, live, options, read_only};

/// The contents of a store, and the counters that describe them.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    contents: Contents,
    keyspaces: usize,
    keys: u64,
    live_bytes: u64,
    last_seq: u64,
    size_on_disk: u64,
}

fn shown(contents: Contents, stats: &mapcask::Stats, size_on_disk: u64) -> Shown {
    let &mapcask::Stats { keyspaces, keys, live_bytes, last_seq, .. } = stats;
    Shown { contents, keyspaces, keys, live_bytes, last_seq, size_on_disk }
}

/// Opens a disk read-only, reads and verifies everything. Returns the durable number, too.
fn looked(disk: &SimDisk) -> Result<(Shown, u64)> {
    let store: Store = read_only().open_on(disk)?;
    let contents = try_held(&store)?;
    store.verify()?;
    Ok((shown(contents, &store.stats(), store.size_on_disk()?), store.durable_seq().0))
}

/// Follows a disk, reads and verifies everything. Returns the durable number, too.
fn followed(disk: &SimDisk) -> Result<(Shown, u64)> {
    let follower: Follower = Options::new().follow_on(disk)?;
    let contents = try_shown(&follower)?;
    follower.verify()?;
    Ok((shown(contents, &follower.stats(), follower.size_on_disk()?), follower.durable_seq()?.0))
}

/// Checks that both show the same, or refuse the store for the same kind of reason. Returns true if
/// they refuse it.
fn is_refused(disk: &SimDisk, state: &str) -> bool {
    let position = disk.position();
    let (looked, followed) = (looked(disk), followed(disk));
    assert!(disk.position() == position, "{state}: something happened on the disk");
    assert_eq!(disk.open_files(), 0, "{state}");
    match (looked, followed) {
        (Ok((one, one_durable)), Ok((other, other_durable))) => {
            // The counters first, because they are short.
            let counters = |shown: &Shown| {
                (shown.keyspaces, shown.keys, shown.live_bytes, shown.last_seq, shown.size_on_disk)
            };
            assert_eq!(counters(&one), counters(&other), "{state}");
            assert!(one.contents == other.contents, "{state}");
            assert!(other_durable <= one_durable, "{state}: {other_durable} is known of {one_durable}");
            false
        }
        (Err(one), Err(other)) => {
            let is_same = std::mem::discriminant(&one) == std::mem::discriminant(&other);
            assert!(is_same || one.is_corruption() && other.is_corruption(), "{state}: {one}, and {other}");
            true
        }
        (one, other) => panic!("{state}: {:?}, and {:?}", one.map(drop), other.map(drop)),
    }
}

#[test]
fn follower_shows_what_a_read_only_open_shows_after_any_kill() {
    let share = std::env::var("MAPCASK_LOOKS").map_or(41, |share| share.parse().unwrap());
    for durability in [Durability::Os, Durability::Disk] {
        let disk = SimDisk::new();
        live(&disk, durability);
        let mut refused = 0;
        let positions = disk.positions();
        for (at, position) in positions.iter().enumerate().step_by(share) {
            let left = disk.crash_point(*position, Tears::Any).kill();
            refused += u32::from(is_refused(&left, &format!("{durability:?}, moment {at}")));
        }
        // At the first moments there is no store.
        assert!(refused > 0 && refused < 5, "{refused}");
    }
}

#[test]
fn follower_refuses_the_damage_that_a_read_only_open_refuses() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    fill(&store, 20, 900);
    store.keyspace("other").unwrap().insert("a", "1").unwrap();
    store.close().unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for name in disk.files().into_iter().filter(|name| name != "LOCK") {
        for at in (0..disk.read_file(&name).unwrap().len()).step_by(149) {
            let left = disk.kill();
            let mut bytes = left.read_file(&name).unwrap();
            bytes[at] ^= 1;
            left.put_file(&name, &bytes);
            match is_refused(&left, &format!("{name}, byte {at}")) {
                true => refused += 1,
                false => harmless += 1,
            }
        }
        let left = disk.kill();
        left.remove_file(&name).unwrap();
        is_refused(&left, &format!("{name} removed"));
    }
    assert!(refused > 30 && harmless > 30, "{refused} refused, {harmless} harmless");
}

#[test]
fn follower_refuses_a_store_being_destroyed() {
    let disk = SimDisk::new();
    live(&disk, Durability::Os);
    let before = disk.positions().len();
    mapcask::destroy_on(&disk).unwrap();
    let mut destroying = 0;
    for position in disk.positions().into_iter().skip(before) {
        let left = disk.crash_point(position, Tears::None).kill();
        is_refused(&left, &format!("{position:?}"));
        let followed = Options::new().follow_on(&left);
        destroying += u32::from(matches!(followed, Err(Error::Destroying { .. })));
    }
    assert!(destroying > 3, "{destroying}");
}

#[test]
fn follower_shows_what_a_read_only_open_shows_after_a_power_cut() {
    let disk = SimDisk::new();
    live(&disk, Durability::Os);
    for (at, position) in disk.positions().iter().enumerate().step_by(3) {
        for seed in 1..4 {
            let left = disk.crash_point(*position, Tears::Any).cut_power(&mut Seeded::new(seed));
            is_refused(&left, &format!("moment {at}, cut {seed}"));
        }
    }
}

#[test]
fn follower_does_not_begin_behind_a_damaged_segment() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    fill(&store, 20, 900);
    store.flush().unwrap();
    disk.rot_bit("0000000001.seg", 140, 0).unwrap();
    let followed = Options::new().follow_on(&disk);
    assert!(matches!(&followed, Err(error) if error.is_corruption()), "{:?}", followed.map(|f| f.len()));
}

#[test]
fn follower_refuses_damage_in_front_of_durable_records() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    fill(&store, 20, 900);
    store.flush().unwrap();
    fill(&store, 25, 700);
    let base = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(3));
    for name in base.files().into_iter().filter(|name| name.ends_with(".seg")) {
        for at in (0..base.read_file(&name).unwrap().len()).step_by(61) {
            let left = base.kill();
            let mut bytes = left.read_file(&name).unwrap();
            bytes[at] ^= 1;
            left.put_file(&name, &bytes);
            is_refused(&left, &format!("{name}, byte {at}"));
        }
    }
}
