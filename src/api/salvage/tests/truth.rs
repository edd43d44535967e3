//! The true contents of a store, read with the parsers of the format alone, and the complaints
//! about a salvage.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::history::{Contents, Files};
use crate::api::salvage::report::{Damage, DamageCause, SalvageReport};
use crate::format::manifest::SegmentState;
use crate::format::record::{HEADER_SIZE, RecordKind};
use crate::format::record_reader::{Order, ReadStep, RecordReader};
use crate::format::segment_header::SegmentHeader;
use crate::format::{Defect, KeyspaceId, file_name};
use crate::fs::Dir;
use crate::fs::sim::SimDisk;
use crate::recovery::analysis::examine;
use crate::recovery::directory::DirectoryScan;

/// A value or a tombstone among the records that an open reads.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) file: String,
    /// The range of its bytes, or of its whole batch if it is part of one.
    pub(super) frame: Range<usize>,
    pub(super) seq: u64,
    pub(super) value: Option<Vec<u8>>,
}

/// The contents of an intact store.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) files: Files,
    pub(super) expected: Contents,
    /// The records that an open reads, by keyspace and key.
    records: BTreeMap<(KeyspaceId, Vec<u8>), Vec<Record>>,
    names: BTreeMap<KeyspaceId, String>,
    manifests: [Vec<u8>; 2],
    /// The indices of the newest whole manifests.
    newest: Vec<usize>,
    /// The ends of the records in files whose end the manifest does not know.
    open_ends: BTreeMap<String, usize>,
    headers: BTreeMap<String, usize>,
    /// The places of the records that change keyspaces.
    changes: Vec<(String, Range<usize>)>,
}

impl Truth {
    pub(super) fn of(files: Files, disk: &SimDisk, expected: Contents) -> Option<Self> {
        let dir: Arc<dyn Dir> = disk.dir();
        let survey = DirectoryScan::of(dir.as_ref()).ok()?;
        let (manifest, _) = survey.manifest()?;
        let examined = examine(&dir, &survey).ok().flatten()?;
        let mut records: BTreeMap<_, Vec<Record>> = BTreeMap::new();
        let (mut open_ends, mut headers, mut changes) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for entry in &examined.segments {
            let name = file_name::segment(entry.id);
            let bytes = files.get(&name)?;
            let header = SegmentHeader::decode(bytes).ok()?.ok()?;
            headers.insert(name.clone(), usize::try_from(header.data_offset()).ok()?);
            let mut walker = RecordReader::new(entry.nonce, header.data_offset(), entry.end, Order::Any);
            let mut source = bytes.as_slice();
            let mut batch: Range<usize> = 0..0;
            let mut last = 0;
            while let Ok(ReadStep::Record(placed)) = walker.step(&mut source) {
                let at = usize::try_from(placed.offset).ok()?;
                let end = at + usize::try_from(placed.header.size()).ok()?;
                last = last.max(end);
                if placed.header.kind == RecordKind::Batch {
                    batch = at..end;
                }
                if placed.header.kind == RecordKind::Keyspace {
                    changes.push((name.clone(), at..end));
                }
                if !matches!(placed.header.kind, RecordKind::Put | RecordKind::Tombstone) {
                    continue;
                }
                let payload = at + HEADER_SIZE;
                let key_end = payload + usize::from(placed.header.key_len);
                let value_end = key_end + usize::try_from(placed.header.value_len).ok()?;
                let value = bytes[key_end..value_end].to_vec();
                let value = (placed.header.kind == RecordKind::Put).then_some(value);
                let frame = if batch.contains(&at) { batch.clone() } else { at..end };
                let record = Record { file: name.clone(), frame, seq: placed.header.seq.0, value };
                let key = (placed.header.keyspace, bytes[payload..key_end].to_vec());
                records.entry(key).or_default().push(record);
            }
            let known = manifest
                .segment(entry.id)
                .is_some_and(|entry| manifest.clean || entry.state != SegmentState::Open);
            if !known {
                open_ends.insert(name, last);
            }
        }
        let names = examined.keyspaces.iter().map(|(name, named)| (named.id, name.to_owned())).collect();
        let manifests = file_name::MANIFESTS.map(|name| files.get(name).cloned().unwrap_or_default());
        let whole = manifest.encode();
        let newest = (0..2).filter(|n| manifests[*n].starts_with(&whole)).collect();
        Some(Self { files, expected, records, names, manifests, newest, open_ends, headers, changes })
    }

    /// Returns the newest records of a key, one in each file that holds it.
    fn newest(records: &[Record]) -> impl Iterator<Item = &Record> {
        let seq = records.iter().map(|record| record.seq).max();
        records.iter().filter(move |record| Some(record.seq) == seq)
    }
}

/// Returns `true` if a line says that records unknown to the present manifest may be missing.
fn is_of_manifest(line: &Damage) -> bool {
    let missing = matches!(line.cause, DamageCause::Defect(Defect::MissingRecords { .. }));
    missing || line.path.to_string_lossy().contains("MANIFEST")
}

/// A damaged store.
#[derive(Debug)]
pub(super) struct Damaged {
    pub(super) files: Files,
    pub(super) unreadable: Vec<(String, Range<usize>)>,
    pub(super) told: Vec<String>,
}

impl Damaged {
    fn is_touched(&self, truth: &Truth, file: &str, range: Range<usize>) -> bool {
        let old = &truth.files[file];
        let same = self.files.get(file).and_then(|bytes| bytes.get(range.clone())) == old.get(range.clone());
        let bad = |(name, bad): &(String, Range<usize>)| {
            name == file && bad.start < range.end && range.start < bad.end
        };
        !same || self.unreadable.iter().any(bad)
    }

    /// Returns `true` if the newest manifest is still there.
    fn is_current(&self, truth: &Truth) -> bool {
        truth.newest.iter().any(|n| {
            let name = file_name::MANIFESTS[*n];
            let len = truth.manifests[*n].len();
            truth.files.contains_key(name) && !self.is_touched(truth, name, 0..len)
        })
    }

    fn is_lost(&self, truth: &Truth, record: &Record) -> bool {
        let header = 0..truth.headers[&record.file];
        self.is_touched(truth, &record.file, record.frame.clone())
            || self.is_touched(truth, &record.file, header)
    }

    /// Returns `true` if a line accounts for a record.
    fn is_covered(&self, truth: &Truth, record: &Record, report: &SalvageReport) -> bool {
        let covers = |line: &Damage| {
            let (start, end) = (line.offset, line.offset + line.len.max(1));
            let meets = start < record.frame.end as u64 && (record.frame.start as u64) < end;
            let whole = matches!(line.cause, DamageCause::Missing | DamageCause::Foreign)
                || (line.len == 0 && matches!(line.cause, DamageCause::Unreadable(_)));
            let is_there = |name: &String| {
                let nonce = |bytes: &Vec<u8>| bytes.get(48..56).map(<[u8]>::to_vec);
                let same = self.files.get(name).and_then(nonce) == nonce(&truth.files[&record.file]);
                (*name == record.file || same) && line.path.ends_with(name)
            };
            (meets || whole) && self.files.keys().chain([&record.file]).any(is_there)
        };
        if report.damage.iter().any(covers) {
            return true;
        }
        let manifests_lost = !self.is_current(truth);
        // Without the manifest it is unknown that there was such a file, or more of it.
        let is_outdated = report.damage.iter().any(is_of_manifest);
        if manifests_lost && (is_outdated || report.doubtful_keys > 0) {
            return true;
        }
        false
    }

    /// Returns `true` if nothing is left of a record at the end of an open segment.
    ///
    /// Unless a sync followed it, it cannot be told from a record that was never written.
    fn is_unknowable(&self, truth: &Truth, file: &String, start: usize) -> bool {
        let tail = self.files.get(file).and_then(|bytes| bytes.get(start..));
        truth.open_ends.contains_key(file) && tail.is_none_or(|tail| tail.iter().all(|byte| *byte == 0))
    }

    /// Returns `true` if nothing is left of a clear or drop that no sync followed.
    fn is_undone(&self, truth: &Truth, (file, range): &(String, Range<usize>)) -> bool {
        self.is_unknowable(truth, file, range.start)
    }

    /// Returns the complaints about a salvage.
    pub(super) fn complaints(
        &self,
        truth: &Truth,
        written: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
        report: &SalvageReport,
        found: &Contents,
    ) -> Vec<String> {
        let mut complaints = Vec::new();
        // Without the newest manifest, or a record that changes keyspaces, names and clears may be
        // lost.
        let lost = |(file, range): &(String, Range<usize>)| {
            self.is_touched(truth, file, range.clone())
                || self.is_touched(truth, file, 0..truth.headers[file])
        };
        let current = self.is_current(truth) && !truth.changes.iter().any(lost);
        let is_undone = truth.changes.iter().any(|change| lost(change) && self.is_undone(truth, change));
        for ((id, key), records) in &truth.records {
            let Some(name) = truth.names.get(id) else { continue };
            let text = String::from_utf8_lossy(key);
            let newest: Vec<_> = Truth::newest(records).collect();
            let there = found.get(name).and_then(|content| content.get(key));
            let value = newest[0].value.as_ref();
            let is_back = match value {
                Some(value) if current => there == Some(value),
                Some(value) => found.values().any(|content| content.get(key) == Some(value)),
                None => {
                    let is_old =
                        |value: &Vec<u8>| records.iter().any(|record| record.value.as_ref() == Some(value));
                    !found.values().any(|content| content.get(key).is_some_and(is_old))
                }
            };
            if is_back {
                continue;
            }
            if newest.iter().any(|record| !self.is_lost(truth, record)) {
                complaints.push(format!(
                    "{name:?} {text}: the newest record is whole, {:?}, {}",
                    newest.iter().map(|record| (&record.file, &record.frame, record.seq)).collect::<Vec<_>>(),
                    there.is_some()
                ));
            } else if newest.iter().any(|record| self.is_unknowable(truth, &record.file, record.frame.start))
            {
                continue;
            } else if !newest.iter().any(|record| self.is_covered(truth, record, report)) {
                complaints.push(format!("{name:?} {text}: no line accounts for {newest:?}"));
            } else if there.is_some() && report.doubtful_keys == 0 {
                complaints.push(format!("{name:?} {text}: it is older, and the report does not say so"));
            }
        }
        for (name, content) in found {
            for (key, value) in content {
                if truth.expected.get(name).and_then(|content| content.get(key)) == Some(value) {
                    continue;
                }
                let text = String::from_utf8_lossy(key);
                if written(value).as_ref() != Some(key) {
                    complaints.push(format!("{name:?} {text}: this was never written"));
                    continue;
                }
                // A key under its own name with a record was judged above.
                let id = truth.names.iter().find(|(_, known)| *known == name).map(|(id, _)| *id);
                let judged = id.is_some_and(|id| truth.records.contains_key(&(id, key.clone())));
                if !judged && !is_undone && (current || report.doubtful_keys == 0) {
                    complaints.push(format!("{name:?} {text}: it was removed, and is back"));
                }
            }
        }
        complaints
    }
}
