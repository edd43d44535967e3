//! The appender: the one writer of a mapping's unpublished bytes.
//!
//! **Concurrency.** A mapping gives out one appender in its life, so `&mut Appender` proves that no
//! other thread writes. Readers stay below the published mark, which only the appender raises. So
//! writing is safe to call: the asserts keep it above the mark and inside the mapping.
#![expect(unsafe_code, reason = "this stores into mapped memory")]

use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use super::mapping::Mapping;

/// Writes the unpublished bytes of a mapping, then publishes them, in order.
#[derive(Debug)]
pub(crate) struct Appender {
    mapping: Arc<Mapping>,
    /// The value of `mapping.published`, which only this appender changes.
    published: u64,
}

impl Appender {
    /// Claims the mapping's unpublished bytes; `None` if they were claimed before.
    pub(crate) fn claim(mapping: &Arc<Mapping>) -> Option<Self> {
        assert!(mapping.is_writable(), "a read-only mapping has no appender");
        // AcqRel: the one claim that finds `false` comes after every store of `publish_existing`.
        let claimed = mapping.claimed.swap(true, Ordering::AcqRel);
        (!claimed).then(|| Self { mapping: Arc::clone(mapping), published: mapping.published() })
    }

    /// Writes unpublished bytes.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = self.check(offset, bytes.len());
        // SAFETY: the range lies inside the mapping (`check`).
        let target = unsafe { self.mapping.base().add(start) };
        // SAFETY: the target is valid for writing (the mapping is writable, checked when it was
        // claimed). No other thread reads or writes it meanwhile (it is not published, `check`, and
        // this is the one appender). `bytes` cannot overlap it, because no reference to unpublished
        // bytes exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        self.mapping.note_store(start, bytes.len());
    }

    /// Stores the first word of a frame whose other bytes were written, and publishes all bytes
    /// below `end`. Returns false and publishes nothing if the frame is not in the file, because a
    /// page was replaced (`page_guard`).
    ///
    /// Before the word is stored, a replaced page anywhere in the mapping refuses the frame: no
    /// process has seen it, and the caller may write over it. Once the word is stored, a follower
    /// in another process may show the frame, so only a replaced page of the frame's own range
    /// refuses it (I1):
    ///
    /// - No page was replaced when the word was about to be stored, so all other bytes of the frame
    ///   are in the file's pages. A page that is replaced elsewhere since then takes nothing from
    ///   the frame. The flag stays raised: the next write leaves the segment, and a sync refuses the
    ///   page if its bytes are lost.
    /// - Of the frame's own pages only the first can be replaced since then. The others hold no
    ///   published byte, so no other thread accesses them. If the store of the word met no page, it
    ///   went to the page that the handler put in its place, so the word is not in the file and no
    ///   follower finds the frame. If a reader met no page, the kernel has lost the page for every
    ///   process, with the word and with the records before it. The guard notes a page before it
    ///   replaces it (`sigbus`), so no such store is missed.
    #[must_use]
    pub(crate) fn publish(&mut self, offset: u64, word: [u8; 8], end: u64) -> bool {
        self.store_first_word(offset, word, end) && self.raise_mark(offset, end)
    }

    /// The first half of [`Appender::publish`]: returns false, and stores nothing, if a page of the
    /// mapping was replaced.
    fn store_first_word(&mut self, offset: u64, word: [u8; 8], end: u64) -> bool {
        let start = self.check(offset, 8);
        assert!(end <= self.mapping.len() as u64 && end >= offset + 8, "published behind the end");
        if self.is_replaced() {
            return false;
        }
        // Release: pairs with the acquire load of the word by a follower in another process. `word`
        // is in memory order, so the byte order of the bytes is kept.
        self.mapping.word(start).store(u64::from_le_bytes(word).to_le(), Ordering::Release);
        self.mapping.note_store(start, 8);
        true
    }

    /// The second half of [`Appender::publish`]: returns false if a page of the frame was replaced.
    fn raise_mark(&mut self, offset: u64, end: u64) -> bool {
        if self.is_replaced() && self.mapping.is_replaced_in(offset, end) {
            return false;
        }
        self.published = end;
        self.mapping.marks.published.raise(end);
        true
    }

    /// True if a page was replaced, so that stores may not reach the file.
    #[inline]
    pub(crate) fn is_replaced(&self) -> bool {
        // Comes after the stores in question. Either they called the handler on this thread, or the
        // handler of another thread raised the flag before it replaced the page.
        compiler_fence(Ordering::SeqCst);
        // Relaxed: as above.
        self.mapping.marks.replaced.load(Ordering::Relaxed) != 0
    }

    fn check(&self, offset: u64, len: usize) -> usize {
        assert!(offset >= self.published, "store into published bytes");
        let start = usize::try_from(offset).expect("offsets in a mapping fit");
        assert!(
            start <= self.mapping.len() && len <= self.mapping.len() - start,
            "range outside of the mapping"
        );
        start
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::mem::PAGE_SIZE;

    /// Makes a guarded mapping of a file with two pages, and its appender.
    fn mapped() -> (std::fs::File, Arc<Mapping>, Appender) {
        let here = std::env::current_exe().expect("the test itself");
        let file =
            tempfile::tempfile_in(here.parent().expect("it lies in a folder")).expect("it may be made");
        file.set_len(2 * PAGE_SIZE as u64).expect("there is room");
        let mapping = Arc::new(Mapping::of_file(&file, 2 * PAGE_SIZE, true).expect("it can be mapped"));
        mapping.guard();
        let appender = Appender::claim(&mapping).expect("the first");
        (file, mapping, appender)
    }

    /// Cuts the file before a page, and reads from the page, as a reader of the mapping may.
    fn lose(file: &std::fs::File, mapping: &Mapping, page: usize) {
        file.set_len((page * PAGE_SIZE) as u64).expect("it can be cut");
        assert_eq!(mapping.word(page * PAGE_SIZE).load(Ordering::Relaxed), 0);
        assert!(mapping.is_replaced());
    }

    #[test]
    fn first_word_is_not_stored_if_the_payload_was_lost() {
        let (file, mapping, mut appender) = mapped();
        file.set_len(PAGE_SIZE as u64).unwrap();
        // The payload reaches into the page that is gone.
        appender.write(PAGE_SIZE as u64 - 8, &[7; 64]);
        assert!(!appender.publish(PAGE_SIZE as u64 - 16, [1; 8], PAGE_SIZE as u64 + 56));
        assert_eq!(mapping.word(PAGE_SIZE - 16).load(Ordering::Relaxed), 0, "a reader would find a record");
        assert_eq!(mapping.published(), 0);
    }

    #[test]
    fn record_is_not_published_if_its_first_word_was_lost() {
        let (file, mapping, mut appender) = mapped();
        file.set_len(0).unwrap();
        assert!(!appender.publish(0, [1; 8], 64));
        assert_eq!(mapping.published(), 0);
    }

    /// Cause: a page that was lost elsewhere, while the first word was stored, took the frame back.
    /// Symptom: a follower that had loaded the word showed a write that returned an error.
    #[test]
    fn page_lost_elsewhere_does_not_take_a_stored_frame_back() {
        let (file, mapping, mut appender) = mapped();
        appender.write(8, &[7; 56]);
        assert!(appender.store_first_word(0, [1; 8], 64));
        lose(&file, &mapping, 1);
        assert!(appender.raise_mark(0, 64), "a follower may show it");
        assert_eq!(mapping.published(), 64);
        // The next write is refused before another process can see any of it.
        assert!(!appender.publish(64, [1; 8], 128));
        assert_eq!(mapping.word(64).load(Ordering::Relaxed), 0);
        assert_eq!(mapping.published(), 64);
    }

    #[test]
    fn page_of_the_frame_lost_after_its_first_word_takes_it_back() {
        let (file, mapping, mut appender) = mapped();
        let start = PAGE_SIZE as u64 - 64;
        appender.write(start + 8, &[7; 120]);
        assert!(appender.store_first_word(start, [1; 8], start + 128));
        lose(&file, &mapping, 1);
        assert!(!appender.raise_mark(start, start + 128));
        assert_eq!(mapping.published(), 0);
    }
}
