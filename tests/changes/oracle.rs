//! The history that the random steps of a writer must leave.

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Change, ChangeKind, Options, Store};

use crate::contents::Contents;
use crate::kill;
use crate::steps::{NAMES, Step, name_of, value_of};

/// A change that was returned or is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    /// The number of the keyspace, and the one that it had before a clear. Unknown to the oracle.
    pub(crate) ids: Option<[u32; 2]>,
    /// The name before the change.
    pub(crate) keyspace: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Created(String),
    Renamed(String),
    Cleared,
    Dropped,
    State(Vec<u8>, Vec<u8>),
    StateEnd,
}

impl Event {
    pub(crate) fn of(change: &Change<'_>) -> Self {
        let kind = match change.kind {
            ChangeKind::Insert { key, value } => Kind::Insert(key.to_vec(), value.to_vec()),
            ChangeKind::Remove { key } => Kind::Remove(key.to_vec()),
            ChangeKind::Created { name } => Kind::Created(name.to_owned()),
            ChangeKind::Renamed { name } => Kind::Renamed(name.to_owned()),
            ChangeKind::Cleared { .. } => Kind::Cleared,
            ChangeKind::Dropped => Kind::Dropped,
            ChangeKind::State { key, value } => Kind::State(key.to_vec(), value.to_vec()),
            ChangeKind::StateEnd => Kind::StateEnd,
            _ => panic!("{change:?}"),
        };
        let keyspace = change.keyspace.name.map(str::to_owned);
        let id = change.keyspace.id;
        let before = if let ChangeKind::Cleared { before } = change.kind { before } else { id };
        assert_eq!(before == id, kind != Kind::Cleared);
        Self { seq: change.seq.0, ids: Some([id, before]), keyspace, kind, more: change.more }
    }

    /// Returns the change without the name of its keyspace, which a feed that began later may not
    /// know.
    pub(crate) fn nameless(&self) -> Self {
        Self { keyspace: None, ..self.unnumbered() }
    }

    /// Returns the change without the number of its keyspace, which the oracle does not know.
    pub(crate) fn unnumbered(&self) -> Self {
        Self { ids: None, ..self.clone() }
    }

    /// Applies the change by the name of its keyspace.
    pub(crate) fn apply(&self, contents: &mut Contents) {
        if self.kind == Kind::StateEnd {
            return;
        }
        let name = self.keyspace.clone().unwrap_or_else(|| panic!("{self:?} has no name"));
        match &self.kind {
            Kind::Created(name) => {
                assert_eq!(contents.insert(name.clone(), BTreeMap::new()), None, "{self:?}");
            }
            Kind::Dropped => assert!(contents.remove(&name).is_some(), "{self:?}"),
            Kind::Renamed(new) => {
                let map = contents.remove(&name).unwrap_or_else(|| panic!("{self:?}"));
                assert_eq!(contents.insert(new.clone(), map), None, "{self:?}");
            }
            kind => {
                let map = contents.get_mut(&name).unwrap_or_else(|| panic!("{self:?}: no such keyspace"));
                match kind {
                    Kind::Insert(key, value) | Kind::State(key, value) => {
                        map.insert(key.clone(), value.clone());
                    }
                    Kind::Remove(key) => drop(map.remove(key)),
                    _ => map.clear(),
                }
            }
        }
    }
}

/// A writer, and the history that it has made.
pub(crate) struct Writer {
    pub(crate) disk: SimDisk,
    store: Option<Store>,
    options: Options,
    pub(crate) compacts: bool,
    number: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) contents: Contents,
}

impl Writer {
    pub(crate) fn open(disk: &SimDisk, options: Options) -> Self {
        let store = Some(options.clone().open_on(disk).unwrap());
        let contents = Contents::from([(String::new(), BTreeMap::new())]);
        Self { disk: disk.clone(), store, options, compacts: true, number: 0, events: Vec::new(), contents }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    /// Ends the process without a close.
    pub(crate) fn kill(&mut self) {
        if let Some(store) = self.store.take() {
            kill(&self.disk, store);
        }
        self.store = Some(self.options.clone().open_on(&self.disk).unwrap());
    }

    fn close(&mut self) {
        self.store.take().expect("it is open").close().unwrap();
        self.store = Some(self.options.clone().open_on(&self.disk).unwrap());
    }

    /// Returns the changes that a step makes, without numbers.
    fn plan(&self, step: &Step, number: usize) -> Vec<Event> {
        let there = |place: usize| self.contents.get(name_of(place));
        let event = |place: usize, kind| Event {
            seq: 0,
            ids: None,
            keyspace: Some(name_of(place).to_owned()),
            kind,
            more: false,
        };
        let one = |place: usize, kind| vec![event(place, kind)];
        match *step {
            Step::Put(at, key, len) if there(at).is_some() => {
                one(at, Kind::Insert(vec![key], value_of(number, len)))
            }
            Step::Remove(at, key) if there(at).is_some_and(|map| map.contains_key([key].as_slice())) => {
                one(at, Kind::Remove(vec![key]))
            }
            Step::Batch(ref writes) => {
                let kept = writes.iter().filter(|(at, ..)| there(*at).is_some());
                let mut events: Vec<_> = kept
                    .map(|(at, key, len)| match len {
                        Some(len) => event(*at, Kind::Insert(vec![*key], value_of(number, *len))),
                        None => event(*at, Kind::Remove(vec![*key])),
                    })
                    .collect();
                let last = events.len().saturating_sub(1);
                events.iter_mut().take(last).for_each(|event| event.more = true);
                events
            }
            Step::Create(name) if there(name + 1).is_none() => {
                one(name + 1, Kind::Created(NAMES[name].to_owned()))
            }
            Step::Clear(at) if there(at).is_some_and(|map| !map.is_empty()) => one(at, Kind::Cleared),
            Step::Drop(name) if there(name + 1).is_some() => one(name + 1, Kind::Dropped),
            Step::Rename(from, to) if there(from + 1).is_some() && there(to + 1).is_none() => {
                one(from + 1, Kind::Renamed(NAMES[to].to_owned()))
            }
            _ => Vec::new(),
        }
    }

    /// Draws a step. Returns it, and the contents after it.
    pub(crate) fn draw(&mut self, rng: &mut fastrand::Rng) -> (Step, Contents) {
        self.number += 1;
        let mut step = Step::draw(rng);
        if !self.compacts && matches!(step, Step::Compact) {
            step = Step::Flush;
        }
        let mut after = self.contents.clone();
        for event in self.plan(&step, self.number) {
            event.apply(&mut after);
        }
        (step, after)
    }

    /// Carries out a step that was drawn.
    pub(crate) fn act(&mut self, step: &Step) {
        let mut events = self.plan(step, self.number);
        match step {
            Step::Close => self.close(),
            Step::Kill => self.kill(),
            _ => step.write(self.store(), self.number),
        }
        let last = self.store().last_seq().0;
        let count = events.len() as u64;
        for (n, event) in (0..).zip(&mut events) {
            event.seq = last + 1 - count + n;
            event.apply(&mut self.contents);
        }
        self.events.extend(events);
    }

    /// Returns the number before every batch and change, in order, and the last number.
    pub(crate) fn borders(&self) -> Vec<u64> {
        let ends = self.events.iter().filter(|event| !event.more).map(|event| event.seq);
        [0].into_iter().chain(ends).collect()
    }

    /// Returns the changes behind a number. One within a batch counts as the one before it.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        let border = self.borders().into_iter().filter(|border| *border <= seq).max().unwrap_or(0);
        self.events.iter().filter(|event| event.seq > border).cloned().collect()
    }
}

/// Prints the seed of a history that panics.
pub(crate) struct Shown(pub(crate) u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fails with seed {}", self.0);
        }
    }
}
