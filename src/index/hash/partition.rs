//! Bulk loading: several threads fill an index that has no readers yet.
//!
//! A replay inserts into buckets all over the index, and each insert waits for memory, so several
//! threads do it. They share nothing. A [`Partition`] belongs to one thread. The caller ensures
//! that no two partitions use one bucket, as long as the index does not grow ([`Index::part_of`]).
//! A partition takes overflow lines from a few of its own. Growth is a separate phase
//! ([`IndexWriter::grow`]): a split affects a bucket and its sibling, so ranges of buckets are
//! split in parallel.
//!
//! **Concurrency.** There is no reader and no capture, so the order of stores in the head of
//! `index::hash` does not matter. A thread sees everything done before it was started, and its end
//! comes before everything that follows. A partial index loads the blocks that its partitions need;
//! the loader's lock orders that.

use std::io;
use std::sync::atomic::AtomicU64 as Counter;
use std::thread;

use parking_lot::Mutex;

use super::bucket::{Bucket, IndexEntry, LINKS, OverflowLink};
use super::split::{SplitBuffers, split_off};
use super::writer::{IndexWriter, LOAD_TIMES_TEN, OverflowLines, append, collect_links, replace_in};
use super::{Index, bucket_of, search, split_source};
use crate::format::hash::Hash;
use crate::fs::tuning::Tuning;
use crate::index::lines::block_error::BlockError;
use crate::mem::location::Location;
use crate::sync::Ordering;

/// One thread's part in filling an index.
#[derive(Debug)]
pub(crate) struct Partition<'i> {
    index: &'i Index,
    /// The next overflow line that no partition has.
    next: &'i Counter,
    /// The number of overflow lines that are taken at once.
    at_once: u64,
    lines: OverflowLines,
    links: Vec<OverflowLink>,
    entries: Vec<IndexEntry>,
    inserted: u64,
}

impl IndexWriter {
    /// Calls `work` on up to `threads` threads, including this one, each with a partition, and
    /// returns the results.
    ///
    /// # Errors
    ///
    /// Returns the first error of `work`. The other threads have done their part, and the index
    /// must not be used.
    pub(crate) fn fill<T: Send, E: Send>(
        &mut self,
        threads: usize,
        tuning: Tuning,
        work: impl Fn(&mut Partition<'_>) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        self.look_around();
        let next = Counter::new(self.lines.used);
        let index = &*self.index;
        let threads = threads.max(1);
        let share = self.lines.free.len() / threads;
        let shards = (0..threads).map(|_| {
            let free = std::iter::from_fn(|| self.lines.free.pop_last()).take(share).collect();
            let lines = OverflowLines { free, used: 0, ensured: 0 };
            let at_once = tuning.lines_at_once;
            Partition {
                index,
                next: &next,
                at_once,
                lines,
                links: Vec::new(),
                entries: Vec::new(),
                inserted: 0,
            }
        });
        // Each thread takes a partition when it begins, because fewer threads may be available.
        let (waiting, done) = (Mutex::new(shards.collect::<Vec<_>>()), Mutex::new(Vec::new()));
        let turn = || {
            let Some(mut shard) = waiting.lock().pop() else { return };
            let came_to = work(&mut shard);
            done.lock().push((came_to, shard));
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                let thread = thread::Builder::new().name("mapcask-fill".to_owned());
                if thread.spawn_scoped(scope, turn).is_err() {
                    break;
                }
            }
            turn();
        });
        let unused = waiting.into_inner().into_iter().map(|shard| shard.lines);
        let (came_to, lines): (Vec<_>, Vec<_>) = done
            .into_inner()
            .into_iter()
            .map(|(came_to, shard)| (came_to.map(|came_to| (came_to, shard.inserted)), shard.lines))
            .unzip();
        let mut lines: Vec<_> = lines.into_iter().chain(unused).collect();
        self.take_back(next.into_inner(), &mut lines);
        came_to
            .into_iter()
            .map(|came_to| {
                let (came_to, inserted) = came_to?;
                self.count(inserted.cast_signed());
                Ok(came_to)
            })
            .collect()
    }

    /// Takes back the overflow lines that partitions did not use.
    fn take_back(&mut self, next: u64, shards: &mut [OverflowLines]) {
        let before = self.lines.used;
        let own = &mut self.lines;
        own.used = next;
        // The lines that were given out last are returned as if they had never been used.
        shards.sort_unstable_by_key(|lines| std::cmp::Reverse(lines.ensured));
        for lines in shards {
            own.free.append(&mut lines.free);
            if lines.ensured == own.used {
                own.used = lines.used.min(own.used);
            } else {
                own.free.extend((lines.used..lines.ensured).filter_map(OverflowLink::to));
            }
        }
        if let Some(last) = own.used.checked_sub(1).filter(|last| *last >= own.ensured) {
            own.ensured = self.index.overflow.chunk_end(last).min(LINKS);
        }
        self.count_lines(before);
    }

    /// Splits buckets until there are enough for the entries of the index, on up to `threads`
    /// threads.
    ///
    /// # Errors
    ///
    /// As for [`IndexWriter::reserve_many`]; the index must not be used then.
    pub(crate) fn grow(&mut self, threads: usize, tuning: Tuning) -> io::Result<()> {
        let wanted = (self.index.len() as u64).saturating_mul(10).div_ceil(LOAD_TIMES_TEN);
        loop {
            let buckets = self.index.buckets();
            if wanted <= buckets {
                return Ok(());
            }
            // At most until each current bucket is split once.
            let end = wanted.min(2 << buckets.ilog2());
            self.index.heads.ensure_all(buckets..end)?;
            let next = Counter::new(buckets);
            let enough = usize::try_from((end - buckets) / tuning.splits_at_once).unwrap_or(usize::MAX);
            self.fill(threads.min(enough), tuning, |shard| {
                shard.split_some(&next, end, tuning.splits_at_once)
            })?;
            // Release: as in `split`.
            let shape = self.index.shape(Ordering::Relaxed).grown(end);
            self.index.front.0.shape.store(shape.to_bits(), Ordering::Release);
        }
    }
}

impl Partition<'_> {
    /// Makes sure that one insert cannot fail.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, or the index has its greatest size.
    #[inline]
    pub(crate) fn reserve(&mut self) -> io::Result<()> {
        self.reserve_lines(1)
    }

    #[inline]
    fn reserve_lines(&mut self, count: u64) -> io::Result<()> {
        if self.lines.left() < count { self.take_lines(count) } else { Ok(()) }
    }

    #[cold]
    fn take_lines(&mut self, count: u64) -> io::Result<()> {
        let OverflowLines { free, used, ensured } = &mut self.lines;
        free.extend((*used..*ensured).filter_map(OverflowLink::to));
        let count = count.max(self.at_once);
        // Relaxed: only the number counts.
        *used = self.next.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        *ensured = *used + count;
        if *ensured > LINKS {
            *ensured = *used;
            return Err(io::Error::other("the index has as many overflow lines as its links can tell apart"));
        }
        self.index.overflow.ensure_all(*used..*ensured)
    }

    /// Inserts an entry, unless there is one whose record `matches` accepts; returns the location
    /// of that one. It takes one walk over the chain. Space must be reserved, and the bucket must
    /// belong to this partition.
    ///
    /// # Errors
    ///
    /// As for [`IndexWriter::find`].
    pub(crate) fn find_or_insert<E: From<BlockError>>(
        &mut self,
        hash: Hash,
        location: Location,
        mut matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        let Self { index, lines, .. } = self;
        let bucket = bucket_of(hash.to_bits(), index.buckets());
        if index.is_partial() {
            index.ensure_loaded(bucket)?;
        }
        let tag = index.tag(hash);
        let mut line = index.heads.line(bucket);
        loop {
            if let Some(found) = search(line, tag, &mut matches)? {
                return Ok(Some(found));
            }
            match line.control_unordered().link() {
                Some(link) => line = index.overflow.line(link.line()),
                None => break,
            }
        }
        // All lines before the last are full (X4); a head without overflow lines is the last line.
        append(index, lines, line, IndexEntry::new(tag, location));
        self.inserted += 1;
        Ok(None)
    }

    /// Replaces an entry that was just found, as [`IndexWriter::replace`] does.
    pub(crate) fn replace(&mut self, hash: Hash, old: Location, new: Location) -> bool {
        replace_in(self.index, hash, old, new)
    }

    /// Splits buckets up to number `end`, beside other threads that do so too.
    fn split_some(&mut self, next: &Counter, end: u64, at_once: u64) -> io::Result<()> {
        loop {
            // Relaxed: only the number counts.
            let first = next.fetch_add(at_once, std::sync::atomic::Ordering::Relaxed);
            if first >= end {
                return Ok(());
            }
            for sibling in first..end.min(first + at_once) {
                let index = self.index;
                let source = split_source(sibling);
                if index.is_partial() {
                    index.ensure_loaded(source)?;
                }
                index.prefetch_splits(sibling);
                collect_links(index, index.heads.line(source), &mut self.links);
                // The sibling's chain is not longer than its source's.
                self.reserve_lines(self.links.len() as u64)?;
                let Self { lines, links, entries, .. } = self;
                split_off(index, lines, SplitBuffers { links, entries }, sibling, || ());
            }
        }
    }
}
