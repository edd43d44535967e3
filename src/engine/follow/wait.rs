//! Waiting of a follower: for records, and for durability.
//!
//! A waiter sleeps on a word of the writer's control page, which it maps read-only. It asks to be
//! woken on the waiters page, which it must be allowed to write to. Otherwise it looks again after
//! ever longer pauses.
//!
//! **Cost.** The writer pays one load per write while no follower asks, and one system call for a
//! write that wakes followers. An idle writer makes no wake-ups. A waiter makes one per second, to
//! check that the store is in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Following;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::control_page::WriterStatus;
use crate::format::waiters::{FOR_DURABLE, FOR_RECORDS};
use crate::fs::Dir;
use crate::log::control_page::ControlReader;
use crate::log::waiters::WaitersPage;
use crate::mem::shared_word::SharedWord;
use crate::sync::lazy_number::LazyNumber;
use crate::sync::sleep_word::{self, SleepWord};

/// The longest sleep between two checks of the store's place.
const SLICE: Duration = Duration::from_secs(1);
/// The first pause of a waiter that cannot ask to be woken.
const PAUSE_MIN: Duration = Duration::from_micros(50);
/// Its longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// The time that a waiter spins before it sleeps, where the writer has a processor of its own.
const SPIN: Duration = Duration::from_micros(20);

/// Returns true if this process has more than one processor.
fn has_processors() -> bool {
    static COUNT: LazyNumber = LazyNumber::new();
    COUNT.get_or(|| thread::available_parallelism().map_or(1, |count| count.get() as u64)) > 1
}

/// The way in which a [`Follower`](crate::Follower) waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// It spins for 20 us, then sleeps until the writer wakes it: some tens of microseconds after the
    /// write.
    ///
    /// To be woken, the process must be allowed to write to the file `WAITERS` of the store.
    /// Otherwise it looks again after pauses of 50 us to 20 ms.
    Sleep,
    /// It looks again without a pause, and uses a whole processor: about a microsecond after the
    /// write.
    Spin,
    /// It looks again after each pause of this length. It writes to no file.
    Poll(Duration),
}

/// The words by which a waiter is woken.
#[derive(Debug)]
struct Sleeper {
    control: ControlReader,
    for_records: SharedWord,
    for_durable: SharedWord,
    /// `None` if this process cannot ask to be woken.
    page: Option<WaitersPage>,
}

impl Sleeper {
    /// Opens the pages of the writer. `None` if the store was never opened.
    fn open(dir: &dyn Dir, is_guarded: bool) -> Result<Option<Self>> {
        let Some(control) = ControlReader::open(dir, is_guarded)? else { return Ok(None) };
        let page = WaitersPage::open(dir)?;
        if let Some(page) = page.as_ref().filter(|_| is_guarded) {
            page.guard();
        }
        let (for_records, for_durable) = control.wake_words();
        Ok(Some(Self { control, for_records, for_durable, page }))
    }

    fn word(&self, reason: u64) -> &SharedWord {
        if reason == FOR_RECORDS { &self.for_records } else { &self.for_durable }
    }
}

/// A condition to wait for.
pub(crate) struct Waiting<F> {
    pub(crate) reason: u64,
    /// The number to be made durable.
    pub(crate) wanted: Option<Seq>,
    pub(crate) is_done: F,
}

/// Waits for the writer of a store.
#[derive(Debug)]
pub(crate) struct Waiter {
    dir: Arc<dyn Dir>,
    is_guarded: bool,
    /// The words by which it is woken, once there were any.
    sleeper: Mutex<Option<Arc<Sleeper>>>,
}

impl Following {
    /// Waits until the follower shows a record behind `after`. Returns false if the time is over.
    ///
    /// # Errors
    ///
    /// See [`Follower::wait`](crate::Follower::wait).
    pub(crate) fn wait(&self, engine: &Engine, after: Seq, way: Wait, timeout: Duration) -> Result<bool> {
        let is_done = || Ok(self.refresh(engine)?.seq > after);
        self.waiter.wait_until(way, timeout, Waiting { reason: FOR_RECORDS, wanted: None, is_done })
    }

    /// Applies records as they come, until there was one, or the flag is set.
    ///
    /// # Errors
    ///
    /// The errors of a refresh.
    pub(crate) fn follow_until(&self, engine: &Engine, way: Wait, is_stopped: &AtomicBool) -> Result<()> {
        let is_done = || {
            // Relaxed: it orders nothing. A thread that sets it also ends the sleep.
            Ok(self.refresh(engine)?.records > 0 || is_stopped.load(Ordering::Relaxed))
        };
        let waiting = Waiting { reason: FOR_RECORDS, wanted: None, is_done };
        self.waiter.wait_until(way, Duration::MAX, waiting).map(drop)
    }

    /// Ends the sleeps of those that wait for records, in every process. They look and sleep again.
    pub(crate) fn end_sleep(&self) {
        self.waiter.end_sleep();
    }

    /// Waits until the writer calls everything up to a number durable. Returns false if the time is
    /// over.
    ///
    /// # Errors
    ///
    /// See [`Follower::wait_durable`](crate::Follower::wait_durable).
    pub(crate) fn wait_durable(&self, engine: &Engine, seq: Seq, timeout: Duration) -> Result<bool> {
        let is_done = || {
            let (status, durable) = self.writer(engine)?;
            match status {
                _ if durable >= seq => Ok(true),
                WriterStatus::Failed => {
                    Err(Error::WriterFailed { path: engine.shared.dir.path().to_owned() })
                }
                _ => Ok(false),
            }
        };
        let waiting = Waiting { reason: FOR_DURABLE, wanted: Some(seq), is_done };
        self.waiter.wait_until(Wait::Sleep, timeout, waiting)
    }
}

impl Waiter {
    pub(crate) fn new(dir: Arc<dyn Dir>, is_guarded: bool) -> Self {
        Self { dir, is_guarded, sleeper: Mutex::default() }
    }

    /// Ends the sleeps of those that wait for records, in every process.
    fn end_sleep(&self) {
        if let Some(sleeper) = &*self.sleeper.lock() {
            sleep_word::wake(&sleeper.for_records);
        }
    }

    /// Waits until a condition holds. Returns false if the time is over.
    ///
    /// # Errors
    ///
    /// Those of the condition, and of opening the writer's pages.
    pub(crate) fn wait_until<F: FnMut() -> Result<bool>>(
        &self,
        way: Wait,
        timeout: Duration,
        mut waiting: Waiting<F>,
    ) -> Result<bool> {
        if (waiting.is_done)()? {
            return Ok(true);
        }
        let begun = Instant::now();
        let left = || timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        let spins = match way {
            Wait::Sleep if has_processors() => SPIN.min(timeout),
            Wait::Sleep | Wait::Poll(_) => Duration::ZERO,
            Wait::Spin => timeout,
        };
        while begun.elapsed() < spins {
            std::hint::spin_loop();
            if (waiting.is_done)()? {
                return Ok(true);
            }
        }
        let (mut pause, mut asked) = (PAUSE_MIN, None);
        while let Some(left) = left() {
            match way {
                Wait::Spin => {}
                // An unpark of this thread ends it early.
                Wait::Poll(pause) => thread::park_timeout(pause.min(left)),
                Wait::Sleep => {
                    if self.sleep(&mut waiting, left, pause, &mut asked)? {
                        return Ok(true);
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            if (waiting.is_done)()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sleeps once. Returns true if the condition was found to hold before.
    fn sleep<F: FnMut() -> Result<bool>>(
        &self,
        waiting: &mut Waiting<F>,
        left: Duration,
        pause: Duration,
        asked: &mut Option<Instant>,
    ) -> Result<bool> {
        let Some(sleeper) = self.sleeper()? else {
            thread::park_timeout(pause.min(left));
            return Ok(false);
        };
        let word = sleeper.word(waiting.reason);
        // The order is that of `sync::wake_up`.
        let seen = word.value();
        let longest = match &sleeper.page {
            Some(page) => {
                page.ask(waiting.reason);
                // Once, and again after each slice: the number may be that of no record yet.
                if let Some(seq) = waiting.wanted.filter(|_| asked.is_none_or(|at| at.elapsed() >= SLICE)) {
                    page.ask_for_sync(seq);
                    *asked = Some(Instant::now());
                }
                if sleep_word::HAS_WAKE_UPS { SLICE } else { pause }
            }
            None => pause,
        };
        if (waiting.is_done)()? {
            return Ok(true);
        }
        let begun = Instant::now();
        sleep_word::wait(word, seen, Some(longest.min(left)));
        if begun.elapsed() >= longest.min(SLICE / 2) && !sleeper.is_in_place(self.dir.as_ref())? {
            // The next sleep opens the pages that are there now.
            *self.sleeper.lock() = None;
        }
        Ok(false)
    }

    /// Returns the words by which this waiter is woken. `None` if there are none yet.
    fn sleeper(&self) -> Result<Option<Arc<Sleeper>>> {
        let mut sleeper = self.sleeper.lock();
        if sleeper.is_none() {
            *sleeper = Sleeper::open(self.dir.as_ref(), self.is_guarded)?.map(Arc::new);
        }
        Ok(sleeper.clone())
    }
}

impl Sleeper {
    /// Returns true unless other pages would serve better.
    fn is_in_place(&self, dir: &dyn Dir) -> Result<bool> {
        Ok(self.page.is_some() && self.control.is_in_place(dir)?)
    }
}
