//! Processes killed at random moments: nothing acknowledged is missing, nothing is there that was not written.
//!
//! One store lives through many kills, some of them while it recovers from the one before. `MAPCASK_KILLS` sets how
//! many; `MAPCASK_SEED` repeats a run's operations (not its timing). The judge is in `support::history`; the tests at
//! the foot show that it can convict.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::time::Instant;

use mapcask::Durability;

use support::history::{Action, Begun, Death, History, Observed, Operation, RunRecord, THREADS};
use support::{Chain, Fate, Totals};

/// Deaths of one store: without compaction its files only grow.
const DEATHS_PER_STORE: u64 = 50;
const DURABILITIES: [Durability; 6] = {
    use Durability::{Disk, Interval, Os};
    [Os, Os, Os, Os, Interval, Disk]
};

#[test]
fn a_process_that_writes_until_it_dies() {
    support::writer::write_until_killed();
}

#[test]
fn after_any_kill_each_thread_finds_exactly_what_it_was_told_and_no_more_than_what_was_under_way() {
    let kills = support::count_of("MAPCASK_KILLS", 20);
    let seed = support::count_of("MAPCASK_SEED", fastrand::u64(..));
    let mut rng = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let mut sum = Totals::default();
    while sum.deaths < kills {
        let mut folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // What a failure leaves is evidence.
        folder.disable_cleanup(true);
        let mut chain = Chain::new(rng.u64(..), folder.path(), &folder.path().join("store"));
        for _ in 0..DEATHS_PER_STORE.min(kills - sum.deaths) {
            let fate = Fate::draw(&mut rng, &DURABILITIES);
            chain.live_and_die(&mut rng, fate, None);
            // The others leave it to the next process to recover, and may die of a kill doing so.
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
    // Few kills may all come before the first write.
    assert!(deaths < 20 || acknowledged >= deaths, "hardly anything was written: {sum:?}");
    println!(
        "kills: {deaths} ({in_recovery} of them in recovery), {acknowledged} operations acknowledged, {torn} torn \
         writes met, {:.1} kills/s, seed {seed}",
        deaths as f64 / begun.elapsed().as_secs_f64()
    );
}

// ---- The judge can convict ------------------------------------------------------------------------------------------

const SEED: u64 = 7;
const RUN: u32 = 1;

/// A run in which each thread had `count` operations acknowledged, all at the same pace.
fn record(count: usize) -> RunRecord {
    let begun = |at| Begun { seen: [at; THREADS], covers: false };
    RunRecord {
        run: RUN,
        begun: std::array::from_fn(|_| (0..count).map(begun).collect()),
        acknowledged: [count; THREADS],
    }
}

/// What is left of the first operations of each thread.
fn left(lengths: [usize; THREADS]) -> Observed {
    let mut observed = Observed::default();
    for (thread, length) in lengths.into_iter().enumerate() {
        for number in 1..=length {
            apply(&mut observed, &Operation::nth(SEED, RUN, thread, number));
        }
    }
    observed
}

fn apply(observed: &mut Observed, operation: &Operation) {
    for (key, value) in operation.effect() {
        match value {
            Some(value) => observed.state.insert(key.to_vec(), value.to_vec()),
            None => observed.state.remove(key),
        };
    }
}

fn judge(record: &RunRecord, observed: &Observed, death: Death) -> Result<u64, String> {
    let mut history = History::new(SEED);
    history.append(record);
    history.check(observed, death)
}

/// The number of the first operation of thread 0 after `from` that is of a kind.
fn next_of(from: usize, wanted: impl Fn(&Operation) -> bool) -> usize {
    (from..).find(|number| wanted(&Operation::nth(SEED, RUN, 0, *number))).unwrap()
}

#[test]
fn a_lost_acknowledged_write_is_convicted_after_a_kill_and_not_after_a_power_cut() {
    let count = next_of(100, |operation| operation.writes.iter().any(|(_, value)| value.is_some()));
    let all = [count; THREADS];
    let lost = [count - 1, count, count, count];
    assert_eq!(judge(&record(count), &left(all), Death::Killed), Ok(0));
    assert!(judge(&record(count), &left(lost), Death::Killed).is_err());
    let without_the_end = [count - 1; THREADS];
    assert_eq!(
        judge(&record(count), &left(without_the_end), Death::PowerCut).map(|taken| taken > 0),
        Ok(true)
    );
}

#[test]
fn a_write_under_way_may_be_there_or_not() {
    let count = next_of(100, |operation| operation.writes.iter().any(|(_, value)| value.is_some()));
    let mut record = record(count);
    record.acknowledged[0] -= 1;
    for lengths in [[count; THREADS], [count - 1, count, count, count]] {
        assert_eq!(judge(&record, &left(lengths), Death::Killed), Ok(0));
    }
    assert!(judge(&record, &left([count - 2, count, count, count]), Death::Killed).is_err());
}

#[test]
fn half_a_batch_is_convicted() {
    let puts = |operation: &Operation| operation.effect().values().filter(|value| value.is_some()).count();
    let count = next_of(100, |operation| operation.action == Action::Batch && puts(operation) >= 2);
    let mut record = record(count);
    record.acknowledged[0] -= 1;
    let mut observed = left([count - 1, count, count, count]);
    let mut operation = Operation::nth(SEED, RUN, 0, count);
    let at = operation.writes.iter().position(|(_, value)| value.is_some()).unwrap();
    operation.writes.truncate(at + 1);
    apply(&mut observed, &operation);
    for death in [Death::Killed, Death::PowerCut] {
        assert!(judge(&record, &observed, death).is_err());
    }
}

#[test]
fn an_invented_key_an_older_value_and_a_damaged_one_are_convicted() {
    let count = 200;
    let all = left([count; THREADS]);
    let mut invented = all.clone();
    invented.state.insert(b"stranger".to_vec(), b"value".to_vec());
    let mut older = all.clone();
    let early = left([50; THREADS]);
    let (key, value) = early.state.iter().find(|(key, value)| all.state.get(*key) != Some(*value)).unwrap();
    older.state.insert(key.clone(), value.clone());
    let mut damaged = all.clone();
    damaged.state.values_mut().next().unwrap()[0] ^= 1;
    for observed in [invented, older, damaged] {
        for death in [Death::Killed, Death::PowerCut] {
            assert!(judge(&record(count), &observed, death).is_err());
        }
    }
}

#[test]
fn a_hole_between_threads_and_a_lost_durable_write_are_convicted_after_a_power_cut() {
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
