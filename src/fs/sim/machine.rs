//! The running machine: a model, its history, and the memory that mappings of its files share.
//!
//! A store into a mapped page is no call. So at each operation and at each named point the machine
//! compares memory with the last known contents. It records changes as events *before* the event of
//! the operation itself. Mappings note the pages that they store to. A call from a test compares
//! all pages of every writable mapping, and an unmapping compares those of its file.
//!
//! **Concurrency.** All of it is behind one mutex. Engine threads store into mapped memory without
//! it. The machine reads by relaxed word loads and writes by atomic word stores, never through
//! references.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memmap2::MmapRaw;
use parking_lot::{Mutex, MutexGuard};

use super::chooser::{Chooser, Seeded};
use super::crash::Uncertain;
use super::fault::{FaultPlan, Operation};
use super::model::{DirChange, Event, Model, NodeId, page_count, split};
use super::page::{self, Tears};
use super::processes::Hook;
use super::settings::Settings;
use super::stored::{Stored, store};
use crate::error::{RanOut, Resource};
use crate::fs::Standing;
use crate::mem::PAGE_SIZE;
use crate::mem::mapping::{Backing, Mapping};

/// The memory that all mappings of one file share, while there are any.
#[derive(Debug)]
pub(super) struct SimMemory {
    raw: Arc<MmapRaw>,
    /// The machine's own view of the memory.
    window: Mapping,
    mappings: usize,
    writers: usize,
    stored: Arc<Stored>,
}

/// The backing of the machine's own window, which is never synced.
#[derive(Debug)]
struct Detached;

impl Backing for Detached {
    fn sync_range(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn populate_write(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// A held lock: on a name, and on the file that had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldLock {
    /// The number of the lock.
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) node: Option<NodeId>,
    /// The content of the lock file; `None` if the holder writes nothing.
    pub(super) note: Option<Vec<u8>>,
    /// True if others may hold it too.
    pub(super) shared: bool,
}

/// A machine, shared by its handles.
#[derive(Debug)]
pub(super) struct SharedDisk {
    machine: Mutex<Machine>,
    /// The clock, in nanoseconds. A forked child reads it, so it is not behind the mutex.
    clock: AtomicU64,
}

impl SharedDisk {
    pub(super) fn new(model: Model, settings: Settings) -> Self {
        let clock = AtomicU64::new(nanos(settings.now));
        Self { machine: Mutex::new(Machine::new(model, settings)), clock }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    /// Returns the time on the clock. Takes no lock.
    pub(super) fn now(&self) -> Duration {
        // Relaxed: the clock publishes nothing.
        Duration::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    pub(super) fn advance(&self, by: Duration) {
        // Relaxed: see `now`.
        self.clock.fetch_add(nanos(by), Ordering::Relaxed);
    }

    /// Returns the settings with the time on the clock.
    pub(super) fn settings(&self, machine: &Machine) -> Settings {
        Settings { now: self.now(), ..machine.settings.clone() }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a test stays within 500 years")
}

/// The running machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) model: Model,
    /// The model before the first event of the trace; `None` while there is no event.
    base: Option<Box<Model>>,
    trace: Vec<Event>,
    /// The position of the trace's first event; more than zero once history was forgotten.
    first: usize,
    memories: BTreeMap<NodeId, SimMemory>,
    /// Ranges of files that cannot be read.
    pub(super) unreadable: Vec<(NodeId, Range<u64>)>,
    /// The locks that are held.
    pub(super) locks: Vec<HeldLock>,
    /// The number of locks taken so far.
    pub(super) locks_taken: u64,
    /// The location of the directory, as its holders see it.
    pub(super) standing: Standing,
    /// True if directories can be locked, and not only files.
    pub(super) locks_dirs: bool,
    pub(super) plan: FaultPlan,
    /// The function that every point calls.
    pub(super) hook: Hook,
    /// The limit of each limited resource.
    pub(super) limits: BTreeMap<Resource, u64>,
    /// The number of open handles and held locks.
    pub(super) descriptors: u64,
    /// The number of bytes that were read through handles.
    pub(super) bytes_read: u64,
    pub(super) settings: Settings,
    pub(super) random: Seeded,
    next_node: NodeId,
}

impl Machine {
    pub(super) fn new(model: Model, settings: Settings) -> Self {
        let next_node = model.nodes.keys().next_back().map_or(1, |last| last + 1);
        let random = Seeded::new(settings.seed);
        Self {
            model,
            base: None,
            trace: Vec::new(),
            first: 0,
            memories: BTreeMap::new(),
            unreadable: Vec::new(),
            locks: Vec::new(),
            locks_taken: 0,
            standing: Standing::Here,
            locks_dirs: true,
            plan: FaultPlan::default(),
            hook: Hook::default(),
            limits: BTreeMap::new(),
            descriptors: 0,
            bytes_read: 0,
            settings,
            random,
            next_node,
        }
    }

    /// Returns the position of the first known event.
    pub(super) fn start(&self) -> usize {
        self.first
    }

    /// Returns the position behind the last event.
    pub(super) fn position(&self) -> usize {
        self.first + self.trace.len()
    }

    /// Returns positions and names of the points that the program passed.
    pub(super) fn points(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.trace.iter().enumerate().filter_map(|(i, event)| match event {
            Event::Point(name) => Some((self.first + i + 1, *name)),
            _ => None,
        })
    }

    /// Returns the known events, one text each.
    pub(super) fn history(&self) -> impl Iterator<Item = String> {
        self.trace.iter().map(|event| match event {
            // The content would fill the screen.
            Event::Page(node, at, _) => format!("Page({node}, {at})"),
            Event::Evict(node, at, _) => format!("Evict({node}, {at})"),
            other => format!("{other:?}"),
        })
    }

    /// Applies an event and appends it to the history.
    pub(super) fn record(&mut self, event: Event) {
        if self.base.is_none() {
            self.base = Some(Box::new(self.model.clone()));
        }
        self.model.apply(&event);
        self.trace.push(event);
    }

    /// Returns the model at a position of the history.
    pub(super) fn model_at(&self, position: usize) -> Model {
        assert!(
            position >= self.first && position <= self.position(),
            "position outside of the known history"
        );
        let Some(base) = self.base.as_deref().filter(|_| position < self.position()) else {
            return self.model.clone();
        };
        let mut model = base.clone();
        self.trace[..position - self.first].iter().for_each(|event| model.apply(event));
        model
    }

    /// Forgets the history; earlier positions are no longer known.
    pub(super) fn forget(&mut self) {
        self.first = self.position();
        self.trace.clear();
        self.base = None;
    }

    /// Records the stores that mappings noted since the last call.
    pub(super) fn observe(&mut self) {
        let mut found = Vec::new();
        for (&node, memory) in self.memories.iter().filter(|(_, memory)| memory.writers > 0) {
            found.extend(memory.stored.take().filter_map(|at| self.changed_page(node, memory, at)));
        }
        found.into_iter().for_each(|event| self.record(event));
    }

    /// Records changes of all pages of all files.
    pub(super) fn observe_all(&mut self) {
        let nodes: Vec<_> = self.memories.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.observe_file(node));
    }

    /// Records changes of all pages of one file.
    pub(super) fn observe_file(&mut self, node: NodeId) {
        let Some(memory) = self.memories.get(&node).filter(|memory| memory.writers > 0) else { return };
        let pages = 0..self.model.node(node).pages.len();
        let found: Vec<_> = pages.filter_map(|at| self.changed_page(node, memory, at)).collect();
        found.into_iter().for_each(|event| self.record(event));
    }

    /// Returns the event of a changed page; `None` if it did not change, or the file ends before
    /// it.
    fn changed_page(&self, node: NodeId, memory: &SimMemory, at: usize) -> Option<Event> {
        let state = self.model.node(node);
        let size = usize::try_from(state.size).map_or(memory.window.len(), |n| n.min(memory.window.len()));
        let known = &state.pages.get(at)?.cached;
        let len = size.checked_sub(at * PAGE_SIZE)?.min(PAGE_SIZE);
        let words = memory.window.words(at * PAGE_SIZE, len / 8);
        // Relaxed: a store that is missed now is found next time.
        let is_unchanged = words
            .iter()
            .zip(known.as_chunks::<8>().0)
            .all(|(word, known)| u64::from_le(word.load(Ordering::Relaxed)) == u64::from_le_bytes(*known));
        if is_unchanged && len.is_multiple_of(8) {
            return None;
        }
        let mut content = **known;
        memory.window.copy_out(at * PAGE_SIZE, &mut content[..len]);
        (content != **known).then(|| Event::Page(node, at, Arc::new(content)))
    }

    /// Observes the mappings, counts the operation, and fails it if the plan says so.
    pub(super) fn enter(&mut self, operation: Operation) -> io::Result<()> {
        self.observe();
        self.enter_unseen(operation)
    }

    /// Counts and fails like [`Machine::enter`], for operations that leave no event and need not
    /// observe the mappings.
    pub(super) fn enter_unseen(&mut self, operation: Operation) -> io::Result<()> {
        self.plan.meet(operation).map_or(Ok(()), |fault| Err(fault.error()))
    }

    /// Returns an error if a resource, of which `used` is in use, does not have `more` left.
    pub(super) fn check_limit(&self, resource: Resource, used: u64, more: u64) -> io::Result<()> {
        match self.limits.get(&resource) {
            Some(limit) if used + more > *limit => Err(io::Error::other(RanOut(resource))),
            _ => Ok(()),
        }
    }

    /// Returns an error if no further file can be opened.
    pub(super) fn check_descriptors(&self) -> io::Result<()> {
        self.check_limit(Resource::Descriptors, self.descriptors, 1)
    }

    /// Evicts clean pages from the cache and loads the platter's contents, which decides them.
    pub(super) fn evict(&mut self, node: NodeId, tears: Tears, chooser: &mut dyn Chooser) {
        let pages = self.model.node(node).pages.iter().enumerate().filter(|(_, page)| !page.dirty);
        let lost: Vec<_> =
            pages.filter_map(|(at, page)| Some((at, Uncertain::of(at, page, tears)?))).collect();
        for (at, uncertain) in lost {
            let content = uncertain.choose(tears, chooser);
            self.record(Event::Evict(node, at, content));
            self.show_page(node, at);
        }
    }

    /// Returns the file of a name.
    pub(super) fn lookup(&self, name: &str) -> io::Result<NodeId> {
        self.model.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns an error if the directory does not exist or was removed.
    pub(super) fn check_dir(&self) -> io::Result<()> {
        let is_there = self.model.made && self.standing != Standing::Removed;
        if is_there { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Returns a file's content, as a program would read it.
    pub(super) fn content(&self, node: NodeId) -> Vec<u8> {
        let size = usize::try_from(self.model.node(node).size).expect("simulated files fit in memory");
        let mut content = vec![0; size];
        self.read(node, 0, &mut content);
        content
    }

    /// Replaces the content of a file by a note.
    pub(super) fn write_note(&mut self, node: NodeId, note: &[u8]) -> io::Result<()> {
        self.record(Event::Size(node, 0));
        self.write(node, 0, note)
    }

    /// Creates a file under a name.
    pub(super) fn create(&mut self, name: &str) -> NodeId {
        let node = self.next_node;
        self.next_node += 1;
        self.record(Event::Change(DirChange::Create(name.into(), node)));
        node
    }

    /// Reads the cached content, up to the file's end.
    pub(super) fn read(&self, node: NodeId, offset: u64, buffer: &mut [u8]) -> usize {
        let state = self.model.node(node);
        let left = usize::try_from(state.size.saturating_sub(offset)).expect("simulated files fit in memory");
        let len = left.min(buffer.len());
        // Reads are frequent and leave no event, so they use the shared memory and do not search
        // for changes.
        let memory = self.memories.get(&node);
        let (mut at, mut within) = split(offset);
        let mut done = 0;
        while done < len {
            let n = (PAGE_SIZE - within).min(len - done);
            let (target, start) = (&mut buffer[done..done + n], at * PAGE_SIZE + within);
            match memory.filter(|memory| start + n <= memory.window.len()) {
                Some(memory) => memory.window.copy_out(start, target),
                None => target.copy_from_slice(&state.pages[at].cached[within..within + n]),
            }
            (at, within, done) = (at + 1, 0, done + n);
        }
        len
    }

    /// Returns the offset of the first page at or behind `offset` that holds a byte other than zero, or
    /// `offset` if it lies in that page. `u64::MAX` if there is none.
    pub(super) fn data_from(&self, node: NodeId, offset: u64) -> u64 {
        let mut page = [0; PAGE_SIZE];
        let mut at = offset;
        loop {
            let end = (at / PAGE_SIZE as u64 + 1) * PAGE_SIZE as u64;
            let len = usize::try_from(end - at).expect("at most a page");
            match self.read(node, at, &mut page[..len]) {
                0 => return u64::MAX,
                read if page[..read].iter().any(|byte| *byte != 0) => return at,
                _ => at = end,
            }
        }
    }

    /// Writes through the cache and grows the file if necessary; mappings show the bytes too.
    pub(super) fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.check_limit(Resource::FileSize, end, 0)?;
        let (mut at, mut within) = split(offset);
        self.check_space(node, at..page_count(end))?;
        if end > self.model.node(node).size {
            self.record(Event::Size(node, end));
        }
        let mut done = 0;
        while done < bytes.len() {
            let n = (PAGE_SIZE - within).min(bytes.len() - done);
            let piece = &bytes[done..done + n];
            let mut content = *self.model.node(node).pages[at].cached;
            content[within..within + n].copy_from_slice(piece);
            self.show(node, at * PAGE_SIZE + within, piece);
            self.record(Event::Page(node, at, Arc::new(content)));
            (at, within, done) = (at + 1, 0, done + n);
        }
        Ok(())
    }

    /// Returns an error if the disk has no space for the blocks that the pages lack.
    pub(super) fn check_space(&self, node: NodeId, pages: Range<usize>) -> io::Result<()> {
        let Some(capacity) = self.settings.capacity.into_iter().chain(self.settings.quota).min() else {
            return Ok(());
        };
        let state = self.model.node(node);
        let missing = pages.filter(|&at| !state.pages.get(at).is_some_and(|page| page.reserved)).count();
        if missing > 0 && self.model.allocated() + (missing * PAGE_SIZE) as u64 > capacity {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"));
        }
        Ok(())
    }

    /// Zeros a range of a file and frees the blocks of its whole pages.
    pub(super) fn punch(&mut self, node: NodeId, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.model.node(node).size);
        let (first, behind) = (offset.next_multiple_of(PAGE_SIZE as u64), end - end % PAGE_SIZE as u64);
        let edges = if first < behind { [offset..first, behind..end] } else { [offset..end, end..end] };
        for edge in edges.into_iter().filter(|edge| edge.start < edge.end) {
            let len = usize::try_from(edge.end - edge.start).expect("simulated files fit in memory");
            self.write(node, edge.start, &vec![0; len])?;
        }
        if first < behind {
            let pages = split(first).0..split(behind).0;
            self.record(Event::Punch(node, pages.clone()));
            pages.for_each(|at| self.show_page(node, at));
        }
        Ok(())
    }

    /// Updates the mapped memory of a file after a test changed the cache.
    pub(super) fn show_all(&self, node: NodeId) {
        (0..self.model.node(node).pages.len()).for_each(|at| self.show_page(node, at));
    }

    fn show_page(&self, node: NodeId, at: usize) {
        self.show(node, at * PAGE_SIZE, &self.model.node(node).pages[at].cached[..]);
    }

    /// Stores bytes into the mapped memory of a file, up to its end.
    fn show(&self, node: NodeId, offset: usize, bytes: &[u8]) {
        if let Some(memory) = self.memories.get(&node) {
            let len = memory.window.len().saturating_sub(offset).min(bytes.len());
            store(&memory.window, offset, &bytes[..len]);
        }
    }

    /// Adds a mapping of a file's first `len` bytes.
    pub(super) fn map(
        &mut self,
        node: NodeId,
        len: usize,
        writable: bool,
    ) -> io::Result<(Arc<MmapRaw>, Arc<Stored>)> {
        if self.model.node(node).size < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mappings: usize = self.memories.values().map(|memory| memory.mappings).sum();
        self.check_limit(Resource::Mappings, mappings as u64, 1)?;
        // Words are loaded whole, so the memory ends at the end of one.
        let len = len.next_multiple_of(8);
        if !self.memories.contains_key(&node) {
            let raw = Mapping::anonymous_memory(len)?;
            let window = Mapping::simulated(Arc::clone(&raw), true, Arc::new(Detached));
            for (at, state) in self.model.node(node).pages.iter().enumerate().take(len.div_ceil(PAGE_SIZE)) {
                // Fresh memory is zero already.
                if !Arc::ptr_eq(&state.cached, &page::zero()) {
                    let end = (len - at * PAGE_SIZE).min(PAGE_SIZE);
                    store(&window, at * PAGE_SIZE, &state.cached[..end]);
                }
            }
            let stored = Arc::new(Stored::new(len));
            self.memories.insert(node, SimMemory { raw, window, mappings: 0, writers: 0, stored });
        }
        let memory = self.memories.get_mut(&node).expect("inserted above");
        if memory.window.len() != len {
            let text = "a simulated file has one length in all of its mappings";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        memory.mappings += 1;
        memory.writers += usize::from(writable);
        Ok((Arc::clone(&memory.raw), Arc::clone(&memory.stored)))
    }

    /// Removes a mapping; bytes stored through it stay in the cache.
    pub(super) fn unmap(&mut self, node: NodeId, writable: bool) {
        self.observe_file(node);
        if let Some(memory) = self.memories.get_mut(&node) {
            memory.mappings -= 1;
            memory.writers -= usize::from(writable);
            if memory.mappings == 0 {
                self.memories.remove(&node);
            }
        }
    }
}
