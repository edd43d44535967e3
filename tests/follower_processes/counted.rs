//! The system calls of one thread, counted by the kernel: a filter hands each call to another
//! thread, which counts it and lets it continue.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread;

/// The number of calls by their number in the system.
pub(crate) type Counts = [u64; 512];

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf: 0, k }
}

/// Makes every later call of this thread wait until the holder of the descriptor lets it continue.
/// Returns -1 where the kernel does not allow that.
fn announce_calls() -> RawFd {
    let mut program = [statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF)];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: it takes numbers only.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the filter and its program live until the call returns; the kernel copies them.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
    RawFd::try_from(listener).unwrap_or(-1)
}

/// Waits for a call, tells its number, and lets it continue. Returns false once the thread has ended.
///
/// It takes no memory: the thread may wait with the lock of the allocator.
fn next_call(listener: &OwnedFd, mut tell: impl FnMut(usize)) -> bool {
    let mut wait = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, writable.
    let ready = unsafe { libc::poll(&raw mut wait, 1, -1) };
    assert_eq!(ready, 1);
    if wait.revents & libc::POLLIN == 0 {
        return false;
    }
    // SAFETY: zeros are a valid value of this plain struct, and what the call asks for.
    let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is writable, and of the type that the call fills.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut told) };
    assert_eq!(got, 0);
    // The thread waits still: once it goes on, it may end its work at once.
    tell(usize::try_from(told.data.nr).unwrap_or(usize::MAX));
    let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap();
    let answer = libc::seccomp_notif_resp { id: told.id, val: 0, error: 0, flags };
    // SAFETY: the answer is readable, and of the type that the call takes.
    let sent =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    assert_eq!(sent, 0);
    true
}

/// Counts the system calls of some work, which must not leave its thread. Returns `None` where the
/// kernel cannot tell.
pub(crate) fn calls_of(work: impl FnOnce() + Send) -> Option<Counts> {
    const NOT_YET: RawFd = -2;
    let (listener, is_done) = (AtomicI32::new(NOT_YET), AtomicBool::new(false));
    thread::scope(|scope| {
        // From the filter to the end of the work, the thread makes no call of its own.
        let worker = scope.spawn(|| {
            let made = announce_calls();
            listener.store(made, SeqCst);
            if made >= 0 {
                work();
            }
            is_done.store(true, SeqCst);
        });
        let made = loop {
            match listener.load(SeqCst) {
                NOT_YET => thread::yield_now(),
                made => break made,
            }
        };
        if made < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made, and no other owner has it.
        let listener = unsafe { OwnedFd::from_raw_fd(made) };
        let mut counts = [0; 512];
        let mut count = |number: usize| counts[number.min(511)] += u64::from(!is_done.load(SeqCst));
        while next_call(&listener, &mut count) {}
        worker.join().unwrap();
        Some(counts)
    })
}

#[test]
fn each_call_of_a_thread_is_counted() {
    let counts = calls_of(|| (0..5).for_each(|_| _ = rustix::process::getppid()));
    let Some(counts) = counts else {
        return crate::skip("each_call_of_a_thread_is_counted", "this kernel does not tell of system calls");
    };
    assert_eq!((counts[usize::try_from(libc::SYS_getppid).unwrap()], counts.iter().sum::<u64>()), (5, 5));
}
