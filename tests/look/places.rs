//! Tests of read-only opens on the real file system: listings with times and owners, system calls,
//! other users, and file systems that cannot be written.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mapcask::{Error, Follower, Options, Store};

use crate::file_system::{FileSystem, Kind, run};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options() -> Options {
    Options::new().segment_bytes(64 << 10).background(false)
}

fn read_only() -> Options {
    options().read_only(true)
}

/// The path, metadata and contents of a file, except for the time of its last access.
type Entry = (PathBuf, [u64; 10], Vec<u8>);

fn listing(path: &Path) -> Vec<Entry> {
    let of = |path: &Path| {
        let of = fs::symlink_metadata(path).unwrap();
        let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()].map(i64::cast_unsigned);
        let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
        let owner = u64::from(of.uid()) << 32 | u64::from(of.gid());
        let who = [of.ino(), of.nlink(), u64::from(of.mode()), owner, of.size(), of.blocks()];
        let [inode, links, mode, owner, size, blocks] = who;
        [inode, links, mode, owner, size, blocks, mtime, mtime_nsec, ctime, ctime_nsec]
    };
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files.map(|file| (file.clone(), of(&file), fs::read(&file).unwrap())).collect();
    all.push((path.to_owned(), of(path), Vec::new()));
    all.sort();
    all
}

fn fill(store: &Store) {
    let users = store.keyspace("users").unwrap();
    for n in 0..400_u32 {
        store.insert(format!("a{n}"), [7; 1000]).unwrap();
        users.insert(format!("a{n}"), [8; 10]).unwrap();
    }
    store.insert("key", "value").unwrap();
}

/// Copies the files of an open store to `at`, as the death of its process would leave them.
fn killed(at: &Path) {
    let scratch = scratch();
    let store = options().open(scratch.path()).unwrap();
    fill(&store);
    store.flush().unwrap();
    fill(&store);
    fs::create_dir_all(at).unwrap();
    for entry in fs::read_dir(scratch.path()).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), at.join(entry.file_name())).unwrap();
    }
}

/// Returns the path of the segment file with the highest number.
fn last_segment(path: &Path) -> PathBuf {
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "seg")).max().unwrap()
}

/// The name of a state, and a function that brings a directory into it.
type State = (&'static str, fn(&Path));

/// The tested states of a real directory.
const STATES: [State; 5] = [
    ("closed", |path| {
        let store = options().open(path).unwrap();
        fill(&store);
        store.close().unwrap();
    }),
    ("killed", killed),
    ("torn", |path| {
        killed(path);
        // Adds a record of which only the first half was written.
        let last = last_segment(path);
        let mut bytes = fs::read(&last).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes[end.next_multiple_of(8)..][..64].fill(0xa5);
        fs::write(last, bytes).unwrap();
    }),
    ("in the middle of things", |path| {
        killed(path);
        // An unfinished segment, an unnamed checkpoint, no control page, and one copy of the
        // manifest.
        fs::write(path.join("0000009999.seg.tmp"), [0; 4096]).unwrap();
        fs::write(path.join("INDEX-000099"), [1; 100]).unwrap();
        fs::remove_file(path.join("CONTROL")).unwrap();
        fs::remove_file(path.join("MANIFEST.1")).unwrap();
    }),
    ("without a lock file", |path| {
        killed(path);
        fs::remove_file(path.join("LOCK")).unwrap();
    }),
];

/// Opens a store read-only through the library, and checks that it is complete.
fn look(path: &Path) {
    let store = read_only().open(path).unwrap();
    assert_eq!((store.len(), store.iter().filter(Result::is_ok).count()), (401, 401));
    assert_eq!(store.open_keyspace("users").unwrap().len(), 400);
    store.verify().unwrap();
    assert!(store.size_on_disk().unwrap() > 0 && store.stats().segments > 1);
    assert!(store.insert("a", "1").is_err() && store.compact().is_err());
    store.close().unwrap();
}

#[test]
fn read_only_open_changes_nothing_in_a_real_directory() {
    for (state, make) in STATES {
        let scratch = scratch();
        let path = scratch.path().join("data");
        make(&path);
        let before = listing(&path);
        look(&path);
        assert!(listing(&path) == before, "{state}");
        let store = options().open(&path).unwrap();
        assert_eq!(store.len(), 401, "{state}");
    }
}

#[test]
fn read_only_opens_share_the_lock_and_exclude_writers() {
    let scratch = scratch();
    killed(scratch.path());
    let before = listing(scratch.path());
    let (one, two) = (read_only().open(scratch.path()).unwrap(), read_only().open(scratch.path()).unwrap());
    drop(one);
    match options().open(scratch.path()) {
        Err(Error::Locked { pid: None, .. }) => {}
        other => panic!("the note in the lock file is that of a writer who is gone: {other:?}"),
    }
    assert!(matches!(mapcask::destroy(scratch.path()), Err(Error::Locked { pid: None, .. })));
    assert!(listing(scratch.path()) == before);
    drop(two);
    let store = options().open(scratch.path()).unwrap();
    match read_only().open(scratch.path()) {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
}

const EXT4: Kind = Kind { name: "ext4", make: &["mkfs.ext4", "-q", "-F", "-m", "0"], image_bytes: 24 << 20 };

#[test]
fn a_store_on_a_read_only_file_system_can_be_read() {
    let Some(file_system) = FileSystem::make("read-only", &EXT4) else { return };
    let path = file_system.mount().join("data");
    let mount = file_system.mount();
    let remount = |how| run("mount", &["-o", how, mount.to_str().unwrap()]).unwrap();
    killed(&path);
    let before = listing(&path);
    remount("remount,ro");
    look(&path);
    let follower = Follower::open(&path).unwrap();
    follower.verify().unwrap();
    assert_eq!(follower.len(), 401);
    drop(follower);
    let text = options().open(&path).unwrap_err().to_string();
    assert!(text.contains("`Follower::open`"), "{text}");
    remount("remount,rw");
    assert!(listing(&path) == before);
}

#[test]
fn killed_store_opens_on_a_full_file_system() {
    let Some(file_system) = FileSystem::make("full", &EXT4) else { return };
    let path = file_system.mount().join("data");
    killed(&path);
    // Another program fills the file system to the last block.
    let filler = file_system.mount().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    // The file system frees its reserve for delayed blocks once it has allocated them.
    for size in [1 << 20, 4096, 4096, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
        file.sync_all().unwrap();
    }
    let before = listing(&path);
    look(&path);
    assert!(listing(&path) == before);
    let mut len = 401;
    for _ in 0..2 {
        let store = options().open(&path).unwrap();
        assert_eq!((store.len(), store.iter().filter(Result::is_ok).count()), (len, len));
        store.verify().unwrap();
        // Writes use up the preallocated space.
        let refused = (0..1000).find_map(|n| match store.insert(format!("{len}-{n}"), [1; 1000]) {
            Ok(_) => None,
            Err(error) => Some((n, error)),
        });
        let (more, error) = refused.unwrap();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        len += more;
        store.close().unwrap();
    }
    let store = options().open(&path).unwrap();
    drop(file);
    fs::remove_file(filler).unwrap();
    store.insert("large", vec![1; 100_000]).unwrap();
    store.close().unwrap();
    assert!(options().open(&path).unwrap().contains_key("large").unwrap());
}

/// A read-only open makes no pages or files of its own. If it copied its mappings, a store of many
/// segments would take as much memory.
#[test]
fn read_only_open_copies_no_mapped_memory() {
    let scratch = scratch();
    {
        let store = Options::new().background(false).open(scratch.path().join("open")).unwrap();
        for n in 0..64_u32 {
            store.insert(n.to_le_bytes(), vec![7; 1 << 20]).unwrap();
        }
        let path = scratch.path().join("data");
        fs::create_dir(&path).unwrap();
        for entry in fs::read_dir(scratch.path().join("open")).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
    }
    let private = || {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut of_store = false;
        let mut sum = 0;
        for line in maps.lines() {
            if line.contains("/data/") || line.split(' ').next().is_some_and(|word| word.contains('-')) {
                of_store = line.contains(scratch.path().join("data").to_str().unwrap());
            }
            let bytes = line.strip_prefix("Anonymous:").filter(|_| of_store);
            sum += bytes.map_or(0, |rest| rest.trim().trim_end_matches(" kB").parse().unwrap());
        }
        sum
    };
    let store = read_only().open(scratch.path().join("data")).unwrap();
    assert!(!store.recovery_report().clean);
    assert!(store.values().all(|value| value.unwrap().iter().all(|byte| *byte == 7)));
    store.verify().unwrap();
    assert_eq!(private(), 0_u64, "kilobytes that are copies of the store's files");
}

/// Runs the tool, as another user if one is given.
fn tool(path: &Path, arguments: &[&str], user: Option<u32>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mapcask"));
    command.args(arguments).arg("--store").arg(path);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.output().unwrap()
}

/// The commands that only read.
#[cfg(feature = "cli")]
const LOOKS: [&[&str]; 5] = [&["stats"], &["verify"], &["keyspaces"], &["scan", "--values"], &["get", "key"]];

#[cfg(feature = "cli")]
#[test]
fn reading_commands_change_no_file() {
    for (state, make) in STATES {
        let scratch = scratch();
        let path = scratch.path().join("data");
        make(&path);
        if rustix::process::geteuid().is_root() {
            // The store belongs to a service, and its administrator runs the tool.
            for file in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).chain([path.clone()])
            {
                chown(file, Some(1234), Some(1234)).unwrap();
            }
        }
        let before = listing(&path);
        for arguments in LOOKS {
            let output = tool(&path, arguments, None);
            assert!(output.status.success() && !output.stdout.is_empty(), "{state}: {output:?}");
            assert!(listing(&path) == before, "{state}: {arguments:?}");
        }
    }
}

/// After a power cut a follower stops at a hole in the log. An open knows by the records behind it
/// that the lost ones were durable.
#[cfg(feature = "cli")]
#[test]
fn verify_command_finds_damage_in_front_of_durable_records() {
    let scratch = scratch();
    let (open, path) = (scratch.path().join("open"), scratch.path().join("data"));
    let store = Options::new().background(false).segment_bytes(4 << 20).open(&open).unwrap();
    store.insert("key", "the damaged value").unwrap();
    for n in 0..3_u32 {
        store.flush().unwrap();
        store.insert(n.to_le_bytes(), [7; 1000]).unwrap();
    }
    fs::create_dir(&path).unwrap();
    // The power cut took the control page.
    for entry in
        fs::read_dir(&open).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "CONTROL")
    {
        fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
    }
    assert!(tool(&path, &["verify"], None).status.success());
    let segment = last_segment(&path);
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(17).position(|window| window == b"the damaged value").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let before = listing(&path);
    let output = tool(&path, &["verify"], None);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is damaged at offset "), "{output:?}");
    assert!(listing(&path) == before);
}

#[cfg(feature = "cli")]
#[test]
fn reading_commands_make_no_writing_call() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("reading_commands_make_no_writing_call", "there is no strace");
    }
    let scratch = scratch();
    let path = scratch.path().join("data");
    killed(&path);
    let trace = scratch.path().join("trace");
    let run = |arguments: &[&str]| {
        let strace = ["-f", "-y", "-e", "trace=file,desc,fsync,fdatasync,msync,sync", "-o"];
        let output = Command::new("strace")
            .args(strace)
            .arg(&trace)
            .arg(env!("CARGO_BIN_EXE_mapcask"))
            .args(arguments)
            .arg("--store")
            .arg(&path)
            .output()
            .unwrap();
        (output.status.success(), fs::read_to_string(&trace).unwrap())
    };
    for arguments in LOOKS {
        let (success, calls) = run(arguments);
        if !success && calls.contains("ptrace") {
            return skip("reading_commands_make_no_writing_call", "nothing can be traced");
        }
        assert!(success, "{arguments:?}: {calls}");
        // Only a verification takes the lock, because it judges the files as an open does.
        let locks = arguments[0] == "verify";
        assert!(calls.contains("MANIFEST.0") && calls.contains("flock") == locks, "{calls}");
        assert_eq!(calls.lines().find(|line| writes(line)), None, "{arguments:?}");
    }
    // Checks that the filter finds the calls of a command that writes.
    let (success, calls) = run(&["del", "key"]);
    assert!(success && calls.lines().filter(|line| writes(line)).count() > 5, "{calls}");
}

/// Returns true if a line of a trace is a call that changes a file.
#[cfg(feature = "cli")]
fn writes(line: &str) -> bool {
    const CHANGES: [&str; 20] = [
        "fallocate(",
        "ftruncate(",
        "truncate(",
        "unlink(",
        "unlinkat(",
        "rename(",
        "renameat(",
        "renameat2(",
        "link(",
        "linkat(",
        "mkdir(",
        "mkdirat(",
        "fsync(",
        "fdatasync(",
        "msync(",
        "chmod(",
        "chown(",
        "utimensat(",
        "pwrite64(",
        "pwritev(",
    ];
    const OPENS: [&str; 4] = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
    let opens = line.contains("open(") || line.contains("openat(");
    let maps = line.contains("MAP_SHARED") && line.contains("PROT_WRITE");
    CHANGES.iter().any(|call| line.contains(call))
        || maps
        || opens && OPENS.iter().any(|flag| line.contains(flag))
}

/// Prints that a test was skipped, past the capture of its output.
fn skip(test: &str, reason: &str) {
    let text = format!("\n## {test} SKIPPED: {reason}; nothing was shown\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// The number of the user that owns nothing.
#[cfg(feature = "cli")]
const NOBODY: u32 = 65_534;

/// Makes a directory that every user may enter. Prints that the test was skipped unless root runs
/// it.
#[cfg(feature = "cli")]
fn scratch_of_root(test: &str) -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        skip(test, "not root");
        return None;
    }
    let scratch = scratch();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Some(scratch)
}

#[cfg(feature = "cli")]
#[test]
fn reading_commands_work_beside_a_writer_of_another_user() {
    const TEST: &str = "reading_commands_work_beside_a_writer_of_another_user";
    let Some(scratch) = scratch_of_root(TEST) else { return };
    let path = scratch.path().join("data");
    let store = options().open(&path).unwrap();
    fill(&store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in fs::read_dir(&path).unwrap().map(|entry| {
        let name = entry.unwrap().path();
        let mode = if name.ends_with("LOCK") { 0o600 } else { 0o644 };
        (name, mode)
    }) {
        fs::set_permissions(name, fs::Permissions::from_mode(mode)).unwrap();
    }
    if !tool(&path, &["--version"], Some(NOBODY)).status.success() {
        return skip(TEST, "another user cannot reach the tool");
    }
    let before = listing(&path);
    for arguments in LOOKS {
        let output = tool(&path, arguments, Some(NOBODY));
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    assert!(listing(&path) == before);
    store.insert("key", "another value").unwrap();
    let output = tool(&path, &["get", "key"], Some(NOBODY));
    assert_eq!(output.stdout, b"another value", "{output:?}");
}

#[cfg(feature = "cli")]
#[test]
fn read_only_open_needs_only_read_permission() {
    const TEST: &str = "read_only_open_needs_only_read_permission";
    let Some(scratch) = scratch_of_root(TEST) else { return };
    let path = scratch.path().join("data");
    killed(&path);
    let mode = |name: &str, mode| {
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    for entry in fs::read_dir(&path).unwrap() {
        mode(entry.unwrap().file_name().to_str().unwrap(), 0o644);
    }
    if !tool(&path, &["--version"], Some(NOBODY)).status.success() {
        return skip(TEST, "another user cannot reach the tool");
    }
    // Only the writer may read the lock file.
    mode("LOCK", 0o600);
    let before = listing(&path);
    for arguments in LOOKS {
        let output = tool(&path, arguments, Some(NOBODY));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    assert!(listing(&path) == before);
    for name in ["MANIFEST.0", "CONTROL", last_segment(&path).file_name().unwrap().to_str().unwrap()] {
        mode(name, 0o600);
        let output = tool(&path, &["stats"], Some(NOBODY));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(name) && text.contains("ermission denied"), "{name}: {text}");
        mode(name, 0o644);
    }
    mode("", 0o700);
    let output = tool(&path, &["stats"], Some(NOBODY));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ermission denied"), "{output:?}");
}
