//! Reading the intact records of a segment, and accounting for the ranges between them.
//!
//! The newest record of each key counts. A key is identified by 122 bits of two hashes with fresh
//! secrets, never by its bytes. So a key of any length takes 32 bytes in a table that is at least
//! 7/16 full. In a store of a billion keys, two keys are confused with a probability below 2^-60.

use std::collections::{BTreeMap, HashMap};

use super::members::Member;
use super::report::{Account, Damage, DamageCause};
use super::source::PatchySource;
use crate::error::{Error, Result};
use crate::format::hash::HashKey;
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind};
use crate::format::record_reader::{
    NextRecord, Order, READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader, Search, next_published,
};
use crate::format::segment_header::Role;
use crate::format::{Defect, KeyspaceId, Seq};
use crate::fs::Dir;
use crate::recovery::tail_findings::{change_of, durable_of};

/// The newest intact record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Newest {
    /// The file's index among those that were read, above the bits of the offset.
    place: u64,
    /// The sequence number, above a bit that is set if the record has a value.
    number: u64,
}

/// The bits of a record's offset, in units of eight bytes.
const OFFSET_BITS: u32 = 40;

impl Newest {
    fn new(file: usize, placed: &RecordAt) -> Self {
        let place = (file as u64) << OFFSET_BITS | placed.offset >> 3;
        Self { place, number: placed.header.seq.0 << 1 | u64::from(placed.header.kind == RecordKind::Put) }
    }

    pub(super) fn file(self) -> usize {
        usize::try_from(self.place >> OFFSET_BITS).expect("it was one")
    }

    pub(super) fn offset(self) -> u64 {
        (self.place & ((1 << OFFSET_BITS) - 1)) << 3
    }

    pub(super) fn seq(self) -> u64 {
        self.number >> 1
    }

    pub(super) fn is_put(self) -> bool {
        self.number & 1 == 1
    }
}

/// The newest records of a keyspace, by the hashes of their keys.
pub(super) type SalvagedKeys = HashMap<u128, Newest>;

/// All records that were read.
#[derive(Debug)]
pub(super) struct SalvagedRecords {
    hashes: [HashKey; 2],
    pub(super) members: Vec<Member>,
    pub(super) keys: BTreeMap<KeyspaceId, SalvagedKeys>,
    pub(super) changes: Vec<(Seq, KeyspaceChange)>,
    /// The number up to which a record proves durability, and the last number of the log.
    durable: Seq,
    last: Seq,
}

/// The state of reading one segment.
struct Reading<'a> {
    member: &'a Member,
    file: usize,
    /// The sequence number of the last record before a gap.
    last: Option<u64>,
    damaged: bool,
}

impl SalvagedRecords {
    /// Returns an empty set of records.
    ///
    /// # Errors
    ///
    /// If there are no random numbers.
    pub(super) fn new(dir: &dyn Dir) -> Result<Self> {
        let secret = || -> Result<HashKey> {
            let mut secret = [0; 32];
            dir.random(&mut secret).map_err(|error| Error::io("draw random bytes for", dir.path(), error))?;
            Ok(HashKey::from_secret(secret))
        };
        Ok(Self {
            hashes: [secret()?, secret()?],
            members: Vec::new(),
            keys: BTreeMap::new(),
            changes: Vec::new(),
            durable: Seq::ZERO,
            last: Seq::ZERO,
        })
    }

    /// Reads a segment, and returns `true` if nothing in it is damaged.
    pub(super) fn read(&mut self, dir: &dyn Dir, member: &Member, account: &mut Account) -> bool {
        let file = match member.open(dir).and_then(|file| Ok((file.identity()?.size, file))) {
            Ok(file) => file,
            Err(error) => {
                let cause = DamageCause::Unreadable(error.to_string());
                let mut reading = Reading { member, file: 0, last: member.before, damaged: false };
                reading.lost(member.from..member.limit, cause, member.behind, account);
                return false;
            }
        };
        let (size, file) = file;
        let mut source = PatchySource::new(file, size);
        account.report.segments += 1;
        let mut reading = Reading { member, file: self.members.len(), last: member.before, damaged: false };
        self.members.push(member.clone());
        self.scan(&mut reading, &mut source, member.limit.min(size & !7), account);
        !reading.damaged
    }

    fn scan(
        &mut self,
        reading: &mut Reading<'_>,
        source: &mut PatchySource,
        limit: u64,
        account: &mut Account,
    ) {
        let member = reading.member;
        let mut search = Search::new(member.from, limit);
        let mut at = member.from.min(limit);
        loop {
            let mut walker = RecordReader::new(member.nonce, at, limit, Order::Any);
            let defect = loop {
                match walker.step(source) {
                    Ok(ReadStep::Record(placed)) => self.record(reading, source, &placed, account),
                    Ok(ReadStep::Blank) => break Defect::Truncated,
                    Ok(ReadStep::Invalid(defect)) => break defect,
                }
            };
            at = walker.offset();
            let Ok(next) = search.next(source, member.nonce, at);
            match next {
                NextRecord::Frame(next) => {
                    let cause = cause_in(source, at..next, defect);
                    let Ok(header) = header_at(source, member.nonce, next, limit);
                    reading.lost(at..next, cause, header.map(|header| header.seq.0), account);
                    reading.last = None;
                    at = next;
                }
                NextRecord::None => {
                    let end = last_written(source, at, limit).max(member.known_end);
                    if !member.whole_header && member.known_end == 0 {
                        // It is unknown if the file held more.
                        account.doubt(member.behind);
                    }
                    if at < end {
                        let cause = cause_in(source, at..end, defect);
                        reading.lost(at..end, cause, member.behind, account);
                    }
                    return;
                }
                NextRecord::GivenUp => {
                    let cause = DamageCause::Defect(Defect::LengthOutOfRange);
                    reading.lost(at..limit, cause, member.behind, account);
                    return;
                }
            }
        }
    }

    fn record(
        &mut self,
        reading: &mut Reading<'_>,
        source: &mut PatchySource,
        placed: &RecordAt,
        account: &mut Account,
    ) {
        let header = &placed.header;
        account.report.records += 1;
        account.report.last_seq = account.report.last_seq.max(header.seq.0);
        reading.last = Some(header.seq.0);
        if reading.member.role == Role::Log {
            self.last = self.last.max(header.seq);
        }
        let payload = placed.offset + HEADER_SIZE as u64;
        match header.kind {
            RecordKind::Put | RecordKind::Tombstone => {
                let Ok(key) = source.bytes(payload, usize::from(header.key_len));
                let [high, low] = [0, 1].map(|n| u128::from(self.hashes[n].hash(key).to_bits()));
                let newest = Newest::new(reading.file, placed);
                let keys = self.keys.entry(header.keyspace).or_default();
                let known = keys.entry(high << 64 | low).or_insert(newest);
                if known.number < newest.number {
                    *known = newest;
                }
            }
            RecordKind::Keyspace | RecordKind::Watermark | RecordKind::Start => {
                let len = usize::try_from(header.payload_len()).unwrap_or(READ_MAX).min(READ_MAX);
                let Ok(bytes) = source.bytes(payload, len);
                if header.kind != RecordKind::Keyspace {
                    self.durable = self.durable.max(durable_of(header, bytes).unwrap_or(Seq::ZERO));
                    return;
                }
                match change_of(header, bytes) {
                    Ok(change) => self.changes.push((header.seq, change)),
                    Err(defect) => {
                        let range = placed.offset..placed.offset + header.size();
                        reading.lost(range, DamageCause::Defect(defect), Some(header.seq.0 + 1), account);
                    }
                }
            }
            RecordKind::Batch => {}
        }
    }

    /// Returns the last sequence number of the log, and the last one that is known to have been
    /// durable.
    pub(super) fn ends(&self) -> (Seq, Seq) {
        (self.last, self.durable)
    }
}

impl Reading<'_> {
    /// Notes a range without intact records, before a record with the number `next`.
    fn lost(
        &mut self,
        range: std::ops::Range<u64>,
        cause: DamageCause,
        next: Option<u64>,
        account: &mut Account,
    ) {
        self.damaged = true;
        let member = self.member;
        let known = (member.role == Role::Log).then_some(self.last.zip(next)).flatten();
        let missing = known.map(|(last, next)| (last + 1, next.saturating_sub(1)));
        account.report.damage.push(Damage {
            path: member.path.clone(),
            offset: range.start,
            len: range.end.saturating_sub(range.start),
            cause,
            missing: missing.filter(|(first, last)| first <= last),
        });
        // In copies, the greatest number is known of the file as a whole.
        let upto = if member.role == Role::Log { next } else { member.behind };
        account.doubt(upto);
    }
}

/// Returns the reason for which a range held no intact record.
fn cause_in(source: &PatchySource, range: std::ops::Range<u64>, defect: Defect) -> DamageCause {
    match source.unreadable_in(&range) {
        Some((_, why)) => DamageCause::Unreadable(why.to_owned()),
        None => DamageCause::Defect(defect),
    }
}

/// Returns the header of a valid frame.
fn header_at(
    source: &mut PatchySource,
    nonce: u64,
    at: u64,
    limit: u64,
) -> std::result::Result<Option<RecordHeader>, std::convert::Infallible> {
    match RecordReader::new(nonce, at, limit, Order::Any).step(source)? {
        ReadStep::Record(placed) => Ok(Some(placed.header)),
        _ => Ok(None),
    }
}

/// Returns the end of the last bytes after an offset that are not zero or cannot be read; the
/// offset itself if there are none.
fn last_written(source: &mut PatchySource, from: u64, limit: u64) -> u64 {
    let mut end = from;
    let mut at = from;
    while let Ok(Some(next)) = next_published(source, at, limit) {
        end = next + 8;
        at = end;
    }
    let bad = source.unreadable_in(&(end..limit)).map(|(bad, _)| bad.end.min(limit));
    bad.map_or(end, |bad| end.max(bad))
}
