//! A linearizability checker. It searches for an order of all operations that a sequential model
//! explains, in which each operation lies between its call and its return.
//!
//! The search is Wing and Gong's, with Lowe's record of earlier attempts (J. M. Wing, C. Gong,
//! "Testing and verifying concurrent objects", 1993; G. Lowe, "Testing for linearizability", 2017).
//! It accepts completed operations only. In a model, state and operation must either allow or rule
//! out an outcome. It uses only std, so that any test file can include it by its path.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{Debug, Write as _};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The sequential behaviour of an object.
pub(crate) trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Operation: Debug;
    type Outcome: Debug;

    /// Returns the state after the operation, or `None` if this state rules out the outcome.
    fn step(state: &Self::State, operation: &Self::Operation, outcome: &Self::Outcome)
    -> Option<Self::State>;
}

/// An operation that has returned.
#[derive(Debug, Clone)]
pub(crate) struct Completed<O, R> {
    pub(crate) thread: usize,
    /// The times of its call and its return, by one clock. No two times are equal.
    pub(crate) call: u64,
    pub(crate) ret: u64,
    pub(crate) operation: O,
    pub(crate) outcome: R,
}

/// The operations of a model that have returned, in any order.
pub(crate) type History<M> = Vec<Completed<<M as Model>::Operation, <M as Model>::Outcome>>;

/// The clock that all threads of a history share.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, SeqCst)
    }
}

/// Records the operations of one thread.
#[derive(Debug)]
pub(crate) struct Recorder<'c, O, R> {
    clock: &'c Clock,
    thread: usize,
    completed: Vec<Completed<O, R>>,
}

impl<'c, O, R> Recorder<'c, O, R> {
    pub(crate) fn new(clock: &'c Clock, thread: usize) -> Self {
        Self { clock, thread, completed: Vec::new() }
    }

    /// Carries out an operation and records it.
    pub(crate) fn record(&mut self, operation: O, carry_out: impl FnOnce(&O) -> R) {
        let call = self.clock.tick();
        let outcome = carry_out(&operation);
        let ret = self.clock.tick();
        self.completed.push(Completed { thread: self.thread, call, ret, operation, outcome });
    }

    /// Returns the recorded operations, to be joined with those of the other threads.
    pub(crate) fn finish(self) -> Vec<Completed<O, R>> {
        self.completed
    }
}

/// Checks the history of one object. An error describes the furthest dead end.
pub(crate) fn check<M: Model>(initial: M::State, history: &History<M>) -> Result<(), String> {
    let operations: Vec<_> = history.iter().collect();
    Search::<M>::new(operations, initial).run()
}

/// Checks the history of many independent objects, each by itself. Such a history is linearizable
/// if the part of every object is, a property that Herlihy and Wing call locality.
pub(crate) fn check_by_key<M: Model, K: Ord + Debug>(
    initial: impl Fn(&K) -> M::State,
    history: &History<M>,
    key: impl Fn(&M::Operation) -> K,
) -> Result<(), String> {
    let mut parts: BTreeMap<K, Vec<&CompletedOf<M>>> = BTreeMap::new();
    for completed in history {
        parts.entry(key(&completed.operation)).or_default().push(completed);
    }
    for (key, operations) in parts {
        let found = Search::<M>::new(operations, initial(&key)).run();
        found.map_err(|account| format!("key {key:?}: {account}"))?;
    }
    Ok(())
}

type CompletedOf<M> = Completed<<M as Model>::Operation, <M as Model>::Outcome>;

/// The number of operations before a dead end that the report shows.
const SHOWN: usize = 10;

/// The place of an event in the list of remaining ones. Zero is the list's head.
type Event = usize;

struct Search<'h, M: Model> {
    /// The operations in the order of their calls.
    operations: Vec<&'h CompletedOf<M>>,
    events: Events,
    state: M::State,
    /// The order so far: each operation, and the state before it.
    order: Vec<(usize, M::State)>,
    done: Set,
    /// Tried sets of operations with the states they led to. The search from such a pair does not
    /// depend on the order.
    tried: HashSet<(Key, M::State)>,
    furthest: Option<DeadEnd<M>>,
}

/// The furthest point of the search, at which an operation must be next in the order and cannot be.
struct DeadEnd<M: Model> {
    operation: usize,
    state: M::State,
    /// The number of ordered operations, and the last of them.
    count: usize,
    last: Vec<usize>,
}

impl<'h, M: Model> Search<'h, M> {
    fn new(mut operations: Vec<&'h CompletedOf<M>>, initial: M::State) -> Self {
        operations.sort_unstable_by_key(|completed| completed.call);
        let times: Vec<_> = operations.iter().map(|completed| (completed.call, completed.ret)).collect();
        Self {
            events: Events::new(&times),
            done: Set::new(operations.len()),
            operations,
            state: initial,
            order: Vec::new(),
            tried: HashSet::new(),
            furthest: None,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let mut at = self.events.first();
        while at != Events::HEAD {
            let operation = self.events.operation[at];
            if self.events.is_call(at) {
                at = if self.take(operation) { self.events.first() } else { self.events.next[at] };
                continue;
            }
            // This operation has returned, so no later call can come before it. An earlier choice
            // was wrong.
            self.note_dead_end(operation);
            let Some((last, state)) = self.order.pop() else { return Err(self.account()) };
            self.state = state;
            self.done.remove(last);
            self.events.put_back(last);
            at = self.events.next[self.events.call[last]];
        }
        Ok(())
    }

    /// Makes an operation the next in the order, unless the model rules it out or it was tried
    /// before.
    fn take(&mut self, operation: usize) -> bool {
        let completed = self.operations[operation];
        let Some(state) = M::step(&self.state, &completed.operation, &completed.outcome) else {
            return false;
        };
        self.done.insert(operation);
        if !self.tried.insert((self.done.key(), state.clone())) {
            self.done.remove(operation);
            return false;
        }
        self.order.push((operation, std::mem::replace(&mut self.state, state)));
        self.events.take_out(operation);
        true
    }

    fn note_dead_end(&mut self, operation: usize) {
        let ret = |operation: usize| self.operations[operation].ret;
        if self.furthest.as_ref().is_none_or(|furthest| ret(furthest.operation) < ret(operation)) {
            let last = self.order.iter().rev().take(SHOWN).rev().map(|(operation, _)| *operation).collect();
            let (state, count) = (self.state.clone(), self.order.len());
            self.furthest = Some(DeadEnd { operation, state, count, last });
        }
    }

    /// Describes the failure. The search reached the return of the furthest dead end and never got
    /// past it. So the history up to that return is the shortest one without an order.
    fn account(&self) -> String {
        let DeadEnd { operation, state, count, last } =
            self.furthest.as_ref().expect("a search fails at a dead end");
        let end = self.operations[*operation].ret;
        let mut text = format!("not linearizable: no order explains what had returned at {end}\n");
        let mut line = |what: &str, operation: usize| {
            let Completed { thread, call, ret, operation, outcome } = self.operations[operation];
            let line = format!("thread {thread} at {call}..{ret}: {operation:?} -> {outcome:?}");
            writeln!(text, "  {what} {line}").expect("memory takes any text");
        };
        for operation in last {
            line("after   ", *operation);
        }
        line("cannot: ", *operation);
        let open = |other: &usize| self.operations[*other].call < end && self.operations[*other].ret > end;
        for other in (0..self.operations.len()).filter(open) {
            line("meanwhile", other);
        }
        writeln!(text, "  the order that gets furthest has {count} operations and leaves {state:?}")
            .expect("memory takes any text");
        text
    }
}

/// Calls and returns in the order of time. Operations are removed from the list and restored in
/// constant time.
struct Events {
    next: Vec<Event>,
    previous: Vec<Event>,
    /// The operation of each event.
    operation: Vec<usize>,
    /// The events of each operation.
    call: Vec<Event>,
    ret: Vec<Event>,
}

impl Events {
    const HEAD: Event = 0;

    fn new(times: &[(u64, u64)]) -> Self {
        let mut events: Vec<_> = Vec::with_capacity(2 * times.len());
        for (operation, (call, ret)) in times.iter().enumerate() {
            assert!(call < ret, "an operation returns after its call");
            events.extend([(*call, operation, true), (*ret, operation, false)]);
        }
        events.sort_unstable();
        assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0), "no two times are equal");
        let count = events.len() + 1;
        let mut list = Self {
            next: (1..=count).map(|event| event % count).collect(),
            previous: (0..count).map(|event| (event + count - 1) % count).collect(),
            // The entry of the head is never read.
            operation: vec![0; count],
            call: vec![Self::HEAD; times.len()],
            ret: vec![Self::HEAD; times.len()],
        };
        for (place, (_, operation, is_call)) in events.into_iter().enumerate() {
            list.operation[place + 1] = operation;
            let events = if is_call { &mut list.call } else { &mut list.ret };
            events[operation] = place + 1;
        }
        list
    }

    fn first(&self) -> Event {
        self.next[Self::HEAD]
    }

    fn is_call(&self, event: Event) -> bool {
        self.call[self.operation[event]] == event
    }

    fn take_out(&mut self, operation: usize) {
        for event in [self.call[operation], self.ret[operation]] {
            let (previous, next) = (self.previous[event], self.next[event]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Restores the operation of the last `take_out` that was not yet undone.
    fn put_back(&mut self, operation: usize) {
        for event in [self.ret[operation], self.call[operation]] {
            let (previous, next) = (self.previous[event], self.next[event]);
            self.next[previous] = event;
            self.previous[next] = event;
        }
    }
}

/// A comparable form of a set of operations: the first word that is not full, and the words from
/// there on.
type Key = (usize, Vec<u64>);

/// A set of operations. All queries are near one place, because old calls have returned and much
/// later ones have not begun. So its key grows only with the number of threads.
struct Set {
    words: Vec<u64>,
    /// All words before this one are full.
    low: usize,
    /// All words from this one on are empty.
    high: usize,
}

impl Set {
    fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], low: 0, high: 0 }
    }

    fn insert(&mut self, operation: usize) {
        let word = operation / 64;
        self.words[word] |= 1 << (operation % 64);
        self.high = self.high.max(word + 1);
        while self.low < self.high && self.words[self.low] == u64::MAX {
            self.low += 1;
        }
    }

    fn remove(&mut self, operation: usize) {
        let word = operation / 64;
        self.words[word] &= !(1 << (operation % 64));
        self.low = self.low.min(word);
        while self.high > self.low && self.words[self.high - 1] == 0 {
            self.high -= 1;
        }
    }

    /// Returns the set's key. Two sets are equal if and only if their keys are.
    fn key(&self) -> Key {
        (self.low, self.words[self.low..self.high].to_vec())
    }
}
