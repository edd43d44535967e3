//! The beginning of a feed, as its consumer gives it.

use crate::format::Seq;
use crate::format::feed_position::FeedPosition;

/// The beginning of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Since {
    /// All changes after the call.
    Now,
    /// All changes from the oldest one on behind which the log is whole.
    Oldest,
    /// All changes after this number. One inside a batch counts as the one before the batch.
    ///
    /// A number tells less than a [`Position`](Since::Position). If it is that of a record of the
    /// log's own, as [`Store::last_seq`](crate::Store::last_seq) can be after an open, and a recovery
    /// has dropped that record, the feed returns `Rewound` although no change is lost.
    Seq(Seq),
    /// All changes after this position.
    Position(FeedPosition),
    /// All keys and values that are there, and then what comes after them.
    State,
}

impl From<Seq> for Since {
    fn from(seq: Seq) -> Self {
        Self::Seq(seq)
    }
}

impl From<FeedPosition> for Since {
    fn from(position: FeedPosition) -> Self {
        if position.is_state { Self::State } else { Self::Position(position) }
    }
}
