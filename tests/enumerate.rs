//! Every short history, cut at every moment, in every way that a power cut can go.
//!
//! A history has up to three steps of an alphabet of eighteen. Each is crashed at every storage event of its last step (the
//! steps before it are the last steps of other histories), by a kill and by a power cut with every subset of its
//! uncertain pages, sizes and names; each machine that this leaves is opened in the same run of the system and in
//! another one; before that it is looked at, which shows the same and does nothing to the disk. The state must be a prefix of
//! what was acknowledged, no shorter than what was durable. Then the recovery itself is crashed, and then the store is
//! written to, flushed and crashed at its worst.
//!
//! The number of states is bounded by count, never by time: `MAPCASK_STATES` says how many, and a smaller number is a
//! smaller sample of the same whole. A failure prints a [`Case`] that can be pasted as a test.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failing history is shown as a test to paste"
)]

#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod model_support;

use std::time::Instant;

use mapcask::Durability;
use mapcask::sim::{Chooser, CrashPoint, Exhaustive, Position, Script, Seeded, SimDisk, Tears};

use model_support::trace::{ALPHABET, BOOT, KEYS, Step, Trace};
use model_support::{History, State, Write, content_under, look_under, number_from_env, open};

/// Sectors of a page that are torn, besides whole pages: one mix of each two contents.
const TEARS: Tears = Tears::Sectors(1);
/// From this many states on a run is a large one: more subsets at each moment, more crashes of recoveries.
const LARGE: u64 = 1_000_000;

/// One state, as it is named in a failure; [`Case::check`] is the test to paste.
#[derive(Debug, Clone)]
struct Case {
    steps: Vec<Step>,
    durability: Durability,
    /// Which of the trace's positions.
    position: usize,
    crash: Crash,
    /// A crash of the recovery: at which position of that, and how.
    again: Option<(usize, Vec<usize>)>,
}

/// How the machine crashes.
#[derive(Debug, Clone)]
enum Crash {
    /// The process dies.
    Kill,
    /// The power fails; the chooser's answers.
    Power { answers: Vec<usize>, same_boot: bool },
}

/// Prints the case when the test panics, whatever the panic was.
struct Shown<'c>(&'c Case);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fails, and can be pasted as a test:\n{:?}.check();", self.0);
        }
    }
}

/// Draws at random, and remembers.
struct Recorder {
    random: Seeded,
    answers: Vec<usize>,
}

impl Chooser for Recorder {
    fn choose(&mut self, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        let answer = self.random.choose(count);
        self.answers.push(answer);
        answer
    }
}

impl Case {
    /// Checks this one state from scratch.
    fn check(&self) {
        let _shown = Shown(self);
        let trace = Trace::of(&self.steps, self.durability);
        let position = trace.positions[self.position];
        self.check_at(&trace, position, &trace.disk.crash_point(position, TEARS));
    }

    /// The machine as the crash leaves it.
    fn crashed(&self, point: &CrashPoint) -> SimDisk {
        match &self.crash {
            Crash::Kill => point.kill(),
            Crash::Power { answers, same_boot } => {
                let disk = point.cut_power(&mut Script::new(answers.clone()));
                if *same_boot {
                    disk.set_boot_id(Some(BOOT));
                }
                disk
            }
        }
    }

    /// Opens what the crash left, checks it, and writes on; how many moments the recovery had.
    fn check_at(&self, trace: &Trace, position: Position, point: &CrashPoint) -> usize {
        let _shown = Shown(self);
        let disk = self.crashed(point);
        let (allowed, pending) = trace.history_at(position);
        // Every kill, and every third moment of the cuts.
        let is_looked_at = matches!(self.crash, Crash::Kill) || self.position.is_multiple_of(3);
        let looked = is_looked_at.then(|| look_under(&disk, self.durability, &KEYS));
        let store = open(&disk, self.durability).unwrap();
        let found = content_under(&store, &KEYS);
        assert!(looked.is_none_or(|looked| looked == found), "a read-only open shows what an open finds");
        store.verify().unwrap();
        let positions = disk.positions();
        let history = match self.crash {
            Crash::Kill => allowed.check_kill(&found, pending),
            Crash::Power { .. } => allowed.check_cut(&found),
        };
        let history = history.unwrap_or_else(|complaint| panic!("{complaint}"));
        match &self.again {
            None => write_on(&disk, &store, self.durability, found),
            Some((at, answers)) => {
                let again = disk.crash_at(positions[*at], TEARS, &mut Script::new(answers.clone()));
                self.check_again(&again, &history);
            }
        }
        positions.len()
    }

    /// A second crash, of the recovery, must not take back what the first one left on the platter.
    fn check_again(&self, disk: &SimDisk, history: &History) {
        let store = open(disk, self.durability).unwrap();
        let found = content_under(&store, &KEYS);
        store.verify().unwrap();
        history
            .check_cut(&found)
            .unwrap_or_else(|complaint| panic!("after a crash of the recovery: {complaint}"));
        write_on(disk, &store, self.durability, found);
    }
}

/// One more write, flushed, must survive the worst power cut.
fn write_on(disk: &SimDisk, store: &mapcask::Store, durability: Durability, mut state: State) {
    let write = Write::insert("", "on", "and on");
    write.run(store).unwrap();
    write.apply(&mut state);
    store.flush().unwrap();
    let after = disk.crash_at(disk.position(), Tears::None, &mut Script::new([]));
    let store = open(&after, durability).unwrap();
    assert_eq!(
        content_under(&store, &KEYS),
        state,
        "what was written and flushed after a recovery is durable"
    );
    store.verify().unwrap();
}

/// Goes through histories until it has seen as many states as it may.
struct Enumerator {
    durability: Durability,
    budget: u64,
    states: u64,
    cut_short: u64,
}

impl Enumerator {
    fn is_large(&self) -> bool {
        self.budget >= LARGE
    }

    fn run(&mut self) {
        let begun = Instant::now();
        let mut seen = 0;
        for steps in histories() {
            if self.states >= self.budget {
                break;
            }
            seen += 1;
            self.history(&steps);
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{:?}: {} states of {seen} histories, {:.0} states/s; {} moments were sampled",
            self.durability,
            self.states,
            self.states as f64 / seconds,
            self.cut_short
        );
    }

    fn history(&mut self, steps: &[Step]) {
        let trace = Trace::of(steps, self.durability);
        for (at, &position) in trace.positions.iter().enumerate() {
            let point = trace.disk.crash_point(position, TEARS);
            let case = |crash| Case {
                steps: steps.to_vec(),
                durability: self.durability,
                position: at,
                crash,
                again: None,
            };
            self.state(&trace, position, &point, case(Crash::Kill));
            for answers in self.cuts(&point) {
                for same_boot in [false, true] {
                    let crash = Crash::Power { answers: answers.clone(), same_boot };
                    let case = Case {
                        steps: steps.to_vec(),
                        durability: self.durability,
                        position: at,
                        crash,
                        again: None,
                    };
                    self.state(&trace, position, &point, case);
                }
            }
        }
    }

    /// One state, and every so often also a crash at every moment of its recovery.
    fn state(&mut self, trace: &Trace, position: Position, point: &CrashPoint, mut case: Case) {
        let moments = case.check_at(trace, position, point);
        self.states += 1;
        let share = match (case.steps.len(), self.is_large()) {
            (0..=2, true) => 5,
            (_, true) => 61,
            (_, false) => 151,
        };
        if !self.states.is_multiple_of(share) {
            return;
        }
        for moment in 0..moments {
            let mut random = Recorder { random: Seeded::new(self.states), answers: Vec::new() };
            // Only to learn what it answers: the machine is made from the answers, as a pasted case would be.
            let disk = case.crashed(point);
            drop(open(&disk, self.durability).unwrap());
            drop(disk.crash_at(disk.positions()[moment], TEARS, &mut random));
            for answers in [Vec::new(), random.answers] {
                case.again = Some((moment, answers));
                case.check_at(trace, position, point);
                self.states += 1;
            }
        }
    }

    /// The answers of every cut at a point; where there are too many, the worst one and a sample.
    fn cuts(&mut self, point: &CrashPoint) -> Vec<Vec<usize>> {
        let limit = if self.is_large() { 400 } else { 6 };
        let mut all = Exhaustive::new();
        let mut cuts = Vec::new();
        while cuts.len() <= limit {
            point.cut_power(&mut all);
            cuts.push(all.answers());
            if !all.advance() {
                return cuts;
            }
        }
        self.cut_short += 1;
        cuts.truncate(1);
        for seed in 1..limit as u64 {
            let mut random = Recorder { random: Seeded::new(seed), answers: Vec::new() };
            point.cut_power(&mut random);
            cuts.push(random.answers);
        }
        cuts
    }
}

/// All histories of up to three steps: those of one first, the others of two and of three by turns, each in an order that
/// mixes them, so that the beginning is a sample.
fn histories() -> Vec<Vec<Step>> {
    let longer = |of: &[Vec<Step>]| -> Vec<_> {
        of.iter().flat_map(|steps| ALPHABET.map(|step| [&steps[..], &[step]].concat())).collect()
    };
    let mut all = vec![Vec::new()];
    let ones = longer(&all);
    let (twos, threes) = (longer(&ones), longer(&longer(&ones)));
    all.extend(ones);
    // Neither 131 and 324 nor 2371 and 5832 have a common divisor, so every history comes once.
    let mut twos = (0..twos.len()).map(|n| twos[n * 131 % twos.len()].clone());
    for n in 0..threes.len() {
        all.extend(twos.next());
        all.push(threes[n * 2371 % threes.len()].clone());
    }
    all
}

fn enumerate(durability: Durability) {
    // Half for each of the two tests.
    let budget = number_from_env("MAPCASK_STATES", 24_000) / 2;
    Enumerator { durability, budget, states: 0, cut_short: 0 }.run();
}

#[test]
fn every_crash_of_a_short_history_leaves_a_prefix_at_os() {
    enumerate(Durability::Os);
}

#[test]
fn every_crash_of_a_short_history_leaves_what_was_acknowledged_at_disk() {
    enumerate(Durability::Disk);
}

#[test]
fn every_history_is_there_once() {
    let mut all = histories();
    assert_eq!(all.len(), 1 + 18 + 324 + 5832);
    all.sort_by_key(|steps| format!("{steps:?}"));
    all.dedup();
    assert_eq!(all.len(), 1 + 18 + 324 + 5832);
}

/// The way to paste a failing case, and that it is deterministic.
#[test]
fn a_case_can_be_checked_on_its_own() {
    Case {
        steps: vec![Step::PutA, Step::Flush],
        durability: Durability::Os,
        position: 0,
        crash: Crash::Power { answers: vec![], same_boot: true },
        again: Some((3, vec![1])),
    }
    .check();
}
