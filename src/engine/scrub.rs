//! Verification: reads every record and index entry and checks checksums, beside readers and
//! writers.
//!
//! Files are read by `pread`, so that a bad sector is an error and not a signal.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::engine::state::State;
use crate::engine::state::catalog::KeyspaceData;
use crate::error::Result;
use crate::format::Defect;
use crate::format::file_name;
use crate::format::manifest::SegmentState;
use crate::format::record::RecordKind;
use crate::fs::Access;
use crate::index::key_index::ScanPosition;
use crate::log::segment::Segment;
use crate::log::segment_file::read_header;
use crate::log::segment_reader::{Records, SegmentReader};
use crate::log::sync_plan::SegmentRange;
use crate::mem::location::Location;
use crate::recovery::directory::read_manifest;
use crate::sync::epoch::Pin;

/// The counts of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of segment files read.
    pub segments: usize,
    /// Number of records whose checksums hold.
    pub records: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Number of index entries that lead to a record of their key.
    pub keys: u64,
}

impl State {
    /// Verifies every record and every index entry.
    ///
    /// # Errors
    ///
    /// `Corrupt` with the first damage found.
    pub(crate) fn verify(&self) -> Result<VerifyReport> {
        self.fork_guard.check()?;
        let mut report = VerifyReport::default();
        for (segment, end) in self.ends() {
            self.verify_segment(&segment, end, &mut report)?;
        }
        self.verify_indexes(&mut report)?;
        Ok(report)
    }

    /// Returns each segment that has records, with the offset where they end.
    fn ends(&self) -> Vec<(Arc<Segment>, u64)> {
        // Under the mutex no segment changes between active and full.
        let writer = self.writer.lock();
        let (active, offset) = writer.log.position();
        let full = writer.log.full_ends();
        let segments = self.shared.segments.read();
        let sealed = |segment: &Arc<Segment>| {
            self.shared.manifest.read(|manifest| {
                let entry =
                    manifest.segment(segment.id()).filter(|entry| entry.state == SegmentState::Sealed);
                entry.map(|entry| entry.end)
            })
        };
        let end = |segment: &Arc<Segment>| {
            if segment.id() == active.id() {
                return offset;
            }
            if let Some((_, end)) = full.iter().find(|(id, _)| *id == segment.id()) {
                return *end;
            }
            // Synced: published up to its end. The manifest has the same end, or is behind.
            sealed(segment).unwrap_or_else(|| segment.mapping().published())
        };
        segments.values().map(|segment| (Arc::clone(segment), end(segment))).collect()
    }

    fn verify_segment(&self, segment: &Arc<Segment>, end: u64, report: &mut VerifyReport) -> Result<()> {
        let dir = self.shared.dir.as_ref();
        let name = file_name::segment(segment.id());
        let path = segment.path();
        let file = match dir.open(&name, Access::Read) {
            // Compacted meanwhile: its live records are verified at their new locations, through
            // the index.
            Err(error) if error.kind() == ErrorKind::NotFound && !self.has(segment)? => return Ok(()),
            opened => opened.map_err(|error| segment.io("open", error))?,
        };
        let found = file.identity().map_err(|error| segment.io("look at", error))?.size;
        if found != segment.size() {
            return Err(segment.corrupt_at(found, Defect::WrongSize { expected: segment.size(), found }));
        }
        let header = read_header(file.as_ref(), path)?;
        if header.store != self.shared.store || header.id != segment.id() || header.nonce != segment.nonce() {
            return Err(segment.corrupt_at(0, Defect::WrongSegment));
        }
        report.segments += 1;
        let start = segment.data_offset();
        let source = SegmentReader::new(file, path.clone(), segment.size());
        let range = SegmentRange::new(segment, start, end.max(start));
        let mut records = Records::of(source, &range, segment.order());
        while records.next()?.is_some() {
            report.records += 1;
        }
        report.bytes += records.offset();
        Ok(())
    }

    /// Returns true if a segment is still part of the store. Of another process's store, only the
    /// newest manifest tells.
    fn has(&self, segment: &Segment) -> Result<bool> {
        if segment.is_followed() {
            let newest = read_manifest(self.shared.dir.as_ref())?;
            return Ok(newest.is_some_and(|newest| newest.has(segment.id())));
        }
        Ok(self.shared.segments.read().contains_key(&segment.id()))
    }

    fn verify_indexes(&self, report: &mut VerifyReport) -> Result<()> {
        for keyspace in self.catalog.all() {
            let mut cursor = Some(ScanPosition::start());
            let mut found = Vec::new();
            let mut id = None;
            while let Some(at) = cursor.take() {
                let pin = self.pin();
                // Dropped or cleared meanwhile: nothing is left to verify.
                let Some(contents) = keyspace.contents(&pin) else { break };
                if *id.get_or_insert(contents.id) != contents.id {
                    break;
                }
                found.clear();
                let is_before = |entry, key: &[u8]| self.is_before(entry, key, &pin);
                cursor = match contents.index.scan(&at, &mut found, is_before) {
                    Ok((next, _)) => next,
                    Err(error) if self.rebuild_if_damaged(&error)? => {
                        cursor = Some(at);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for location in &found {
                    self.verify_entry(contents, *location, &pin)?;
                    report.keys += 1;
                }
            }
        }
        Ok(())
    }

    fn verify_entry(&self, contents: &KeyspaceData, location: Location, pin: &Pin) -> Result<()> {
        self.shared.space.reach(location, pin)?;
        let record = self.record(location, pin)?;
        let header = record.header();
        if !matches!(header.kind, RecordKind::Put | RecordKind::Tombstone) || header.keyspace != contents.id {
            return Err(self.damage(location, Defect::IndexMismatch));
        }
        self.check_record(&record)?;
        // The key existed when the bucket was read. Now it has this record, a newer one, or none.
        let key = self.search_key(record.key());
        // Checked before the second lookup: a batch may end in between.
        let visible = self.visibility.is_visible(record.seq());
        if !self.config.sigbus_guard {
            self.reach(contents, key, pin)?;
        }
        let newest = self.lookup(contents, key, pin)?;
        if visible && newest.is_some_and(|newest| newest.seq() < record.seq()) {
            return Err(self.damage(location, Defect::IndexMismatch));
        }
        Ok(())
    }
}
