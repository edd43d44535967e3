//! Kills and power cuts at every moment of a backup and of a restore.

use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Error, Store};

use super::contents::{Contents, held};
use super::{contents_of, fill, open, options, restored};

/// Returns the states of a disk that a kill or a power cut at each moment leaves.
fn crashes(disk: &SimDisk) -> impl Iterator<Item = (mapcask::sim::Position, SimDisk)> {
    disk.positions().into_iter().flat_map(|moment| {
        let point = disk.crash_point(moment, Tears::Any);
        let cuts = (0..3).map(|seed| point.cut_power(&mut Seeded::new(seed))).collect::<Vec<_>>();
        cuts.into_iter().chain([point.kill()]).map(move |after| (moment, after))
    })
}

/// Makes a store, a backup of it, and changes after the backup that remove and replace segments.
fn changed_since(target: &SimDisk) -> (Store, Contents) {
    let store = open(&SimDisk::new());
    fill(&store, 0, 30, 1);
    store.keyspace("other").unwrap().insert("a", "1").unwrap();
    store.backup_on(target).unwrap();
    let before = held(&store);
    fill(&store, 5, 20, 2);
    store.flush().unwrap();
    assert!(store.compact().unwrap().segments_removed > 0);
    fill(&store, 40, 5, 3);
    (store, before)
}

#[test]
fn a_crash_leaves_the_old_backup_or_the_new_one() {
    let target = SimDisk::new();
    let (store, before) = changed_since(&target);
    target.forget_history();
    store.backup_on(&target).unwrap();
    let (after, end) = (held(&store), target.position());
    let whole = target.files();
    let mut seen = [0, 0];
    for (moment, crashed) in crashes(&target) {
        let found = restored(&crashed);
        let is_new = found == after;
        assert!(is_new || found == before && moment < end, "{moment:?}");
        seen[usize::from(is_new)] += 1;
        // Another attempt finishes it, and leaves nothing of the interrupted one.
        store.backup_on(&crashed).unwrap();
        assert_eq!(restored(&crashed), after, "{moment:?}");
        let copies =
            |files: Vec<String>| files.into_iter().filter(|name| name.ends_with(".copy")).collect::<Vec<_>>();
        assert_eq!(copies(crashed.files()), copies(whole.clone()), "{moment:?}");
        assert_eq!(crashed.files().len(), whole.len(), "{moment:?}: {:?}", crashed.files());
    }
    assert!(seen[0] > 50 && seen[1] > 20, "{seen:?}");
}

#[test]
fn a_crash_of_the_first_backup_leaves_it_or_none() {
    let target = SimDisk::new();
    let store = open(&SimDisk::new());
    fill(&store, 0, 30, 1);
    store.backup_on(&target).unwrap();
    let mut seen = [0, 0];
    for (moment, crashed) in crashes(&target) {
        let is_there = match mapcask::restore_on(&crashed, &SimDisk::new()) {
            Ok(_) => true,
            Err(Error::NoBackup { .. }) => false,
            Err(error) => panic!("{moment:?}: {error}"),
        };
        seen[usize::from(is_there)] += 1;
        if is_there {
            assert_eq!(restored(&crashed), held(&store));
        }
        store.backup_on(&crashed).unwrap();
        assert_eq!(restored(&crashed), held(&store), "{moment:?}");
    }
    assert!(seen[0] > 50 && seen[1] > 10, "{seen:?}");
}

#[test]
fn an_interrupted_backup_keeps_the_files_that_are_there() {
    let target = SimDisk::new();
    let store = open(&SimDisk::new());
    fill(&store, 0, 40, 1);
    let whole = store.backup_on(&target).unwrap();
    let copied = target.points().into_iter().filter(|(_, point)| *point == "backup-copied").count();
    assert_eq!(copied, whole.files_copied);
    for (done, (moment, _)) in
        target.points().into_iter().filter(|(_, point)| *point == "backup-copied").enumerate()
    {
        let crashed = target.crash_point(moment, Tears::None).kill();
        let report = store.backup_on(&crashed).unwrap();
        assert_eq!(report.files_copied, whole.files_copied - done, "{report:?}");
    }
}

#[test]
fn a_crash_of_a_restore_leaves_a_whole_store_or_none() {
    let target = SimDisk::new();
    let (store, before) = changed_since(&target);
    drop(store);
    let disk = SimDisk::new();
    mapcask::restore_on(&target, &disk).unwrap();
    let mut seen = [0, 0, 0];
    for (moment, crashed) in crashes(&disk) {
        match options().create(false).open_on(&crashed) {
            Ok(opened) => {
                assert_eq!(held(&opened), before, "{moment:?}");
                seen[0] += 1;
                continue;
            }
            Err(Error::Restoring { .. }) => seen[1] += 1,
            Err(Error::NotFound { .. }) => seen[2] += 1,
            Err(error) => panic!("{moment:?}: {error}"),
        }
        mapcask::restore_on(&target, &crashed).unwrap_or_else(|error| panic!("{moment:?}: {error}"));
        assert_eq!(contents_of(&crashed), before, "{moment:?}");
    }
    assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
}
