//! Tests every short history, cut at every storage event, in every way that a power cut can go.
//!
//! A history has up to three steps of an alphabet of eighteen. It goes through two universes: in the
//! second one most steps write to an ordered keyspace, whose reads in order are checked, too. Each history is crashed at every
//! storage event of its last step. (The steps before it are the last steps of other histories.) The
//! crashes are a kill, and power cuts with every subset of the uncertain pages, sizes and names.
//!
//! After a power cut the machine is opened under its boot identity and under another one. Before
//! that, after each kill and at every third position, a read-only open must show the same content
//! and change nothing on the disk. The content must be a prefix of the acknowledged writes, no
//! shorter than the durable ones. Then the store is written to, flushed and crashed in the worst
//! way. For a share of the states, the recovery is crashed, too.
//!
//! A count bounds the number of states, never time. `MAPCASK_STATES` sets it, and a smaller number
//! is a smaller sample of the same whole. A failure prints a [`Case`] that can be pasted as a test.
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

use model_support::trace::{ALPHABET, BOOT, KEYS, Step, Trace, Universe};
use model_support::{History, State, Write, content_under, look_under, number_from_env, open};

/// The torn sectors of a page, besides whole pages: one mix of each two contents.
const TEARS: Tears = Tears::Sectors(1);
/// The number of states from which a run is large: more subsets and more crashed recoveries.
const LARGE: u64 = 1_000_000;

/// One state, as a failure prints it; [`Case::check`] is the test to paste.
#[derive(Debug, Clone)]
struct Case {
    universe: Universe,
    steps: Vec<Step>,
    durability: Durability,
    /// The index into the trace's positions.
    position: usize,
    crash: Crash,
    /// A crash of the recovery: the index of its position, and the chooser's answers.
    again: Option<(usize, Vec<usize>)>,
}

/// The way in which the machine crashes.
#[derive(Debug, Clone)]
enum Crash {
    /// The process dies.
    Kill,
    /// The power fails, with these answers of the chooser.
    Power { answers: Vec<usize>, same_boot: bool },
}

/// Prints the case when the test panics, whatever the panic is.
struct Shown<'c>(&'c Case);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fails, and can be pasted as a test:\n{:?}.check();", self.0);
        }
    }
}

/// A chooser that draws at random and records its answers.
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
        let trace = Trace::of(self.universe, &self.steps, self.durability);
        let position = trace.positions[self.position];
        self.check_at(&trace, position, &trace.disk.crash_point(position, TEARS));
    }

    /// Returns the machine as the crash leaves it.
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

    /// Opens the crashed store, checks it, and writes on. Returns the number of events of the
    /// recovery.
    fn check_at(&self, trace: &Trace, position: Position, point: &CrashPoint) -> usize {
        let _shown = Shown(self);
        let disk = self.crashed(point);
        let (allowed, pending) = trace.history_at(position);
        // Every kill and every third position of the cuts is checked by a read-only open.
        let is_looked_at = matches!(self.crash, Crash::Kill) || self.position.is_multiple_of(3);
        let looked = is_looked_at.then(|| look_under(&disk, self.durability, &KEYS));
        let store = open(&disk, self.durability).unwrap();
        let found = content_under(&store, &KEYS);
        check_kinds(&store, self.universe);
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

    /// Checks that a second crash, of the recovery, keeps everything that the first left on the
    /// platter.
    fn check_again(&self, disk: &SimDisk, history: &History) {
        let store = open(disk, self.durability).unwrap();
        let found = content_under(&store, &KEYS);
        check_kinds(&store, self.universe);
        store.verify().unwrap();
        history
            .check_cut(&found)
            .unwrap_or_else(|complaint| panic!("after a crash of the recovery: {complaint}"));
        write_on(disk, &store, self.durability, found);
    }
}

/// Checks that a crash changes no keyspace from an ordered one to one without order, or back.
fn check_kinds(store: &mapcask::Store, universe: Universe) {
    for name in store.keyspace_names() {
        let is_ordered = store.open_keyspace(&name).unwrap().is_ordered();
        assert_eq!(is_ordered, universe == Universe::Ordered, "the kind of {name:?}");
    }
}

/// Checks that one more flushed write survives the worst power cut.
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

/// Runs histories until it has checked as many states as its budget allows.
struct Enumerator {
    universe: Universe,
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
        let mut all = histories();
        if self.universe == Universe::Ordered {
            // A small run begins with histories of two and three steps. Of one step comes one key.
            all.rotate_left(1 + ALPHABET.len());
        }
        for steps in all {
            if self.states >= self.budget {
                break;
            }
            seen += 1;
            self.history(&steps);
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{:?}, {:?}: {} states of {seen} histories, {:.0} states/s; {} moments were sampled",
            self.universe,
            self.durability,
            self.states,
            self.states as f64 / seconds,
            self.cut_short
        );
    }

    fn history(&mut self, steps: &[Step]) {
        let trace = Trace::of(self.universe, steps, self.durability);
        for (at, &position) in trace.positions.iter().enumerate() {
            let point = trace.disk.crash_point(position, TEARS);
            let case = |crash| Case {
                universe: self.universe,
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
                        universe: self.universe,
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

    /// Checks one state, and for a share of them also a crash at every event of its recovery.
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
            // The machine is made from the recorded answers, as in a pasted case.
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

    /// Returns the answers of every cut at a point. Of too many it keeps the worst one and a
    /// sample.
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

/// Returns all histories of up to three steps: first those of one step, then those of two and three
/// alternately. The last two groups are mixed, so that the beginning of the list is a sample.
fn histories() -> Vec<Vec<Step>> {
    let longer = |of: &[Vec<Step>]| -> Vec<_> {
        of.iter().flat_map(|steps| ALPHABET.map(|step| [&steps[..], &[step]].concat())).collect()
    };
    let mut all = vec![Vec::new()];
    let ones = longer(&all);
    let (twos, threes) = (longer(&ones), longer(&longer(&ones)));
    all.extend(ones);
    // Neither 131 and 324 nor 2371 and 5832 have a common divisor, so every history occurs once.
    let mut twos = (0..twos.len()).map(|n| twos[n * 131 % twos.len()].clone());
    for n in 0..threes.len() {
        all.extend(twos.next());
        all.push(threes[n * 2371 % threes.len()].clone());
    }
    all
}

fn enumerate(universe: Universe, durability: Durability) {
    // Each of the two tests of a universe gets half. The ordered one has a half of the states besides.
    let share = if universe == Universe::Plain { 2 } else { 4 };
    let budget = number_from_env("MAPCASK_STATES", 24_000) / share;
    Enumerator { universe, durability, budget, states: 0, cut_short: 0 }.run();
}

#[test]
fn every_crash_of_a_short_history_leaves_a_prefix_at_os() {
    enumerate(Universe::Plain, Durability::Os);
}

#[test]
fn every_crash_of_a_short_history_keeps_durable_writes_at_disk() {
    enumerate(Universe::Plain, Durability::Disk);
}

#[test]
fn every_crash_of_an_ordered_history_leaves_a_prefix_at_os() {
    enumerate(Universe::Ordered, Durability::Os);
}

#[test]
fn every_crash_of_an_ordered_history_keeps_writes_at_disk() {
    enumerate(Universe::Ordered, Durability::Disk);
}

#[test]
fn every_history_is_there_once() {
    let mut all = histories();
    assert_eq!(all.len(), 1 + 18 + 324 + 5832);
    all.sort_by_key(|steps| format!("{steps:?}"));
    all.dedup();
    assert_eq!(all.len(), 1 + 18 + 324 + 5832);
}

/// Checks that a failing case can be pasted and is deterministic.
#[test]
fn a_case_can_be_checked_on_its_own() {
    Case {
        universe: Universe::Plain,
        steps: vec![Step::PutA, Step::Flush],
        durability: Durability::Os,
        position: 0,
        crash: Crash::Power { answers: vec![], same_boot: true },
        again: Some((3, vec![1])),
    }
    .check();
}
