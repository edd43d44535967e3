//! The ordered index of one keyspace: a B+tree of locations, in the order of the keys in their records.
//!
//! The index holds no keys. A leaf has 8 bytes for each: the location of its record, and the first bits of the key that
//! the leaf's other keys do not share (`leaf`). Where these are equal, the records decide. Inner nodes hold the shortest
//! separators (`inner`).
//!
//! **Concurrency.** There is one writer ([`TreeWriter`], under the store's writer mutex) and any number of readers.
//! Readers store nothing (but the verified bit of an entry), never wait, and retry only if something changed on their
//! path. A node in the tree changes only by two kinds of store, each of one word: the location of an entry becomes that
//! of another record of the key, and the child in a slot becomes a node of the same range of keys (T1). Every insert,
//! removal, split and merge builds new nodes and publishes them by one store of the second kind, or by a store of the
//! root. Nodes that left the tree are reused at once.
//!
//! | change | stores, in order |
//! |---|---|
//! | replace | the entry |
//! | insert, remove | the words of a free node, which is *out*; its control word: *built*; the slot of the parent, or the root; control word of the old node: *out* |
//! | split | the same for two leaves and a new parent, and so on upwards while a parent is full; all old nodes: *out* |
//! | merge | the same, for one leaf and a new parent with one child less, and so on upwards while a parent gets small |
//!
//! A reader takes a node's control word first (acquire). Then it looks if the place that led it there is still in force:
//! the root, or the parent's control word and its slot. Then it reads what it needs, fences (acquire), and compares the
//! control word with the first. If anything differs, it begins again at the root.
//!
//! **Invariants.**
//! - T1: as above.
//! - T2: a node is *out* before any node that left the tree with it or after it is built anew.
//! - T3: the words of a node change only while it is *out* or was never used, and each time with another version.
//! - T4: all keys below slot i are at or above separator i and below separator i + 1.
//! - T5: the entries of a leaf ascend.
//! - T6: a node is in one slot.
//!
//! *No present key is missed.* Let a reader have taken control word c of node n, which a building b stored, and then have
//! found the parent not *out*, with n in slot i. It acquired b's last store, so it sees everything that the writer did
//! before. The parent was not *out* before b (T2), and what slot i held before b is gone. So n stands there by its
//! publication as b, or by a later one. A later one is stored (release) after the words of a later building, so the last
//! look at the control word of n, behind the fence, finds another version. At the moment of that publication, or after
//! it, n was the child for the range of the key. By induction from the root, the leaf is the one for the key.
//!
//! A scan may go on from a leaf to the next slot of the parent, and begins again at the root if the parent is *out*
//! (`leaf_scan`). Until then the parent is the node for the range between its outer separators, and the others are
//! those that the search found. So the induction goes on from there.
//!
//! A hit is validated like a miss: a node that is being built holds an entry before anybody may see it.

mod announce;
mod fill;
mod gap;
mod inner;
mod leaf;
mod leaf_scan;
mod merge;
mod node;
mod node_check;
mod node_place;
mod numbers;
mod purge;
mod split;
mod writer;

#[cfg(all(test, not(loom)))]
mod capture_tests;
#[cfg(all(test, not(loom)))]
mod fill_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod search_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::cmp;
use std::ops::Range;
use std::path::Path;
use std::{fmt, io, sync::Arc};

pub(crate) use self::fill::RunSource;
use self::inner::{InnerView, Side, child_of};
pub(crate) use self::leaf::{Beside, LEAF_MAX};
use self::leaf::{LeafCopy, LeafEntries, LeafEntry, LeafView, TiedEntries};
use self::node::{INNER_LINES, LEAF_LINES, TreeNode, Words};
pub(crate) use self::node::{common_len, key_word};
pub(crate) use self::writer::TreeWriter;
use super::lines::block_error::BlockError;
use super::lines::chunked::ChunkedLines;
use super::lines::lazy::{LazyLoader, PARTIAL};
use crate::format::checkpoint::{IndexKind, IndexTable};
use crate::mem::line_array::Line;
use crate::mem::location::Location;
use crate::sync::{AtomicU64, Ordering};

/// Sets the size of the first chunk of each row: 64 KiB.
const BASE_BITS: u32 = if cfg!(loom) { 5 } else { 10 };
/// The most levels of inner nodes. With the longest separators a node has two children at least, so
/// 2^30 leaves are reached by no store.
const LEVELS_MAX: usize = 30;
/// A bit of [`TreeHead::flags`]: a change could not be made, so the tree no longer shows what the log says.
const ENDED: u64 = 8;

/// The location of the record of an entry. The flag says that the record is known to be verified since
/// this open.
pub(crate) type EntryPlace = (Location, bool);

/// A value on a cache-line pair of its own, because processors fetch lines in pairs.
#[repr(align(128))]
struct Apart<T>(T);

/// The tree that readers search.
pub(crate) struct Tree {
    head: Apart<TreeHead>,
    counters: Apart<TreeCounters>,
    leaves: ChunkedLines,
    inners: ChunkedLines,
    /// The loader of a tree from a checkpoint; `None` for other trees.
    loader: Option<Box<LazyLoader>>,
    /// The store's directory, for errors.
    path: Arc<Path>,
}

struct TreeHead {
    root: AtomicU64,
    /// Not zero while blocks of a checkpoint are missing, or once the tree has ended; see `lines::lazy`.
    flags: AtomicU64,
}

/// Counters that the writer stores at every insert.
struct TreeCounters {
    entries: AtomicU64,
    /// The numbers of leaves and of inner nodes ever used.
    leaves: AtomicU64,
    inners: AtomicU64,
    /// Bytes that a capture in progress takes beside the nodes; see `lines::capture`.
    captured: AtomicU64,
}

/// The bits of the root word: the number of a node, and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Root(u64);

impl Root {
    fn new(node: u32, level: u64) -> Self {
        Self(level << 32 | u64::from(node))
    }

    fn node(self) -> u32 {
        child_of(self.0)
    }

    fn level(self) -> u64 {
        self.0 >> 32
    }
}

/// The aim of a search.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim<'k> {
    /// The leaf that may hold the key.
    At(&'k [u8]),
    /// The leaf that may hold the greatest key below it.
    Before(&'k [u8]),
    /// The first leaf.
    First,
    /// The last leaf.
    Last,
}

impl Aim<'_> {
    /// Returns true if a scan from there goes on with greater keys.
    fn ascends(self) -> bool {
        matches!(self, Self::At(_) | Self::First)
    }

    /// Returns the slot of an inner node that leads on to the leaf.
    #[inline]
    fn slot_in<W: Words + ?Sized>(self, view: &InnerView<'_, W>) -> usize {
        match self {
            Self::At(key) => view.search(key, Side::At),
            Self::Before(key) => view.search(key, Side::Before),
            Self::First => 0,
            Self::Last => view.count - 1,
        }
    }

    /// Returns the number of entries of its leaf that are before it; `None` if a tied one must be compared.
    #[inline]
    fn count_before(self, leaf: &impl LeafEntries) -> Option<usize> {
        match self {
            Self::At(key) | Self::Before(key) => {
                Some(leaf.tied(key)).filter(Range::is_empty).map(|tied| tied.start)
            }
            Self::First => Some(0),
            Self::Last => Some(leaf.count()),
        }
    }

    /// Returns the entry of its leaf that is next to it, behind so many others.
    #[inline]
    fn next_to(self, leaf: &impl LeafEntries, before: usize) -> Option<LeafEntry> {
        let slot = if self.ascends() { Some(before) } else { before.checked_sub(1) };
        slot.filter(|slot| *slot < leaf.count()).map(|slot| leaf.entry(slot))
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Tree {
    /// Makes an empty tree for a store, and the one writer that changes it.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short.
    pub(crate) fn new(store: &Path) -> io::Result<(Arc<Self>, TreeWriter)> {
        let kind = IndexKind::Tree { root: 0, level: 0 };
        let table = IndexTable { kind, entries: 0, lines: [LEAF_LINES as u64, 0] };
        let tree = Arc::new(Self::of_table(table, Root::new(0, 0), None, store.into())?);
        let writer = TreeWriter::new(Arc::clone(&tree));
        Ok((tree, writer))
    }

    fn of_table(
        table: IndexTable,
        root: Root,
        loader: Option<Box<LazyLoader>>,
        path: Arc<Path>,
    ) -> io::Result<Self> {
        let [leaves, inners] = table.lines;
        let counters = TreeCounters {
            entries: AtomicU64::new(table.entries),
            leaves: AtomicU64::new(leaves / LEAF_LINES as u64),
            inners: AtomicU64::new(inners / INNER_LINES as u64),
            captured: AtomicU64::new(0),
        };
        let flags = if loader.is_some() { PARTIAL } else { 0 };
        let head = TreeHead { root: AtomicU64::new(root.0), flags: AtomicU64::new(flags) };
        let mut tree = Self {
            head: Apart(head),
            counters: Apart(counters),
            leaves: ChunkedLines::new(BASE_BITS),
            inners: ChunkedLines::new(BASE_BITS),
            loader,
            path,
        };
        if tree.loader.is_some() {
            tree.leaves.make_sparse(leaves)?;
            tree.inners.make_sparse(inners)?;
        } else {
            tree.leaves.ensure(0)?;
        }
        Ok(tree)
    }

    /// Returns the number of keys.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a count on its own.
        usize::try_from(self.counters.0.entries.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Returns the bytes of all nodes ever used, and of a capture in progress.
    pub(crate) fn memory_bytes(&self) -> usize {
        // Relaxed, all: as for `len`.
        let leaves = self.counters.0.leaves.load(Ordering::Relaxed) * LEAF_LINES as u64;
        let inners = self.counters.0.inners.load(Ordering::Relaxed) * INNER_LINES as u64;
        let captured = self.counters.0.captured.load(Ordering::Relaxed);
        usize::try_from((leaves + inners) * size_of::<Line>() as u64 + captured).unwrap_or(usize::MAX)
    }

    /// Ends the tree: every later search fails.
    pub(crate) fn end(&self) {
        // Relaxed: later searches see it by what ordered them later.
        self.head.0.flags.fetch_or(ENDED, Ordering::Relaxed);
    }

    /// Returns true once the tree has ended.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        // Relaxed: as in `end`.
        self.head.0.flags.load(Ordering::Relaxed) & ENDED != 0
    }

    /// Refuses a search once the tree has ended, and loads the path to the leaf of an aim.
    #[inline]
    fn check(&self, aim: Aim<'_>) -> Result<(), BlockError> {
        // Acquire: pairs with the release in `lines::lazy`; all blocks are stored.
        if self.head.0.flags.load(Ordering::Acquire) == 0 { Ok(()) } else { self.ensure_searchable(aim) }
    }

    /// Returns the location of the record of a key, or the tied entries beside its place. `compare` returns
    /// the order of the key in the record at a place and of this key.
    ///
    /// # Errors
    ///
    /// The error of `compare`, or the tree has ended.
    // Inlined, it would make the searches of hash indexes slower.
    #[inline(never)]
    pub(crate) fn look_for<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut compare: impl FnMut(EntryPlace) -> Result<cmp::Ordering, E>,
    ) -> Result<Result<Location, Beside>, E> {
        self.check(Aim::At(key))?;
        match self.tied(key) {
            TiedEntries::None => Ok(Err(Beside::NONE)),
            TiedEntries::One(entry) => {
                let is_found = compare(entry.place())?.is_eq();
                Ok(if is_found { Ok(entry.location()) } else { Err(Beside::one(entry)) })
            }
            TiedEntries::Many => self.look_among_many(key, compare),
        }
    }

    /// Looks for a key that is tied with several entries.
    #[inline(never)]
    fn look_among_many<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut compare: impl FnMut(EntryPlace) -> Result<cmp::Ordering, E>,
    ) -> Result<Result<Location, Beside>, E> {
        let (_, leaf) = self.leaf_of(key);
        let tied = leaf.tied(key);
        let found = leaf.search_among(tied.clone(), |entry| compare(entry.place()))?;
        Ok(match found {
            Ok(slot) => Ok(leaf.entry(slot).location()),
            Err(slot) => Err(Beside::at(&leaf, &tied, slot)),
        })
    }

    /// Returns the location of the record of a key; see [`Tree::look_for`].
    ///
    /// # Errors
    ///
    /// The errors of [`Tree::look_for`].
    #[cfg(test)]
    pub(crate) fn find<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut compare: impl FnMut(Location) -> Result<cmp::Ordering, E>,
    ) -> Result<Option<Location>, E> {
        Ok(self.look_for(key, |(location, _)| compare(location))?.ok())
    }

    /// Calls `visit` with the location of each record that [`Tree::look_for`] may compare.
    ///
    /// # Errors
    ///
    /// The error of `visit`, or the tree has ended.
    // See `look_for`.
    #[inline(never)]
    pub(crate) fn visit_candidates<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut visit: impl FnMut(Location) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check(Aim::At(key))?;
        match self.tied(key) {
            TiedEntries::None => Ok(()),
            TiedEntries::One(entry) => visit(entry.location()),
            TiedEntries::Many => {
                let (_, leaf) = self.leaf_of(key);
                leaf.tied(key).try_for_each(|slot| visit(leaf.entry(slot).location()))
            }
        }
    }

    /// Returns true if the entry of a key leads to a location.
    ///
    /// # Errors
    ///
    /// The tree has ended.
    pub(crate) fn leads_to(&self, key: &[u8], wanted: Location) -> Result<bool, BlockError> {
        self.check(Aim::At(key))?;
        let (_, leaf) = self.leaf_of(key);
        Ok(leaf.slot_of(key, wanted).is_some())
    }

    /// Calls `take` with the places of the records of the next few keys at the front of a range, in order: of
    /// those in `leaves` leaves at most. Returns the least key of the rest of the range, and takes the leaves that
    /// it read off their number; `None` if nothing is left of the range. `is_before` tells if the key of the
    /// record at a place is before another one.
    ///
    /// # Errors
    ///
    /// The error of `is_before`, or the tree has ended. Nothing was taken then.
    pub(crate) fn scan<E: From<BlockError>>(
        &self,
        (from, to): (&[u8], Option<&[u8]>),
        leaves: &mut usize,
        mut take: impl FnMut(EntryPlace),
        mut is_before: impl FnMut(EntryPlace, &[u8]) -> Result<bool, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        self.check(Aim::At(from))?;
        let is_within = |fence: &[u8]| to.is_none_or(|to| *fence < *to);
        let mut scan = self.scan_leaves(Aim::At(from), *leaves);
        let start = scan.leaf.count_before(from, &mut is_before)?;
        let is_last = !scan.fence().is_some_and(is_within);
        let end = match to.filter(|_| is_last) {
            Some(to) => scan.leaf.count_before(to, &mut is_before)?,
            None => scan.leaf.count(),
        };
        (start..end).for_each(|slot| take(scan.leaf.entry(slot).place()));
        if is_last {
            return Ok(None);
        }
        // The last leaf of the range is left for a search, because keys at its end may be compared.
        while scan.advance(is_within) {
            scan.leaf.entries().for_each(|entry| take(entry.place()));
        }
        *leaves = scan.left();
        Ok(scan.into_fence())
    }

    /// Calls `take` with the places of the records of the last few keys of a range, the last one first, as
    /// [`Tree::scan`] does with the first. Returns the key behind the rest of the range.
    ///
    /// # Errors
    ///
    /// The errors of [`Tree::scan`].
    pub(crate) fn scan_back<E: From<BlockError>>(
        &self,
        (from, to): (&[u8], Option<&[u8]>),
        leaves: &mut usize,
        mut take: impl FnMut(EntryPlace),
        mut is_before: impl FnMut(EntryPlace, &[u8]) -> Result<bool, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let aim = to.map_or(Aim::Last, Aim::Before);
        self.check(aim)?;
        let is_within = |fence: &[u8]| *fence > *from;
        let mut scan = self.scan_leaves(aim, *leaves);
        let end = to.map_or(Ok(scan.leaf.count()), |to| scan.leaf.count_before(to, &mut is_before))?;
        let is_last = !scan.fence().is_some_and(is_within);
        let start = if is_last { scan.leaf.count_before(from, &mut is_before)? } else { 0 };
        (start..end).rev().for_each(|slot| take(scan.leaf.entry(slot).place()));
        if is_last {
            return Ok(None);
        }
        // As in `scan`.
        while scan.advance(is_within) {
            scan.leaf.entries().rev().for_each(|entry| take(entry.place()));
        }
        *leaves = scan.left();
        Ok(scan.into_fence())
    }

    /// Returns the place of the record of the key next to an aim: the least one at or above it, or the
    /// greatest one below it. `None` if the leaf of the aim has none. `is_before` is as for [`Tree::scan`].
    ///
    /// # Errors
    ///
    /// The errors of [`Tree::scan`].
    pub(crate) fn nearest<E: From<BlockError>>(
        &self,
        aim: Aim<'_>,
        is_before: impl FnMut(EntryPlace, &[u8]) -> Result<bool, E>,
    ) -> Result<Option<EntryPlace>, E> {
        self.check(aim)?;
        // It is copied only if records must be compared.
        let mut leaf = LeafCopy::empty(0);
        let (_, untied) = self.search(aim, |node, control| {
            let here = LeafView::new(node, control);
            let before = aim.count_before(&here);
            if before.is_none() {
                leaf.load(node, control);
            }
            before.map(|before| aim.next_to(&here, before))
        });
        let entry = match (untied, aim) {
            (None, Aim::At(key) | Aim::Before(key)) => {
                let before = leaf.count_before(key, is_before)?;
                aim.next_to(&leaf, before)
            }
            (untied, _) => untied.flatten(),
        };
        Ok(entry.map(LeafEntry::place))
    }

    #[inline]
    fn leaf_node(&self, number: u32) -> TreeNode<'_> {
        TreeNode::new(self.leaves.lines(u64::from(number) * LEAF_LINES as u64, LEAF_LINES))
    }

    #[inline]
    fn inner(&self, number: u32) -> TreeNode<'_> {
        TreeNode::new(self.inners.lines(u64::from(number) * INNER_LINES as u64, INNER_LINES))
    }
}
