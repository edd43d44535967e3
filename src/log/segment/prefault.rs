//! Prefaulting the pages ahead of the writer, so that it meets no page fault and no full disk.
//!
//! The pages of a large value are written by one call instead.
//!
//! **Concurrency.** `extending` is held while pages are faulted. The writer stores below `ready`
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{LARGE_PIECE, Prefault, Segment, to_usize};
use crate::error::{Error, Result};
use crate::format::Defect;
use crate::mem::PAGE_SIZE;
use crate::mem::alloc;

impl Segment {
    /// Returns the offset below which the writer may store without a fault.
    pub(crate) fn ready(&self) -> u64 {
        // Acquire: pairs with the release store in `extend`: zeros written before are not seen
        // after.
        self.ready.load(Ordering::Acquire)
    }

    /// Records that there are records below `offset`: the writer continues behind them.
    pub(crate) fn resume_at(&self, offset: u64) {
        if self.prefault == Prefault::Plain {
            // Release: see `extend`.
            self.ready.store(offset / PAGE_SIZE as u64 * PAGE_SIZE as u64, Ordering::Release);
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
            let end = match self.prefault {
                Prefault::Large => (from / LARGE_PIECE + 1) * LARGE_PIECE,
                Prefault::Small | Prefault::Plain => target.next_multiple_of(PAGE_SIZE as u64),
            };
            let end = end.min(self.size);
            // The first piece was written with the file. Behind it nothing was, since the writer
            // stays below `ready`.
            if self.prefault == Prefault::Large && from >= LARGE_PIECE {
                let file = self.file.lock().as_ref().map(|(file, _)| Arc::clone(file));
                let file = file.expect("a segment that is still written to keeps its file");
                alloc::zeros(to_usize(end - from))
                    .and_then(|zeros| file.write_at(&zeros, from))
                    .map_err(|error| self.io("write", error))?;
            }
            self.populate(from, end)?;
            from = end;
        }
        Ok(())
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

    /// Faults pages like [`Segment::extend`], no further than the page that `target` lies in.
    ///
    /// # Errors
    ///
    /// The errors of [`Segment::extend`].
    pub(crate) fn extend_by_pages(&self, target: u64) -> Result<()> {
        let _one = self.extending.lock();
        self.populate_to(target)
    }

    /// Writes bytes behind the last record by one call, and faults the page in which `end` lies.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system. A part may have been written.
    pub(crate) fn write_behind_end(&self, offset: u64, bytes: &[u8], end: u64) -> Result<()> {
        let _one = self.extending.lock();
        let file = self.file().expect("a segment that is still written to keeps its file");
        file.write_at(bytes, offset).map_err(|error| self.io("write", error))?;
        // The writer stores to the page in which the value ends, and to none before it.
        let page = PAGE_SIZE as u64;
        let last = (offset + bytes.len() as u64) / page * page;
        if self.ready() < last {
            // Release: as in `extend`.
            self.ready.store(last, Ordering::Release);
        }
        self.populate_to(end)
    }

    /// Faults single pages. The caller holds `extending`.
    fn populate_to(&self, target: u64) -> Result<()> {
        let from = self.ready();
        let end = target.next_multiple_of(PAGE_SIZE as u64).min(self.size);
        if from < end {
            self.populate(from, end)?;
        }
        Ok(())
    }
}
