//! The error of a search that needs lines of an index that are not there: a block of a checkpoint that
//! cannot be read, or a part that waits for records.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use crate::error::Error;
use crate::format::Defect;

/// The error of a search that needs lines that are not there.
#[derive(Debug, Clone)]
pub(crate) struct BlockError {
    path: Arc<Path>,
    offset: u64,
    why: Why,
}

/// The reason for the error.
#[derive(Debug, Clone)]
pub(in crate::index) enum Why {
    Damaged(Defect),
    Failed(Arc<io::Error>),
    /// The records of this part are not in the index yet.
    Waits(usize),
    /// Another index has replaced this one.
    Superseded,
    /// The tree could not be changed as the log says.
    Ended,
}

impl BlockError {
    pub(in crate::index) fn new(path: Arc<Path>, offset: u64, why: Why) -> Self {
        Self { path, offset, why }
    }

    /// Returns the error of a search in a tree of the store at `path` that could not be changed.
    pub(in crate::index) fn ended(path: Arc<Path>) -> Self {
        Self { path, offset: 0, why: Why::Ended }
    }

    /// Returns the reason of a failed search, if it is such an error.
    pub(crate) fn of(error: &Error) -> Option<&Self> {
        let Error::Io { source, .. } = error else { return None };
        source.get_ref()?.downcast_ref()
    }

    /// Returns true if no checkpoint and no hint is the reason, so that a rebuild does not help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.why, Why::Ended)
    }

    /// Returns true if another index has replaced the one that was searched.
    pub(crate) fn is_superseded(&self) -> bool {
        matches!(self.why, Why::Superseded)
    }

    /// Returns the part that waits, if that is the reason.
    pub(crate) fn waiting_part(&self) -> Option<usize> {
        if let Why::Waits(part) = self.why { Some(part) } else { None }
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::Waits(part) => write!(f, "part {part} of an index is not complete yet"),
            Why::Superseded => f.write_str("the index was replaced"),
            Why::Ended => f.write_str(
                "a record could not be read while its neighbour was written, so its keyspace has no order \
                 any more; close the store and open it again",
            ),
            _ => Error::from(self.clone()).fmt(f),
        }
    }
}

impl std::error::Error for BlockError {}

impl From<BlockError> for Error {
    fn from(unread: BlockError) -> Self {
        let path = unread.path.to_path_buf();
        match unread.why.clone() {
            Why::Damaged(defect) => Self::Corrupt { path, offset: unread.offset, defect },
            Why::Failed(source) => Self::Io { operation: "read", path, source },
            Why::Waits(_) | Why::Superseded | Why::Ended => {
                let source = Arc::new(unread.clone().into());
                Self::Io { operation: "look up a key in", path, source }
            }
        }
    }
}

impl From<BlockError> for io::Error {
    fn from(unread: BlockError) -> Self {
        Self::new(io::ErrorKind::InvalidData, unread)
    }
}
