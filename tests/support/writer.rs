//! The process that opens a store, reports what it finds, and writes from several threads until it dies.
//!
//! It is the test's own executable, started again for one test that does nothing unless a variable is set.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Durability, Result, Store, WriteBatch};

use super::history::{Action, Observed, Operation, THREADS};
use super::shared::{OPERATIONS_MAX, Phase, Shared};

/// The name of the test that is the process; each suite has it.
const TEST: &str = "a_process_that_writes_until_it_dies";
const FOLDER: &str = "MAPCASK_WRITER_FOLDER";
const STORE: &str = "MAPCASK_WRITER_STORE";
/// A process that has not moved for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const SIGKILL: i32 = 9;
const SIGBUS: i32 = 7;

fn shared_path(folder: &Path) -> PathBuf {
    folder.join("shared")
}

/// Where the process writes what it found in the store.
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

    /// Waits for what the shared memory will say.
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

    /// Kills it, and returns what it left in the shared memory. After a power cut it may have died by the signal that
    /// a store to a lost page raises.
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
        // After a failed assertion; otherwise it is dead already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What the test named [`TEST`] calls.
pub(crate) fn write_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let store = std::env::var_os(STORE).map(PathBuf::from).expect("both are set");
    // The parent may die, too.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("a known signal");
    // A panic in any thread, caught or not, is a finding, and the parent must hear of it.
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
    shared.set_phase(Phase::Writing);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, shared) = (&store, &shared);
            scope.spawn(move || write(store, shared, thread));
        }
    });
}

/// An error is what a power cut brings; any other is a finding.
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

fn write(store: &Store, shared: &Shared, thread: usize) {
    let is_disk = shared.durability() == Durability::Disk;
    for number in 1..=OPERATIONS_MAX {
        let operation = Operation::nth(shared.seed(), shared.run(), thread, number);
        shared.begin(thread, number);
        let wrote = unless_cut(shared, carry_out(store, &operation));
        shared.acknowledge(thread, number, operation.action == Action::Flush || is_disk && wrote);
        for (key, value) in operation.effect() {
            let found = unless_cut(shared, store.get(key));
            // Nobody else writes this thread's keys.
            assert_eq!(found.as_deref(), value, "thread {thread} reads what it wrote, operation {number}");
        }
    }
    wait_for_death();
}

/// Carries out an operation; whether it wrote anything.
fn carry_out(store: &Store, operation: &Operation) -> Result<bool> {
    match (operation.action, operation.writes.as_slice()) {
        (Action::Flush, _) => store.flush().map(|()| false),
        (Action::Single, [(key, Some(value))]) => store.insert(key, value).map(|_| true),
        (Action::Single, [(key, None)]) => {
            let was_there = store.contains_key(key)?;
            let removed = store.remove(key)?;
            assert_eq!(removed, was_there, "remove says whether the key was there");
            Ok(removed)
        }
        (_, writes) => {
            let mut batch = WriteBatch::new();
            for (key, value) in writes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            store.write(&batch).map(|_| true)
        }
    }
}
