//! Consumers that look at every crash point of a writer, and writers that act between the steps of a
//! feed.

use std::sync::Arc;

use mapcask::sim::SimDisk;
use parking_lot::Mutex;

use crate::consumer::Consumer;
use crate::contents::Contents;
use crate::oracle::{Shown, Writer};
use crate::steps::Step;
use crate::{cases, options};

/// The number of steps of a history.
const STEPS: usize = 150;

/// The number of steps of a writer while a consumer reads, after which it pauses.
const MANY: usize = 60;

/// The consumers of a history, and the copies that they may have.
struct Watch {
    consumers: Vec<Consumer>,
    /// The contents before the write that is being made, and after it.
    allowed: [Contents; 2],
    /// All contents that were acknowledged before, while an open after a kill is completed. Between
    /// the manifest and the first record of its new segment, nothing says how the log goes on behind
    /// segments that are gone, so a consumer that lags does not know it yet.
    past: Vec<Contents>,
    is_recovering: bool,
    /// One in this many crash points is looked at.
    spacing: u64,
    /// The step, for messages.
    now: String,
    looks: u64,
}

impl Watch {
    /// Lets a consumer read in the middle of the writer's work, and compares.
    fn look(&mut self, rng: &mut fastrand::Rng, disk: &SimDisk, point: &str) {
        if rng.u64(0..self.spacing) != 0 {
            return;
        }
        self.looks += 1;
        let which = rng.usize(0..self.consumers.len());
        match rng.u32(0..8) {
            0 => self.consumers[which].restart(disk),
            1 => self.consumers[which].reopen(disk),
            _ => {}
        }
        let consumer = &mut self.consumers[which];
        consumer.poll(disk).unwrap_or_else(|error| panic!("{} at {point}: {error}", self.now));
        let copy = consumer.copy();
        assert!(
            self.allowed.contains(&copy) || self.is_recovering && self.past.contains(&copy),
            "{} at {point}: {:?} is none of {:?}",
            self.now,
            copy,
            self.allowed
        );
    }
}

/// Returns true if a point is one between the steps of a reader.
fn is_of_reader(point: &str) -> bool {
    ["feed-", "follow-", "attach-"].iter().any(|head| point.starts_with(head))
}

/// Runs a history. Returns the number of looks and of lags.
fn run(seed: u64, spacing: u64) -> (u64, u64) {
    let _shown = Shown(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::with_seed(seed);
    let checkpoints = if rng.bool() { 512 } else { 0 };
    let keep = if seed.is_multiple_of(3) { 20_000 } else { 0 };
    let mut writer = Writer::open(&disk, options().checkpoint_bytes(checkpoints).keep_changes(keep));
    let watch = Arc::new(Mutex::new(Watch {
        consumers: (0..3).map(|_| Consumer::new(&disk)).collect(),
        allowed: [writer.contents.clone(), writer.contents.clone()],
        past: vec![writer.contents.clone()],
        is_recovering: false,
        spacing,
        now: String::new(),
        looks: 0,
    }));
    {
        let (watch, disk_too) = (Arc::clone(&watch), disk.clone());
        let rng = Mutex::new(rng.fork());
        disk.on_crash_point(move |point| {
            if !is_of_reader(point) {
                watch.lock().look(&mut rng.lock(), &disk_too, point);
            }
        });
    }
    // True if the last open waits with its changes to the disk for a step that needs them.
    let mut waits = false;
    for number in 0..STEPS {
        let (step, after) = writer.draw(&mut rng);
        let last = writer.store().last_seq();
        {
            let mut watch = watch.lock();
            watch.allowed = [writer.contents.clone(), after.clone()];
            watch.is_recovering = waits || matches!(step, Step::Kill);
            watch.now = format!("seed {seed}, step {number} ({step:?})");
        }
        writer.act(&step);
        assert_eq!(writer.contents, after);
        waits = match step {
            Step::Kill => true,
            Step::Compact | Step::Close | Step::Flush => false,
            _ => waits && writer.store().last_seq() == last,
        };
        let mut watch = watch.lock();
        watch.past.push(after.clone());
        watch.allowed = [after.clone(), after];
    }
    disk.forget_hook();
    let mut watch = Arc::into_inner(watch).expect("the hook is gone").into_inner();
    let mut lagged = 0;
    for consumer in &mut watch.consumers {
        consumer.poll(&disk).unwrap();
        assert_eq!(consumer.copy(), writer.contents);
        lagged += consumer.lagged;
    }
    (watch.looks, lagged)
}

#[test]
fn consumers_have_an_allowed_copy_at_every_crash_point() {
    let (mut looks, mut lagged) = (0, 0);
    for seed in 0..cases(60) {
        let spacing = [1, 5, 40, 400][usize::try_from(seed % 4).unwrap()];
        let (more_looks, more_lagged) = run(seed, spacing);
        looks += more_looks;
        lagged += more_lagged;
    }
    assert!(looks > 1000 && lagged > 0, "{looks} looks, {lagged} lags");
}

/// Runs a history in which the writer acts between the steps of a feed. Returns the number of lags.
fn run_between(seed: u64, steps: usize) -> u64 {
    let _shown = Shown(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::with_seed(seed);
    let checkpoints = if rng.bool() { 512 } else { 0 };
    let writer = Writer::open(&disk, options().checkpoint_bytes(checkpoints));
    // The contents after each step since the consumer's call began.
    let states = vec![writer.contents.clone()];
    let writer = Arc::new(Mutex::new((writer, states)));
    {
        let writer = Arc::clone(&writer);
        let rng = Mutex::new(rng.fork());
        disk.on_crash_point(move |point| {
            if is_of_reader(point) && rng.lock().u32(0..3) == 0 {
                // While it acts, its own points come here as well.
                let mut writer = writer.lock();
                if writer.1.len() > MANY {
                    // A consumer never comes to the end of a log that grows at its every step.
                    return;
                }
                let mut rng = rng.lock();
                for _ in 0..1 + rng.usize(0..steps) {
                    let (step, after) = writer.0.draw(&mut rng);
                    writer.0.act(&step);
                    writer.1.push(after);
                }
            }
        });
    }
    let mut consumer = Consumer::new(&disk);
    for _ in 0..40 {
        {
            let mut writer = writer.lock();
            let last = writer.1.len() - 1;
            writer.1.drain(..last);
        }
        match rng.u32(0..10) {
            0 => consumer.restart(&disk),
            1 => consumer.reopen(&disk),
            _ => {}
        }
        consumer.poll(&disk).unwrap();
        let states = &writer.lock().1;
        assert!(states.contains(&consumer.copy()), "{:?} is none of {states:?}", consumer.copy());
    }
    disk.forget_hook();
    let (writer, _) = Arc::into_inner(writer).expect("the hook is gone").into_inner();
    consumer.poll(&disk).unwrap();
    assert_eq!(consumer.copy(), writer.contents);
    consumer.lagged
}

#[test]
fn consumers_are_exact_if_the_writer_acts_between_their_steps() {
    let mut lagged = 0;
    for seed in 0..cases(60) {
        lagged += run_between(seed, if seed % 2 == 0 { 3 } else { 20 });
    }
    assert!(lagged > 0);
}
