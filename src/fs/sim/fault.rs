//! Operations of the simulated disk, counted, and the plan of which ones fail.

use std::collections::BTreeMap;
use std::io;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Making the directory.
    CreateDir,
    /// Making the directory's own name durable.
    SyncParent,
    /// Listing the directory.
    List,
    /// Creating a file.
    Create,
    /// Opening a file.
    Open,
    /// Renaming a file.
    Rename,
    /// Removing a name.
    Unlink,
    /// Making directory entries durable (`fsync` of the directory).
    SyncDir,
    /// Taking the lock.
    Lock,
    /// Reading through a handle.
    Read,
    /// Writing through a handle.
    Write,
    /// Reserving the blocks of a file (`fallocate`).
    Allocate,
    /// Making a file durable (`fdatasync`).
    Sync,
    /// Giving blocks back.
    Punch,
    /// Mapping a file.
    Map,
    /// Making a mapped range durable (`msync`).
    SyncRange,
    /// Populating a mapped range for writing (`MADV_POPULATE_WRITE`).
    Populate,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// An input/output error; nothing was done. A failed sync marks its pages clean, as Linux does: they are not
    /// written again until they are dirtied again.
    Io,
    /// No space is left; nothing was done, or for a sync as with [`Fault::Io`].
    NoSpace,
    /// A write got half of its bytes down before space ran out. Other operations fail as with [`Fault::NoSpace`].
    Short,
}

impl Fault {
    /// What the failed call returns.
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Io => io::Error::other("simulated input/output error"),
            Self::NoSpace | Self::Short => io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"),
        }
    }
}

/// One line of the plan.
#[derive(Debug)]
struct Planned {
    operation: Option<Operation>,
    /// Matching operations up to and with the one that fails.
    left: u64,
    fault: Fault,
    sticky: bool,
}

/// The plan and the counts.
#[derive(Debug, Default)]
pub(super) struct Plan {
    planned: Vec<Planned>,
    counts: BTreeMap<Operation, u64>,
    fired: u64,
}

impl Plan {
    /// Adds a failure of the `nth` matching operation from now on; the first is 1.
    pub(super) fn add(&mut self, operation: Option<Operation>, nth: u64, fault: Fault, sticky: bool) {
        self.planned.push(Planned { operation, left: nth.max(1), fault, sticky });
    }

    /// Drops everything that has not failed yet.
    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    /// Counts an operation and says whether, and how, it fails.
    pub(super) fn meet(&mut self, operation: Operation) -> Option<Fault> {
        *self.counts.entry(operation).or_default() += 1;
        let mut met = None;
        self.planned.retain_mut(|planned| {
            if planned.operation.is_some_and(|only| only != operation) {
                return true;
            }
            if planned.left > 1 {
                planned.left -= 1;
                return true;
            }
            met = met.or(Some(planned.fault));
            planned.sticky
        });
        self.fired += u64::from(met.is_some());
        met
    }

    /// Operations so far, by kind.
    pub(super) fn counts(&self) -> &BTreeMap<Operation, u64> {
        &self.counts
    }

    /// Failures so far.
    pub(super) fn fired(&self) -> u64 {
        self.fired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_matching_operation_fails_once_or_from_then_on() {
        let mut plan = Plan::default();
        plan.add(Some(Operation::Write), 2, Fault::Io, false);
        plan.add(None, 5, Fault::NoSpace, true);
        assert_eq!(plan.meet(Operation::Read), None);
        assert_eq!(plan.meet(Operation::Write), None);
        assert_eq!(plan.meet(Operation::Write), Some(Fault::Io));
        assert_eq!(plan.meet(Operation::Write), None);
        assert_eq!(plan.meet(Operation::Sync), Some(Fault::NoSpace));
        assert_eq!(plan.meet(Operation::Sync), Some(Fault::NoSpace));
        assert_eq!(plan.fired(), 3);
        assert_eq!(plan.counts()[&Operation::Write], 3);
    }
}
