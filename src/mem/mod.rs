//! Mapped memory: mapped files, the address space over them, and the records in it. Almost all
//! unsafe code is here.

pub(crate) mod address_space;
pub(crate) mod alloc;
pub(crate) mod appender;
mod bring_near;
pub(crate) mod dead_bytes;
pub(crate) mod fork_guard;
pub(crate) mod gone_ranges;
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) mod guard_table;
pub(crate) mod lazy_mapping;
pub(crate) mod limit;
pub(crate) mod line_array;
pub(crate) mod location;
pub(crate) mod lost_pages;
pub(crate) mod mapping;
pub(crate) mod page_guard;
pub(crate) mod published_mark;
pub(crate) mod range_allocator;
pub(crate) mod record;
#[cfg(target_os = "linux")]
pub(crate) mod resident;
pub(crate) mod shared_word;
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) mod sigbus;

/// The page size that this crate works with, on every processor. In bytes.
pub(crate) const PAGE_SIZE: usize = 4096;

/// Returns the size of a page of the system, in bytes.
///
/// rustix reads it from the process's start, which tools such as valgrind hide.
#[cfg(unix)]
#[expect(unsafe_code, reason = "a call of the system's library")]
pub(crate) fn system_page_size() -> usize {
    // SAFETY: the call takes a number only.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(PAGE_SIZE)
}

/// Returns the bytes of the machine's memory; `u64::MAX` if that is not known.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a call of the system's library")]
pub(crate) fn physical_memory() -> u64 {
    // SAFETY: the call takes a number only.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    u64::try_from(pages).map_or(u64::MAX, |pages| pages.saturating_mul(system_page_size() as u64))
}

/// Returns the bytes of the machine's memory, which is not known here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn physical_memory() -> u64 {
    u64::MAX
}
