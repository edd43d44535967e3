//! A consumer that keeps a copy of the store by its changes.

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Changes, Error, FeedPosition, Since};

use crate::contents::Contents;
use crate::feed;
use crate::oracle::{Event, Kind};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A copy of a store, and the feed that keeps it up to date.
pub(crate) struct Consumer {
    changes: Changes,
    /// The name and the contents of each keyspace, by number. A feed that goes on from a position does
    /// not know earlier names.
    copy: BTreeMap<u32, (String, Map)>,
    /// The changes of a batch or a state that is not complete.
    pending: Vec<Event>,
    pub(crate) position: FeedPosition,
    /// The number of times that a part of the history was not there.
    pub(crate) lagged: u64,
    last: u64,
}

impl Consumer {
    pub(crate) fn new(disk: &SimDisk) -> Self {
        Self::of(feed(disk, Since::State))
    }

    /// Makes a consumer of a feed that begins with the state.
    pub(crate) fn of(changes: Changes) -> Self {
        let position = changes.position();
        Self { changes, copy: BTreeMap::new(), pending: Vec::new(), position, lagged: 0, last: 0 }
    }

    /// Begins anew.
    pub(crate) fn restart(&mut self, disk: &SimDisk) {
        let lagged = self.lagged;
        *self = Self { lagged, ..Self::new(disk) };
    }

    /// Forgets the feed, and goes on from the position.
    pub(crate) fn reopen(&mut self, disk: &SimDisk) {
        let position = FeedPosition::from_bytes(&self.position.to_bytes()).unwrap();
        assert_eq!(position, self.position);
        self.pending.clear();
        self.changes = feed(disk, position);
    }

    /// Applies what there is. A consumer that lags begins anew with the state.
    pub(crate) fn poll(&mut self, disk: &SimDisk) -> Result<(), Error> {
        loop {
            let event = match self.changes.next() {
                Ok(Some(change)) => Event::of(&change),
                Ok(None) => {
                    assert_eq!(self.pending, [], "a batch is never seen in part");
                    return Ok(());
                }
                Err(Error::Lagged { from, to, .. }) => {
                    assert!(self.position.seq().0 < from && from <= to, "{from} to {to}");
                    self.lagged += 1;
                    self.pending.clear();
                    self.changes = feed(disk, Since::State);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is_border = !event.more;
            self.pending.push(event);
            if is_border {
                self.apply();
            }
        }
    }

    /// Returns the copy by the names of keyspaces.
    pub(crate) fn copy(&self) -> Contents {
        let mut contents = Contents::from([(String::new(), BTreeMap::new())]);
        contents.extend(self.copy.values().cloned());
        contents
    }

    fn apply(&mut self) {
        let is_state = self.pending.last().is_some_and(|event| event.kind == Kind::StateEnd);
        if is_state {
            self.copy.clear();
        }
        for event in std::mem::take(&mut self.pending) {
            assert!(event.seq > self.last || is_state && event.seq >= self.last, "{event:?}");
            self.apply_one(&event);
            if !event.more {
                self.last = event.seq;
            }
        }
        self.position = self.changes.position();
        // A state may have the number of one of the log's own records.
        assert!(self.position.seq().0 == self.last || is_state && self.position.seq().0 < self.last);
    }

    fn apply_one(&mut self, event: &Event) {
        let [id, before] = event.ids.unwrap();
        // The default keyspace is never created.
        let copy = &mut self.copy;
        match &event.kind {
            Kind::Created(name) => {
                let old = copy.insert(id, (name.clone(), BTreeMap::new()));
                assert!(old.is_none(), "{event:?}");
            }
            Kind::Renamed(name) => name.clone_into(&mut copy.get_mut(&id).unwrap().0),
            Kind::Cleared => {
                let (name, _) = copy.remove(&before).unwrap_or_default();
                copy.insert(id, (name, BTreeMap::new()));
            }
            Kind::Dropped => assert!(copy.remove(&id).is_some(), "{event:?}"),
            Kind::Insert(key, value) | Kind::State(key, value) => {
                copy.entry(id).or_default().1.insert(key.clone(), value.clone());
            }
            Kind::Remove(key) => {
                copy.entry(id).or_default().1.remove(key);
            }
            Kind::StateEnd => {}
        }
    }
}
