//! Queries which pages of a mapping are in memory (`mincore`).
//!
//! The answer is a hint, because pages are loaded and evicted at any time. Simulated pages are
//! ordinary memory and count as absent until accessed.
#![expect(unsafe_code, reason = "rustix has no mincore")]

use std::io;
use std::ops::Range;

use memmap2::MmapRaw;

use super::PAGE_SIZE;

/// The number of pages per query.
const PAGES: usize = 256;

#[cfg(test)]
std::thread_local! {
    /// The number of times that this thread asked about pages.
    pub(crate) static QUESTIONS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// True if all pages of a range are in memory. The range begins at a page and lies inside the
/// mapping.
///
/// # Errors
///
/// Returns the system's error.
pub(super) fn is_resident(memory: &MmapRaw, range: Range<usize>) -> io::Result<bool> {
    assert!(
        range.start.is_multiple_of(PAGE_SIZE) && range.end <= memory.len(),
        "a range of whole pages inside"
    );
    #[cfg(test)]
    QUESTIONS.set(QUESTIONS.get() + 1);
    // If the processor's pages are larger, the kernel wants multiples of those.
    let page = super::system_page_size().max(PAGE_SIZE);
    let mut at = range.start - range.start % page;
    while at < range.end {
        let len = (range.end - at).min(PAGES * page);
        let mut there = [0_u8; PAGES];
        // SAFETY: `at` lies inside the mapping (asserted above).
        let start = unsafe { memory.as_mut_ptr().add(at) };
        // SAFETY: the pages are those of a mapping that `memory` keeps; the kernel stores one byte
        // for each of at most `PAGES` pages into `there`, and reads nothing else.
        let refused = unsafe { libc::mincore(start.cast(), len, there.as_mut_ptr().cast()) } != 0;
        if refused {
            return Err(io::Error::last_os_error());
        }
        if there[..len.div_ceil(page)].iter().any(|byte| byte & 1 == 0) {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

/// Returns the number of pages of a mapping that are in memory.
#[cfg(test)]
pub(crate) fn resident_pages(mapping: &super::mapping::Mapping) -> usize {
    let pages = &mapping.memory().pages;
    let is_there = |at: &usize| is_resident(pages, *at..*at + PAGE_SIZE).expect("it is mapped");
    (0..mapping.len()).step_by(PAGE_SIZE).filter(is_there).count()
}
