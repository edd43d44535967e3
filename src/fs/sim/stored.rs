//! Stores into the memory of a file, and the set of pages that were stored to since it was last
//! taken.
//!
//! An operation compares only these pages, because comparing all of them, word by word, dominated
//! the time of tests. A call from a test compares all pages.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mem::PAGE_SIZE;
use crate::mem::mapping::Mapping;

/// A set of pages, with one bit per page.
#[derive(Debug)]
pub(super) struct Stored(Box<[AtomicU64]>);

impl Stored {
    /// Makes an empty set for a memory of `len` bytes.
    pub(super) fn new(len: usize) -> Self {
        let words = len.div_ceil(PAGE_SIZE).div_ceil(64);
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Records a store, after it was made.
    pub(super) fn note(&self, offset: usize, len: usize) {
        for at in offset / PAGE_SIZE..(offset + len).div_ceil(PAGE_SIZE) {
            // Release: a thread that takes the page sees the stored bytes.
            self.0[at / 64].fetch_or(1 << (at % 64), Ordering::Release);
        }
    }

    /// Removes all pages from the set and returns them in order.
    pub(super) fn take(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            // Relaxed: most words are zero.
            let mut bits = match word.load(Ordering::Relaxed) {
                0 => 0,
                // Acquire: pairs with `note`.
                _ => word.swap(0, Ordering::Acquire),
            };
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then(|| at * 64 + bit as usize)
            })
        })
    }
}

/// Stores bytes by whole words, so that it races with no atomic access; the words at the edges are
/// exchanged.
pub(super) fn store(window: &Mapping, offset: usize, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done;
        let skip = at % 8;
        let n = (8 - skip).min(bytes.len() - done);
        let put = |word: u64| {
            // Memory order on every machine, as in `Mapping::copy_out`.
            let mut memory = u64::from_le(word).to_le_bytes();
            memory[skip..skip + n].copy_from_slice(&bytes[done..done + n]);
            u64::from_le_bytes(memory).to_le()
        };
        let word = window.word(at - skip);
        if n == 8 {
            // Release: an acquire load of a published word sees the bytes stored before it, as with
            // `publish`.
            word.store(put(0), Ordering::Release);
        } else {
            // Release as above; the failed load is Relaxed because the exchange retries with the
            // loaded value.
            let exchanged = word.fetch_update(Ordering::Release, Ordering::Relaxed, |old| Some(put(old)));
            debug_assert!(exchanged.is_ok());
        }
        done += n;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fs::Access;
    use crate::fs::sim::SimDisk;
    use crate::mem::appender::Appender;

    #[test]
    fn pages_are_taken_once_and_in_order() {
        let stored = Stored::new(200 * PAGE_SIZE + 8);
        assert_eq!(stored.take().count(), 0);
        stored.note(199 * PAGE_SIZE + 4088, 16);
        stored.note(63 * PAGE_SIZE, 2 * PAGE_SIZE);
        stored.note(0, 1);
        stored.note(8, 0);
        assert_eq!(stored.take().collect::<Vec<_>>(), [0, 63, 64, 199, 200]);
        assert_eq!(stored.take().count(), 0);
    }

    /// Makes a disk with one mapped file of `pages` zero pages.
    fn mapped(pages: usize) -> (SimDisk, Arc<Mapping>) {
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().unwrap();
        let file = dir.create("file").unwrap();
        file.allocate((pages * PAGE_SIZE) as u64).unwrap();
        let mapping = file.map(pages * PAGE_SIZE).unwrap();
        (disk, mapping)
    }

    #[test]
    fn a_store_of_an_appender_is_seen_by_the_next_operation() {
        let (disk, mapping) = mapped(5);
        let mut appender = Appender::claim(&mapping).unwrap();
        appender.write(3 * PAGE_SIZE as u64 - 4, &[7; 8]);
        disk.dir().crash_point("written");
        assert!(appender.publish(16, [1; 8], 3 * PAGE_SIZE as u64 + 4));
        disk.dir().crash_point("published");
        let history = disk.history();
        let node = disk.dir().open("file", Access::Read).unwrap().identity().unwrap().inode.1;
        let last = [
            format!("Page({node}, 2)"),
            format!("Page({node}, 3)"),
            "Point(\"written\")".to_owned(),
            format!("Page({node}, 0)"),
            "Point(\"published\")".to_owned(),
        ];
        assert_eq!(history[history.len() - 5..], last);
    }

    #[test]
    fn a_store_that_was_not_noted_is_seen_from_outside() {
        let (disk, mapping) = mapped(2);
        mapping.word(PAGE_SIZE).store(9_u64.to_le(), Ordering::Relaxed);
        disk.dir().crash_point("before");
        let killed = disk.kill();
        assert_eq!(killed.read_file("file").unwrap()[PAGE_SIZE..][..8], 9_u64.to_le_bytes());
    }
}
