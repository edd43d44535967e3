//! The table of guarded mappings: their addresses, and their replaced pages.
//!
//! **Concurrency.** A signal handler searches the table, so nothing here takes a lock, and an entry
//! is never freed. An entry is claimed by one compare-and-swap, filled, and returned. Its version
//! is odd while it changes. A search that meets an odd version, or finds the version changed, skips
//! the entry. That is correct: the entry that a handler needs belongs to a mapping that its thread
//! is using, and does not change.
#![expect(unsafe_code, reason = "entries are reached through pointers, so that a handler can search them")]

use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering, compiler_fence, fence,
};

/// A page was replaced by zeros: the file's page cannot be read.
pub(super) const UNREAD: u32 = 1;
/// A page was replaced by a copy: later stores to it do not reach the file.
pub(super) const UNWRITTEN: u32 = 2;
/// The number of entries in the first chunk; each next chunk has twice as many.
const FIRST: usize = 64;
/// The number of chunks. They hold more entries than there can be mappings.
const CHUNKS: usize = 26;
/// The number of replaced pages that an entry lists one by one; beyond that it knows the first and
/// the last.
const PAGES: usize = 32;
/// Stands for no page.
const NONE: usize = usize::MAX;

static TABLE: [AtomicPtr<GuardEntry>; CHUNKS] = [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS];
/// The number of entries that were ever claimed.
static CLAIMED: AtomicUsize = AtomicUsize::new(0);
/// The number of replacements in all mappings that ever existed.
static REPLACED: AtomicUsize = AtomicUsize::new(0);
/// The number at which the next search for a free entry begins.
static HINT: AtomicUsize = AtomicUsize::new(0);

/// A guarded mapping.
#[derive(Debug)]
pub(super) struct GuardEntry {
    taken: AtomicBool,
    version: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    writable: AtomicBool,
    /// The mapping's own flags, which readers check.
    flags: AtomicPtr<AtomicU32>,
    /// The descriptor of the file while it is written to, else -1.
    file: AtomicI32,
    /// The number of replacements.
    replaced: AtomicUsize,
    /// The last offset that was replaced by a copy.
    copied: AtomicUsize,
    /// Offsets of replaced pages, each with the flag of its replacement. Offsets are multiples of
    /// the page size, so the flag fits into the low bits.
    pages: [AtomicUsize; PAGES],
    /// The least and the greatest replaced offset, by zeros and by copies.
    low: [AtomicUsize; 2],
    high: [AtomicUsize; 2],
}

/// The result of a handler's search: the mapping that an address belongs to.
pub(super) struct GuardedRange {
    pub(super) start: usize,
    pub(super) writable: bool,
    pub(super) entry: &'static GuardEntry,
}

impl GuardEntry {
    fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            flags: AtomicPtr::new(ptr::null_mut()),
            file: AtomicI32::new(-1),
            replaced: AtomicUsize::new(0),
            copied: AtomicUsize::new(NONE),
            pages: [const { AtomicUsize::new(NONE) }; PAGES],
            low: [const { AtomicUsize::new(NONE) }; 2],
            high: [const { AtomicUsize::new(0) }; 2],
        }
    }

    /// Records that the page at an offset is about to be replaced, and raises the mapping's flag.
    pub(super) fn note(&self, flag: u32, offset: usize) {
        // Relaxed, all: the release below announces them.
        let number = self.replaced.fetch_add(1, Ordering::Relaxed);
        REPLACED.fetch_add(1, Ordering::Relaxed);
        if let Some(page) = self.pages.get(number) {
            page.store(offset | flag as usize, Ordering::Relaxed);
        }
        let which = usize::from(flag == UNWRITTEN);
        self.low[which].fetch_min(offset, Ordering::Relaxed);
        self.high[which].fetch_max(offset, Ordering::Relaxed);
        if flag == UNWRITTEN {
            self.copied.store(offset, Ordering::Relaxed);
        }
        // Relaxed: the version was loaded with acquire order by the search that led here.
        let flags = self.flags.load(Ordering::Relaxed);
        // SAFETY: the flags of a mapping that the thread is accessing right now, so they exist.
        let flags = unsafe { &*flags };
        // Release: pairs with the acquire fence in `Mapping::is_replaced`.
        flags.fetch_or(flag, Ordering::Release);
    }

    /// True unless the last copy replaced this page too: then the copy itself cannot be read.
    pub(super) fn is_first_copy(&self, offset: usize) -> bool {
        // Relaxed: this thread stored it, if it matters.
        self.copied.load(Ordering::Relaxed) != offset
    }

    /// Returns the descriptor of the file; `None` while the file is not written to.
    pub(super) fn file(&self) -> Option<i32> {
        // Relaxed: the calling thread is the writer, which stored it.
        Some(self.file.load(Ordering::Relaxed)).filter(|file| *file >= 0)
    }

    /// Returns the offset of the first page of a range that was replaced with this flag, as far as
    /// is known. After many replacements, all pages from the first to the last count as replaced.
    fn replaced_in(&self, flag: u32, from: usize, to: usize) -> Option<usize> {
        let page = super::system_page_size();
        let touches = |offset: usize| offset < to && from < offset.saturating_add(page);
        // Relaxed, all: the caller has loaded the flags and fenced.
        if self.replaced.load(Ordering::Relaxed) <= PAGES {
            let known = self.pages.iter().map(|page| page.load(Ordering::Relaxed));
            let known = known.filter(|known| *known != NONE && known % page == flag as usize);
            return known.map(|known| known / page * page).filter(|offset| touches(*offset)).min();
        }
        let which = usize::from(flag == UNWRITTEN);
        let (low, high) = (self.low[which].load(Ordering::Relaxed), self.high[which].load(Ordering::Relaxed));
        let inside = low < to && from < high.saturating_add(page);
        inside.then(|| (from / page * page).max(low))
    }
}

/// The entry of one mapping, which its drop returns.
#[derive(Debug)]
pub(super) struct Registration(&'static GuardEntry);

impl Registration {
    /// Enters a mapping. `flags` and the pages must stay at their addresses until this is dropped.
    /// `None` if the table is full.
    pub(super) fn new(start: usize, len: usize, writable: bool, flags: &AtomicU32) -> Option<Self> {
        let entry = claim()?;
        entry.change(|| {
            // Relaxed, all: the version announces them.
            entry.start.store(start, Ordering::Relaxed);
            entry.end.store(start + len, Ordering::Relaxed);
            entry.writable.store(writable, Ordering::Relaxed);
            entry.flags.store(ptr::from_ref(flags).cast_mut(), Ordering::Relaxed);
            entry.file.store(-1, Ordering::Relaxed);
            entry.replaced.store(0, Ordering::Relaxed);
            entry.copied.store(NONE, Ordering::Relaxed);
            entry.low.iter().for_each(|low| low.store(NONE, Ordering::Relaxed));
            entry.high.iter().for_each(|high| high.store(0, Ordering::Relaxed));
            entry.pages.iter().for_each(|page| page.store(NONE, Ordering::Relaxed));
        });
        Some(Self(entry))
    }

    /// Sets the descriptor of the file while it is written to.
    pub(super) fn set_file(&self, file: Option<i32>) {
        // Relaxed: only the writer's own handler loads it.
        self.0.file.store(file.unwrap_or(-1), Ordering::Relaxed);
    }

    /// Returns the offset of the first replaced page of a range, as for the entry.
    pub(super) fn replaced_in(&self, flag: u32, from: usize, to: usize) -> Option<usize> {
        self.0.replaced_in(flag, from, to)
    }

    /// Returns the number of replacements.
    pub(super) fn replaced(&self) -> usize {
        // Relaxed: a statistic.
        self.0.replaced.load(Ordering::Relaxed)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let entry = self.0;
        entry.change(|| {
            // Relaxed, all: the version announces them.
            entry.start.store(0, Ordering::Relaxed);
            entry.end.store(0, Ordering::Relaxed);
            entry.flags.store(ptr::null_mut(), Ordering::Relaxed);
        });
        // Release: pairs with the acquire of `claim`.
        entry.taken.store(false, Ordering::Release);
    }
}

impl GuardEntry {
    /// Changes an entry that no other thread changes.
    fn change(&self, change: impl FnOnce()) {
        // Relaxed: this thread has claimed the entry.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Release: a search that sees any store of `change` sees the odd version (`find`).
        fence(Ordering::Release);
        change();
        // Release: pairs with the acquire load in `find`.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

/// Returns the chunk of an entry and its position there; `None` beyond the last chunk.
fn entry(number: usize) -> Option<(usize, usize)> {
    let chunk = ((number / FIRST + 1).ilog2()) as usize;
    let first = FIRST * ((1 << chunk) - 1);
    (chunk < CHUNKS).then_some((chunk, number - first))
}

/// Returns the entry of a number, if its chunk exists.
fn look(number: usize) -> Option<&'static GuardEntry> {
    let (chunk, place) = entry(number)?;
    // Acquire: pairs with the release in `make`; the entries are initialised.
    let entries = TABLE[chunk].load(Ordering::Acquire);
    if entries.is_null() {
        return None;
    }
    // SAFETY: a chunk has twice as many entries as the one before, and `entry` keeps the place
    // below that.
    let entry = unsafe { entries.add(place) };
    // SAFETY: initialised, and never freed.
    Some(unsafe { &*entry })
}

/// Makes a chunk, unless it exists.
fn make(chunk: usize) {
    // Relaxed: `look` has the acquire.
    if !TABLE[chunk].load(Ordering::Relaxed).is_null() {
        return;
    }
    let entries: Box<[GuardEntry]> = (0..FIRST << chunk).map(|_| GuardEntry::new()).collect();
    let entries = Box::into_raw(entries);
    // Release: pairs with the acquire in `look`.
    let made =
        TABLE[chunk].compare_exchange(ptr::null_mut(), entries.cast(), Ordering::Release, Ordering::Relaxed);
    if made.is_err() {
        // SAFETY: made above from a box, and another thread was quicker, so no other thread has
        // seen it.
        drop(unsafe { Box::from_raw(entries) });
    }
}

/// Claims a free entry; `None` if the table is full.
fn claim() -> Option<&'static GuardEntry> {
    let take = |number: usize| {
        let entry = look(number)?;
        // Acquire: pairs with the release of the previous owner. Relaxed first: most are taken.
        let taken = entry.taken.load(Ordering::Relaxed) || entry.taken.swap(true, Ordering::Acquire);
        (!taken).then_some(entry)
    };
    // Relaxed, all: the start of the search is advice, and an entry itself says if it is taken.
    let count = CLAIMED.load(Ordering::Relaxed);
    let begin = HINT.load(Ordering::Relaxed);
    // Only a few are tried, so that claiming many is not quadratic. A store that is opened again
    // and again finds its own entry.
    for step in 0..count.min(FIRST) {
        let number = (begin + step) % count;
        if let Some(entry) = take(number) {
            HINT.store(number + 1, Ordering::Relaxed);
            return Some(entry);
        }
    }
    HINT.store(begin.wrapping_add(FIRST), Ordering::Relaxed);
    loop {
        let number = CLAIMED.load(Ordering::Relaxed);
        let (chunk, _) = entry(number)?;
        make(chunk);
        // Release: a search that sees the number sees the chunk.
        if CLAIMED.compare_exchange(number, number + 1, Ordering::Release, Ordering::Relaxed).is_ok()
            && let Some(entry) = take(number)
        {
            return Some(entry);
        }
    }
}

/// Returns the mapping that an address belongs to. Called by a signal handler.
pub(super) fn find(address: usize) -> Option<GuardedRange> {
    // Acquire: pairs with the release in `claim`.
    let count = CLAIMED.load(Ordering::Acquire);
    (0..count).filter_map(look).find_map(|entry| {
        // Acquire: pairs with the release store in `change`.
        let version = entry.version.load(Ordering::Acquire);
        // Relaxed, all: the version tells if they belong together.
        let (start, end) = (entry.start.load(Ordering::Relaxed), entry.end.load(Ordering::Relaxed));
        let writable = entry.writable.load(Ordering::Relaxed);
        // Acquire: pairs with the release fence in `change`.
        fence(Ordering::Acquire);
        let is_unchanged_since =
            version.is_multiple_of(2) && entry.version.load(Ordering::Relaxed) == version;
        (is_unchanged_since && start <= address && address < end).then_some(GuardedRange {
            start,
            writable,
            entry,
        })
    })
}

/// Returns the offset of the first page of a slice that was replaced by zeros, in the slice's
/// mapping. `None` if none was, or if the slice is in no mapping.
pub(super) fn replaced_in(bytes: &[u8]) -> Option<usize> {
    // Compiler fence and acquire fence: as in `Mapping::is_replaced`.
    compiler_fence(Ordering::SeqCst);
    fence(Ordering::Acquire);
    // Relaxed: ordered by the fences.
    if REPLACED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let address = bytes.as_ptr() as usize;
    let range = find(address)?;
    let from = address - range.start;
    range.entry.replaced_in(UNREAD, from, from + bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut last = (0, 0);
        assert_eq!(entry(0), Some((0, 0)));
        for number in 1..10_000 {
            let (chunk, place) = entry(number).expect("there are as many");
            let is_next = (chunk, place) == (last.0, last.1 + 1) || (chunk, place) == (last.0 + 1, 0);
            assert!(is_next && place < FIRST << chunk, "{number}: {last:?}, then {chunk}, {place}");
            last = (chunk, place);
        }
    }

    /// Ranges are added and removed on two threads, while a third searches for one that stays.
    #[test]
    fn a_range_is_found_while_others_come_and_go() {
        let flags = AtomicU32::new(0);
        // No mapping can have these addresses.
        let high = usize::MAX / 2 + 1;
        let range_pins = Registration::new(high, 4096, false, &flags).expect("there is room");
        std::thread::scope(|scope| {
            for thread in 1..3 {
                scope.spawn(move || {
                    let flags = AtomicU32::new(0);
                    for turn in 0..2_000 {
                        let start = high + (thread << 32);
                        let many: Vec<_> = (0..turn % 100)
                            .map(|n| Registration::new(start + n * 8192, 4096, true, &flags))
                            .collect();
                        for (n, one) in many.iter().enumerate() {
                            let found = find(start + n * 8192 + 4095).expect("it is there");
                            let one = one.as_ref().expect("there is room");
                            assert!(ptr::eq(found.entry, one.0) && found.writable);
                            assert!(find(start + n * 8192 + 4096).is_none());
                        }
                    }
                });
            }
            for _ in 0..20_000 {
                let found = find(high + 17).expect("it stays");
                assert!(found.start == high && !found.writable);
            }
        });
        drop(range_pins);
        assert!(find(high + 17).is_none());
    }

    #[test]
    fn guard_lists_replaced_pages_and_then_their_span() {
        let flags = AtomicU32::new(0);
        let start = usize::MAX / 4 * 3;
        let range = Registration::new(start, 1 << 20, false, &flags).expect("there is room");
        let page = crate::mem::system_page_size();
        assert_eq!(range.replaced_in(UNREAD, 0, 1 << 20), None);
        range.0.note(UNREAD, 0);
        range.0.note(UNREAD, 2 * page);
        range.0.note(UNWRITTEN, 100 * page);
        assert_eq!(flags.load(Ordering::Relaxed), UNREAD | UNWRITTEN);
        let found = |flag, from: usize, to: usize| range.replaced_in(flag, from * page, to * page);
        assert_eq!(
            (found(UNREAD, 1, 2), found(UNREAD, 1, 3), found(UNREAD, 3, 200)),
            (None, Some(2 * page), None)
        );
        assert_eq!((found(UNREAD, 0, 1), found(UNWRITTEN, 0, 100)), (Some(0), None));
        assert_eq!((found(UNWRITTEN, 100, 101), found(UNWRITTEN, 101, 200)), (Some(100 * page), None));
        assert!(!range.0.is_first_copy(100 * page));
        for _ in 0..PAGES {
            range.0.note(UNREAD, 5 * page);
        }
        assert_eq!((found(UNREAD, 3, 100), found(UNREAD, 6, 200)), (Some(3 * page), None));
        assert_eq!((found(UNWRITTEN, 0, 100), found(UNWRITTEN, 0, 200)), (None, Some(100 * page)));
    }
}
