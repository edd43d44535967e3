//! An iterator that is looked at before it goes on, at both ends.

use crate::engine::read::range_buffer::End;

/// An iterator whose next item can be looked at, at both ends.
pub(super) struct BothEnds<I: Iterator> {
    inner: I,
    front: Option<I::Item>,
    back: Option<I::Item>,
}

impl<I: DoubleEndedIterator> BothEnds<I> {
    pub(super) fn new(inner: I) -> Self {
        Self { inner, front: None, back: None }
    }

    /// Returns the next item at an end. The last one of all is next at both.
    pub(super) fn peek(&mut self, end: End) -> Option<&I::Item> {
        let Self { inner, front, back } = self;
        match end {
            End::Front => {
                *front = front.take().or_else(|| inner.next());
                front.as_ref().or(back.as_ref())
            }
            End::Back => {
                *back = back.take().or_else(|| inner.next_back());
                back.as_ref().or(front.as_ref())
            }
        }
    }

    /// Takes the next item at an end.
    pub(super) fn pop(&mut self, end: End) -> Option<I::Item> {
        let Self { inner, front, back } = self;
        match end {
            End::Front => front.take().or_else(|| inner.next()).or_else(|| back.take()),
            End::Back => back.take().or_else(|| inner.next_back()).or_else(|| front.take()),
        }
    }
}
