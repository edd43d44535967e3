//! The simulated disk: a file system in memory that models mapped stores and power cuts.
//!
//! A [`SimDisk`] is one directory of a simulated machine. A program runs on it as on a real one.
//! Afterwards a test takes the machine in the states that a power cut at any moment of that run
//! could have left. It starts the program again on each of them, and checks the program's
//! guarantees.
//!
//! # Power cuts
//!
//! - A page that was stored to and not synced since has one of three contents: that of the last
//!   sync, any content that it was observed to have since, or a torn mix of those ([`Tears`]). Each
//!   page is independent of every other. A synced page has the synced content.
//! - A file's size is equally uncertain until the next sync of that file, whole or of a range.
//! - Each unsynced change of the directory is lost or kept by itself. A change that is kept
//!   includes the earlier changes to its names. The sync of a file does not make its name durable.
//! - A *failed* sync leaves its pages uncertain for ever, unless they are written again: later
//!   syncs succeed and do nothing for them, while reads show the new bytes. Linux behaves this way.
//!
//! # Limits of the simulation
//!
//! The disk observes mapped stores only at every operation and at every named point of mapcask's
//! write path. Only [`Tears::Words`] and [`Tears::Any`] cover a content that a page had in between.
//! The disk does not reorder the data that one sync made durable, and it never loses synced data.
//! To simulate damage, use [`SimDisk::rot_bit`] and [`SimDisk::truncate`].
//!
//! All behaviour depends only on the seed and the program. Clones of a handle are the same machine.
//!
//! # Example test
//!
//! ```
//! use mapcask::sim::{Exhaustive, Seeded, SimDisk, Tears};
//! use mapcask::{Options, Store};
//!
//! // Without a thread in the background every run is the same.
//! let open = |disk: &SimDisk| Options::new().background(false).segment_bytes(4096).open_on(disk);
//! let disk = SimDisk::new();
//! let store = open(&disk)?;
//! store.insert("a", "1")?;
//! store.flush()?;
//! let promised = disk.position();
//! store.insert("b", "2")?;
//!
//! // At every moment, a few of the states that a power cut may leave: flushed writes are present.
//! for moment in disk.positions() {
//!     let point = disk.crash_point(moment, Tears::Any);
//!     for seed in 0..3 {
//!         let store = open(&point.cut_power(&mut Seeded::new(seed)))?;
//!         assert!(moment < promised || store.contains_key("a")?);
//!     }
//! }
//!
//! // At the end, all states: `b` is present or not, and never without `a`.
//! let point = disk.crash_point(disk.position(), Tears::None);
//! let (mut all, mut seen) = (Exhaustive::new(), [false; 2]);
//! loop {
//!     let store = open(&point.cut_power(&mut all))?;
//!     assert!(store.contains_key("a")?);
//!     seen[usize::from(store.contains_key("b")?)] = true;
//!     if !all.advance() {
//!         break;
//!     }
//! }
//! assert_eq!(seen, [true; 2]);
//! # Ok::<(), mapcask::Error>(())
//! ```

mod chooser;
mod crash;
mod dir;
mod fault;
mod limits;
mod machine;
mod model;
mod page;
mod processes;
mod settings;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use self::chooser::{Chooser, Exhaustive, Script, Seeded};
pub use self::crash::CrashPoint;
pub use self::fault::{Fault, Gate, Operation};
use self::machine::{Machine, SharedDisk};
use self::model::{DirChange, Event, Model, NodeId};
pub use self::page::Tears;
use self::settings::Settings;
use crate::fs::sim::dir::SimDir;
use crate::fs::{Dir, Medium, Standing};
use crate::mem::PAGE_SIZE;

/// A moment of a machine's history: the number of events before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(usize);

/// One directory of a simulated machine; clones are the same machine.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<SharedDisk>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.shared.lock();
        f.debug_struct("SimDisk")
            .field("position", &machine.position())
            .field("files", &machine.model.names)
            .finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// Makes a machine on which the directory does not exist yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// Makes a machine whose random numbers and boot ids depend on the seed.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self::with_model(Model::default(), Settings::new(seed))
    }

    fn with_model(model: Model, settings: Settings) -> Self {
        Self { shared: Arc::new(SharedDisk::new(model, settings)) }
    }

    /// Returns the directory, as the store takes it.
    #[must_use]
    pub(crate) fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(SimDir::new(Arc::clone(&self.shared)))
    }

    /// Observes the mapped pages and returns the current moment.
    #[must_use]
    pub fn position(&self) -> Position {
        let mut machine = self.shared.lock();
        machine.observe_all();
        Position(machine.position())
    }

    /// Returns every moment from the start of the known history to now.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        let now = self.position().0;
        (self.shared.lock().start()..=now).map(Position).collect()
    }

    /// Returns the named points that the program passed, each with the moment right after it.
    #[must_use]
    pub fn points(&self) -> Vec<(Position, &'static str)> {
        self.shared.lock().points().map(|(at, name)| (Position(at), name)).collect()
    }

    /// Returns the events of the known history, one text each, for the message of a failed test.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        self.shared.lock().history().collect()
    }

    /// Forgets the history up to now, which bounds the memory of a long run. Earlier positions
    /// become unknown.
    pub fn forget_history(&self) {
        let mut machine = self.shared.lock();
        machine.observe_all();
        machine.forget();
    }

    /// Prepares the states that a crash at `position` can leave.
    ///
    /// # Panics
    ///
    /// Panics if the position is of another machine or of a forgotten history.
    #[must_use]
    pub fn crash_point(&self, position: Position, tears: Tears) -> CrashPoint {
        let machine = self.shared.lock();
        CrashPoint::new(position, machine.model_at(position.0), tears, self.shared.settings(&machine))
    }

    /// Returns the machine after a power cut at `position`. For many states of one position,
    /// prepare a [`CrashPoint`] once.
    ///
    /// # Panics
    ///
    /// As for [`SimDisk::crash_point`].
    #[must_use]
    pub fn crash_at(&self, position: Position, tears: Tears, chooser: &mut dyn Chooser) -> Self {
        self.crash_point(position, tears).cut_power(chooser)
    }

    /// Returns the machine after the death of the process now: see [`CrashPoint::kill`].
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// let store = Options::new().background(false).open_on(&disk.kill())?;
    /// assert!(!store.recovery_report().clean);
    /// assert!(store.contains_key("a")?);
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    #[must_use]
    pub fn kill(&self) -> Self {
        self.crash_point(self.position(), Tears::None).kill()
    }

    /// Makes the `nth` operation of a kind fail from now on (of any kind for `None`); the first
    /// is 1. A sticky failure repeats for every later matching operation.
    ///
    /// ```
    /// use mapcask::sim::{Fault, Operation, SimDisk};
    /// use mapcask::{Error, Options};
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
    /// assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
    /// assert_eq!(disk.faults_fired(), 1);
    /// // Reads go on; writing needs a new open.
    /// assert!(store.contains_key("a")?);
    /// assert!(matches!(store.insert("b", "2"), Err(Error::Poisoned { .. })));
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn fail_nth(&self, operation: Option<Operation>, nth: u64, fault: Fault, sticky: bool) {
        self.shared.lock().plan.add(operation, nth, fault, sticky);
    }

    /// Carries out the `nth` sync of a kind from now on, but does not let it return until its gate
    /// is opened; the first is 1.
    ///
    /// So a test controls the time between two moments: when the kernel reports a lost write to one
    /// thread, and when that thread has reported it to the others. The kinds are `Sync`,
    /// `SyncRange` and `SyncDir`; other operations are not held.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::{Operation, SimDisk};
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// let gate = disk.hold_nth(Operation::SyncRange, 1);
    /// std::thread::scope(|scope| {
    ///     let flush = scope.spawn(|| store.flush());
    ///     gate.wait();
    ///     // The device has the bytes, and the store does not know it yet.
    ///     assert!(store.durable_seq() < store.last_seq());
    ///     gate.open();
    ///     flush.join().expect("no panic")
    /// })?;
    /// assert!(store.durable_seq() >= store.last_seq());
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    #[must_use]
    pub fn hold_nth(&self, operation: Operation, nth: u64) -> Gate {
        self.shared.lock().plan.hold(operation, nth)
    }

    /// Simulates a write-back of the file's dirty pages by the kernel that fails: reads still show
    /// the pages, and no later sync writes them.
    ///
    /// Each open file reports the failure once, by the first sync through it or through a mapping
    /// made from it. A file opened later, in any process, reports it too if it was not reported
    /// before. Linux behaves this way.
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file.
    pub fn fail_writeback(&self, name: &str) -> io::Result<()> {
        self.by_hand(name, |machine, node| machine.record(Event::WritebackFailed(node)))
    }

    /// Drops the file's clean pages from the cache. Pages lost by a failed sync then show the
    /// platter's content, which `chooser` decides.
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file.
    pub fn evict(&self, name: &str, tears: Tears, chooser: &mut dyn Chooser) -> io::Result<()> {
        self.by_hand(name, |machine, node| machine.evict(node, tears, chooser))
    }

    /// Removes all planned failures, and all limits.
    pub fn clear_faults(&self) {
        let mut machine = self.shared.lock();
        machine.plan.clear();
        machine.limits.clear();
    }

    /// Returns the number of operations that failed as planned.
    #[must_use]
    pub fn faults_fired(&self) -> u64 {
        self.shared.lock().plan.fired()
    }

    /// Returns the number of operations of each kind.
    #[must_use]
    pub fn operations(&self) -> BTreeMap<Operation, u64> {
        self.shared.lock().plan.counts().clone()
    }

    /// Returns the names in the directory.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.shared.lock().model.names.keys().map(|name| name.to_string()).collect()
    }

    /// Returns a file's content, as a program would read it.
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file.
    pub fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        let machine = self.shared.lock();
        Ok(machine.content(machine.lookup(name)?))
    }

    /// Creates a file or replaces its content, durably; the whole directory becomes durable with
    /// it.
    pub fn put_file(&self, name: &str, bytes: &[u8]) {
        let mut machine = self.shared.lock();
        machine.observe_all();
        if !machine.model.made {
            machine.record(Event::MakeDir);
        }
        let node = machine.lookup(name).unwrap_or_else(|_| machine.create(name));
        machine.record(Event::Size(node, bytes.len() as u64));
        for (at, piece) in bytes.chunks(PAGE_SIZE).enumerate() {
            let mut content = [0; PAGE_SIZE];
            content[..piece.len()].copy_from_slice(piece);
            machine.record(Event::Page(node, at, Arc::new(content)));
        }
        machine.record(Event::Settle(node));
        machine.record(Event::SyncDir);
        machine.show_all(node);
    }

    /// Cuts a file, or grows it with zeros, durably and without the program's knowledge.
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file.
    pub fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.by_hand(name, |machine, node| {
            machine.record(Event::Size(node, len));
            machine.record(Event::Settle(node));
            machine.show_all(node);
        })
    }

    /// Removes a file durably and without the program's knowledge; the whole directory becomes
    /// durable with it.
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        self.by_hand(name, |machine, node| {
            machine.record(Event::Change(DirChange::Unlink(name.into(), node)));
            machine.record(Event::SyncDir);
        })
    }

    /// Removes the directory while the program runs. The program can use the files that it holds
    /// open, and can create none.
    ///
    /// ```
    /// use mapcask::sim::SimDisk;
    /// use mapcask::{Error, Options};
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// disk.remove_dir();
    /// let Err(Error::Poisoned { cause }) = store.flush() else { panic!("no process can find the files any more") };
    /// assert!(matches!(*cause, Error::DirectoryGone { .. }));
    /// assert!(store.contains_key("a")?, "reads go on");
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn remove_dir(&self) {
        self.shared.lock().standing = Standing::Removed;
    }

    /// Moves the directory away, and returns a new machine: the empty directory in its place.
    #[must_use]
    pub fn replace_dir(&self) -> Self {
        let mut machine = self.shared.lock();
        machine.observe_all();
        machine.standing = Standing::Replaced;
        let position = machine.position();
        let settings = self.shared.settings(&machine).after_kill(position);
        Self::with_model(Model { made: true, ..Model::default() }, settings)
    }

    /// Sets whether directories can be locked, or only files, as on some file systems. Initially
    /// they can.
    pub fn set_directory_locks(&self, possible: bool) {
        self.shared.lock().locks_dirs = possible;
    }

    /// Flips a bit (0 to 7) of a byte, in the cache and in every possible content of the platter.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let options = Options::new().background(false).segment_bytes(4096);
    /// let store = options.clone().open_on(&disk)?;
    /// store.insert("key", "a value to be found")?;
    /// store.close()?;
    /// for name in disk.files() {
    ///     let bytes = disk.read_file(&name)?;
    ///     if let Some(at) = bytes.windows(7).position(|window| window == b"a value") {
    ///         disk.rot_bit(&name, at as u64, 0)?;
    ///     }
    /// }
    /// let error = options.open_on(&disk).unwrap_err();
    /// assert!(error.is_corruption(), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if there is no such file, and `UnexpectedEof` if it is shorter.
    pub fn rot_bit(&self, name: &str, offset: u64, bit: u8) -> io::Result<()> {
        self.by_hand(name, |machine, node| {
            if offset >= machine.model.node(node).size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            machine.record(Event::Rot(node, offset, bit));
            machine.show_all(node);
            Ok(())
        })?
    }

    fn by_hand<T>(&self, name: &str, work: impl FnOnce(&mut Machine, NodeId) -> T) -> io::Result<T> {
        let mut machine = self.shared.lock();
        machine.observe();
        let node = machine.lookup(name)?;
        machine.observe_file(node);
        Ok(work(&mut machine, node))
    }

    /// Sets the id of the current boot; `None` for a machine that does not report one. A power cut
    /// changes it.
    pub fn set_boot_id(&self, id: Option<[u8; 16]>) {
        self.shared.lock().settings.boot_id = id;
    }

    /// Sets the identity of the mount; `None` for a system that does not report one. A power cut
    /// changes it, and a test changes it in a boot to stand for a lost page cache.
    pub fn set_mount_id(&self, id: Option<u64>) {
        self.shared.lock().settings.mount_id = id;
    }

    /// Makes stores write hints, a chunk for each `bytes` of the log; `None` for no hints, as at
    /// first.
    pub fn set_hint_chunk(&self, bytes: Option<u64>) {
        self.shared.lock().settings.hint_chunk = bytes;
    }

    /// Advances the clock, which does not move otherwise.
    pub fn advance_clock(&self, by: Duration) {
        self.shared.advance(by);
    }

    /// Puts the directory on a file system in memory.
    pub fn set_medium_memory(&self) {
        self.shared.lock().settings.medium = Medium::Memory;
    }

    /// Puts the directory on a network file system of this name.
    pub fn set_medium_network(&self, name: &'static str) {
        self.shared.lock().settings.medium = Medium::Network(name);
    }
}
