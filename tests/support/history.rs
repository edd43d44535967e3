//! What each thread did, and whether what a store holds can be what is left of it.
//!
//! **Model.** Each thread owns a range of keys and keyspaces, so what it left there depends on its own operations alone:
//! it must equal the replay of the first `n` of them, for some `n`. After a kill `n` is the number of acknowledged
//! operations, or one more where one was under way; after a power cut it is at least what was made durable. Across
//! threads: an operation that began when others had been acknowledged cannot be there without them, because the log has
//! one order.

use std::collections::BTreeSet;
use std::path::Path;

use mapcask::{Keyspace, Result, Store};

use super::operation::{Bytes, Effect, Operation, Place, State, describe};

/// Writing threads.
pub(crate) const THREADS: usize = 4;

/// What somebody found in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) state: State,
    pub(crate) torn_bytes: u64,
    pub(crate) quarantined_records: u64,
}

impl Observed {
    /// Looks into a store that nobody writes to, and at whether it agrees with itself.
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

    /// For the way from one process to another.
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

    /// What another process found.
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

    /// The part of each thread.
    ///
    /// # Errors
    ///
    /// Says what is nobody's.
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

/// Adds what a keyspace holds.
fn look_into(keyspace: &Keyspace, state: &mut State) -> Result<()> {
    let name = keyspace.name();
    for item in keyspace.iter() {
        let (key, value) = item?;
        assert_eq!(keyspace.get(&key)?.as_deref(), Some(&value[..]), "iteration and get agree");
        let place = Place { keyspace: name.clone(), key: Some(key.to_vec()) };
        assert_eq!(state.get(&place), None, "each key comes once");
        state.set(&place, Some(value.to_vec()));
    }
    assert_eq!(keyspace.len(), state.keys(&name).count(), "the length is the number of keys");
    Ok(())
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Everything acknowledged is there.
    Killed,
    /// Everything durable is there.
    PowerCut,
}

/// An operation that was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    /// How many operations of each thread were acknowledged in this run when it began.
    pub(crate) seen: [usize; THREADS],
    /// Whether it returned, and everything acknowledged when it began is durable by that, itself included.
    pub(crate) covers: bool,
}

/// What one process did.
#[derive(Debug, Clone)]
pub(crate) struct RunRecord {
    pub(crate) run: u32,
    /// Per thread the operations in order. The last one may not have been acknowledged.
    pub(crate) begun: [Vec<Begun>; THREADS],
    pub(crate) acknowledged: [usize; THREADS],
}

impl RunRecord {
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().sum::<usize>() as u64
    }
}

/// A place in history.
#[derive(Debug, Clone, Copy)]
struct Past {
    run: u32,
    number: usize,
    /// How many entries of each thread's history it follows.
    follows: [usize; THREADS],
}

/// What each thread did since the store's content was last known to be durable.
#[derive(Debug, Clone)]
pub(crate) struct History {
    seed: u64,
    base: [State; THREADS],
    past: [Vec<Past>; THREADS],
    /// How much of the past was acknowledged, and how much is durable.
    acknowledged: [usize; THREADS],
    durable: [usize; THREADS],
}

/// The lengths of history that explain what a thread left, at least and at most: not every operation has an effect.
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

    /// Appends what a process did after the last check.
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

    /// Checks what a store holds after a death, and continues from there. How many acknowledged operations are gone.
    ///
    /// # Errors
    ///
    /// Says what cannot be explained.
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
            // Later entries follow more than earlier ones.
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

    /// Everything up to the last check is durable: the store was closed, or no power cut is to come.
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

    /// Which lengths of a thread's history lead to what was found.
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
