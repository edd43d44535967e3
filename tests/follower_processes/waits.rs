//! Waiting for a writer in another process, and its cost for the writer.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

#[cfg(feature = "sim")]
use mapcask::Seq;
use mapcask::{Options, Store, WriteBatch};

use crate::child::Child;
use crate::{options, scratch};

/// The offsets and bits of docs/design/format.md, "Control page" and "Waiters page".
const RECORDS_WAKE: u64 = 256;
const DURABLE_WAKE: u64 = 320;
const ASKED: u64 = 0;
#[cfg(feature = "sim")]
const WANTED: u64 = 64;
const FOR_RECORDS: u64 = 1;
const FOR_DURABLE: u64 = 2;
#[cfg(feature = "sim")]
const FOR_SYNC: u64 = 4;

/// The pages by which a writer and its waiters know of each other.
struct Pages {
    control: File,
    waiters: File,
}

impl Pages {
    fn of(path: &Path) -> Self {
        let open = |name| OpenOptions::new().read(true).write(true).open(path.join(name)).unwrap();
        Self { control: open("CONTROL"), waiters: open("WAITERS") }
    }

    fn word(file: &File, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn asked(&self) -> u64 {
        Self::word(&self.waiters, ASKED)
    }

    /// Returns the numbers of wake-ups: for records, and for durability.
    fn wakes(&self) -> (u64, u64) {
        (Self::word(&self.control, RECORDS_WAKE), Self::word(&self.control, DURABLE_WAKE))
    }

    /// Asks as a waiter does that is killed afterwards.
    fn ask(&self, reasons: u64) {
        self.waiters.write_all_at(&reasons.to_le_bytes(), ASKED).unwrap();
    }
}

/// Checks that a change answers the waiters for records once, and the same change again does not.
/// The first function prepares each change.
fn assert_answers_once(pages: &Pages, name: &str, mut prepare: impl FnMut(), mut change: impl FnMut()) {
    let mut wakes_of = |asked| {
        prepare();
        pages.ask(asked);
        let before = pages.wakes();
        change();
        let after = pages.wakes();
        (after.0 - before.0, after.1 - before.1, pages.asked())
    };
    assert_eq!(wakes_of(0), (0, 0, 0), "{name} without a waiter");
    assert_eq!(wakes_of(FOR_RECORDS | FOR_DURABLE), (1, 0, FOR_DURABLE), "{name}");
    assert_eq!(wakes_of(0), (0, 0, 0), "{name} after the waiter");
}

#[test]
fn each_kind_of_write_answers_a_waiter_once() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    let users = store.keyspace("users").unwrap();
    let pages = Pages::of(&path);
    let insert = || _ = store.insert("a", "1").unwrap();
    assert_answers_once(&pages, "insert", || (), insert);
    assert_answers_once(&pages, "remove", insert, || _ = store.remove("a").unwrap());
    let batch = || {
        let mut batch = WriteBatch::new();
        batch.insert("a", "1");
        batch.on(&users).insert("anna", "admin");
        store.write(&batch).unwrap();
    };
    assert_answers_once(&pages, "batch", || (), batch);
    assert_answers_once(&pages, "clear", batch, || _ = users.clear().unwrap());
    let create = || drop(store.keyspace("new").unwrap());
    let remove = || _ = store.drop_keyspace("new").unwrap();
    assert_answers_once(&pages, "creation", || store.drop_keyspace("new").map_or((), drop), create);
    assert_answers_once(&pages, "drop", create, remove);
    let mut names = ["users", "people", "all", "others"].into_iter().peekable();
    assert_answers_once(
        &pages,
        "rename",
        || (),
        || {
            let from = names.next().unwrap();
            store.rename_keyspace(from, names.peek().unwrap()).unwrap();
        },
    );
}

#[test]
fn sync_answers_those_that_wait_for_durability() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    let pages = Pages::of(&path);
    store.insert("a", "1").unwrap();
    let (records, durable) = pages.wakes();
    pages.ask(FOR_DURABLE);
    store.insert("a", "2").unwrap();
    assert_eq!((pages.wakes(), pages.asked()), ((records, durable), FOR_DURABLE));
    store.flush().unwrap();
    assert_eq!((pages.wakes(), pages.asked()), ((records, durable + 1), 0));
    pages.ask(FOR_RECORDS | FOR_DURABLE);
    store.close().unwrap();
    let (after_records, after_durable) = pages.wakes();
    assert!(after_records > records && after_durable > durable + 1);
    assert_eq!(pages.asked(), 0, "a close ends every wait");
}

#[test]
#[cfg(feature = "sim")]
fn request_for_a_sync_is_carried_out_by_a_step_of_the_writer() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    let pages = Pages::of(&path);
    let seq = store.insert("a", "1").unwrap();
    assert!(store.durable_seq() < seq);
    pages.waiters.write_all_at(&seq.0.to_le_bytes(), WANTED).unwrap();
    pages.ask(FOR_SYNC);
    assert!(store.step().unwrap());
    assert_eq!((store.durable_seq(), pages.asked()), (seq, 0));
    // A request for what is durable costs no sync.
    for wanted in [Seq(1), seq] {
        let before = store.stats().syncs;
        pages.waiters.write_all_at(&wanted.0.to_le_bytes(), WANTED).unwrap();
        pages.ask(FOR_SYNC);
        while store.step().unwrap() {}
        assert_eq!((store.stats().syncs, pages.asked()), (before, 0));
    }
}

#[test]
fn damaged_waiters_page_is_not_believed_and_is_renewed() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    drop(options().open(&path).unwrap());
    for content in [vec![], vec![0xff; 4096], vec![7; 100]] {
        std::fs::write(path.join("WAITERS"), &content).unwrap();
        let store = options().open(&path).unwrap();
        store.insert("a", "1").unwrap();
        let mut follower = Child::start("follow", &path);
        // The follower has opened the store.
        follower.ask("look");
        follower.order("wait");
        let seq = store.insert("a", "2").unwrap();
        assert_eq!(follower.report(), Some(format!("true {}", seq.0)));
        assert!(follower.end().success());
        store.close().unwrap();
    }
}

/// Writes after each order to wait, and checks that the wait ends with that write.
fn assert_waits(store: &Store, follower: &mut Child, order: &str, rounds: u32) {
    for round in 0..rounds {
        follower.order(order);
        let seq = store.insert(round.to_le_bytes(), order).unwrap();
        assert_eq!(follower.report(), Some(format!("true {}", seq.0)), "{order}, round {round}");
    }
}

#[test]
fn followers_wait_for_each_write_of_another_process() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    let mut follower = Child::start("follow", &path);
    // The follower has opened the store.
    follower.ask("look");
    for order in ["wait", "spin-wait", "poll-wait"] {
        assert_waits(&store, &mut follower, order, 100);
    }
    // Each round, the follower has asked before the write comes.
    let pages = Pages::of(&path);
    for round in 0..100_u32 {
        follower.order("wait");
        while pages.asked() & FOR_RECORDS == 0 {
            std::thread::yield_now();
        }
        let seq = store.insert(round.to_le_bytes(), "late").unwrap();
        assert_eq!(follower.report(), Some(format!("true {}", seq.0)), "round {round}");
    }
    assert!(follower.end().success());
}

#[test]
fn waiter_outlives_the_writers_restart_and_kill() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    let mut follower = Child::start("follow", &path);
    follower.ask("look");
    store.close().unwrap();
    follower.order("wait");
    let store = options().open(&path).unwrap();
    let seq = store.insert("a", "1").unwrap();
    let answer = follower.report().unwrap();
    // The wait may have ended with the first record of the log itself.
    assert!(answer.starts_with("true"), "{answer}");
    assert!(follower.look().seq >= seq.0);
    drop(store);
    let killed = Child::start("write", &path);
    follower.order("wait");
    drop(killed);
    let store = options().open(&path).unwrap();
    store.insert("a", "2").unwrap();
    assert!(follower.report().unwrap().starts_with("true"));
    assert!(follower.end().success());
}

#[test]
fn follower_makes_a_write_of_another_process_durable() {
    use rustix::io::Errno;
    use rustix::thread::{ClockId, futex::WaitvFlags, futex::waitv};
    if waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) != Err(Errno::INVAL) {
        let reason = "this system cannot sleep on several words";
        return crate::skip("follower_makes_a_write_of_another_process_durable", reason);
    }
    let scratch = scratch();
    let path = scratch.path().join("store");
    // With a worker, which sleeps between the rounds.
    let store = Options::new().open(&path).unwrap();
    let mut follower = Child::start("follow", &path);
    for round in 0..30_u32 {
        let seq = store.insert(round.to_le_bytes(), "value").unwrap();
        let answer = follower.ask("durable");
        let (is_durable, shown) = answer.split_once(' ').unwrap();
        assert_eq!(is_durable, "true", "round {round}");
        assert!(shown.parse::<u64>().unwrap() >= seq.0 && store.durable_seq() >= seq, "{answer}");
    }
    assert!(follower.end().success());
}

// ---- The cost for the writer --------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
const PUTS: u32 = 10_000;

/// Counts the futex calls of puts: without a waiter, and with one that was killed. A part of a child,
/// because the allocator of this process may be used by other threads.
#[cfg(target_arch = "x86_64")]
pub(crate) fn answers(path: &Path) {
    let store = Options::new().background(false).open(path).unwrap();
    let pages = Pages::of(path);
    let mut report = Vec::new();
    for reasons in [0, FOR_RECORDS] {
        pages.ask(reasons);
        let counts = crate::counted::calls_of(|| {
            for n in 0..PUTS {
                store.insert((n % 100).to_le_bytes(), n.to_le_bytes()).unwrap();
            }
        });
        let futex = usize::try_from(libc::SYS_futex).unwrap();
        report.push(counts.map_or("unavailable".to_owned(), |counts| counts[futex].to_string()));
    }
    crate::child::tell(&report.join(" "));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn puts_make_one_call_for_a_dead_waiter_and_none_without() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let mut writer = Child::start("answers", &path);
    let report = writer.report().unwrap();
    if report.contains("unavailable") {
        let reason = "this kernel does not tell one thread of the system calls of another";
        return crate::skip("puts_make_one_call_for_a_dead_waiter_and_none_without", reason);
    }
    assert_eq!(report, "0 1");
    assert!(writer.end().success());
}
