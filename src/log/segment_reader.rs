//! A buffered reader of a segment's file. It does not map the file, so a bad sector is an error and
//! not a signal.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::record_reader::{Order, READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader};
use crate::format::{Defect, file_name};
use crate::fs::{self, Access, Dir, File};
use crate::log::segment::Segment;
use crate::log::sync_plan::SegmentRange;
use crate::mem::alloc;

/// The size of the window in bytes.
const WINDOW: usize = 1 << 18;
const _: () = assert!(WINDOW >= READ_MAX);

/// Reads a file through a window that moves forward.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: Arc<dyn File>,
    path: std::path::PathBuf,
    size: u64,
    start: u64,
    window: Vec<u8>,
}

impl SegmentReader {
    /// Returns a reader of the first `size` bytes of a file.
    pub(crate) fn new(file: Arc<dyn File>, path: std::path::PathBuf, size: u64) -> Self {
        Self { file, path, size, start: 0, window: Vec::new() }
    }

    /// Uses this memory for the window.
    pub(super) fn with_window(self, window: Vec<u8>) -> Self {
        Self { window, start: u64::MAX, ..self }
    }

    /// Returns the memory of the window.
    pub(super) fn into_window(self) -> Vec<u8> {
        self.window
    }

    /// Returns a reader of a segment's file, and opens it if the segment has released it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened.
    pub(crate) fn of(dir: &dyn Dir, segment: &Segment) -> Result<Self> {
        let file = match segment.file() {
            Some(file) => file,
            None => {
                let opened = dir.open(&file_name::segment(segment.id()), Access::Read);
                opened.map_err(|error| Error::io("open", segment.path(), error))?
            }
        };
        Ok(Self::new(file, segment.path().clone(), segment.size()))
    }

    /// Returns the file.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    #[cold]
    fn fill(&mut self, offset: u64) -> Result<()> {
        let rest = self.size.saturating_sub(offset);
        // The first read is often the only one.
        let most = if self.window.is_empty() { READ_MAX } else { WINDOW };
        let mut len = usize::try_from(rest).unwrap_or(most).min(most);
        if alloc::resize(&mut self.window, len).is_err() {
            // Only the first read needs new memory for this, so a reader that has begun continues.
            len = len.min(READ_MAX);
            alloc::resize(&mut self.window, len).map_err(|error| Error::io("read", &self.path, error))?;
        }
        // After a failed read, the window must not claim the bytes that it may hold in part.
        self.start = u64::MAX;
        fs::read_exact_at(self.file.as_ref(), &mut self.window, offset)
            .map_err(|error| Error::io("read", &self.path, error))?;
        self.start = offset;
        Ok(())
    }
}

impl ReadAt for SegmentReader {
    type Error = Error;

    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let inside = |start: u64, held: usize| {
            let skip = usize::try_from(offset.checked_sub(start)?).ok()?;
            (skip <= held && len <= held - skip).then_some(skip)
        };
        if let Some(skip) = inside(self.start, self.window.len()) {
            return Ok(&self.window[skip..skip + len]);
        }
        self.fill(offset)?;
        debug_assert!(len <= self.window.len(), "walks stay below the file's size");
        Ok(&self.window[..len])
    }
}

/// The records of a segment up to a known end. Anything else before that end is damage.
#[derive(Debug)]
pub(crate) struct Records {
    segment: Arc<Segment>,
    source: SegmentReader,
    reader: RecordReader,
    end: u64,
}

impl Records {
    /// Opens the records of a segment, from its first one to `end`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub(crate) fn open(dir: &dyn Dir, segment: &Arc<Segment>, end: u64) -> Result<Self> {
        let source = SegmentReader::of(dir, segment)?;
        let range = SegmentRange::new(segment, segment.data_offset(), end);
        Ok(Self::of(source, &range, segment.order()))
    }

    /// The records of a range, read from `source`.
    pub(crate) fn of(source: SegmentReader, range: &SegmentRange, order: Order) -> Self {
        let SegmentRange { segment, from, to } = range;
        let reader = RecordReader::new(segment.nonce(), *from, *to, order);
        Self { segment: Arc::clone(segment), source, reader, end: *to }
    }

    /// Returns the next record, or `None` at the end.
    ///
    /// # Errors
    ///
    /// `Corrupt` where something before the end is no record; what the operating system says.
    pub(crate) fn next(&mut self) -> Result<Option<RecordAt>> {
        let defect = match self.reader.step(&mut self.source)? {
            ReadStep::Record(record) => return Ok(Some(record)),
            _ if self.reader.offset() >= self.end => return Ok(None),
            ReadStep::Blank => Defect::Truncated,
            ReadStep::Invalid(defect) => defect,
        };
        Err(self.segment.corrupt_at(self.reader.offset(), defect))
    }

    /// The offset behind the last record that was returned.
    pub(crate) fn offset(&self) -> u64 {
        self.reader.offset()
    }

    /// The bytes of the segment, for payloads.
    pub(crate) fn source(&mut self) -> &mut SegmentReader {
        &mut self.source
    }

    /// The reader of the bytes, for another use.
    pub(super) fn into_source(self) -> SegmentReader {
        self.source
    }
}
