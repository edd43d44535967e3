//! Fault injection: counts of the simulated disk's operations, the plan of their failures, and bad
//! sectors.

use std::collections::BTreeMap;
use std::io;

use super::SimDisk;
use crate::mem::PAGE_SIZE;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Creating the directory.
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
    /// Freeing blocks (punching a hole).
    Punch,
    /// Mapping a file.
    Map,
    /// Making a mapped range durable (`msync`).
    SyncRange,
    /// Populating a mapped range for writing (`MADV_POPULATE_WRITE`).
    Populate,
}

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// An input/output error; nothing was done. A failed sync marks its pages clean, as Linux does:
    /// they are not written again until they are dirtied again.
    Io,
    /// No space is left; nothing was done. A sync fails as with [`Fault::Io`].
    NoSpace,
    /// Half of a write's bytes were written before space ran out. Other operations fail as with
    /// [`Fault::NoSpace`].
    Short,
}

impl Fault {
    /// Returns the error of the failed call.
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Io => io::Error::other("simulated input/output error"),
            Self::NoSpace | Self::Short => io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"),
        }
    }
}

/// One planned failure.
#[derive(Debug)]
struct PlannedFault {
    operation: Option<Operation>,
    /// The number of matching operations up to and including the one that fails.
    left: u64,
    fault: Fault,
    sticky: bool,
}

/// Holds one sync back, from the moment at which the disk has carried it out; see
/// [`SimDisk::hold_nth`](super::SimDisk::hold_nth).
///
/// Dropping it lets the sync return.
#[derive(Debug)]
pub struct Gate(pub(super) Arc<GateState>);

impl Gate {
    /// Waits until the sync is held.
    pub fn wait(&self) {
        self.0.wait(|stage| stage != FaultStage::Ahead);
    }

    /// Lets the sync return.
    pub fn open(&self) {
        self.0.enter(FaultStage::Open);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultStage {
    Ahead,
    Held,
    Open,
}

/// The state shared by a gate and the held sync.
#[derive(Debug)]
pub(super) struct GateState {
    stage: Mutex<FaultStage>,
    changed: Condvar,
}

impl GateState {
    fn enter(&self, stage: FaultStage) {
        *self.stage.lock() = stage;
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(FaultStage) -> bool) {
        let mut stage = self.stage.lock();
        while !until(*stage) {
            self.changed.wait(&mut stage);
        }
    }

    /// Blocks until the gate is open. Must not be called with the machine locked.
    pub(super) fn hold(&self) {
        {
            let mut stage = self.stage.lock();
            if *stage == FaultStage::Ahead {
                *stage = FaultStage::Held;
            }
        }
        self.changed.notify_all();
        self.wait(|stage| stage == FaultStage::Open);
    }
}

/// A sync that will be held.
#[derive(Debug)]
struct Gated {
    operation: Operation,
    left: u64,
    state: Arc<GateState>,
}

/// The planned failures and gates, and the counts.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    planned: Vec<PlannedFault>,
    gated: Vec<Gated>,
    counts: BTreeMap<Operation, u64>,
    fired: u64,
}

impl FaultPlan {
    /// Plans a failure of the `nth` matching operation from now on; the first is 1.
    pub(super) fn add(&mut self, operation: Option<Operation>, nth: u64, fault: Fault, sticky: bool) {
        self.planned.push(PlannedFault { operation, left: nth.max(1), fault, sticky });
    }

    /// Plans to hold the `nth` matching sync from now on; the first is 1.
    pub(super) fn hold(&mut self, operation: Operation, nth: u64) -> Gate {
        let state = GateState { stage: Mutex::new(FaultStage::Ahead), changed: Condvar::new() };
        let state = Arc::new(state);
        self.gated.push(Gated { operation, left: nth.max(1), state: Arc::clone(&state) });
        Gate(state)
    }

    /// Counts a sync and returns the gate that holds it, if any.
    pub(super) fn gate(&mut self, operation: Operation) -> Option<Arc<GateState>> {
        let mut met = None;
        self.gated.retain_mut(|gated| {
            if gated.operation != operation {
                return true;
            }
            gated.left -= 1;
            if gated.left == 0 {
                met = Some(Arc::clone(&gated.state));
            }
            gated.left > 0
        });
        met
    }

    /// Removes every failure that is still planned.
    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    /// Counts an operation and returns its failure, if any.
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

    /// Returns the number of operations so far, by kind.
    pub(super) fn counts(&self) -> &BTreeMap<Operation, u64> {
        &self.counts
    }

    /// Returns the number of failures so far.
    pub(super) fn fired(&self) -> u64 {
        self.fired
    }
}

impl SimDisk {
    /// Makes every read through a handle fail that touches the pages of this range, in bytes: a bad
    /// sector. Mapped memory still shows them, and the machine after a crash can read them.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let options = Options::new().background(false).segment_bytes(4096).checkpoint_bytes(u64::MAX);
    /// let store = options.clone().open_on(&disk)?;
    /// store.insert("key", "value")?;
    /// store.close()?;
    /// disk.make_unreadable("0000000001.seg", 0, 1)?;
    /// assert!(options.open_on(&disk).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file.
    pub fn make_unreadable(&self, name: &str, offset: u64, len: u64) -> io::Result<()> {
        self.by_hand(name, |machine, node| {
            let size = PAGE_SIZE as u64;
            let pages = offset / size * size..offset.saturating_add(len).next_multiple_of(size);
            machine.unreadable.push((node, pages));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_matching_operation_fails_once_or_from_then_on() {
        let mut plan = FaultPlan::default();
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
