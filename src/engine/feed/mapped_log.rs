//! The segments of the log that the manifest names, mapped for a feed, and the start records that put
//! them in order.
//!
//! Segments of copies are never read: they have lost the order of the log, its batches, and the
//! records that were hidden.
//!
//! **Space.** Each named segment is mapped when a manifest is read, so that compaction cannot take it
//! away before it is read. At most [`UNNAMED_MAX`] segments are kept that no manifest names any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::engine::follow::log_tail::{is_published, start_of};
use crate::error::{Error, Result};
use crate::format::control_page::WriterStatus;
use crate::format::file_name::{MANIFESTS, REMOVING};
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::StartRecord;
use crate::format::segment_header::Role;
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::{Dir, Misplaced};
use crate::log::control_page::{ControlReader, ControlState};
use crate::log::segment::Segment;
use crate::recovery::directory::read_manifest;

/// The most segments to keep that are no longer named.
const UNNAMED_MAX: usize = 16;
/// The most times that the manifest is read again because it changes.
const ATTEMPTS: usize = 1000;
/// The time between two checks of the store's place while a writer has it open.
const CHECK_SPACING: Duration = Duration::from_secs(1);

/// A mapped segment of the log.
#[derive(Debug)]
pub(super) struct MappedSegment {
    pub(super) segment: Arc<Segment>,
    /// Its entry in the last manifest that named it.
    entry: SegmentEntry,
    is_named: bool,
    /// Its start record and that one's number, once it is published.
    start: Option<(Seq, StartRecord)>,
    /// True if the first record is published, and is no start record.
    is_damaged: bool,
}

impl MappedSegment {
    /// Returns the number of its first record. It sorts unwritten segments behind the others.
    pub(super) fn first(&self) -> Seq {
        self.start.map_or(Seq(u64::MAX), |(first, _)| first)
    }

    /// Returns its start record. The caller has seen that there is one.
    pub(super) fn start(&self) -> StartRecord {
        self.start.expect("the segment was written to").1
    }

    /// Returns true if the end of its records is known to be at or before an offset.
    pub(super) fn has_ended_at(&self, offset: u64) -> bool {
        self.entry.state != SegmentState::Open && self.entry.end <= offset
    }

    /// Returns true unless the manifest knows that the log continues behind an offset.
    pub(super) fn may_end_at(&self, offset: u64) -> bool {
        self.entry.end <= offset
    }

    /// Returns true if this segment continues the log from another one. Both were written to.
    fn continues(&self, before: &Self) -> bool {
        match before.entry.state {
            // Its last number is not known yet. No recovery has looked at it.
            SegmentState::Open => self.start().previous == before.segment.id().0,
            // A segment without a record may stand between.
            _ => self.start().last == before.entry.last_seq,
        }
    }

    /// Looks for the start record. Returns true if it is new.
    fn look(&mut self) -> Result<bool> {
        let at = self.segment.data_offset();
        if self.start.is_some() || self.has_ended_at(at) || !is_published(&self.segment, at)? {
            return Ok(false);
        }
        self.start = start_of(&self.segment);
        self.is_damaged = self.start.is_none();
        if self.is_damaged && !self.may_end_at(at) {
            // The manifest knows that records follow.
            return Err(self.damaged_start());
        }
        Ok(self.start.is_some())
    }

    /// Returns the error for its start record, if that is published and not valid.
    fn damage(&self) -> Option<Error> {
        let is_part = self.is_named && !self.has_ended_at(self.segment.data_offset());
        (self.is_damaged && is_part).then(|| self.damaged_start())
    }

    fn damaged_start(&self) -> Error {
        self.segment.corrupt_at(self.segment.data_offset(), Defect::BadField("start"))
    }
}

/// The segments of the log that are mapped, and the manifest that named them.
#[derive(Debug)]
pub(super) struct MappedLog {
    dir: Arc<dyn Dir>,
    is_guarded: bool,
    /// The manifest that was read last.
    pub(super) manifest: Manifest,
    /// Sorted by the number of the first record.
    segments: Vec<MappedSegment>,
    /// The named segments that the feed has left behind, by number and nonce.
    passed: BTreeSet<(SegmentId, u64)>,
    /// The writer's control page. `None` if the store was never opened.
    control: Option<ControlReader>,
    /// The nonce of the writer that announced the manifest.
    nonce: Option<u64>,
    /// The words of the control page with which the manifest was last found to be the newest.
    seen: Option<[u64; 3]>,
    /// The time of the last check of the store's place, by the store's clock.
    checked: Option<Duration>,
}

impl MappedLog {
    /// Maps the log that a manifest names, or a newer one.
    ///
    /// # Errors
    ///
    /// The errors of [`MappedLog::update`].
    pub(super) fn open(dir: Arc<dyn Dir>, is_guarded: bool, manifest: Manifest) -> Result<Self> {
        let mut log = Self {
            dir,
            is_guarded,
            manifest,
            segments: Vec::new(),
            passed: BTreeSet::new(),
            control: None,
            nonce: None,
            seen: None,
            checked: None,
        };
        log.take_manifest(None)?;
        Ok(log)
    }

    pub(super) fn dir(&self) -> &dyn Dir {
        self.dir.as_ref()
    }

    /// Returns the mapped segments that were written to, in the order of the log.
    pub(super) fn written(&self) -> &[MappedSegment] {
        let count = self.segments.iter().take_while(|mapped| mapped.start.is_some()).count();
        &self.segments[..count]
    }

    /// Returns the mapped segment of a number.
    pub(super) fn segment(&self, id: SegmentId) -> Option<&MappedSegment> {
        self.segments.iter().find(|mapped| mapped.segment.id() == id)
    }

    /// Returns true if this mapping of a segment is still in use.
    pub(super) fn holds(&self, segment: &Arc<Segment>) -> bool {
        self.segments.iter().any(|mapped| Arc::ptr_eq(&mapped.segment, segment))
    }

    /// Returns the segments from which the log is whole up to its end.
    pub(super) fn whole(&self) -> &[MappedSegment] {
        let written = self.written();
        let mut from = written.len().saturating_sub(1);
        while from > 0 && written[from].continues(&written[from - 1]) {
            from -= 1;
        }
        &written[from..]
    }

    /// Looks for start records until there is no new one. Then each segment that was found has its
    /// predecessor among those found, because the predecessor was written first.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a start record is damaged, `Io` if a page cannot be read; the errors of
    /// [`MappedLog::update`].
    pub(super) fn find_starts(&mut self) -> Result<()> {
        loop {
            let mut found_more = true;
            while found_more {
                found_more = false;
                for mapped in &mut self.segments {
                    found_more |= mapped.look()?;
                }
            }
            self.segments.sort_by_key(|mapped| (mapped.first(), mapped.segment.id()));
            let Some(damage) = self.segments.iter().find_map(MappedSegment::damage) else { return Ok(()) };
            // A power cut leaves damage, and the next writer cuts the log there.
            if !self.may_have_writer() {
                return Ok(());
            }
            if !self.update(true)? {
                return Err(damage);
            }
        }
    }

    /// Lets go of the segments before a number.
    pub(super) fn pass(&mut self, first: Seq) {
        let Self { segments, passed, .. } = self;
        segments.retain(|mapped| {
            let stays = mapped.first() >= first;
            if !stays && mapped.is_named {
                passed.insert((mapped.segment.id(), mapped.segment.nonce()));
            }
            stays
        });
    }

    /// Takes an offset for the end of a segment that the manifest no longer names, behind the record
    /// of number `last`. Returns false if it is named.
    pub(super) fn end_unnamed(&mut self, id: SegmentId, end: u64, last: Seq) -> bool {
        let found = self.segments.iter_mut().find(|mapped| mapped.segment.id() == id && !mapped.is_named);
        let Some(mapped) = found else { return false };
        mapped.entry = SegmentEntry { state: SegmentState::Cut, end, last_seq: last, ..mapped.entry };
        true
    }

    /// Lets go of every segment, so that the newest manifest decides what there is.
    pub(super) fn forget(&mut self) {
        self.segments.clear();
        self.passed.clear();
    }

    /// Lets go of every mapping without a system call or a lock, in a child made by `fork`.
    pub(super) fn abandon(&mut self) {
        std::mem::forget((std::mem::take(&mut self.segments), self.control.take()));
    }

    /// Reads the manifest if there may be a newer one, and maps the segments that are new in it. With
    /// `is_sure` it does so even if none was announced. Returns true if it was newer.
    ///
    /// # Errors
    ///
    /// `Replaced` if the store is gone, or another one is there; the errors of [`Segment::open`].
    pub(super) fn update(&mut self, is_sure: bool) -> Result<bool> {
        if self.check_place()? && !is_sure {
            return Ok(false);
        }
        if self.control.is_none() {
            self.control = ControlReader::open(self.dir.as_ref(), self.is_guarded)?;
        }
        // Before the contents: a later glance shows if they have changed.
        let words = self.glance();
        let state = self.state();
        self.dir.reader_point("feed-compared");
        let is_new = state.is_none_or(|state| {
            state.generation > self.manifest.generation || self.nonce != Some(state.header.writer_nonce)
        });
        let before = self.manifest.generation;
        if is_new || is_sure {
            self.take_manifest(state.as_ref())?;
        }
        self.seen = words.filter(|_| state.is_some());
        Ok(self.manifest.generation != before)
    }

    /// Returns true if a writer of this boot of the system may have the store open.
    pub(super) fn may_have_writer(&self) -> bool {
        let page = self.control.as_ref();
        page.is_some_and(|page| page.may_have_writer(self.dir.as_ref(), self.manifest.store))
    }

    /// Returns the number up to which the log is known to be durable.
    pub(super) fn durable(&self) -> Seq {
        let boot_id = self.dir.boot_id().unwrap_or([0; 16]);
        let of_this_boot = self.state().filter(|state| state.header.boot_id == boot_id);
        let told = of_this_boot.and_then(|state| state.durable).unwrap_or(Seq::ZERO);
        told.max(self.manifest.durable)
    }

    fn state(&self) -> Option<ControlState> {
        self.control.as_ref().and_then(|page| page.state(self.manifest.store))
    }

    fn glance(&self) -> Option<[u64; 3]> {
        self.control.as_ref().map(ControlReader::glance)
    }

    /// Checks that the store is in its place: while a writer has it open and announces nothing, once
    /// a second, and otherwise always. Returns true if the manifest at hand is the announced one.
    fn check_place(&mut self) -> Result<bool> {
        let is_open = |seen: [u64; 3]| WriterStatus::from_word(seen[0]) == WriterStatus::Open;
        let is_as_seen = self.seen.is_some_and(|seen| self.glance() == Some(seen) && is_open(seen));
        let now = self.dir.now();
        let was_checked = self.checked.is_some_and(|checked| now.saturating_sub(checked) < CHECK_SPACING);
        if is_as_seen && was_checked {
            return Ok(true);
        }
        self.checked = Some(now);
        if matches!(self.dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced)) {
            return Err(self.replaced());
        }
        if let Some(page) = &self.control
            && !page.is_in_place(self.dir.as_ref())?
        {
            (self.control, self.nonce, self.seen) = (None, None, None);
            // No writer replaces it. An earlier state of the store may have been put back, whose
            // segments have the same numbers and nonces.
            self.forget();
            return Ok(false);
        }
        Ok(is_as_seen)
    }

    pub(super) fn replaced(&self) -> Error {
        Error::Replaced { path: self.dir.path().to_owned() }
    }

    /// Reads the newest manifest, and waits for one of this generation as long as a writer may be
    /// writing it.
    fn newest(&self, announced: u64) -> Result<Manifest> {
        let mut newest = None;
        for _ in 0..ATTEMPTS {
            match read_manifest(self.dir.as_ref())? {
                Some(manifest) if manifest.store != self.manifest.store => return Err(self.replaced()),
                Some(manifest) if manifest.generation >= announced => return Ok(manifest),
                // No checksum covers the announced number, so the last word is the manifest's.
                Some(manifest) => newest = Some(manifest),
                // Both copies may have been read while they were written.
                None if MANIFESTS.iter().any(|name| !matches!(self.dir.id_of(name), Ok(None))) => {}
                None => return Err(self.replaced()),
            }
            thread::yield_now();
        }
        newest.ok_or_else(|| self.unsteady())
    }

    /// Reads the newest manifest, and maps the segments of the log that are new in it.
    fn take_manifest(&mut self, state: Option<&ControlState>) -> Result<()> {
        let announced = state.filter(|_| self.may_have_writer()).map_or(0, |state| state.generation);
        for _ in 0..ATTEMPTS {
            let manifest = self.newest(announced)?;
            self.dir.reader_point("feed-manifest");
            if manifest.generation < self.manifest.generation || self.has_other_segments(&manifest) {
                // An earlier state of the store was put back, or a power cut took segments away.
                self.forget();
            }
            match self.map_new(&manifest) {
                Ok(()) => {
                    self.manifest = manifest;
                    self.nonce = state.map(|state| state.header.writer_nonce);
                    self.dir.reader_point("feed-mapped");
                    return Ok(());
                }
                // Compaction has removed it, if there is a newer manifest.
                Err(Error::MissingSegment { .. }) if self.newest(0)?.generation > manifest.generation => {}
                Err(Error::MissingSegment { .. }) if !matches!(self.dir.id_of(REMOVING), Ok(None)) => {
                    return Err(self.replaced());
                }
                Err(error) => return Err(error),
            }
        }
        Err(self.unsteady())
    }

    /// Returns true if a manifest names a segment under the number of another one that is mapped.
    fn has_other_segments(&self, manifest: &Manifest) -> bool {
        let is_other = |mapped: &MappedSegment| {
            let named = manifest.segment(mapped.segment.id());
            named.is_some_and(|entry| entry.nonce != mapped.segment.nonce())
        };
        self.segments.iter().any(is_other)
    }

    /// Maps the segments of the log in a manifest that are not mapped yet.
    fn map_new(&mut self, manifest: &Manifest) -> Result<()> {
        let is_log = |entry: &&SegmentEntry| entry.role == Role::Log && entry.state != SegmentState::Retired;
        for mapped in &mut self.segments {
            let named = manifest.segment(mapped.segment.id()).filter(is_log);
            mapped.is_named = named.is_some();
            mapped.entry = named.copied().unwrap_or(mapped.entry);
        }
        self.passed.retain(|(id, _)| manifest.has(*id));
        for entry in manifest.segments.iter().filter(is_log) {
            if self.segment(entry.id).is_some() || self.passed.contains(&(entry.id, entry.nonce)) {
                continue;
            }
            let segment = Segment::open_alone(self.dir.as_ref(), manifest.store, entry, self.is_guarded)?;
            self.segments.push(MappedSegment {
                segment,
                entry: *entry,
                is_named: true,
                start: None,
                is_damaged: false,
            });
        }
        if self.segments.iter().filter(|mapped| !mapped.is_named).count() > UNNAMED_MAX {
            // A feed that is slow must not keep ever more removed files on the disk.
            self.segments.retain(|mapped| mapped.is_named);
        }
        Ok(())
    }

    /// Returns the error for a store whose files do not settle.
    fn unsteady(&self) -> Error {
        let path = self.dir.path().join(MANIFESTS[0]);
        Error::Corrupt { path, offset: 0, defect: Defect::Truncated }
    }
}
