//! A store on its simulated disk beside the history of its allowed contents. Each step is taken on
//! both and compared.

use std::time::Duration;

use mapcask::sim::{Position, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Keyspace, Seq, Snapshot, Stats, Store, TryGet, WriteBatch};

use super::{
    Bytes, History, Outcome, State, Write, check_snapshot, check_stats, content, content_under, handle,
    image_of, open,
};

/// The greatest number of kept handles.
const HELD_MAX: usize = 8;
/// The greatest number of kept snapshots.
const SNAPSHOTS_MAX: usize = 4;

/// A kept handle. Its keyspace may be cleared, renamed, dropped, or created again under its name.
#[derive(Debug)]
struct Held {
    keyspace: Keyspace,
    /// The keyspace's present or last name.
    name: String,
    dropped: bool,
}

/// A change to a checkpoint between two runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spoil {
    Remove,
    /// An older checkpoint of the same store replaces it.
    Old,
    /// It is cut to this length, modulo its size.
    Cut(usize),
    /// A bit of this byte, modulo its size, is flipped.
    Flip(usize),
}

/// Bytes of the log that a chunk of hints describes: a few records.
const HINT_CHUNK: u64 = 1024;

/// A store on its disk, and its allowed contents.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    /// The open store, `None` only while it is being reopened.
    store: Option<Store>,
    durability: Durability,
    /// Every key that is ever used.
    keys: Vec<Bytes>,
    history: History,
    held: Vec<Held>,
    /// The kept snapshots, and the contents that each must show.
    snapshots: Vec<(Snapshot, State)>,
    /// A counter that chooses between kept handles and new ones.
    turn: usize,
    /// The boot of the operating system.
    boot: u64,
    /// The greatest number that the store reported, and the greatest that any store here ever gave
    /// out.
    last: Seq,
    durable: Seq,
    given_out: Seq,
    /// An earlier checkpoint.
    old_image: Option<Vec<u8>>,
}

fn boot_id(run: u64) -> Option<[u8; 16]> {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&run.to_le_bytes());
    Some(id)
}

impl Machine {
    pub(crate) fn new(durability: Durability, keys: Vec<Bytes>) -> Self {
        let disk = SimDisk::new();
        disk.set_boot_id(boot_id(0));
        disk.set_hint_chunk(Some(HINT_CHUNK));
        let store = Some(open(&disk, durability).unwrap());
        Self {
            disk,
            store,
            durability,
            keys,
            history: History::new(),
            held: Vec::new(),
            snapshots: Vec::new(),
            turn: 0,
            boot: 0,
            last: Seq::ZERO,
            durable: Seq::ZERO,
            given_out: Seq::ZERO,
            old_image: None,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between transitions")
    }

    // ---- Writing --------------------------------------------------------------------------------

    /// Performs a write, and first creates the keyspaces that it needs. The write uses `level` in
    /// addition to the store's durability.
    pub(crate) fn write(&mut self, write: &Write, level: Durability) {
        for write in self.resolved(write) {
            self.write_one(&write, level);
        }
    }

    /// Returns the write as it is performed now, and the creations before it.
    fn resolved(&self, write: &Write) -> Vec<Write> {
        let now = self.history.now();
        write.clone().resolved(now).with_creations(now)
    }

    fn write_one(&mut self, write: &Write, level: Durability) {
        let (said, told) = self.run(write, level);
        let predicted = self.history.write(write);
        assert_eq!(said, predicted, "what {write:?} says");
        let last = self.store().last_seq();
        self.history.tell_seq(last);
        if let Some(told) = told {
            assert_eq!(told, last, "the number of {write:?} is that of the last write");
        }
        if last > self.last {
            assert!(last > self.given_out, "{last:?} was given out before");
        }
        // Opening an existing keyspace is not a write.
        let is_found = matches!(write, Write::Create(_)) && last == self.last;
        self.given_out = self.given_out.max(last);
        self.last = last;
        if self.durability.max(level) == Durability::Disk && said.settles() && !is_found {
            self.make_durable();
        }
        self.follow(write, &said);
        for (keyspace, key) in write.keys() {
            self.read(keyspace, key);
        }
        self.check_shape();
    }

    fn run(&mut self, write: &Write, level: Durability) -> (Outcome, Option<Seq>) {
        self.turn += 1;
        let store = self.store().with_durability(level);
        let of = |name: &str| {
            let held = self.held.iter().find(|held| !held.dropped && held.name == name);
            match held.filter(|_| self.turn.is_multiple_of(2)) {
                Some(held) => Ok(held.keyspace.with_durability(level)),
                None => handle(&store, name),
            }
        };
        write.run_by(&store, &of).unwrap_or_else(|error| panic!("{write:?}: {error} ({error:?})"))
    }

    /// Applies a write to the kept handles.
    fn follow(&mut self, write: &Write, said: &Outcome) {
        match (write, said) {
            (Write::Rename(from, to), Outcome::Done) => {
                let mut held = self.held.iter_mut().filter(|held| !held.dropped);
                held.by_ref().filter(|held| held.name == *from).for_each(|held| held.name.clone_from(to));
            }
            (Write::Drop(name), Outcome::Said(true)) => {
                let held = self.held.iter_mut().filter(|held| !held.dropped && held.name == *name);
                held.for_each(|held| held.dropped = true);
            }
            _ => {}
        }
    }

    fn make_durable(&mut self) {
        self.history.make_durable();
        self.history.forget();
    }

    pub(crate) fn flush(&mut self) {
        self.store().flush().unwrap();
        assert!(self.store().durable_seq() >= self.store().last_seq(), "a flush covers the last write");
        self.make_durable();
    }

    /// Takes a snapshot of the present contents.
    pub(crate) fn take_snapshot(&mut self) {
        self.snapshots.truncate(SNAPSHOTS_MAX - 1);
        let snapshot = self.store().snapshot();
        assert_eq!(snapshot.age(), Duration::ZERO);
        self.snapshots.insert(0, (snapshot, self.history.now().clone()));
    }

    pub(crate) fn drop_snapshot(&mut self, choose: impl Fn(usize) -> usize) {
        if !self.snapshots.is_empty() {
            self.snapshots.remove(choose(self.snapshots.len()));
        }
        assert_eq!(self.store().stats().snapshots, self.snapshots.len());
    }

    /// Checks that every snapshot still shows the contents at its moment.
    fn check_snapshots(&self) {
        for (snapshot, expected) in &self.snapshots {
            check_snapshot(snapshot, expected, &self.keys);
        }
    }

    /// Compacts everything, or cancels after some steps.
    pub(crate) fn compact(&mut self, steps: Option<u8>) {
        let mut left = steps;
        let report = self.store().compact_with(|progress| {
            assert!(progress.bytes_moved <= progress.bytes_read, "{progress:?}");
            left = left.map(|left| left.saturating_sub(1));
            left != Some(0)
        });
        let report = report.unwrap();
        self.make_durable();
        self.check_all();
        if steps.is_none() {
            let stats = self.store().stats();
            assert_eq!(stats.compaction.retained_tombstone_bytes, 0, "{report:?}");
            let again = self.store().compact().unwrap();
            assert_eq!(again.passes, 0, "after {report:?}: {again:?}");
        }
    }

    /// Cuts the power within some work that changes no contents, such as a compaction or a
    /// checkpoint.
    pub(crate) fn cut_within_work(
        &mut self,
        work: impl Fn(&Store),
        choose: impl Fn(&[Position]) -> Position,
        seed: u64,
        same_boot: bool,
    ) {
        self.disk.forget_history();
        let allowed = self.history.clone();
        work(self.store());
        let last = self.store().last_seq();
        self.cut(choose(&self.disk.positions()), (&allowed, last), seed, same_boot);
    }

    /// Takes a checkpoint, which makes its contents durable.
    pub(crate) fn take_checkpoint(&mut self) {
        let last = self.store().last_seq();
        if self.store().take_checkpoint().unwrap() {
            assert!(self.store().durable_seq() >= last);
            self.make_durable();
            let image = image_of(&self.disk).expect("it was just made");
            self.old_image.get_or_insert_with(|| self.disk.read_file(&image).unwrap());
        }
        self.check_shape();
    }

    /// Ends the store, changes its checkpoint, and opens it again.
    pub(crate) fn spoil(&mut self, how: Spoil, killed: bool) {
        self.held.clear();
        if !killed {
            self.flush();
        }
        let stats = self.store().stats();
        if killed {
            self.disk = self.disk.kill();
        } else {
            self.store.take().expect("it is open between transitions").close().unwrap();
        }
        if let Some(image) = image_of(&self.disk) {
            let size = self.disk.read_file(&image).unwrap().len();
            match how {
                Spoil::Remove => self.disk.remove_file(&image).unwrap(),
                Spoil::Old => {
                    if let Some(old) = &self.old_image {
                        self.disk.put_file(&image, old);
                    }
                }
                Spoil::Cut(len) => self.disk.truncate(&image, (len % size) as u64).unwrap(),
                Spoil::Flip(at) => {
                    let bit = u8::try_from(at % 8).expect("less than 8");
                    self.disk.rot_bit(&image, (at % size) as u64, bit).unwrap();
                }
            }
        }
        self.start(self.disk.clone());
        let found = self.look();
        if killed {
            self.history =
                self.history.check_kill(&found, 0).unwrap_or_else(|complaint| panic!("{complaint}"));
        } else {
            self.check_found(&found);
            check_reopened(&stats, &self.store().stats());
        }
    }

    /// Waits for an earlier write, whose number `choose` takes from the known ones.
    pub(crate) fn wait_durable(&mut self, choose: impl Fn(&[Seq]) -> Seq) {
        let unknown = Seq(self.store().last_seq().max(self.store().durable_seq()).0 + 1);
        assert!(matches!(self.store().wait_durable(unknown), Err(Error::UnknownSeq { .. })));
        let seqs = self.history.seqs();
        if seqs.is_empty() {
            return;
        }
        let seq = choose(&seqs);
        self.store().wait_durable(seq).unwrap();
        assert!(self.store().durable_seq() >= seq);
        self.history.make_durable_up_to(seq);
    }

    /// Keeps a handle, if the keyspace exists.
    pub(crate) fn hold(&mut self, name: &str) {
        if self.history.now().0.contains_key(name) {
            let keyspace = self.store().keyspace(name).unwrap();
            self.held.truncate(HELD_MAX - 1);
            self.held.insert(0, Held { keyspace, name: name.to_owned(), dropped: false });
        }
    }

    // ---- Reading --------------------------------------------------------------------------------

    /// Reads one key in all ways, from the named keyspace or, if it does not exist, the default
    /// one.
    pub(crate) fn read(&self, name: &str, key: &[u8]) {
        let name = if self.history.now().0.contains_key(name) { name } else { "" };
        let expected = self.history.now().get(name, key).map(|value| &**value);
        let keyspace = self.store().keyspace(name).unwrap();
        assert_eq!(keyspace.get(key).unwrap().as_deref(), expected);
        assert_eq!(keyspace.view().get(key).unwrap(), expected);
        assert_eq!(keyspace.contains_key(key).unwrap(), expected.is_some());
        let mut copy = b"is cleared".to_vec();
        assert_eq!(keyspace.get_into(key, &mut copy).unwrap(), expected.is_some());
        assert_eq!(copy, expected.unwrap_or_default());
        match keyspace.try_get(key).unwrap() {
            TryGet::Ready(value) => assert_eq!(value.as_deref(), expected),
            // The simulated disk decides which pages are in memory.
            TryGet::NotResident => {}
        }
    }

    /// Reads many keys of a keyspace at once. A second call appends to the same vector.
    pub(crate) fn read_many(&self, name: &str, keys: &[Bytes]) {
        let name = if self.history.now().0.contains_key(name) { name } else { "" };
        let keyspace = self.store().keyspace(name).unwrap();
        let mut values = keyspace.multi_get(keys).unwrap();
        keyspace.get_many_into(&keys[..keys.len() / 2], &mut values).unwrap();
        let expected = keys.iter().chain(&keys[..keys.len() / 2]);
        let expected: Vec<_> = expected.map(|key| self.history.now().get(name, key).cloned()).collect();
        let found: Vec<_> = values.iter().map(|value| value.as_ref().map(Bytes::from)).collect();
        assert_eq!(found, expected, "{keys:?} of {name:?}");
    }

    /// Checks names, lengths and the kept handles.
    fn check_shape(&self) {
        let now = self.history.now();
        assert_eq!(self.store().keyspace_names(), now.names());
        for (name, map) in &now.0 {
            assert_eq!(self.store().keyspace(name).unwrap().len(), map.len(), "the length of {name:?}");
        }
        for held in &self.held {
            assert_eq!(held.keyspace.name(), held.name);
            if held.dropped {
                check_dropped(self.store(), &held.keyspace);
            } else {
                assert_eq!(held.keyspace.len(), now.0[&held.name].len(), "a handle to {:?}", held.name);
            }
        }
    }

    /// Checks everything, by every means.
    pub(crate) fn check_all(&self) {
        self.check_found(&content(self.store()));
    }

    fn check_found(&self, found: &State) {
        assert!(found == self.history.now(), "found    {found:?}\nexpected {:?}", self.history.now());
        self.check_shape();
        self.check_snapshots();
    }

    /// Checks the promises about sequence numbers, after every transition.
    pub(crate) fn check_seqs(&mut self) {
        let (last, durable) = (self.store().last_seq(), self.store().durable_seq());
        assert!(last >= self.last && durable >= self.durable, "numbers only grow: {last:?}, {durable:?}");
        (self.last, self.durable) = (last, durable);
        self.history.make_durable_up_to(durable);
    }

    // ---- Ends -----------------------------------------------------------------------------------

    /// Starts another process on a disk, after the earlier one has ended.
    fn start(&mut self, disk: SimDisk) {
        self.held.clear();
        self.snapshots.clear();
        self.disk = disk;
        let store = open(&self.disk, self.durability).unwrap();
        (self.last, self.durable) = (Seq::ZERO, Seq::ZERO);
        self.store = Some(store);
    }

    /// Returns the contents of a store that was just opened. One time in three they are read by
    /// iteration and verification, which visit all of every index, even of an empty one.
    fn look(&mut self) -> State {
        self.turn += 1;
        if self.turn.is_multiple_of(3) {
            self.store().verify().unwrap();
            return content(self.store());
        }
        let found = content_under(self.store(), &self.keys);
        check_stats(self.store(), &found);
        found
    }

    pub(crate) fn close(&mut self, by_drop: bool) {
        let stale = self.held.pop().filter(|_| !by_drop).map(|held| held.keyspace);
        self.held.clear();
        self.flush();
        let before = self.store().stats();
        let store = self.store.take().expect("it is open between transitions");
        if by_drop {
            drop(store)
        } else {
            store.close().unwrap()
        }
        self.check_snapshots();
        self.start(self.disk.clone());
        assert!(self.store().recovery_report().clean);
        let found = self.look();
        self.check_found(&found);
        check_reopened(&before, &self.store().stats());
        if let Some(stale) = stale {
            check_stale(self.store(), &stale);
        }
    }

    pub(crate) fn kill(&mut self) {
        self.start(self.disk.kill());
        let found = self.look();
        self.history = self.history.check_kill(&found, 0).unwrap_or_else(|complaint| panic!("{complaint}"));
    }

    /// Cuts the power now.
    pub(crate) fn cut_now(&mut self, seed: u64, same_boot: bool) {
        let last = self.store().last_seq();
        self.cut(self.disk.position(), (&self.history.clone(), last), seed, same_boot);
    }

    /// Cuts the power at a moment. `allowed` holds the states that may be found, and no number up
    /// to `last` may be given out again.
    fn cut(&mut self, at: Position, (allowed, last): (&History, Seq), seed: u64, same_boot: bool) {
        let incarnation = |machine: &Self| machine.store().recovery_report().incarnation;
        let before = incarnation(self);
        let disk = self.disk.crash_at(at, Tears::Any, &mut Seeded::new(seed));
        self.boot += u64::from(!same_boot);
        disk.set_boot_id(boot_id(self.boot));
        self.start(disk);
        // Until an incarnation has begun to write, the disk does not know it, and its numbers are not
        // given out.
        if incarnation(self) > before {
            self.given_out = self.given_out.max(last);
        }
        let found = self.look();
        self.history = allowed.check_cut(&found).unwrap_or_else(|complaint| panic!("{complaint}"));
        self.history.tell_seq(self.store().last_seq());
    }

    /// Cuts the power within a write, the writes that it needs first, or a following flush.
    pub(crate) fn cut_within(
        &mut self,
        write: &Write,
        flush: bool,
        choose: impl Fn(&[Position]) -> Position,
        seed: u64,
        same_boot: bool,
    ) {
        self.disk.forget_history();
        let writes = self.resolved(write);
        let allowed = self.history.with_pending(&writes);
        for write in &writes {
            self.run(write, Durability::Os);
        }
        let last = self.store().last_seq();
        if flush {
            self.store().flush().unwrap();
        }
        let positions = self.disk.positions();
        // The last position follows the acknowledgement, which `cut_now` covers.
        let positions = &positions[..(positions.len() - 1).max(1)];
        self.cut(choose(positions), (&allowed, last), seed, same_boot);
    }
}

/// Checks that every call on a handle to a dropped keyspace reports the drop and changes nothing.
fn check_dropped(store: &Store, keyspace: &Keyspace) {
    let before = store.last_seq();
    let mut batch = WriteBatch::new();
    batch.insert("never", "written");
    batch.on(keyspace).insert("never", "written");
    let answers = [
        keyspace.get("never").map(drop),
        keyspace.try_get("never").map(drop),
        keyspace.multi_get(&["never"]).map(drop),
        keyspace.insert("never", "written").map(drop),
        keyspace.remove("never").map(drop),
        keyspace.update_and_fetch("never", |_| Some("written")).map(drop),
        keyspace.clear().map(drop),
        keyspace.keyspace_stats().map(drop),
        store.write(batch).map(drop),
    ];
    for answer in answers {
        assert!(matches!(answer, Err(Error::KeyspaceDropped { .. })), "{answer:?}");
    }
    assert_eq!((keyspace.len(), store.last_seq()), (0, before));
}

/// Checks that a handle from before a close is closed, and is refused in a batch of the present
/// store.
fn check_stale(store: &Store, stale: &Keyspace) {
    assert!(matches!(stale.get("key"), Err(Error::Closed)));
    let mut batch = WriteBatch::new();
    batch.insert("never", "written");
    batch.on(stale).insert("never", "written");
    assert!(matches!(store.write(batch), Err(Error::ForeignKeyspace { .. })));
}

/// Checks the statistics that a clean close and an open must preserve.
fn check_reopened(before: &Stats, after: &Stats) {
    let kept = |stats: &Stats| (stats.keyspaces, stats.keys, stats.live_bytes);
    assert_eq!(kept(after), kept(before), "keyspaces, keys and live bytes");
    if before.compaction.running {
        // Files that were about to be removed, and unfinished output, are gone.
        assert!(after.dead_bytes <= before.dead_bytes, "dead bytes");
    } else {
        assert_eq!(after.dead_bytes, before.dead_bytes, "dead bytes");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A kept handle would keep the store open.
        self.held.clear();
        self.snapshots.clear();
    }
}
