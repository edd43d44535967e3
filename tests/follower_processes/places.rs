//! Followers as another user, in other namespaces, and on other file systems.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mapcask::{Store, WriteBatch};

use crate::child::{self, Child, command, command_line};
use crate::contents::held;
use crate::{digest, is_root, options, scratch, skip};

/// Tells the follower to look, and compares.
fn assert_shown(follower: &mut Child, store: &Store, step: &str) {
    let look = follower.look();
    assert_eq!(look.digest, digest(&held(store)), "{step}: {look:?}");
    assert!(look.seq >= store.last_seq().0 && !look.jumped, "{step}: {look:?}");
}

/// Writes to a store, and checks that a child shows each step after one refresh.
fn assert_followed(path: &Path, start: impl FnOnce() -> Child) {
    let store = options().open(path).unwrap();
    let users = store.keyspace("users").unwrap();
    store.insert("key", "value").unwrap();
    let mut follower = start();
    assert_shown(&mut follower, &store, "open");
    let before = store.stats().segments;
    for n in 0..300_u32 {
        store.insert(format!("{}", n % 40), vec![7; 10 * n as usize]).unwrap();
        if n % 60 == 0 {
            assert_shown(&mut follower, &store, "puts");
        }
    }
    assert_shown(&mut follower, &store, "puts");
    let full = store.stats().segments;
    assert!(full > before + 5, "{full} segments");
    store.compact().unwrap();
    assert!(store.stats().segments < full);
    assert_shown(&mut follower, &store, "compaction");
    let mut batch = WriteBatch::new();
    batch.remove("key");
    batch.on(&users).insert("anna", "admin").insert("bert", "guest");
    store.write(&batch).unwrap();
    assert_shown(&mut follower, &store, "batch");
    store.rename_keyspace("users", "people").unwrap();
    users.remove("bert").unwrap();
    assert_shown(&mut follower, &store, "rename");
    for order in ["wait", "poll-wait"] {
        follower.order(order);
        let seq = store.insert("key", order).unwrap();
        assert_eq!(follower.report(), Some(format!("true {}", seq.0)), "{order}");
    }
    store.close().unwrap();
    let store = options().open(path).unwrap();
    store.open_keyspace("people").unwrap().clear().unwrap();
    store.insert("key", "another value").unwrap();
    assert_shown(&mut follower, &store, "restart");
    assert_eq!(follower.ask("verify"), store.verify().unwrap().keys.to_string());
    let status = follower.end();
    assert!(status.success(), "{status}");
}

/// Returns the command of a child behind a program and its arguments.
fn behind(program: &[&str]) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args(command_line());
    command
}

/// Returns true if a command succeeds. Otherwise prints that the test is skipped.
fn can(test: &str, program: &[&str]) -> bool {
    let output = Command::new(program[0]).args(&program[1..]).stdin(Stdio::null()).output();
    let complaint = match output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skip(test, &format!("{}: {complaint}", program.join(" ")));
    false
}

#[test]
fn follower_of_another_user_follows() {
    const TEST: &str = "follower_of_another_user_follows";
    const NOBODY: u32 = 65_534;
    if !is_root(TEST) {
        return;
    }
    let scratch = scratch();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_other_user = || {
        let mut command = command();
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    // Without its part the child does nothing.
    let reached = as_other_user().stdout(Stdio::null()).status();
    if !reached.is_ok_and(|status| status.success()) {
        return skip(TEST, "another user cannot reach the test's own executable");
    }
    let path = scratch.path().join("store");
    drop(options().open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_followed(&path, || {
        for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            // Only the writer may open the lock file.
            let mode = if entry.file_name() == "LOCK" { 0o600 } else { 0o644 };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut follower = Child::start_as(as_other_user(), "follow", &path);
        assert_eq!(follower.ask("user"), NOBODY.to_string());
        assert_eq!(follower.ask("write"), "PermissionDenied");
        follower
    });
}

#[test]
fn follower_on_a_read_only_bind_mount_follows() {
    const TEST: &str = "follower_on_a_read_only_bind_mount_follows";
    if !is_root(TEST) || !can(TEST, &["unshare", "--mount", "true"]) {
        return;
    }
    let scratch = scratch();
    let (path, mount) = (scratch.path().join("store"), scratch.path().join("mount"));
    fs::create_dir(&mount).unwrap();
    let script = r#"mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@""#;
    let [from, to] = [&path, &mount].map(|path| path.to_str().unwrap());
    assert_followed(&path, || {
        let command = behind(&["unshare", "--mount", "sh", "-c", script, "sh", from, to]);
        let mut follower = Child::start_as(command, "follow", &mount);
        assert_eq!(follower.ask("write"), "ReadOnlyFilesystem");
        follower
    });
}

#[test]
fn follower_in_another_pid_namespace_follows() {
    const TEST: &str = "follower_in_another_pid_namespace_follows";
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !is_root(TEST) || !can(TEST, &[&unshare[..], &["true"]].concat()) {
        return;
    }
    let scratch = scratch();
    let path = scratch.path().join("store");
    assert_followed(&path, || {
        let mut follower = Child::start_as(behind(&unshare), "follow", &path);
        assert_eq!(follower.ask("pid"), "1");
        follower
    });
}

#[test]
fn follower_on_tmpfs_follows() {
    const TEST: &str = "follower_on_tmpfs_follows";
    const TMPFS: u64 = 0x0102_1994;
    if !rustix::fs::statfs("/dev/shm").is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS)) {
        return skip(TEST, "/dev/shm is no tmpfs");
    }
    let Ok(scratch) = tempfile::tempdir_in("/dev/shm") else {
        return skip(TEST, "/dev/shm cannot be written");
    };
    let path = scratch.path().join("store");
    assert_followed(&path, || Child::start("follow", &path));
}

/// Runs in the mount namespace of the overlay: writes, and starts the follower.
pub(crate) fn host(path: &Path) {
    assert_followed(path, || Child::start("follow", path));
    child::tell("followed");
}

#[test]
fn follower_in_the_upper_layer_of_an_overlay_follows() {
    const TEST: &str = "follower_in_the_upper_layer_of_an_overlay_follows";
    // The mount ends with the namespace, so a failed test leaves none behind.
    let script = r#"mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/mount"
        shift && exec "$@""#;
    if !is_root(TEST) {
        return;
    }
    let scratch = scratch();
    let folder = scratch.path().to_str().unwrap();
    for name in ["lower", "upper", "work", "mount"] {
        fs::create_dir(scratch.path().join(name)).unwrap();
    }
    let unshare = ["unshare", "--mount", "sh", "-e", "-c", script, "sh", folder];
    if !can(TEST, &[&unshare[..], &["true"]].concat()) {
        return;
    }
    let path = scratch.path().join("mount/store");
    let mut host = Child::start_as(behind(&unshare), "host", &path);
    assert_eq!(host.report().as_deref(), Some("followed"));
    assert!(host.end().success());
    let upper: Vec<_> = fs::read_dir(scratch.path().join("upper/store")).unwrap().collect();
    assert!(upper.len() > 3, "{upper:?}");
    assert_eq!(fs::read_dir(scratch.path().join("mount")).unwrap().count(), 0, "seen in the namespace only");
}
