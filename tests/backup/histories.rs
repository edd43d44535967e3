//! Random histories: the writer acts at every step of a backup, and followers make backups at every
//! step of the writer.

use std::sync::Arc;

use mapcask::sim::SimDisk;
use mapcask::{BackupReport, Follower, Options, Store};
use parking_lot::Mutex;

use super::contents::{Contents, held};
use super::steps::Step;
use super::{options, restored};

/// A writer, and its contents after each step since the backup began, with the last number.
struct Writer {
    store: Option<Store>,
    disk: SimDisk,
    rng: fastrand::Rng,
    number: usize,
    states: Vec<(u64, Contents)>,
    /// True if it may close the store, or die.
    ends: bool,
    /// The bytes after which an index checkpoint is made. An open that uses one maps segments late.
    checkpoints: u64,
}

impl Writer {
    fn new(disk: &SimDisk, mut rng: fastrand::Rng, ends: bool) -> Self {
        let states = vec![(0, Contents::from([(String::new(), Default::default())]))];
        let checkpoints = if rng.bool() { 512 } else { 0 };
        let mut new = Self { store: None, disk: disk.clone(), rng, number: 0, states, ends, checkpoints };
        new.open();
        new
    }

    fn open(&mut self) {
        self.store = Some(options().checkpoint_bytes(self.checkpoints).open_on(&self.disk).unwrap());
    }

    fn close_and_open(&mut self) {
        self.store.take().expect("it is open").close().unwrap();
        self.open();
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    /// Carries out some steps.
    fn act(&mut self, steps: usize) {
        for _ in 0..steps {
            let step = Step::draw(&mut self.rng);
            if !self.ends && matches!(step, Step::Close | Step::Kill) {
                continue;
            }
            let mut contents = self.states.last().expect("there is always one").1.clone();
            self.number += 1;
            step.apply(&mut contents, self.number);
            match step {
                Step::Close => self.close_and_open(),
                Step::Kill => {
                    std::mem::forget(self.store.take());
                    self.disk.free_locks();
                    self.open();
                }
                _ => step.write(self.store(), self.number),
            }
            self.states.push((self.store().last_seq().0, contents));
        }
    }

    /// Forgets all states but the last.
    fn forget(&mut self) {
        let last = self.states.len() - 1;
        self.states.drain(..last);
    }

    /// Returns the contents as of the last write in a backup. It is one since the backup began.
    fn expected(&self, report: &BackupReport) -> &Contents {
        let up_to = self.states.iter().take_while(|(seq, _)| *seq <= report.last_seq);
        &up_to.last().expect("the backup is not older than its begin").1
    }
}

/// Lets the writer act at the points that `is_mine` selects.
fn act_at(disk: &SimDisk, writer: &Arc<Mutex<Writer>>, seed: u64, is_mine: fn(&str) -> bool) {
    let rng = Mutex::new(fastrand::Rng::with_seed(seed));
    let writer = Arc::clone(writer);
    disk.on_crash_point(move |point| {
        let steps = rng.lock().usize(0..12);
        if is_mine(point) && steps < 6 {
            writer.lock().act(steps);
        }
    });
}

/// Runs a history with backups. Returns the number of backups during which the writer acted.
fn run(seed: u64, by_follower: bool) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (disk, target) = (SimDisk::with_seed(seed), SimDisk::with_seed(seed + 1));
    let writer = Arc::new(Mutex::new(Writer::new(&disk, rng.fork(), by_follower)));
    let follower = by_follower.then(|| Options::new().follow_on(&disk).unwrap());
    act_at(&disk, &writer, seed + 2, |point| point.starts_with("follow-") || point == "moment-manifest");
    act_at(&target, &writer, seed + 3, |point| point.starts_with("backup-"));
    let mut busy = 0;
    for round in 0..12 {
        {
            let mut writer = writer.lock();
            writer.act(rng.usize(0..25));
            if rng.u8(0..3) == 0 {
                writer.close_and_open();
            }
            writer.forget();
        }
        let report = match &follower {
            Some(follower) => follower.backup_on(&target),
            None => {
                let store = writer.lock().store().clone();
                store.backup_on(&target)
            }
        };
        let report = report.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        let writer = writer.lock();
        busy += u64::from(writer.states.len() > 1);
        assert_eq!(&restored(&target), writer.expected(&report), "seed {seed}, round {round}, {report:?}");
    }
    disk.forget_hook();
    target.forget_hook();
    let writer = Arc::into_inner(writer).expect("the hooks are gone").into_inner();
    assert_eq!(held(writer.store()), writer.states.last().expect("there is always one").1);
    busy
}

#[test]
fn a_store_backs_up_one_moment_while_it_is_written_to() {
    let busy: u64 = (0..40).map(|seed| run(seed, false)).sum();
    assert!(busy > 200, "{busy}");
}

#[test]
fn a_follower_backs_up_one_moment_while_the_writer_acts() {
    let busy: u64 = (0..40).map(|seed| run(1000 + seed, true)).sum();
    assert!(busy > 200, "{busy}");
}

#[test]
fn a_follower_makes_a_backup_at_any_point_of_the_writer() {
    let backups = Arc::new(Mutex::new(0));
    for seed in 0..30 {
        let (disk, target) = (SimDisk::with_seed(seed), SimDisk::with_seed(seed + 1));
        let mut writer = Writer::new(&disk, fastrand::Rng::with_seed(seed), true);
        let follower: Follower = Options::new().follow_on(&disk).unwrap();
        // The contents before the step under way, and after it.
        let allowed = Arc::new(Mutex::new([Contents::new(), Contents::new()]));
        let (also, counted) = (Arc::clone(&allowed), Arc::clone(&backups));
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        disk.on_crash_point(move |point| {
            if point.starts_with("follow-") || point.starts_with("attach-") || rng.lock().u32(0..30) > 0 {
                return;
            }
            follower.backup_on(&target).unwrap_or_else(|error| panic!("seed {seed}, at {point}: {error}"));
            assert!(also.lock().contains(&restored(&target)), "seed {seed}, at {point}");
            *counted.lock() += 1;
        });
        for _ in 0..60 {
            let before = writer.states[0].1.clone();
            let mut rng = writer.rng.clone();
            let step = Step::draw(&mut rng);
            let mut after = before.clone();
            step.apply(&mut after, writer.number + 1);
            *allowed.lock() = [before, after];
            writer.act(1);
            writer.forget();
        }
        disk.forget_hook();
    }
    let backups = *backups.lock();
    assert!(backups > 100, "{backups}");
}
