//! The SIGBUS handler: a page that cannot be read or written sets a flag of its mapping instead of
//! ending the process.
//!
//! The kernel sends SIGBUS when it has no page for an access: the disk cannot be read, the file was
//! cut, or a store needs a new block and there is none. The handler looks the address up in the
//! table of guarded mappings (`guard_table`). An address that is not listed goes to the action that
//! the signal had before. Otherwise the handler raises the flags of the mapping and replaces the
//! inaccessible page:
//!
//! - for a store, by a private copy of the file's page: published records in it stay readable, and
//!   the store reaches memory and not the file ([`UNWRITTEN`]);
//! - otherwise, and if the file's page cannot be read, by a page of zeros ([`UNREAD`]).
//!
//! The processor then repeats the access, which succeeds. Readers and the writer check the flags
//! afterwards: readers verify the data they read, and the writer publishes nothing and leaves the
//! segment.
//!
//! **Concurrency.** The handler runs on the thread that accessed the page, at any instruction that
//! accesses one. It takes no lock, allocates nothing and calls nothing but `mmap` and `sigaction`.
//! The flags are raised before the page is replaced. Replacing it interrupts every processor that
//! may still use the old page. So a store into the new page is followed by a load that sees the
//! flags.
//!
//! **Limits.** Linux only; other systems have no guard. A thread that blocks SIGBUS is not guarded:
//! the kernel ends the process if it cannot deliver the signal. The guard is lost once a library
//! replaces this handler by its own without calling it. A memory error that the hardware reports
//! (`BUS_MCEERR_AR`) goes to the previous action.
#![expect(unsafe_code, reason = "this handles a signal and replaces mapped pages")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use super::guard_table;
use super::guard_table::{GuardedRange, UNREAD, UNWRITTEN};

/// The action that the signal had before; null until the handler is installed.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// True once a previous action for one signal only (`SA_RESETHAND`) has had its signal.
static SPENT: AtomicBool = AtomicBool::new(false);
/// The processor's page size in bytes.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler, once per process.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Relaxed: the guard table, which is filled after this, leads the handler here.
        PAGE.store(super::system_page_size(), Ordering::Relaxed);
        // This box is never freed: the handler may read it at any time.
        let before = Box::leak(Box::new(current()));
        let mut action = *before;
        action.sa_sigaction = on_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        // The mask and `SA_NODEFER` are those of the previous handler, which may leave by a long
        // jump.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (before.sa_flags & libc::SA_NODEFER);
        // Release: pairs with the acquire load in `pass_on`; stored before the handler can run.
        BEFORE.store(before, Ordering::Release);
        // SAFETY: the action is initialised, and its handler does only what handlers may do (the
        // head of this file).
        let refused = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
        debug_assert_eq!(refused, 0, "SIGBUS can be handled");
    });
}

/// Returns the current action of the signal.
fn current() -> libc::sigaction {
    // SAFETY: zeros are a valid value of this plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is writable, and of the type that the call fills.
    unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut action) };
    action
}

/// Unblocks the signal on this thread, even if the thread that started it has blocked it.
pub(crate) fn unblock() {
    // SAFETY: zeros are a valid value of this plain struct.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: the set was initialised above, and the signal is one.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGBUS) };
    // SAFETY: the set is initialised; the mask is that of this thread.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the thread's own, valid at any time.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { errno.read() };
    let handled = is_page(info) && replace(address_of(info), context);
    // SAFETY: as above.
    unsafe { errno.write(saved) };
    if !handled {
        pass_on(signal, info, context);
    }
}

/// True if the kernel sent the signal because it has no page.
fn is_page(info: *mut libc::siginfo_t) -> bool {
    // SAFETY: the kernel passes a valid `siginfo_t`, because the action asks for it (`SA_SIGINFO`).
    let code = unsafe { (*info).si_code };
    code == libc::BUS_ADRERR
}

fn address_of(info: *mut libc::siginfo_t) -> usize {
    // SAFETY: as in `is_page`.
    let info = unsafe { &*info };
    // SAFETY: a signal that the kernel sends because of a page has the address.
    unsafe { info.si_addr() as usize }
}

/// True if the access was a load, on processors whose error code is known here.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn is_load(context: *mut c_void) -> bool {
    /// Bit 1 of the page fault's error code: the access was a write (Intel SDM, volume 3,
    /// "Page-Fault Exceptions").
    const WRITE: i64 = 1 << 1;
    // SAFETY: the kernel passes the context of the thread as the third argument (`SA_SIGINFO`).
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_ERR as usize] & WRITE == 0
}

/// The kind of access is unknown, so it may be a store. If it is a load, the copy cannot be read
/// either, and the page of zeros follows.
#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
fn is_load(_: *mut c_void) -> bool {
    false
}

/// Replaces an inaccessible page; returns false if the address is in no guarded mapping, or there
/// is no memory for the page.
fn replace(address: usize, context: *mut c_void) -> bool {
    let Some(range) = guard_table::find(address) else { return false };
    // Relaxed: stored before any range existed.
    let page = PAGE.load(Ordering::Relaxed);
    let at = address / page * page;
    let offset = at - range.start;
    let copied = range.writable
        && !is_load(context)
        && range.entry.is_first_copy(offset)
        && copy_in_place(at, page, &range, offset);
    copied || zeros_in_place(at, page, &range, offset)
}

/// Replaces a page by a private copy of the file's page.
fn copy_in_place(at: usize, page: usize, range: &GuardedRange, offset: usize) -> bool {
    let (Some(file), Ok(place)) = (range.entry.file(), libc::off_t::try_from(offset)) else { return false };
    range.entry.note(UNWRITTEN, offset);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: the page lies in a mapping of this crate (`guard_table::find`), which stays mapped
    // because this thread is accessing it right now. The page changes nothing of the bytes that are
    // published there.
    let mapped = unsafe { libc::mmap(at as *mut c_void, page, protection, flags, file, place) };
    mapped != libc::MAP_FAILED
}

/// Replaces a page by zeros.
fn zeros_in_place(at: usize, page: usize, range: &GuardedRange, offset: usize) -> bool {
    range.entry.note(UNREAD, offset);
    let protection = if range.writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: as in `copy_in_place`, except for the bytes: no thread can read the file's page, so
    // none has seen other bytes there that the kernel could still give.
    let mapped = unsafe { libc::mmap(at as *mut c_void, page, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

/// Does what the signal would have done without this handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // Acquire: pairs with the release store in `install`.
    let before = BEFORE.load(Ordering::Acquire);
    // SAFETY: never null in a handler that is installed, and never freed.
    let before = unsafe { &*before };
    // SAFETY: as in `is_page`.
    let from_kernel = unsafe { (*info).si_code } > 0;
    // Relaxed: two simultaneous signals have no order.
    let spent = before.sa_flags & libc::SA_RESETHAND != 0 && SPENT.swap(true, Ordering::Relaxed);
    match before.sa_sigaction {
        // A signal that the kernel sends because of an access ends the process even if it is
        // ignored.
        libc::SIG_IGN if !from_kernel => {}
        handler if handler == libc::SIG_DFL || handler == libc::SIG_IGN || spent => {
            end_by(signal, from_kernel);
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: an action with `SA_SIGINFO` has a handler of three arguments.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: an action without `SA_SIGINFO` has a handler of one argument.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}

/// Restores the signal's default action, which ends the process.
fn end_by(signal: c_int, from_kernel: bool) {
    // SAFETY: zeros are a valid value of this plain struct, and mean the default action.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the action is initialised.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    if !from_kernel {
        // Nothing repeats this signal, because a process sent it. It is delivered when the handler
        // has returned.
        // SAFETY: it takes a number, and may be called by a signal handler.
        unsafe { libc::raise(signal) };
    }
}
