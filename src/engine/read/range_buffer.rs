//! The part of a range that an iterator has gathered and not yet returned.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::key_range::{KeyRange, following};
use crate::error::{Error, Result};
use crate::mem::address_space::OwnedRecord;

/// An end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

/// The records of a range, or their places, gathered from both ends.
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

impl<R> RangeBuffer<R> {
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

    /// Adds the record of the key that was gathered next at an end.
    #[inline]
    pub(crate) fn push(&mut self, end: End, record: Result<R>) {
        match end {
            End::Front => self.front.push_back(record),
            End::Back => self.back.push_front(record),
        }
    }

    /// Returns the number of records that were gathered at an end and not returned.
    #[inline]
    pub(crate) fn len(&self, end: End) -> usize {
        if end == End::Front { self.front.len() } else { self.back.len() }
    }

    /// Adds the records of the keys that were gathered next at an end.
    pub(crate) fn extend(&mut self, end: End, records: impl ExactSizeIterator<Item = R>) {
        let near = if end == End::Front { &mut self.front } else { &mut self.back };
        near.reserve(records.len());
        for record in records {
            self.push(end, Ok(record));
        }
    }

    /// Returns the record that [`RangeBuffer::pop`] will return after `distance` others at this end, if it was
    /// gathered there.
    #[inline]
    pub(crate) fn coming(&self, end: End, distance: usize) -> Option<&R> {
        let item = match end {
            End::Front => self.front.get(distance)?,
            End::Back => self.back.get(self.back.len().checked_sub(distance + 1)?)?,
        };
        item.as_ref().ok()
    }

    /// Skips the records before `key` at the front, or behind it at the back. `order_of` returns the order
    /// of a record's key and of `key`; `None` if it cannot be read: the record stays.
    pub(crate) fn seek(&mut self, key: &[u8], end: End, order_of: impl Fn(&R) -> Option<Ordering>) {
        let passed = if end == End::Front { Ordering::Less } else { Ordering::Greater };
        let is_passed = |item: &R| order_of(item).map(|order| order == passed);
        let (near, far) = match end {
            End::Front => (&mut self.front, &mut self.back),
            End::Back => (&mut self.back, &mut self.front),
        };
        if skip(near, end, is_passed) {
            return;
        }
        if let Some(left) = &mut self.left {
            match end {
                End::Front if *left.from < *key => left.from = key.to_vec(),
                End::Back if left.to.as_ref().is_none_or(|to| **to > *key) => left.to = Some(following(key)),
                _ => {}
            }
        }
        self.left.take_if(|left| left.is_empty());
        if self.left.is_none() {
            skip(far, end, is_passed);
        }
    }
}

impl RangeBuffer<OwnedRecord> {
    /// Skips records by their keys; see [`RangeBuffer::seek`].
    pub(crate) fn seek_key(&mut self, key: &[u8], end: End) {
        self.seek(key, end, |record| Some(record.key().cmp(key)));
    }
}

/// Removes the records at an end that were passed, and keeps errors and unreadable records between them.
/// Returns true if there is one that was not passed. `is_passed` returns `None` for an unreadable one.
fn skip<R>(records: &mut VecDeque<Result<R>>, end: End, is_passed: impl Fn(&R) -> Option<bool>) -> bool {
    let mut kept = Vec::new();
    let is_left = loop {
        let next = if end == End::Front { records.pop_front() } else { records.pop_back() };
        let Some(next) = next else { break false };
        let is_passed = next.as_ref().map_or(None, &is_passed);
        if is_passed != Some(true) {
            kept.push(next);
        }
        if is_passed == Some(false) {
            break true;
        }
    };
    for item in kept.into_iter().rev() {
        match end {
            End::Front => records.push_front(item),
            End::Back => records.push_back(item),
        }
    }
    is_left
}
