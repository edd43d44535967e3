//! A search over every run of the small store within bounds, the shortest first.
//!
//! Two states are equal if they differ only in the numbers they use, not in their order, or in the
//! names of the keys. A state is searched again only if it is met with more writes left than
//! before. Hashes of 128 bits identify states.

use std::collections::HashMap;
use std::env;
use std::hash::{DefaultHasher, Hasher};
use std::time::Instant;

use super::*;

/// The limits of a run.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    keys: u8,
    /// Records in a segment.
    capacity: usize,
    /// Segments at one time.
    segments: usize,
    writes: u8,
    jobs: u8,
    crashes: u8,
    /// True if absent keys are removed, too.
    blind: bool,
    /// True if every state at rest must settle.
    settles: bool,
    /// True if the search also continues from crashes whose result a shorter run reaches as well.
    every_crash: bool,
}

/// The steps that a run may still take.
#[derive(Debug, Clone, Copy)]
struct Budget {
    writes: u8,
    jobs: u8,
    crashes: u8,
}

#[derive(Debug)]
struct Counterexample {
    what: String,
    run: Vec<Step>,
}

/// The origin of a state: the state before it, and the step.
struct Origin {
    before: usize,
    step: Option<Step>,
}

struct Search {
    bounds: Bounds,
    /// The writes that were left when a state was met.
    met: HashMap<u128, u8>,
    origins: Vec<Origin>,
}

/// Tries all runs. Returns the number of states, or the shortest run that loses something or does
/// not settle.
fn search(variant: Variant, bounds: Bounds) -> Result<usize, Counterexample> {
    let mut search = Search { bounds, met: HashMap::new(), origins: vec![Origin { before: 0, step: None }] };
    let budget = Budget { writes: bounds.writes, jobs: bounds.jobs, crashes: bounds.crashes };
    let mut level = vec![(0, Store::new(variant, bounds.capacity), budget)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (id, store, budget) in level {
            for step in steps(&store, budget, bounds) {
                next.extend(search.follow(id, &store, budget, step)?);
            }
        }
        level = next;
    }
    Ok(search.met.len())
}

impl Search {
    /// Takes one step. Returns the resulting state, unless it was met before.
    fn follow(
        &mut self,
        before: usize,
        store: &Store,
        mut budget: Budget,
        step: Step,
    ) -> Result<Option<(usize, Store, Budget)>, Counterexample> {
        match step {
            Step::Put(_) | Step::Remove(_) => budget.writes -= 1,
            Step::Note => budget.jobs -= 1,
            Step::Crash(_) => budget.crashes -= 1,
            _ => {}
        }
        let mut store = store.clone();
        store.take(step);
        let known = self.met.entry(fingerprint(&store, budget, self.bounds.keys));
        let mut is_new = false;
        let writes = known.or_insert_with(|| {
            is_new = true;
            budget.writes
        });
        if !is_new && *writes >= budget.writes {
            return Ok(None);
        }
        *writes = budget.writes;
        let id = self.origins.len();
        self.origins.push(Origin { before, step: Some(step) });
        let rests = is_new && self.bounds.settles && store.job.is_none() && store.durable == store.last;
        let checked = store.check().and_then(|()| if rests { store.settle() } else { Ok(()) });
        match checked {
            Ok(()) => Ok(Some((id, store, budget))),
            Err(what) => Err(Counterexample { what, run: self.run(id) }),
        }
    }

    fn run(&self, mut id: usize) -> Vec<Step> {
        let mut run = Vec::new();
        while let Some(step) = self.origins[id].step {
            run.push(step);
            id = self.origins[id].before;
        }
        run.reverse();
        run
    }
}

/// Returns all steps that may come next.
fn steps(store: &Store, budget: Budget, bounds: Bounds) -> Vec<Step> {
    let mut steps = Vec::new();
    if budget.writes > 0 && store.may_write() {
        for key in 0..bounds.keys {
            steps.push(Step::Put(key));
            if bounds.blind || store.index[usize::from(key)] != 0 {
                steps.push(Step::Remove(key));
            }
        }
    }
    if store.may_roll() && store.segments.len() < bounds.segments {
        steps.push(Step::Roll);
    }
    if store.durable < store.last {
        steps.push(Step::Sync);
    }
    match &store.job {
        None if budget.jobs > 0 && store.last > 0 => steps.push(Step::Note),
        Some(job) if job.stage == Stage::Noted => {
            let sealed = store.sealed();
            steps.extend((1..=sealed).filter(|victims| victims & !sealed == 0).map(Step::Choose));
        }
        _ => steps.extend(store.next_of_job()),
    }
    if budget.crashes > 0 {
        steps.extend(crashes(store, bounds));
    }
    steps
}

/// Returns the crashes to continue from.
///
/// A store opened after a crash during a job equals one whose job was never begun. A store opened
/// after a loss equals one whose lost records were never written. The exception is a job that named
/// its outputs in between, in a way that depends on the lost records. The expected keys are checked
/// for each crash anyway.
fn crashes(store: &Store, bounds: Bounds) -> impl Iterator<Item = Step> + use<> {
    let names_the_lost = !store.syncs_last() || store.variant == Variant::NotedAtTheNaming;
    let unnamed = store.job.as_ref().is_some_and(|job| job.stage == Stage::Unnamed);
    let survivors = match &store.job {
        Some(_) if !unnamed && !bounds.every_crash => None,
        _ if !names_the_lost && !bounds.every_crash => Some(store.last..=store.last),
        _ => Some(store.durable..=store.last),
    };
    survivors.into_iter().flatten().map(Step::Crash)
}

// ---- Equal states -------------------------------------------------------------------------------

fn fingerprint(store: &Store, budget: Budget, keys: u8) -> u128 {
    let ranks = Ranks::of(store);
    let mut least: Option<Vec<u8>> = None;
    for turn in 0..keys {
        let mut bytes = vec![budget.jobs, budget.crashes];
        describe(store, &ranks, &|key| (key + turn) % keys, &mut bytes);
        if least.as_ref().is_none_or(|least| bytes < *least) {
            least = Some(bytes);
        }
    }
    let bytes = least.expect("there is a key");
    let halves = [0u8, 1].map(|half| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(half);
        hasher.write(&bytes);
        u128::from(hasher.finish())
    });
    halves[0] << 64 | halves[1]
}

/// The numbers in use, in order.
struct Ranks([u8; 128]);

impl Ranks {
    fn of(store: &Store) -> Self {
        let mut used = [false; 128];
        for number in [0, store.last, store.durable].into_iter().chain(store.durable_map) {
            used[usize::from(number)] = true;
        }
        for segment in &store.segments {
            used[usize::from(segment.filtered)] = true;
            for record in &segment.records {
                used[usize::from(record.number)] = true;
            }
        }
        if let Some(job) = &store.job {
            used[usize::from(job.noted)] = true;
            for sieve in &job.taken {
                used[place_of(sieve.first)] = true;
                used[place_of(sieve.filtered)] = true;
            }
        }
        let mut ranks = [0; 128];
        let mut rank = 0;
        for (number, used) in used.into_iter().enumerate() {
            ranks[number] = rank;
            rank += u8::from(used);
        }
        Self(ranks)
    }

    fn get(&self, number: Number) -> u8 {
        self.0[usize::from(number)]
    }
}

fn place_of(seq: Seq) -> usize {
    seq.0.try_into().expect("numbers are small here")
}

/// Encodes all that matters of a state as bytes.
fn describe(store: &Store, ranks: &Ranks, named: &impl Fn(u8) -> u8, bytes: &mut Vec<u8>) {
    let records = |records: &[Record], bytes: &mut Vec<u8>| {
        bytes.push(small(records.len()));
        for record in records {
            bytes.extend([named(record.key) << 1 | u8::from(record.put), ranks.get(record.number)]);
        }
    };
    bytes.extend([ranks.get(store.last), ranks.get(store.durable)]);
    let mut map = [0; KEYS];
    for key in 0..KEYS {
        map[usize::from(named(small(key)))] |= ranks.get(store.durable_map[key]);
    }
    bytes.extend(map);
    records(&store.tail, bytes);
    for segment in &store.segments {
        bytes.extend([u8::from(segment.log), segment.uncounted, ranks.get(segment.filtered)]);
        records(&segment.records, bytes);
    }
    if let Some(job) = &store.job {
        bytes.push(0xff);
        bytes.extend([job.stage as u8, ranks.get(job.noted)]);
        bytes.extend(job.victims.to_le_bytes());
        bytes.extend([small(job.seen), small(job.looked)]);
        for sieve in &job.taken {
            let numbers = [sieve.first, sieve.filtered].map(|seq| ranks.0[place_of(seq)]);
            bytes.extend(numbers);
            bytes.push(u8::from(sieve.hidden));
        }
        records(&job.copies, bytes);
    }
}

fn small(count: usize) -> u8 {
    count.try_into().expect("counts are small here")
}

// ---- The searches -------------------------------------------------------------------------------

const SMALL: Bounds = Bounds {
    keys: 2,
    capacity: 2,
    segments: 4,
    writes: 4,
    jobs: 2,
    crashes: 1,
    blind: false,
    settles: true,
    every_crash: false,
};

/// Returns the bounds, with as many more writes as `MAPCASK_RULE_WRITES` says.
fn raised(bounds: Bounds) -> Bounds {
    let more = env::var("MAPCASK_RULE_WRITES").ok().and_then(|more| more.parse().ok()).unwrap_or(0);
    Bounds { writes: bounds.writes + more, ..bounds }
}

#[expect(clippy::print_stdout, reason = "how far it went is what a search is worth")]
fn must_hold(variant: Variant, bounds: Bounds) {
    let started = Instant::now();
    match search(variant, bounds) {
        Ok(states) => println!("{variant:?}: {states} states in {:.1?}, {bounds:?}", started.elapsed()),
        Err(found) => panic!("{variant:?}, {bounds:?}: {} by {:#?}", found.what, found.run),
    }
}

#[test]
fn no_run_of_a_small_store_loses_or_revives_a_key() {
    must_hold(Variant::Stated, raised(SMALL));
}

#[test]
fn no_run_of_a_store_with_one_key_loses_or_revives_it() {
    must_hold(Variant::Stated, raised(Bounds { keys: 1, writes: 5, ..SMALL }));
}

#[test]
fn every_crash_gone_on_from_shows_nothing_new() {
    must_hold(Variant::Stated, raised(Bounds { keys: 1, every_crash: true, ..SMALL }));
}

#[test]
fn removals_of_absent_keys_do_no_harm() {
    must_hold(Variant::Stated, raised(Bounds { keys: 1, blind: true, ..SMALL }));
}

#[test]
fn three_jobs_over_one_another_do_no_harm() {
    must_hold(Variant::Stated, raised(Bounds { keys: 1, jobs: 3, ..SMALL }));
}

#[test]
fn allowed_departures_lose_nothing() {
    for variant in ALLOWED {
        must_hold(variant, raised(Bounds { keys: 1, settles: variant != Variant::EverythingHides, ..SMALL }));
    }
}

/// A store with one key suffices to find nearly all of them.
#[test]
fn every_wrong_departure_is_convicted() {
    for variant in WRONG {
        let bounds = Bounds { keys: 1, segments: 3, settles: false, ..SMALL };
        let started = Instant::now();
        let found = [bounds, Bounds { keys: 2, ..bounds }]
            .into_iter()
            .find_map(|bounds| search(variant, bounds).err());
        let found = found.unwrap_or_else(|| panic!("{variant:?} passed"));
        println!("{variant:?}: {:.1?}: {} by {:?}", started.elapsed(), found.what, found.run);
    }
}

#[test]
fn a_departure_that_is_right_but_comes_to_no_end_is_found() {
    let found = search(Variant::EverythingHides, Bounds { jobs: 1, ..SMALL }).expect_err("it settles");
    println!("{} by {:?}", found.what, found.run);
    assert!(found.what.contains("left to compact"), "{}", found.what);
}
