//! Tests of the simulated disk, through the traits that the engine uses.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::*;
use crate::fs::{Access, Claim, File, LockFailure};
use crate::mem::mapping::Mapping;

/// Makes a disk with one durable, mapped file of `pages` zero pages.
fn mapped(pages: usize) -> (SimDisk, Arc<dyn File>, Arc<Mapping>) {
    let disk = SimDisk::new();
    let dir = disk.dir();
    dir.create_dir().unwrap();
    let file = dir.create("file").unwrap();
    file.allocate((pages * PAGE_SIZE) as u64).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
    let mapping = file.map(pages * PAGE_SIZE).unwrap();
    (disk, file, mapping)
}

/// Stores a word as an engine thread would.
fn store(mapping: &Mapping, offset: usize, value: u64) {
    mapping.word(offset).store(value.to_le(), Ordering::Release);
    mapping.note_store(offset, 8);
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Returns the results of `look` in every state after a power cut now, and the number of states.
fn all_states<T: Ord>(disk: &SimDisk, tears: Tears, look: impl Fn(&SimDisk) -> T) -> (BTreeSet<T>, u64) {
    let point = disk.crash_point(disk.position(), tears);
    let (mut seen, mut all) = (BTreeSet::new(), Exhaustive::new());
    loop {
        seen.insert(look(&point.cut_power(&mut all)));
        if !all.advance() {
            return (seen, all.finished());
        }
    }
}

fn words_of_file(disk: &SimDisk, offsets: &[usize]) -> Vec<u64> {
    let bytes = disk.read_file("file").unwrap();
    offsets.iter().map(|&offset| word(&bytes, offset)).collect()
}

fn set<T: Ord + Clone>(items: &[T]) -> BTreeSet<T> {
    items.iter().cloned().collect()
}

#[test]
fn an_unsynced_page_is_lost_or_kept_or_as_it_was_earlier() {
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 64, 1);
    disk.dir().crash_point("between");
    store(&mapping, 64, 2);
    let (seen, count) = all_states(&disk, Tears::None, |after| words_of_file(after, &[64])[0]);
    assert_eq!((seen, count), (set(&[0, 1, 2]), 3));
}

#[test]
fn pages_reach_the_platter_independently() {
    let (disk, _file, mapping) = mapped(3);
    (0..3).for_each(|page| store(&mapping, page * PAGE_SIZE, 1));
    let (seen, count) =
        all_states(&disk, Tears::None, |after| words_of_file(after, &[0, PAGE_SIZE, 2 * PAGE_SIZE]));
    assert_eq!((seen.len(), count), (8, 8));
}

#[test]
fn an_unsynced_page_is_torn_by_sectors_or_words() {
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 0, 1);
    store(&mapping, 1024, 1);
    let look = |after: &SimDisk| words_of_file(after, &[0, 1024]);
    let all = set(&[vec![0, 0], vec![0, 1], vec![1, 0], vec![1, 1]]);
    assert_eq!(all_states(&disk, Tears::None, look).0, set(&[vec![0, 0], vec![1, 1]]));
    assert_eq!(all_states(&disk, Tears::Sectors(8), look), (all.clone(), 4));
    assert_eq!(all_states(&disk, Tears::Any, look).0, all);
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 0, 1);
    store(&mapping, 8, 1);
    let look = |after: &SimDisk| words_of_file(after, &[0, 8]);
    assert_eq!(all_states(&disk, Tears::Sectors(8), look).0.len(), 2);
    assert_eq!(all_states(&disk, Tears::Words(8), look), (all.clone(), 4));
    assert_eq!(all_states(&disk, Tears::Any, look).0, set(&[vec![0, 0], vec![1, 0], vec![1, 1]]));
}

#[test]
fn a_synced_page_is_always_there_and_its_neighbour_is_not() {
    let (disk, file, mapping) = mapped(2);
    store(&mapping, 8, 7);
    store(&mapping, PAGE_SIZE, 9);
    mapping.sync_range(8, 8).unwrap();
    let look = |after: &SimDisk| words_of_file(after, &[8, PAGE_SIZE]);
    assert_eq!(all_states(&disk, Tears::Words(4), look).0, set(&[vec![7, 0], vec![7, 9]]));
    file.sync().unwrap();
    assert_eq!(all_states(&disk, Tears::Words(4), look), (set(&[vec![7, 9]]), 1));
    assert!(disk.crash_point(disk.position(), Tears::Any).is_certain());
}

#[test]
fn a_crash_in_the_past_knows_nothing_of_what_came_later() {
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 0, 1);
    let before = disk.position();
    mapping.sync_range(0, PAGE_SIZE).unwrap();
    let acknowledged = disk.position();
    store(&mapping, 0, 2);
    disk.dir().crash_point("later");
    let lost = disk.crash_at(before, Tears::None, &mut Script::new([]));
    assert_eq!(words_of_file(&lost, &[0]), [0]);
    let kept = disk.crash_at(acknowledged, Tears::None, &mut Script::new([1, 1, 1]));
    assert_eq!(words_of_file(&kept, &[0]), [1]);
    assert_eq!(disk.points().len(), 1);
    assert_eq!(disk.positions().last(), Some(&disk.position()));
}

#[test]
fn an_unsynced_size_may_be_lost() {
    let disk = SimDisk::new();
    disk.put_file("other", b"");
    let file = disk.dir().create("file").unwrap();
    disk.dir().sync().unwrap();
    file.write_at(b"12345678", 0).unwrap();
    let look = |after: &SimDisk| after.read_file("file").unwrap();
    let (seen, _) = all_states(&disk, Tears::None, look);
    assert_eq!(seen, set(&[vec![], vec![0; 8], b"12345678".to_vec()]));
    file.sync().unwrap();
    assert_eq!(all_states(&disk, Tears::None, look), (set(&[b"12345678".to_vec()]), 1));
}

#[test]
fn unsynced_creation_may_be_lost_even_if_the_file_was_synced() {
    let disk = SimDisk::new();
    let dir = disk.dir();
    dir.create_dir().unwrap();
    let file = dir.create("file").unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(all_states(&disk, Tears::None, SimDisk::files).0, set(&[vec![], vec!["file".to_owned()]]));
    dir.sync().unwrap();
    assert_eq!(all_states(&disk, Tears::None, SimDisk::files).0, set(&[vec!["file".to_owned()]]));
}

#[test]
fn unsynced_renames_and_unlinks_may_revert() {
    let disk = SimDisk::new();
    disk.put_file("new", b"new");
    let dir = disk.dir();
    dir.rename("new", "old").unwrap();
    let look = |after: &SimDisk| (after.files(), after.read_file("old").unwrap_or_default());
    let before = (vec!["new".to_owned()], vec![]);
    let after = (vec!["old".to_owned()], b"new".to_vec());
    assert_eq!(all_states(&disk, Tears::None, look), (set(&[before, after.clone()]), 2));
    dir.sync().unwrap();
    dir.unlink("old").unwrap();
    let gone = (vec![], vec![]);
    assert_eq!(all_states(&disk, Tears::None, look), (set(&[after, gone]), 2));
}

#[test]
fn a_rename_replaces_nothing() {
    let disk = SimDisk::new();
    disk.put_file("one", b"1");
    disk.put_file("two", b"2");
    let error = disk.dir().rename("one", "two").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.read_file("two").unwrap(), b"2");
}

#[test]
fn power_cut_keeps_each_names_directory_changes_in_order() {
    let disk = SimDisk::new();
    disk.put_file("a", b"");
    let dir = disk.dir();
    dir.create("tmp").unwrap();
    dir.rename("tmp", "b").unwrap();
    dir.unlink("a").unwrap();
    let (seen, count) = all_states(&disk, Tears::None, |after| after.files().join(" "));
    let expected = ["a", "a tmp", "a b", "", "tmp", "b"].map(str::to_owned);
    assert_eq!((seen, count), (set(&expected), 6));
}

#[test]
fn failed_sync_leaves_pages_uncertain_until_rewritten() {
    let (disk, file, mapping) = mapped(2);
    store(&mapping, 0, 5);
    disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
    mapping.sync_range(0, PAGE_SIZE).unwrap_err();
    mapping.sync_range(0, PAGE_SIZE).unwrap();
    file.sync().unwrap();
    assert_eq!(word(&disk.read_file("file").unwrap(), 0), 5, "the cache shows the new bytes");
    let look = |after: &SimDisk| words_of_file(after, &[0])[0];
    assert_eq!(all_states(&disk, Tears::None, look).0, set(&[0, 5]));
    // The next process sees the bytes and syncs without an error, and they stay uncertain.
    let next = disk.kill();
    let file = next.dir().open("file", Access::Write).unwrap();
    file.sync().unwrap();
    assert_eq!(all_states(&next, Tears::None, look).0, set(&[0, 5]));
    // Writing equal bytes again dirties the page again.
    let mut bytes = [0; 8];
    file.read_at(&mut bytes, 0).unwrap();
    file.write_at(&bytes, 0).unwrap();
    file.sync().unwrap();
    assert_eq!(all_states(&next, Tears::None, look), (set(&[5]), 1));
}

#[test]
fn kill_keeps_unsynced_bytes_that_a_power_cut_may_lose() {
    let (disk, _file, mapping) = mapped(1);
    let lock = disk.dir().lock("LOCK", Claim::Write(b"1"), Duration::ZERO).unwrap();
    store(&mapping, 16, 3);
    let next = disk.kill();
    assert_eq!(words_of_file(&next, &[16]), [3]);
    assert_eq!(next.dir().boot_id(), disk.dir().boot_id());
    next.dir().lock("LOCK", Claim::Write(b"2"), Duration::ZERO).unwrap();
    store(&mapping, 16, 4);
    assert_eq!(words_of_file(&next, &[16]), [3], "the dead process's memory is not the next one's");
    let look = |after: &SimDisk| words_of_file(after, &[16])[0];
    assert_eq!(all_states(&next, Tears::None, look).0, set(&[0, 3]));
    drop(lock);
}

#[test]
fn crashes_nest_to_any_depth_under_one_exhaustive_chooser() {
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 0, 1);
    let point = disk.crash_point(disk.position(), Tears::None);
    let (mut all, mut seen) = (Exhaustive::new(), Vec::new());
    loop {
        let mut machine = point.cut_power(&mut all);
        let mut chain = vec![words_of_file(&machine, &[0])[0]];
        for depth in 2..4 {
            let mapping = machine.dir().open("file", Access::Write).unwrap().map(PAGE_SIZE).unwrap();
            store(&mapping, 0, depth);
            machine = machine.crash_at(machine.position(), Tears::None, &mut all);
            chain.push(words_of_file(&machine, &[0])[0]);
        }
        seen.push(chain);
        if !all.advance() {
            break;
        }
    }
    assert_eq!(seen.len(), 8);
    assert!(seen.contains(&vec![1, 1, 3]) && seen.contains(&vec![0, 0, 0]) && seen.contains(&vec![0, 2, 2]));
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 8);
}

#[test]
fn power_cut_changes_boot_id_and_random_and_frees_locks() {
    let disk = SimDisk::with_seed(3);
    disk.put_file("file", b"1");
    let random = |disk: &SimDisk| {
        let mut bytes = [0; 16];
        disk.dir().random(&mut bytes).unwrap();
        bytes
    };
    let _lock = disk.dir().lock("LOCK", Claim::Write(b"me"), Duration::ZERO).unwrap();
    assert!(
        matches!(disk.dir().lock("LOCK", Claim::Write(b"you"), Duration::ZERO), Err(LockFailure::Held(note)) if note == b"me")
    );
    let first = random(&disk);
    let states = [disk.crash_at(disk.position(), Tears::None, &mut Seeded::new(1)), disk.kill()];
    assert_ne!(states[0].dir().boot_id(), disk.dir().boot_id());
    for state in &states {
        state.dir().lock("LOCK", Claim::Write(b""), Duration::ZERO).unwrap();
        assert_ne!(random(state), first);
    }
    assert_eq!(random(&SimDisk::with_seed(3)), first);
}

#[test]
fn every_simulated_operation_can_be_made_to_fail() {
    let run = |disk: &SimDisk| -> io::Result<()> {
        let dir = disk.dir();
        dir.create_dir()?;
        dir.list()?;
        let file = dir.create("a")?;
        file.allocate(4096)?;
        file.write_at(b"a", 5)?;
        let mapping = file.map(4096)?;
        mapping.populate_write(0, 4096)?;
        mapping.sync_range(0, 4096)?;
        file.punch_hole(0, 4096)?;
        file.sync()?;
        file.read_at(&mut [0], 0)?;
        dir.rename("a", "b")?;
        dir.open("b", Access::Read)?;
        dir.unlink("b")?;
        dir.sync()?;
        dir.lock("LOCK", Claim::Write(b""), Duration::ZERO).map_err(|failure| match failure {
            LockFailure::Io(error) => error,
            LockFailure::Held(_) => unreachable!(),
        })?;
        Ok(())
    };
    let good = SimDisk::new();
    run(&good).unwrap();
    let total: u64 = good.operations().values().sum();
    assert_eq!(good.operations().len(), 16);
    for n in 1..=total {
        let disk = SimDisk::new();
        disk.fail_nth(None, n, Fault::Io, false);
        run(&disk).unwrap_err();
        assert_eq!(disk.faults_fired(), 1);
    }
    let disk = SimDisk::new();
    disk.fail_nth(None, total + 1, Fault::Io, false);
    run(&disk).unwrap();
    assert_eq!(disk.faults_fired(), 0);
}

#[test]
fn short_write_leaves_half_and_full_disk_refuses_new_blocks() {
    let disk = SimDisk::new();
    disk.put_file("file", &[]);
    let file = disk.dir().open("file", Access::Write).unwrap();
    disk.fail_nth(Some(Operation::Write), 1, Fault::Short, false);
    assert_eq!(file.write_at(b"12345678", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.read_file("file").unwrap(), b"1234");
    disk.set_capacity(Some(2 * 4096));
    file.allocate(2 * 4096).unwrap();
    assert_eq!(file.allocate(3 * 4096).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[1; 4096], 4096).unwrap();
    file.punch_hole(0, 4096).unwrap();
    assert_eq!(file.allocated().unwrap(), 4096);
}

#[test]
fn files_and_mappings_show_the_same_bytes_at_every_alignment() {
    let (disk, file, mapping) = mapped(2);
    let other = disk.dir().open("file", Access::Read).unwrap().map(2 * PAGE_SIZE).unwrap();
    assert!(!other.is_writable());
    let mut expected = vec![0; 2 * PAGE_SIZE];
    for (i, len) in [1, 7, 8, 9, 31].into_iter().cycle().take(60).enumerate() {
        let offset = PAGE_SIZE - 17 + i;
        let bytes = vec![u8::try_from(i + 1).unwrap(); len];
        file.write_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + len].copy_from_slice(&bytes);
        let mut seen = vec![0; 2 * PAGE_SIZE];
        other.copy_out(0, &mut seen);
        assert_eq!(seen, expected);
    }
    store(&mapping, 8, 77);
    let mut bytes = [0; 8];
    file.read_at(&mut bytes, 8).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 77);
    file.punch_hole(4, 4096).unwrap();
    expected[4..4100].fill(0);
    let mut seen = vec![0; 2 * PAGE_SIZE];
    mapping.copy_out(0, &mut seen);
    assert_eq!((&seen, disk.read_file("file").unwrap()), (&expected, expected.clone()));
}

#[test]
fn bytes_stored_through_a_mapping_outlive_it() {
    let (disk, file, mapping) = mapped(1);
    store(&mapping, 0, 11);
    drop(mapping);
    assert_eq!(words_of_file(&disk, &[0]), [11]);
    let mut bytes = [0; 8];
    file.map(4096).unwrap().copy_out(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), 11);
    assert_eq!(file.map(4097).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn direct_damage_by_a_test_is_durable() {
    let (disk, file, mapping) = mapped(2);
    store(&mapping, 0, 1);
    disk.rot_bit("file", 1, 3).unwrap();
    let look = |after: &SimDisk| words_of_file(after, &[0])[0];
    assert_eq!(all_states(&disk, Tears::None, look).0, set(&[0x800, 0x801]));
    assert_eq!(mapping.word(0).load(std::sync::atomic::Ordering::Acquire), 0x801);
    disk.truncate("file", 4).unwrap();
    assert_eq!(file.identity().unwrap().size, 4);
    // Linux does not notice it either.
    mapping.sync_range(PAGE_SIZE, PAGE_SIZE).unwrap();
    disk.put_file("file", b"new");
    assert_eq!(
        all_states(&disk, Tears::None, |after| after.read_file("file").unwrap()).0,
        set(&[b"new".to_vec()])
    );
    disk.remove_file("file").unwrap();
    assert_eq!(all_states(&disk, Tears::None, SimDisk::files).0, set(&[vec![]]));
    assert_eq!(file.identity().unwrap().links, 0);
    assert_eq!(disk.remove_file("file").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn sampled_states_follow_the_seed_and_are_enumerated_ones() {
    let (disk, _file, mapping) = mapped(2);
    for i in 0..3 {
        store(&mapping, i * 8, 1);
        store(&mapping, PAGE_SIZE + 512 * i, 1);
        disk.dir().crash_point("step");
    }
    let look = |after: &SimDisk| after.read_file("file").unwrap();
    let (seen, _) = all_states(&disk, Tears::Any, look);
    let point = disk.crash_point(disk.position(), Tears::Any);
    let sample = |seed| (0..50).scan(Seeded::new(seed), |random, _| Some(look(&point.cut_power(random))));
    assert!(sample(1).all(|state| seen.contains(&state)));
    assert!(sample(1).eq(sample(1)) && !sample(1).eq(sample(2)));
}

#[test]
fn a_forgotten_history_leaves_the_present_as_it_was() {
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 0, 1);
    let before = disk.position();
    disk.forget_history();
    assert_eq!(disk.position(), before);
    assert_eq!(disk.positions(), [before]);
    let look = |after: &SimDisk| words_of_file(after, &[0])[0];
    assert_eq!(all_states(&disk, Tears::None, look).0, set(&[0, 1]));
}

#[test]
fn write_back_error_reaches_the_next_process_once() {
    let (disk, _file, mapping) = mapped(1);
    store(&mapping, 0, 5);
    disk.fail_writeback("file").unwrap();
    let next = disk.kill();
    let file = next.dir().open("file", Access::Write).unwrap();
    file.sync().unwrap_err();
    file.sync().unwrap();
    let look = |after: &SimDisk| words_of_file(after, &[0])[0];
    assert_eq!(look(&next), 5);
    assert_eq!(all_states(&next, Tears::None, look).0, set(&[0, 5]));
}

#[test]
fn write_back_error_is_reported_once_to_each_open_file() {
    let (disk, file, mapping) = mapped(1);
    let open = || disk.dir().open("file", Access::Write).unwrap();
    let earlier = open();
    store(&mapping, 0, 5);
    disk.fail_writeback("file").unwrap();
    let untold = open();
    mapping.sync_range(0, PAGE_SIZE).unwrap_err();
    file.sync().unwrap();
    let told = open();
    earlier.sync().unwrap_err();
    untold.sync().unwrap_err();
    for file in [&earlier, &untold, &told, &file] {
        file.sync().unwrap();
    }
    let look = |after: &SimDisk| words_of_file(after, &[0])[0];
    assert_eq!(all_states(&disk, Tears::None, look).0, set(&[0, 5]));
}

#[test]
fn eviction_shows_disk_bytes_of_lost_pages_only() {
    let (disk, _file, mapping) = mapped(2);
    store(&mapping, 0, 5);
    disk.fail_writeback("file").unwrap();
    store(&mapping, PAGE_SIZE, 6);
    disk.evict("file", Tears::None, &mut Script::new([0])).unwrap();
    assert_eq!(
        (
            mapping.word(0).load(std::sync::atomic::Ordering::Acquire),
            mapping.word(PAGE_SIZE).load(std::sync::atomic::Ordering::Acquire)
        ),
        (0, 6)
    );
    let look = |after: &SimDisk| words_of_file(after, &[0, PAGE_SIZE]);
    assert_eq!(all_states(&disk, Tears::None, look).0, set(&[vec![0, 0], vec![0, 6]]));
}

#[test]
fn stores_of_another_thread_are_found_and_synced() {
    let (disk, file, mapping) = mapped(2);
    let stored = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (1..2000).for_each(|i| store(&mapping, (i % 1024) * 8, i as u64));
            1999
        });
        while !writer.is_finished() {
            mapping.sync_range(0, PAGE_SIZE).unwrap();
            file.write_at(&[], 0).unwrap();
        }
        writer.join().unwrap()
    });
    file.sync().unwrap();
    let last = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(1));
    assert_eq!(words_of_file(&last, &[(1999 % 1024) * 8]), [stored]);
    assert!(disk.crash_point(disk.position(), Tears::Any).is_certain());
}
