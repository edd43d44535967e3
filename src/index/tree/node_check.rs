//! The nodes of a tree in a checkpoint: the order in which a search loads them, and the check of blocks
//! that are loaded.
//!
//! **Concurrency.** While the tree is partial, a search first loads the nodes on the path to its leaf,
//! and then begins at the root as always. Whatever the writer changes meanwhile, the path of the key
//! consists of nodes that were loaded, and of nodes that the writer built: a node that takes over a key
//! is one that the writer built (T1, T4). The writer builds nodes only with numbers that a node of the
//! tree had before, or behind the last; it takes those that were free in the checkpoint once all blocks
//! are loaded. A merge leaves out a neighbour that is not loaded, and a scan searches for it.
//!
//! **Damage.** A node that a search could not walk is refused like a wrong checksum: offsets behind the
//! end of the node, separators or fragments that fall. So is a link to a node of another level, to one
//! that is out of the tree, or to one that has a link already. So no search runs in a circle.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::inner::{self, InnerView, child_of};
use super::leaf::{self, LeafEntries, VERIFIED};
use super::node::{Control, INNER_LINES, LEAF_LINES};
use super::node_place::NodePlace;
use super::{Aim, ENDED, LEVELS_MAX, Root, Tree, TreeWriter};
use crate::format::checkpoint::{IndexKind, IndexTable};
use crate::index::lines::bitset::PagedBits;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::capture::BLOCK_LINES;
use crate::index::lines::chunked::ChunkedLines;
use crate::index::lines::lazy::{BlockCheck, BlockSource, LazyLoader, PARTIAL};
use crate::index::lines::{IndexLines, Row};
use crate::mem::line_array::LINE_WORDS;
use crate::mem::location::Location;
use crate::sync::{AtomicU64, Ordering, fence, spin_loop};

impl IndexLines for Tree {
    fn table(&self) -> IndexTable {
        // Relaxed, all: the caller is the writer, which stored them.
        let root = Root(self.head.0.root.load(Ordering::Relaxed));
        let leaves = self.counters.0.leaves.load(Ordering::Relaxed);
        let inners = self.counters.0.inners.load(Ordering::Relaxed);
        let level = u32::try_from(root.level()).expect("few levels");
        IndexTable {
            kind: IndexKind::Tree { root: root.node(), level },
            entries: self.counters.0.entries.load(Ordering::Relaxed),
            lines: [leaves * LEAF_LINES as u64, inners * INNER_LINES as u64],
        }
    }

    fn row(&self, row: Row) -> &ChunkedLines {
        match row {
            Row::First => &self.leaves,
            Row::Second => &self.inners,
        }
    }

    fn clear_unsaved_bits(&self, row: Row, line: u64, words: &mut [u64; LINE_WORDS]) {
        if row == Row::First {
            words.iter_mut().for_each(|word| *word &= !VERIFIED);
        }
        if line.is_multiple_of(lines_of(row)) {
            words[0] = Control::without_version(words[0]);
        }
    }

    fn captured(&self) -> &AtomicU64 {
        &self.counters.0.captured
    }

    fn loader(&self) -> Option<&LazyLoader> {
        self.loader.as_deref()
    }

    fn flags(&self) -> &AtomicU64 {
        &self.head.0.flags
    }

    fn path(&self) -> Arc<Path> {
        Arc::clone(&self.path)
    }
}

/// Returns the number of lines of a node.
pub(super) fn lines_of(row: Row) -> u64 {
    match row {
        Row::First => LEAF_LINES as u64,
        Row::Second => INNER_LINES as u64,
    }
}

/// Returns the first line of each block that a node has lines in.
pub(super) fn lines_of_blocks(row: Row, node: u32) -> impl Iterator<Item = u64> {
    let first = u64::from(node) * lines_of(row);
    (first..first + lines_of(row)).step_by(usize::try_from(BLOCK_LINES).expect("few lines"))
}

impl Tree {
    /// Makes a tree whose nodes are read from a checkpoint when they are needed. This reads
    /// two blocks at most, at every size of the tree.
    ///
    /// The table and the file's size must agree, which decoding the front has checked.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, the shape is impossible, or a block cannot be read.
    pub(crate) fn restore(table: IndexTable, source: BlockSource) -> io::Result<(Arc<Self>, TreeWriter)> {
        let shape = Self::shape_of(&table);
        let Some((root, [leaves, inners])) = shape else {
            return Err(io::Error::other("a tree has no such shape"));
        };
        let store = source.path.parent().unwrap_or(&source.path).into();
        let level = u8::try_from(root.level()).expect("few levels");
        let check = Box::new(NodeCheck::new(leaves, inners, root.node(), level));
        let loader = Box::new(LazyLoader::new(table, source, check));
        let tree = Arc::new(Self::of_table(table, root, Some(loader), store)?);
        tree.lines().load_last()?;
        let writer = TreeWriter::restore(Arc::clone(&tree), [leaves, inners]);
        Ok((tree, writer))
    }

    /// Returns the root and the numbers of leaves and of inner nodes; `None` if no tree has this shape.
    fn shape_of(table: &IndexTable) -> Option<(Root, [u64; 2])> {
        let IndexKind::Tree { root, level } = table.kind else { return None };
        let [leaves, inners] = table.lines;
        let nodes = [leaves / LEAF_LINES as u64, inners / INNER_LINES as u64];
        let fits = leaves.is_multiple_of(LEAF_LINES as u64)
            && inners.is_multiple_of(INNER_LINES as u64)
            && nodes.iter().all(|count| u32::try_from(*count).is_ok())
            && level as usize <= LEVELS_MAX
            && u64::from(root) < nodes[usize::from(level > 0)];
        fits.then_some((Root::new(root, u64::from(level)), nodes))
    }

    /// Returns the tree as rows of lines.
    pub(crate) fn lines(&self) -> &(dyn IndexLines + 'static) {
        self
    }

    /// Refuses a search of a tree that has ended, and loads the path to a leaf.
    #[cold]
    #[inline(never)]
    pub(super) fn ensure_searchable(&self, aim: Aim<'_>) -> Result<(), BlockError> {
        // Relaxed: as in `end`.
        let flags = self.head.0.flags.load(Ordering::Relaxed);
        if flags & ENDED != 0 {
            return Err(BlockError::ended(Arc::clone(&self.path)));
        }
        self.lines().check_ended()?;
        let Some(loader) = self.loader().filter(|_| flags & PARTIAL != 0) else { return Ok(()) };
        // Acquire: as in `search`.
        while !self.load_path(loader, Root(self.head.0.root.load(Ordering::Acquire)), aim)? {
            spin_loop();
        }
        Ok(())
    }

    /// Loads the path to a leaf. Returns false if something on it changed meanwhile.
    fn load_path(&self, loader: &LazyLoader, root: Root, aim: Aim<'_>) -> Result<bool, BlockError> {
        let mut place = NodePlace::Root(root);
        let (mut number, mut level) = (root.node(), root.level());
        while level > 0 {
            self.load_node(loader, Row::Second, number)?;
            let node = self.inner(number);
            let control = node.control();
            if control.level() != level || !self.is_in_force(place) {
                return Ok(false);
            }
            let view = InnerView::new(&node, control);
            let slot = aim.slot_in(&view);
            let word = view.slot(slot);
            // Acquire: as in `walk_below`.
            fence(Ordering::Acquire);
            if node.control_unordered() != control {
                return Ok(false);
            }
            place = NodePlace::Slot { node, control, slot, word };
            (number, level) = (child_of(word), level - 1);
        }
        self.load_node(loader, Row::First, number)?;
        Ok(true)
    }

    fn load_node(&self, loader: &LazyLoader, row: Row, number: u32) -> Result<(), BlockError> {
        for line in lines_of_blocks(row, number) {
            self.lines().load_block(loader, row, line / BLOCK_LINES)?;
        }
        Ok(())
    }

    /// Returns true if a node is in memory.
    pub(super) fn is_loaded(&self, row: Row, number: u32) -> bool {
        // Acquire: pairs with the release in `lines::lazy`.
        let is_partial = self.head.0.flags.load(Ordering::Acquire) & PARTIAL != 0;
        let loader = self.loader().filter(|_| is_partial);
        loader.is_none_or(|loader| {
            lines_of_blocks(row, number).all(|line| loader.is_there(row, line / BLOCK_LINES))
        })
    }

    /// True if entries may lead to unverified records: those of a tree from a checkpoint.
    #[inline]
    pub(crate) fn is_from_checkpoint(&self) -> bool {
        self.loader.is_some()
    }

    /// True if a block is not loaded, or an index that cannot be loaded has ended.
    #[inline]
    pub(crate) fn is_partial(&self) -> bool {
        // Acquire: pairs with the release in `lines::lazy`.
        self.head.0.flags.load(Ordering::Acquire) & !ENDED != 0
    }

    /// True if the record at a location was verified since this open; false if the key's entry leads
    /// elsewhere by now, or cannot be looked at.
    pub(crate) fn is_verified(&self, key: &[u8], location: Location) -> bool {
        // The key may be a rotten one, whose path nothing has loaded.
        if self.check(Aim::At(key)).is_err() {
            return false;
        }
        let (_, leaf) = self.leaf_of(key);
        leaf.slot_of(key, location).is_some_and(|slot| leaf.entry(slot).is_verified())
    }

    /// Marks the record at a location as verified.
    pub(crate) fn set_verified(&self, key: &[u8], location: Location) {
        let Ok(()) = self.check(Aim::At(key)) else { return };
        let (number, leaf) = self.leaf_of(key);
        if let Some(slot) = leaf.slot_of(key, location) {
            // If the node is another one by now, a word that is the same is of the same record.
            self.leaf_node(number).set_bits(slot + 1, leaf.entry(slot).0, VERIFIED);
        }
    }
}

/// The check of the blocks of a tree.
#[derive(Debug)]
pub(super) struct NodeCheck {
    leaves: u64,
    /// Leaves that a loaded node links to.
    linked: PagedBits,
    /// Loaded leaves that are out of the tree.
    out: PagedBits,
    /// The level of each inner node by the node that links to it; zero if none does.
    wanted: Vec<u8>,
    /// The level of each inner node that is loaded; zero if it is not.
    found: Vec<u8>,
    /// The number of loaded nodes in the tree, and that of links to nodes.
    nodes: u64,
    links: u64,
}

const NODE: &str = "node of an index";

impl NodeCheck {
    pub(super) fn new(leaves: u64, inners: u64, root: u32, level: u8) -> Self {
        let inners = usize::try_from(inners).expect("32 bits");
        let mut check = Self {
            leaves,
            linked: PagedBits::new(leaves),
            out: PagedBits::new(leaves),
            wanted: vec![0; inners],
            found: vec![0; inners],
            nodes: 0,
            links: 1,
        };
        match check.wanted.get_mut(root as usize) {
            Some(wanted) if level > 0 => *wanted = level,
            _ => check.linked.set(u64::from(root)),
        }
        check
    }

    fn note_leaves(&mut self, first: u64, words: &[u64], free: &mut Vec<u64>) -> Option<u64> {
        let (mut entries, mut nodes) = (0, 0);
        for (number, words) in (first..).zip(words.chunks(LEAF_LINES * LINE_WORDS)) {
            let control = Control::of_checkpoint(words[0])?;
            if !control.is_out() {
                entries += leaf::check(control, words)?;
                nodes += 1;
            } else if self.linked.get(number) {
                return None;
            } else {
                free.push(number);
            }
        }
        free.iter().for_each(|number| self.out.set(*number));
        self.nodes += nodes;
        Some(entries)
    }

    fn note_inner(&mut self, number: u64, words: &[u64], free: &mut Vec<u64>) -> Option<u64> {
        let control = Control::of_checkpoint(words[0])?;
        let at = usize::try_from(number).ok()?;
        let (wanted, level) = (*self.wanted.get(at)?, u8::try_from(control.level()).ok()?);
        if control.is_out() {
            free.push(number);
            self.found[at] = level;
            return (wanted == 0).then_some(0);
        }
        let mut children = inner::check(control, words)?;
        let (below, links) = (level - 1, children.len() as u64);
        let may_link = |child: u32| {
            if below == 0 {
                let child = u64::from(child);
                return child < self.leaves && !self.linked.get(child) && !self.out.get(child);
            }
            let child = child as usize;
            let found = self.found.get(child).copied();
            found.is_some_and(|found| (found == 0 || found == below) && self.wanted[child] == 0)
        };
        if (wanted != 0 && wanted != level) || !children.iter().all(|child| may_link(*child)) {
            return None;
        }
        children.sort_unstable();
        if !children.is_sorted_by(|one, next| one < next) {
            return None;
        }
        for child in children {
            if below == 0 {
                self.linked.set(u64::from(child));
            } else {
                self.wanted[child as usize] = below;
            }
        }
        self.found[at] = level;
        self.nodes += 1;
        self.links += links;
        Some(0)
    }
}

impl BlockCheck for NodeCheck {
    fn note(
        &mut self,
        row: Row,
        first: u64,
        lines: &[[u64; LINE_WORDS]],
        free: &mut Vec<u64>,
    ) -> Result<u64, &'static str> {
        let (node, words) = (first / lines_of(row), lines.as_flattened());
        let noted = match row {
            Row::First => self.note_leaves(node, words, free),
            Row::Second => self.note_inner(node, words, free),
        };
        noted.ok_or(NODE)
    }

    fn is_complete(&self) -> bool {
        self.nodes == self.links
    }
}
