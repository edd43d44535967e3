//! What the tests against a model share: states, writes, the history of acknowledged states, and reading a store out.
//!
//! It knows the public API only. What a crash may leave is decided in one place: [`History::check_cut`] and
//! [`History::check_kill`].

pub(crate) mod trace;

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Durability, Options, Result, Store, WriteBatch};

/// What a store holds.
pub(crate) type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// The options of all these tests: the smallest segments, so that a handful of writes rolls, and no helper thread.
pub(crate) fn options(durability: Durability) -> Options {
    Options::new().durability(durability).background(false).segment_bytes(4096)
}

/// Opens the store of a disk.
pub(crate) fn open(disk: &SimDisk, durability: Durability) -> Result<Store> {
    options(durability).open_on(disk)
}

/// Everything that a store holds, by iteration, compared with what it says of its size.
pub(crate) fn content(store: &Store) -> State {
    let mut content = State::new();
    for item in store.iter() {
        let (key, value) = item.unwrap();
        let before = content.insert(key.to_vec(), value.to_vec());
        assert!(before.is_none(), "each key comes once");
    }
    assert_eq!(store.len(), content.len(), "the count of keys is that of the iteration");
    for (key, value) in &content {
        let found = store.get(key).unwrap();
        assert_eq!(found.as_deref(), Some(value.as_slice()), "a read agrees with the iteration");
    }
    content
}

/// What a store holds under these keys, which must be all of its keys. An iteration goes through the whole index, which
/// is thousands of times as large as a history of three steps.
pub(crate) fn content_under(store: &Store, keys: &[&str]) -> State {
    let found =
        keys.iter().filter_map(|key| Some((key.as_bytes().to_vec(), store.get(key).unwrap()?.to_vec())));
    let content: State = found.collect();
    assert_eq!(store.len(), content.len(), "there is no other key");
    content
}

/// One acknowledged change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    Insert(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    /// Values for insertions, `None` for removals.
    Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

impl Write {
    /// Carries it out on the model.
    pub(crate) fn apply(&self, state: &mut State) {
        match self {
            Self::Insert(key, value) => drop(state.insert(key.clone(), value.clone())),
            Self::Remove(key) => drop(state.remove(key)),
            Self::Batch(writes) => {
                for (key, value) in writes {
                    match value {
                        Some(value) => drop(state.insert(key.clone(), value.clone())),
                        None => drop(state.remove(key)),
                    }
                }
            }
        }
    }

    /// Carries it out on a store.
    pub(crate) fn run(&self, store: &Store) -> Result<()> {
        match self {
            Self::Insert(key, value) => store.insert(key, value).map(drop),
            Self::Remove(key) => store.remove(key).map(drop),
            Self::Batch(writes) => {
                let mut batch = WriteBatch::new();
                for (key, value) in writes {
                    match value {
                        Some(value) => batch.insert(key, value),
                        None => batch.remove(key),
                    }
                }
                store.write(batch).map(drop)
            }
        }
    }
}

/// The states that were acknowledged, and how far they are durable.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// In order; the first is the oldest that may come back.
    states: Vec<State>,
    /// The newest state that is known to be durable.
    durable: usize,
}

impl History {
    /// The history of an empty store.
    pub(crate) fn new() -> Self {
        Self { states: vec![State::new()], durable: 0 }
    }

    /// The newest state.
    pub(crate) fn now(&self) -> &State {
        self.states.last().expect("there is always one")
    }

    /// Adds the state after a write.
    pub(crate) fn write(&mut self, write: &Write) {
        let mut state = self.now().clone();
        write.apply(&mut state);
        self.states.push(state);
    }

    /// Everything up to now was promised to be durable.
    pub(crate) fn make_durable(&mut self) {
        self.durable = self.states.len() - 1;
    }

    /// Forgets the states that can no longer come back.
    pub(crate) fn forget(&mut self) {
        self.states.drain(..self.durable);
        self.durable = 0;
    }

    /// This history with a write that was under way: it may be there or not.
    pub(crate) fn with_pending(&self, write: Option<&Write>) -> Self {
        let mut pending = self.clone();
        if let Some(write) = write {
            pending.write(write);
        }
        pending
    }

    /// After a power cut the state must be one of those since the durable one; the history goes on from it, and it is
    /// durable now, because nothing but the platter was left to read it from.
    pub(crate) fn check_cut(&self, found: &State) -> Result<Self, String> {
        if self.states[self.durable..].contains(found) {
            return Ok(Self { states: vec![found.clone()], durable: 0 });
        }
        let lost = self.states[..self.durable].iter().rposition(|state| state == found);
        let what = match lost {
            Some(at) => {
                format!("durable writes are missing: state {at} is back, {} was durable", self.durable)
            }
            None => "the state is no prefix of the history".to_owned(),
        };
        let expected: Vec<_> = self.states[self.durable..].iter().map(brief).collect();
        Err(format!("{what}\nfound {}\nallowed {expected:#?}", brief(found)))
    }

    /// After the death of the process nothing that was acknowledged may be missing. `pending` is how many of the last
    /// states were not acknowledged. What was durable is, and what was not is as little durable as before.
    pub(crate) fn check_kill(&self, found: &State, pending: usize) -> Result<Self, String> {
        let oldest = self.states.len() - 1 - pending;
        match self.states[oldest..].iter().position(|state| state == found) {
            Some(at) => {
                let mut history = self.clone();
                history.states.truncate(oldest + at + 1);
                Ok(history)
            }
            None => Err(format!(
                "acknowledged writes are missing after a kill\nfound {}\nexpected {}",
                brief(found),
                brief(&self.states[oldest])
            )),
        }
    }
}

/// A state in a form that fits on a line: long values by their lengths.
pub(crate) fn brief(state: &State) -> String {
    let show = |bytes: &[u8]| match bytes.len() {
        0..=24 => String::from_utf8_lossy(bytes).into_owned(),
        len => format!("{} bytes of {:?}", len, bytes[0]),
    };
    let items: Vec<_> = state.iter().map(|(key, value)| format!("{}: {}", show(key), show(value))).collect();
    format!("{{{}}}", items.join(", "))
}

/// A number from the environment, for runs that are larger than a plain `cargo test`.
pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}
