//! Writes, their effects and outcomes in the model, and their execution through the store's API.

use std::sync::Arc;

use mapcask::{Error, Keyspace, MAX_KEYSPACE_NAME_LEN, Result, Seq, Store, WriteBatch};

use super::{Bytes, Map, State, handle};

/// The longest value that an update makes.
const UPDATED_MAX: usize = 60;

/// A change to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    /// A keyspace, a key, and the change to it.
    Key(String, Bytes, Change),
    /// The keyspace that the batch is written to, and its items: keyspace, key, step.
    Batch(String, Vec<(String, Bytes, Step)>),
    /// Removes the first key of a keyspace, or the last one.
    Pop(String, bool),
    Create(String),
    Rename(String, String),
    Clear(String),
    Drop(String),
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Insert(Bytes),
    Remove,
    CompareAndSwap(Expected, Option<Bytes>),
    InsertIfAbsent(Bytes),
    Replace(Bytes),
    Take,
    FetchAndUpdate(Bytes),
    UpdateAndFetch(Bytes),
}

/// One item of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Insert(Bytes),
    Remove,
    Require(Expected),
    RequirePresent,
}

/// The expected value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The present value. It is replaced by one of the other variants before its use.
    Right,
    Absent,
    Value(Bytes),
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Said(bool),
    Value(Option<Bytes>),
    /// The key and the value that were removed.
    Popped(Option<(Bytes, Bytes)>),
    /// A swap that did not match, with the present value.
    Missed(Option<Bytes>),
    ConditionFailed(Bytes),
    KeyspaceExists,
    KeyspaceNotFound,
    InvalidKeyspaceName,
}

impl Outcome {
    /// Returns true if a durable handle guarantees that the data behind this outcome is durable. A
    /// refusal because of a keyspace's name guarantees nothing about names.
    pub(crate) fn settles(&self) -> bool {
        !matches!(self, Self::KeyspaceExists | Self::KeyspaceNotFound | Self::InvalidKeyspaceName)
    }
}

/// Returns the result of an update. The value grows until it is removed.
fn updated(old: Option<&[u8]>, more: &[u8]) -> Option<Vec<u8>> {
    let new = [old.unwrap_or_default(), more].concat();
    (new.len() <= UPDATED_MAX).then_some(new)
}

impl Expected {
    fn resolve(&mut self, current: Option<&Bytes>) {
        if *self == Self::Right {
            *self = current.map_or(Self::Absent, |value| Self::Value(value.clone()));
        }
    }

    fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Right => unreachable!("it was resolved"),
            Self::Absent => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl Write {
    pub(crate) fn insert(keyspace: &str, key: &str, value: impl AsRef<[u8]>) -> Self {
        Self::Key(keyspace.to_owned(), Bytes::from(key), Change::Insert(Bytes::from(&value)))
    }

    pub(crate) fn remove(keyspace: &str, key: &str) -> Self {
        Self::Key(keyspace.to_owned(), Bytes::from(key), Change::Remove)
    }

    /// Replaces each [`Expected::Right`] by the present value.
    pub(crate) fn resolved(mut self, state: &State) -> Self {
        match &mut self {
            Self::Key(keyspace, key, Change::CompareAndSwap(expected, _)) => {
                expected.resolve(state.get(keyspace, key));
            }
            Self::Batch(_, items) => {
                for (keyspace, key, step) in items {
                    if let Step::Require(expected) = step {
                        expected.resolve(state.get(keyspace, key));
                    }
                }
            }
            _ => {}
        }
        self
    }

    /// Returns the keyspaces that the write needs.
    fn targets(&self) -> Vec<&String> {
        match self {
            Self::Key(keyspace, ..) | Self::Clear(keyspace) | Self::Pop(keyspace, _) => vec![keyspace],
            Self::Batch(to, items) => {
                [to].into_iter().chain(items.iter().map(|(keyspace, ..)| keyspace)).collect()
            }
            Self::Create(_) | Self::Rename(..) | Self::Drop(_) => Vec::new(),
        }
    }

    /// Returns the write and the creations that it needs before it.
    pub(crate) fn with_creations(self, state: &State) -> Vec<Self> {
        let missing = self.targets().into_iter().filter(|keyspace| !state.0.contains_key(*keyspace));
        let mut missing: Vec<_> = missing.cloned().collect();
        missing.sort();
        missing.dedup();
        missing.into_iter().map(Self::Create).chain([self]).collect()
    }

    /// Returns every key that the write may change, with its keyspace.
    pub(crate) fn keys(&self) -> Vec<(&str, &Bytes)> {
        match self {
            Self::Key(keyspace, key, _) => vec![(keyspace.as_str(), key)],
            Self::Batch(_, items) => {
                items.iter().map(|(keyspace, key, _)| (keyspace.as_str(), key)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Applies the write to the model, and returns its expected outcome.
    pub(crate) fn apply(&self, state: &mut State) -> Outcome {
        match self {
            Self::Key(keyspace, key, change) => {
                let map = state.0.get_mut(keyspace).expect("created before it is written to");
                change.apply(key, Arc::make_mut(map))
            }
            Self::Batch(_, items) => {
                for (keyspace, key, step) in items {
                    let current = state.get(keyspace, key);
                    let holds = match step {
                        Step::Require(expected) => current == expected.value(),
                        Step::RequirePresent => current.is_some(),
                        _ => true,
                    };
                    if !holds {
                        return Outcome::ConditionFailed(key.clone());
                    }
                }
                for (keyspace, key, step) in items {
                    let map = state.0.get_mut(keyspace).expect("created before it is written to");
                    match step {
                        Step::Insert(value) => drop(Arc::make_mut(map).insert(key.clone(), value.clone())),
                        Step::Remove => drop(Arc::make_mut(map).remove(key)),
                        _ => {}
                    }
                }
                Outcome::Done
            }
            Self::Pop(keyspace, first) => {
                let map = Arc::make_mut(state.0.get_mut(keyspace).expect("created before it is written to"));
                Outcome::Popped(if *first { map.pop_first() } else { map.pop_last() })
            }
            Self::Clear(keyspace) => {
                state.0.insert(keyspace.clone(), Arc::default());
                Outcome::Done
            }
            _ => self.apply_to_names(state),
        }
    }

    fn apply_to_names(&self, state: &mut State) -> Outcome {
        let too_long = |name: &String| name.len() > MAX_KEYSPACE_NAME_LEN;
        match self {
            Self::Create(name) if too_long(name) => Outcome::InvalidKeyspaceName,
            Self::Create(name) => {
                state.0.entry(name.clone()).or_default();
                Outcome::Done
            }
            Self::Rename(from, to) if from.is_empty() || to.is_empty() || too_long(to) => {
                Outcome::InvalidKeyspaceName
            }
            Self::Rename(from, _) if !state.0.contains_key(from) => Outcome::KeyspaceNotFound,
            Self::Rename(from, to) if from == to => Outcome::Done,
            Self::Rename(_, to) if state.0.contains_key(to) => Outcome::KeyspaceExists,
            Self::Rename(from, to) => {
                let map = state.0.remove(from).expect("just found");
                state.0.insert(to.clone(), map);
                Outcome::Done
            }
            Self::Drop(name) if name.is_empty() => Outcome::InvalidKeyspaceName,
            Self::Drop(name) => Outcome::Said(state.0.remove(name).is_some()),
            _ => unreachable!("it is about keys"),
        }
    }

    /// Performs the write on a store, with new handles.
    pub(crate) fn run(&self, store: &Store) -> Result<Outcome> {
        Ok(self.run_by(store, &|name| handle(store, name))?.0)
    }

    /// Performs the write on a store, with handles to keyspaces from `of`. Returns the outcome, and
    /// the write's number if the call reported one.
    pub(crate) fn run_by(
        &self,
        store: &Store,
        of: &dyn Fn(&str) -> Result<Keyspace>,
    ) -> Result<(Outcome, Option<Seq>)> {
        let written = match self {
            Self::Key(keyspace, key, change) => change.run(&of(keyspace)?, key),
            Self::Batch(to, items) => {
                let mut batch = WriteBatch::new();
                for (place, (keyspace, key, step)) in items.iter().enumerate() {
                    // Both ways lead to the same keyspace.
                    if keyspace == to && place % 2 == 0 {
                        step.add(&mut batch, key);
                    } else {
                        step.add_on(&mut batch, &of(keyspace)?, key);
                    }
                }
                of(to)?.write(batch).map(|seq| (Outcome::Done, Some(seq)))
            }
            Self::Pop(keyspace, first) => pop(&of(keyspace)?, *first).map(|popped| (popped, None)),
            Self::Create(name) => handle(store, name).map(|_| (Outcome::Done, None)),
            Self::Rename(from, to) => store.rename_keyspace(from, to).map(|()| (Outcome::Done, None)),
            Self::Clear(keyspace) => of(keyspace)?.clear().map(|seq| (Outcome::Done, Some(seq))),
            Self::Drop(name) => store.drop_keyspace(name).map(|was_there| (Outcome::Said(was_there), None)),
        };
        let refused = match written {
            Err(Error::ConditionFailed { key, .. }) => Outcome::ConditionFailed(Bytes(key)),
            Err(Error::KeyspaceExists { .. }) => Outcome::KeyspaceExists,
            Err(Error::KeyspaceNotFound { .. }) => Outcome::KeyspaceNotFound,
            Err(Error::InvalidKeyspaceName { .. }) => Outcome::InvalidKeyspaceName,
            other => return other,
        };
        Ok((refused, None))
    }
}

/// Removes the first key of a keyspace, or the last one. One that is not ordered is searched for it.
fn pop(keyspace: &Keyspace, first: bool) -> Result<Outcome> {
    let popped = if keyspace.is_ordered() {
        if first { keyspace.pop_first()? } else { keyspace.pop_last()? }
    } else {
        let mut items = keyspace.iter().collect::<Result<Vec<_>>>()?;
        items.sort();
        let end = if first { items.into_iter().next() } else { items.pop() };
        let Some((key, _)) = end else {
            // The answer of a pop is as durable as a removal.
            keyspace.remove("absent in all these tests")?;
            return Ok(Outcome::Popped(None));
        };
        keyspace.take(&key)?.map(|value| (key, value))
    };
    Ok(Outcome::Popped(popped.map(|(key, value)| (Bytes::from(&key), Bytes::from(&value)))))
}

impl Change {
    fn apply(&self, key: &Bytes, map: &mut Map) -> Outcome {
        let old = map.get(key).cloned();
        let mut set = |new: Option<Bytes>| match new {
            Some(new) => map.insert(key.clone(), new),
            None => map.remove(key),
        };
        match self {
            Self::Insert(value) => {
                set(Some(value.clone()));
                Outcome::Done
            }
            Self::Remove => Outcome::Said(set(None).is_some()),
            Self::CompareAndSwap(expected, _) if old.as_ref() != expected.value() => Outcome::Missed(old),
            Self::CompareAndSwap(_, new) => {
                set(new.clone());
                Outcome::Done
            }
            Self::InsertIfAbsent(value) => {
                if old.is_none() {
                    set(Some(value.clone()));
                }
                Outcome::Said(old.is_none())
            }
            Self::Replace(value) => Outcome::Value(set(Some(value.clone()))),
            Self::Take => Outcome::Value(set(None)),
            Self::FetchAndUpdate(more) => Outcome::Value(set(updated(old.as_deref(), more).map(Bytes))),
            Self::UpdateAndFetch(more) => {
                let new = updated(old.as_deref(), more).map(Bytes);
                set(new.clone());
                Outcome::Value(new)
            }
        }
    }

    fn run(&self, keyspace: &Keyspace, key: &Bytes) -> Result<(Outcome, Option<Seq>)> {
        let value = |value: Option<mapcask::Value>| Outcome::Value(value.map(|value| Bytes::from(&value)));
        let outcome = match self {
            Self::Insert(value) => return keyspace.insert(key, value).map(|seq| (Outcome::Done, Some(seq))),
            Self::CompareAndSwap(expected, new) => {
                match keyspace.compare_and_swap(key, expected.value(), new.as_ref())? {
                    Ok(seq) => return Ok((Outcome::Done, Some(seq))),
                    Err(error) => Outcome::Missed(error.current.map(|value| Bytes::from(&value))),
                }
            }
            Self::Remove => Outcome::Said(keyspace.remove(key)?),
            Self::InsertIfAbsent(value) => Outcome::Said(keyspace.insert_if_absent(key, value)?),
            Self::Replace(new) => value(keyspace.replace(key, new)?),
            Self::Take => value(keyspace.take(key)?),
            Self::FetchAndUpdate(more) => value(keyspace.fetch_and_update(key, |old| updated(old, more))?),
            Self::UpdateAndFetch(more) => value(keyspace.update_and_fetch(key, |old| updated(old, more))?),
        };
        Ok((outcome, None))
    }
}

impl Step {
    fn add(&self, batch: &mut WriteBatch, key: &Bytes) {
        match self {
            Self::Insert(value) => batch.insert(key, value),
            Self::Remove => batch.remove(key),
            Self::RequirePresent => batch.require_present(key),
            Self::Require(expected) => match expected.value() {
                Some(value) => batch.require(key, value),
                None => batch.require_absent(key),
            },
        }
    }

    fn add_on(&self, batch: &mut WriteBatch, keyspace: &Keyspace, key: &Bytes) {
        let mut on = batch.on(keyspace);
        match self {
            Self::Insert(value) => on.insert(key, value),
            Self::Remove => on.remove(key),
            Self::RequirePresent => on.require_present(key),
            Self::Require(expected) => match expected.value() {
                Some(value) => on.require(key, value),
                None => on.require_absent(key),
            },
        };
    }
}
