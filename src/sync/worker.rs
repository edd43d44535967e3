//! The worker: a thread that does the background work of one store or of many, in turn.
//!
//! It decides when each store gets a step. The work of a store is behind [`Task`], which
//! `engine::maintenance_task` implements. A store with a thread of its own has a [`Worker`] with one
//! task, so there is one mechanism.
//!
//! **Concurrency.** There are two locks. `life` guards the number of stores and the thread's
//! handle. It is held by a caller that attaches or leaves, until the thread has started or ended.
//! `queue` is held for a few moves only, and never during a step. A caller that takes both takes
//! `life` first.
//!
//! A task is in one place at a time: in `awake` (due at its time), in `asleep` (due when it is
//! called), or with the thread (`running`). A leaving caller takes its task off the lists, or waits
//! until the thread has finished with it. So when [`TaskHandle::leave`] returns, no step of it runs
//! or will run. Until it wakes next, a shared thread that sleeps keeps the store's word mapped. It
//! holds no handle of a store, so the last one is never dropped on it.
//!
//! The thread sleeps on a word that callers in this process raise, and on a word of each store that
//! other processes raise ([`sleep_word::wait_any`]). A change between the check for work and the sleep is
//! not lost, because the thread loads the words before the check.
//!
//! Each round gives each due task one step, then the next one. So a task delays the others by at
//! most one step. A panic in a step affects only its own store.
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

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::sync::sleep_word::{self, SleepWord};

/// The value of `process` until a store is attached.
const NO_PROCESS: u32 = 0;
/// The length of a rest that exceeds the range of the clock.
const LONG: Duration = Duration::from_secs(1 << 20);

/// The thread that does a store's background work: its own, a shared one, or none.
///
/// [`Options::background`](crate::Options::background) takes one, or a `bool`: `true` is a thread
/// of the store's own (the default), `false` is none. [`Background::shared`] creates one for many
/// small stores in one process. Its thread starts with the first store that is opened with it. It
/// has ended once the last of them is closed or dropped, and can start again. A clone is another
/// handle to the same thread.
///
/// Each due store gets one step, then the next store has its turn. So a sync of one store delays
/// the others by the duration of that sync. A failure or a panic affects only the store in which it
/// happens. While no store has work the thread does not wake up, however many stores there are.
///
/// # Resources of a small store
///
/// A store with its first segment of 16 KiB and a few keys, as measured by `tests/many_stores.rs`
/// with 1,000 stores:
///
/// | resource | use |
/// |---|---|
/// | descriptors | 5: the directory, the lock, two copies of the manifest, the segment |
/// | mappings | 5 |
/// | space on the disk | 36 KiB |
/// | memory | 42 KiB |
/// | threads | none of its own, with a shared background |
/// | syncs to create it | 10 |
/// | syncs to open it after a close | none, and 5 at the first write |
/// | syncs to close it after a write | 4 |
///
/// The limits of the process are reached first: `ulimit -n` is often 1,024 descriptors, and
/// `vm.max_map_count` 65,530 mappings. Once 8 KiB have been written, the second segment of 256 KiB
/// is preallocated. A smaller [`Options::segment_bytes`](crate::Options::segment_bytes) bounds
/// that.
///
/// # Fork
///
/// A `Background` belongs to the process that first opened a store with it. In a child made by
/// `fork` after that, opening a store with it fails with [`Error::Forked`](crate::Error::Forked).
/// Create a new one there.
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
    None,
    Own,
    Shared(Arc<Worker>),
}

impl Background {
    /// Creates a background thread to be shared by many stores.
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

    /// Attaches a store's task. Returns `None` if there is to be no background work.
    ///
    /// A thread that is started for it runs `at_start` first. A change of `word` makes the task due
    /// if it sleeps.
    ///
    /// # Errors
    ///
    /// `Io` if the process may have no more threads; `Forked`.
    pub(crate) fn attach(
        &self,
        tended: Box<dyn Task>,
        word: Option<Arc<dyn SleepWord>>,
        at_start: fn(),
        path: &Path,
    ) -> Result<Option<TaskHandle>> {
        let own;
        let roster = match &self.kind {
            BackgroundKind::None => return Ok(None),
            BackgroundKind::Own => {
                own = Arc::default();
                &own
            }
            BackgroundKind::Shared(roster) => roster,
        };
        Worker::attach(roster, tended, word, at_start, path).map(Some)
    }
}

/// `true` is a thread of the store's own; `false` is none.
impl From<bool> for Background {
    fn from(own: bool) -> Self {
        Self { kind: if own { BackgroundKind::Own } else { BackgroundKind::None } }
    }
}

impl From<&Background> for Background {
    fn from(background: &Background) -> Self {
        background.clone()
    }
}

/// The background work of one store.
pub(crate) trait Task: Send {
    /// Does one step of work, if there is any, and returns when to look again.
    fn tend(&mut self) -> Poll;
    /// Returns `true` if the task was called since it returned [`Poll::Asleep`].
    fn is_called(&self) -> bool;
    /// Reports that a panic ended [`Task::tend`].
    fn panicked(&mut self);
}

/// The time at which a task is due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poll {
    /// In the next round.
    Again,
    /// After this time.
    After(Duration),
    /// When it is called.
    Asleep,
}

/// A thread, and the tasks of the stores that it serves.
#[derive(Debug, Default)]
struct Worker {
    life: Mutex<Life>,
    queue: Mutex<Queue>,
    /// Signals that a step has ended whose caller waits to leave.
    left: Condvar,
    /// The id of the process that attached the first store.
    process: AtomicU32,
    calls: CallWord,
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
    asleep: BTreeMap<u64, SleepingTask>,
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

/// A task that is due at a time.
struct QueuedTask {
    id: u64,
    when: Instant,
    tended: Box<dyn Task>,
    word: Option<OutsideWord>,
}

/// A task that is due when it is called, or when its word has changed.
struct SleepingTask {
    tended: Box<dyn Task>,
    word: Option<OutsideWord>,
}

/// A word by which another process calls a task, and its value before the task's last step.
struct OutsideWord {
    word: Arc<dyn SleepWord>,
    seen: u32,
}

/// The word on which the thread sleeps, and which callers in this process raise.
#[derive(Debug, Default)]
struct CallWord {
    /// Only the low half is used.
    calls: AtomicU32,
}

impl SleepWord for CallWord {
    fn low_half(&self) -> &AtomicU32 {
        &self.calls
    }

    fn value(&self) -> u32 {
        // Acquire: the queue is as the caller left it.
        self.calls.load(Ordering::Acquire)
    }

    fn raise(&self) {
        // Release: see `value`.
        self.calls.fetch_add(1, Ordering::AcqRel);
    }
}

impl Queue {
    /// Makes the tasks due whose words have changed since their last step.
    fn wake_called_from_outside(&mut self, now: Instant) {
        let is_called = |task: &SleepingTask| {
            task.word.as_ref().is_some_and(|outside| outside.word.value() != outside.seen)
        };
        let called: Vec<u64> =
            self.asleep.iter().filter(|(_, task)| is_called(task)).map(|(id, _)| *id).collect();
        for id in called {
            let Some(SleepingTask { tended, word }) = self.asleep.remove(&id) else { continue };
            self.awake.push_back(QueuedTask { id, when: now, tended, word });
        }
    }
}

/// The task whose step the thread runs.
#[derive(Debug)]
struct RunningTask {
    id: u64,
    /// True if a caller waits for the step to end, to leave.
    leaving: bool,
}

/// The registration of one store's task with a worker.
#[derive(Debug)]
pub(crate) struct TaskHandle {
    roster: Arc<Worker>,
    id: u64,
}

impl TaskHandle {
    /// Makes the task due if it sleeps.
    #[cold]
    pub(crate) fn call(&self) {
        let mut queue = self.roster.queue.lock();
        // Otherwise the thread is putting it to sleep and checks once more for a call, or it has
        // left.
        if let Some(SleepingTask { tended, word }) = queue.asleep.remove(&self.id) {
            queue.awake.push_back(QueuedTask { id: self.id, when: Instant::now(), tended, word });
        }
        let thread = queue.thread.clone();
        drop(queue);
        if let Some(thread) = thread {
            self.roster.wake(&thread);
        }
    }

    /// Takes the task off; no step of it runs when this returns. A second call waits too, and does
    /// no more.
    ///
    /// A subscriber of events may close or drop a store on the worker's own thread, at the end of a
    /// step. That thread cannot wait for itself: the step that called this is then the last one.
    pub(crate) fn leave(&self) {
        let mut queue = self.roster.queue.lock();
        let is_own = queue.thread.as_ref().is_some_and(|own| own.id() == thread::current().id());
        let listed = queue.asleep.remove(&self.id).map(|task| task.tended).or_else(|| {
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
            // The caller that ends the thread waits for it. If no thread can start, this one stays,
            // asleep.
            drop(thread::Builder::new().name("mapcask-end".to_owned()).spawn(move || roster.release()));
        } else if was_there {
            self.roster.release();
        }
    }
}

impl Worker {
    fn attach(
        self: &Arc<Self>,
        tended: Box<dyn Task>,
        word: Option<Arc<dyn SleepWord>>,
        at_start: fn(),
        path: &Path,
    ) -> Result<TaskHandle> {
        let this = std::process::id();
        // Relaxed, both: the value of another process was copied by `fork`. Checked before the
        // locks are taken, and never reset: a thread of the parent may have held them.
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
        let word = word.map(|word| OutsideWord { seen: word.value(), word });
        queue.awake.push_back(QueuedTask { id, when: Instant::now(), tended, word });
        drop(queue);
        let post = TaskHandle { roster: Arc::clone(self), id };
        post.call();
        Ok(post)
    }

    /// Counts one store less. With the last one the thread ends.
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
            self.wake(thread.thread());
            // Outside of steps nothing panics, and panics of steps are caught.
            drop(thread.join());
        }
    }

    /// Runs the thread's loop.
    fn serve(&self) {
        loop {
            let now = Instant::now();
            // Before the round: a caller that changes the queue raises it afterwards, so no change
            // is missed below.
            let seen = self.calls.value();
            self.round(now);
            let mut queue = self.queue.lock();
            if queue.stopped {
                return;
            }
            queue.wake_called_from_outside(now);
            let next = queue.awake.iter().map(|entry| entry.when).min();
            let Some(next) = next else {
                self.sleep(queue, seen);
                continue;
            };
            drop(queue);
            let rest = next.saturating_duration_since(Instant::now());
            if next > now && !rest.is_zero() {
                sleep_word::wait(&self.calls, seen, Some(rest));
            }
        }
    }

    /// Wakes the thread.
    fn wake(&self, thread: &Thread) {
        self.calls.raise();
        if sleep_word::HAS_WAKE_UPS {
            sleep_word::wake(&self.calls);
        } else {
            thread.unpark();
        }
    }

    /// Sleeps until a task is called, by this process or another one. Every task is asleep.
    fn sleep(&self, queue: MutexGuard<'_, Queue>, seen: u32) {
        let words = queue.asleep.values().filter_map(|task| task.word.as_ref());
        let words = words.take(sleep_word::WORDS_MAX - 1);
        let words: Vec<_> = words.map(|outside| (Arc::clone(&outside.word), outside.seen)).collect();
        // A caller that leaves, or calls, does so meanwhile.
        drop(queue);
        let own: (&dyn SleepWord, u32) = (&self.calls, seen);
        let outside = words.iter().map(|(word, seen)| (&**word as &dyn SleepWord, *seen));
        sleep_word::wait_any(&std::iter::once(own).chain(outside).collect::<Vec<_>>());
    }

    /// Gives each task that is due one step.
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
            if let Some(outside) = &mut entry.word {
                // Before the step: it finds what was asked before.
                outside.seen = outside.word.value();
            }
            let next = catch_unwind(AssertUnwindSafe(|| entry.tended.tend()));
            let next = next.unwrap_or_else(|_| {
                entry.tended.panicked();
                Poll::Again
            });
            queue = self.queue.lock();
            if queue.running.take().is_some_and(|running| running.leaving) {
                // Before the wake-up: the leaver relies on nothing here referring to the store.
                drop(entry);
                self.left.notify_all();
                continue;
            }
            match next {
                // A caller that found it in neither list marked the call before it took the lock.
                Poll::Asleep if !entry.tended.is_called() => {
                    queue.asleep.insert(entry.id, SleepingTask { tended: entry.tended, word: entry.word });
                }
                Poll::Again | Poll::Asleep => queue.awake.push_back(entry),
                Poll::After(rest) => {
                    // From the start of the round, so that tasks with equal rests stay together.
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

    /// The time after which a test fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A task whose steps do, one by one, as the test directs.
    struct Fake {
        name: u32,
        /// Reports that a step has begun.
        begun: Sender<u32>,
        /// The result of the next step. A step without one does not end.
        script: Receiver<Step>,
        called: Arc<AtomicBool>,
        poisoned: Arc<AtomicBool>,
    }

    #[derive(Clone, Copy)]
    enum Step {
        Say(Poll),
        Panic,
    }

    /// The test's side of a fake task.
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
        attach_with(background, name, begun, None)
    }

    fn attach_with(
        background: &Background,
        name: u32,
        begun: &Sender<u32>,
        word: Option<Arc<dyn SleepWord>>,
    ) -> Strings {
        let (script, received) = channel();
        let (called, poisoned) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let fake = Fake {
            name,
            begun: begun.clone(),
            script: received,
            called: Arc::clone(&called),
            poisoned: Arc::clone(&poisoned),
        };
        let post = background.attach(Box::new(fake), word, || (), Path::new("data")).unwrap().unwrap();
        Strings { post, script, called, poisoned }
    }

    /// Returns the name of the task whose step begins next.
    fn turn(steps: &Receiver<u32>) -> u32 {
        steps.recv_timeout(PATIENCE).expect("a step begins")
    }

    fn say(strings: &Strings, next: Poll) {
        strings.script.send(Step::Say(next)).unwrap();
    }

    #[test]
    fn busy_stores_take_turns_and_a_call_wakes_an_idle_one() {
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
    #[cfg(target_os = "linux")]
    fn another_process_wakes_the_store_whose_word_it_raises() {
        use rustix::io::Errno;
        use rustix::thread::{ClockId, futex::WaitvFlags, futex::waitv};
        if waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) != Err(Errno::INVAL) {
            eprintln!("\n## SKIPPED: this system cannot sleep on several words; nothing was shown\n");
            return;
        }
        let (begun, steps) = channel();
        let background = Background::shared();
        let words = [1, 2].map(|_| Arc::<CallWord>::default());
        let strings = [0, 1].map(|n| {
            let word = Arc::clone(&words[n]) as Arc<dyn SleepWord>;
            let strings = attach_with(&background, u32::try_from(n).unwrap(), &begun, Some(word));
            say(&strings, Poll::Asleep);
            assert_eq!(turn(&steps), u32::try_from(n).unwrap());
            strings
        });
        for round in 0..100 {
            let n = round % 2;
            // Another process has only the word.
            words[n].raise();
            sleep_word::wake(&*words[n]);
            assert_eq!(turn(&steps), u32::try_from(n).unwrap());
            say(&strings[n], Poll::Asleep);
        }
        // A word that is raised during the step makes the store due again.
        strings[0].post.call();
        assert_eq!(turn(&steps), 0);
        words[0].raise();
        say(&strings[0], Poll::Asleep);
        assert_eq!(turn(&steps), 0);
        say(&strings[0], Poll::Asleep);
        strings.iter().for_each(|strings| strings.post.leave());
        assert!(steps.try_recv().is_err(), "no other step was made");
    }

    #[test]
    fn panic_ends_only_its_own_stores_task() {
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
    fn detach_waits_for_a_running_step_and_drops_the_task() {
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
            // A writer under way may do so when its store is closed.
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
            // Only the background itself still refers to it, so the thread has ended.
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
        let refused = background.attach(Box::new(fake), None, || (), Path::new("data"));
        assert!(matches!(refused, Err(Error::Forked)));
    }
}
