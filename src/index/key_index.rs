//! The index of a keyspace: a hash index, or a tree if the keyspace is ordered. One interface for
//! readers ([`KeyIndex`]), and one for the writer ([`KeyIndexWriter`]).

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::hash::scan::Cursor;
use super::hash::{Index, IndexWriter};
use super::lines::IndexLines;
use super::lines::block_error::BlockError;
use super::lines::capture::Capture;
use super::lines::lazy::BlockSource;
use super::tree::{EntryPlace, Tree, TreeWriter};
use crate::format::KeyspaceId;
use crate::format::checkpoint::{IndexKind, IndexTable};
use crate::format::hash::Hash;
use crate::mem::gone_ranges::GoneRanges;
use crate::mem::location::Location;

/// The most leaves that a scan reads at once.
const SCANNED_LEAVES: usize = 2;

/// A key to search for. A hash index reads its hash, a tree its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SearchKey<'k> {
    pub(crate) bytes: &'k [u8],
    pub(crate) hash: Hash,
}

/// A position among the keys of an index, in the order of its scans.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScanPosition {
    /// The position of a hash; zero for a tree.
    hash: u64,
    /// The key; empty for a hash index.
    key: Box<[u8]>,
}

impl ScanPosition {
    /// The position before all keys.
    pub(crate) fn start() -> Self {
        Self { hash: 0, key: Box::default() }
    }

    /// Returns the position of a key in a tree.
    pub(crate) fn of_key(key: &[u8]) -> Self {
        Self { hash: 0, key: key.into() }
    }

    /// Returns true if it is the position before all keys.
    pub(crate) fn is_start(&self) -> bool {
        self.hash == 0 && self.key.is_empty()
    }
}

/// The index that readers search.
#[derive(Debug, Clone)]
pub(crate) enum KeyIndex {
    Hash(Arc<Index>),
    Tree(Arc<Tree>),
}

/// The index, for the one who changes it.
#[derive(Debug)]
pub(crate) enum KeyIndexWriter {
    Hash(IndexWriter),
    Tree(TreeWriter),
}

impl KeyIndex {
    /// Calls `visit` with the location of each record that a search for a key may compare.
    ///
    /// # Errors
    ///
    /// The error of `visit`, or an unreadable block of a checkpoint.
    #[inline]
    pub(crate) fn visit_candidates<E: From<BlockError>>(
        &self,
        key: SearchKey<'_>,
        mut visit: impl FnMut(Location) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Hash(index) => index.find(key.hash, |location| visit(location).map(|()| false)).map(drop),
            Self::Tree(tree) => tree.visit_candidates(key.bytes, visit),
        }
    }

    /// Returns true if the entry of a key leads to a location. It reads no record.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint.
    pub(crate) fn leads_to(&self, key: SearchKey<'_>, wanted: Location) -> Result<bool, BlockError> {
        match self {
            Self::Hash(index) => {
                let found = index.find(key.hash, |location| Ok::<_, BlockError>(location == wanted));
                Ok(found?.is_some())
            }
            Self::Tree(tree) => tree.leads_to(key.bytes, wanted),
        }
    }

    /// Prefetches the line that a search for this key loads first. For a tree it does nothing: the
    /// nodes that lead to a leaf must be loaded first; see [`KeyIndex::prefetch_many`].
    #[inline]
    pub(crate) fn prefetch(&self, key: SearchKey<'_>) {
        if let Self::Hash(index) = self {
            index.prefetch(key.hash);
        }
    }

    /// Prefetches a line, or the leaf of a tree, for one of many keys that are searched together. That
    /// costs a search of the inner nodes of a tree, and pays where the loads of several leaves overlap.
    #[inline]
    pub(crate) fn prefetch_many(&self, key: SearchKey<'_>) {
        match self {
            Self::Hash(index) => index.prefetch(key.hash),
            Self::Tree(tree) => tree.prefetch(key.bytes),
        }
    }

    /// Prefetches the line that such a search loads next, if it does not find the key in the first.
    #[inline]
    pub(crate) fn prefetch_next(&self, key: SearchKey<'_>) {
        if let Self::Hash(index) = self {
            index.prefetch_next(key.hash);
        }
    }

    /// Returns the position of a key in the order of a scan.
    pub(crate) fn position_of(&self, key: SearchKey<'_>) -> ScanPosition {
        match self {
            Self::Hash(index) => ScanPosition { hash: index.order_of(key.hash), key: Box::default() },
            Self::Tree(_) => ScanPosition::of_key(key.bytes),
        }
    }

    /// Appends the locations of the next few keys from a position on, and returns the position behind
    /// them; `None` after the last. Those of a tree ascend; see there for `is_before`.
    ///
    /// A key that is in the index throughout a scan is found exactly once. The flag says that all these
    /// records are known to be verified.
    ///
    /// # Errors
    ///
    /// Returns an error if they are in an unreadable block of a checkpoint, nothing was appended then; or
    /// the error of `is_before`.
    pub(crate) fn scan<E: From<BlockError>>(
        &self,
        from: &ScanPosition,
        out: &mut Vec<Location>,
        is_before: impl FnMut(EntryPlace, &[u8]) -> Result<bool, E>,
    ) -> Result<(Option<ScanPosition>, bool), E> {
        match self {
            Self::Hash(index) => {
                let next = index.scan(Cursor::at(from.hash), out)?;
                Ok((next.map(|next| ScanPosition { hash: next.order(), key: Box::default() }), false))
            }
            Self::Tree(tree) => {
                let mut all_verified = true;
                let take = |(location, is_verified)| {
                    out.push(location);
                    all_verified &= is_verified;
                };
                let next = tree.scan((&from.key, None), &mut { SCANNED_LEAVES }, take, is_before)?;
                Ok((next.as_deref().map(ScanPosition::of_key), all_verified))
            }
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Hash(index) => index.len(),
            Self::Tree(tree) => tree.len(),
        }
    }

    /// Returns the bytes of memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Hash(index) => index.memory_bytes(),
            Self::Tree(tree) => tree.memory_bytes(),
        }
    }

    /// Returns true if a search may fail for a part that is missing.
    #[inline]
    pub(crate) fn is_partial(&self) -> bool {
        match self {
            Self::Hash(index) => index.is_partial(),
            Self::Tree(tree) => tree.is_partial(),
        }
    }

    /// Returns true if entries may lead to records that nothing has verified since this open.
    #[inline]
    pub(crate) fn is_from_checkpoint(&self) -> bool {
        match self {
            Self::Hash(index) => index.is_from_checkpoint(),
            Self::Tree(tree) => tree.is_from_checkpoint(),
        }
    }

    /// Returns true if the record at a location was verified since this open.
    pub(crate) fn is_verified(&self, key: SearchKey<'_>, location: Location) -> bool {
        match self {
            Self::Hash(index) => index.is_verified(key.hash, location),
            Self::Tree(tree) => tree.is_verified(key.bytes, location),
        }
    }

    /// Marks the record at a location as verified.
    pub(crate) fn set_verified(&self, key: SearchKey<'_>, location: Location) {
        match self {
            Self::Hash(index) => index.set_verified(key.hash, location),
            Self::Tree(tree) => tree.set_verified(key.bytes, location),
        }
    }

    /// Returns the hash index, if it is one.
    pub(crate) fn hashed(&self) -> Option<&Arc<Index>> {
        if let Self::Hash(index) = self { Some(index) } else { None }
    }

    /// Returns true if the index does not show what the log says, because a change could not be made.
    pub(crate) fn has_ended(&self) -> bool {
        self.sorted().is_some_and(|tree| tree.has_ended())
    }

    /// Returns the tree, if it is one.
    pub(crate) fn sorted(&self) -> Option<&Arc<Tree>> {
        if let Self::Tree(tree) = self { Some(tree) } else { None }
    }

    /// Returns true if both are the same index.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Hash(one), Self::Hash(other)) => Arc::ptr_eq(one, other),
            (Self::Tree(one), Self::Tree(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Returns the index as rows of lines.
    pub(crate) fn lines(&self) -> &(dyn IndexLines + 'static) {
        match self {
            Self::Hash(index) => index.lines(),
            Self::Tree(tree) => tree.lines(),
        }
    }

    /// Returns the index as rows of lines, for a holder that keeps it.
    pub(crate) fn shared_lines(&self) -> Arc<dyn IndexLines> {
        match self {
            Self::Hash(index) => Arc::<Index>::clone(index),
            Self::Tree(tree) => Arc::<Tree>::clone(tree),
        }
    }
}

impl KeyIndexWriter {
    /// Makes an empty index for a keyspace of the store at `path`.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short.
    pub(crate) fn empty(id: KeyspaceId, path: &Path) -> io::Result<Self> {
        if id.is_ordered() {
            Tree::new(path).map(|(_, writer)| Self::Tree(writer))
        } else {
            Index::new().map(|(_, writer)| Self::Hash(writer))
        }
    }

    /// Makes an index whose lines are read from a checkpoint when they are needed.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, the shape is impossible, or a block cannot be read.
    pub(crate) fn restore(table: IndexTable, source: BlockSource) -> io::Result<Self> {
        match table.kind {
            IndexKind::Hash { .. } => Index::restore(table, source).map(|(_, writer)| Self::Hash(writer)),
            IndexKind::Tree { .. } => Tree::restore(table, source).map(|(_, writer)| Self::Tree(writer)),
        }
    }

    /// Removes every entry that leads to a segment that is gone, and returns their number. Makes the
    /// index whole first.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint, nothing was removed then; or memory is short.
    pub(crate) fn purge(&mut self, gone: &GoneRanges) -> io::Result<u64> {
        match self {
            Self::Hash(writer) => Ok(writer.purge(gone)?),
            Self::Tree(writer) => writer.purge(|location| !gone.has(location)),
        }
    }

    /// Returns the index that readers search.
    pub(crate) fn index(&self) -> KeyIndex {
        match self {
            Self::Hash(writer) => KeyIndex::Hash(Arc::clone(writer.index())),
            Self::Tree(writer) => KeyIndex::Tree(Arc::clone(writer.tree())),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Hash(writer) => writer.index().len(),
            Self::Tree(writer) => writer.tree().len(),
        }
    }

    /// Returns true if entries may lead to records that nothing has verified since this open.
    #[inline]
    pub(crate) fn is_from_checkpoint(&self) -> bool {
        match self {
            Self::Hash(writer) => writer.index().is_from_checkpoint(),
            Self::Tree(writer) => writer.tree().is_from_checkpoint(),
        }
    }

    /// Returns the writer of the tree, if it is one.
    pub(crate) fn sorted(&mut self) -> Option<&mut TreeWriter> {
        if let Self::Tree(writer) = self { Some(writer) } else { None }
    }

    /// Returns the writer of the hash index, if it is one.
    pub(crate) fn hashed(&mut self) -> Option<&mut IndexWriter> {
        if let Self::Hash(writer) = self { Some(writer) } else { None }
    }

    /// Calls `visit` with the location of each record that a search for a key may compare.
    ///
    /// # Errors
    ///
    /// The error of `visit`, or an unreadable block of a checkpoint.
    #[inline]
    pub(crate) fn visit_candidates<E: From<BlockError>>(
        &self,
        key: SearchKey<'_>,
        mut visit: impl FnMut(Location) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Hash(writer) => writer.find(key.hash, |location| visit(location).map(|()| false)).map(drop),
            Self::Tree(writer) => writer.tree().visit_candidates(key.bytes, visit),
        }
    }

    /// Makes sure that `count` inserts cannot fail. The next reservation replaces this one.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short, or the index has its greatest size.
    /// Nothing is lost.
    #[inline]
    pub(crate) fn reserve_many(&mut self, count: usize) -> io::Result<()> {
        match self {
            Self::Hash(writer) => writer.reserve_many(count),
            Self::Tree(writer) => writer.reserve(count),
        }
    }

    /// Makes sure that `count` removals cannot fail.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short.
    #[inline]
    pub(crate) fn reserve_removals(&mut self, count: usize) -> io::Result<()> {
        match self {
            Self::Hash(writer) => {
                writer.before_removals(count);
                Ok(())
            }
            Self::Tree(writer) => writer.reserve(count),
        }
    }

    /// Inserts an entry. The key must be absent, and space for the entry reserved. `key_of` returns
    /// the key in the record at a location, if it can be read; a tree asks for some. It is told if the
    /// record was verified since this open; if not, it verifies the record.
    #[inline]
    pub(crate) fn insert<'k>(
        &mut self,
        key: SearchKey<'k>,
        location: Location,
        key_of: impl FnMut(Location, bool) -> Option<&'k [u8]>,
    ) {
        match self {
            Self::Hash(writer) => writer.insert(key.hash, location),
            Self::Tree(writer) => writer.insert(key.bytes, location, key_of),
        }
    }

    /// Replaces the location of a key's record by another one, in place. Returns false if there is no
    /// such entry.
    #[inline]
    pub(crate) fn replace(&mut self, key: SearchKey<'_>, old: Location, new: Location) -> bool {
        match self {
            Self::Hash(writer) => writer.replace(key.hash, old, new),
            Self::Tree(writer) => writer.replace(key.bytes, old, new),
        }
    }

    /// Removes the entry of a key with this location. Returns false if there is none. `key_of` is as for
    /// [`KeyIndexWriter::insert`].
    #[inline]
    pub(crate) fn remove<'k>(
        &mut self,
        key: SearchKey<'_>,
        old: Location,
        key_of: impl FnMut(Location, bool) -> Option<&'k [u8]>,
    ) -> bool {
        match self {
            Self::Hash(writer) => writer.remove(key.hash, old),
            Self::Tree(writer) => writer.remove(key.bytes, old, key_of),
        }
    }

    /// Begins a capture of the index as it is now. The store's writer mutex makes this one moment for
    /// several indexes. At most `limit` pages of 4 KiB are kept for it at once; see `lines::capture`.
    ///
    /// `None` while another capture is running, or while the index is partial or has ended.
    pub(crate) fn begin_checkpoint(&mut self, limit: usize) -> Option<Capture> {
        match self {
            Self::Hash(writer) => writer.begin_checkpoint(limit),
            Self::Tree(writer) => writer.begin_checkpoint(limit),
        }
    }
}
