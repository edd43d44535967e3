//! Parses the record format a second time: slowly and directly, from the tables in
//! docs/design/format.md, not from the library.

use mapcask::format::record::{HEADER_SIZE, RecordKind, RecordPlace};
use mapcask::format::record_reader::{Order, RecordAt};

/// The fields of a header that a walk reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    pub kind: u8,
    pub flags: u8,
    pub key_len: u64,
    pub value_len: u64,
    pub keyspace: u32,
    pub seq: u64,
    pub payload_sum: u32,
}

/// Returns the checksum that makes a header valid at a place.
pub fn header_sum(header: &[u8], place: RecordPlace) -> u32 {
    let spread = u128::from(place.offset) * 0x9e37_79b9_7f4a_7c15;
    let mixed = u128::from(place.nonce ^ low(spread)) * 0xd6e8_feb8_6659_fd93;
    let mask = low(mixed) ^ (low(mixed) >> 32);
    crc32fast::hash(&header[4..HEADER_SIZE]) ^ (mask & 0xffff_ffff) as u32
}

fn low(wide: u128) -> u64 {
    (wide & u128::from(u64::MAX)) as u64
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Returns the header at an offset, if it is valid there and its record ends before `limit`.
pub fn fields(bytes: &[u8], nonce: u64, offset: usize, limit: usize) -> Option<Fields> {
    let header = bytes.get(offset..limit)?.get(..HEADER_SIZE)?;
    let sum = header_sum(header, RecordPlace { nonce, offset: offset as u64 });
    let fields = Fields {
        kind: header[4],
        flags: header[5],
        key_len: number(&header[6..8]),
        value_len: number(&header[8..12]),
        keyspace: number(&header[12..16]) as u32,
        seq: number(&header[16..24]),
        payload_sum: number(&header[24..28]) as u32,
    };
    let holds = number(&header[..4]) == u64::from(sum)
        && (1..=6).contains(&fields.kind)
        && fields.flags <= 1
        && (1..1 << 56).contains(&fields.seq)
        && header[28..] == [0; 4]
        && (fields.kind != RecordKind::Tombstone as u8 || fields.value_len == 0)
        && offset as u64 + fields.size() <= limit as u64;
    holds.then_some(fields)
}

impl Fields {
    /// Returns the bytes that the record takes.
    pub fn size(&self) -> u64 {
        (HEADER_SIZE as u64 + self.key_len + self.value_len).div_ceil(8) * 8
    }

    fn payload_holds(&self, bytes: &[u8], offset: usize) -> bool {
        let start = offset + HEADER_SIZE;
        crc32fast::hash(&bytes[start..][..(self.key_len + self.value_len) as usize]) == self.payload_sum
    }

    /// Returns false if the record proves that a number was durable which it cannot know.
    fn proof_holds(&self, bytes: &[u8], offset: usize) -> bool {
        let value = &bytes[offset + HEADER_SIZE + self.key_len as usize..][..self.value_len as usize];
        let is_watermark = self.kind == RecordKind::Watermark as u8 && value.len() == 8;
        let is_start = self.kind == RecordKind::Start as u8 && value.len() == 40;
        if is_watermark {
            number(value) < self.seq
        } else if is_start {
            number(&value[24..32]) < self.seq && number(&value[32..]) < 1 << 56
        } else {
            true
        }
    }

    /// Returns true if the library read equal fields.
    pub fn agree(&self, placed: &RecordAt) -> bool {
        let header = placed.header;
        header.kind as u8 == self.kind
            && header.flags == self.flags
            && u64::from(header.key_len) == self.key_len
            && u64::from(header.value_len) == self.value_len
            && header.keyspace.0 == self.keyspace
            && header.seq.0 == self.seq
            && header.payload_sum == self.payload_sum
    }
}

/// Returns the records of a frame, without the frame; `None` if any of it is invalid.
fn frame(bytes: &[u8], nonce: u64, offset: usize, outer: &Fields) -> Option<Vec<(usize, Fields)>> {
    let end = offset + HEADER_SIZE + outer.value_len as usize;
    let mut inner = Vec::new();
    let mut sums = Vec::new();
    let mut at = offset + HEADER_SIZE;
    while at < end {
        let fields = fields(bytes, nonce, at, end)?;
        let is_fit =
            fields.flags == 1 && fields.kind <= 2 && fields.seq == outer.seq + 1 + inner.len() as u64;
        if !is_fit || !fields.payload_holds(bytes, at) {
            return None;
        }
        sums.extend_from_slice(&fields.payload_sum.to_le_bytes());
        inner.push((at, fields));
        at += fields.size() as usize;
    }
    let is_whole = !inner.is_empty()
        && inner.len() as u64 == u64::from(outer.keyspace)
        && outer.key_len == 0
        && crc32fast::hash(&sums) == outer.payload_sum;
    is_whole.then_some(inner)
}

/// Returns every record from `start` on, up to the first invalid one, and the place of that.
pub fn walk(
    bytes: &[u8],
    nonce: u64,
    start: usize,
    limit: usize,
    order: Order,
) -> (Vec<(usize, Fields)>, usize) {
    let mut found: Vec<(usize, Fields)> = Vec::new();
    let mut at = start;
    while let Some(fields) = fields(bytes, nonce, at, limit) {
        let follows = match (order, found.last()) {
            (Order::Consecutive, Some((_, last))) => fields.seq == last.seq + 1,
            _ => true,
        };
        if !follows || fields.flags != 0 {
            break;
        }
        if fields.kind == RecordKind::Batch as u8 {
            let Some(inner) = frame(bytes, nonce, at, &fields) else { break };
            found.push((at, fields));
            found.extend(inner);
        } else if fields.payload_holds(bytes, at) && fields.proof_holds(bytes, at) {
            found.push((at, fields));
        } else {
            break;
        }
        at += fields.size() as usize;
    }
    (found, at)
}

/// Returns every record that a walk from any place behind `from` finds.
pub fn beyond(bytes: &[u8], nonce: u64, from: usize, limit: usize) -> Vec<(usize, Fields)> {
    let mut found = Vec::new();
    let mut at = from;
    while at + 8 <= limit {
        if bytes[at..at + 8] == [0; 8] {
            at += 8;
            continue;
        }
        let (mut records, end) = walk(bytes, nonce, at, limit, Order::Any);
        at = if records.is_empty() { at + 8 } else { end };
        found.append(&mut records);
    }
    found
}
