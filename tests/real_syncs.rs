//! Tests that the syncs of a store reach the kernel: the right call, on the right file, in the
//! right order.
//!
//! The simulated disk sees the syncs that the store requests, and a power cut needs root and a
//! device. Here the kernel reports them. A filter of system calls hands each sync of one thread to
//! another thread, which records it and lets it continue.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(unsafe_code, reason = "the filter and its listener are system calls that only libc has")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Durability, Options, Store};

/// System calls, with their names.
type Calls = [(libc::c_long, &'static str)];

/// The calls that make something durable.
const SYNCS: &Calls = &[
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_msync, "msync"),
    (libc::SYS_sync_file_range, "sync_file_range"),
    (libc::SYS_syncfs, "syncfs"),
    (libc::SYS_sync, "sync"),
];

/// The calls that look at a file.
const LOOKS: &Calls = &[
    (libc::SYS_statx, "statx"),
    (libc::SYS_newfstatat, "newfstatat"),
    (libc::SYS_fstat, "fstat"),
    (libc::SYS_lstat, "lstat"),
    (libc::SYS_stat, "stat"),
];

fn statement(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: jump_true, jf: jump_false, k }
}

/// Makes every later one of these calls of this thread wait until the holder of the descriptor lets
/// it continue. Returns `None` where the kernel does not allow that.
fn announce(calls: &Calls) -> Option<OwnedFd> {
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (number, _) in calls {
        program.push(statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::try_from(*number).unwrap(),
        ));
        program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let len = libc::c_ushort::try_from(program.len()).unwrap();
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: it takes numbers only.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the filter and its program live until the call returns; the kernel copies them.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
    let listener = RawFd::try_from(listener).ok().filter(|listener| *listener >= 0)?;
    // SAFETY: the descriptor was just made, and no other owner has it.
    Some(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Lets the waiting call continue, and returns it. Returns `None` once the thread has ended.
fn next_call(listener: &OwnedFd, calls: &Calls) -> Option<String> {
    let mut wait = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, writable.
    let ready = unsafe { libc::poll(&raw mut wait, 1, -1) };
    assert_eq!(ready, 1);
    if wait.revents & libc::POLLIN == 0 {
        return None;
    }
    // SAFETY: zeros are a valid value of this plain struct, and what the call asks for.
    let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is writable, and of the type that the call fills.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut told) };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    let (_, name) = calls.iter().find(|(number, _)| *number == told.data.nr.into()).unwrap();
    let [first, _, _, fourth, ..] = told.data.args;
    let of = match *name {
        "msync" => String::new(),
        "statx" if first.to_le_bytes()[..4] == libc::AT_FDCWD.to_le_bytes() => " of a path".into(),
        "statx" if fourth & u64::from(libc::STATX_MTIME | libc::STATX_CTIME) != 0 => " with times".into(),
        "statx" | "newfstatat" | "fstat" | "lstat" | "stat" => String::new(),
        _ => {
            let path = std::fs::read_link(format!("/proc/self/fd/{first}")).unwrap();
            format!(" {}", path.file_name().unwrap().to_str().unwrap())
        }
    };
    let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap();
    let answer = libc::seccomp_notif_resp { id: told.id, val: 0, error: 0, flags };
    // SAFETY: the answer is readable, and of the type that the call takes.
    let sent =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    Some(format!("{name}{of}"))
}

/// Returns the syncs of some work, in order. The work must not leave its thread.
fn syncs_of(work: impl FnOnce() + Send) -> Option<Vec<String>> {
    calls_of(SYNCS, work)
}

/// Returns those of some calls that the work makes, in order. The work must not leave its thread.
fn calls_of(calls: &Calls, work: impl FnOnce() + Send) -> Option<Vec<String>> {
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let worker = scope.spawn(move || {
            let listener = announce(calls);
            let is_told = listener.is_some();
            send.send(listener).unwrap();
            if is_told {
                work();
            }
        });
        let Some(listener) = receive.recv().unwrap() else {
            eprintln!("SKIPPED: this kernel does not tell one thread of the system calls of another");
            return None;
        };
        let made = std::iter::from_fn(|| next_call(&listener, calls)).collect();
        worker.join().unwrap();
        Some(made)
    })
}

fn options() -> Options {
    Options::new().background(false).segment_bytes(64 << 10)
}

fn open(path: &Path) -> Store {
    options().open(path).unwrap()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns true if these are among the others, in this order.
fn in_order(all: &[String], wanted: &[&str]) -> bool {
    let mut all = all.iter();
    wanted.iter().all(|wanted| all.any(|one| one == wanted))
}

#[test]
fn a_new_store_is_durable_with_the_directories_above_it() {
    let base = directory();
    std::fs::create_dir(base.path().join("base")).unwrap();
    let path = base.path().join("base/above/data");
    let Some(syncs) = syncs_of(|| drop(open(&path))) else { return };
    // Each new directory is synced in the one above it.
    let order = ["fsync base", "fsync above", "fdatasync MANIFEST.0", "fdatasync MANIFEST.1", "fsync data"];
    assert!(in_order(&syncs, &order), "{syncs:#?}");
}

#[test]
fn a_new_store_syncs_the_parent_of_a_found_directory() {
    let base = directory();
    std::fs::create_dir_all(base.path().join("base/data")).unwrap();
    let path = base.path().join("base/data");
    let Some(syncs) = syncs_of(|| drop(open(&path))) else { return };
    assert!(in_order(&syncs, &["fsync base", "fdatasync MANIFEST.0", "fsync data"]), "{syncs:#?}");
}

#[test]
fn a_durable_write_syncs_the_pages_and_nothing_else() {
    let base = directory();
    let store = open(&base.path().join("data")).with_durability(Durability::Disk);
    store.insert("first", "1").unwrap();
    let Some(syncs) = syncs_of(|| _ = store.insert("second", "2").unwrap()) else { return };
    assert_eq!(syncs, ["msync"]);
    let syncs = syncs_of(|| {
        store.with_durability(Durability::Os).insert("third", "3").unwrap();
        store.flush().unwrap();
        store.flush().unwrap();
    });
    // The handle stays durable, so its write syncs. Neither flush has anything to do.
    assert_eq!(syncs.unwrap(), ["msync"]);
}

/// Cause: a sync looked at the times of its segment, and since Linux 6.13 the next change of a file
/// then gets a new time. Symptom: each durable write wrote the inode too, which took half as long
/// again. Fix: the checks before a sync ask for no times.
#[test]
fn a_durable_write_looks_at_no_times_of_a_file() {
    let base = directory();
    // A new segment is a new name, so it is large.
    let store = options().segment_bytes(64 << 20).durability(Durability::Disk);
    let store = store.open(base.path().join("data")).unwrap();
    store.insert("first", "1").unwrap();
    let path = "statx of a path";
    for name in ["data/one", "data/two"] {
        // A change of a name: the path of the directory; the lock file and its name; the manifests; the segment's
        // name and the segment.
        std::fs::write(base.path().join(name), "").unwrap();
        let Some(looks) = calls_of(LOOKS, || _ = store.insert("second", "2").unwrap()) else { return };
        assert_eq!(looks, [path, "statx", "statx", "statx", "statx", "statx", "statx"]);
        // Two looks are left once the names have not changed for a time: at the directory, and at the segment.
        let began = Instant::now();
        while calls_of(LOOKS, || _ = store.insert("third", "3").unwrap()).unwrap() != [path, "statx"] {
            assert!(began.elapsed() < Duration::from_secs(60), "the names do not change");
        }
    }
}

#[test]
fn a_segment_is_synced_before_name_and_manifest() {
    let base = directory();
    let store = open(&base.path().join("data"));
    store.insert("first", "1").unwrap();
    let mut made = Vec::new();
    for n in 0..40_u64 {
        let Some(syncs) = syncs_of(|| _ = store.insert(n.to_le_bytes(), [7; 5000]).unwrap()) else {
            return;
        };
        made.extend(syncs);
    }
    let segments: Vec<&String> = made.iter().filter(|sync| sync.contains(".seg")).collect();
    assert!(segments.len() >= 2, "{made:#?}");
    for segment in segments {
        // The file is reported under its temporary name or its final one; both contain `.seg`.
        let at = made.iter().position(|sync| sync == segment).unwrap();
        assert_eq!(
            made[at + 1..at + 4],
            ["fsync data", "fdatasync MANIFEST.0", "fdatasync MANIFEST.1"],
            "{made:#?}"
        );
    }
}

#[test]
fn recovered_state_is_made_durable_before_the_first_change() {
    let base = directory();
    let (path, copy) = (base.path().join("data"), base.path().join("copy"));
    let store = open(&path);
    store.insert("first", "1").unwrap();
    // The copy is what a kill leaves.
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&path).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    drop(store);
    let above = base.path().file_name().unwrap().to_str().unwrap().to_owned();
    let Some(syncs) = syncs_of(|| {
        let store = open(&copy);
        assert_eq!(store.get("first").unwrap().as_deref(), Some(b"1".as_slice()));
        store.flush().unwrap();
    }) else {
        return;
    };
    let found = [&format!("fsync {above}"), "fdatasync MANIFEST.0", "fdatasync MANIFEST.1"];
    // Then come the change itself, and the records that were read from the page cache.
    let wanted =
        [&found[..], &["fdatasync MANIFEST.0", "fdatasync MANIFEST.1", "fdatasync 0000000001.seg"]].concat();
    assert!(in_order(&syncs, &wanted), "{syncs:#?}");
}

/// A store that finds no page gets a private copy of it, which `msync` passes over. Records that
/// were published in such a page before lie in the file's own.
#[test]
fn sync_after_a_store_without_a_page_covers_the_file_itself() {
    let base = directory();
    let path = base.path().join("data");
    let store = open(&path);
    store.insert("first", [1; 3000]).unwrap();
    let segment = std::fs::File::options().write(true).open(path.join("0000000001.seg")).unwrap();
    let len = segment.metadata().unwrap().len();
    segment.set_len(4096).unwrap();
    // This record begins in the page that is left, and ends in one that is gone.
    store.insert("second", [2; 3000]).unwrap_err();
    segment.set_len(len).unwrap();
    let Some(syncs) = syncs_of(|| store.flush().unwrap()) else { return };
    assert!(in_order(&syncs, &["msync", "fdatasync 0000000001.seg"]), "{syncs:#?}");
}

/// The table in the documentation of `Background` has these numbers.
#[test]
fn a_small_store_takes_the_documented_syncs() {
    let base = directory();
    let path = base.path().join("data");
    let mut store = None;
    let Some(created) = syncs_of(|| store = Some(open(&path))) else { return };
    store.take().unwrap().close().unwrap();
    let opened = syncs_of(|| store = Some(open(&path))).unwrap();
    let store = store.unwrap();
    let first = syncs_of(|| _ = store.insert("key", "value").unwrap()).unwrap();
    let closed = syncs_of(|| drop(store.close())).unwrap();
    assert_eq!(opened, [""; 0]);
    assert_eq!((created.len(), first.len(), closed.len()), (10, 5, 4), "{created:#?} {first:#?} {closed:#?}");
}
