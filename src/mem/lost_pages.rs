//! Asks the kernel if it has lost pages of a file, because writing them to the disk failed.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "rustix has no sync_file_range"))]

/// True if the kernel reports a failed write-back of the open file with this descriptor.
///
/// It waits for no more than the first page, and writes nothing. The kernel reports a failure once
/// per open file, and to files that are opened later only if it was not told before.
#[cfg(target_os = "linux")]
pub(crate) fn has_lost_pages(descriptor: i32) -> bool {
    // SAFETY: the call takes numbers only, and a closed descriptor is an error.
    let failed = unsafe { libc::sync_file_range(descriptor, 0, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE) } != 0;
    let lost = [Some(libc::EIO), Some(libc::ENOSPC), Some(libc::EDQUOT)];
    failed && lost.contains(&std::io::Error::last_os_error().raw_os_error())
}

/// Returns false, because other systems do not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn has_lost_pages(_: i32) -> bool {
    false
}
