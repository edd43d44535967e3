//! Tests the events that a `tracing` subscriber receives: their kinds, times and fields.
//!
//! The stores lie on a simulated disk and have no worker, so that all events come on the test's
//! thread. One test runs a worker, and only that test records the worker's events.
#![cfg(all(feature = "tracing", feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use mapcask::sim::{Fault, Operation, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Store};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A subscriber that records events as lines: level, text, fields.
#[derive(Debug, Clone, Default)]
struct Ear {
    heard: Arc<Mutex<Vec<String>>>,
}

impl Ear {
    /// Returns the lines since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

/// An event: its text, then its fields.
#[derive(Default)]
struct Line {
    text: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.text, "{value:?}").unwrap(),
            name => write!(self.fields, " {name}={value:?}").unwrap(),
        }
    }
}

fn line(event: &Event<'_>) -> String {
    let mut line = Line::default();
    event.record(&mut line);
    assert_eq!(event.metadata().target(), "mapcask");
    format!("{} {}:{}", event.metadata().level(), line.text, line.fields)
}

impl Subscriber for Ear {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.heard.lock().unwrap().push(line(event));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn options() -> Options {
    Options::new().background(false).segment_bytes(4096)
}

/// Runs a test under its own subscriber.
fn listening(test: impl FnOnce(&Ear)) {
    let ear = Ear::default();
    tracing::subscriber::with_default(ear.clone(), || test(&ear));
}

fn without_traces(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.starts_with("TRACE")).collect()
}

#[test]
fn open_and_close_emit_events_but_reads_and_writes_do_not() {
    listening(|ear| {
        let disk = SimDisk::new();
        let store = options().open_on(&disk).unwrap();
        let opened = "INFO opened: path=/simulated clean=true keys=0 segments=1 incarnation=1 records=0 bytes_read=0 \
                      torn_bytes=0";
        assert_eq!(ear.take(), ["DEBUG segment made: id=1 bytes=4096", opened]);
        for key in 0..10_u8 {
            store.insert([key], [key; 10]).unwrap();
            store.get([key]).unwrap().unwrap();
        }
        store.remove([9]).unwrap();
        assert_eq!(store.iter().count(), 9);
        assert_eq!(ear.take(), [""; 0]);
        store.close().unwrap();
        let heard = ear.take();
        assert_eq!(heard.last().unwrap(), "INFO closed: path=/simulated clean=true");
        assert!(heard[..heard.len() - 1].iter().all(|line| line.starts_with("TRACE synced")), "{heard:?}");

        let store = options().open_on(&disk).unwrap();
        let report = store.recovery_report();
        let opened = format!(
            "INFO opened: path=/simulated clean=true keys=9 segments=1 incarnation=2 records={} bytes_read={} torn_bytes=0",
            report.records, report.bytes_read
        );
        assert!(report.bytes_read > 0);
        assert_eq!(ear.take(), [opened]);
    });
}

#[test]
fn every_segment_is_heard_when_it_is_made_and_when_it_is_full() {
    listening(|ear| {
        let store = options().open_on(&SimDisk::new()).unwrap();
        store.insert("a", vec![1; 3000]).unwrap();
        store.insert("b", vec![1; 3000]).unwrap();
        // The header has 128 bytes, the start record 72, the record of "a" 3040.
        let heard = ear.take();
        assert_eq!(
            heard[2..],
            ["DEBUG segment made: id=2 bytes=4096", "DEBUG segment full: id=1 bytes=3240"]
        );
        assert_eq!(store.stats().segments, 2);
    });
}

#[test]
fn compaction_pass_emits_its_begin_and_its_result() {
    listening(|ear| {
        let store = options().open_on(&SimDisk::new()).unwrap();
        for number in 0..4_u8 {
            store.insert([number % 2], vec![number; 3000]).unwrap();
        }
        store.flush().unwrap();
        ear.take();
        let report = store.compact().unwrap();
        assert!(report.segments_removed > 0, "{report:?}");
        let heard = without_traces(ear.take());
        let heard: Vec<_> = heard.iter().filter(|line| line.contains("compaction")).collect();
        let [begun, ended] = heard[..] else { panic!("{heard:?}") };
        assert!(begun.starts_with("DEBUG compaction begun: segments="), "{begun}");
        let expected = format!(
            "DEBUG compaction ended: removed={} bytes_read={} bytes_moved={} bytes_freed={}",
            report.segments_removed, report.bytes_read, report.bytes_moved, report.bytes_freed
        );
        assert_eq!(*ended, expected);
        assert_eq!(report.passes, 1);
    });
}

#[test]
fn a_sync_is_heard_with_what_it_made_durable() {
    listening(|ear| {
        let store = options().open_on(&SimDisk::new()).unwrap();
        store.insert("a", "a").unwrap();
        store.flush().unwrap();
        ear.take();
        store.insert("a", "b").unwrap();
        store.flush().unwrap();
        // The sync covers the record, and the watermark of the previous sync.
        let synced = format!("TRACE synced: upto={} bytes=80", store.stats().last_seq);
        let heard = ear.take();
        assert_eq!(heard, [synced]);
        store.flush().unwrap();
        assert_eq!(ear.take(), [""; 0], "there was nothing to do");
    });
}

/// Returns a disk whose power was cut in the middle of many writes.
fn cut(seed: usize) -> SimDisk {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    for key in 0..6_u8 {
        store.insert([key], vec![key; 1500]).unwrap();
    }
    let positions = disk.positions();
    let position = positions[positions.len() - 1 - seed % 8];
    disk.crash_at(position, Tears::Any, &mut Seeded::new(seed as u64))
}

#[test]
fn recovery_warns_only_if_the_end_of_the_log_was_cut_off() {
    let (mut torn, mut aside, mut free) = (0, 0, 0);
    for seed in 0..200 {
        let disk = cut(seed);
        listening(|ear| {
            let store = options().open_on(&disk).unwrap();
            let report = store.recovery_report();
            let opened = format!(
                "INFO opened: path=/simulated clean=false keys={} segments={} incarnation={} records={} bytes_read={} \
                 torn_bytes={}",
                report.keys,
                report.segments,
                report.incarnation,
                report.records,
                report.bytes_read,
                report.torn_bytes
            );
            let cost = format!(
                "WARN the end of the log was cut off: path=/simulated torn_bytes={} quarantined_records={} \
                 quarantined_files={}",
                report.torn_bytes,
                report.quarantined_records,
                report.quarantined.len()
            );
            torn += u32::from(report.torn_bytes > 0);
            aside += u32::from(!report.quarantined.is_empty());
            let mut expected = vec![opened, cost];
            if report.torn_bytes == 0 && report.quarantined.is_empty() {
                free += 1;
                expected.pop();
            }
            let mut heard = ear.take();
            heard.retain(|line| !line.starts_with("DEBUG segment made"));
            assert_eq!(heard, expected, "seed {seed}");
        });
    }
    assert!(torn > 0 && aside > 0 && free > 0, "{torn} {aside} {free}");
}

#[test]
fn poisoning_emits_its_cause_once_and_the_close_is_unclean() {
    listening(|ear| {
        let disk = SimDisk::new();
        let store = options().durability(Durability::Disk).open_on(&disk).unwrap();
        ear.take();
        disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
        let Err(Error::Poisoned { cause }) = store.insert("a", "b") else { panic!("the sync failed") };
        assert_eq!(ear.take(), [format!("ERROR poisoned: cause={cause}")]);
        assert!(cause.to_string().contains("simulated input/output error"));
        store.insert("a", "b").unwrap_err();
        store.flush().unwrap_err();
        assert_eq!(ear.take(), [""; 0], "it was said already");
        store.close().unwrap_err();
        assert_eq!(ear.take(), ["INFO closed: path=/simulated clean=false"]);
    });
}

#[test]
fn an_open_that_is_refused_and_a_second_close_are_not_heard() {
    listening(|ear| {
        let disk = SimDisk::new();
        options().create(false).open_on(&disk).unwrap_err();
        assert_eq!(ear.take(), [""; 0]);
        let store = options().open_on(&disk).unwrap();
        options().open_on(&disk).unwrap_err();
        let other = store.clone();
        store.close().unwrap();
        other.clone().close().unwrap_err();
        drop(other);
        let heard = without_traces(ear.take());
        assert_eq!(heard.iter().filter(|line| line.contains("opened") || line.contains("closed")).count(), 2);
    });
}

#[test]
fn a_follower_is_heard_when_it_is_opened_and_when_it_is_closed() {
    listening(|ear| {
        let disk = SimDisk::new();
        let store = options().open_on(&disk).unwrap();
        store.insert("a", "1").unwrap();
        ear.take();
        let follower = Options::new().follow_on(&disk).unwrap();
        let opened = "INFO opened: path=/simulated clean=false keys=1 segments=1 incarnation=1 ";
        let heard = ear.take();
        assert!(heard.len() == 1 && heard[0].starts_with(opened), "{heard:?}");
        store.insert("a", "2").unwrap();
        follower.refresh().unwrap();
        let clone = follower.clone();
        drop(follower);
        assert_eq!(clone.iter().count(), 1);
        assert_eq!(ear.take(), [""; 0]);
        drop(clone);
        assert_eq!(ear.take(), ["INFO closed: path=/simulated clean=true"]);
        options().create(false).follow_on(&SimDisk::new()).unwrap_err();
        assert_eq!(ear.take(), [""; 0]);
    });
}

// ---- The worker ---------------------------------------------------------------------------------

/// A subscriber that records the events of workers, and panics in one on request.
struct HelperEar {
    heard: Mutex<mpsc::Sender<String>>,
    panics: Arc<AtomicBool>,
}

impl Subscriber for HelperEar {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() != Level::TRACE
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if thread::current().name() == Some("mapcask") {
            drop(self.heard.lock().unwrap().send(line(event)));
            let is_segment = *event.metadata().level() == Level::DEBUG;
            assert!(!(is_segment && self.panics.load(SeqCst)), "a subscriber that panics");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Writes until the worker has made a segment, and panicked.
fn fill(store: &Store) {
    while store.insert("a", vec![1; 3000]).is_ok() {
        thread::yield_now();
    }
}

#[test]
fn worker_failures_and_panics_emit_events() {
    let (sender, heard) = mpsc::channel();
    let panics = Arc::new(AtomicBool::new(false));
    let ear = HelperEar { heard: Mutex::new(sender), panics: Arc::clone(&panics) };
    tracing::subscriber::set_global_default(ear).unwrap();

    let disk = SimDisk::new();
    let store = Options::new().segment_bytes(64 << 10).open_on(&disk).unwrap();
    // The open made the active segment. Until it is full, only the worker makes files.
    disk.fail_nth(Some(Operation::Create), 1, Fault::NoSpace, false);
    store.insert("a", vec![1; 10 << 10]).unwrap();
    let failed = heard.recv().unwrap();
    assert!(failed.starts_with("WARN a background step failed: error=no space"), "{failed}");
    assert!(store.insert("a", "it is tried again").is_ok());

    panics.store(true, SeqCst);
    fill(&store);
    let rest: Vec<_> = heard.iter().take_while(|line| !line.starts_with("ERROR poisoned")).collect();
    assert_eq!(rest.last().unwrap(), "ERROR a background step panicked:");
    assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
}
