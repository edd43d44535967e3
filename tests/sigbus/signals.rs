//! Tests of signals that do not concern a store's files. Each case runs in a child process: this
//! test binary, started for one test, with the case in its environment.
#![expect(
    unsafe_code,
    reason = "signals and a bad mapping of the test's own are system calls that only libc has"
)]
#![expect(clippy::print_stdout, reason = "the child says how far it came")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use super::{directory, fill, key, options, segments};

const CASE: &str = "MAPCASK_SIGNAL_CASE";
/// The exit status of a child whose own handler was called.
const HANDLED: i32 = 42;

extern "C" fn with_one_argument(signal: libc::c_int) {
    // SAFETY: a signal handler may call it, and it does not return.
    unsafe { libc::_exit(if signal == libc::SIGBUS { HANDLED } else { 1 }) }
}

extern "C" fn with_three_arguments(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    // SAFETY: a signal handler may call it, and it does not return.
    unsafe { libc::_exit(if code == libc::BUS_ADRERR { HANDLED } else { 1 }) }
}

fn handle(handler: usize, flags: libc::c_int) {
    // SAFETY: zeros are a valid value of this plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: the action is initialised.
    let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// Touches a page behind the end of a file that belongs to no store.
fn touch_a_bad_page() {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.set_len(8192).unwrap();
    // SAFETY: a new mapping, at no given address.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    file.set_len(0).unwrap();
    // SAFETY: the pointer stays in the mapping.
    let second = unsafe { page.cast::<u8>().add(4096) };
    // SAFETY: it was mapped above. The page has no file behind it, which raises the signal on
    // purpose.
    let byte = unsafe { second.read_volatile() };
    println!("came back with {byte}");
}

/// Runs a case in the child: opens a store, so that the guard is installed, and does the work of
/// the case.
fn case(name: &str) {
    match name {
        "one argument" => handle(with_one_argument as extern "C" fn(_) as usize, 0),
        "three arguments" => {
            handle(with_three_arguments as extern "C" fn(_, _, _) as usize, libc::SA_SIGINFO);
        }
        "default" | "default and sent" => handle(libc::SIG_DFL, 0),
        "ignored" | "ignored and sent" => handle(libc::SIG_IGN, 0),
        "as it is" | "without the guard" | "after a fault of a store" => {}
        other => panic!("{other}"),
    }
    let directory = directory();
    let options = options().background(false).sigbus_guard(name != "without the guard");
    let path = directory.path().join("data");
    let store = options.open(&path).unwrap();
    fill(&store, 0..100, 10_000);
    println!("opened");
    match name {
        "default and sent" | "ignored and sent" => {
            // SAFETY: the call takes a number.
            unsafe { libc::raise(libc::SIGBUS) };
        }
        "without the guard" | "after a fault of a store" => {
            for path in segments(&path) {
                File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            }
            assert!((0..100).all(|n| store.get(key(n)).is_err()));
            touch_a_bad_page();
        }
        _ => touch_a_bad_page(),
    }
    println!("survived");
}

fn run(name: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["signals::foreign_signals_reach_their_former_handlers", "--exact", "--nocapture"]);
    let output = command.env(CASE, name).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("opened"), "{name}: {output:?}");
    output
}

#[test]
fn foreign_signals_reach_their_former_handlers() {
    if let Ok(name) = std::env::var(CASE) {
        return case(&name);
    }
    for name in ["one argument", "three arguments"] {
        assert_eq!(run(name).status.code(), Some(HANDLED), "{name}");
    }
    // The process ends by the default action, by Rust's own handler, or by the kernel if the signal
    // is ignored.
    for name in [
        "default",
        "as it is",
        "ignored",
        "default and sent",
        "without the guard",
        "after a fault of a store",
    ] {
        let output = run(name);
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{name}: {output:?}");
    }
    let output = run("ignored and sent");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("survived"));
}
