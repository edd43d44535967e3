//! Builds nearly valid segments: records as a writer makes them, then damaged. Checksums over the
//! damage are corrected where the input says so.

use arbitrary::Arbitrary;
use mapcask::format::record::{BatchSum, FLAG_INNER, HEADER_SIZE, RecordHeader, RecordKind, RecordPlace, payload_sum};
use mapcask::format::{KeyspaceId, Seq};

use crate::naive::header_sum;

/// The maximum length before the last piece, in bytes. Longer segments only cost speed: every word
/// behind a stop is tried as a header.
const LEN_MAX: usize = 768;

/// A segment to build, and its damage.
#[derive(Debug, Arbitrary)]
pub struct Recipe {
    pub nonce: u64,
    /// The place of the first record, in words.
    pub start: u8,
    pub first_seq: u16,
    pub is_log: bool,
    pub pieces: Vec<RecordBatch>,
    pub damages: Vec<Damage>,
    /// The words that are cut off the end.
    pub cut: u8,
    /// The words of zeros behind the records.
    pub tail: u8,
}

/// One piece of a segment.
#[derive(Debug, Arbitrary)]
pub enum RecordBatch {
    Record { kind: Plain, key_len: u8, value_len: u8, keyspace: u8 },
    LongRecord { value_len: u16 },
    /// A record that proves a number durable: this far before its own, or behind it.
    Proof { is_start: bool, key_len: u8, before: i8 },
    Batch(Vec<Inner>),
    Blank(u8),
    Raw(Vec<u8>),
    SkipSeq(i8),
}

/// The kinds of record that stand alone.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Plain {
    Put,
    Tombstone,
    Watermark,
    Start,
    Keyspace,
}

/// A record in a batch.
#[derive(Debug, Arbitrary)]
pub struct Inner {
    is_tombstone: bool,
    key_len: u8,
    value_len: u8,
}

/// Damage to a built segment.
#[derive(Debug, Arbitrary)]
pub enum Damage {
    FlipBit {
        at: u16,
        bit: u8,
    },
    Zero {
        at: u16,
        len: u8,
    },
    Copy {
        from: u16,
        to: u16,
        len: u8,
    },
    /// Changes a header's field and corrects its checksum.
    Forge {
        record: u8,
        field: u8,
        value: u8,
    },
    /// Gives any place a valid header checksum.
    Bless {
        at: u16,
    },
}

/// The bytes of a segment, as a walk takes them.
#[derive(Debug)]
pub struct Segment {
    pub bytes: Vec<u8>,
    pub nonce: u64,
    pub start: usize,
    seq: u64,
    headers: Vec<usize>,
}

impl Recipe {
    /// Builds the segment and damages it.
    pub fn build(&self) -> Segment {
        let start = usize::from(self.start) * 8;
        let mut segment = Segment {
            bytes: vec![0; start],
            nonce: self.nonce,
            start,
            seq: u64::from(self.first_seq),
            headers: Vec::new(),
        };
        for piece in &self.pieces {
            if segment.bytes.len() > LEN_MAX {
                break;
            }
            segment.push(piece);
        }
        let len = segment.bytes.len() + usize::from(self.tail % 8) * 8;
        segment.bytes.resize(len, 0);
        for damage in &self.damages {
            segment.damage(damage);
        }
        let len = segment.bytes.len().saturating_sub(usize::from(self.cut) * 8).max(start);
        segment.bytes.truncate(len);
        segment
    }
}

impl Segment {
    fn push(&mut self, piece: &RecordBatch) {
        match piece {
            RecordBatch::Record { kind, key_len, value_len, keyspace } => {
                let kind = match kind {
                    Plain::Put => RecordKind::Put,
                    Plain::Tombstone => RecordKind::Tombstone,
                    Plain::Watermark => RecordKind::Watermark,
                    Plain::Start => RecordKind::Start,
                    Plain::Keyspace => RecordKind::Keyspace,
                };
                self.record(kind, 0, u32::from(*keyspace), usize::from(*key_len), usize::from(*value_len));
            }
            RecordBatch::LongRecord { value_len } => {
                self.record(RecordKind::Put, 0, 0, 3, usize::from(*value_len % 1024));
            }
            RecordBatch::Proof { is_start, key_len, before } => self.proof(*is_start, *key_len, *before),
            RecordBatch::Batch(inner) => self.batch(inner),
            // Long stretches of zeros only cost speed.
            RecordBatch::Blank(words) => self.bytes.resize(self.bytes.len() + usize::from(*words % 16) * 8, 0),
            RecordBatch::Raw(raw) => {
                self.bytes.extend_from_slice(raw);
                self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            }
            RecordBatch::SkipSeq(by) => self.seq = self.seq.saturating_add_signed(i64::from(*by)),
        }
    }

    /// Appends one record and returns its payload's checksum.
    fn record(&mut self, kind: RecordKind, flags: u8, keyspace: u32, key_len: usize, value_len: usize) -> u32 {
        let value_len = if kind == RecordKind::Tombstone { 0 } else { value_len };
        let byte = self.seq as u8;
        self.record_of(kind, flags, keyspace, &vec![byte; key_len], &vec![!byte; value_len])
    }

    fn proof(&mut self, is_start: bool, key_len: u8, before: i8) {
        let durable = self.seq.wrapping_sub_signed(i64::from(before)).to_le_bytes();
        let key = vec![0; usize::from(key_len)];
        if is_start {
            let value = [[0; 8], [0; 8], [0; 8], durable, [0; 8]].concat();
            self.record_of(RecordKind::Start, 0, 0, &key, &value);
        } else {
            self.record_of(RecordKind::Watermark, 0, 0, &key, &durable);
        }
    }

    fn record_of(&mut self, kind: RecordKind, flags: u8, keyspace: u32, key: &[u8], value: &[u8]) -> u32 {
        let payload_sum = payload_sum(key, value);
        let (value_len, key_len) = (value.len() as u32, key.len() as u16);
        self.header(RecordHeader {
            kind,
            flags,
            keyspace: KeyspaceId(keyspace),
            key_len,
            value_len,
            seq: Seq(self.seq),
            payload_sum,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.seq += 1;
        payload_sum
    }

    fn header(&mut self, header: RecordHeader) {
        let offset = self.bytes.len();
        self.headers.push(offset);
        let place = RecordPlace { nonce: self.nonce, offset: offset as u64 };
        self.bytes.extend_from_slice(&header.encode(place));
    }

    fn batch(&mut self, inner: &[Inner]) {
        let frame = self.bytes.len();
        let seq = self.seq;
        self.headers.push(frame);
        self.bytes.resize(frame + HEADER_SIZE, 0);
        self.seq += 1;
        let mut sum = BatchSum::default();
        for record in inner {
            let kind = if record.is_tombstone { RecordKind::Tombstone } else { RecordKind::Put };
            let (key_len, value_len) = (usize::from(record.key_len), usize::from(record.value_len));
            sum.add(self.record(kind, FLAG_INNER, 0, key_len, value_len));
        }
        let header = RecordHeader {
            kind: RecordKind::Batch,
            flags: 0,
            keyspace: KeyspaceId(inner.len() as u32),
            key_len: 0,
            value_len: (self.bytes.len() - frame - HEADER_SIZE) as u32,
            seq: Seq(seq),
            payload_sum: sum.finish(),
        };
        let place = RecordPlace { nonce: self.nonce, offset: frame as u64 };
        self.bytes[frame..][..HEADER_SIZE].copy_from_slice(&header.encode(place));
    }

    fn damage(&mut self, damage: &Damage) {
        let len = self.bytes.len();
        if len == 0 {
            return;
        }
        match damage {
            Damage::FlipBit { at, bit } => self.bytes[usize::from(*at) % len] ^= 1 << (bit % 8),
            Damage::Zero { at, len: count } => {
                let at = usize::from(*at) % len;
                let end = (at + usize::from(*count)).min(len);
                self.bytes[at..end].fill(0);
            }
            Damage::Copy { from, to, len: count } => {
                let (from, to) = (usize::from(*from) % len, usize::from(*to) % len);
                let count = usize::from(*count).min(len - from.max(to));
                self.bytes.copy_within(from..from + count, to);
            }
            Damage::Forge { record, field, value } => {
                if let Some(&at) = self.headers.get(usize::from(*record) % self.headers.len().max(1)) {
                    // The byte is in a field behind the checksum.
                    self.bytes[at + 4 + usize::from(*field) % 28] = *value;
                    self.bless(at);
                }
            }
            Damage::Bless { at } => self.bless((usize::from(*at) % len) & !7),
        }
    }

    fn bless(&mut self, at: usize) {
        let Some(header) = self.bytes.get_mut(at..at + HEADER_SIZE) else { return };
        let sum = header_sum(header, RecordPlace { nonce: self.nonce, offset: at as u64 });
        header[..4].copy_from_slice(&sum.to_le_bytes());
    }
}
