//! The history of each thread, and a check that the contents of a store are a possible result of
//! it.
//!
//! **Model.** Each thread owns a range of keys and keyspaces, so its part of the contents depends
//! on its own operations alone. The part must equal the replay of its first `n` operations, for
//! some `n`. After a kill `n` is the number of acknowledged operations, or one more if one was in
//! progress. After a power cut `n` is at least the number of durable operations. The log has one
//! order, so across threads an operation is found only together with all those that were
//! acknowledged before it began.

use std::collections::BTreeSet;
use std::path::Path;

use mapcask::{Keyspace, Result, Store};

use super::operation::{Bytes, Effect, Operation, Place, State, describe};

/// The number of writing threads.
pub(crate) const THREADS: usize = 4;

/// The observed contents of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) state: State,
    pub(crate) torn_bytes: u64,
    pub(crate) quarantined_records: u64,
}

impl Observed {
    /// Reads a store that no thread writes to, and checks its consistency.
    pub(crate) fn of(store: &Store) -> Result<Self> {
        let mut state = State::default();
        look_into(store, &mut state)?;
        let names = store.keyspace_names();
        for name in &names {
            state.set(&Place::keyspace(name), Some(Bytes::new()));
            look_into(&store.open_keyspace(name)?, &mut state)?;
        }
        assert!(state.names().eq(&names), "the names are in order, and each comes once");
        let keys = state.0.len() - names.len();
        let stats = store.stats();
        assert_eq!((stats.keyspaces, stats.keys), (names.len() + 1, keys as u64), "the numbers are right");
        assert_eq!(store.verify()?.keys, keys as u64, "each key is verified");
        let report = store.recovery_report();
        Ok(Self { state, torn_bytes: report.torn_bytes, quarantined_records: report.quarantined_records })
    }

    /// Encodes the contents for another process.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Bytes::new();
        bytes.extend_from_slice(&self.torn_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.quarantined_records.to_le_bytes());
        for (Place { keyspace, key }, value) in &self.state.0 {
            bytes.push(u8::from(key.is_some()));
            for part in [keyspace.as_bytes(), key.as_deref().unwrap_or_default(), value] {
                bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        bytes
    }

    /// Reads the contents that another process found.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("it was written before the process said so");
        let mut rest = bytes.as_slice();
        let number = |rest: &mut &[u8]| {
            let (word, after) = rest.split_first_chunk::<8>().expect("whole");
            *rest = after;
            u64::from_le_bytes(*word)
        };
        let (torn_bytes, quarantined_records) = (number(&mut rest), number(&mut rest));
        let part = |rest: &mut &[u8]| {
            let len = usize::try_from(number(rest)).expect("a length");
            let (part, after) = rest.split_at(len);
            *rest = after;
            part.to_vec()
        };
        let mut state = State::default();
        while let Some((is_key, after)) = rest.split_first() {
            rest = after;
            let keyspace = String::from_utf8(part(&mut rest)).expect("a name");
            let key = Some(part(&mut rest)).filter(|_| *is_key == 1);
            state.set(&Place { keyspace, key }, Some(part(&mut rest)));
        }
        Self { state, torn_bytes, quarantined_records }
    }

    /// Returns the part of each thread.
    ///
    /// # Errors
    ///
    /// Names a place that no thread owns.
    pub(crate) fn parts(&self) -> Result<[State; THREADS], String> {
        let mut parts: [State; THREADS] = Default::default();
        for (place, value) in &self.state.0 {
            let part = place.owner().and_then(|owner| parts.get_mut(owner));
            let part = part.ok_or_else(|| format!("{place}: it was never written"))?;
            part.set(place, Some(value.clone()));
        }
        Ok(parts)
    }
}

/// Adds the contents of a keyspace.
fn look_into(keyspace: &Keyspace, state: &mut State) -> Result<()> {
    let name = keyspace.name();
    let mut last = None;
    for item in keyspace.iter() {
        let (key, value) = item?;
        let ascends = last.replace(key.clone()).is_none_or(|last| last < key);
        assert!(ascends || !keyspace.is_ordered(), "an ordered keyspace ascends");
        assert_eq!(keyspace.get(&key)?.as_deref(), Some(&value[..]), "iteration and get agree");
        let place = Place { keyspace: name.clone(), key: Some(key.to_vec()) };
        assert_eq!(state.get(&place), None, "each key comes once");
        state.set(&place, Some(value.to_vec()));
    }
    assert_eq!(keyspace.len(), state.keys(&name).count(), "the length is the number of keys");
    Ok(())
}

/// The way in which a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process was killed. Everything acknowledged must be found.
    Killed,
    /// The power was cut. Everything durable must be found.
    PowerCut,
}

/// An operation that was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    /// The number of each thread's operations in this run that were acknowledged when it began.
    pub(crate) seen: [usize; THREADS],
    /// True if it returned and made durable itself and everything acknowledged when it began.
    pub(crate) covers: bool,
}

/// The operations of one process.
#[derive(Debug, Clone)]
pub(crate) struct RunRecord {
    pub(crate) run: u32,
    /// The operations of each thread, in order. The last one may not have been acknowledged.
    pub(crate) begun: [Vec<Begun>; THREADS],
    pub(crate) acknowledged: [usize; THREADS],
}

impl RunRecord {
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().sum::<usize>() as u64
    }
}

/// An entry of a thread's history.
#[derive(Debug, Clone, Copy)]
struct Past {
    run: u32,
    number: usize,
    /// The number of entries in each thread's history that it follows.
    follows: [usize; THREADS],
}

/// The history of each thread since the contents were last known to be durable.
#[derive(Debug, Clone)]
pub(crate) struct History {
    seed: u64,
    base: [State; THREADS],
    past: [Vec<Past>; THREADS],
    /// The numbers of acknowledged and of durable entries.
    acknowledged: [usize; THREADS],
    durable: [usize; THREADS],
}

/// The least and the greatest length of history that explains a thread's part. They differ if an
/// operation has no effect.
#[derive(Debug, Clone, Copy)]
struct Explained {
    least: usize,
    most: usize,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            base: Default::default(),
            past: Default::default(),
            acknowledged: [0; THREADS],
            durable: [0; THREADS],
        }
    }

    /// Appends the operations of a process after the last check.
    pub(crate) fn append(&mut self, record: &RunRecord) {
        let before: [usize; THREADS] = std::array::from_fn(|thread| self.past[thread].len());
        for thread in 0..THREADS {
            for (at, begun) in record.begun[thread].iter().enumerate() {
                let follows = std::array::from_fn(|other| before[other] + begun.seen[other]);
                self.past[thread].push(Past { run: record.run, number: at + 1, follows });
                if begun.covers {
                    for (durable, follows) in self.durable.iter_mut().zip(follows) {
                        *durable = (*durable).max(follows);
                    }
                    self.durable[thread] = self.durable[thread].max(before[thread] + at + 1);
                }
            }
            self.acknowledged[thread] = before[thread] + record.acknowledged[thread];
        }
    }

    /// Checks the contents after a death, and continues from there. Returns the number of
    /// acknowledged operations that are lost.
    ///
    /// # Errors
    ///
    /// Describes contents that no history explains.
    pub(crate) fn check(&mut self, observed: &Observed, death: Death) -> Result<u64, String> {
        if death == Death::Killed && observed.quarantined_records > 0 {
            return Err(format!("{} records set aside without a power cut", observed.quarantined_records));
        }
        let found = observed.parts()?;
        let mut explained = [Explained { least: 0, most: 0 }; THREADS];
        for (thread, (explained, found)) in explained.iter_mut().zip(&found).enumerate() {
            *explained = self.explain(thread, found, death)?;
        }
        for (thread, Explained { least, .. }) in explained.iter().enumerate() {
            // Later entries follow more entries of the other threads.
            let Some(past) = least.checked_sub(1).map(|last| self.past[thread][last]) else { continue };
            if let Some(other) = (0..THREADS).find(|other| past.follows[*other] > explained[*other].most) {
                return Err(format!(
                    "a hole: run {} operation {} of thread {thread} is there, and of thread {other} only {} of the {} \
                     operations before it",
                    past.run, past.number, explained[other].most, past.follows[other]
                ));
            }
        }
        let mut taken = 0;
        for (thread, Explained { most, .. }) in explained.into_iter().enumerate() {
            taken += self.acknowledged[thread].saturating_sub(most);
            self.past[thread].truncate(most);
            self.acknowledged[thread] = most;
        }
        if death == Death::PowerCut {
            self.restart(found);
        }
        Ok(taken as u64)
    }

    /// Marks everything up to the last check as durable, because the store was closed or no power
    /// cut will come.
    pub(crate) fn forget(&mut self) {
        let states = std::array::from_fn(|thread| {
            let mut state = self.base[thread].clone();
            for past in &self.past[thread] {
                self.apply(thread, *past, &mut state);
            }
            state
        });
        self.restart(states);
    }

    fn restart(&mut self, base: [State; THREADS]) {
        *self = Self { base, ..Self::new(self.seed) };
    }

    fn apply(&self, thread: usize, past: Past, state: &mut State) -> Effect {
        Operation::draw(self.seed, past.run, thread, past.number, state).apply(state)
    }

    /// Returns the lengths of a thread's history that lead to its part.
    fn explain(&self, thread: usize, found: &State, death: Death) -> Result<Explained, String> {
        let least = match death {
            Death::Killed => self.acknowledged[thread],
            Death::PowerCut => self.durable[thread],
        };
        let mut model = self.base[thread].clone();
        let all = model.0.keys().chain(found.0.keys());
        let mut wrong: BTreeSet<Place> =
            all.filter(|place| model.get(place) != found.get(place)).cloned().collect();
        let mut explained: Option<Explained> = None;
        let mut nearest = (usize::MAX, 0, String::new());
        for length in 0..=self.past[thread].len() {
            if let Some(last) = length.checked_sub(1) {
                for place in self.apply(thread, self.past[thread][last], &mut model).touched {
                    if model.get(&place) == found.get(&place) {
                        wrong.remove(&place);
                    } else {
                        wrong.insert(place);
                    }
                }
            }
            if wrong.is_empty() && length >= least {
                explained = Some(Explained {
                    most: length,
                    ..explained.unwrap_or(Explained { least: length, most: 0 })
                });
            }
            if wrong.len() < nearest.0 {
                nearest = (wrong.len(), length, differences(&wrong, &model, found));
            }
        }
        explained.ok_or_else(|| {
            let [acknowledged, durable] = [self.acknowledged[thread], self.durable[thread]];
            let len = self.past[thread].len();
            let (count, length, differences) = nearest;
            format!(
                "thread {thread}: no {least} to {len} operations lead here ({acknowledged} acknowledged, {durable} \
                 durable); nearest are the first {length}, with {count} places wrong:{differences}"
            )
        })
    }
}

fn differences(wrong: &BTreeSet<Place>, model: &State, found: &State) -> String {
    let line = |place: &Place| {
        format!("\n  {place}: expected {}, found {}", describe(model.get(place)), describe(found.get(place)))
    };
    wrong.iter().take(8).map(line).collect()
}
