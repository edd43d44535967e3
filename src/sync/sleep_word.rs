//! Sleeping on a word of memory that processes may share.
//!
//! On Linux it is the system's futex. Elsewhere a sleeper parks, a wake-up does nothing, and only an
//! unpark of its thread ends the sleep early.
//!
//! A call may return early for no reason. The caller checks its condition again.
//!
//! The system's words have four bytes. Those of a store have eight, and are accessed as such. The
//! system compares their low halves.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// True if a wake-up reaches sleepers, also those of other processes.
pub(crate) const HAS_WAKE_UPS: bool = cfg!(target_os = "linux");

/// The most words on which a thread can sleep.
pub(crate) const WORDS_MAX: usize = 128;

/// A word on which a thread sleeps until it is changed.
pub(crate) trait SleepWord: Send + Sync + std::fmt::Debug {
    /// Returns its low half, for the system alone.
    fn low_half(&self) -> &AtomicU32;
    /// Returns the value of its low half, in acquire order.
    fn value(&self) -> u32;
    /// Changes it.
    fn raise(&self);
}

/// Sleeps while a word has the value `seen`, until it is woken or the time is over. `None` is no
/// end.
#[cfg(target_os = "linux")]
pub(crate) fn wait(word: &dyn SleepWord, seen: u32, timeout: Option<Duration>) {
    use rustix::thread::futex;
    // A time beyond the system's range has no end.
    let timeout = timeout.and_then(|timeout| futex::Timespec::try_from(timeout).ok());
    // An interruption, another value and the end of the time are no failures. Without a page behind
    // the word, the caller's own check decides.
    let _ = futex::wait(word.low_half(), futex::Flags::empty(), seen, timeout.as_ref());
}

/// Parks. See the variant for Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wait(word: &dyn SleepWord, seen: u32, timeout: Option<Duration>) {
    if word.value() == seen {
        timeout.map_or_else(std::thread::park, std::thread::park_timeout);
    }
}

/// Sleeps while every word has the value beside it, until one of them is woken. Sleeps on the first
/// word alone where the system cannot sleep on several (Linux before 5.16), or one of the others has
/// no page any more.
#[cfg(target_os = "linux")]
pub(crate) fn wait_any(words: &[(&dyn SleepWord, u32)]) {
    use rustix::io::Errno;
    use rustix::thread::{ClockId, futex};
    let waits = words.iter().take(WORDS_MAX).map(|(word, seen)| {
        let mut wait = futex::Wait::new();
        wait.val = u64::from(*seen);
        wait.uaddr = futex::WaitPtr::new(word.low_half().as_ptr().cast());
        wait.flags = futex::WaitFlags::SIZE_U32;
        wait
    });
    let waits: Vec<_> = waits.collect();
    let flags = futex::WaitvFlags::empty();
    match futex::waitv(&waits, flags, None, ClockId::Monotonic) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => {
            if let Some((word, seen)) = words.first() {
                wait(*word, *seen, None);
            }
        }
    }
}

/// Sleeps on the first word alone.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wait_any(words: &[(&dyn SleepWord, u32)]) {
    if let Some((word, seen)) = words.first() {
        wait(*word, *seen, None);
    }
}

/// Wakes every sleeper on a word, in every process. The caller has changed it.
pub(crate) fn wake(word: &dyn SleepWord) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::futex;
        // It fails only if the word's page is gone, and all its sleepers with it.
        let _ = futex::wake(word.low_half(), futex::Flags::empty(), i32::MAX.unsigned_abs());
    }
    #[cfg(not(target_os = "linux"))]
    let _ = word;
}
