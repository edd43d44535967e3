//! The line of callers that wait for a sync, and the choice of the one that makes it.
//!
//! It runs no sync; `group_commit` does.
//!
//! **Concurrency.** All of it is under the mutex of `GroupCommit`, except the turn of a waiter.
//!
//! **Invariants.** A line that is not empty has a leader, running or called (I9).
//! [`WaitingLine::settle`] is the only way out of it, and restores this.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use crate::error::Error;
use crate::format::Seq;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::thread::{self, Thread};

/// The largest number of rounds in a row that begin at once, after a gathering in vain.
const AT_ONCE_MAX: u32 = 255;

/// The callers that wait, and the state of the rounds.
#[derive(Debug)]
pub(super) struct WaitingLine {
    /// True if a caller runs a sync, or has been called to.
    pub(super) led: bool,
    /// The number of rounds begun. It is the number of the round under way, if there is one.
    pub(super) begun: u64,
    /// The last round that succeeded.
    pub(super) ended: u64,
    /// The waiters, in the order they came.
    pub(super) waiters: VecDeque<Arc<WaitingCaller>>,
    /// The first failure, kept for ever.
    pub(super) cause: Option<Arc<Error>>,
    pub(super) gathering: Gathering,
}

/// The goal of a waiter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// Everything up to the number is durable.
    Durable(Seq),
    /// The sync of this round has ended.
    Round(u64),
}

/// The next action of a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Turn {
    Wait,
    Lead,
    Done,
    Failed,
}

/// The group that a leader gathers before its sync.
///
/// A sync that ends releases its writers, and most of them soon come with their next write. A
/// leader that began at once would leave them to the sync after: each sync would serve half of the
/// writers. So a leader waits for as many callers as the last round released.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The number of callers in a complete group, with the leader.
    size: usize,
    /// The number of rounds that begin at once, before one gathers again.
    at_once: u32,
    /// The same number after the last gathering. One in vain doubles it, a good one halves it.
    in_vain: u32,
}

#[derive(Debug)]
pub(super) struct WaitingCaller {
    goal: Goal,
    turn: AtomicU8,
    thread: Thread,
}

impl WaitingLine {
    pub(super) fn new() -> Self {
        let (waiters, gathering) = (VecDeque::new(), Gathering::default());
        Self { led: false, begun: 0, ended: 0, waiters, cause: None, gathering }
    }

    pub(super) fn reached(&self, goal: Goal, durable: Seq) -> bool {
        match goal {
            Goal::Durable(seq) => durable >= seq,
            Goal::Round(round) => self.ended >= round,
        }
    }

    /// Puts the caller last into the line.
    pub(super) fn join(&mut self, goal: Goal) -> Arc<WaitingCaller> {
        let waiter = Arc::new(WaitingCaller::new(goal));
        self.waiters.push_back(Arc::clone(&waiter));
        waiter
    }

    /// Returns the number of callers that the leader's group lacks.
    pub(super) fn missing(&self) -> usize {
        self.gathering.size.saturating_sub(1 + self.waiters.len())
    }

    /// Ends a round, and removes the waiters that have something to do. The next leader gathers them
    /// and the leader of this one.
    pub(super) fn end_round(&mut self, durable: Seq) -> Vec<(Arc<WaitingCaller>, Turn)> {
        self.led = false;
        let called = self.settle(durable);
        self.gathering.set_size(1 + called.len() + self.waiters.len());
        called
    }

    /// Removes every waiter from the line that has something to do, the next leader first.
    pub(super) fn settle(&mut self, durable: Seq) -> Vec<(Arc<WaitingCaller>, Turn)> {
        let mut called = Vec::new();
        for waiter in mem::take(&mut self.waiters) {
            if self.reached(waiter.goal, durable) {
                called.push((waiter, Turn::Done));
            } else if self.cause.is_some() {
                called.push((waiter, Turn::Failed));
            } else if !self.led {
                self.led = true;
                // First, so that the next sync does not wait for the others to be woken.
                called.insert(0, (waiter, Turn::Lead));
            } else {
                self.waiters.push_back(waiter);
            }
        }
        called
    }
}

impl Gathering {
    fn set_size(&mut self, size: usize) {
        self.size = if self.at_once == 0 { size } else { 0 };
        self.at_once = self.at_once.saturating_sub(1);
    }

    /// Ends a gathering. It is good if half of the missing callers came, and in a short time.
    ///
    /// Otherwise the writers do more than write, or the processors are busy. Then the next round
    /// begins at once, and after each more failure twice as many rounds.
    pub(super) fn end(&mut self, is_good: bool) {
        self.in_vain = if is_good { self.in_vain / 2 } else { (self.in_vain * 2 + 1).min(AT_ONCE_MAX) };
        self.at_once = self.in_vain;
    }
}

/// Wakes the waiters that were removed from the line. Call it without the mutex.
pub(super) fn call(called: Vec<(Arc<WaitingCaller>, Turn)>) {
    for (waiter, turn) in called {
        // Release: pairs with the acquire in `await_turn`. A token that `unpark` leaves behind ends a
        // later `park` of that thread early. Every use of `park` has to expect that.
        waiter.turn.store(turn as u8, Ordering::Release);
        waiter.thread.unpark();
    }
}

impl WaitingCaller {
    fn new(goal: Goal) -> Self {
        Self { goal, turn: AtomicU8::new(Turn::Wait as u8), thread: thread::current() }
    }

    /// Parks the thread until the leader gives the waiter something to do.
    pub(super) fn await_turn(&self) -> Turn {
        loop {
            // Acquire: pairs with the release in `call`. The waiter sees the leader's earlier
            // effects.
            match self.turn.load(Ordering::Acquire) {
                turn if turn == Turn::Lead as u8 => return Turn::Lead,
                turn if turn == Turn::Done as u8 => return Turn::Done,
                turn if turn == Turn::Failed as u8 => return Turn::Failed,
                _ => thread::park(),
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// Ends a round that `released` waiters were served by, and returns the callers that the next
    /// group lacks.
    fn missing_after(line: &mut WaitingLine, released: u64) -> usize {
        for _ in 0..released {
            line.join(Goal::Durable(Seq(1)));
        }
        line.end_round(Seq(1));
        line.missing()
    }

    #[test]
    fn a_group_lacks_the_released_writers_and_their_leader() {
        let mut line = WaitingLine::new();
        assert_eq!(missing_after(&mut line, 0), 0, "a lone writer waits for no one");
        line.join(Goal::Durable(Seq(2)));
        line.join(Goal::Durable(Seq(2)));
        // The first in the line is called to lead, so one of the two is left in it.
        assert_eq!(missing_after(&mut line, 3), 4);
        line.join(Goal::Durable(Seq(2)));
        assert_eq!(line.missing(), 3);
    }

    #[test]
    fn ever_more_rounds_begin_at_once_after_gatherings_in_vain() {
        let mut line = WaitingLine::new();
        let mut check = |is_good, at_once: u64| {
            assert_eq!(missing_after(&mut line, 4), 4);
            line.gathering.end(is_good);
            for _ in 0..at_once {
                assert_eq!(missing_after(&mut line, 4), 0);
            }
        };
        for at_once in [1, 3, 7, 15, 31, 63, 127, 255, 255] {
            check(false, at_once);
        }
        for at_once in [127, 63, 31, 15, 7, 3, 1, 0, 0] {
            check(true, at_once);
        }
    }
}
