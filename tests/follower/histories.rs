//! Random histories of a writer: followers look at every crash point of it, and the writer acts
//! between the steps of a refresh.

use std::sync::Arc;

use mapcask::sim::SimDisk;
use mapcask::{Follower, Options, Store};
use parking_lot::Mutex;

use super::contents::{Contents, held, shown};
use super::steps::Step;
use super::{assert_same, brief, follow, open};

/// The number of steps of a history.
const STEPS: usize = 150;

/// The followers of a history, and what they may show.
#[derive(Default)]
struct Watch {
    followers: Vec<Follower>,
    /// The acknowledged contents, and those after the write that is being made.
    allowed: [Contents; 2],
    /// One in this many crash points is looked at.
    spacing: u64,
    /// The seed and the step, for messages.
    now: String,
    looks: u64,
    jumps: u64,
}

impl Watch {
    /// Refreshes a follower in the middle of the writer's work, and compares.
    fn look(&mut self, rng: &mut fastrand::Rng, disk: &SimDisk, point: &str) {
        if rng.u64(0..self.spacing) != 0 {
            return;
        }
        self.looks += 1;
        let which = rng.usize(0..self.followers.len());
        let is_new = rng.u32(0..8) == 0;
        if is_new {
            self.followers[which] = follow(disk);
        }
        let follower = &self.followers[which];
        let refreshed = follower.refresh().unwrap_or_else(|error| panic!("at {point}: {error}"));
        self.jumps += u64::from(refreshed.jumped);
        let shown = shown(follower);
        assert!(
            self.allowed.contains(&shown),
            "{} at {point} (new: {is_new}, {refreshed:?}): {:?} is none of {:?}",
            self.now,
            brief(&shown),
            self.allowed.each_ref().map(brief)
        );
    }
}

/// Returns true if a point is one between the steps of a refresh.
fn is_of_follower(point: &str) -> bool {
    point.starts_with("follow-") || point.starts_with("attach-")
}

/// Prints the seed of a history that panics.
struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fails with seed {}", self.0);
        }
    }
}

/// Runs a history. Returns the number of looks and of jumps.
fn run(seed: u64, spacing: u64) -> (u64, u64) {
    let _shown = Shown(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::with_seed(seed);
    let checkpoints = if rng.bool() { 512 } else { 0 };
    let reopen = |disk: &SimDisk| {
        let options = super::options().checkpoint_bytes(checkpoints);
        options.open_on(disk).unwrap()
    };
    let mut store = reopen(&disk);
    let mut contents = Contents::from([(String::new(), Default::default())]);
    let watch = Arc::new(Mutex::new(Watch {
        followers: (0..3).map(|_| follow(&disk)).collect(),
        allowed: [contents.clone(), contents.clone()],
        spacing,
        ..Watch::default()
    }));
    {
        let (watch, disk_too) = (Arc::clone(&watch), disk.clone());
        let rng = Mutex::new(rng.fork());
        disk.on_crash_point(move |point| {
            if !is_of_follower(point) {
                watch.lock().look(&mut rng.lock(), &disk_too, point);
            }
        });
    }
    for number in 0..STEPS {
        let step = Step::draw(&mut rng);
        let before = contents.clone();
        step.apply(&mut contents, number);
        {
            let mut watch = watch.lock();
            watch.allowed = [before, contents.clone()];
            watch.now = format!("seed {seed}, step {number} ({step:?})");
        }
        match step {
            Step::Close => {
                store.close().unwrap();
                store = reopen(&disk);
            }
            Step::Kill => {
                std::mem::forget(store);
                disk.free_locks();
                store = reopen(&disk);
            }
            _ => step.write(&store, number),
        }
        watch.lock().allowed = [contents.clone(), contents.clone()];
        if rng.u32(0..10) == 0 {
            let watch = watch.lock();
            let follower = &watch.followers[rng.usize(0..watch.followers.len())];
            assert_same(follower, &store);
            assert_eq!(brief(&held(&store)), brief(&contents), "step {number}: {step:?}");
        }
    }
    disk.forget_hook();
    let watch = Arc::into_inner(watch).expect("the hook is gone").into_inner();
    for follower in &watch.followers {
        assert_same(follower, &store);
        follower.verify().unwrap();
    }
    drop(store);
    for follower in &watch.followers {
        follower.refresh().unwrap();
        assert_eq!(brief(&shown(follower)), brief(&contents));
    }
    (watch.looks, watch.jumps)
}

fn cases(default: u64) -> u64 {
    let read = std::env::var("MAPCASK_FOLLOWED").ok();
    read.map_or(default, |cases| cases.parse().expect("MAPCASK_FOLLOWED is a number"))
}

#[test]
fn followers_show_an_allowed_state_at_every_crash_point() {
    let (mut looks, mut jumps) = (0, 0);
    for seed in 0..cases(60) {
        // Followers that look often do not fall behind; those that look rarely jump.
        let spacing = [1, 5, 40, 400][usize::try_from(seed % 4).unwrap()];
        let (more_looks, more_jumps) = run(seed, spacing);
        looks += more_looks;
        jumps += more_jumps;
    }
    assert!(looks > 1000 && jumps > 0, "{looks} looks, {jumps} jumps");
}

/// A writer that acts between the steps of a follower.
struct Writer {
    store: Option<Store>,
    rng: fastrand::Rng,
    number: usize,
    checkpoints: u64,
    /// The contents after each step since the follower's call began.
    states: Vec<Contents>,
}

impl Writer {
    /// Carries out some steps.
    fn act(&mut self, disk: &SimDisk, steps: usize) {
        for _ in 0..steps {
            let step = Step::draw(&mut self.rng);
            let mut contents = self.states.last().expect("there is always one").clone();
            self.number += 1;
            // The follower that waits for this may read it at once.
            step.apply(&mut contents, self.number);
            let reopen = || super::options().checkpoint_bytes(self.checkpoints).open_on(disk).unwrap();
            match step {
                Step::Close => {
                    self.store.take().expect("it is open").close().unwrap();
                    self.store = Some(reopen());
                }
                Step::Kill => {
                    std::mem::forget(self.store.take());
                    disk.free_locks();
                    self.store = Some(reopen());
                }
                _ => step.write(self.store.as_ref().expect("it is open"), self.number),
            }
            self.states.push(contents);
        }
    }
}

/// Runs a history in which the writer acts between the steps of followers. Returns the number of
/// jumps.
fn run_between(seed: u64, steps: usize) -> u64 {
    let _shown = Shown(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::with_seed(seed);
    let checkpoints = if rng.bool() { 512 } else { 0 };
    let store = super::options().checkpoint_bytes(checkpoints).open_on(&disk).unwrap();
    let states = vec![Contents::from([(String::new(), Default::default())])];
    let writer = Writer { store: Some(store), rng: rng.fork(), number: 0, checkpoints, states };
    let writer = Arc::new(Mutex::new(writer));
    {
        let (writer, disk_too) = (Arc::clone(&writer), disk.clone());
        let rng = Mutex::new(rng.fork());
        disk.on_crash_point(move |point| {
            if is_of_follower(point) && rng.lock().u32(0..3) == 0 {
                // While it acts, its own points come here as well.
                writer.lock().act(&disk_too, 1 + rng.lock().usize(0..steps));
            }
        });
    }
    let mut jumps = 0;
    let mut follower = follow(&disk);
    for _ in 0..60 {
        {
            let mut writer = writer.lock();
            let last = writer.states.len() - 1;
            writer.states.drain(..last);
        }
        if rng.u32(0..10) == 0 {
            follower = follow(&disk);
        } else {
            jumps += u64::from(follower.refresh().unwrap().jumped);
        }
        let shown = shown(&follower);
        let states = &writer.lock().states;
        assert!(
            states.contains(&shown),
            "{:?} is none of {:?}",
            brief(&shown),
            states.iter().map(brief).collect::<Vec<_>>()
        );
    }
    disk.forget_hook();
    let writer = Arc::into_inner(writer).expect("the hook is gone").into_inner();
    let store = writer.store.expect("it is open");
    assert_same(&follower, &store);
    follower.verify().unwrap();
    jumps
}

#[test]
fn followers_are_exact_if_the_writer_acts_between_their_steps() {
    let mut jumps = 0;
    for seed in 0..cases(150) {
        jumps += run_between(seed, if seed % 2 == 0 { 3 } else { 30 });
    }
    assert!(jumps > 0);
}

#[test]
fn a_follower_opened_at_any_crash_point_shows_the_store() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let also = disk.clone();
    // The contents before the write under way, and after it.
    let allowed = Arc::new(Mutex::new([Contents::new(), Contents::new()]));
    let allowed_too = Arc::clone(&allowed);
    disk.on_crash_point(move |point| {
        if is_of_follower(point) {
            return;
        }
        let follower = Options::new().follow_on(&also);
        let follower = follower.unwrap_or_else(|error| panic!("at {point}: {error}"));
        let shown = shown(&follower);
        assert!(allowed_too.lock().contains(&shown), "at {point}: {:?}", brief(&shown));
    });
    let mut contents = Contents::from([(String::new(), Default::default())]);
    for round in 0..30 {
        let before = contents.clone();
        let map = contents.get_mut("").expect("it is there");
        map.insert(format!("{}", round % 5).into_bytes(), "x".repeat(300).into_bytes());
        *allowed.lock() = [before, contents.clone()];
        store.insert(format!("{}", round % 5), "x".repeat(300)).unwrap();
        if round % 10 == 9 {
            store.compact().unwrap();
        }
    }
    store.close().unwrap();
    disk.forget_hook();
}
