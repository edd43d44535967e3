//! The contents of a machine's page cache and of its platter, and the effect of each event on them.
//!
//! The model is pure data without time, locks or mapped memory: replaying a history up to any point
//! gives the model at that point. The platter is a set of possibilities; `crash` picks one.
//!
//! **Invariants.** For each page the platter holds the durable content, or one of the contents that
//! it had since, or a torn mix. A sync of a dirty page leaves one possibility. A *failed* sync
//! leaves all of them and marks the page clean, so that no later sync narrows them until the page
//! is dirtied again (measured on ext4 and xfs: the kernel does not write a lost page again).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::page::{self, SimPage};
use crate::mem::PAGE_SIZE;

/// The number of a file, independent of its names; never reused.
pub(super) type NodeId = u64;

/// Returns the inode of a file: the device, and the number on it.
pub(super) fn inode_of(node: NodeId) -> (u64, u64) {
    (1, node)
}

/// Returns the number of pages that hold `size` bytes.
pub(super) fn page_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(PAGE_SIZE as u64)).expect("simulated files fit in memory")
}

/// One page of one file.
#[derive(Debug, Clone)]
pub(super) struct PageState {
    /// The content that reads and mappings show.
    pub(super) cached: SimPage,
    /// The content on the platter if nothing was written since.
    pub(super) durable: SimPage,
    /// Other possible contents of the platter: those since, in order.
    pub(super) versions: Vec<SimPage>,
    /// True if a sync would write the page.
    pub(super) dirty: bool,
    /// True if the page has blocks.
    pub(super) reserved: bool,
}

impl PageState {
    /// Makes a page with equal content in the cache and on the platter.
    pub(super) fn clean(content: SimPage, reserved: bool) -> Self {
        Self { cached: Arc::clone(&content), durable: content, versions: Vec::new(), dirty: false, reserved }
    }

    fn store(&mut self, content: &SimPage) {
        self.cached = Arc::clone(content);
        // Writing equal bytes again re-dirties the page but adds no possibility.
        if !self.versions.last().is_some_and(|last| page::same(last, content)) {
            self.versions.push(Arc::clone(content));
        }
        self.dirty = true;
        self.reserved = true;
    }

    fn settle(&mut self) {
        self.durable = Arc::clone(&self.cached);
        self.versions.clear();
        self.dirty = false;
    }
}

/// One file.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// The size that every reader sees.
    pub(super) size: u64,
    /// The size on the platter if nothing was written since.
    pub(super) durable_size: u64,
    /// Other possible sizes on the platter.
    pub(super) sizes: Vec<u64>,
    /// The pages, at least as many as `size` needs.
    pub(super) pages: Vec<PageState>,
    /// The number of failures to write the file.
    pub(super) failures: u64,
    /// True if the last failure was reported.
    pub(super) is_told: bool,
}

impl Node {
    fn resize(&mut self, size: u64) {
        let count = page_count(size);
        if size < self.size {
            for (i, page) in self.pages.iter_mut().enumerate().skip(count.saturating_sub(1)) {
                let start = (i * PAGE_SIZE) as u64;
                let kept =
                    usize::try_from(size.saturating_sub(start)).map_or(PAGE_SIZE, |n| n.min(PAGE_SIZE));
                let content = page::cut(&page.cached, kept);
                if !page::same(&content, &page.cached) {
                    page.store(&content);
                }
            }
        }
        while self.pages.len() < count {
            self.pages.push(PageState::clean(page::zero(), false));
        }
        self.size = size;
        self.sizes.push(size);
    }

    fn sync(&mut self, range: &Range<usize>) {
        let end = range.end.min(self.pages.len());
        for page in &mut self.pages[range.start.min(end)..end] {
            if page.dirty {
                page.settle();
            }
        }
        // A sync of any range includes the metadata needed to read it back (fsync(2) on fdatasync).
        self.durable_size = self.size;
        self.sizes.clear();
    }

    /// Returns the number of failures that count as reported for a file that is opened now. A
    /// failure that was never reported is reported to the next open file, too.
    pub(super) fn told_at_open(&self) -> u64 {
        self.failures - u64::from(self.failures > 0 && !self.is_told)
    }

    /// Marks the pages of a range clean; their contents on the platter stay uncertain.
    fn lose(&mut self, range: &Range<usize>) {
        let end = range.end.min(self.pages.len());
        self.pages[range.start.min(end)..end].iter_mut().for_each(|page| page.dirty = false);
    }

    /// Returns the bytes that have blocks.
    pub(super) fn allocated(&self) -> u64 {
        (self.pages.iter().filter(|page| page.reserved).count() * PAGE_SIZE) as u64
    }
}

/// A change of the directory that is not durable yet.
#[derive(Debug, Clone)]
pub(super) enum DirChange {
    /// A new file gets a name.
    Create(Arc<str>, NodeId),
    /// A file's name is replaced by another.
    Rename(Arc<str>, Arc<str>, NodeId),
    /// A name is removed.
    Unlink(Arc<str>, NodeId),
}

/// Names and their files.
pub(super) type Names = BTreeMap<Arc<str>, NodeId>;

impl DirChange {
    /// Returns the names that the change affects.
    pub(super) fn names(&self) -> [&Arc<str>; 2] {
        match self {
            Self::Create(name, _) | Self::Unlink(name, _) => [name, name],
            Self::Rename(from, to, _) => [from, to],
        }
    }

    /// Returns the file that the change affects.
    fn node(&self) -> NodeId {
        match self {
            Self::Create(_, node) | Self::Rename(_, _, node) | Self::Unlink(_, node) => *node,
        }
    }

    /// Applies the change.
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Create(name, node) => {
                names.insert(Arc::clone(name), *node);
            }
            Self::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(Arc::clone(to), *node);
            }
            Self::Unlink(name, node) => {
                if names.get(name) == Some(node) {
                    names.remove(name);
                }
            }
        }
    }
}

/// One step of a history.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The directory was created, durably.
    MakeDir,
    /// The directory changed.
    Change(DirChange),
    /// The directory was synced.
    SyncDir,
    /// A page was observed with a new content.
    Page(NodeId, usize, SimPage),
    /// A file's size changed.
    Size(NodeId, u64),
    /// Pages got blocks.
    Reserve(NodeId, Range<usize>),
    /// Pages lost their blocks and read as zeros.
    Punch(NodeId, Range<usize>),
    /// Dirty pages of a range became durable, and the size.
    Sync(NodeId, Range<usize>),
    /// Dirty pages of a range were marked clean without becoming durable.
    SyncFailed(NodeId, Range<usize>),
    /// The kernel wrote the file's dirty pages by itself, failed, and reports it at the next sync.
    WritebackFailed(NodeId),
    /// A sync through an open file reported an earlier failure.
    Told(NodeId),
    /// A clean page was evicted from the cache and loaded again from the platter.
    Evict(NodeId, usize, SimPage),
    /// A test made the file durable as it is.
    Settle(NodeId),
    /// A bit rotted, in the cache and on the platter.
    Rot(NodeId, u64, u8),
    /// The program passed a named point.
    Point(&'static str),
}

/// The cache and the platter of one directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// True if the directory exists.
    pub(super) made: bool,
    /// Every file that has a name or may have one, and those unlinked since the start.
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// The directory that every reader sees.
    pub(super) names: Names,
    /// The directory on the platter if nothing was written since.
    pub(super) durable_names: Names,
    /// The changes between the two, in order.
    pub(super) changes: Vec<DirChange>,
}

impl Model {
    /// Applies one event.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::MakeDir => self.made = true,
            Event::Change(change) => {
                if let DirChange::Create(_, node) = change {
                    self.nodes.insert(*node, Node::default());
                }
                change.apply(&mut self.names);
                self.changes.push(change.clone());
            }
            Event::SyncDir => {
                self.durable_names.clone_from(&self.names);
                self.changes.clear();
            }
            Event::Page(node, at, content) => self.node_mut(*node).pages[*at].store(content),
            Event::Size(node, size) => self.node_mut(*node).resize(*size),
            Event::Reserve(node, range) => {
                self.node_mut(*node).pages[range.clone()].iter_mut().for_each(|page| page.reserved = true);
            }
            Event::Punch(node, range) => {
                for page in &mut self.node_mut(*node).pages[range.clone()] {
                    page.store(&page::zero());
                    page.reserved = false;
                }
            }
            Event::Sync(node, range) => self.node_mut(*node).sync(range),
            Event::SyncFailed(node, range) => {
                // The size stays dirty: the journal retries metadata, or the file system becomes
                // read-only.
                let node = self.node_mut(*node);
                node.lose(range);
                node.failures += 1;
                node.is_told = true;
            }
            Event::WritebackFailed(node) => {
                let node = self.node_mut(*node);
                node.lose(&(0..node.pages.len()));
                node.failures += 1;
                node.is_told = false;
            }
            Event::Told(node) => self.node_mut(*node).is_told = true,
            Event::Evict(node, at, content) => {
                let page = &mut self.node_mut(*node).pages[*at];
                *page = PageState::clean(Arc::clone(content), page.reserved);
            }
            Event::Settle(node) => {
                let node = self.node_mut(*node);
                node.pages.iter_mut().for_each(PageState::settle);
                node.durable_size = node.size;
                node.sizes.clear();
            }
            Event::Rot(node, offset, bit) => self.rot(*node, *offset, *bit),
            Event::Point(_) => {}
        }
    }

    fn rot(&mut self, node: NodeId, offset: u64, bit: u8) {
        let (at, within) = split(offset);
        let page = &mut self.node_mut(node).pages[at];
        let PageState { cached, durable, versions, .. } = page;
        for content in versions.iter_mut().chain([cached, durable]) {
            let mut bytes = **content;
            bytes[within] ^= 1 << (bit % 8);
            *content = Arc::new(bytes);
        }
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("events name files that were created")
    }

    /// Drops files without names, once no handles exist any more.
    pub(super) fn forget_unreachable(&mut self) {
        let Self { nodes, names, durable_names, changes, .. } = self;
        nodes.retain(|id, _| {
            names.values().chain(durable_names.values()).any(|named| named == id)
                || changes.iter().any(|change| change.node() == *id)
        });
    }

    /// Returns the file of a handle.
    pub(super) fn node(&self, node: NodeId) -> &Node {
        self.nodes.get(&node).expect("handles lead to files that were created")
    }

    /// Returns the number of names of a file.
    pub(super) fn links(&self, node: NodeId) -> u64 {
        self.names.values().filter(|&&other| other == node).count() as u64
    }

    /// Returns the bytes that have blocks, in all files that have a name.
    pub(super) fn allocated(&self) -> u64 {
        self.names.values().map(|node| self.node(*node).allocated()).sum()
    }
}

/// Returns the page that holds an offset, and the offset in it.
pub(super) fn split(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("simulated files fit in memory");
    (offset / PAGE_SIZE, offset % PAGE_SIZE)
}
