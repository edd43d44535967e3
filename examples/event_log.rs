//! Logs events from many threads: all of them durable soon, important ones before they are
//! acknowledged.
//!
//! At `Durability::Interval` an event is synced within about 20 ms, at the cost of a write to
//! memory. The program waits for the sequence number of an important event, which makes all earlier
//! events durable too. A hash map has no order: events are numbered, and read by their numbers.
//!
//! `cargo run --example event_log`

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mapcask::{Durability, Options, Seq, Store, Value};

const THREADS: usize = 4;
const EVENTS: u64 = 2000;
/// One event of a thread in this many is important.
const IMPORTANT: u64 = 100;

struct EventLog {
    store: Store,
    /// The number of the next event.
    next: AtomicU64,
}

impl EventLog {
    fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let options =
            Options::new().durability(Durability::Interval).sync_interval(Duration::from_millis(20));
        let store = options.open(path)?;
        let mut next = 0;
        for key in store.keys() {
            next = next.max(u64::from_le_bytes(key?[..].try_into()?) + 1);
        }
        Ok(Self { store, next: AtomicU64::new(next) })
    }

    /// Records an event; it survives the process, and soon a power cut.
    fn note(&self, text: &str) -> mapcask::Result<Seq> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.store.insert(number.to_le_bytes(), text)
    }

    /// Records an event that survives a power cut when this returns, together with all earlier
    /// ones.
    fn note_durably(&self, text: &str) -> mapcask::Result<Seq> {
        let seq = self.note(text)?;
        self.store.wait_durable(seq)?;
        Ok(seq)
    }

    /// Returns the events from a number on. After a power cut numbers may be missing: those taken
    /// and not yet written.
    fn since(&self, first: u64) -> impl Iterator<Item = mapcask::Result<(u64, Value)>> {
        let numbers = first..self.next.load(Ordering::Relaxed);
        numbers.filter_map(|number| {
            let event = self.store.get(number.to_le_bytes()).transpose()?;
            Some(event.map(|event| (number, event)))
        })
    }
}

/// Records the events of one thread. Returns the sequence number of its last event.
fn run(log: &EventLog, thread: usize) -> mapcask::Result<Seq> {
    let mut last = Seq::ZERO;
    for event in 0..EVENTS {
        let seq = if event % IMPORTANT == 0 {
            let seq = log.note_durably(&format!("{thread}: {event}, a payment"))?;
            assert!(log.store.durable_seq() >= seq, "it was waited for");
            seq
        } else {
            log.note(&format!("{thread}: {event}, a click"))?
        };
        assert!(seq > last, "numbers follow the order of writes");
        last = seq;
    }
    Ok(last)
}

/// Checks that every event is there, and that each thread's events are in order.
fn check(log: &EventLog) -> Result<(), Box<dyn Error>> {
    let mut next = [0; THREADS];
    for event in log.since(0) {
        let (number, text) = event?;
        let text = std::str::from_utf8(&text)?;
        let (thread, rest) = text.split_once(": ").ok_or("a thread")?;
        let (event, _) = rest.split_once(", ").ok_or("an event")?;
        let next = next.get_mut(thread.parse::<usize>()?).ok_or("a known thread")?;
        assert_eq!(event.parse::<u64>()?, *next, "event {number}");
        *next += 1;
    }
    assert_eq!(next, [EVENTS; THREADS]);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let log = EventLog::open(directory.path())?;
    let last = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let log = &log;
                    move || run(log, thread)
                })
            })
            .collect();
        let ends = threads.into_iter().map(|thread| thread.join().expect("a thread does not panic"));
        ends.collect::<mapcask::Result<Vec<_>>>()
    })?;
    let last = last.into_iter().max().ok_or("some threads")?;
    assert_eq!(log.store.last_seq(), last);
    let stats = log.store.stats();
    // Threads that wait at the same time share a sync, so there may be fewer syncs than important
    // events.
    let important = THREADS as u64 * EVENTS / IMPORTANT;
    writeln!(
        std::io::stdout(),
        "{} events, {important} of them waited for, {} syncs; durable up to {} of {}",
        log.store.len(),
        stats.syncs,
        stats.durable_seq,
        stats.last_seq,
    )?;
    check(&log)?;
    // This syncs at once, without waiting for the interval.
    log.store.wait_durable(last)?;
    assert!(log.store.durable_seq() >= last);
    log.store.close()?;

    let log = EventLog::open(directory.path())?;
    check(&log)?;
    log.note("0: the next number goes on")?;
    assert_eq!(log.since(THREADS as u64 * EVENTS).count(), 1);
    log.store.close()?;
    Ok(())
}
