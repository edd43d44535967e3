//! Backups of a store that another process writes to at full speed, until it is killed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use mapcask::Follower;

use crate::child::{Child, command};
use crate::contents::{Contents, held, shown};
use crate::history::{self, Operation};
use crate::kills::Stop;
use crate::{differences, options, scratch};

/// The number of writers, and of backups beside each.
const ROUNDS: u64 = 5;
const BACKUPS: usize = 6;

/// Returns the number of an operation that a report calls done.
fn done_in(report: &str) -> Option<u64> {
    let (number, _) = report.strip_prefix("done ")?.split_once(' ')?;
    number.parse().ok()
}

#[test]
fn backups_beside_a_busy_writer_are_exact() {
    let scratch = scratch();
    let [path, target] = ["data", "backup"].map(|name| scratch.path().join(name));
    history::create(&path);
    let follower = Follower::open(&path).unwrap();
    let (seed, mut number, mut contents) = (fastrand::u64(..), 0, history::initial());
    for round in 0..ROUNDS {
        let mut command = command();
        command.envs(history::variables(seed, number, false));
        let mut writer = Child::start_as(command, "write", &path);
        let (done, stop) = (AtomicU64::new(number), AtomicBool::new(false));
        // The number of the last operation before each backup, and the contents.
        let mut backups: Vec<(u64, Contents)> = Vec::new();
        thread::scope(|scope| {
            let (done, stop) = (&done, &stop);
            scope.spawn(move || {
                let take = |report: String| done_in(&report).into_iter().for_each(|n| done.store(n, Relaxed));
                while !stop.load(Relaxed) {
                    take(writer.report().expect("the writer goes on"));
                }
                writer.kill().into_iter().for_each(take);
            });
            let _stop = Stop(stop);
            for n in 0..BACKUPS {
                let before = done.load(Relaxed);
                // Each is made while the writer is at work.
                while done.load(Relaxed) < before + 200 {
                    thread::yield_now();
                }
                let before = done.load(Relaxed);
                follower.backup(&target).unwrap();
                let restored = scratch.path().join(format!("restored-{round}-{n}"));
                mapcask::restore(&target, &restored).unwrap();
                let store = options().create(false).open(&restored).unwrap();
                store.verify().unwrap();
                backups.push((before, held(&store)));
            }
        });
        let done = done.load(Relaxed);
        let mut wanted = backups.iter().peekable();
        let mut last = contents.clone();
        for operation in number..=done + 1 {
            if operation > number {
                last.clone_from(&contents);
                Operation::draw(seed, operation, &contents).apply(&mut contents);
            }
            while wanted.next_if(|(before, found)| operation >= *before && *found == contents).is_some() {}
        }
        let missing = wanted.next().map(|(before, found)| (before, differences(found, &contents)));
        assert_eq!(missing, None, "seed {seed}, round {round}: a backup is no state of {number} to {done}");
        // One operation more than the reported ones may be there.
        follower.refresh().unwrap();
        let has_more = shown(&follower) == contents;
        number = done + u64::from(has_more);
        if !has_more {
            contents = last;
        }
        assert_eq!(differences(&shown(&follower), &contents), Vec::<String>::new(), "seed {seed}");
    }
}
