//! The simulated disk: a file system in memory that understands mapped stores and power cuts.
//!
//! A [`SimDisk`] is one directory of a pretend machine. A program runs on it as on a real one; afterwards a test asks
//! for the machine as a power cut at any moment of that run could have left it, starts the program again on each of
//! those, and checks what it promised.
//!
//! # What a power cut does
//!
//! - A page that was stored to and not synced since holds what it held at the last sync, or any content that it was
//!   seen to have since, or a torn mix of those ([`Tears`]), independently of every other page. A synced page
//!   holds what was synced.
//! - A file's size is as uncertain until the next sync of that file, whole or of a range.
//! - Changes of the directory that were not synced are lost or kept, each by itself, except that a change which was
//!   kept brings the earlier changes to its names along. The sync of a file does not make its name durable.
//! - A *failed* sync leaves its pages uncertain for ever, unless they are written again: later syncs succeed and do
//!   nothing for them, while reads show the new bytes. Linux does the same.
//!
//! # What it does not do
//!
//! It sees mapped stores only when it looks: at every operation and at every named point of mapcask's write path. A
//! content that a page had in between is covered by [`Tears::Words`] and [`Tears::Any`] only. It does not reorder what
//! one sync made durable, and it never loses what was synced: for damage there are [`SimDisk::rot_bit`] and
//! [`SimDisk::truncate`].
//!
//! Everything follows from the seed and the program; clones of a handle are the same machine.
//!
//! # A test
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
//! // At every moment, a few of the states that a power cut may leave: what was flushed is there.
//! for moment in disk.positions() {
//!     let point = disk.crash_point(moment, Tears::Any);
//!     for seed in 0..3 {
//!         let store = open(&point.cut_power(&mut Seeded::new(seed)))?;
//!         assert!(moment < promised || store.contains_key("a")?);
//!     }
//! }
//!
//! // At the end, all of them: `b` is there or not, and it is never there without `a`.
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
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::chooser::{Chooser, Exhaustive, Script, Seeded};
pub use self::crash::CrashPoint;
pub use self::fault::{Fault, Gate, Operation};
use self::machine::{Machine, Settings, SharedDisk};
use self::model::{DirChange, Event, Model, NodeId};
pub use self::page::Tears;
use crate::fs::sim::dir::SimDir;
use crate::fs::{Dir, Medium, Standing};
use crate::mem::mapping::PAGE_SIZE;

/// A moment of a machine's history: how many events lie before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(usize);

/// One directory of a pretend machine; clones are the same one.
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
    /// Makes a machine without the directory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// Makes a machine whose random numbers and boot ids follow from the seed.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self::with_model(Model::default(), Settings::new(seed))
    }

    fn with_model(model: Model, settings: Settings) -> Self {
        Self { shared: Arc::new(Mutex::new(Machine::new(model, settings))) }
    }

    /// The directory, as the store takes it.
    #[must_use]
    pub(crate) fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(SimDir::new(Arc::clone(&self.shared)))
    }

    /// Looks at the mapped pages and returns the present moment.
    #[must_use]
    pub fn position(&self) -> Position {
        let mut machine = self.shared.lock();
        machine.observe_all();
        Position(machine.position())
    }

    /// Every moment from the start of the known history to now.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        let now = self.position().0;
        (self.shared.lock().start()..=now).map(Position).collect()
    }

    /// The named points that the program passed, each with the moment right behind it.
    #[must_use]
    pub fn points(&self) -> Vec<(Position, &'static str)> {
        self.shared.lock().points().map(|(at, name)| (Position(at), name)).collect()
    }

    /// The events of the known history, one text each, for the message of a failed test.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        self.shared.lock().history().collect()
    }

    /// Forgets the history up to now, which bounds the memory of a long run. Positions before now become unknown.
    pub fn forget_history(&self) {
        let mut machine = self.shared.lock();
        machine.observe_all();
        machine.forget();
    }

    /// Prepares the states that a crash at `position` leaves.
    ///
    /// # Panics
    ///
    /// Where the position is of another machine or of a forgotten history.
    #[must_use]
    pub fn crash_point(&self, position: Position, tears: Tears) -> CrashPoint {
        let machine = self.shared.lock();
        CrashPoint::new(position, machine.model_at(position.0), tears, machine.settings.clone())
    }

    /// The machine after a power cut at `position`. For many states of one position, prepare a [`CrashPoint`] once.
    ///
    /// # Panics
    ///
    /// As for [`SimDisk::crash_point`].
    #[must_use]
    pub fn crash_at(&self, position: Position, tears: Tears, chooser: &mut dyn Chooser) -> Self {
        self.crash_point(position, tears).cut_power(chooser)
    }

    /// The machine after the death of the process now: see [`CrashPoint::kill`].
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

    /// Lets the `nth` operation of a kind (of any kind for `None`) from now on fail; the first is 1. A sticky failure
    /// goes on with every later one.
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

    /// Has the `nth` sync of a kind from now on carried out and not return, until its gate is opened; the first is 1.
    ///
    /// So a test decides what happens between the moment at which the kernel tells one thread of a lost write and the one
    /// at which that thread has told the others. The kinds are `Sync`, `SyncRange` and `SyncDir`; others are not held.
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
    ///     // The device has the bytes, and nobody knows it yet.
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

    /// Lets the kernel write the file's dirty pages on its own, and fail: reads go on showing them, and no later sync
    /// writes them.
    ///
    /// Each open file reports the failure once: to whoever syncs first through it or through a mapping made from it. So
    /// does one that is opened later, in whichever process, if nobody was told before. Linux does the same.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such file.
    pub fn fail_writeback(&self, name: &str) -> io::Result<()> {
        self.by_hand(name, |machine, node| machine.record(Event::WritebackFailed(node)))
    }

    /// Drops the file's clean pages from the cache: those that a failed sync lost show from now on what the platter
    /// holds, which `chooser` decides.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such file.
    pub fn evict(&self, name: &str, tears: Tears, chooser: &mut dyn Chooser) -> io::Result<()> {
        self.by_hand(name, |machine, node| machine.evict(node, tears, chooser))
    }

    /// Takes back all planned failures, and all limits.
    pub fn clear_faults(&self) {
        let mut machine = self.shared.lock();
        machine.plan.clear();
        machine.limits.clear();
    }

    /// How many operations failed as planned.
    #[must_use]
    pub fn faults_fired(&self) -> u64 {
        self.shared.lock().plan.fired()
    }

    /// How many operations of each kind there were.
    #[must_use]
    pub fn operations(&self) -> BTreeMap<Operation, u64> {
        self.shared.lock().plan.counts().clone()
    }

    /// The names in the directory.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.shared.lock().model.names.keys().map(|name| name.to_string()).collect()
    }

    /// A file's content, as a program would read it.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such file.
    pub fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        let machine = self.shared.lock();
        Ok(machine.content(machine.lookup(name)?))
    }

    /// Puts a file there, or replaces its content, durably; the whole directory becomes durable with it.
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

    /// Cuts a file, or grows it with zeros, behind the program's back and durably.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such file.
    pub fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.by_hand(name, |machine, node| {
            machine.record(Event::Size(node, len));
            machine.record(Event::Settle(node));
            machine.show_all(node);
        })
    }

    /// Removes a file behind the program's back and durably; the whole directory becomes durable with it.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such file.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        self.by_hand(name, |machine, node| {
            machine.record(Event::Change(DirChange::Unlink(name.into(), node)));
            machine.record(Event::SyncDir);
        })
    }

    /// Removes the directory under the program's feet: it finds its files as long as it holds them, and makes none.
    ///
    /// ```
    /// use mapcask::sim::SimDisk;
    /// use mapcask::{Error, Options};
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// disk.remove_dir();
    /// let Err(Error::Poisoned { cause }) = store.flush() else { panic!("nobody can find the files any more") };
    /// assert!(matches!(*cause, Error::DirectoryGone { .. }));
    /// assert!(store.contains_key("a")?, "reads go on");
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    pub fn remove_dir(&self) {
        self.shared.lock().standing = Standing::Removed;
    }

    /// Moves the directory away; the new machine is the empty directory that takes its place.
    #[must_use]
    pub fn replace_dir(&self) -> Self {
        let mut machine = self.shared.lock();
        machine.observe_all();
        machine.standing = Standing::Replaced;
        let position = machine.position();
        Self::with_model(Model { made: true, ..Model::default() }, machine.settings.after_kill(position))
    }

    /// Says whether directories can be locked, or files alone, as on some file systems. They can be at first.
    pub fn set_directory_locks(&self, possible: bool) {
        self.shared.lock().locks_dirs = possible;
    }

    /// Flips a bit (0 to 7) of a byte, in the cache and on the platter, whatever the platter holds.
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
    /// `NotFound` where there is no such file, `UnexpectedEof` where it is shorter.
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

    /// Sets what identifies this run of the operating system; `None` where a machine does not tell. Power cuts change
    /// it.
    pub fn set_boot_id(&self, id: Option<[u8; 16]>) {
        self.shared.lock().settings.boot_id = id;
    }

    /// Advances the clock, which stands still otherwise.
    pub fn advance_clock(&self, by: Duration) {
        self.shared.lock().settings.now += by;
    }

    /// Says that the directory lies in memory.
    pub fn set_medium_memory(&self) {
        self.shared.lock().settings.medium = Medium::Memory;
    }

    /// Says that the directory lies on a network file system of that name.
    pub fn set_medium_network(&self, name: &'static str) {
        self.shared.lock().settings.medium = Medium::Network(name);
    }
}
