//! What a machine's page cache and its platter hold, and how each event changes them.
//!
//! Pure data without time, locks or mapped memory: replaying the events of a history up to any point gives the model
//! at that point. The platter is a set of possibilities; `crash` picks one.
//!
//! **Invariants.** The platter holds, for each page, the durable content, or one of the contents that it had since, or
//! a torn mix. A sync of a dirty page leaves one possibility. A *failed* sync leaves all of them and marks the page
//! clean, so that no later sync narrows them until the page is dirtied again (measured on ext4 and xfs: the kernel
//! does not write a lost page again).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::page::{self, SimPage};
use crate::mem::mapping::PAGE_SIZE;

/// Stands for a file, whatever its names are; never used again.
pub(super) type NodeId = u64;

/// Pages that hold `size` bytes.
pub(super) fn page_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(PAGE_SIZE as u64)).expect("simulated files fit in memory")
}

/// One page of one file.
#[derive(Debug, Clone)]
pub(super) struct PageState {
    /// What reads and mappings show.
    pub(super) cached: SimPage,
    /// What the platter holds if nothing was written since.
    pub(super) durable: SimPage,
    /// What the platter may hold instead: the contents since, in order.
    pub(super) versions: Vec<SimPage>,
    /// Whether a sync would write the page.
    pub(super) dirty: bool,
    /// Whether the page has blocks.
    pub(super) reserved: bool,
}

impl PageState {
    /// A page that cache and platter agree on.
    pub(super) fn clean(content: SimPage, reserved: bool) -> Self {
        Self { cached: Arc::clone(&content), durable: content, versions: Vec::new(), dirty: false, reserved }
    }

    fn store(&mut self, content: &SimPage) {
        self.cached = Arc::clone(content);
        // The same bytes written again re-dirty the page but are no new possibility.
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
    /// The size that everybody sees.
    pub(super) size: u64,
    /// The size on the platter if nothing was written since.
    pub(super) durable_size: u64,
    /// What the size on the platter may be instead.
    pub(super) sizes: Vec<u64>,
    /// At least as many as `size` needs.
    pub(super) pages: Vec<PageState>,
    /// How many failures to write the file there were.
    pub(super) failures: u64,
    /// Whether somebody was told of the last one.
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
        // A sync of any range carries the metadata needed to read it back (fsync(2) on fdatasync).
        self.durable_size = self.size;
        self.sizes.clear();
    }

    /// How many of the failures an open file counts as told when it is opened: one of which nobody was told yet is
    /// reported to whoever opens the file next, too.
    pub(super) fn told_at_open(&self) -> u64 {
        self.failures - u64::from(self.failures > 0 && !self.is_told)
    }

    /// Marks the pages of a range clean; what the platter holds of them stays open.
    fn lose(&mut self, range: &Range<usize>) {
        let end = range.end.min(self.pages.len());
        self.pages[range.start.min(end)..end].iter_mut().for_each(|page| page.dirty = false);
    }

    /// Bytes that have blocks.
    pub(super) fn allocated(&self) -> u64 {
        (self.pages.iter().filter(|page| page.reserved).count() * PAGE_SIZE) as u64
    }
}

/// A change of the directory that is not durable yet.
#[derive(Debug, Clone)]
pub(super) enum DirChange {
    /// A name for a new file.
    Create(Arc<str>, NodeId),
    /// A file's name exchanged for another.
    Rename(Arc<str>, Arc<str>, NodeId),
    /// A name taken away.
    Unlink(Arc<str>, NodeId),
}

/// Names and what they lead to.
pub(super) type Names = BTreeMap<Arc<str>, NodeId>;

impl DirChange {
    /// The names that it touches.
    pub(super) fn names(&self) -> [&Arc<str>; 2] {
        match self {
            Self::Create(name, _) | Self::Unlink(name, _) => [name, name],
            Self::Rename(from, to, _) => [from, to],
        }
    }

    /// The file that it is about.
    fn node(&self) -> NodeId {
        match self {
            Self::Create(_, node) | Self::Rename(_, _, node) | Self::Unlink(_, node) => *node,
        }
    }

    /// Carries it out.
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
    /// The directory was made, durably.
    MakeDir,
    /// The directory changed.
    Change(DirChange),
    /// The directory was synced.
    SyncDir,
    /// A page was found to have a new content.
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
    /// The kernel wrote the file's dirty pages on its own, failed, and keeps it to itself until the next sync.
    WritebackFailed(NodeId),
    /// A sync through some open file reported an earlier failure.
    Told(NodeId),
    /// A clean page left the cache and came back with what the platter held.
    Evict(NodeId, usize, SimPage),
    /// A test's hand made the file durable as it is.
    Settle(NodeId),
    /// A bit rotted, everywhere at once.
    Rot(NodeId, u64, u8),
    /// The program passed a named point.
    Point(&'static str),
}

/// Cache and platter of one directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// Whether the directory exists.
    pub(super) made: bool,
    /// Every file that a name leads to or may lead to, and those unlinked since the start.
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// The directory that everybody sees.
    pub(super) names: Names,
    /// The directory on the platter if nothing was written since.
    pub(super) durable_names: Names,
    /// The changes between the two, in order.
    pub(super) changes: Vec<DirChange>,
}

impl Model {
    /// Carries out one event.
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
                // The size stays dirty: metadata is retried by the journal, or the file system goes read-only.
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

    /// Drops files that had no name but a handle, once nobody has handles any more.
    pub(super) fn forget_unreachable(&mut self) {
        let Self { nodes, names, durable_names, changes, .. } = self;
        nodes.retain(|id, _| {
            names.values().chain(durable_names.values()).any(|named| named == id)
                || changes.iter().any(|change| change.node() == *id)
        });
    }

    /// The file behind a handle.
    pub(super) fn node(&self, node: NodeId) -> &Node {
        self.nodes.get(&node).expect("handles lead to files that were created")
    }

    /// Number of names of a file.
    pub(super) fn links(&self, node: NodeId) -> u64 {
        self.names.values().filter(|&&other| other == node).count() as u64
    }

    /// Bytes that have blocks in all files that have a name.
    pub(super) fn allocated(&self) -> u64 {
        self.names.values().map(|node| self.node(*node).allocated()).sum()
    }
}

/// The page that holds an offset, and the offset in it.
pub(super) fn split(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("simulated files fit in memory");
    (offset / PAGE_SIZE, offset % PAGE_SIZE)
}
