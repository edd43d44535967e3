//! The operations of a thread. They follow from seed, run, thread, number and the thread's present
//! state, so that no record of them is needed.
//!
//! **Ownership.** Each thread has a range of keys in the default keyspace, and up to two keyspaces
//! of its own. It makes, clears, renames, drops and makes these again under four names. All of them
//! use the same keys.
//!
//! **Values.** Each value states its origin and ends in a checksum, and no two are alike. So a
//! value from the past or from another keyspace is noticed.
//!
//! **Operations without effect.** A flush, for example, is an operation too. It has a share in
//! [`Operation::draw`], and no effect in [`Operation::apply`]. Background work has no place here,
//! because the options of a process decide it.

use std::collections::BTreeMap;
use std::fmt;

/// The keys of each thread in each keyspace. They are few, so that they are overwritten and removed
/// often.
const KEYS: usize = 24;
/// The number of a thread's keyspaces at a time, and the letters of their names.
const KEYSPACES: usize = 2;
const NAMES: [char; 4] = ['a', 'b', 'c', 'd'];
/// The longest value, which exceeds a segment.
const VALUE_MAX: usize = 100 << 10;
/// A key that never exists.
const STRANGER: &[u8] = b"never written";

pub(crate) type Bytes = Vec<u8>;

/// A key of a keyspace, or the keyspace itself, which has no key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The keyspace's name. It is empty for the default keyspace, which always exists and so is no
    /// place itself.
    pub(crate) keyspace: String,
    pub(crate) key: Option<Bytes>,
}

impl Place {
    pub(crate) fn keyspace(name: &str) -> Self {
        Self { keyspace: name.to_owned(), key: None }
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.key.as_deref().expect("a key's place")
    }

    /// Returns the number of the thread that owns the place.
    pub(crate) fn owner(&self) -> Option<usize> {
        let name = if self.keyspace.is_empty() { self.key() } else { self.keyspace.as_bytes() };
        name.first().map(|digit| usize::from(digit.wrapping_sub(b'0')))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_deref().map_or("itself".into(), String::from_utf8_lossy);
        write!(f, "keyspace {:?}, {key}", self.keyspace)
    }
}

/// The values of all places. An existing keyspace has an empty value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State(pub(crate) BTreeMap<Place, Bytes>);

impl State {
    pub(crate) fn get(&self, place: &Place) -> Option<&Bytes> {
        self.0.get(place)
    }

    pub(crate) fn set(&mut self, place: &Place, value: Option<Bytes>) {
        match value {
            Some(value) => self.0.insert(place.clone(), value),
            None => self.0.remove(place),
        };
    }

    /// Returns the names of the existing keyspaces.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter(|place| place.key.is_none()).map(|place| place.keyspace.as_str())
    }

    /// Returns the keys of a keyspace.
    pub(crate) fn keys<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s Place> {
        let from = Place::keyspace(name);
        let end = from.clone();
        let places = self.0.range(from..).map(|(place, _)| place);
        places.take_while(move |place| place.keyspace == end.keyspace).filter(|place| place.key.is_some())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(&Place::keyspace(name))
    }
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Insert(Bytes),
    Remove,
    InsertIfAbsent(Bytes),
    /// The expected value and the new one.
    Swap(Option<Bytes>, Option<Bytes>),
    Replace(Bytes),
    Take,
    FetchAndUpdate(Bytes),
    UpdateAndFetch(Bytes),
}

/// A requirement of a batch for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Required {
    Absent,
    Present,
    Value(Bytes),
}

/// The action of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Flush,
    Compact,
    Image,
    Key(Place, Change),
    /// A condition, and places with their new values, where `None` is a removal.
    Batch(Option<(Place, Required)>, Vec<(Place, Option<Bytes>)>),
    Create(String),
    Clear(String),
    Drop(String),
    Rename(String, String),
}

/// The answer of the store to an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Said(bool),
    Value(Option<Bytes>),
    /// A swap found this other value.
    Missed(Option<Bytes>),
    ConditionFailed,
    KeyspaceNotFound,
    KeyspaceExists,
}

/// The effect of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    pub(crate) answer: Answer,
    /// The places that may have changed.
    pub(crate) touched: Vec<Place>,
    /// True if it is a write, so that at [`Durability::Disk`](mapcask::Durability::Disk) everything
    /// before it is durable with it. A refusal makes durable only the data it depends on.
    pub(crate) wrote: bool,
}

/// An operation of one thread.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// True if it uses a handle whose writes are durable at any durability of the store.
    pub(crate) raised: bool,
}

impl Operation {
    /// Returns the operation at a place in history, for a thread whose present state is `state`.
    pub(crate) fn draw(seed: u64, run: u32, thread: usize, number: usize, state: &State) -> Self {
        let place = (u64::from(run) << 40) ^ ((thread as u64) << 32) ^ number as u64;
        let rng = fastrand::Rng::with_seed(seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let label = format!("thread {thread} run {run} operation {number}");
        let mut draw = Draw { rng, thread, label, slot: 0, state, own: state.names().collect() };
        let raised = draw.rng.u8(..) == 0;
        let is_short = draw.own.len() < KEYSPACES;
        let action = match draw.rng.u8(..) {
            0 => Action::Flush,
            1 => Action::Compact,
            2 => Action::Image,
            _ if is_short && draw.rng.u8(0..8) == 0 => draw.create(),
            3..=160 => draw.key(),
            161..=234 => draw.batch(),
            235..=237 => draw.create(),
            238..=243 => draw.clear(),
            244..=248 => Action::Drop(draw.some_name()),
            _ => Action::Rename(draw.some_name(), draw.any_name()),
        };
        Self { action, raised }
    }

    /// Applies the operation to a model.
    pub(crate) fn apply(&self, state: &mut State) -> Effect {
        match &self.action {
            Action::Flush | Action::Compact | Action::Image => Effect::none(Answer::Done),
            Action::Key(place, change) => {
                let before = state.get(place);
                let (after, answer) = change.outcome(before);
                let wrote = after.as_ref() != before;
                state.set(place, after);
                Effect { answer, touched: vec![place.clone()], wrote }
            }
            Action::Batch(condition, writes) => {
                if condition.as_ref().is_some_and(|(place, required)| !required.holds(state.get(place))) {
                    return Effect::none(Answer::ConditionFailed);
                }
                for (place, value) in writes {
                    state.set(place, value.clone());
                }
                let touched = writes.iter().map(|(place, _)| place.clone()).collect();
                Effect { answer: Answer::Done, touched, wrote: true }
            }
            Action::Create(name) => {
                let wrote = !state.has(name);
                state.set(&Place::keyspace(name), Some(Bytes::new()));
                Effect { answer: Answer::Done, touched: vec![Place::keyspace(name)], wrote }
            }
            Action::Clear(name) => {
                let touched = empty(state, name);
                Effect { answer: Answer::Done, wrote: !touched.is_empty(), touched }
            }
            Action::Drop(name) => {
                let was_there = state.has(name);
                let mut touched = empty(state, name);
                touched.push(Place::keyspace(name));
                state.set(&Place::keyspace(name), None);
                Effect { answer: Answer::Said(was_there), touched, wrote: was_there }
            }
            Action::Rename(from, _) if !state.has(from) => Effect::none(Answer::KeyspaceNotFound),
            Action::Rename(from, to) if from == to => Effect::none(Answer::Done),
            Action::Rename(_, to) if state.has(to) => Effect::none(Answer::KeyspaceExists),
            Action::Rename(from, to) => rename(state, from, to),
        }
    }
}

impl Effect {
    fn none(answer: Answer) -> Self {
        Self { answer, touched: Vec::new(), wrote: false }
    }
}

/// Removes every key of a keyspace. Returns their places.
fn empty(state: &mut State, name: &str) -> Vec<Place> {
    let places: Vec<_> = state.keys(name).cloned().collect();
    for place in &places {
        state.set(place, None);
    }
    places
}

fn rename(state: &mut State, from: &str, to: &str) -> Effect {
    let mut touched: Vec<_> = state.keys(from).cloned().collect();
    touched.push(Place::keyspace(from));
    for at in 0..touched.len() {
        let value = state.0.remove(&touched[at]);
        let moved = Place { keyspace: to.to_owned(), key: touched[at].key.clone() };
        state.set(&moved, value);
        touched.push(moved);
    }
    Effect { answer: Answer::Done, touched, wrote: true }
}

impl Change {
    /// Returns the new value of the key, and the store's answer.
    fn outcome(&self, before: Option<&Bytes>) -> (Option<Bytes>, Answer) {
        let old = before.cloned();
        match self {
            Self::Insert(value) => (Some(value.clone()), Answer::Done),
            Self::Remove => (None, Answer::Said(old.is_some())),
            Self::InsertIfAbsent(value) => {
                let is_absent = old.is_none();
                (old.or_else(|| Some(value.clone())), Answer::Said(is_absent))
            }
            Self::Swap(expected, new) if *expected == old => (new.clone(), Answer::Done),
            Self::Swap(..) => (old.clone(), Answer::Missed(old)),
            Self::Replace(value) => (Some(value.clone()), Answer::Value(old)),
            Self::Take => (None, Answer::Value(old)),
            Self::FetchAndUpdate(more) => (updated(before.map(Vec::as_slice), more), Answer::Value(old)),
            Self::UpdateAndFetch(more) => {
                let new = updated(before.map(Vec::as_slice), more);
                (new.clone(), Answer::Value(new))
            }
        }
    }
}

impl Required {
    fn holds(&self, found: Option<&Bytes>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Value(value) => found == Some(value),
        }
    }
}

/// Returns the result of an update. It depends on every byte of the old value, and sometimes is a
/// removal.
pub(crate) fn updated(old: Option<&[u8]>, more: &[u8]) -> Option<Bytes> {
    let sum = crc32fast::hash(old.unwrap_or_default());
    (old.is_none() || !sum.is_multiple_of(4)).then(|| sealed([more, &sum.to_le_bytes()].concat()))
}

fn sealed(mut value: Bytes) -> Bytes {
    value.extend_from_slice(&crc32fast::hash(&value).to_le_bytes());
    value
}

/// Describes the origin of a value.
pub(crate) fn describe(value: Option<&Bytes>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    if value.is_empty() {
        return "the keyspace".to_owned();
    }
    let intact =
        value.split_last_chunk::<4>().is_some_and(|(rest, sum)| crc32fast::hash(rest).to_le_bytes() == *sum);
    let label: Bytes = value.iter().copied().take(48).filter(u8::is_ascii_graphic).collect();
    let condition = if intact { "intact" } else { "DAMAGED" };
    format!("{} ({} bytes, {condition})", String::from_utf8_lossy(&label), value.len())
}

/// Draws the parts of an operation.
struct Draw<'s> {
    rng: fastrand::Rng,
    thread: usize,
    label: String,
    /// The number of values drawn. Each has its own number.
    slot: usize,
    state: &'s State,
    /// The names of the thread's keyspaces.
    own: Vec<&'s str>,
}

impl Draw<'_> {
    fn value(&mut self) -> Bytes {
        let len =
            if self.rng.u8(0..200) == 0 { self.rng.usize(0..VALUE_MAX) } else { self.rng.usize(0..300) };
        let mut value = format!("{}.{} ", self.label, self.slot).into_bytes();
        self.slot += 1;
        value.resize(value.len() + len, self.rng.u8(..));
        sealed(value)
    }

    fn value_or_none(&mut self) -> Option<Bytes> {
        (self.rng.u8(0..3) > 0).then(|| self.value())
    }

    /// Draws a key of the default keyspace, or of one of the thread's own.
    fn place(&mut self) -> Place {
        let keyspace = self.own.get(self.rng.usize(0..=KEYSPACES)).copied().unwrap_or_default().to_owned();
        let n = self.rng.usize(0..KEYS);
        let mut key = format!("{}/{n:02}", self.thread).into_bytes();
        key.resize(key.len() + n % 7 * 5, b'.');
        Place { keyspace, key: Some(key) }
    }

    fn any_name(&mut self) -> String {
        format!("{}{}", self.thread, NAMES[self.rng.usize(0..NAMES.len())])
    }

    /// Draws the name of an existing keyspace, if there is one.
    fn present_name(&mut self) -> Option<String> {
        (!self.own.is_empty()).then(|| self.own[self.rng.usize(0..self.own.len())].to_owned())
    }

    /// Draws a name, mostly that of an existing keyspace.
    fn some_name(&mut self) -> String {
        let present = if self.rng.u8(0..4) > 0 { self.present_name() } else { None };
        present.unwrap_or_else(|| self.any_name())
    }

    /// Draws a new keyspace. If there are enough, an existing one is created again.
    fn create(&mut self) -> Action {
        let name = if self.own.len() < KEYSPACES { None } else { self.present_name() };
        Action::Create(name.unwrap_or_else(|| self.any_name()))
    }

    fn clear(&mut self) -> Action {
        match self.present_name() {
            Some(name) => Action::Clear(name),
            None => self.create(),
        }
    }

    fn key(&mut self) -> Action {
        let place = self.place();
        let change = match self.rng.u8(0..16) {
            0..=5 => Change::Insert(self.value()),
            6..=8 => Change::Remove,
            9 => Change::InsertIfAbsent(self.value()),
            10 => Change::Replace(self.value()),
            11 => Change::Take,
            12 => Change::FetchAndUpdate(self.value()),
            13 => Change::UpdateAndFetch(self.value()),
            _ => {
                let expected = match self.rng.u8(0..6) {
                    0 => None,
                    1 => Some(STRANGER.to_vec()),
                    _ => self.state.get(&place).cloned(),
                };
                Change::Swap(expected, self.value_or_none())
            }
        };
        Action::Key(place, change)
    }

    fn batch(&mut self) -> Action {
        let condition = self.rng.bool().then(|| {
            let place = self.place();
            let required = match (self.rng.u8(0..8), self.state.get(&place)) {
                (0, _) | (3.., None) => Required::Absent,
                (1, _) => Required::Present,
                (2, _) => Required::Value(STRANGER.to_vec()),
                (_, Some(value)) => Required::Value(value.clone()),
            };
            (place, required)
        });
        let count = self.rng.usize(2..=7);
        Action::Batch(condition, (0..count).map(|_| (self.place(), self.value_or_none())).collect())
    }
}
