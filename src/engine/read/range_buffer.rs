//! The part of a range that an iterator has gathered and not yet returned.

use std::cmp::Ordering;
use std::{mem, vec};

use super::key_range::{KeyRange, following};
use crate::error::Error;

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
    /// The records before those keys, and those behind them, that were not returned yet. Each end has them in
    /// the order in which it returns them.
    ends: [vec::IntoIter<R>; 2],
    /// The error that ended the range.
    failure: Option<Error>,
}

/// The answer of [`RangeBuffer::pop`].
#[derive(Debug)]
pub(crate) enum Popped<R> {
    Item(R),
    /// The error that ended the range.
    Failed(Error),
    /// The next ones must be gathered first.
    Missing,
    End,
}

impl End {
    fn other(self) -> Self {
        if self == Self::Front { Self::Back } else { Self::Front }
    }
}

impl<R> RangeBuffer<R> {
    pub(crate) fn new(range: KeyRange) -> Self {
        let left = Some(range).filter(|range| !range.is_empty());
        Self { left, ends: Default::default(), failure: None }
    }

    /// Returns true if no record waits to be returned.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len(End::Front) + self.len(End::Back) == 0
    }

    /// Ends the range.
    pub(crate) fn end(&mut self) {
        self.left = None;
        self.ends = Default::default();
        self.failure = None;
    }

    /// Ends the range with an error.
    pub(crate) fn end_with(&mut self, error: Error) {
        self.end();
        self.failure = Some(error);
    }

    /// Returns true if an error has ended the range, and was not returned.
    #[cfg(feature = "serde")]
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Takes the next record at an end.
    #[inline]
    pub(crate) fn pop(&mut self, end: End) -> Popped<R> {
        match self.ends[end as usize].next() {
            Some(record) => Popped::Item(record),
            None if self.left.is_some() => Popped::Missing,
            None => self.pop_rest(end),
        }
    }

    /// Takes the next record, once none is left to gather and all were returned that this end gathered.
    fn pop_rest(&mut self, end: End) -> Popped<R> {
        match self.ends[end.other() as usize].next_back() {
            Some(record) => Popped::Item(record),
            None => self.failure.take().map_or(Popped::End, Popped::Failed),
        }
    }

    /// Returns the number of records that were gathered at an end and not returned.
    #[inline]
    pub(crate) fn len(&self, end: End) -> usize {
        self.ends[end as usize].len()
    }

    /// Adds the records that were gathered next at an end, in the order in which it returns them. All those
    /// before were returned.
    pub(crate) fn fill(&mut self, end: End, records: Vec<R>) {
        debug_assert_eq!(self.len(end), 0, "the end asked for more");
        self.ends[end as usize] = records.into_iter();
    }

    /// Returns the record that [`RangeBuffer::pop`] will return after `distance` others at this end, if it was
    /// gathered there.
    #[inline]
    pub(crate) fn coming(&self, end: End, distance: usize) -> Option<&R> {
        self.ends[end as usize].as_slice().get(distance)
    }

    /// Skips the records before `key` at the front, or behind it at the back. `order_of` returns the order
    /// of a record's key and of `key`; `None` if it cannot be read: the record stays.
    pub(crate) fn seek(&mut self, key: &[u8], end: End, order_of: impl Fn(&R) -> Option<Ordering>) {
        let passed = if end == End::Front { Ordering::Less } else { Ordering::Greater };
        let is_passed = |item: &R| order_of(item).map(|order| order == passed);
        if skip(&mut self.ends[end as usize], false, is_passed) {
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
            skip(&mut self.ends[end.other() as usize], true, is_passed);
        }
    }
}

/// Removes the records that were passed, of those that are returned first, or last. It keeps the unreadable
/// ones between them. Returns true if there is one that was not passed. `is_passed` returns `None` for an
/// unreadable one.
fn skip<R>(records: &mut vec::IntoIter<R>, from_last: bool, is_passed: impl Fn(&R) -> Option<bool>) -> bool {
    let (all, mut passed, mut unreadable) = (records.as_slice(), 0, 0);
    let at = |distance| if from_last { all.len() - 1 - distance } else { distance };
    let is_left = loop {
        if passed + unreadable == all.len() {
            break false;
        }
        match is_passed(&all[at(passed + unreadable)]) {
            Some(true) => passed += 1,
            Some(false) => break true,
            None => unreadable += 1,
        }
    };
    if unreadable > 0 {
        let beside = passed + unreadable;
        let others = if from_last { 0..all.len() - beside } else { beside..all.len() };
        let is_kept = |(at, record): &(usize, R)| others.contains(at) || is_passed(record) != Some(true);
        let kept = mem::take(records).enumerate().filter(is_kept).map(|(_, record)| record);
        *records = kept.collect::<Vec<_>>().into_iter();
    } else if let Some(last) = passed.checked_sub(1) {
        drop(if from_last { records.nth_back(last) } else { records.nth(last) });
    }
    is_left
}
