//! A reader of a partly unreadable file: it returns zeros for unreadable pages, and records them.
//!
//! A failed read is repeated page by page, so a bad sector costs only its own page. A zero word was
//! never published, and a record that contains the zeros fails its checksum. So reading continues
//! after them.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use crate::format::record_reader::{READ_MAX, ReadAt};
use crate::fs::{self, File};
use crate::mem::PAGE_SIZE;

/// Size of the window, in bytes.
const WINDOW: usize = 1 << 18;
const _: () = assert!(WINDOW >= READ_MAX && WINDOW.is_multiple_of(PAGE_SIZE));

/// A reader of a file through a window that moves forward.
#[derive(Debug)]
pub(super) struct PatchySource {
    file: Arc<dyn File>,
    size: u64,
    start: u64,
    window: Vec<u8>,
    /// The unreadable ranges in ascending order, each with the operating system's first error.
    unreadable: Vec<(Range<u64>, String)>,
}

impl PatchySource {
    /// Returns a reader of the first `size` bytes of a file.
    pub(super) fn new(file: Arc<dyn File>, size: u64) -> Self {
        Self { file, size, start: 0, window: Vec::new(), unreadable: Vec::new() }
    }

    /// Returns the first unreadable range that meets `range`, with its error; `None` if there is
    /// none.
    pub(super) fn unreadable_in(&self, range: &Range<u64>) -> Option<(Range<u64>, &str)> {
        let meets = |(bad, _): &&(Range<u64>, String)| bad.start < range.end && range.start < bad.end;
        self.unreadable.iter().find(meets).map(|(bad, why)| (bad.clone(), why.as_str()))
    }

    #[cold]
    fn fill(&mut self, offset: u64) {
        let rest = self.size.saturating_sub(offset);
        self.window.clear();
        self.window.resize(usize::try_from(rest).unwrap_or(WINDOW).min(WINDOW), 0);
        self.start = offset;
        if fs::read_exact_at(self.file.as_ref(), &mut self.window, offset).is_ok() {
            return;
        }
        self.window.fill(0);
        let end = offset + self.window.len() as u64;
        let mut at = offset;
        while at < end {
            let next = (at + 1).next_multiple_of(PAGE_SIZE as u64).min(end);
            let [from, to] = [at, next].map(|at| usize::try_from(at - offset).expect("inside of the window"));
            let page = &mut self.window[from..to];
            if let Err(error) = fs::read_exact_at(self.file.as_ref(), page, at) {
                page.fill(0);
                // The file has become shorter, which is damage of another kind.
                if error.kind() != ErrorKind::UnexpectedEof {
                    self.note(at..next, &error);
                }
            }
            at = next;
        }
    }

    fn note(&mut self, bad: Range<u64>, error: &std::io::Error) {
        let at = self.unreadable.partition_point(|(known, _)| known.end < bad.start);
        match self.unreadable.get_mut(at) {
            Some((known, _)) if known.start <= bad.end => {
                *known = known.start.min(bad.start)..known.end.max(bad.end);
            }
            _ => self.unreadable.insert(at, (bad, error.to_string())),
        }
    }
}

impl ReadAt for PatchySource {
    type Error = std::convert::Infallible;

    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Self::Error> {
        let inside = |start: u64, held: usize| {
            let skip = usize::try_from(offset.checked_sub(start)?).ok()?;
            (skip <= held && len <= held - skip).then_some(skip)
        };
        if let Some(skip) = inside(self.start, self.window.len()) {
            return Ok(&self.window[skip..skip + len]);
        }
        self.fill(offset);
        debug_assert!(len <= self.window.len(), "walks stay below the file's size");
        Ok(&self.window[..len])
    }
}
