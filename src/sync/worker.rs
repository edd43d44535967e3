//! Who does the work in the background: a thread that looks after one store or many, in turn.
//!
//! It knows when to look at whom; what there is to do for a store is behind [`Task`] (`helper` has it). A store's own
//! thread is a roster with one store on it, so there is one mechanism.
//!
//! **Concurrency.** Two locks: `life` (how many stores there are, and the thread's handle) is held by whoever attaches
//! or leaves, until the thread has started or ended; then `queue`, never for longer than a few moves, and never during a
//! step. A store is at one place at a time: in `awake` (looked at when its time comes), in `asleep` (looked at when
//! somebody calls), or with the thread (`running`). Whoever leaves takes it off the lists, or waits until the thread
//! is done with it; so when [`TaskHandle::leave`] returns, no step runs, none will, and nothing here refers to the store.
//! The thread holds no handle of a store, so the last one is never dropped on it.
//!
//! Every round gives each store that is due one step, then comes the next store: none can keep the others waiting for
//! longer than its step takes. A panic in a step is that store's alone.
//!
//! **Invariants.** I9.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// No process has attached a store yet.
const NO_PROCESS: u32 = 0;
/// How long a rest is that is longer than clocks reach.
const LONG: Duration = Duration::from_secs(1 << 20);

/// Who does a store's work in the background: a thread of its own, one that many stores share, or nobody.
///
/// [`Options::background`](crate::Options::background) takes one, or a `bool`: `true` is a thread of the store's own
/// (the default), `false` is none. [`Background::shared`] makes one for many small stores in one process. Its thread
/// starts with the first store that is opened with it, and has ended when the last one has been closed or dropped;
/// after that it can start again. Clones are the same one.
///
/// Each store that is due gets one step, then the next one has its turn; so a sync of one delays those of the others by
/// as long as it takes. A failure or a panic concerns the store in which it happens. While no store has anything to
/// do the thread makes no wake-ups, however many there are.
///
/// # What a small store takes
///
/// With its first segment of 16 KiB and a few keys: 5 descriptors (the directory, the lock, two copies of the manifest, the segment),
/// 4 mappings, 32 KiB on the disk, 37 KiB of memory, and no thread of its own. That is measured by
/// `tests/many_stores.rs` with 1,000 stores. The limits of the process come first (`ulimit -n` is often 1,024
/// descriptors, `vm.max_map_count` 65,530 mappings). Once 8 KiB have been written the second segment is made, of 256 KiB;
/// a smaller [`Options::segment_bytes`](crate::Options::segment_bytes) bounds that. Making a store takes
/// 11 syncs; opening one that was closed takes none, the first write after it 4, and closing one that was written to 4.
///
/// # Fork
///
/// It belongs to the process that first opened a store with it: in a child made by `fork` after that there is no thread
/// for it, and opening a store with it is refused with [`Error::Forked`](crate::Error::Forked). Make a new one there.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// use mapcask::{Background, Options};
///
/// let background = Background::shared();
/// let mut stores = Vec::new();
/// for tenant in ["ada", "bob", "eve"] {
///     stores.push(Options::new().background(&background).open(directory.path().join(tenant))?);
/// }
/// stores[0].insert("key", "value")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Background {
    kind: BackgroundKind,
}

#[derive(Debug, Clone)]
enum BackgroundKind {
    Nobody,
    Own,
    Shared(Arc<Worker>),
}

impl Background {
    /// Makes one thread's worth of background for many stores.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Background, Options};
    ///
    /// let background = Background::shared();
    /// let store = Options::new().background(&background).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn shared() -> Self {
        Self { kind: BackgroundKind::Shared(Arc::default()) }
    }

    /// Has a store looked after; `None` where nobody is to do that. A thread that is started for it runs `at_start` first.
    ///
    /// # Errors
    ///
    /// `Io` when the process may have no more threads; `Forked`.
    pub(crate) fn attach(
        &self,
        tended: Box<dyn Task>,
        at_start: fn(),
        path: &Path,
    ) -> Result<Option<TaskHandle>> {
        match &self.kind {
            BackgroundKind::Nobody => Ok(None),
            BackgroundKind::Own => Worker::attach(&Arc::default(), tended, at_start, path).map(Some),
            BackgroundKind::Shared(roster) => Worker::attach(roster, tended, at_start, path).map(Some),
        }
    }
}

/// `true`: a thread of the store's own. `false`: nobody.
impl From<bool> for Background {
    fn from(own: bool) -> Self {
        Self { kind: if own { BackgroundKind::Own } else { BackgroundKind::Nobody } }
    }
}

impl From<&Background> for Background {
    fn from(background: &Background) -> Self {
        background.clone()
    }
}

/// What a store is to its background.
pub(crate) trait Task: Send {
    /// Does one piece of its work, if there is any, and says when to look again.
    fn tend(&mut self) -> Poll;
    /// Whether somebody has called since it said [`Poll::Asleep`].
    fn is_called(&self) -> bool;
    /// Is told that a panic ended [`Task::tend`].
    fn panicked(&mut self);
}

/// When a store is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poll {
    /// In the next round.
    Again,
    /// After this time.
    After(Duration),
    /// When it calls.
    Asleep,
}

/// The stores that one thread looks after.
#[derive(Debug, Default)]
struct Worker {
    life: Mutex<Life>,
    queue: Mutex<Queue>,
    /// A step has ended whose store somebody waits to take off.
    left: Condvar,
    /// The process that attached the first store.
    process: AtomicU32,
}

#[derive(Debug, Default)]
struct Life {
    stores: usize,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    next_id: u64,
    awake: VecDeque<QueuedTask>,
    asleep: BTreeMap<u64, Box<dyn Task>>,
    running: Option<RunningTask>,
    thread: Option<Thread>,
    stopped: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("awake", &self.awake.len())
            .field("asleep", &self.asleep.len())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// A store that is looked at when its time comes.
struct QueuedTask {
    id: u64,
    when: Instant,
    tended: Box<dyn Task>,
}

/// The store that the thread is at.
#[derive(Debug)]
struct RunningTask {
    id: u64,
    /// Somebody waits to take it off.
    leaving: bool,
}

/// The place of one store on a roster.
#[derive(Debug)]
pub(crate) struct TaskHandle {
    roster: Arc<Worker>,
    id: u64,
}

impl TaskHandle {
    /// Has the store looked at if it sleeps.
    #[cold]
    pub(crate) fn call(&self) {
        let mut queue = self.roster.queue.lock();
        // Otherwise the thread is just putting it to sleep and looks once more whether it was called, or it has left.
        if let Some(tended) = queue.asleep.remove(&self.id) {
            queue.awake.push_back(QueuedTask { id: self.id, when: Instant::now(), tended });
        }
        let thread = queue.thread.clone();
        drop(queue);
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Takes the store off; no step of it runs when this returns. A second call waits for the same and does no more.
    ///
    /// A subscriber of events may close or drop a store on the background's own thread, at the end of a step. That thread
    /// cannot wait for itself: then the step that called this is the last one.
    pub(crate) fn leave(&self) {
        let mut queue = self.roster.queue.lock();
        let is_own = queue.thread.as_ref().is_some_and(|own| own.id() == thread::current().id());
        let listed = queue.asleep.remove(&self.id).or_else(|| {
            let at = queue.awake.iter().position(|entry| entry.id == self.id)?;
            queue.awake.remove(at).map(|entry| entry.tended)
        });
        let mut was_there = listed.is_some();
        while let Some(running) = queue.running.as_mut().filter(|running| running.id == self.id) {
            was_there |= !std::mem::replace(&mut running.leaving, true);
            if is_own {
                break;
            }
            self.roster.left.wait(&mut queue);
        }
        drop(queue);
        drop(listed);
        if was_there && is_own {
            let roster = Arc::clone(&self.roster);
            // Whoever ends the thread waits for its end. Without another thread to do that it stays, and sleeps.
            drop(thread::Builder::new().name("mapcask-end".to_owned()).spawn(move || roster.release()));
        } else if was_there {
            self.roster.release();
        }
    }
}

impl Worker {
    fn attach(self: &Arc<Self>, tended: Box<dyn Task>, at_start: fn(), path: &Path) -> Result<TaskHandle> {
        let this = std::process::id();
        // Relaxed, both: another process's value was copied by `fork`. Before the locks are taken, and never taken back:
        // a thread of the parent may have held them.
        let first = self.process.compare_exchange(NO_PROCESS, this, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|process| process != this) {
            return Err(Error::Forked);
        }
        let mut life = self.life.lock();
        if life.thread.is_none() {
            self.queue.lock().stopped = false;
            let roster = Arc::clone(self);
            let thread = thread::Builder::new().name("mapcask".to_owned()).spawn(move || {
                at_start();
                roster.serve();
            });
            let thread = thread.map_err(|error| Error::io("start the background thread of", path, error))?;
            self.queue.lock().thread = Some(thread.thread().clone());
            life.thread = Some(thread);
        }
        life.stores += 1;
        let mut queue = self.queue.lock();
        let id = queue.next_id;
        queue.next_id += 1;
        queue.awake.push_back(QueuedTask { id, when: Instant::now(), tended });
        drop(queue);
        let post = TaskHandle { roster: Arc::clone(self), id };
        post.call();
        Ok(post)
    }

    /// One store less; with the last one the thread ends.
    fn release(&self) {
        let mut life = self.life.lock();
        life.stores -= 1;
        if life.stores > 0 {
            return;
        }
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.thread = None;
        drop(queue);
        if let Some(thread) = life.thread.take() {
            thread.thread().unpark();
            // It does nothing that panics outside of steps, and those are caught.
            drop(thread.join());
        }
    }

    /// What the thread does.
    fn serve(&self) {
        loop {
            let now = Instant::now();
            self.round(now);
            let queue = self.queue.lock();
            if queue.stopped {
                return;
            }
            let next = queue.awake.iter().map(|entry| entry.when).min();
            drop(queue);
            // Whoever moves something in the queue unparks afterwards, so nothing that happens here is missed.
            match next {
                None => thread::park(),
                Some(next) if next > now => {
                    let rest = next.saturating_duration_since(Instant::now());
                    if !rest.is_zero() {
                        thread::park_timeout(rest);
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Looks once at every store that is awake and whose time has come.
    fn round(&self, now: Instant) {
        let mut queue = self.queue.lock();
        for _ in 0..queue.awake.len() {
            let Some(mut entry) = queue.awake.pop_front() else { return };
            if entry.when > now {
                queue.awake.push_back(entry);
                continue;
            }
            queue.running = Some(RunningTask { id: entry.id, leaving: false });
            drop(queue);
            let next = catch_unwind(AssertUnwindSafe(|| entry.tended.tend()));
            let next = next.unwrap_or_else(|_| {
                entry.tended.panicked();
                Poll::Again
            });
            queue = self.queue.lock();
            if queue.running.take().is_some_and(|running| running.leaving) {
                // Before anybody is woken: who leaves may count on it that nothing refers to the store any more.
                drop(entry);
                self.left.notify_all();
                continue;
            }
            match next {
                // Who rang and found it neither here nor there left the ring to be found, before it took the lock.
                Poll::Asleep if !entry.tended.is_called() => {
                    queue.asleep.insert(entry.id, entry.tended);
                }
                Poll::Again | Poll::Asleep => queue.awake.push_back(entry),
                Poll::After(rest) => {
                    // From the start of the round, so that stores that rest equally long are looked at together.
                    let when = now.checked_add(rest).unwrap_or(now + LONG);
                    queue.awake.push_back(QueuedTask { when, ..entry });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// How long a test waits before it fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A store whose steps do what the test says, one after the other.
    struct Fake {
        name: u32,
        /// Says that a step has begun.
        begun: Sender<u32>,
        /// What the next step does; without a word from the test it does not end.
        script: Receiver<Step>,
        called: Arc<AtomicBool>,
        poisoned: Arc<AtomicBool>,
    }

    #[derive(Clone, Copy)]
    enum Step {
        Say(Poll),
        Panic,
    }

    /// The test's end of a fake.
    struct Strings {
        post: TaskHandle,
        script: Sender<Step>,
        called: Arc<AtomicBool>,
        poisoned: Arc<AtomicBool>,
    }

    impl Task for Fake {
        fn tend(&mut self) -> Poll {
            self.begun.send(self.name).unwrap();
            match self.script.recv_timeout(PATIENCE).unwrap() {
                Step::Say(next) => next,
                Step::Panic => panic!("as the test wants it"),
            }
        }

        fn is_called(&self) -> bool {
            // Sequentially consistent, all: a test has no use for less.
            self.called.load(Ordering::SeqCst)
        }

        fn panicked(&mut self) {
            self.poisoned.store(true, Ordering::SeqCst);
        }
    }

    fn attach(background: &Background, name: u32, begun: &Sender<u32>) -> Strings {
        let (script, received) = channel();
        let (called, poisoned) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let fake = Fake {
            name,
            begun: begun.clone(),
            script: received,
            called: Arc::clone(&called),
            poisoned: Arc::clone(&poisoned),
        };
        let post = background.attach(Box::new(fake), || (), Path::new("data")).unwrap().unwrap();
        Strings { post, script, called, poisoned }
    }

    /// The store whose step begins next.
    fn turn(steps: &Receiver<u32>) -> u32 {
        steps.recv_timeout(PATIENCE).expect("a step begins")
    }

    fn say(strings: &Strings, next: Poll) {
        strings.script.send(Step::Say(next)).unwrap();
    }

    #[test]
    fn stores_with_work_take_turns_and_a_sleeping_one_is_looked_at_when_it_calls() {
        let (begun, steps) = channel();
        let background = Background::shared();
        let one = attach(&background, 1, &begun);
        assert_eq!(turn(&steps), 1);
        let two = attach(&background, 2, &begun);
        for _ in 0..3 {
            say(&one, Poll::Again);
            assert_eq!(turn(&steps), 2);
            say(&two, Poll::Again);
            assert_eq!(turn(&steps), 1);
        }
        say(&one, Poll::Asleep);
        for _ in 0..3 {
            assert_eq!(turn(&steps), 2);
            say(&two, Poll::Again);
        }
        assert_eq!(turn(&steps), 2);
        one.post.call();
        say(&two, Poll::Asleep);
        assert_eq!(turn(&steps), 1);
        // A call while the thread is about to put it to sleep is not lost.
        one.called.store(true, Ordering::SeqCst);
        say(&one, Poll::Asleep);
        assert_eq!(turn(&steps), 1);
        say(&one, Poll::After(Duration::MAX));
        two.post.call();
        assert_eq!(turn(&steps), 2);
        say(&two, Poll::Asleep);
        two.post.leave();
        one.post.leave();
    }

    #[test]
    fn a_panic_is_that_stores_alone() {
        let (begun, steps) = channel();
        let background = Background::shared();
        let one = attach(&background, 1, &begun);
        assert_eq!(turn(&steps), 1);
        let two = attach(&background, 2, &begun);
        one.script.send(Step::Panic).unwrap();
        assert_eq!(turn(&steps), 2);
        assert!(one.poisoned.load(Ordering::SeqCst));
        say(&two, Poll::Again);
        assert_eq!(turn(&steps), 1);
        say(&one, Poll::Asleep);
        assert_eq!(turn(&steps), 2);
        say(&two, Poll::Asleep);
        assert!(!two.poisoned.load(Ordering::SeqCst));
        one.post.leave();
        two.post.leave();
    }

    #[test]
    fn who_leaves_waits_for_a_step_under_way_and_nothing_refers_to_the_store_afterwards() {
        let (begun, steps) = channel();
        let background = Background::shared();
        for next in [Poll::Again, Poll::Asleep, Poll::After(Duration::MAX)] {
            let one = attach(&background, 1, &begun);
            assert_eq!(turn(&steps), 1);
            thread::scope(|scope| {
                let leavers = [0; 2].map(|_| scope.spawn(|| one.post.leave()));
                let BackgroundKind::Shared(roster) = &background.kind else { unreachable!("it is shared") };
                while !roster.queue.lock().running.as_ref().is_some_and(|running| running.leaving) {
                    thread::yield_now();
                }
                assert!(leavers.iter().all(|leaver| !leaver.is_finished()));
                say(&one, next);
            });
            assert!(one.script.send(Step::Panic).is_err(), "the fake is gone");
            // As a writer may that was under way when its store was closed.
            one.post.call();
            one.post.leave();
        }
    }

    #[test]
    fn the_thread_ends_with_the_last_store_and_starts_with_the_next() {
        let (begun, steps) = channel();
        let background = Background::shared();
        let BackgroundKind::Shared(roster) = &background.kind else { unreachable!("it is shared") };
        for _ in 0..3 {
            let strings = [1, 2].map(|name| attach(&background, name, &begun));
            for strings in &strings {
                say(strings, Poll::Asleep);
                turn(&steps);
            }
            assert_eq!(roster.life.lock().stores, 2);
            strings[0].post.leave();
            assert!(roster.life.lock().thread.is_some());
            strings[1].post.leave();
            // Only the background itself still knows it, so the thread has ended.
            assert!(roster.life.lock().thread.is_none());
            drop(strings);
            assert_eq!(Arc::strong_count(roster), 1);
        }
    }

    #[test]
    fn the_background_of_another_process_is_refused() {
        let (begun, _steps) = channel();
        let background = Background::shared();
        let BackgroundKind::Shared(roster) = &background.kind else { unreachable!("it is shared") };
        roster.process.store(std::process::id() + 1, Ordering::SeqCst);
        let (_script, received) = channel();
        let [called, poisoned] = [0; 2].map(|_| Arc::<AtomicBool>::default());
        let fake = Fake { name: 1, begun, script: received, called, poisoned };
        let refused = background.attach(Box::new(fake), || (), Path::new("data"));
        assert!(matches!(refused, Err(Error::Forked)));
    }
}
