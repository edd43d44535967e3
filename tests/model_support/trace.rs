//! Short histories of a store on a simulated disk, and the states that a crash at each moment may
//! leave.

use mapcask::sim::{Position, SimDisk};
use mapcask::{Durability, Snapshot, Store};

use super::write::{Expected, Step as BatchStep};
use super::{Bytes, History, State, Write, check_snapshot, content_under, image_of, open};

/// The boot id of every machine here, so that a test can pretend that the system was not rebooted.
pub(crate) const BOOT: [u8; 16] = [7; 16];

/// The keyspaces of a history. One of them is the default one, and histories create the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Universe {
    /// All steps but three write to the default keyspace. The other one is `k`.
    Plain,
    /// They write to the ordered keyspace `o`.
    Ordered,
}

impl Universe {
    /// Returns the keyspace that most steps write to.
    fn main(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Ordered => "o",
        }
    }

    /// Returns the keyspace that only a batch over both writes to.
    fn other(self) -> &'static str {
        match self {
            Self::Plain => "k",
            Self::Ordered => "",
        }
    }

    /// Returns the keyspace that histories create.
    fn named(self) -> &'static str {
        match self {
            Self::Plain => self.other(),
            Self::Ordered => self.main(),
        }
    }
}

/// One step of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Puts a new value for key `a`.
    PutA,
    /// Puts a new value for key `b`.
    PutB,
    /// Puts a value for key `c` that is too large for any segment but one of its own.
    PutLarge,
    RemoveA,
    /// Puts `a` twice, removes and puts `b`, all in one batch.
    Batch,
    /// Creates the keyspace with a name, if it does not exist.
    Create,
    /// Clears the keyspace with a name, or the default one if that does not exist.
    Clear,
    /// Drops the keyspace with a name.
    Drop,
    /// Puts a key into each of two keyspaces, on a condition that holds. Creates the one with a name
    /// first, if it does not exist.
    BatchAcross,
    Flush,
    /// Runs the worker's steps until there is no work left.
    Background,
    /// Compacts everything.
    Compact,
    /// Takes an index checkpoint.
    Image,
    /// Closes the store and opens it again.
    Reopen,
    /// Kills the process and opens the store again.
    Kill,
    /// Takes a snapshot, which is checked after every step as long as its process lives.
    Snapshot,
    /// Closes the store, removes its checkpoint if it has one, and opens it again.
    LoseImage,
    /// Closes the store, flips a bit of its checkpoint's last block, and opens it again.
    RotImage,
}

/// Every key that a history or its check uses.
pub(crate) const KEYS: [&str; 4] = ["a", "b", "c", "on"];

/// Every step.
pub(crate) const ALPHABET: [Step; 18] = [
    Step::PutA,
    Step::PutB,
    Step::PutLarge,
    Step::RemoveA,
    Step::Batch,
    Step::Create,
    Step::Clear,
    Step::Drop,
    Step::BatchAcross,
    Step::Flush,
    Step::Background,
    Step::Compact,
    Step::Image,
    Step::Reopen,
    Step::Kill,
    Step::Snapshot,
    Step::LoseImage,
    Step::RotImage,
];

impl Step {
    /// Returns the writes of this step, if it is the `depth`-th one.
    fn writes(self, universe: Universe, depth: usize, state: &State) -> Vec<Write> {
        let (main, named) = (universe.main(), universe.named());
        let value = |name: &str| format!("{name}{depth}").into_bytes();
        let item = |name: &str, step| (main.to_owned(), Bytes::from(name), step);
        let put = |name: &str, text: &str| item(name, BatchStep::Insert(Bytes(value(text))));
        let write = match self {
            Self::PutA => Write::insert(main, "a", value("a")),
            Self::PutB => Write::insert(main, "b", value("b")),
            Self::PutLarge => Write::insert(main, "c", value("large ").repeat(700)),
            Self::RemoveA => Write::remove(main, "a"),
            Self::Batch => {
                let remove = item("b", BatchStep::Remove);
                Write::Batch(
                    main.to_owned(),
                    vec![put("a", "first "), remove, put("a", "second "), put("b", "batch ")],
                )
            }
            Self::Create => Write::Create(named.to_owned()),
            Self::Clear if state.0.contains_key(named) => Write::Clear(named.to_owned()),
            Self::Clear => Write::Clear(String::new()),
            Self::Drop => Write::Drop(named.to_owned()),
            Self::BatchAcross => {
                let other = universe.other().to_owned();
                let across = (other, Bytes::from("a"), BatchStep::Insert(Bytes(value("across "))));
                let holds = item("a", BatchStep::Require(Expected::Right));
                Write::Batch(main.to_owned(), vec![holds, across, put("a", "across ")])
            }
            Self::Flush
            | Self::Background
            | Self::Compact
            | Self::Image
            | Self::Reopen
            | Self::Kill
            | Self::Snapshot
            | Self::LoseImage
            | Self::RotImage => return Vec::new(),
        };
        write.resolved(state).with_creations(state)
    }
}

/// The states that a crash may leave from a position on.
#[derive(Debug, Clone)]
struct Mark {
    from: Position,
    history: History,
    /// The writes in progress from here to the next mark.
    pending: Vec<Write>,
}

/// The last step of a history that was carried out, with all moments of that step.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) disk: SimDisk,
    /// The moments in order, each later than the end of the step before.
    pub(crate) positions: Vec<Position>,
    marks: Vec<Mark>,
}

/// A store while its history is carried out.
struct Run {
    universe: Universe,
    disk: SimDisk,
    store: Store,
    durability: Durability,
    history: History,
    marks: Vec<Mark>,
    /// The snapshots, and the contents that each must show.
    snapshots: Vec<(Snapshot, State)>,
}

impl Trace {
    /// Carries out the steps. Without any, the creation of the store counts as the step.
    pub(crate) fn of(universe: Universe, steps: &[Step], durability: Durability) -> Self {
        let disk = SimDisk::with_seed(1);
        disk.set_boot_id(Some(BOOT));
        let first = Mark { from: disk.position(), history: History::new(), pending: Vec::new() };
        let store = open(&disk, durability).unwrap();
        let mut run = Run {
            universe,
            disk,
            store,
            durability,
            history: History::new(),
            marks: vec![first],
            snapshots: Vec::new(),
        };
        let mut start = None;
        for (depth, step) in steps.iter().enumerate() {
            start = Some(run.disk.position());
            run.marks.clear();
            run.mark(step.writes(universe, depth, run.history.now()));
            let killed = *step == Step::Kill;
            run.step(*step, depth);
            if killed {
                start = None;
            }
        }
        run.mark(Vec::new());
        let positions = run.disk.positions();
        let positions = positions.into_iter().filter(|at| start.is_none_or(|start| *at > start)).collect();
        // The store is dropped after the last position, so that its close leaves no trace in it.
        Self { disk: run.disk.clone(), positions, marks: run.marks }
    }

    /// Returns the history that a crash at a moment may leave, and the number of its last states
    /// that were not acknowledged.
    pub(crate) fn history_at(&self, position: Position) -> (History, usize) {
        let mark = self.marks.iter().rfind(|mark| mark.from <= position).expect("marks precede positions");
        (mark.history.with_pending(&mark.pending), mark.pending.len())
    }
}

impl Run {
    fn mark(&mut self, pending: Vec<Write>) {
        let history = self.history.clone();
        self.marks.push(Mark { from: self.disk.position(), history, pending });
    }

    fn step(&mut self, step: Step, depth: usize) {
        match step {
            Step::Flush => {
                self.store.flush().unwrap();
                self.history.make_durable();
            }
            Step::Background => while self.store.step().unwrap() || self.store.rest_step().unwrap() {},
            Step::Compact => {
                self.store.compact().unwrap();
                self.history.make_durable();
            }
            Step::Image => {
                assert!(self.store.take_checkpoint().unwrap(), "nothing is in its way");
                self.history.make_durable();
            }
            Step::Snapshot => self.snapshots.push((self.store.snapshot(), self.history.now().clone())),
            Step::Reopen | Step::LoseImage | Step::RotImage => {
                self.store.clone().close().unwrap();
                self.history.make_durable();
                self.mark(Vec::new());
                match (step, image_of(&self.disk)) {
                    (Step::LoseImage, Some(image)) => self.disk.remove_file(&image).unwrap(),
                    (Step::RotImage, Some(image)) => {
                        let size = self.disk.read_file(&image).unwrap().len() as u64;
                        self.disk.rot_bit(&image, size - 100, 3).unwrap();
                    }
                    _ => {}
                }
                self.store = open(&self.disk, self.durability).unwrap();
                assert!(self.store.recovery_report().clean, "a store that was closed is clean");
            }
            Step::Kill => {
                self.snapshots.clear();
                self.disk = self.disk.kill();
                self.marks.clear();
                self.mark(Vec::new());
                self.store = open(&self.disk, self.durability).unwrap();
            }
            _ => {
                for write in step.writes(self.universe, depth, self.history.now()) {
                    let said = write.run(&self.store).unwrap();
                    assert_eq!(said, self.history.write(&write), "what {write:?} says");
                }
                if self.durability == Durability::Disk {
                    self.history.make_durable();
                }
            }
        }
        assert_eq!(content_under(&self.store, &KEYS), *self.history.now());
        for (snapshot, expected) in &self.snapshots {
            check_snapshot(snapshot, expected, &KEYS);
        }
    }
}
