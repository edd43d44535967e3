//! Tests that a killed process loses no acknowledged write and leaves nothing that was not written.
//!
//! One store survives many kills, some of them during the recovery from the kill before.
//! `MAPCASK_KILLS` sets their number. `MAPCASK_SEED` repeats a run's operations, but not its
//! timing. `support::history` judges the result; the tests at the end of this file show that it can
//! convict.

#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeSet;
use std::time::Instant;

use mapcask::Durability;

use support::history::{Begun, Death, History, Observed, RunRecord, THREADS};
use support::operation::{Action, Change, Effect, Operation, Place, State};
use support::{Chain, Fate, Totals};

/// The deaths of one store: without compaction its files only grow.
const DEATHS_PER_STORE: u64 = 50;
const DURABILITIES: [Durability; 6] = {
    use Durability::{Disk, Interval, Os};
    [Os, Os, Os, Os, Interval, Disk]
};

#[test]
fn child_writes_until_it_is_killed() {
    support::writer::write_until_killed();
}

#[test]
fn killed_process_keeps_every_acknowledged_write() {
    let kills = support::count_of("MAPCASK_KILLS", 20);
    let seed = support::count_of("MAPCASK_SEED", fastrand::u64(..));
    let mut rng = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let mut sum = Totals::default();
    while sum.deaths < kills {
        let mut folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // The files of a failure are evidence.
        folder.disable_cleanup(true);
        let mut chain = Chain::new(rng.u64(..), folder.path(), &folder.path().join("store"));
        for _ in 0..DEATHS_PER_STORE.min(kills - sum.deaths) {
            let fate = Fate::draw(&mut rng, &DURABILITIES);
            chain.live_and_die(&mut rng, fate, None);
            // Otherwise the next process recovers, and may be killed during that.
            if rng.u8(0..4) == 0 {
                chain.look_and_close();
            }
        }
        chain.look_and_close();
        folder.disable_cleanup(false);
        sum.deaths += chain.totals.deaths;
        sum.acknowledged += chain.totals.acknowledged;
        sum.in_recovery += chain.totals.in_recovery;
        sum.torn += chain.totals.torn;
    }
    let Totals { deaths, acknowledged, in_recovery, torn, .. } = sum;
    // A few kills may all happen before the first write.
    assert!(deaths < 20 || acknowledged >= deaths, "hardly anything was written: {sum:?}");
    println!(
        "kills: {deaths} ({in_recovery} of them in recovery), {acknowledged} operations acknowledged, {torn} torn \
         writes met, {:.1} kills/s, seed {seed}",
        deaths as f64 / begun.elapsed().as_secs_f64()
    );
}

// ---- The judge can convict ----------------------------------------------------------------------

const SEED: u64 = 7;
const RUN: u32 = 1;

/// Returns a run in which `count` operations of each thread were acknowledged, all at the same
/// pace.
fn record(count: usize) -> RunRecord {
    let begun = |at| Begun { seen: [at; THREADS], covers: false };
    RunRecord {
        run: RUN,
        begun: std::array::from_fn(|_| (0..count).map(begun).collect()),
        acknowledged: [count; THREADS],
    }
}

/// Returns the state that the first operations of a thread leave.
fn part(thread: usize, length: usize) -> State {
    let mut state = State::default();
    for number in 1..=length {
        Operation::draw(SEED, RUN, thread, number, &state).apply(&mut state);
    }
    state
}

/// Returns the state that the first operations of each thread leave.
fn left(lengths: [usize; THREADS]) -> Observed {
    let mut state = State::default();
    for (thread, length) in lengths.into_iter().enumerate() {
        state.0.extend(part(thread, length).0);
    }
    Observed { state, ..Observed::default() }
}

fn judge(record: &RunRecord, observed: &Observed, death: Death) -> Result<u64, String> {
    let mut history = History::new(SEED);
    history.append(record);
    history.check(observed, death)
}

/// Returns the first operation of thread 0 from `from` on that `wanted` picks by the states before
/// and after it.
fn next_of(from: usize, wanted: impl Fn(&Operation, &State, &State) -> bool) -> (usize, Operation) {
    let mut before = part(0, from - 1);
    for number in from.. {
        let operation = Operation::draw(SEED, RUN, 0, number, &before);
        let mut after = before.clone();
        operation.apply(&mut after);
        if wanted(&operation, &before, &after) {
            return (number, operation);
        }
        before = after;
    }
    unreachable!("the history has no end");
}

fn changes(_: &Operation, before: &State, after: &State) -> bool {
    before != after
}

/// Returns the number of the operation that `wanted` picks, the record of a run that died in it,
/// and the state without it.
fn died_in(wanted: impl Fn(&Operation, &State, &State) -> bool) -> (usize, RunRecord, Observed) {
    let (count, _) = next_of(100, wanted);
    let mut record = record(count);
    record.acknowledged[0] -= 1;
    (count, record, left([count - 1, count, count, count]))
}

fn is_convicted(record: &RunRecord, observed: &Observed) -> bool {
    [Death::Killed, Death::PowerCut].into_iter().all(|death| judge(record, observed, death).is_err())
}

#[test]
fn lost_acknowledged_write_is_convicted_only_after_a_kill() {
    type Wanted = fn(&Operation) -> bool;
    // Every kind of write, so that the judge misses none.
    let kinds: [Wanted; 7] = [
        |operation| matches!(operation.action, Action::Key(_, Change::Insert(_) | Change::Remove)),
        |operation| matches!(operation.action, Action::Key(_, Change::Swap(..))),
        |operation| matches!(operation.action, Action::Batch(..)),
        |operation| matches!(operation.action, Action::Create(_)),
        |operation| matches!(operation.action, Action::Clear(_)),
        |operation| matches!(operation.action, Action::Drop(_)),
        |operation| matches!(operation.action, Action::Rename(..)),
    ];
    for kind in kinds {
        let wanted = |operation: &Operation, before: &State, after: &State| {
            kind(operation) && changes(operation, before, after)
        };
        let (count, _) = next_of(100, wanted);
        assert_eq!(judge(&record(count), &left([count; THREADS]), Death::Killed), Ok(0));
        let lost = left([count - 1, count, count, count]);
        assert!(judge(&record(count), &lost, Death::Killed).is_err());
        let without_the_end = left([count - 1; THREADS]);
        let judged = judge(&record(count), &without_the_end, Death::PowerCut);
        assert_eq!(judged.map(|taken| taken > 0), Ok(true));
    }
}

#[test]
fn a_write_under_way_may_be_there_or_not() {
    let (count, record, without) = died_in(changes);
    for observed in [left([count; THREADS]), without] {
        assert_eq!(judge(&record, &observed, Death::Killed), Ok(0));
    }
    let (earlier, _) = next_of(50, changes);
    assert!(judge(&record, &left([earlier - 1, count, count, count]), Death::Killed).is_err());
}

#[test]
fn half_a_batch_is_convicted_in_one_keyspace_and_across_two() {
    for across in [false, true] {
        // A wanted batch inserts into two places, so that each half changes something.
        let puts = |operation: &Operation| -> Vec<(Place, Vec<u8>)> {
            let Action::Batch(_, writes) = &operation.action else { return Vec::new() };
            writes.iter().filter_map(|(place, value)| Some((place.clone(), value.clone()?))).collect()
        };
        let is_wanted = |operation: &Operation, before: &State, after: &State| {
            let puts = puts(operation);
            let (Some((first, value)), Some((last, _))) = (puts.first(), puts.last()) else { return false };
            let is_done = after.get(first) == Some(value) && changes(operation, before, after);
            is_done && first != last && (first.keyspace != last.keyspace) == across
        };
        let (count, record, mut observed) = died_in(is_wanted);
        let (_, operation) = next_of(count, is_wanted);
        let (place, value) = puts(&operation).swap_remove(0);
        observed.state.set(&place, Some(value));
        assert!(is_convicted(&record, &observed), "across keyspaces: {across}");
    }
}

#[test]
fn half_a_change_of_a_keyspace_is_convicted() {
    type Wanted = fn(&Operation) -> bool;
    let kinds: [Wanted; 3] = [
        |operation| matches!(operation.action, Action::Clear(_)),
        |operation| matches!(operation.action, Action::Drop(_)),
        |operation| matches!(operation.action, Action::Rename(..)),
    ];
    for kind in kinds {
        let (count, record, before) = died_in(|operation, before, after| {
            kind(operation) && before.0.keys().filter(|place| after.get(place).is_none()).count() > 2
        });
        let after = left([count; THREADS]);
        let gone = |place: &&Place| after.state.get(place).is_none() && place.key.is_some();
        let key = before.state.0.keys().find(gone).unwrap();
        // One key came back, with its keyspace if that was removed; or one key was removed too
        // early.
        let mut partly = after.clone();
        partly.state.set(&Place::keyspace(&key.keyspace), Some(Vec::new()));
        partly.state.set(key, before.state.get(key).cloned());
        let mut early = before.clone();
        early.state.set(key, None);
        for observed in [partly, early] {
            assert!(is_convicted(&record, &observed));
        }
    }
}

#[test]
fn unwritten_older_and_damaged_values_are_convicted() {
    let count = 200;
    let all = left([count; THREADS]);
    let named = all.state.names().find(|name| all.state.keys(name).next().is_some()).unwrap();
    let early = left([50; THREADS]);
    let is_old =
        |(place, value): &(&Place, &Vec<u8>)| place.key.is_some() && all.state.get(place) != Some(*value);
    let (old_place, old_value) = early.state.0.iter().find(is_old).unwrap();
    let in_named = all.state.keys(named).next().unwrap();
    let damaged = |place: &Place| {
        let mut value = all.state.get(place).unwrap().clone();
        value[0] ^= 1;
        value
    };
    let in_default = all.state.keys("").next().unwrap();
    let place = |keyspace: &str, key: &[u8]| Place { keyspace: keyspace.to_owned(), key: Some(key.to_vec()) };
    let value = b"value".to_vec();
    for (place, value) in [
        (place("", b"stranger"), Some(value.clone())),
        (place("", b"0/stranger"), Some(value.clone())),
        (place(named, b"stranger"), Some(value)),
        (Place::keyspace("stranger"), Some(Vec::new())),
        (Place::keyspace("0 stranger"), Some(Vec::new())),
        (old_place.clone(), Some(old_value.clone())),
        (in_default.clone(), Some(damaged(in_default))),
        (in_named.clone(), Some(damaged(in_named))),
        // The value has the right age and the wrong place.
        (place(named, b"0/00"), all.state.get(in_default).cloned()),
        (in_named.clone(), None),
    ] {
        let mut observed = all.clone();
        observed.state.set(&place, value);
        assert!(is_convicted(&record(count), &observed), "{place}");
    }
    // A keyspace is missing with all its keys.
    let mut observed = all.clone();
    observed.state.0.retain(|place, _| place.keyspace != named);
    assert!(is_convicted(&record(count), &observed));
}

#[test]
fn hole_and_lost_durable_write_are_convicted_after_a_power_cut() {
    let count = 200;
    assert_eq!(
        judge(&record(count), &left([100; THREADS]), Death::PowerCut).map(|taken| taken > 0),
        Ok(true)
    );
    let complaint = judge(&record(count), &left([100, 150, 100, 100]), Death::PowerCut).unwrap_err();
    assert!(complaint.contains("a hole"), "{complaint}");
    let mut flushed = record(count);
    flushed.begun[3][149].covers = true;
    assert!(judge(&flushed, &left([100; THREADS]), Death::PowerCut).is_err());
    assert!(judge(&flushed, &left([150; THREADS]), Death::PowerCut).is_ok());
}

#[test]
fn observed_content_reaches_the_parent_process_unchanged() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("found");
    let observed = Observed { torn_bytes: 3, quarantined_records: 4, ..left([200; THREADS]) };
    std::fs::write(&path, observed.encode()).unwrap();
    assert_eq!(Observed::read(&path), observed);
}

/// The kinds of operations and answers that a history must contain.
const IN_HISTORY: [&str; 32] = [
    "Batch over 1: ConditionFailed, wrote nothing",
    "Batch over 1: Done, wrote",
    "Batch over 2: ConditionFailed, wrote nothing",
    "Batch over 2: Done, wrote",
    "Batch over 3: ConditionFailed, wrote nothing",
    "Batch over 3: Done, wrote",
    "Clear: Done, wrote",
    "Clear: Done, wrote nothing",
    "Compact: Done, wrote nothing",
    "Create: Done, wrote",
    "Create: Done, wrote nothing",
    "Drop: Said, wrote",
    "Drop: Said, wrote nothing",
    "FetchAndUpdate: Value, wrote",
    "Flush: Done, wrote nothing",
    "Image: Done, wrote nothing",
    "Insert: Done, wrote",
    "InsertIfAbsent: Said, wrote",
    "InsertIfAbsent: Said, wrote nothing",
    "Remove: Said, wrote",
    "Remove: Said, wrote nothing",
    "Rename: Done, wrote",
    "Rename: Done, wrote nothing",
    "Rename: KeyspaceExists, wrote nothing",
    "Rename: KeyspaceNotFound, wrote nothing",
    "Replace: Value, wrote",
    "Swap: Done, wrote",
    "Swap: Done, wrote nothing",
    "Swap: Missed, wrote nothing",
    "Take: Value, wrote",
    "Take: Value, wrote nothing",
    "UpdateAndFetch: Value, wrote",
];

#[test]
fn the_history_holds_every_operation_with_every_answer() {
    let first_word = |text: String| text.split(['(', ' ']).next().unwrap().to_owned();
    let mut state = State::default();
    let mut met = BTreeSet::new();
    for number in 1..=6000 {
        let operation = Operation::draw(SEED, RUN, 0, number, &state);
        let Effect { answer, wrote, .. } = operation.apply(&mut state);
        let what = match &operation.action {
            Action::Key(_, change) => first_word(format!("{change:?}")),
            Action::Batch(_, writes) => {
                let keyspaces: BTreeSet<_> = writes.iter().map(|(place, _)| &place.keyspace).collect();
                format!("Batch over {}", keyspaces.len())
            }
            action => first_word(format!("{action:?}")),
        };
        let answer = first_word(format!("{answer:?}"));
        met.insert(format!("{what}: {answer}, wrote{}", if wrote { "" } else { " nothing" }));
    }
    assert_eq!(met.iter().map(String::as_str).collect::<Vec<_>>(), IN_HISTORY);
}
