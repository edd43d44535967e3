//! The state of a pass: its victims, its copies so far, and its next phase.

use std::sync::Arc;

use super::copy_writer::{CopyWriter, FinishedCopy};
use super::key_run::KeyRun;
use super::report::{CompactionReason, CompactionReport};
use crate::format::{SegmentId, Seq};
use crate::log::segment::Segment;
use crate::log::segment_reader::Records;
use crate::log::sync_plan::SegmentRange;

/// The highest generation. Values that survive longer stay in it.
const GENERATION_MAX: u8 = 3;

/// A segment that is compacted.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) segment: Arc<Segment>,
    /// The end of its records.
    pub(crate) end: u64,
    pub(crate) last: Seq,
    /// Bytes that its file takes.
    pub(crate) footprint: u64,
    /// The most bytes of it that are copied.
    pub(crate) cost: u64,
}

/// The next phase of a pass.
#[derive(Debug)]
pub(crate) enum Phase {
    Copy,
    SyncAhead,
    Sync,
    Name,
    /// The manifest is changed in memory, and not known to be on the disk.
    NameAgain,
    Switch {
        output: usize,
        offset: u64,
        moved: usize,
    },
    Retire,
    /// Nothing leads to the victims any more. Their files are removed, from this one on.
    Remove {
        at: usize,
    },
    /// The rest of the victims is freed, once no reader uses it: file systems take their time for
    /// each.
    Release,
    Done,
}

/// A pass under way.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) victims: Vec<Victim>,
    pub(crate) ids: Vec<SegmentId>,
    pub(crate) reason: CompactionReason,
    /// F, the last number assigned when the pass began.
    pub(crate) filtered: Seq,
    /// Tombstones up to this number hide nothing outside the victims.
    pub(crate) horizon: Seq,
    pub(crate) phase: Phase,
    /// The position of the victim that is read.
    pub(crate) at: usize,
    pub(crate) records: Option<Records>,
    /// Records to be copied before `output` is finished.
    pub(crate) run: KeyRun,
    pub(crate) output: Option<CopyWriter>,
    pub(crate) finished: Vec<FinishedCopy>,
    /// The finished copies, mapped. They are part of the store once the manifest names them.
    pub(crate) made: Vec<Arc<Segment>>,
    /// Victims that the index still leads to, although no record to copy was found.
    pub(crate) strays: Vec<SegmentId>,
    /// The most bytes of one of its files, unless a record needs more.
    pub(crate) file_max: u64,
    /// The most bytes that are still to be copied.
    pub(crate) left: u64,
    /// Bytes of the names of all keyspaces.
    pub(crate) names: u64,
    /// Pieces of the log to be written back before its sync.
    pub(crate) ahead: Option<Vec<SegmentRange>>,
    pub(crate) key: Vec<u8>,
    pub(crate) report: CompactionReport,
}

impl Pass {
    /// Begins a pass, while no record is appended, so that `filtered` is the last number assigned.
    pub(crate) fn new(
        victims: Vec<Victim>,
        reason: CompactionReason,
        filtered: Seq,
        horizon: Seq,
        names: u64,
    ) -> Self {
        let report = CompactionReport { passes: 1, ..CompactionReport::default() };
        let ids = victims.iter().map(|victim| victim.segment.id()).collect();
        let left = victims.iter().map(|victim| victim.cost).sum();
        Self {
            victims,
            ids,
            reason,
            filtered,
            horizon,
            phase: Phase::Copy,
            at: 0,
            records: None,
            run: KeyRun::default(),
            output: None,
            finished: Vec::new(),
            made: Vec::new(),
            strays: Vec::new(),
            file_max: u64::MAX,
            left,
            names,
            ahead: None,
            key: Vec::new(),
            report,
        }
    }

    /// Returns the victims that a failed step is about: the one being read, or those that cannot be
    /// read.
    pub(crate) fn suspects(&self) -> impl Iterator<Item = SegmentId> {
        let reading = self.ids.get(self.at).filter(|_| matches!(self.phase, Phase::Copy));
        reading.into_iter().chain(&self.strays).copied()
    }

    /// Returns the bytes of the victims that are left to read.
    pub(crate) fn bytes_left(&self) -> u64 {
        let all: u64 = self.victims.iter().map(|victim| victim.end).sum();
        all.saturating_sub(self.report.bytes_read)
    }

    /// Returns true if it is done.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Returns true if the pass can be given up without a trace.
    pub(crate) fn can_give_up(&self) -> bool {
        matches!(self.phase, Phase::Copy | Phase::SyncAhead | Phase::Sync | Phase::Name | Phase::Done)
    }

    /// Returns the generation of the records that this pass copies.
    pub(crate) fn generation(&self) -> u8 {
        let highest = self.victims.iter().map(|victim| victim.segment.generation()).max().unwrap_or(0);
        match self.reason {
            CompactionReason::Small => highest,
            _ => highest.saturating_add(1).min(GENERATION_MAX),
        }
    }
}

/// Removes the copies, if the manifest cannot know them.
impl Drop for Pass {
    fn drop(&mut self) {
        if !self.can_give_up() || self.is_done() {
            return;
        }
        self.output.take();
        for finished in &self.finished {
            finished.remove();
        }
    }
}
