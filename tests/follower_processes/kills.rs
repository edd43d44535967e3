//! Writers that are killed while followers read, and followers that are killed while a writer
//! writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use mapcask::{Follower, Snapshot, Store, Value};

use crate::child::{Child, command};
use crate::contents::{Contents, held, shown};
use crate::history::{self, ACCOUNTS_SUM, COUNTERS, Operation, PAIR, PAIR_SUM, number_in};
use crate::{differences, digest, options, scratch};

fn count_of(variable: &str, default: u64) -> u64 {
    let read = std::env::var(variable).ok();
    read.map_or(default, |count| count.parse().unwrap_or_else(|_| panic!("{variable} is no number: {count}")))
}

/// The values that one reader of a follower has seen. They never go back.
#[derive(Default)]
struct Seen {
    seq: u64,
    snapshot_seq: u64,
    read: [u64; COUNTERS.len()],
    in_snapshot: [u64; COUNTERS.len()],
}

fn numbers<const N: usize>(values: Vec<Option<Value>>) -> [u64; N] {
    let numbers: Vec<_> = values.iter().map(|value| number_in(value.as_deref().unwrap())).collect();
    numbers.try_into().unwrap()
}

fn rise<const N: usize>(seen: &mut [u64; N], now: [u64; N], kind: &str) {
    assert!(seen.iter().zip(&now).all(|(seen, now)| seen <= now), "{kind}: {now:?} after {seen:?}");
    *seen = now;
}

impl Seen {
    /// Checks the invariants of the history. A refresh may be under way.
    fn check(&mut self, follower: &Follower) {
        rise(std::array::from_mut(&mut self.seq), [follower.last_seq().0], "last_seq");
        let [a, b] = numbers(follower.multi_get(&PAIR).unwrap());
        assert_eq!(a + b, PAIR_SUM, "{a} and {b} are halves of two batches");
        rise(&mut self.read, numbers(follower.multi_get(&COUNTERS).unwrap()), "reads");
        let snapshot = follower.snapshot();
        rise(std::array::from_mut(&mut self.snapshot_seq), [snapshot.seq().0], "snapshots");
        rise(&mut self.in_snapshot, numbers(snapshot.multi_get(&COUNTERS).unwrap()), "counters in snapshots");
        let [a, b] = numbers(snapshot.multi_get(&PAIR).unwrap());
        assert_eq!((a + b, sum_of(&snapshot)), (PAIR_SUM, ACCOUNTS_SUM), "snapshot at {:?}", snapshot.seq());
    }
}

fn sum_of(snapshot: &Snapshot) -> u64 {
    let accounts = ["left", "right"].map(|name| snapshot.keyspace(name).unwrap());
    accounts.iter().flat_map(|accounts| accounts.iter()).map(|item| number_in(&item.unwrap().1)).sum()
}

/// Stops the threads of a test at its end, also after a failed assertion.
pub(crate) struct Stop<'s>(pub(crate) &'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        // The threads are joined later.
        self.0.store(true, Relaxed);
    }
}

/// The store and its history as far as it is known.
struct Chain<'c> {
    path: &'c Path,
    seed: u64,
    rng: fastrand::Rng,
    /// The contents after the operation with this number.
    contents: Contents,
    number: u64,
    /// The follower that a thread refreshes all the time, and the one that is refreshed now and then.
    busy: &'c Follower,
    rare: &'c Follower,
    seen: Seen,
    jumps: u64,
    in_recovery: u64,
    unacknowledged: u64,
}

impl Chain<'_> {
    /// Runs one writer until it is killed after a random number of reports, then compares.
    fn live_and_die(&mut self, round: u64) {
        let in_steps = self.rng.u8(0..3) == 0;
        let mut command = command();
        command.envs(history::variables(self.seed, self.number, in_steps));
        let mut writer = Child::start_as(command, "write", self.path);
        let most = if in_steps { 4 } else { 1 << self.rng.u32(2..13) };
        let reports = self.rng.u64(0..=most);
        // In every third round the follower is refreshed after the kill only.
        let spacing = if round.is_multiple_of(3) { u64::MAX } else { 1 << self.rng.u32(3..9) };
        let (mut done, mut last, mut was_opened) = (self.number, 0, false);
        let mut take = |report: String| match report.split(' ').collect::<Vec<_>>()[..] {
            ["done", number, seq] => (done, last) = (number.parse().unwrap(), seq.parse::<u64>().unwrap()),
            ["opened", found] => {
                assert_eq!(found, digest(&self.contents).to_string(), "round {round}: the writer finds");
                was_opened = true;
            }
            _ => {}
        };
        for _ in 0..reports {
            let report = writer.report();
            let report = report.unwrap_or_else(|| panic!("round {round}: the writer ended by itself"));
            if in_steps && !report.starts_with("done") {
                writer.order("");
            }
            take(report);
            if self.rng.u64(0..spacing) == 0 {
                self.jumps += u64::from(self.rare.refresh().unwrap().jumped);
                self.seen.check(self.rare);
            }
        }
        if self.rng.bool() {
            // Chooses a moment between two reports, whose steps cannot be seen from outside.
            (0..self.rng.u32(0..1 << 16)).for_each(|_| std::hint::spin_loop());
        }
        writer.kill().into_iter().for_each(&mut take);
        self.in_recovery += u64::from(!was_opened);
        self.catch_up(done, last, round);
    }

    /// Compares what the followers show with the acknowledged operations. One more may be there.
    fn catch_up(&mut self, done: u64, last: u64, round: u64) {
        for number in self.number + 1..=done {
            Operation::draw(self.seed, number, &self.contents).apply(&mut self.contents);
        }
        self.number = done;
        let mut next = self.contents.clone();
        Operation::draw(self.seed, done + 1, &next).apply(&mut next);
        let refreshed = self.rare.refresh().unwrap();
        self.jumps += u64::from(refreshed.jumped);
        assert!(refreshed.seq.0 >= last, "round {round}: {refreshed:?} lacks acknowledged {last}");
        self.seen.check(self.rare);
        let found = shown(self.rare);
        if found != self.contents && found == next {
            (self.contents, self.number) = (next, done + 1);
            self.unacknowledged += 1;
        }
        self.busy.refresh().unwrap();
        let new = Follower::open(self.path).unwrap();
        for (name, follower) in [("rare", self.rare), ("busy", self.busy), ("new", &new)] {
            let wrong = differences(&shown(follower), &self.contents);
            assert!(
                wrong.is_empty(),
                "round {round}, {name} follower after {done}: {wrong:?} ({refreshed:?})"
            );
            assert!(follower.last_seq().0 >= last);
        }
    }

    /// Opens the store in this process, compares, writes, and closes it.
    fn look_and_close(&mut self) {
        let store = history::options().open(self.path).unwrap();
        let wrong = differences(&held(&store), &self.contents);
        assert!(wrong.is_empty(), "an open finds: {wrong:?}");
        assert_eq!(store.verify().unwrap().keys, keys(&self.contents));
        for _ in 0..self.rng.u32(0..100) {
            self.number += 1;
            let operation = Operation::draw(self.seed, self.number, &self.contents);
            operation.carry_out(&store).unwrap();
            operation.apply(&mut self.contents);
        }
        let is_before = self.rng.bool();
        if is_before {
            self.assert_shown("before the close");
        }
        store.close().unwrap();
        if !is_before || self.rng.bool() {
            self.assert_shown("after the close");
        }
    }

    /// Refreshes both followers, and compares.
    fn assert_shown(&mut self, when: &str) {
        for (name, follower) in [("rare", self.rare), ("busy", self.busy)] {
            let refreshed = follower.refresh().unwrap();
            let wrong = differences(&shown(follower), &self.contents);
            assert!(wrong.is_empty(), "{when}, {name} follower: {wrong:?} ({refreshed:?})");
            assert_eq!(follower.verify().unwrap().keys, keys(&self.contents), "{when}, {name} follower");
        }
        self.seen.check(self.rare);
    }
}

fn keys(contents: &Contents) -> u64 {
    contents.values().map(|map| map.len() as u64).sum()
}

/// The work of the threads that read beside the writers.
#[derive(Debug, Default)]
struct Readers {
    is_over: AtomicBool,
    refreshes: AtomicU64,
    jumps: AtomicU64,
    checks: AtomicU64,
    opens: AtomicU64,
}

impl Readers {
    /// Refreshes a follower all the time.
    fn refresh(&self, follower: &Follower) {
        let mut last = 0;
        while !self.is_over.load(Relaxed) {
            let refreshed = follower.refresh().unwrap();
            assert!(refreshed.seq.0 >= last, "{refreshed:?} after {last}");
            last = refreshed.seq.0;
            self.refreshes.fetch_add(1, Relaxed);
            self.jumps.fetch_add(u64::from(refreshed.jumped), Relaxed);
            thread::yield_now();
        }
    }

    /// Checks a follower that is being refreshed.
    fn check(&self, follower: &Follower) {
        let mut seen = Seen::default();
        while !self.is_over.load(Relaxed) {
            seen.check(follower);
            self.checks.fetch_add(1, Relaxed);
            thread::yield_now();
        }
    }

    /// Opens followers all the time.
    fn open(&self, path: &Path) {
        let mut seen = Seen::default();
        while !self.is_over.load(Relaxed) {
            let new = Follower::open(path).unwrap();
            // A recovery may drop records of the log itself, which have numbers as well.
            (seen.seq, seen.snapshot_seq) = (0, 0);
            seen.check(&new);
            self.opens.fetch_add(1, Relaxed);
            thread::yield_now();
        }
    }
}

#[test]
fn followers_are_exact_while_writers_are_killed() {
    let rounds = count_of("MAPCASK_FOLLOWED", 20);
    let seed = count_of("MAPCASK_SEED", fastrand::u64(..));
    println!("seed {seed}");
    let mut folder = scratch();
    // The files of a failure are evidence.
    folder.disable_cleanup(true);
    let path = folder.path().join("store");
    history::create(&path);
    let (busy, rare) = (Follower::open(&path).unwrap(), Follower::open(&path).unwrap());
    let mut chain = Chain {
        path: &path,
        seed,
        rng: fastrand::Rng::with_seed(seed),
        contents: history::initial(),
        number: 0,
        busy: &busy,
        rare: &rare,
        seen: Seen::default(),
        jumps: 0,
        in_recovery: 0,
        unacknowledged: 0,
    };
    let readers = Readers::default();
    thread::scope(|scope| {
        let _stop = Stop(&readers.is_over);
        scope.spawn(|| readers.refresh(&busy));
        scope.spawn(|| readers.check(&busy));
        scope.spawn(|| readers.open(&path));
        for round in 0..rounds {
            chain.live_and_die(round);
            if chain.rng.u8(0..4) == 0 {
                chain.look_and_close();
            }
        }
    });
    chain.look_and_close();
    chain.assert_shown("at the end");
    assert!(rounds < 20 || chain.number > rounds, "hardly anything was written");
    let Chain { in_recovery, number, unacknowledged, jumps, .. } = chain;
    println!(
        "kills: {rounds} ({in_recovery} before the store was open), {number} operations ({unacknowledged} shown \
         without having been acknowledged), {jumps} jumps, {readers:?}"
    );
    folder.disable_cleanup(false);
}

// ---- Killed followers ---------------------------------------------------------------------------

/// The cost of a store to its system and its process.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    names: Vec<String>,
    segments: usize,
    segment_bytes: u64,
    removed_bytes_in_use: u64,
    /// The number of descriptors of each file.
    descriptors: BTreeMap<String, usize>,
    /// The number of mappings of each file, by access.
    mappings: BTreeMap<(String, String), usize>,
}

impl Cost {
    fn of(store: &Store, path: &Path) -> Self {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let folder = path.to_str().unwrap();
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/fd").unwrap() {
            // Other tests of this process open and close files meanwhile.
            let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
            if let Some(name) = target.to_str().and_then(|target| target.strip_prefix(folder)) {
                *descriptors.entry(name.to_owned()).or_default() += 1;
            }
        }
        let mut mappings = BTreeMap::new();
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            if let Some((head, name)) = line.split_once(folder) {
                let access = head.split(' ').nth(1).unwrap().to_owned();
                *mappings.entry((name.to_owned(), access)).or_default() += 1;
            }
        }
        let stats = store.stats();
        let (segments, segment_bytes) = (stats.segments, stats.segment_bytes);
        let removed_bytes_in_use = stats.removed_bytes_in_use;
        Self { names, segments, segment_bytes, removed_bytes_in_use, descriptors, mappings }
    }
}

/// The number of followers that are killed.
const FOLLOWERS: u64 = 100;

/// Writes a fixed history with a step after each tenth of a round. Returns the cost at the end of
/// each tenth round.
fn costs(path: &Path, mut beside: impl FnMut(u64)) -> Vec<Cost> {
    let store = options().open(path).unwrap();
    store.keyspace("users").unwrap();
    let mut costs = Vec::new();
    for round in 0..FOLLOWERS {
        for n in 0..50 {
            store.insert(format!("{}", (round * 7 + n) % 120), [7; 900]).unwrap();
            if n % 5 == 0 {
                beside(round);
            }
        }
        if round % 10 == 9 {
            store.compact().unwrap();
            costs.push(Cost::of(&store, path));
        }
    }
    assert!(store.stats().compaction.segments_removed > 0);
    costs
}

#[test]
fn killed_followers_cost_their_writer_nothing() {
    let scratch = scratch();
    let alone = costs(&scratch.path().join("alone"), |_| {});
    let path = scratch.path().join("followed");
    let mut rng = fastrand::Rng::new();
    let mut followers: Vec<(u64, Child)> = Vec::new();
    let (mut started, mut looks) = (0, 0);
    let followed = costs(&path, |round| {
        if started <= round {
            followers.push((rng.u64(0..30), Child::start("refresh", &path)));
            started += 1;
        }
        // Some live for several rounds, so that compaction removes files that they have mapped.
        let which = rng.usize(0..followers.len().max(1));
        let is_full = followers.len() > 8;
        let Some((left, follower)) = followers.get_mut(which) else { return };
        if *left == 0 || is_full {
            followers.swap_remove(which).1.kill();
        } else {
            follower.report().expect("it follows until it is killed");
            (*left, looks) = (*left - 1, looks + 1);
        }
    });
    let alive = followers.len();
    followers.into_iter().for_each(|(_, follower)| drop(follower.kill()));
    assert_eq!(started, FOLLOWERS);
    println!("{started} followers were killed, {alive} of them at the end, after {looks} reports");
    assert_eq!(alone, followed);
}
