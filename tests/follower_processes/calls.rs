//! The system calls of followers, and those that a writer makes beside them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::child::{Child, command_line};
use crate::contents::held;
use crate::{digest, options, scratch, skip};

// ---- No call that writes ------------------------------------------------------------------------

/// The traced calls: all that take a path or a descriptor, and others that change a file.
const TRACED: &str = "trace=%file,%desc,msync,sync,syncfs,fsync,fdatasync,process_vm_writev";

/// The calls that a follower may make on a file or the directory of the store.
const READS: [&str; 14] = [
    "open",
    "openat",
    "close",
    "read",
    "pread64",
    "readv",
    "preadv",
    "mmap",
    "fstat",
    "newfstatat",
    "statx",
    "fstatfs",
    "lseek",
    "getdents64",
];

/// Returns the name of the call in a line of a trace. `None` for the rest of an interrupted call,
/// signals and exits.
fn call_in(line: &str) -> Option<&str> {
    let call = line.split_once('(')?.0.rsplit(' ').next()?;
    call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(call)
}

/// Returns true if a line of a trace is a call that changes a file, or takes a lock.
fn writes(line: &str, store: &str) -> bool {
    const CHANGES: [&str; 22] = [
        "fallocate",
        "ftruncate",
        "truncate",
        "unlink",
        "unlinkat",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
        "mkdir",
        "mkdirat",
        "mknodat",
        "fsync",
        "fdatasync",
        "msync",
        "sync_file_range",
        "utimensat",
        "flock",
        "creat",
    ];
    const WRITES: [&str; 6] = ["write", "pwrite64", "writev", "pwritev", "sendfile", "copy_file_range"];
    const OPENS: [&str; 4] = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
    let Some(call) = call_in(line) else { return false };
    // The report goes to a pipe, and so does the output of the test runner.
    let is_to_pipe = line.contains("(1<pipe:") || line.contains("(2<");
    let shares =
        line.contains("MAP_SHARED") && line.contains("PROT_WRITE") && !line.contains("MAP_ANONYMOUS");
    CHANGES.contains(&call)
        || WRITES.contains(&call) && !is_to_pipe
        || call.starts_with("open") && OPENS.iter().any(|flag| line.contains(flag))
        || line.contains("F_SETLK")
        || line.contains("F_OFD_SETLK")
        || call == "mmap" && shares
        || line.contains(store) && !READS.contains(&call) && !line.contains("F_GETF") && !is_to_pipe
}

/// Returns the command of a traced child.
fn traced(trace: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", TRACED, "-e", "signal=none", "-o"]);
    command.arg(trace).args(command_line());
    command
}

#[test]
fn follower_makes_no_call_that_writes() {
    const TEST: &str = "follower_makes_no_call_that_writes";
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(TEST, "there is no strace");
    }
    let scratch = scratch();
    let (path, trace) = (scratch.path().join("store"), scratch.path().join("trace"));
    let mut store = options().open(&path).unwrap();
    store.keyspace("users").unwrap().insert("anna", "admin").unwrap();
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output().unwrap();
    if !probe.status.success() {
        return skip(TEST, "nothing can be traced");
    }
    let mut follower = Child::start_as(traced(&trace), "follow", &path);
    let mut jumps = 0;
    for round in 0..12_u64 {
        for n in 0..100 {
            store.insert(format!("{}", n % 50), vec![7; usize::try_from(round).unwrap() * 100]).unwrap();
        }
        if round % 3 == 2 {
            store.compact().unwrap();
        }
        if round % 4 == 3 {
            store.close().unwrap();
            store = options().open(&path).unwrap();
        }
        if round < 6 || round % 3 == 2 {
            let look = follower.look();
            assert_eq!(look.digest, digest(&held(&store)), "{look:?}");
            jumps += u32::from(look.jumped);
        }
    }
    follower.ask("verify");
    assert!(follower.end().success());
    let calls = fs::read_to_string(&trace).unwrap();
    let store_path = path.to_str().unwrap();
    let about = calls.lines().filter(|line| line.contains(store_path)).count();
    println!("{about} of {} calls are about the store, {jumps} jumps", calls.lines().count());
    assert!(calls.contains("CONTROL") && calls.contains("MANIFEST.0") && about > 50, "{about}");
    // The follower knows no file but those that it reads.
    let lock = calls.lines().find(|line| line.contains(store_path) && line.contains("\"LOCK\""));
    assert_eq!(lock, None);
    let wrong: Vec<_> = calls.lines().filter(|line| writes(line, store_path)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    drop(store);
    // Checks that the filter finds the calls of a writer.
    assert!(Child::start_as(traced(&trace), "open", &path).end().success());
    let calls = fs::read_to_string(&trace).unwrap();
    let found: Vec<_> = calls.lines().filter(|line| writes(line, store_path)).filter_map(call_in).collect();
    for call in ["flock", "openat", "pwrite64", "fsync", "msync", "mmap"] {
        assert!(found.contains(&call), "{call} is not in {found:?}");
    }
}

// ---- Numbers of calls ---------------------------------------------------------------------------

/// Names the calls that were counted, by their number in the system.
#[cfg(target_arch = "x86_64")]
fn brief(counts: &crate::counted::Counts) -> Vec<(usize, u64)> {
    counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect()
}

#[cfg(target_arch = "x86_64")]
const UNAVAILABLE: &str = "this kernel does not tell one thread of the system calls of another";

/// Counts the calls of refreshes that find nothing new. A part of a child.
#[cfg(target_arch = "x86_64")]
pub(crate) fn idle(path: &Path) {
    use std::time::Instant;
    let follower = mapcask::Follower::open(path).unwrap();
    follower.refresh().unwrap();
    let begun = Instant::now();
    let counts = crate::counted::calls_of(|| {
        for _ in 0..1000 {
            assert_eq!(follower.refresh().unwrap().records, 0);
        }
    });
    match counts {
        None => crate::child::tell("unavailable"),
        Some(counts) => {
            let sum: u64 = counts.iter().sum();
            crate::child::tell(&format!("{sum} {} {:?}", begun.elapsed().as_secs(), brief(&counts)));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn refresh_with_nothing_new_makes_hardly_a_call() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    for n in 0..300_u32 {
        store.insert(n.to_le_bytes(), [7; 1000]).unwrap();
    }
    let mut follower = Child::start("idle", &path);
    let report = follower.report().unwrap();
    if report == "unavailable" {
        return skip("refresh_with_nothing_new_makes_hardly_a_call", UNAVAILABLE);
    }
    println!("calls, seconds, calls by number: {report}");
    let mut words = report.split(' ').map(|word| word.parse::<u64>());
    let (calls, seconds) = (words.next().unwrap().unwrap(), words.next().unwrap().unwrap());
    // Once a second a refresh checks the place of the store.
    assert!(calls <= 4 * (seconds + 2), "{report}");
    assert!(follower.end().success());
    store.insert("key", "value").unwrap();
}

/// Counts the calls of puts, after as many others. A part of a child, because the allocator of this
/// process makes calls that depend on other tests.
#[cfg(target_arch = "x86_64")]
pub(crate) fn puts(path: &Path) {
    const PUTS: u64 = 10_000;
    let store = mapcask::Options::new().background(false).segment_bytes(1 << 20).open(path).unwrap();
    let puts = |from: u64| {
        for n in from..from + PUTS {
            store.insert((n % 1000).to_le_bytes(), [7; 300]).unwrap();
        }
    };
    puts(0);
    crate::child::tell("ready");
    std::io::stdin().lines().next().unwrap().unwrap();
    let counts = crate::counted::calls_of(|| puts(PUTS));
    let counts = counts.map_or("unavailable".to_owned(), |counts| format!("{:?}", brief(&counts)));
    crate::child::tell(&counts);
    // The store stays open until the parent has compared.
    std::io::stdin().lines().next().unwrap().unwrap();
    crate::child::tell(&digest(&held(&store)).to_string());
}

/// Returns the calls of a writer.
#[cfg(target_arch = "x86_64")]
fn calls_of_puts(path: &Path, is_followed: bool) -> String {
    let mut writer = Child::start("puts", path);
    assert_eq!(writer.report().as_deref(), Some("ready"));
    let mut follower = is_followed.then(|| Child::start("follow", path));
    if let Some(follower) = &mut follower {
        follower.ask("spin");
        follower.look();
    }
    let counts = writer.ask("go");
    let look = follower.as_mut().map(Child::look);
    let held = writer.ask("compare");
    assert!(look.is_none_or(|look| look.digest.to_string() == held));
    counts
}

#[cfg(target_arch = "x86_64")]
#[test]
fn writer_makes_as_many_calls_with_a_follower_as_without() {
    let scratch = scratch();
    let alone = calls_of_puts(&scratch.path().join("alone"), false);
    if alone == "unavailable" {
        return skip("writer_makes_as_many_calls_with_a_follower_as_without", UNAVAILABLE);
    }
    println!("calls by number: {alone}");
    // A roll makes some.
    assert_ne!(alone, "[]");
    assert_eq!(calls_of_puts(&scratch.path().join("followed"), true), alone);
}
