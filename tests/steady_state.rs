//! Tests exact counts in the steady state: no system call or page fault for a put or a get, and few
//! syncs.
//!
//! A filter of system calls cannot be removed again, so the counting runs in a child process. The
//! child is this test binary, started for one test, with the directory in its environment. One of
//! its threads measures, behind a filter that ends the process at the first forbidden system call,
//! and names it. Another thread does the worker's steps through [`Store::step`] at the request of
//! the first, so that no result depends on scheduling.
#![cfg(all(target_os = "linux", target_arch = "x86_64", feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(unsafe_code, reason = "the filter and the counts are system calls that only libc has")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::hint::{black_box, spin_loop};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::thread;

use mapcask::sim::SimDisk;
use mapcask::{Durability, Options, Store};

const CHILD: &str = "MAPCASK_STEADY_STATE_DIRECTORY";
const KEYS: u64 = 100_000;
const VALUE: [u8; 100] = [7; 100];
/// The puts between two runs of the worker's steps: 1.4 MiB of the 16 MiB that are prefaulted.
const CHUNK: u64 = 10_000;
/// Exit codes of the child.
const FORBIDDEN: i32 = 3;
const UNAVAILABLE: i32 = 4;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

// ---- System calls -------------------------------------------------------------------------------

/// Prints the number of a forbidden system call, and ends the process.
extern "C" fn forbidden(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` of 128 bytes, and byte 24 lies inside of it.
    let number = unsafe { info.cast::<i32>().add(6) };
    // SAFETY: SIGSYS has the number of the call there (`_sigsys` in sigaction(2)): initialised, and
    // aligned.
    let number = unsafe { number.read() };
    let mut text = *b"system call ....\n";
    for (at, digit) in (12..16).rev().zip([1, 10, 100, 1000]) {
        text[at] = b'0' + u8::try_from(number / digit % 10).unwrap_or(b'?');
    }
    // SAFETY: the bytes are readable for their length; `write` may be called by a signal handler.
    let _ = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    // SAFETY: it may be called by a signal handler, and does not return.
    unsafe { libc::_exit(FORBIDDEN) }
}

fn statement(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: jump_true, jf: jump_false, k }
}

/// Forbids this thread most system calls from here on. Returns false where the kernel cannot.
fn forbid_system_calls() -> bool {
    // These wait and wake, count faults, serve the handler, and end the process.
    let allowed = [libc::SYS_futex, libc::SYS_getrusage, libc::SYS_write, libc::SYS_exit_group];
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for number in allowed {
        let number = u32::try_from(number).unwrap();
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number));
        program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRAP));
    let len = libc::c_ushort::try_from(program.len()).unwrap();
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: zeros are a valid value of this plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = forbidden as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the action is initialised, and its handler keeps to what handlers may do.
    let set = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    // SAFETY: it takes numbers only.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    // SAFETY: the filter and its program live until the call returns; the kernel copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    set == 0
}

/// Returns the number of page faults of this thread.
fn faults() -> i64 {
    // SAFETY: zeros are a valid value of this plain struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is writable and of the size that the call fills.
    let got = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(got, 0);
    usage.ru_minflt + usage.ru_majflt
}

// ---- The child ----------------------------------------------------------------------------------

/// The state that the measuring thread and the worker's thread share, without system calls.
#[derive(Default)]
struct Board {
    asked: AtomicU64,
    answered: AtomicU64,
    /// 1 once measured; 2 if there is no filter.
    done: AtomicU64,
    put_faults: AtomicI64,
    get_faults: AtomicI64,
}

impl Board {
    /// Requests the worker's steps, and waits for them.
    fn help(&self) {
        let asked = self.asked.fetch_add(1, SeqCst) + 1;
        while self.answered.load(SeqCst) < asked {
            spin_loop();
        }
    }
}

fn put(store: &Store, board: &Board, numbers: std::ops::Range<u64>) {
    for n in numbers {
        if n.is_multiple_of(CHUNK) {
            board.help();
        }
        // The keys have no order, so that buckets and old records are met as in real use.
        store.insert(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(), VALUE).unwrap();
    }
}

fn get(store: &Store, count: u64) {
    for n in 0..count {
        let key = (n * 7 % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let absent = (!n).to_le_bytes();
        match n % 4 {
            0 => assert_eq!(store.get(key).unwrap().unwrap(), VALUE),
            1 => assert_eq!(store.view().get(key).unwrap().unwrap(), VALUE),
            2 => assert!(store.contains_key(key).unwrap()),
            _ => assert!(black_box(store.get(absent)).unwrap().is_none()),
        }
    }
}

fn measure(store: &Store, board: &Board) {
    // The first segments are small. After 43 MB the active one has its full size and lasts to the
    // end.
    put(store, board, 0..KEYS);
    put(store, board, 0..KEYS);
    put(store, board, 0..KEYS);
    get(store, KEYS * 8);
    board.help();
    store.flush().unwrap();
    faults();
    if !forbid_system_calls() {
        board.done.store(2, SeqCst);
        return;
    }
    store.flush().expect("nothing to make durable");
    let before = faults();
    put(store, board, 0..KEYS);
    put(store, board, KEYS..2 * KEYS);
    let between = faults();
    get(store, 1_000_000);
    board.put_faults.store(between - before, SeqCst);
    board.get_faults.store(faults() - between, SeqCst);
    board.done.store(1, SeqCst);
    // Even the end of a thread takes system calls.
    loop {
        thread::park();
    }
}

fn child(path: &std::ffi::OsStr) {
    let store = Options::new().background(false).open(path).unwrap();
    let board: &Board = Box::leak(Box::default());
    let measured = store.clone();
    thread::spawn(move || measure(&measured, board));
    let done = loop {
        if board.done.load(SeqCst) != 0 {
            break board.done.load(SeqCst);
        }
        let asked = board.asked.load(SeqCst);
        if board.answered.load(SeqCst) < asked {
            while store.step().unwrap() {}
            board.answered.store(asked, SeqCst);
        }
        thread::yield_now();
    };
    if done == 2 {
        std::process::exit(UNAVAILABLE);
    }
    let (puts, gets) = (board.put_faults.load(SeqCst), board.get_faults.load(SeqCst));
    let stats = store.stats();
    eprintln!("page faults: {puts} in {} puts, {gets} in 1000000 gets; {stats:?}", 2 * KEYS);
    // Write-back may protect a page between the worker's step and the write: 20 per million.
    let good = puts <= 4 && gets == 0 && stats.stalls <= 8;
    std::process::exit(i32::from(!good));
}

#[test]
fn steady_puts_and_gets_make_no_system_call_or_page_fault() {
    if let Some(path) = std::env::var_os(CHILD) {
        return child(&path);
    }
    let directory = directory();
    let name = "steady_puts_and_gets_make_no_system_call_or_page_fault";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(CHILD, directory.path().join("data"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => eprintln!("{text}"),
        Some(UNAVAILABLE) => eprintln!("SKIPPED: this kernel does not let a thread filter its system calls"),
        other => panic!("{other:?}: {text}"),
    }
}

// ---- Syncs --------------------------------------------------------------------------------------

#[test]
fn durable_put_syncs_once_and_an_empty_flush_never() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).durability(Durability::Disk).open_on(&disk).unwrap();
    for n in 0..100_u64 {
        let before = store.stats().syncs;
        store.insert(n.to_le_bytes(), VALUE).unwrap();
        assert_eq!(store.stats().syncs, before + 1);
    }
    let (before, operations) = (store.stats(), disk.operations());
    store.flush().unwrap();
    assert_eq!(store.stats().syncs, before.syncs);
    assert_eq!(disk.operations(), operations);
    while store.step().unwrap() {}
    let operations = disk.operations();
    assert!(!store.step().unwrap());
    assert_eq!(disk.operations(), operations, "an idle store does nothing");
}

#[test]
fn durable_writers_never_need_more_than_a_sync_each() {
    const WRITERS: usize = 8;
    const WRITES: usize = 100;
    let directory = directory();
    let options = Options::new().durability(Durability::Disk);
    let store = options.open(directory.path().join("data")).unwrap();
    let barrier = Barrier::new(WRITERS);
    let before = store.stats().syncs;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                for n in 0..WRITES {
                    // All eight start together: the first leads alone, the others wait for the next
                    // sync.
                    barrier.wait();
                    store.insert(format!("{writer} {n}"), VALUE).unwrap();
                }
            });
        }
    });
    let syncs = store.stats().syncs - before;
    eprintln!("{syncs} syncs for {} writes", WRITERS * WRITES);
    // The number that share one depends on the time of a sync. The unit tests of `commit` count
    // groups exactly.
    assert!(syncs <= (WRITERS * WRITES) as u64, "{syncs} syncs for {} writes", WRITERS * WRITES);
}

// ---- Idleness -----------------------------------------------------------------------------------

/// Returns the number of times that each thread with that name has gone to sleep.
fn naps(name: &str) -> Vec<u64> {
    let mut naps = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end while the list is read.
        let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |wanted| status.lines().find_map(|line| line.strip_prefix(wanted)).map(str::trim);
        if field("Name:") == Some(name) {
            naps.push(field("voluntary_ctxt_switches:").unwrap().parse().unwrap());
        }
    }
    naps
}

#[test]
fn worker_of_an_idle_store_comes_to_rest() {
    if let Some(path) = std::env::var_os(CHILD) {
        return idle_child(&path);
    }
    let directory = directory();
    let name = "worker_of_an_idle_store_comes_to_rest";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(CHILD, directory.path().join("data"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Checks that the one worker of this process comes to rest. It looks around every millisecond
/// until nothing has moved fifty times. A worker that never rests keeps this loop running for ever,
/// whatever the scheduler does.
fn idle_child(path: &std::ffi::OsStr) {
    let store = Store::open(path).unwrap();
    store.insert("a", "1").unwrap();
    let mut unchanged = 0_u32;
    let mut before = naps("mapcask");
    // A read of /proc takes some microseconds; the worker sleeps a thousand between two looks.
    while unchanged < 10_000 {
        let now = naps("mapcask");
        // The thread has its name only once it runs.
        unchanged = if now == before && now.len() == 1 { unchanged + 1 } else { 0 };
        before = now;
    }
    assert_eq!(store.stats().worker_wakes, 0);
}
