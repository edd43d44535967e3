//! Crashes of stores with hints: power cuts, lost pages, and kills at every moment.

use mapcask::sim::{Chooser, Seeded, SimDisk, Tears};
use mapcask::{Error, Store};

use super::{disk, hint_files, killed, options, settle};

/// Returns how many of the keys 0, 1, 2... a store holds, and that it holds nothing else.
fn prefix(store: &Store) -> u32 {
    let count = u32::try_from(store.len()).expect("few keys");
    super::check(store, count);
    count
}

#[test]
fn power_cut_leaves_a_prefix_whatever_hints_survive() {
    let mut hinted = 0;
    for seed in 0..12 {
        let disk = disk();
        disk.set_hint_chunk(Some(2048));
        let store = options().segment_bytes(16 << 10).open_on(&disk).expect("a new store");
        let mut flushed = 0;
        for number in 0..400 {
            store.insert(super::key(number), [number.to_le_bytes(); 25].concat()).expect("there is room");
            if number % 16 == 0 {
                settle(&store);
            }
            if number % 100 == 50 {
                store.flush().expect("nothing fails here");
                flushed = number + 1;
            }
        }
        let mut chooser = Seeded::new(seed);
        let mut cut = disk.crash_at(disk.position(), Tears::Any, &mut chooser);
        if seed % 2 == 0 {
            cut.set_boot_id(Some([3; 16]));
        }
        let mut before = None;
        for _ in 0..3 {
            let store = options().segment_bytes(16 << 10).open_on(&cut).expect("it opens");
            hinted += store.recovery_report().hinted_bytes;
            let count = prefix(&store);
            assert!(count >= flushed && before.is_none_or(|before| before == count), "{count} {flushed}");
            before = Some(count);
            cut = cut.kill();
        }
    }
    assert!(hinted > 0, "hints of durable records are used after a power cut");
}

#[test]
fn kill_at_every_moment_keeps_all_acknowledged_writes() {
    let disk = disk();
    disk.set_hint_chunk(Some(1024));
    let store = options().segment_bytes(8 << 10).open_on(&disk).expect("a new store");
    let mut marks = vec![(disk.position(), 0)];
    for number in 0..150 {
        store.insert(super::key(number), [number.to_le_bytes(); 25].concat()).expect("there is room");
        marks.push((disk.position(), number + 1));
        if number % 4 == 0 {
            settle(&store);
        }
    }
    let mut hinted = 0;
    for at in disk.positions().into_iter().step_by(5) {
        let least = marks.iter().rfind(|(mark, _)| *mark <= at).map_or(0, |(_, count)| *count);
        let Ok(store) = options().open_on(&disk.crash_point(at, Tears::None).kill()) else { continue };
        assert!(prefix(&store) >= least);
        hinted += store.recovery_report().hinted_bytes;
    }
    assert!(hinted > 0);
}

/// Loses a few pages, and keeps the others.
struct FewLost(fastrand::Rng);

impl Chooser for FewLost {
    fn choose(&mut self, count: usize) -> usize {
        if self.0.u32(..12) == 0 { 0 } else { count - 1 }
    }
}

/// The number of keys in [`overwritten`], and of the rounds in which each is written.
const KEYS: u32 = 300;
const ROUNDS: u32 = 3;

/// Returns the machine after the kill of a process that wrote each key several times.
fn overwritten() -> SimDisk {
    let disk = disk();
    let store = options().open_on(&disk).expect("a new store");
    for round in 0..ROUNDS {
        for number in 0..KEYS {
            store.insert(super::key(number), [round.to_le_bytes(); 25].concat()).expect("there is room");
        }
        settle(&store);
    }
    disk.kill()
}

/// Checks that the values that can be read are those of one moment. Returns the number of others.
fn refusals(store: &Store) -> u32 {
    // The numbers of writes at which the log may have been cut.
    let (mut least, mut most, mut refused) = (0, u32::MAX, 0);
    for number in (0..KEYS).rev() {
        match store.get(super::key(number)) {
            Ok(Some(value)) => {
                let round = u32::from(value[0]);
                assert_eq!(*value, [round.to_le_bytes(); 25].concat());
                least = least.max(round * KEYS + number + 1);
                most = most.min(if round + 1 < ROUNDS { (round + 1) * KEYS + number } else { u32::MAX });
            }
            Ok(None) => most = most.min(number),
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                refused += 1;
            }
        }
    }
    assert!(least <= most, "the contents are of one moment: {least} {most}");
    refused
}

#[test]
fn failed_write_back_in_one_mount_ends_the_trust() {
    for seed in 0..10 {
        let killed = overwritten();
        for name in killed.files().into_iter().filter(|name| name.ends_with(".seg")) {
            killed.fail_writeback(&name).expect("it is there");
            let mut lost = FewLost(fastrand::Rng::with_seed(seed));
            killed.evict(&name, Tears::None, &mut lost).expect("it is there");
        }
        let store = options().open_on(&killed).expect("it opens");
        assert_eq!(store.recovery_report().hinted_bytes, 0);
        assert_eq!(refusals(&store), 0);
    }
}

/// Cause: pages are lost in the same mount, and the error was told to another program. Symptom: an old
/// value, or none. Fix: a record is verified before it is returned, and before it hides another one.
#[test]
fn pages_lost_without_a_report_give_no_wrong_answer() {
    let (mut refused, mut poisoned) = (0, 0);
    for seed in 0..20 {
        let killed = overwritten();
        let mut rng = fastrand::Rng::with_seed(seed);
        for name in killed.files().into_iter().filter(|name| name.ends_with(".seg")) {
            let mut bytes = killed.read_file(&name).expect("it is there");
            for page in bytes.chunks_mut(4096).skip(1) {
                if rng.u32(..12) == 0 {
                    page.fill(0);
                }
            }
            killed.put_file(&name, &bytes);
        }
        let Ok(store) = options().open_on(&killed) else { continue };
        refused += refusals(&store);
        if store.flush().is_ok() {
            continue;
        }
        poisoned += 1;
        // The next open reads the log, and cuts it.
        let again = killed.kill();
        drop(store);
        let store = options().open_on(&again).expect("nothing durable is missing");
        assert_eq!(store.recovery_report().hinted_bytes, 0);
        assert_eq!(refusals(&store), 0);
        store.flush().expect("nothing fails here");
    }
    assert!(refused > 0 && poisoned > 0, "{refused} {poisoned}");
}

#[test]
fn poisoned_store_leaves_no_trust() {
    let killed = killed(&disk(), 1500);
    let store = options().open_on(&killed).expect("it opens");
    assert!(store.recovery_report().hinted_bytes > 0);
    killed.fail_nth(Some(mapcask::sim::Operation::Sync), 1, mapcask::sim::Fault::Io, true);
    assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
    killed.clear_faults();
    let again = killed.kill();
    drop(store);
    let store = options().open_on(&again).expect("it opens");
    assert_eq!(store.recovery_report().hinted_bytes, 0);
    super::check(&store, 1500);
}

#[test]
fn copied_files_are_not_trusted() {
    let killed = killed(&disk(), 1500);
    let copy = SimDisk::new();
    copy.set_boot_id(killed_boot(&killed));
    copy.set_hint_chunk(Some(super::CHUNK));
    copy.put_file("unrelated.tmp", b"takes the first inode");
    for name in killed.files() {
        copy.put_file(&name, &killed.read_file(&name).expect("it is there"));
    }
    let store = options().open_on(&copy).expect("it opens");
    assert_eq!(store.recovery_report().hinted_bytes, 0);
    super::check(&store, 1500);
    assert_eq!(hint_files(&copy), Vec::<String>::new());
}

/// Returns the boot id that the control page tells.
fn killed_boot(disk: &SimDisk) -> Option<[u8; 16]> {
    let page = disk.read_file("CONTROL").expect("it is there");
    page[32..48].try_into().ok()
}
