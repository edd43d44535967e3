//! Prefaulting the pages ahead of the writer, so that it meets no page fault and no full disk.
//!
//! The pages of a large value are written by one call instead.
//!
//! **Concurrency.** `extending` is held while pages are faulted. The writer stores below `ready`
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segment_plan::LARGE_PIECE;
use super::{Prefault, Segment, to_usize};
use crate::error::{Error, Result};
use crate::format::Defect;
use crate::fs::File;
use crate::mem::PAGE_SIZE;
use crate::mem::alloc;

/// The size of a page, as an offset.
const PAGE: u64 = PAGE_SIZE as u64;

impl Segment {
    /// Returns the offset below which the writer may store without a fault.
    pub(crate) fn ready(&self) -> u64 {
        // Acquire: pairs with the release store in `extend`: zeros written before are not seen
        // after.
        self.ready.load(Ordering::Acquire)
    }

    /// Records that there are records below `offset`: the writer continues behind them, in the
    /// mode `prefault` where nothing was ever written.
    pub(crate) fn resume_at(&self, offset: u64, prefault: Prefault) {
        if self.prefault == Prefault::Plain {
            // Relaxed: `extend` writes pieces of one size or of another.
            let blank_from = if prefault == Prefault::Large { offset } else { u64::MAX };
            self.blank_from.store(blank_from, Ordering::Relaxed);
            // Release: see `extend`.
            self.ready.store(offset / PAGE * PAGE, Ordering::Release);
        }
    }

    /// Faults the pages below `target`, at least. It is idempotent, and safe beside a writer below
    /// [`ready`].
    ///
    /// [`ready`]: Segment::ready
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system. Nothing is lost.
    pub(crate) fn extend(&self, target: u64) -> Result<()> {
        let _one = self.extending.lock();
        let mut from = self.ready();
        while from < target.min(self.size) {
            let piece_end = ((from / LARGE_PIECE + 1) * LARGE_PIECE).min(self.size);
            let page_end = target.next_multiple_of(PAGE).min(self.size);
            let (end, is_blank) = match self.prefault {
                // The first piece was written with the file. Behind it nothing was, since the
                // writer stays below `ready`.
                Prefault::Large if from < self.piece => (self.piece, false),
                Prefault::Large => (piece_end, true),
                Prefault::Small => (page_end, false),
                Prefault::Plain if self.is_blank(from, piece_end) => (piece_end, true),
                Prefault::Plain => (page_end.min(piece_end), false),
            };
            if is_blank {
                alloc::with_zeros(to_usize(end - from), |zeros| self.kept_file().write_at(zeros, from))
                    .map_err(|error| self.io("write", error))?;
            }
            self.populate(from, end)?;
            from = end;
        }
        Ok(())
    }

    /// Returns true for a piece of 2 MiB behind the records in which nothing was ever written.
    fn is_blank(&self, from: u64, end: u64) -> bool {
        // Relaxed: see `resume_at`.
        from.is_multiple_of(LARGE_PIECE)
            && from >= self.blank_from.load(Ordering::Relaxed)
            && self.file().is_some_and(|file| file.data_from(from) >= end)
    }

    fn populate(&self, from: u64, end: u64) -> Result<()> {
        let len = to_usize(end - from);
        let populated = self.mapping.populate_write(to_usize(from), len);
        populated.map_err(|error| self.no_page(from, end, error))?;
        // Release: pairs with the acquire load in `ready`.
        self.ready.store(end, Ordering::Release);
        Ok(())
    }

    /// Returns the reason why pages cannot be faulted.
    ///
    /// The kernel reports one error for two cases: there is no block for a page, and its block
    /// cannot be read.
    #[cold]
    pub(super) fn no_page(&self, from: u64, to: u64, error: std::io::Error) -> Error {
        const EFAULT: i32 = 14;
        if error.raw_os_error() != Some(EFAULT) {
            return self.io("populate", error);
        }
        let mut page = [0; PAGE_SIZE];
        if let Some(file) = self.file() {
            for offset in (from..to).step_by(PAGE_SIZE) {
                match file.read_at(&mut page, offset) {
                    Err(error) => return self.io("read", error),
                    Ok(0) => {
                        let defect = Defect::WrongSize { expected: self.size, found: offset };
                        return Error::Corrupt { path: self.path.clone(), offset, defect };
                    }
                    Ok(_) => {}
                }
            }
        }
        Error::NoSpace { path: self.path.clone(), needed: to - from, source: Some(Arc::new(error)) }
    }

    /// Writes a value behind the last record by one call. Faults the pages in which its record
    /// begins and in which `end` lies. `tail` is the end of the last record.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system. A part may have been written.
    pub(crate) fn write_value(&self, tail: u64, value_at: u64, value: &[u8], end: u64) -> Result<()> {
        let _one = self.extending.lock();
        let written = value_at + value.len() as u64;
        // The pages of a long key.
        self.write_absent(tail, value_at / PAGE * PAGE)?;
        self.kept_file().write_at(value, value_at).map_err(|error| self.io("write", error))?;
        self.write_absent(written, end)?;
        self.populate_to(value_at)?;
        // The writer stores to the page in which the value ends, and to none before it.
        let last = written / PAGE * PAGE;
        if self.ready() < last {
            // Release: as in `extend`.
            self.ready.store(last, Ordering::Release);
        }
        self.populate_to(end)
    }

    /// Writes zeros to the pages from `from` to `to` that no call has written yet. Nothing lies
    /// behind `from`.
    ///
    /// A fault would read an absent page, and the kernel reads ahead: pages in small folios, which
    /// the next value then writes again.
    fn write_absent(&self, from: u64, to: u64) -> Result<()> {
        let first = from.max(self.ready()).next_multiple_of(PAGE);
        for at in (first..to.min(self.size)).step_by(PAGE_SIZE) {
            let len = to_usize(PAGE.min(self.size - at));
            alloc::with_zeros(len, |zeros| self.kept_file().write_at(zeros, at))
                .map_err(|error| self.io("write", error))?;
        }
        Ok(())
    }

    /// Faults single pages. The caller holds `extending`.
    fn populate_to(&self, target: u64) -> Result<()> {
        let from = self.ready();
        let end = target.next_multiple_of(PAGE).min(self.size);
        if from < end {
            self.populate(from, end)?;
        }
        Ok(())
    }

    /// Returns the file of a segment that is still written to.
    fn kept_file(&self) -> Arc<dyn File> {
        self.file().expect("a segment that is still written to keeps its file")
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::fs::Dir;
    use crate::fs::real::RealDir;
    use crate::fs::sim::{Operation, SimDisk};
    use crate::log::segment::segment_plan::SegmentPlan;
    use crate::mem::address_space::AddressSpace;

    /// Makes a segment without zeros in a directory beside the test itself.
    fn segment() -> (tempfile::TempDir, Arc<Segment>) {
        let here = std::env::current_exe().expect("the test itself");
        let place =
            tempfile::tempdir_in(here.parent().expect("it lies in a folder")).expect("it may be made");
        let dir = RealDir::new(place.path()).expect("a path");
        let segment = made_in(&dir);
        (place, segment)
    }

    fn made_in(dir: &dyn Dir) -> Arc<Segment> {
        dir.create_dir().expect("it may be made");
        let plan = SegmentPlan { piece: PAGE, ..SegmentPlan::sample(1, 8 << 20, Prefault::Large) };
        let space = AddressSpace::reserve().expect("address space");
        let segment = Segment::create(dir, &space, &plan).expect("there is room");
        segment.extend(segment.data_offset()).expect("there is room");
        segment
    }

    /// Returns true if the page that lies `pages` behind the one of an offset is in memory.
    fn is_in_memory(segment: &Segment, offset: u64, pages: u64) -> bool {
        let page = to_usize(offset / PAGE * PAGE + pages * PAGE);
        segment.mapping().bring_near(page, PAGE_SIZE).expect("it is mapped")
    }

    /// Writes records with keys of `key_len` bytes and large values, each of which ends `before` a
    /// page. Returns the end.
    fn write_values(segment: &Segment, key_len: u64, before: u64) -> u64 {
        let mut tail = segment.data_offset();
        for _ in 0..10 {
            let value_at = tail + 32 + key_len;
            let end = (value_at + (64 << 10)).next_multiple_of(PAGE) - before;
            let value = vec![7; to_usize(end - value_at)];
            segment.write_value(tail, value_at, &value, end + 40).expect("there is room");
            assert!(segment.ready() >= end + 40, "the next header finds its page");
            tail = end;
        }
        tail
    }

    /// Cause: a fault on a page that no call had written. Symptom: the kernel read 128 KiB of zeros
    /// around it, for each value again.
    #[test]
    fn kernel_reads_no_page_behind_a_large_value() {
        for (key_len, before) in [(8, 0), (8, 8), (8, 40), (8, 48), (9000, 48)] {
            let (_place, segment) = segment();
            let end = write_values(&segment, key_len, before);
            assert!(is_in_memory(&segment, end + 39, 0));
            assert!(!is_in_memory(&segment, end + 39, 1), "keys of {key_len}, {before} bytes before a page");
        }
    }

    #[test]
    fn holes_that_a_close_left_are_filled_by_pieces() {
        for (mode, ready) in [(Prefault::Large, 2 * LARGE_PIECE), (Prefault::Small, LARGE_PIECE + PAGE)] {
            let (place, segment) = segment();
            let file = segment.file().expect("it is kept");
            file.punch_hole(PAGE, segment.size() - PAGE).expect("there are holes");
            let dir = RealDir::new(place.path()).expect("a path");
            let space = AddressSpace::reserve().expect("address space");
            let store = crate::format::StoreId([7; 16]);
            let opened = Segment::open(&dir, &space, store, &segment.entry()).expect("it is whole");
            opened.resume_at(100, mode);
            opened.extend(2 * PAGE).expect("there is room");
            assert_eq!(opened.ready(), 2 * PAGE, "records lie in this piece");
            opened.extend(LARGE_PIECE + 1).expect("there is room");
            assert_eq!(opened.ready(), ready, "{mode:?}");
            assert_eq!(file.allocated().expect("it is open"), ready, "{mode:?}");
            // Where there are blocks, pages are faulted one by one.
            opened.resume_at(LARGE_PIECE, mode);
            opened.extend(LARGE_PIECE + 1).expect("there is room");
            assert_eq!(opened.ready(), LARGE_PIECE + PAGE, "{mode:?}");
        }
    }

    #[test]
    fn segment_without_zeros_gets_them_for_a_small_record() {
        let disk = SimDisk::new();
        let segment = made_in(disk.dir().as_ref());
        let writes = || disk.operations()[&Operation::Write];
        let before = writes();
        segment.extend(PAGE).unwrap();
        assert_eq!((writes() - before, segment.ready()), (0, PAGE));
        segment.extend(PAGE + 1).unwrap();
        assert_eq!((writes() - before, segment.ready()), (1, LARGE_PIECE));
    }
}
