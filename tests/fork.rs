//! Tests that a handle which a child inherits through `fork` is refused there and changes nothing.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "fork has no safe form")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use mapcask::{Background, Error, Options, Store};

/// Runs one test after the other: a child of one would keep the locks of another one's stores.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `check` in a forked child. Returns true if it returned true there.
fn in_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls only `check` and `_exit`; `check` takes no lock that another thread
    // may hold, because the handle refuses before it takes any.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        // A panic must not unwind into the parent's test, whose guards would remove its directory.
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        let code = i32::from(!passed.unwrap_or(false));
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn an_inherited_handle_is_refused_and_its_drop_touches_nothing() {
    let _alone = alone();
    for background in [Background::from(true), Background::from(false), Background::shared()] {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("data");
        let store = Options::new().background(&background).open(&path).unwrap();
        store.insert("a", "1").unwrap();
        let mut inherited = Some(store.clone());
        assert!(in_child(|| {
            let store = inherited.take().unwrap();
            let refused = matches!(store.insert("a", "2"), Err(Error::Forked))
                && matches!(store.get("a"), Err(Error::Forked))
                && matches!(store.flush(), Err(Error::Forked))
                && matches!(store.multi_get(&["a"]), Err(Error::Forked))
                && matches!(store.keyspace("child"), Err(Error::Forked))
                && matches!(store.clear(), Err(Error::Forked))
                && matches!(store.wait_durable(store.last_seq()), Err(Error::Forked))
                && matches!(store.verify(), Err(Error::Forked));
            refused && matches!(store.close(), Err(Error::Forked))
        }));
        drop(inherited);
        store.insert("b", "2").unwrap();
        let second = Store::open(&path);
        assert!(matches!(second, Err(Error::Locked { .. })), "the parent still has the lock: {second:?}");
        store.close().unwrap();
        let store = Store::open(&path).unwrap();
        assert!(store.recovery_report().clean);
        assert_eq!((store.len(), store.get("a").unwrap().unwrap().to_vec()), (2, b"1".to_vec()));
    }
}

#[test]
fn an_inherited_background_is_refused_and_a_new_one_works() {
    let _alone = alone();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let background = Background::shared();
    let open = |name: &str, background: &Background| {
        Options::new().background(background).open(directory.path().join(name))
    };
    let store = open("parent", &background).unwrap();
    assert!(in_child(|| {
        let refused = matches!(open("child", &background), Err(Error::Forked));
        let store = open("child", &Background::shared()).unwrap();
        store.insert("a", "1").unwrap();
        refused && store.close().is_ok()
    }));
    open("parent too", &background).unwrap().close().unwrap();
    store.close().unwrap();
}
