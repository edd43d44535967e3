//! The hash index of one keyspace: from a key's hash to the location of its record.
//!
//! The index holds no keys. A tag makes a match likely, and the caller compares the key in the record. The structure is
//! linear hashing (Litwin 1980; Larson 1988) over buckets of one cache line. It grows by one bucket at a time: no put
//! waits for a rehash, and the memory of a key is bounded at every size. Entries carry the hash bits that growth needs,
//! so growth reads neither the log nor keys (FASTER, Chandramouli and others 2018, has tags of this kind).
//!
//! **Which bucket.** With N buckets and L = floor(log2 N), a hash belongs to bucket `hash mod 2^(L+1)` if that bucket
//! exists, else to `hash mod 2^L`. Bucket N, once it exists, takes its entries from bucket `N - 2^L` and from no other.
//! It gives them back to that bucket when it goes (`merge`).
//!
//! **Concurrency.** There is one writer ([`IndexWriter`], under the store's writer mutex) and any number of readers.
//! Readers store nothing (but the verified bit of an entry from a checkpoint: `bucket`), never wait, and retry only if
//! something moved under them. The writer's stores are release stores. A reader loads N and the head's control word
//! (acquire), then the entries (relaxed). It fences (acquire) before it acts on a matching tag or on a miss. So it sees
//! every store that the writer made before a value that it read.
//!
//! *Hit*: needs no second look. The caller compares the key in the record, and the entry was in the index.
//!
//! *Miss*: counts only under three conditions, checked after the fence: the head's control word is the one loaded first;
//! N still maps the hash to this bucket; and no buckets were merged meanwhile (`shape` counts merges in the word that
//! holds N), because a bucket that went and came again would look unchanged.
//! **Each store that takes an entry from a place where a reader may look for it comes after the store that announces
//! it** (X1), and the entry's new place was filled before that:
//!
//! | change | stores, in order |
//! |---|---|
//! | insert | entry; for a new overflow line: entry in it, then the link to it |
//! | replace | the same slot, once |
//! | remove | slot emptied, or overwritten by a copy of the chain's last entry; version (and link); last entry emptied |
//! | split | entries copied to bucket N, where no reader looks yet; N := N + 1; stayers copied from lines that will go into the places of leavers; version and link, if lines go; leavers and copied stayers emptied |
//! | merge | entries of bucket N - 1 copied into the head that it was split from, and into new lines there, which overflow entries of that bucket are copied into, too; version and link of that bucket; N := N - 1, and one merge more; version of the bucket that goes; its entries and the lines that were replaced emptied |
//!
//! A reader that finds a place empty or taken over sees, by the release of that last store, the version or the N that
//! announced the move, and retries. A reader that saw the new version or the new N at the start sees the copy. So a key
//! that is present throughout is found. Overflow lines are reused at once: a reader that enters a line of another bucket
//! reads true entries of other keys, whose records do not hold its key, and then finds the version changed.
//! A key that was absent at any moment of the search may be missed; the miss is linearized there.
//!
//! **Invariants.**
//! - X1: as above.
//! - X2: N never falls below its first value. Published bucket numbers and links lead to memory that stays mapped. Lines
//!   behind the last bucket and the last overflow line hold no entry, so the kernel may take their pages. A reader that
//!   finds zeros there came by an N from before a merge, and the page fault orders that N's successor before it.
//! - X3: an entry lies in the chain of the one bucket that its hash belongs to. Exceptions: in a split between the store
//!   of N and the emptying of the leavers, and in a merge between the copies and the store of N. A scan leaves those out
//!   by their hash.
//! - X4: in a chain of more than one line the entries lie without a gap from the first place on, and the last line holds
//!   one at least.
//! - X5: a location is in the index once, except during a move inside one chain, or a merge (X3).

mod bucket;
mod bucket_check;
mod merge;
pub(crate) mod partition;
pub(crate) mod parts;
mod prefetch;
mod purge;
pub(crate) mod scan;
mod shape;
mod split;
mod writer;

#[cfg(all(test, not(loom)))]
mod capture_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod merge_tests;
#[cfg(all(test, not(loom)))]
mod partition_tests;
#[cfg(all(test, not(loom)))]
mod purge_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{fmt, io, sync::Arc, sync::OnceLock, sync::atomic::AtomicBool};

use self::bucket::{Bucket, TAG_BITS, slots_where};
use self::bucket_check::BucketCheck;
use self::parts::WaitingParts;
use self::shape::IndexShape;
pub(crate) use self::writer::IndexWriter;
use super::lines::block_error::BlockError;
use super::lines::chunked::ChunkedLines;
use super::lines::lazy::{BlockSource, LazyLoader, PARTIAL};
use crate::format::checkpoint::{IndexKind, IndexTable};
use crate::format::hash::Hash;
use crate::mem::line_array::Line;
use crate::mem::location::Location;
use crate::sync::{AtomicU64, Ordering, fence, spin_loop};

/// Hash bits that are stored only in a bucket's number. They set the least number of buckets:
/// 4,096, in 256 KiB that are committed as they are accessed.
const BASE_BITS: u32 = 12;
/// Sets the size of the first chunk of overflow lines: 1,024 lines, in 64 KiB.
const OVERFLOW_BASE_BITS: u32 = 10;
/// The most bucket lines that are populated ahead of the writer: 2 MiB.
const AHEAD: u64 = (2 << 20) / 64;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;

/// A value on a cache-line pair of its own, because processors fetch lines in pairs.
#[repr(align(128))]
struct Apart<T>(T);

/// The table that readers search.
pub(crate) struct Index {
    /// Fields that every search loads first.
    front: Apart<IndexHead>,
    /// Counters that the writer stores at every insert.
    counters: Apart<IndexCounters>,
    base_bits: u32,
    heads: ChunkedLines,
    overflow: ChunkedLines,
    /// The ends of the pages made present by `populate_ahead`.
    populated: Populated,
    /// The loader of an index from a checkpoint; `None` for other indexes.
    loader: Option<Box<LazyLoader>>,
    /// The parts that wait for records, if there ever were any.
    waiting: OnceLock<Arc<WaitingParts>>,
}

struct IndexHead {
    /// N, as an [`IndexShape`]. Kept apart from constants, because splits and merges store it.
    shape: AtomicU64,
    /// Not zero while blocks or parts are missing, or once the index has ended; see `lines::lazy`, `parts`.
    partial: AtomicU64,
    /// True if entries may lead to unverified records.
    unverified: AtomicBool,
}

struct IndexCounters {
    entries: AtomicU64,
    overflow_lines: AtomicU64,
    /// Bytes that a capture in progress takes beside the lines; see `lines::capture`.
    captured: AtomicU64,
}

struct Populated {
    heads: AtomicU64,
    overflow: AtomicU64,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("len", &self.len())
            .field("buckets", &self.buckets())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Makes an empty index and the one writer that changes it.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short.
    pub(crate) fn new() -> io::Result<(Arc<Self>, IndexWriter)> {
        Self::with_base_bits(BASE_BITS, OVERFLOW_BASE_BITS)
    }

    /// Makes an index with a smaller first table: tests start with one bucket, which splits often.
    fn with_base_bits(base_bits: u32, overflow_base_bits: u32) -> io::Result<(Arc<Self>, IndexWriter)> {
        let table =
            IndexTable { kind: IndexKind::Hash { base_bits }, entries: 0, lines: [1 << base_bits, 0] };
        let index = Arc::new(Self::of_table(table, overflow_base_bits, None)?);
        Ok((Arc::clone(&index), IndexWriter::new(index)))
    }

    /// Makes an index whose lines are read from a checkpoint when they are needed (`bucket_check`).
    /// Otherwise it behaves like one of [`Index::new`], in memory and growth, too. This reads only
    /// two blocks, at every size of the index.
    ///
    /// The table and the file's size must agree, which decoding the front has checked.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, the shape is impossible, or a block cannot be read.
    pub(crate) fn restore(table: IndexTable, source: BlockSource) -> io::Result<(Arc<Self>, IndexWriter)> {
        Self::from_checkpoint_with(table, source, OVERFLOW_BASE_BITS)
    }

    fn from_checkpoint_with(
        table: IndexTable,
        source: BlockSource,
        overflow_base_bits: u32,
    ) -> io::Result<(Arc<Self>, IndexWriter)> {
        let check = Box::new(BucketCheck::new(table.lines[1]));
        let loader = Box::new(LazyLoader::new(table, source, check));
        let index = Arc::new(Self::of_table(table, overflow_base_bits, Some(loader))?);
        index.lines().load_last()?;
        let writer = IndexWriter::restore(Arc::clone(&index), table.lines[1]);
        Ok((index, writer))
    }

    fn of_table(
        table: IndexTable,
        overflow_base_bits: u32,
        loader: Option<Box<LazyLoader>>,
    ) -> io::Result<Self> {
        let IndexTable { kind, entries, lines: [buckets, overflow_lines] } = table;
        let base_bits = match kind {
            IndexKind::Hash { base_bits } if base_bits <= BASE_BITS && overflow_lines <= bucket::LINKS => {
                base_bits
            }
            _ => return Err(io::Error::other("an index has no such shape")),
        };
        let partial = if loader.is_some() { PARTIAL } else { 0 };
        let mut index = Self {
            front: Apart(IndexHead {
                shape: AtomicU64::new(IndexShape::new(buckets).to_bits()),
                partial: AtomicU64::new(partial),
                unverified: AtomicBool::new(partial != 0),
            }),
            counters: Apart(IndexCounters {
                entries: AtomicU64::new(entries),
                overflow_lines: AtomicU64::new(overflow_lines),
                captured: AtomicU64::new(0),
            }),
            base_bits,
            heads: ChunkedLines::new(base_bits),
            overflow: ChunkedLines::new(overflow_base_bits),
            populated: Populated { heads: AtomicU64::new(buckets), overflow: AtomicU64::new(overflow_lines) },
            loader,
            waiting: OnceLock::new(),
        };
        index.heads.make_sparse(buckets)?;
        index.overflow.make_sparse(overflow_lines)?;
        Ok(index)
    }

    /// Finds the entry of a hash whose record `matches` accepts.
    ///
    /// `matches` is called for every entry with the hash's tag in its bucket (rarely for another
    /// key), possibly twice for one entry. Its error, or an unreadable block of a checkpoint, ends
    /// the search.
    #[inline]
    pub(crate) fn find<E: From<BlockError>>(
        &self,
        hash: Hash,
        mut matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        let tag = self.tag(hash);
        loop {
            // Acquire: pairs with the release store of N in a split; bucket N and its memory exist.
            let shape = self.shape(Ordering::Acquire);
            let number = bucket_of(hash.to_bits(), shape.buckets());
            if self.is_partial() {
                self.ensure_searchable(number)?;
            }
            let head = self.heads.line(number);
            let control = head.control();
            if let Some(found) = search(head, tag, &mut matches)? {
                return Ok(Some(found));
            }
            let mut moved = false;
            let mut link = control.link();
            while let Some(next) = link {
                let line = self.overflow.line(next.line());
                if let Some(found) = search(line, tag, &mut matches)? {
                    return Ok(Some(found));
                }
                // Checked at every line: lines that change hands cannot lead a reader in a circle.
                fence(Ordering::Acquire);
                moved = head.control_unordered() != control;
                link = if moved { None } else { line.control().link() };
            }
            // Acquire: pairs with the release of every entry that was loaded above (X1).
            fence(Ordering::Acquire);
            // Relaxed, both: ordered by the fence.
            let now = self.shape(Ordering::Relaxed);
            let stayed = !shape.was_merged(now) && bucket_of(hash.to_bits(), now.buckets()) == number;
            if !moved && head.control_unordered() == control && stayed {
                return Ok(None);
            }
            spin_loop();
        }
    }

    /// True if the record that an entry of this hash leads to was verified since this open; false
    /// if there is no such entry any more.
    pub(crate) fn is_verified(&self, hash: Hash, location: Location) -> bool {
        self.entry_of(hash, location).is_some_and(|(line, slot)| line.entry(slot).is_verified())
    }

    /// Marks the record at a location as verified.
    pub(crate) fn set_verified(&self, hash: Hash, location: Location) {
        if let Some((line, slot)) = self.entry_of(hash, location) {
            let entry = line.entry(slot);
            // If the slot holds another entry by now, that one belongs to another record.
            if entry.index_leads_to(location) {
                line.set_verified(slot, entry);
            }
        }
    }

    /// Returns the slot of the hash's entry with this location; `None` if it is gone or being
    /// moved.
    fn entry_of(&self, hash: Hash, location: Location) -> Option<(&Line, usize)> {
        // Acquire: as in `find`, which has loaded the chain.
        let number = bucket_of(hash.to_bits(), self.shape(Ordering::Acquire).buckets());
        let head = self.heads.line(number);
        let control = head.control();
        let mut line = head;
        loop {
            if let Some(slot) = slots_where(line, |entry| entry.index_leads_to(location)).next() {
                return Some((line, slot));
            }
            let link = line.control().link()?;
            // Acquire: as in `find`, so that lines that change hands cannot lead in a circle.
            fence(Ordering::Acquire);
            if head.control_unordered() != control {
                return None;
            }
            line = self.overflow.line(link.line());
        }
    }

    /// Returns the part of the buckets that a hash belongs to, of `1 << bits` parts. The buckets of
    /// one part are adjacent, as long as the index does not grow.
    pub(crate) fn part_of(&self, hash: Hash, bits: u32) -> usize {
        let buckets = self.buckets();
        let number =
            bucket_of(hash.to_bits(), buckets) >> (u64::BITS - buckets.leading_zeros()).saturating_sub(bits);
        usize::try_from(number).unwrap_or(0)
    }

    /// Returns the position of a hash in the order of a scan.
    pub(crate) fn order_of(&self, hash: Hash) -> u64 {
        self.order(hash.to_bits() & ((1 << self.known_bits()) - 1))
    }

    /// Returns the position of a hash's known bits in the order of a scan.
    #[inline]
    fn order(&self, known: u64) -> u64 {
        known.reverse_bits() >> (u64::BITS - self.known_bits())
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a count on its own; nothing is read because of it.
        usize::try_from(self.counters.0.entries.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Returns the number of buckets.
    pub(crate) fn buckets(&self) -> u64 {
        // Relaxed: as for `len`.
        self.shape(Ordering::Relaxed).buckets()
    }

    /// Returns the word that holds the number of buckets.
    #[inline]
    fn shape(&self, order: Ordering) -> IndexShape {
        IndexShape::from_bits(self.front.0.shape.load(order))
    }

    /// Returns the bytes of the lines in use, up to the last one, and of a capture in progress.
    /// Populated pages ahead of them are at most 8 MiB more, and pages to be released half a MiB.
    pub(crate) fn memory_bytes(&self) -> usize {
        // Relaxed, all: as for `len`.
        let lines = self.buckets() + self.counters.0.overflow_lines.load(Ordering::Relaxed);
        let lines = lines.saturating_mul(size_of::<Line>() as u64);
        let captured = self.counters.0.captured.load(Ordering::Relaxed);
        usize::try_from(lines.saturating_add(captured)).unwrap_or(usize::MAX)
    }

    /// True if [`Index::populate_ahead`] has something to do.
    pub(crate) fn is_short_of_room(&self) -> bool {
        let [heads, overflow] = self.shortage();
        heads.is_some() || overflow.is_some()
    }

    /// Populates memory ahead of the writer, so that growth costs it no page fault or system call.
    ///
    /// A step for the worker, beside the writer and the readers; it does nothing if enough is
    /// populated. The range is an eighth of the buckets, up to 2 MiB, and a quarter of that in
    /// overflow lines. The first 4,096 buckets are left to faults. Below two entries per bucket
    /// nothing is done, so that a small index stays small.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short. The index is unaffected, and the writer meets it later.
    pub(crate) fn populate_ahead(&self) -> io::Result<()> {
        let [heads, overflow] = self.shortage();
        for (row, mark, lines) in [
            (&self.heads, &self.populated.heads, heads),
            (&self.overflow, &self.populated.overflow, overflow),
        ] {
            if let Some(lines) = lines {
                let end = lines.end;
                row.populate(lines)?;
                // Relaxed: a note from one step to the next; a stale one costs only a system call.
                mark.store(end, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Returns the lines to populate, if less than half of the intended range is populated.
    fn shortage(&self) -> [Option<std::ops::Range<u64>>; 2] {
        // Relaxed, all: advice, see `populate_ahead`.
        let buckets = self.buckets();
        // Splits begin at about five entries per bucket, with one overflow line for five buckets.
        let heads = if self.len() as u64 / 2 < buckets { 0 } else { (buckets / 8).min(AHEAD) };
        let ahead = [heads, heads / 4];
        let used = [buckets, self.counters.0.overflow_lines.load(Ordering::Relaxed)];
        let marks =
            [&self.populated.heads, &self.populated.overflow].map(|mark| mark.load(Ordering::Relaxed));
        let limits = [self.heads.limit(), bucket::LINKS];
        std::array::from_fn(|row| {
            let end = (used[row] + ahead[row]).min(limits[row]);
            let start = marks[row].max(used[row]);
            (start + ahead[row] / 2 < end).then_some(start..end)
        })
    }

    #[inline]
    fn tag(&self, hash: Hash) -> u64 {
        hash.to_bits() >> self.base_bits & TAG_MASK
    }

    /// Returns the number of hash bits known of an entry: those of the base and those of the tag.
    fn known_bits(&self) -> u32 {
        self.base_bits + TAG_BITS
    }

    /// Returns the known bits of the hash of an entry in a bucket.
    fn hash_of(&self, entry: bucket::IndexEntry, bucket: u64) -> u64 {
        entry.tag() << self.base_bits | bucket & ((1 << self.base_bits) - 1)
    }
}

/// Returns the bucket of a hash among `buckets` buckets, of which there is at least one.
#[inline]
fn bucket_of(hash: u64, buckets: u64) -> u64 {
    let mask = u64::MAX >> buckets.leading_zeros();
    let wide = hash & mask;
    if wide < buckets { wide } else { hash & (mask >> 1) }
}

/// Returns the next bucket to split: the one whose sibling has the number `buckets`.
#[inline]
fn split_source(buckets: u64) -> u64 {
    buckets & (u64::MAX >> buckets.leading_zeros() >> 1)
}

/// Returns the number of hash bits that decide what belongs to a bucket among `buckets` buckets.
fn bits_of(bucket: u64, buckets: u64) -> u32 {
    let level = buckets.ilog2();
    if bucket < split_source(buckets) || bucket >= 1 << level { level + 1 } else { level }
}

/// Searches one line for a tag.
#[inline]
fn search<E>(
    line: &Line,
    tag: u64,
    matches: &mut impl FnMut(Location) -> Result<bool, E>,
) -> Result<Option<Location>, E> {
    for slot in slots_where(line, |entry| entry.tag() == tag) {
        // Loaded again, because the slot may hold another entry by now: only this load counts.
        let entry = line.entry(slot);
        // An empty entry has tag zero, which is also a valid tag.
        if entry.tag() == tag
            && let Some(location) = entry.location()
        {
            // Acquire: pairs with the release in `set_entry`; the record is published and placed (I2).
            fence(Ordering::Acquire);
            if matches(location)? {
                return Ok(Some(location));
            }
        }
    }
    Ok(None)
}

/// The error of searches in tests, which never occurs.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
enum Never {}

#[cfg(test)]
impl From<BlockError> for Never {
    fn from(unread: BlockError) -> Self {
        panic!("{unread:?}")
    }
}
