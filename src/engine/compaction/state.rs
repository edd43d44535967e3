//! Compaction: what is dead goes, and the room it took comes back.
//!
//! Here is what needs no store to be thought about: `rule` says which tombstones may be forgotten, `policy` which segments
//! are to be compacted, `job` what a pass has in hand, `output` writes the file. `compacting` does it to a store.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::compaction::job::Job;
use crate::engine::compaction::report::CompactionReport;
use crate::format::{SegmentId, Seq};
use crate::log::allocator::quota::Want;
use crate::log::sync_plan::SegmentRange;

/// Compaction of one store.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    pub(crate) running: Mutex<Running>,
    /// Passes that were finished.
    pub(crate) passes: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) freed: AtomicU64,
    /// The log has grown beyond what it may be under load; writers help.
    pub(crate) behind: AtomicBool,
    /// How many compact all there is. They hold `running` for as long as that takes, but for the calls of their caller's
    /// code, and nobody else begins anything.
    pub(crate) asked: AtomicUsize,
}

/// What a write that may find no room is for, and whether everything else was tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    removes: bool,
    /// No pass could make room, so it gets what is kept for passes.
    last: bool,
}

impl Wish {
    /// Of a write that only removes, or not.
    pub(crate) fn of(removes: bool) -> Self {
        Self { removes, last: false }
    }

    /// Whether it is of a write that only removes.
    pub(crate) fn removes(self) -> bool {
        self.removes
    }

    /// What room is wanted for.
    pub(crate) fn want(self) -> Want {
        match (self.removes, self.last) {
            (false, _) => Want::Insertion,
            (true, false) => Want::Removal,
            (true, true) => Want::Last,
        }
    }

    /// Has a removal get the last room there is; whether there was more to hope for.
    pub(crate) fn insist(&mut self) -> bool {
        let before = std::mem::replace(&mut self.last, self.removes);
        self.removes && !before
    }
}

/// How long a look at what is to be done serves, while writes go on in one segment.
const LOOK: Duration = Duration::from_millis(10);

/// A moment at which it was looked at what is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looked {
    pub(crate) when: Duration,
    /// The last write.
    pub(crate) last: Seq,
    /// The segment that was written to.
    pub(crate) active: SegmentId,
}

impl Looked {
    /// Whether a look now may find more than the one before.
    pub(crate) fn is_worth_it(self, before: Self) -> bool {
        let later = self.when >= before.when.saturating_add(LOOK);
        self.last != before.last && (later || self.active != before.active)
    }
}

/// What the one who drives it has in hand.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) job: Option<Job>,
    /// What is to be written back before the sync that the next pass needs; none where it needs none.
    pub(crate) ahead: Option<Vec<SegmentRange>>,
    /// Segments with a record that does not verify.
    pub(crate) damaged: BTreeSet<SegmentId>,
    /// When it was last looked at what is to be done.
    pub(crate) looked: Option<Looked>,
    /// The limit on bandwidth allows no step before this.
    pub(crate) not_before: Duration,
    /// How many of those who compact all there is are in their caller's code, without the lock.
    pub(crate) lent: usize,
    /// What others did of that meanwhile.
    pub(crate) ended: CompactionReport,
}
