//! Group commit: many writers wait for durability, and one of them at a time makes the sync call
//! for all.
//!
//! It knows no files: the sync call is a closure, and its result is a sequence number. There are no
//! timers. A group is the set of callers that came during the previous sync, and the writers that
//! it released and that come back at once. So groups grow with the cost of a sync, up to all
//! writers.
//!
//! **Concurrency.** One mutex guards the line of waiters. No sync runs and no thread is woken with
//! it held. A caller that finds no leader becomes the leader. After its sync, a leader does two
//! things without releasing the lead in between:
//!
//! - it releases exactly the waiters whose goal is reached;
//! - it makes the first of the others the next leader.
//!
//! So a sync wakes no thread in vain, however many wait. A leader yields until its group is
//! complete, no caller comes, or the processors are busy. The durable number and the first failure
//! are written with the mutex held and read without it.
//!
//! **Invariants.**
//!
//! - A line that is not empty has a leader, running or called (I9). `WaitingLine::settle` is the
//!   only way out of the line, and restores this.
//! - The durable number only rises, and never after a failure. The kernel reports a lost write
//!   once, so a later successful sync proves nothing about the writes of the failed one.
//! - For that reason one thread at a time syncs an open file ([`SyncTurn`]). A success proves
//!   nothing while another thread may have received a failure that is not recorded yet.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::format::Seq;
use crate::log::waiting_line::{Goal, Turn, WaitingLine, call};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, yield_briefly};
use crate::trace;

/// The number of times that a leader yields for a caller to join its group. Where no thread can
/// run, that takes some 10 microseconds.
const PATIENCE: u32 = if cfg!(loom) { 1 } else { 40 };

/// The durable end of a log, and the callers that wait for it to rise.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    /// The highest sequence number that is durable together with all before it.
    durable: AtomicU64,
    /// True if `Waiters::cause` is set.
    poisoned: AtomicBool,
    groups: AtomicU64,
    waits: AtomicU64,
    /// The number of times that a leader yields for a caller to join its group.
    patience: u32,
    /// A yield. It returns false if it took long.
    pause: fn() -> bool,
    line: Mutex<WaitingLine>,
    watcher: OnceLock<Arc<dyn CommitWatcher>>,
}

/// A place at which other processes see the state of a commit.
pub(crate) trait CommitWatcher: Send + Sync + fmt::Debug {
    /// Stores the durable number. Called with the mutex held, by one leader after the other, so the
    /// number only rises, and never after a failure.
    fn set_durable(&self, durable: Seq);
    /// Wakes those who wait for it.
    fn wake_for_durable(&self);
    /// Tells that there was a failure. Called once.
    fn set_failed(&self);
}

/// The right to make a sync call on one open file.
///
/// The kernel reports a lost write once per open file, to the first caller. A caller keeps the turn
/// until the failure of its call is recorded, so that the next one cannot take its own success for
/// a proof.
#[derive(Debug)]
pub(crate) struct SyncTurn(Mutex<()>);

impl SyncTurn {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(()))
    }
}

impl GroupCommit {
    /// Starts with everything up to `durable` known to be durable.
    pub(crate) fn new(durable: Seq) -> Self {
        Self {
            durable: AtomicU64::new(durable.0),
            poisoned: AtomicBool::new(false),
            groups: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            patience: PATIENCE,
            pause: yield_briefly,
            line: Mutex::new(WaitingLine::new()),
            watcher: OnceLock::new(),
        }
    }

    /// Starts with a refusal, for a read-only store. It is no failure, and callers receive it as it
    /// is.
    pub(crate) fn refusing(durable: Seq, error: Error) -> Self {
        let commit = Self::new(durable);
        commit.keep(error);
        commit
    }

    /// Shows the state at a place from now on. Called once, before the first write.
    pub(crate) fn show_at(&self, watcher: Arc<dyn CommitWatcher>) {
        assert!(self.watcher.set(watcher).is_ok(), "shown at one place");
    }

    /// Returns the highest sequence number that is durable together with all before it.
    pub(crate) fn durable(&self) -> Seq {
        // Acquire: pairs with the release in `lift`. A reader of the number sees the effects of the
        // sync.
        Seq(self.durable.load(Ordering::Acquire))
    }

    /// Returns the number of sync calls that were begun.
    pub(crate) fn groups(&self) -> u64 {
        // Relaxed: a statistic; it orders nothing.
        self.groups.load(Ordering::Relaxed)
    }

    /// Returns the number of calls that found their range not yet durable.
    pub(crate) fn waits(&self) -> u64 {
        // Relaxed: a statistic; it orders nothing.
        self.waits.load(Ordering::Relaxed)
    }

    /// Waits until everything up to `seq` is durable.
    ///
    /// The caller that leads calls `sync`, without a lock. `sync` makes everything durable that was
    /// appended when it was called, and returns the highest number for which that holds. It must
    /// not wait for this `GroupCommit`. A leader whose own sync stops short of `seq` queues again.
    /// So `seq` must have been appended: otherwise `sync` is called for ever.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] with the first failure, if there was one before `seq` became durable.
    pub(crate) fn wait(&self, seq: Seq, mut sync: impl FnMut() -> Result<Seq>) -> Result<()> {
        if self.durable() >= seq {
            return Ok(());
        }
        self.reach(Some(seq), &mut sync)
    }

    /// Waits until a sync that began after this call has ended, whatever is durable already.
    ///
    /// This is for changes without a sequence number. `sync` is as in [`GroupCommit::wait`].
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] with the first failure.
    pub(crate) fn run(&self, mut sync: impl FnMut() -> Result<Seq>) -> Result<()> {
        self.reach(None, &mut sync)
    }

    /// Refuses all further waits with `error`, and releases all waiters with it. The first error
    /// stays for ever.
    pub(crate) fn poison(&self, error: Error) {
        self.report(self.keep(error));
    }

    /// Poisons like [`GroupCommit::poison`], without notifying subscribers. Returns the failure if
    /// it is the first.
    fn keep(&self, error: Error) -> Option<Arc<Error>> {
        let mut line = self.line.lock();
        let cause = self.fail(&mut line, error);
        let called = line.settle(self.durable());
        drop(line);
        call(called);
        cause
    }

    /// Makes one sync call on an open file, alone, and records its failure before another caller
    /// may make one.
    ///
    /// A success counts only if there was no failure before it. The kernel may have reported the
    /// loss of this call's writes to the caller that had the turn before.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] with the first failure, which need not be this call's.
    pub(crate) fn sync_alone<R>(&self, turn: &SyncTurn, sync: impl FnOnce() -> Result<R>) -> Result<R> {
        let alone = turn.0.lock();
        let (done, cause) = match sync() {
            Ok(done) => (Some(done), None),
            Err(error) => (None, self.keep(error)),
        };
        drop(alone);
        self.report(cause);
        self.check()?;
        Ok(done.expect("a failure is kept, and found by the check"))
    }

    /// Fails if there was a failure. It costs one load if there was none.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] with the first failure, or [`Error::OpenedReadOnly`].
    pub(crate) fn check(&self) -> Result<()> {
        // Acquire: pairs with the release in `fail`. The cause itself is read under the mutex.
        if !self.poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        match &self.line.lock().cause {
            Some(cause) if matches!(**cause, Error::OpenedReadOnly { .. }) => Err(Error::clone(cause)),
            Some(cause) => Err(Error::Poisoned { cause: Arc::clone(cause) }),
            None => Ok(()),
        }
    }

    fn reach(&self, seq: Option<Seq>, sync: &mut dyn FnMut() -> Result<Seq>) -> Result<()> {
        // Relaxed: a statistic; it orders nothing.
        self.waits.fetch_add(1, Ordering::Relaxed);
        let goal = match seq {
            Some(seq) => Goal::Durable(seq),
            // The round under way began before this call, perhaps before the change to be synced.
            None => Goal::Round(self.line.lock().begun + 1),
        };
        loop {
            match self.line_up(goal) {
                Turn::Lead => self.lead(goal, sync),
                Turn::Done => return Ok(()),
                Turn::Failed => return self.check(),
                Turn::Wait => {}
            }
        }
    }

    /// Sleeps in the queue until the caller has something to do, unless it has at once.
    fn line_up(&self, goal: Goal) -> Turn {
        let mut line = self.line.lock();
        if line.reached(goal, self.durable()) {
            return Turn::Done;
        }
        if line.cause.is_some() {
            return Turn::Failed;
        }
        if !line.led {
            line.led = true;
            return Turn::Lead;
        }
        let waiter = line.join(goal);
        drop(line);
        waiter.await_turn()
    }

    /// Waits for the rest of the leader's group, for as long as that brings callers.
    ///
    /// Yielding lets the writers run that the last round released. A sleep instead would make one of
    /// them wake the leader, or need a timer.
    fn gather(&self) {
        let missing = self.line.lock().missing();
        let (mut left, mut idle, mut is_brief) = (missing, 0, true);
        while left > 0 && idle < self.patience && is_brief {
            is_brief = (self.pause)();
            let still = self.line.lock().missing();
            idle = if still < left { 0 } else { idle + 1 };
            left = still;
        }
        if missing > 0 {
            self.line.lock().gathering.end(is_brief && left * 2 <= missing);
        }
    }

    /// Makes one sync call for all and ends the round, even if the call panics.
    fn lead(&self, goal: Goal, sync: &mut dyn FnMut() -> Result<Seq>) {
        let mut lead = Lead { commit: self, outcome: None };
        self.gather();
        let mut line = self.line.lock();
        if line.cause.is_some() || line.reached(goal, self.durable()) {
            // `poison` or another round came between the call to lead and this. Newer waiters may
            // need a leader: dropping the lead passes it on.
            drop(line);
            return;
        }
        line.begun += 1;
        drop(line);
        // Relaxed: a statistic; it orders nothing.
        self.groups.fetch_add(1, Ordering::Relaxed);
        lead.outcome = Some(Err(Error::Panicked { operation: "a sync" }));
        lead.outcome = Some(sync());
    }

    /// Ends a round: records its outcome, releases the waiters it served, and calls the next
    /// leader.
    fn hand_over(&self, outcome: Option<Result<Seq>>) {
        let mut line = self.line.lock();
        let (mut cause, mut has_risen) = (None, false);
        match outcome {
            Some(Ok(seq)) if line.cause.is_none() => {
                line.ended = line.begun;
                has_risen = self.lift(&line, seq);
            }
            // Another failure came during the sync, and may be the only report of a write that this
            // one lost.
            Some(Ok(_)) | None => {}
            Some(Err(error)) => cause = self.fail(&mut line, error),
        }
        let called = line.end_round(self.durable());
        drop(line);
        call(called);
        if let Some(watcher) = self.watcher.get().filter(|_| has_risen) {
            watcher.wake_for_durable();
        }
        self.report(cause);
    }

    /// Tells others and subscribers of the first failure.
    ///
    /// Call it without the mutex, and after the waiters were woken: a subscriber may take as long as
    /// it likes.
    fn report(&self, cause: Option<Arc<Error>>) {
        let Some(cause) = cause else { return };
        if let Some(watcher) = self.watcher.get() {
            watcher.set_failed();
        }
        trace::poisoned(&cause);
    }

    /// Raises the durable number, and returns true if it rose. The argument proves that the mutex is
    /// held: raising is load, compare and store.
    fn lift(&self, line: &WaitingLine, seq: Seq) -> bool {
        let rises = line.cause.is_none() && self.durable() < seq;
        if rises {
            // Release: pairs with the acquire in `durable`.
            self.durable.store(seq.0, Ordering::Release);
            if let Some(watcher) = self.watcher.get() {
                watcher.set_durable(seq);
            }
        }
        rises
    }

    /// Records the first failure, and returns it if this is the first.
    fn fail(&self, line: &mut WaitingLine, error: Error) -> Option<Arc<Error>> {
        if line.cause.is_some() {
            return None;
        }
        line.cause = Some(match error {
            Error::Poisoned { cause } => cause,
            error => Arc::new(error),
        });
        // Release: pairs with the acquire in `check`.
        self.poisoned.store(true, Ordering::Release);
        line.cause.clone()
    }
}

/// The lead of a round. Dropping it ends the round, so no waiter stays asleep if the sync call
/// panics (I9).
struct Lead<'c> {
    commit: &'c GroupCommit,
    /// The result of the sync call. `None` if it was not made.
    outcome: Option<Result<Seq>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.commit.hand_over(self.outcome.take());
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::mpsc;

    use super::*;
    use crate::sync::thread;

    impl GroupCommit {
        /// Returns once `count` callers stand in the queue.
        fn await_waiters(&self, count: usize) {
            while self.line.lock().waiters.len() != count {
                thread::yield_now();
            }
        }

        /// Returns true if there is no leader and no waiter.
        fn is_idle(&self) -> bool {
            let line = self.line.lock();
            !line.led && line.waiters.is_empty()
        }
    }

    fn refused() -> Error {
        Error::Limit { what: "the test's disk", advice: "none" }
    }

    fn is_refused(result: &Result<()>) -> bool {
        matches!(result, Err(Error::Poisoned { cause }) if matches!(**cause, Error::Limit { .. }))
    }

    /// Runs `body` while a leader, waiting for `seq`, is held inside its sync call, which then
    /// returns `outcome`. Returns the leader's result.
    fn with_held_leader(
        commit: &GroupCommit,
        seq: Seq,
        outcome: Result<Seq>,
        body: impl FnOnce(&dyn Fn()),
    ) -> Result<()> {
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel();
        thread::scope(|scope| {
            let leader = scope.spawn(move || {
                let mut outcome = Some(outcome);
                commit.wait(seq, || {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                    outcome.take().unwrap()
                })
            });
            has_entered.recv().unwrap();
            body(&|| release.send(()).unwrap());
            leader.join().unwrap()
        })
    }

    #[test]
    fn only_the_first_failure_is_to_be_reported() {
        let commit = GroupCommit::new(Seq::ZERO);
        let mut line = commit.line.lock();
        let first = commit.fail(&mut line, Error::Closed).expect("the first");
        assert!(matches!(*first, Error::Closed));
        assert!(commit.fail(&mut line, Error::Forked).is_none());
    }

    #[test]
    fn wait_makes_no_sync_if_already_durable() {
        let commit = GroupCommit::new(Seq(5));
        commit.wait(Seq(5), || unreachable!()).unwrap();
        assert_eq!((commit.groups(), commit.waits()), (0, 0));
    }

    #[test]
    fn a_lone_writer_makes_one_sync_per_wait() {
        let commit = GroupCommit::new(Seq::ZERO);
        for seq in 1..=10 {
            commit.wait(Seq(seq), || Ok(Seq(seq))).unwrap();
        }
        assert_eq!((commit.durable(), commit.groups(), commit.waits()), (Seq(10), 10, 10));
    }

    #[test]
    fn writers_that_come_during_a_sync_share_the_next_one() {
        let commit = GroupCommit::new(Seq::ZERO);
        let result = with_held_leader(&commit, Seq(1), Ok(Seq(1)), |release| {
            thread::scope(|scope| {
                for seq in 2..=8 {
                    let commit = &commit;
                    scope.spawn(move || commit.wait(Seq(seq), || Ok(Seq(8))).unwrap());
                }
                commit.await_waiters(7);
                release();
            });
        });
        result.unwrap();
        assert_eq!((commit.durable(), commit.groups(), commit.waits()), (Seq(8), 2, 8));
        assert!(commit.is_idle());
    }

    #[test]
    fn a_leader_waits_for_the_writers_of_the_last_round() {
        // On a busy machine a yield takes long, and the leader then stops waiting.
        let pause = || {
            thread::yield_now();
            true
        };
        let commit = &GroupCommit { patience: u32::MAX, pause, ..GroupCommit::new(Seq::ZERO) };
        let second = || {
            assert_eq!(commit.line.lock().waiters.len(), 1, "the other one is back");
            Ok(Seq(3))
        };
        thread::scope(|scope| {
            let result = with_held_leader(commit, Seq(1), Ok(Seq(1)), |release| {
                scope.spawn(move || commit.wait(Seq(2), second).unwrap());
                commit.await_waiters(1);
                release();
            });
            result.unwrap();
            // A leader that does not wait begins before this thread is back.
            for _ in 0..1000 {
                if commit.groups() == 1 {
                    thread::yield_now();
                }
            }
            commit.wait(Seq(3), || unreachable!()).unwrap();
        });
        assert_eq!((commit.durable(), commit.groups(), commit.waits()), (Seq(3), 2, 3));
        assert!(commit.is_idle());
    }

    /// Lets a leader wait for a writer that does not come back, with this in the place of a yield.
    fn lead_after_one_that_stays_away(pause: fn() -> bool) {
        let commit = &GroupCommit { pause, ..GroupCommit::new(Seq::ZERO) };
        thread::scope(|scope| {
            let result = with_held_leader(commit, Seq(1), Ok(Seq(1)), |release| {
                scope.spawn(|| commit.wait(Seq(2), || Ok(Seq(2))).unwrap());
                commit.await_waiters(1);
                release();
            });
            result.unwrap();
        });
        assert_eq!((commit.durable(), commit.groups()), (Seq(2), 2));
    }

    #[test]
    fn a_leader_whose_yield_took_long_yields_no_more() {
        static YIELDS: AtomicU64 = AtomicU64::new(0);
        lead_after_one_that_stays_away(|| YIELDS.fetch_add(1, Ordering::Relaxed) > u64::MAX / 2);
        assert_eq!(YIELDS.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_leader_begins_without_a_writer_that_stays_away() {
        static YIELDS: AtomicU64 = AtomicU64::new(0);
        lead_after_one_that_stays_away(|| {
            assert!(YIELDS.fetch_add(1, Ordering::Relaxed) < u64::from(PATIENCE), "it waits for ever");
            true
        });
        assert_eq!(YIELDS.load(Ordering::Relaxed), u64::from(PATIENCE));
    }

    #[test]
    fn sync_releases_only_the_waiters_it_covers() {
        let commit = GroupCommit::new(Seq::ZERO);
        // The leader's sync also covers 2 and 3, which came during it, but not 4 and 5.
        let result = with_held_leader(&commit, Seq(1), Ok(Seq(3)), |release| {
            thread::scope(|scope| {
                let commit = &commit;
                for seq in 2..=3 {
                    scope.spawn(move || commit.wait(Seq(seq), || unreachable!()).unwrap());
                }
                commit.await_waiters(2);
                for seq in 4..=5 {
                    scope.spawn(move || commit.wait(Seq(seq), || Ok(Seq(5))).unwrap());
                }
                commit.await_waiters(4);
                release();
            });
        });
        result.unwrap();
        assert_eq!((commit.durable(), commit.groups()), (Seq(5), 2));
    }

    #[test]
    fn a_leader_whose_sync_stops_short_syncs_again() {
        let commit = GroupCommit::new(Seq::ZERO);
        let mut reached = 0;
        commit
            .wait(Seq(3), || {
                reached += 1;
                Ok(Seq(reached))
            })
            .unwrap();
        assert_eq!((commit.durable(), commit.groups(), commit.waits()), (Seq(3), 3, 1));
    }

    #[test]
    fn a_failed_sync_reaches_every_waiter_and_nothing_is_retried() {
        let commit = GroupCommit::new(Seq::ZERO);
        let result = with_held_leader(&commit, Seq(1), Err(refused()), |release| {
            thread::scope(|scope| {
                for seq in 2..=8 {
                    let commit = &commit;
                    scope.spawn(move || assert!(is_refused(&commit.wait(Seq(seq), || unreachable!()))));
                }
                commit.await_waiters(7);
                release();
            });
        });
        assert!(is_refused(&result));
        assert_eq!((commit.durable(), commit.groups()), (Seq::ZERO, 1));
        assert!(is_refused(&commit.wait(Seq(9), || unreachable!())));
        assert!(is_refused(&commit.run(|| unreachable!())));
        assert!(is_refused(&commit.check()));
        assert!(commit.is_idle());
    }

    #[test]
    fn the_first_failure_is_kept_and_not_wrapped_twice() {
        let commit = GroupCommit::new(Seq(4));
        commit.check().unwrap();
        commit.poison(refused());
        commit.poison(Error::Closed);
        let again = commit.check().unwrap_err();
        let other = GroupCommit::new(Seq::ZERO);
        other.poison(again);
        assert!(is_refused(&other.check()));
        commit.wait(Seq(4), || unreachable!()).unwrap();
    }

    #[test]
    fn nothing_becomes_durable_after_a_failure() {
        let commit = GroupCommit::new(Seq::ZERO);
        let result = with_held_leader(&commit, Seq(1), Ok(Seq(1)), |release| {
            thread::scope(|scope| {
                let follower = scope.spawn(|| commit.wait(Seq(2), || unreachable!()));
                commit.await_waiters(1);
                commit.poison(refused());
                assert!(is_refused(&follower.join().unwrap()), "it does not wait for the sync to end");
            });
            release();
        });
        assert!(is_refused(&result));
        assert_eq!(commit.durable(), Seq::ZERO);
    }

    #[test]
    fn panic_in_a_sync_poisons_and_wakes_all_waiters() {
        let commit = GroupCommit::new(Seq::ZERO);
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let commit = &commit;
            let leader = scope.spawn(move || {
                panic::catch_unwind(AssertUnwindSafe(|| {
                    commit.wait(Seq(1), || {
                        entered.send(()).unwrap();
                        released.recv().unwrap();
                        panic!("the test's panic");
                    })
                }))
            });
            has_entered.recv().unwrap();
            let follower = scope.spawn(|| commit.wait(Seq(2), || unreachable!()));
            commit.await_waiters(1);
            release.send(()).unwrap();
            assert!(leader.join().unwrap().is_err(), "the panic goes on in the leader");
            let error = follower.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Poisoned { cause } if matches!(*cause, Error::Panicked { .. })));
        });
        assert!(commit.is_idle());
    }

    #[test]
    fn a_run_fails_after_a_failure_during_its_good_sync() {
        let commit = GroupCommit::new(Seq::ZERO);
        let run = commit.run(|| {
            commit.poison(refused());
            Ok(Seq(1))
        });
        assert!(is_refused(&run), "{run:?}");
        assert!(commit.is_idle());
    }

    #[test]
    fn a_run_is_not_served_by_the_sync_under_way() {
        let commit = GroupCommit::new(Seq(1));
        let result = with_held_leader(&commit, Seq(2), Ok(Seq(2)), |release| {
            thread::scope(|scope| {
                let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| commit.run(|| Ok(Seq(2))))).collect();
                commit.await_waiters(3);
                release();
                for run in runs {
                    run.join().unwrap().unwrap();
                }
            });
        });
        result.unwrap();
        assert_eq!(commit.groups(), 2, "one for the leader, one for the three runs together");
    }

    #[test]
    fn thirty_two_writers_all_become_durable_in_groups() {
        const WRITERS: u64 = 32;
        const WRITES: u64 = 200;
        let commit = GroupCommit::new(Seq::ZERO);
        let appended = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    for _ in 0..WRITES {
                        let seq = Seq(appended.fetch_add(1, Ordering::SeqCst) + 1);
                        commit.wait(seq, || Ok(Seq(appended.load(Ordering::SeqCst)))).unwrap();
                        assert!(commit.durable() >= seq);
                    }
                });
            }
        });
        assert_eq!(commit.durable(), Seq(WRITERS * WRITES));
        assert!(commit.groups() <= commit.waits() && commit.waits() <= WRITERS * WRITES);
        assert!(commit.is_idle());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::thread;

    fn failing_sync_wakes_all() {
        let commit = Arc::new(GroupCommit::new(Seq::ZERO));
        let other = Arc::clone(&commit);
        let refuse = || Err(Error::Closed);
        let follower = thread::spawn(move || other.wait(Seq(1), refuse));
        let results = [commit.wait(Seq(2), refuse), follower.join().unwrap()];
        for result in results {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Poisoned { cause } if matches!(*cause, Error::Closed)));
        }
        assert_eq!((commit.groups(), commit.durable()), (1, Seq::ZERO));
        assert!(!commit.line.lock().led);
    }

    #[test]
    fn loom_a_failing_sync_wakes_both_waiters_and_is_not_retried() {
        loom::model(failing_sync_wakes_all);
    }

    /// The kernel's report of one lost write through one open file. The first sync receives it.
    struct OneReport {
        turn: SyncTurn,
        pending: AtomicBool,
    }

    impl OneReport {
        fn sync(&self, commit: &GroupCommit) -> Result<()> {
            commit.sync_alone(&self.turn, || {
                // It pairs with nothing: the kernel has its own locks.
                if self.pending.swap(false, Ordering::AcqRel) { Err(Error::Closed) } else { Ok(()) }
            })
        }
    }

    #[test]
    fn loom_write_back_error_fails_the_leader_too() {
        loom::model(|| {
            let commit = Arc::new(GroupCommit::new(Seq::ZERO));
            let file = Arc::new(OneReport { turn: SyncTurn::new(), pending: AtomicBool::new(true) });
            let (others_commit, others_file) = (Arc::clone(&commit), Arc::clone(&file));
            let helper = thread::spawn(move || others_file.sync(&others_commit));
            let led = commit.wait(Seq(1), || file.sync(&commit).map(|()| Seq(1)));
            assert!(led.is_err(), "acknowledged although a write was lost");
            assert!(helper.join().unwrap().is_err());
            assert_eq!(commit.durable(), Seq::ZERO);
        });
    }

    #[test]
    fn loom_durable_number_shows_the_effects_of_its_sync() {
        loom::model(|| {
            let commit = Arc::new(GroupCommit::new(Seq::ZERO));
            let synced = Arc::new(AtomicBool::new(false));
            let (others_commit, others_synced) = (Arc::clone(&commit), Arc::clone(&synced));
            let reader = thread::spawn(move || {
                // No lock is taken for this.
                while others_commit.durable() < Seq(1) {
                    thread::yield_now();
                }
                // Relaxed, here and below: the durable number orders it.
                assert!(others_synced.load(Ordering::Relaxed), "durable before the sync took effect");
            });
            commit
                .wait(Seq(1), || {
                    synced.store(true, Ordering::Relaxed);
                    Ok(Seq(1))
                })
                .unwrap();
            reader.join().unwrap();
        });
    }

    #[test]
    fn loom_both_waiters_become_durable_with_either_leader() {
        loom::model(|| {
            let commit = Arc::new(GroupCommit::new(Seq::ZERO));
            let other = Arc::clone(&commit);
            let follower = thread::spawn(move || other.wait(Seq(2), || Ok(Seq(2))));
            commit.wait(Seq(1), || Ok(Seq(1))).unwrap();
            follower.join().unwrap().unwrap();
            assert_eq!(commit.durable(), Seq(2));
            assert!(!commit.line.lock().led);
        });
    }
}
