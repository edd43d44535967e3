//! What each thread did, and whether what a store holds can be what is left of it.
//!
//! **Model.** Each thread owns a range of keys, so what it left there depends on its own operations alone: it must
//! equal the replay of the first `n` of them, for some `n`. After a kill `n` is the number of acknowledged operations,
//! or one more where one was under way; after a power cut it is at least what was made durable. Across threads: an
//! operation that began when others had been acknowledged cannot be there without them, because the log has one order.
//!
//! **Operations** follow from seed, run, thread and number, so nobody needs to write them down. Each value says where
//! it is from and ends in a checksum; no two are alike, so a value that comes back from the past is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mapcask::{Result, Store};

/// Writing threads.
pub(crate) const THREADS: usize = 4;
/// Keys of each thread: few, so that they are overwritten and removed often.
const KEYS: usize = 40;
/// The longest value: more than a segment.
const VALUE_MAX: usize = 100 << 10;

type Bytes = Vec<u8>;
type State = BTreeMap<Bytes, Bytes>;

/// How an operation is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Single,
    Batch,
    Flush,
}

/// One operation of one thread.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// Keys and their new values; none is a removal.
    pub(crate) writes: Vec<(Bytes, Option<Bytes>)>,
}

impl Operation {
    /// The operation of a place in history.
    pub(crate) fn nth(seed: u64, run: u32, thread: usize, number: usize) -> Self {
        let place = (u64::from(run) << 40) ^ ((thread as u64) << 32) ^ number as u64;
        let mut rng = fastrand::Rng::with_seed(seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (action, count) = match rng.u8(..) {
            0 => (Action::Flush, 0),
            1..=180 => (Action::Single, 1),
            _ => (Action::Batch, rng.usize(2..=7)),
        };
        let writes = (0..count).map(|slot| {
            let label = format!("thread {thread} run {run} operation {number}.{slot} ");
            let value = (rng.u8(0..3) > 0).then(|| value(&mut rng, &label));
            (key(thread, rng.usize(0..KEYS)), value)
        });
        Self { action, writes: writes.collect() }
    }

    /// What it leaves: of several writes to a key the last.
    pub(crate) fn effect(&self) -> BTreeMap<&[u8], Option<&[u8]>> {
        self.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect()
    }
}

fn key(thread: usize, n: usize) -> Bytes {
    let mut key = format!("{thread}/{n:02}").into_bytes();
    key.resize(key.len() + n % 7 * 5, b'.');
    key
}

fn value(rng: &mut fastrand::Rng, label: &str) -> Bytes {
    let len = if rng.u8(0..200) == 0 { rng.usize(0..VALUE_MAX) } else { rng.usize(0..300) };
    let mut value = label.as_bytes().to_vec();
    value.resize(label.len() + len, rng.u8(..));
    value.extend_from_slice(&crc32fast::hash(&value).to_le_bytes());
    value
}

/// Says where a value is from.
fn describe(value: Option<&Bytes>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    let intact =
        value.split_last_chunk::<4>().is_some_and(|(rest, sum)| crc32fast::hash(rest).to_le_bytes() == *sum);
    let label: Bytes = value.iter().copied().take(48).filter(u8::is_ascii_graphic).collect();
    let condition = if intact { "intact" } else { "DAMAGED" };
    format!("{} ({} bytes, {condition})", String::from_utf8_lossy(&label), value.len())
}

/// What somebody found in a store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    pub(crate) state: State,
    pub(crate) torn_bytes: u64,
    pub(crate) set_aside_records: u64,
}

impl Observed {
    /// Looks into a store that nobody writes to, and at whether it agrees with itself.
    pub(crate) fn of(store: &Store) -> Result<Self> {
        let mut state = State::new();
        for item in store.iter() {
            let (key, value) = item?;
            assert_eq!(store.get(&key)?.as_deref(), Some(&value[..]), "iteration and get agree");
            let twice = state.insert(key.to_vec(), value.to_vec());
            assert!(twice.is_none(), "each key comes once");
        }
        assert_eq!(store.len(), state.len(), "the length is the number of keys");
        store.verify()?;
        let report = store.recovery_report();
        Ok(Self { state, torn_bytes: report.torn_bytes, set_aside_records: report.set_aside_records })
    }

    /// For the way from one process to another.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Bytes::new();
        bytes.extend_from_slice(&self.torn_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.set_aside_records.to_le_bytes());
        for part in self.state.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
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
        let (torn_bytes, set_aside_records) = (number(&mut rest), number(&mut rest));
        let part = |rest: &mut &[u8]| {
            let len = usize::try_from(number(rest)).expect("a length");
            let (part, after) = rest.split_at(len);
            *rest = after;
            part.to_vec()
        };
        let mut state = State::new();
        while !rest.is_empty() {
            let key = part(&mut rest);
            state.insert(key, part(&mut rest));
        }
        Self { state, torn_bytes, set_aside_records }
    }
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
        if death == Death::Killed && observed.set_aside_records > 0 {
            return Err(format!("{} records set aside without a power cut", observed.set_aside_records));
        }
        let mut found: [State; THREADS] = Default::default();
        for (key, value) in &observed.state {
            let owner = key.first().map_or(THREADS, |digit| usize::from(digit.wrapping_sub(b'0')));
            let state = found.get_mut(owner).ok_or_else(|| format!("key {key:?} was never written"))?;
            state.insert(key.clone(), value.clone());
        }
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

    /// Applies an operation; the keys that it wrote.
    fn apply(&self, thread: usize, past: Past, state: &mut State) -> Vec<Bytes> {
        let operation = Operation::nth(self.seed, past.run, thread, past.number);
        for (key, value) in operation.effect() {
            match value {
                Some(value) => state.insert(key.to_vec(), value.to_vec()),
                None => state.remove(key),
            };
        }
        operation.writes.into_iter().map(|(key, _)| key).collect()
    }

    /// Which lengths of a thread's history lead to what was found.
    fn explain(&self, thread: usize, found: &State, death: Death) -> Result<Explained, String> {
        let least = match death {
            Death::Killed => self.acknowledged[thread],
            Death::PowerCut => self.durable[thread],
        };
        let mut model = self.base[thread].clone();
        let all = model.keys().chain(found.keys());
        let mut wrong: BTreeSet<Bytes> =
            all.filter(|key| model.get(*key) != found.get(*key)).cloned().collect();
        let mut explained: Option<Explained> = None;
        let mut nearest = (usize::MAX, 0, String::new());
        for length in 0..=self.past[thread].len() {
            if let Some(last) = length.checked_sub(1) {
                for key in self.apply(thread, self.past[thread][last], &mut model) {
                    if model.get(&key) == found.get(&key) {
                        wrong.remove(&key);
                    } else {
                        wrong.insert(key);
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
                 durable); nearest are the first {length}, with {count} keys wrong:{differences}"
            )
        })
    }
}

fn differences(wrong: &BTreeSet<Bytes>, model: &State, found: &State) -> String {
    let line = |key: &Bytes| {
        let name = String::from_utf8_lossy(key);
        format!("\n  {name}: expected {}, found {}", describe(model.get(key)), describe(found.get(key)))
    };
    wrong.iter().take(8).map(line).collect()
}
