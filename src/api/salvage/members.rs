//! The selection of the files of a damaged store to read, and of their ranges.
//!
//! - A segment that the manifest names is read, and so is one that is newer than the manifest.
//! - An older segment that the manifest does not name is obsolete, as in recovery. Compaction
//!   copied the live records of a retired segment.
//! - The copies of a pass that the manifest never named repeat records of named segments, so
//!   reading both is right.
//! - If no manifest is whole, every file of the store is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::report::{Account, Damage, DamageCause};
use super::source::PatchySource;
use crate::error::Error;
use crate::format::file_name;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::{HEADER_SIZE, RecordKind, StartRecord};
use crate::format::record_reader::{
    NextRecord, Order, ReadAt, ReadStep, RecordReader, Search, next_published,
};
use crate::format::segment_header::{Role, SEGMENT_HEADER_SIZE, SegmentHeader};
use crate::format::{Defect, SegmentId, Seq, StoreId};
use crate::fs::{Access, Dir, File};
use crate::log::control_page;
use crate::log::segment_file::read_header;

/// A segment file as it was found.
#[derive(Debug)]
pub(super) struct FoundMembers {
    /// The segment number in its name.
    named: SegmentId,
    pub(super) path: PathBuf,
    size: u64,
    header: Result<SegmentHeader, DamageCause>,
    /// The store, number and nonce of a header that is not valid.
    raw: Option<(StoreId, SegmentId, u64)>,
    /// The sequence number and contents of the first record, if it is whole.
    start: Option<(Seq, StartRecord)>,
    /// True if a byte after the header is not zero.
    written: bool,
}

/// A segment file to read.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) id: SegmentId,
    pub(super) nonce: u64,
    pub(super) role: Role,
    /// The offset of its first record.
    pub(super) from: u64,
    /// The greatest offset at which its records may end.
    pub(super) limit: u64,
    /// The offset up to which it is known to have held records.
    pub(super) known_end: u64,
    /// The sequence numbers before its first record and after its last one, if known.
    pub(super) before: Option<u64>,
    pub(super) behind: Option<u64>,
    /// True if its header is whole.
    pub(super) whole_header: bool,
    /// The segments that it replaces.
    pub(super) replaced: Vec<SegmentId>,
}

impl FoundMembers {
    /// Examines a segment file.
    pub(super) fn look(dir: &dyn Dir, named: SegmentId) -> Result<Self, Damage> {
        let name = file_name::segment(named);
        let path = dir.path().join(&name);
        let failed = |error: std::io::Error| Damage {
            path: path.clone(),
            offset: 0,
            len: 0,
            cause: DamageCause::Unreadable(error.to_string()),
            missing: None,
        };
        let file = dir.open(&name, Access::Read).map_err(failed)?;
        let size = file.identity().map_err(failed)?.size;
        let header = read_header(file.as_ref(), &path).map_err(|error| match error {
            Error::Corrupt { defect, .. } => DamageCause::Defect(defect),
            Error::TooNew { found, .. } => DamageCause::Newer(u16::try_from(found).unwrap_or(u16::MAX)),
            Error::Io { source, .. } => DamageCause::Unreadable(source.to_string()),
            other => DamageCause::Unreadable(other.to_string()),
        });
        let mut found = Self { named, path, size, header, raw: None, start: None, written: true };
        found.raw = raw_header(file.as_ref());
        if let Ok(header) = &found.header {
            let mut source = PatchySource::new(file, size);
            let limit = size.min(header.size) & !7;
            let from = header.data_offset();
            found.start = start_of(&mut source, header.nonce, from, limit);
            let Ok(written) = next_published(&mut source, from, limit);
            found.written = written.is_some() || source.unreadable_in(&(from..limit)).is_some();
        }
        Ok(found)
    }

    /// Returns the store that its header names.
    pub(super) fn store(&self) -> Option<StoreId> {
        self.header.as_ref().ok().map(|header| header.store)
    }

    fn id(&self) -> SegmentId {
        self.header.as_ref().map_or(self.named, |header| header.id)
    }
}

/// Returns the fields of a header that identify the file, whatever its checksum.
fn raw_header(file: &dyn File) -> Option<(StoreId, SegmentId, u64)> {
    let mut bytes = [0; SEGMENT_HEADER_SIZE];
    crate::fs::read_exact_at(file, &mut bytes, 0).ok()?;
    let word = |at: usize| bytes[at..].first_chunk().copied().map(u64::from_le_bytes);
    Some((StoreId(*bytes[16..].first_chunk()?), SegmentId(word(32)?), word(48)?))
}

fn start_of(source: &mut PatchySource, nonce: u64, from: u64, limit: u64) -> Option<(Seq, StartRecord)> {
    let Ok(step) = RecordReader::new(nonce, from, limit, Order::Any).step(source);
    let ReadStep::Record(placed) = step else { return None };
    let len = usize::try_from(placed.header.value_len).ok().filter(|len| *len == StartRecord::SIZE)?;
    let Ok(value) = source.bytes(placed.offset + HEADER_SIZE as u64, len);
    let start = StartRecord::decode(value).ok().filter(|_| placed.header.kind == RecordKind::Start)?;
    Some((placed.header.seq, start))
}

/// Returns the id of the store that most files belong to; the manifest's if any file is of it.
pub(super) fn store_of(found: &[FoundMembers], manifests: &[Manifest]) -> Option<StoreId> {
    let is_of = |manifest: &&Manifest| {
        let listed = |file: &FoundMembers| {
            file.store() == Some(manifest.store)
                || (file.header.is_err() && manifest.segment(file.named).is_some())
        };
        manifest.segments.is_empty() || found.iter().any(listed)
    };
    if let Some(manifest) = manifests.iter().filter(is_of).max_by_key(|manifest| manifest.generation) {
        return Some(manifest.store);
    }
    let mut votes: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    for store in found.iter().filter_map(FoundMembers::store) {
        *votes.entry(store.0).or_default() += 1;
    }
    let most = votes.into_iter().max_by_key(|(_, count)| *count).map(|(store, _)| StoreId(store));
    // Without a segment, the manifest alone names the store.
    most.or(manifests.iter().max_by_key(|manifest| manifest.generation).map(|manifest| manifest.store))
}

/// The files to read.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) live: Vec<Member>,
    /// The segments that compaction replaced, if all of them still exist. They are read if a copy
    /// is damaged.
    pub(super) retired: Vec<Member>,
}

/// Decides about every file of a damaged store.
pub(super) fn choose(
    dir: &dyn Dir,
    found: &[FoundMembers],
    store: Option<StoreId>,
    manifest: Option<&Manifest>,
    account: &mut Account,
) -> Members {
    let mut members = Members::default();
    let mut present = BTreeSet::new();
    let mut outdated = false;
    let clean = manifest.is_some_and(|manifest| manifest.clean);
    for file in found {
        match verdict(file, store, manifest, account) {
            Verdict::Leave => {}
            Verdict::Read(nonce, entry) => {
                let member = member(file, nonce, entry, found, clean, account);
                present.insert((member.id, nonce));
                outdated |= manifest.is_some() && entry.is_none() && member.replaced.is_empty();
                if entry.is_some_and(|entry| entry.state == SegmentState::Retired) {
                    members.retired.push(member);
                } else {
                    members.live.push(member);
                }
            }
        }
    }
    let listed: &[SegmentEntry] = manifest.map_or(&[], |manifest| &manifest.segments);
    let (retired, live): (Vec<&SegmentEntry>, Vec<_>) =
        listed.iter().partition(|entry| entry.state == SegmentState::Retired);
    if retired.iter().any(|entry| !present.contains(&(entry.id, entry.nonce))) {
        members.retired.clear();
    }
    for entry in live.into_iter().filter(|entry| !present.contains(&(entry.id, entry.nonce))) {
        missing(dir, entry, clean, account);
    }
    note_doubtful(&members.live, account);
    if let Some(manifest) = manifest.filter(|manifest| {
        outdated |= incarnation_of_control(dir, manifest) > Some(manifest.incarnation);
        let later = |file: &FoundMembers| {
            file.start.is_some_and(|(_, start)| start.incarnation > manifest.incarnation)
        };
        outdated || found.iter().any(|file| file.store() == store && later(file))
    }) {
        account.note(
            dir.path().join(file_name::MANIFESTS[0]),
            manifest.encode().len() as u64,
            DamageCause::Outdated,
        );
        account.doubt(None);
    }
    members
}

/// Returns the incarnation that wrote to the store last, if its control page is whole.
fn incarnation_of_control(dir: &dyn Dir, manifest: &Manifest) -> Option<u64> {
    let mut incarnation = None;
    let page = control_page::read(dir, |control, generation| {
        let has_written = control.store == manifest.store && !control.is_waiting(generation, manifest);
        incarnation = Some(control.incarnation).filter(|_| has_written);
        false
    });
    page.ok().and(incarnation)
}

enum Verdict<'a> {
    Leave,
    /// Read it with this nonce.
    Read(u64, Option<&'a SegmentEntry>),
}

fn verdict<'a>(
    file: &FoundMembers,
    store: Option<StoreId>,
    manifest: Option<&'a Manifest>,
    account: &mut Account,
) -> Verdict<'a> {
    let path = || file.path.clone();
    let listed = |id, nonce: Option<u64>| {
        let entry = manifest.and_then(|manifest| manifest.segment(id));
        entry.filter(|entry| nonce.is_none_or(|nonce| entry.nonce == nonce))
    };
    let header = match &file.header {
        Ok(header) => header,
        Err(cause) => {
            let entry = listed(file.named, None);
            let raw = file.raw.filter(|(of, id, _)| Some(*of) == store || *id == file.named);
            let nonce = entry.map(|entry| entry.nonce).or(raw.map(|(_, _, nonce)| nonce));
            let len = if nonce.is_some() { SEGMENT_HEADER_SIZE as u64 } else { file.size };
            account.note(path(), len, cause.clone());
            // The number is older than the manifest, which does not name it: the file is obsolete.
            let is_old = manifest.is_some_and(|manifest| file.named < manifest.next_segment);
            let Some(nonce) = nonce.filter(|_| entry.is_some() || !is_old) else {
                account.doubt(None);
                return Verdict::Leave;
            };
            return Verdict::Read(nonce, entry);
        }
    };
    if Some(header.store) != store {
        account.note(path(), 0, DamageCause::Foreign);
        return Verdict::Leave;
    }
    if header.id != file.named {
        account.note(path(), 0, DamageCause::Defect(Defect::WrongSegment));
    }
    let entry = listed(header.id, Some(header.nonce));
    if entry.is_some() {
        return Verdict::Read(header.nonce, entry);
    }
    let Some(manifest) = manifest else { return Verdict::Read(header.nonce, None) };
    let is_newer = match header.role {
        Role::Log => {
            header.id >= manifest.next_segment || file.start.is_none_or(|(first, _)| first > manifest.durable)
        }
        Role::Copies => {
            header.id >= manifest.next_segment || header.replaced.iter().all(|id| manifest.has(*id))
        }
    };
    if is_newer && file.written {
        return Verdict::Read(header.nonce, None);
    }
    if file.written {
        account.note(path(), 0, DamageCause::Obsolete);
    }
    Verdict::Leave
}

fn member(
    file: &FoundMembers,
    nonce: u64,
    entry: Option<&SegmentEntry>,
    found: &[FoundMembers],
    clean: bool,
    account: &mut Account,
) -> Member {
    let header = file.header.as_ref().ok();
    let id = file.id();
    let made = header.map(|header| header.size).or(entry.map(|entry| entry.size)).unwrap_or(file.size);
    let role = header.map(|header| header.role).or(entry.map(|entry| entry.role)).unwrap_or(Role::Log);
    if file.size != made {
        let cause = DamageCause::Defect(Defect::WrongSize { expected: made, found: file.size });
        let (offset, len) = (file.size.min(made), made.saturating_sub(file.size));
        account.report.damage.push(Damage { path: file.path.clone(), offset, len, cause, missing: None });
    }
    // The next segment records the end of this one, and its last sequence number.
    let ours = found.iter().filter(|other| file.store().is_none_or(|store| other.store() == Some(store)));
    let next = ours.filter_map(|other| other.start).filter(|(_, start)| start.previous == id.0);
    let next = next.filter(|_| role == Role::Log).max_by_key(|(seq, _)| *seq);
    let settled = entry.filter(|entry| {
        matches!(entry.state, SegmentState::Sealed | SegmentState::Cut | SegmentState::Retired)
    });
    let end = settled.map(|entry| entry.end).or(next.map(|(_, start)| start.previous_end));
    // After a clean close the manifest also records the end of an open segment.
    let closed = entry.filter(|entry| clean && entry.end > 0).map(|entry| entry.last_seq.0 + 1);
    // A segment keeps its size. Bytes appended to it, even a hole of a terabyte, hold no record.
    let size = made & !7;
    let known_end = end.or(entry.map(|entry| entry.end)).unwrap_or(0).min(size);
    let from = header.map_or(SEGMENT_HEADER_SIZE as u64, SegmentHeader::data_offset);
    let limit = end.unwrap_or(size).min(size);
    if file.size < made && end.is_none() {
        account.doubt(None);
    }
    Member {
        name: file_name::segment(file.named),
        path: file.path.clone(),
        id,
        nonce,
        role,
        from: from.min(limit),
        limit,
        known_end,
        before: settled.filter(|entry| entry.first_seq > Seq::ZERO).map(|entry| entry.first_seq.0 - 1),
        behind: settled.map(|entry| entry.last_seq.0 + 1).or(next.map(|(seq, _)| seq.0)).or(closed),
        whole_header: header.is_some(),
        replaced: header.map(|header| header.replaced.clone()).unwrap_or_default(),
    }
}

/// Notes a segment whose file is missing.
fn missing(dir: &dyn Dir, entry: &SegmentEntry, clean: bool, account: &mut Account) {
    let path = dir.path().join(file_name::segment(entry.id));
    let is_settled = entry.state != SegmentState::Open;
    let missing = is_settled.then_some((entry.first_seq.0, entry.last_seq.0));
    let len = if entry.end > 0 { entry.end } else { entry.size };
    account.report.damage.push(Damage { path, offset: 0, len, cause: DamageCause::Missing, missing });
    if is_settled || !clean || entry.end > 0 {
        account.doubt(missing.map(|(_, last)| last));
    }
}

/// Notes segments that compaction may have made obsolete: other victims of the same pass are gone.
fn note_doubtful(live: &[Member], account: &mut Account) {
    let is_there = |id: &SegmentId| live.iter().any(|member| member.id == *id);
    let mut doubtful: BTreeSet<SegmentId> = BTreeSet::new();
    for copies in live.iter().filter(|member| !member.replaced.is_empty()) {
        if !copies.replaced.iter().all(is_there) {
            doubtful.extend(copies.replaced.iter().filter(|id| is_there(id)).copied());
        }
    }
    for member in live.iter().filter(|member| doubtful.contains(&member.id)) {
        account.note(member.path.clone(), 0, DamageCause::Doubtful);
        account.doubt(member.behind);
    }
}

/// Returns `true` if records follow the ends in a manifest that says the store was closed.
///
/// An open does not look there: it happens only if an older manifest replaced the store's own.
pub(super) fn goes_on(dir: &dyn Dir, manifest: &Manifest) -> bool {
    let open = manifest.segments.iter().filter(|entry| manifest.clean && entry.state == SegmentState::Open);
    let mut found = open.filter_map(|entry| Some((entry, FoundMembers::look(dir, entry.id).ok()?)));
    found.any(|(entry, file)| {
        let (Ok(header), Ok(opened)) = (&file.header, dir.open(&file_name::segment(entry.id), Access::Read))
        else {
            return false;
        };
        let mut source = PatchySource::new(opened, file.size);
        let end = entry.end.max(header.data_offset());
        let limit = file.size.min(header.size) & !7;
        let Ok(behind) = Search::new(end, limit).next(&mut source, header.nonce, end);
        behind != NextRecord::None
    })
}

impl Member {
    /// Returns a segment of a store that an open would accept.
    pub(super) fn of_open(dir: &dyn Dir, entry: &SegmentEntry) -> Result<Self, Damage> {
        let found = FoundMembers::look(dir, entry.id)?;
        let mut account = Account::default();
        let settled = SegmentEntry { state: SegmentState::Sealed, ..*entry };
        Ok(member(&found, entry.nonce, Some(&settled), &[], true, &mut account))
    }

    /// Opens its file.
    pub(super) fn open(&self, dir: &dyn Dir) -> std::io::Result<Arc<dyn File>> {
        dir.open(&self.name, Access::Read)
    }
}
