//! A process that opens a store, reports its contents, and writes from several threads until it
//! dies.
//!
//! It is the test's own executable, started again for one test, which does nothing unless a
//! variable is set.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Durability, Error, Keyspace, Result, Store, Value, WriteBatch};

use super::history::Observed;
use super::operation::{Action, Answer, Bytes, Change, Operation, Place, Required, State, updated};
use super::shared::{OPERATIONS_MAX, Phase, Shared};

/// The name of the test that is the process. Each suite has one.
const TEST: &str = "child_writes_until_it_is_killed";
const FOLDER: &str = "MAPCASK_WRITER_FOLDER";
const STORE: &str = "MAPCASK_WRITER_STORE";
/// The time without progress after which a process counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);
const SIGKILL: i32 = 9;
const SIGBUS: i32 = 7;

fn shared_path(folder: &Path) -> PathBuf {
    folder.join("shared")
}

/// Returns the path at which the process reports the contents it found.
pub(crate) fn report_path(folder: &Path) -> PathBuf {
    folder.join("found")
}

/// The parent's side of the process.
#[derive(Debug)]
pub(crate) struct Writer {
    process: Child,
    shared: Option<Shared>,
}

impl Writer {
    pub(crate) fn start(folder: &Path, store: &Path, seed: u64, run: u32, durability: Durability) -> Self {
        let shared = Shared::create(&shared_path(folder), seed, run, durability);
        let executable = std::env::current_exe().expect("the test's own executable");
        let process = Command::new(executable)
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(STORE, store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the test's own executable starts");
        Self { process, shared: Some(shared) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.shared.as_ref().expect("it is taken by `kill` only")
    }

    /// Waits until the shared memory satisfies `until`.
    pub(crate) fn wait(&mut self, until: impl Fn(&Shared) -> bool) {
        let begun = Instant::now();
        while !until(self.shared()) {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                panic!("the writing process ended by itself: {status}");
            }
            assert!(begun.elapsed() < PATIENCE, "the writing process hangs: {:?}", self.shared().phase());
            thread::yield_now();
        }
    }

    /// Kills the process, and returns the shared memory. After a power cut it may have died by the
    /// signal that a store to a lost page raises.
    pub(crate) fn kill(mut self, was_cut: bool) -> Shared {
        self.process.kill().expect("it is our child");
        let status = self.process.wait().expect("it is our child");
        let signal = status.signal();
        let expected = signal == Some(SIGKILL) || was_cut && signal == Some(SIGBUS);
        assert!(expected, "the writing process ended by itself: {status}");
        self.shared.take().expect("it is taken here only")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The process still runs only after a failed assertion.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Runs the process. The test named [`TEST`] calls it.
pub(crate) fn write_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let store = std::env::var_os(STORE).map(PathBuf::from).expect("both are set");
    // The process ends if its parent dies.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("a known signal");
    // A panic in any thread, caught or not, is a finding, so the parent must learn of it.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        std::process::exit(3);
    }));
    let shared = Shared::open(&shared_path(&folder));
    shared.set_phase(Phase::Opening);
    let store = unless_cut(&shared, super::options(shared.run(), shared.durability()).open(store));
    let observed = unless_cut(&shared, Observed::of(&store));
    fs::write(report_path(&folder), observed.encode()).expect("the folder is writable");
    // The parent checks for data that no thread wrote.
    let parts = observed.parts().unwrap_or_default();
    shared.set_phase(Phase::Writing);
    thread::scope(|scope| {
        for (thread, model) in parts.into_iter().enumerate() {
            let (store, shared) = (&store, &shared);
            scope.spawn(move || write(store, shared, thread, model));
        }
    });
}

/// Returns the value. Waits for death on an error after a power cut, and panics on any other error.
fn unless_cut<T>(shared: &Shared, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(_) if shared.is_cut() => wait_for_death(),
        Err(error) => panic!("{error} ({error:?})"),
    }
}

fn wait_for_death() -> ! {
    loop {
        thread::park();
    }
}

/// Writes until death. `model` is the thread's present state.
fn write(store: &Store, shared: &Shared, thread: usize, mut model: State) {
    let is_disk = shared.durability() == Durability::Disk;
    for number in 1..=OPERATIONS_MAX {
        let operation = Operation::draw(shared.seed(), shared.run(), thread, number, &model);
        let effect = operation.apply(&mut model);
        shared.begin(thread, number);
        let answer = unless_cut(shared, carry_out(store, &operation));
        let is_durable = (is_disk || operation.raised) && effect.wrote;
        shared.acknowledge(
            thread,
            number,
            matches!(operation.action, Action::Flush | Action::Compact) || is_durable,
        );
        assert_eq!(answer, effect.answer, "thread {thread}, operation {number}: {:?}", operation.action);
        unless_cut(shared, look_at(store, &effect.touched, &model));
    }
    wait_for_death();
}

/// Returns the keyspace of a name, and creates it if there is none. The last of a thread's names is
/// that of an ordered one.
fn create(store: &Store, name: &str) -> Result<Keyspace> {
    match store.open_keyspace(name) {
        Err(Error::KeyspaceNotFound { .. }) if name.ends_with('d') => store.ordered_keyspace(name),
        Err(Error::KeyspaceNotFound { .. }) => store.keyspace(name),
        found => found,
    }
}

fn open(store: &Store, name: &str) -> Result<Keyspace> {
    if name.is_empty() { Ok(Keyspace::clone(store)) } else { store.open_keyspace(name) }
}

/// Checks that the thread finds its own writes. No other thread writes to these places.
fn look_at(store: &Store, touched: &[Place], model: &State) -> Result<()> {
    let names: BTreeSet<_> = touched.iter().map(|place| place.keyspace.as_str()).collect();
    for name in names {
        let keyspace = match open(store, name) {
            Err(Error::KeyspaceNotFound { .. }) => None,
            other => Some(other?),
        };
        let is_expected = name.is_empty() || model.get(&Place::keyspace(name)).is_some();
        assert_eq!(keyspace.is_some(), is_expected, "keyspace {name:?} is there or not");
        let Some(keyspace) = keyspace else { continue };
        assert!(name.is_empty() || keyspace.len() == model.keys(name).count(), "the length of {name:?}");
        for place in touched.iter().filter(|place| place.keyspace == name && place.key.is_some()) {
            let found = keyspace.get(place.key())?;
            assert_eq!(found.as_deref(), model.get(place).map(Vec::as_slice), "{place}");
        }
    }
    Ok(())
}

/// Carries out an operation.
fn carry_out(store: &Store, operation: &Operation) -> Result<Answer> {
    let level = if operation.raised { Durability::Disk } else { Durability::Os };
    let store = &store.with_durability(level);
    match &operation.action {
        Action::Flush => store.flush()?,
        Action::Compact => store.compact().map(|_| ())?,
        // A checkpoint may be refused while a pass runs. It is not a part of the public API.
        #[cfg(feature = "sim")]
        Action::Image => store.take_checkpoint().map(|_| ())?,
        #[cfg(not(feature = "sim"))]
        Action::Image => {}
        Action::Key(place, change) => {
            return carry_out_change(&open(store, &place.keyspace)?, place.key(), change);
        }
        Action::Batch(condition, writes) => return write_batch(store, condition.as_ref(), writes),
        Action::Create(name) => assert_eq!(create(store, name)?.name(), *name),
        Action::Clear(name) => drop(open(store, name)?.clear()?),
        Action::Drop(name) => return store.drop_keyspace(name).map(Answer::Said),
        Action::Rename(from, to) => match store.rename_keyspace(from, to) {
            Err(Error::KeyspaceNotFound { .. }) => return Ok(Answer::KeyspaceNotFound),
            Err(Error::KeyspaceExists { .. }) => return Ok(Answer::KeyspaceExists),
            other => other?,
        },
    }
    Ok(Answer::Done)
}

fn carry_out_change(keyspace: &Keyspace, key: &[u8], change: &Change) -> Result<Answer> {
    let owned = |value: Option<Value>| value.map(|value| value.to_vec());
    let value = match change {
        Change::Insert(value) => return keyspace.insert(key, value).map(|_| Answer::Done),
        Change::Remove => return keyspace.remove(key).map(Answer::Said),
        Change::InsertIfAbsent(value) => return keyspace.insert_if_absent(key, value).map(Answer::Said),
        Change::Swap(expected, new) => {
            let swapped = keyspace.compare_and_swap(key, expected.as_ref(), new.as_ref())?;
            return Ok(swapped.map_or_else(|error| Answer::Missed(owned(error.current)), |_| Answer::Done));
        }
        Change::Replace(value) => keyspace.replace(key, value)?,
        Change::Take => keyspace.take(key)?,
        Change::FetchAndUpdate(more) => keyspace.fetch_and_update(key, |old| updated(old, more))?,
        Change::UpdateAndFetch(more) => keyspace.update_and_fetch(key, |old| updated(old, more))?,
    };
    Ok(Answer::Value(owned(value)))
}

/// Writes a batch to the keyspace of its first write.
fn write_batch(
    store: &Store,
    condition: Option<&(Place, Required)>,
    writes: &[(Place, Option<Bytes>)],
) -> Result<Answer> {
    let target = &writes.first().expect("no batch is empty").0.keyspace;
    let mut batch = WriteBatch::new();
    if let Some((place, required)) = condition {
        let keyspace = open(store, &place.keyspace)?;
        match required {
            Required::Absent => batch.on(&keyspace).require_absent(place.key()),
            Required::Present => batch.on(&keyspace).require_present(place.key()),
            Required::Value(value) => batch.on(&keyspace).require(place.key(), value),
        };
    }
    for (place, value) in writes {
        match value {
            Some(value) if place.keyspace == *target => batch.insert(place.key(), value),
            None if place.keyspace == *target => batch.remove(place.key()),
            Some(value) => drop(batch.on(&open(store, &place.keyspace)?).insert(place.key(), value)),
            None => drop(batch.on(&open(store, &place.keyspace)?).remove(place.key())),
        }
    }
    match open(store, target)?.write(&batch) {
        Err(Error::ConditionFailed { .. }) => Ok(Answer::ConditionFailed),
        other => other.map(|_| Answer::Done),
    }
}
