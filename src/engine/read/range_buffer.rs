//! The part of a range that an iterator has gathered and not yet returned.

use std::collections::VecDeque;

use super::key_range::{KeyRange, following};
use crate::error::{Error, Result};
use crate::mem::address_space::{OwnedRecord, Record};

/// An end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

/// A record in the form in which an iterator keeps it.
pub(crate) trait HasKey {
    fn key(&self) -> &[u8];
}

impl HasKey for OwnedRecord {
    fn key(&self) -> &[u8] {
        Self::key(self)
    }
}

impl HasKey for Record<'_> {
    fn key(&self) -> &[u8] {
        Self::key(self)
    }
}

/// The records of a range, gathered from both ends.
#[derive(Debug)]
pub(crate) struct RangeBuffer<R> {
    /// The keys that were not gathered yet; `None` if none are left.
    pub(crate) left: Option<KeyRange>,
    /// The records before those keys that were not returned yet, in ascending order.
    front: VecDeque<Result<R>>,
    /// The records behind those keys, in ascending order.
    back: VecDeque<Result<R>>,
}

/// The answer of [`RangeBuffer::pop`].
#[derive(Debug)]
pub(crate) enum Popped<R> {
    Item(Result<R>),
    /// The next ones must be gathered first.
    Missing,
    End,
}

impl<R: HasKey> RangeBuffer<R> {
    pub(crate) fn new(range: KeyRange) -> Self {
        let left = Some(range).filter(|range| !range.is_empty());
        Self { left, front: VecDeque::new(), back: VecDeque::new() }
    }

    /// Returns true if no record waits to be returned.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.back.is_empty()
    }

    /// Ends the range.
    pub(crate) fn end(&mut self) {
        self.left = None;
        self.front.clear();
        self.back.clear();
    }

    /// Ends the range with an error.
    pub(crate) fn end_with(&mut self, error: Error) {
        self.end();
        self.front.push_back(Err(error));
    }

    /// Takes the next record at an end.
    #[inline]
    pub(crate) fn pop(&mut self, end: End) -> Popped<R> {
        let Self { left, front, back } = self;
        let near = if end == End::Front { front.pop_front() } else { back.pop_back() };
        if near.is_none() && left.is_some() {
            return Popped::Missing;
        }
        let far = || if end == End::Front { back.pop_front() } else { front.pop_back() };
        near.or_else(far).map_or(Popped::End, Popped::Item)
    }

    /// Adds the records of the keys that were gathered next at an end, in ascending order.
    pub(crate) fn extend(&mut self, end: End, records: impl DoubleEndedIterator<Item = Result<R>>) {
        match end {
            End::Front => self.front.extend(records),
            End::Back => records.rev().for_each(|record| self.back.push_front(record)),
        }
    }

    /// Skips the records before `key` at the front, or behind it at the back.
    pub(crate) fn seek(&mut self, key: &[u8], end: End) {
        let stays = |item: &Result<R>| match (item, end) {
            (Err(_), _) => true,
            (Ok(record), End::Front) => record.key() >= key,
            (Ok(record), End::Back) => record.key() <= key,
        };
        self.front.retain(stays);
        self.back.retain(stays);
        if let Some(left) = &mut self.left {
            match end {
                End::Front if *left.from < *key => left.from = key.to_vec(),
                End::Back if left.to.as_ref().is_none_or(|to| **to > *key) => left.to = Some(following(key)),
                _ => {}
            }
        }
        self.left.take_if(|left| left.is_empty());
    }
}
