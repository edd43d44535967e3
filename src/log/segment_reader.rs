//! A buffered reader of a segment. It reads the file and not the mapping, so a bad sector is an error
//! and not a signal.
//!
//! A follower reads the mapping: the file's name may be gone, and a bad sector is found by the guard.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::record_reader::{Order, READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader};
use crate::format::{Defect, StoreId, file_name};
use crate::fs::{self, Access, Dir, File};
use crate::log::segment::Segment;
use crate::log::segment_file::open_file;
use crate::log::sync_plan::SegmentRange;
use crate::mem::alloc;
use crate::mem::mapping::Mapping;

/// The size of the window in bytes.
const WINDOW: usize = 1 << 18;
const _: () = assert!(WINDOW >= READ_MAX);

/// The bytes of a segment.
#[derive(Debug)]
enum ByteSource {
    File(Arc<dyn File>),
    Mapping(Arc<Mapping>),
}

/// Reads a segment through a window that moves forward.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    source: ByteSource,
    path: std::path::PathBuf,
    size: u64,
    start: u64,
    window: Vec<u8>,
}

impl SegmentReader {
    /// Returns a reader of the first `size` bytes of a file.
    pub(crate) fn new(file: Arc<dyn File>, path: std::path::PathBuf, size: u64) -> Self {
        Self { source: ByteSource::File(file), path, size, start: 0, window: Vec::new() }
    }

    /// Uses this memory for the window.
    pub(super) fn with_window(self, window: Vec<u8>) -> Self {
        Self { window, start: u64::MAX, ..self }
    }

    /// Returns the memory of the window.
    pub(super) fn into_window(self) -> Vec<u8> {
        self.window
    }

    /// Returns a reader of a segment: of its mapping if its file may be gone, and else of its file,
    /// which is opened if the segment has released it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened.
    pub(crate) fn of(dir: &dyn Dir, segment: &Segment) -> Result<Self> {
        if segment.is_followed() {
            return Ok(Self::of_mapping(segment));
        }
        let file = match segment.file() {
            Some(file) => file,
            None => {
                let opened = dir.open(&file_name::segment(segment.id()), Access::Read);
                opened.map_err(|error| Error::io("open", segment.path(), error))?
            }
        };
        Ok(Self::new(file, segment.path().clone(), segment.size()))
    }

    fn of_mapping(segment: &Segment) -> Self {
        let source = ByteSource::Mapping(Arc::clone(segment.mapping()));
        let (path, size, window) = (segment.path().clone(), segment.size(), Vec::new());
        Self { source, path, size, start: 0, window }
    }

    /// Returns a reader of a mapped segment whose file compaction may have removed: of the file if
    /// its name still leads to it, and else of the mapping.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened for another reason.
    pub(crate) fn of_removable(dir: &dyn Dir, store: StoreId, segment: &Segment) -> Result<Self> {
        if segment.is_followed() {
            return Ok(Self::of_mapping(segment));
        }
        match open_file(dir, store, segment.id(), Access::Read) {
            Ok((file, header)) if header.nonce == segment.nonce() => {
                Ok(Self::new(file, segment.path().clone(), segment.size()))
            }
            // Another store may be in the directory by now.
            Ok(_) | Err(Error::MissingSegment { .. } | Error::ForeignFile { .. }) => {
                Ok(Self::of_mapping(segment))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads exactly these bytes, without the window.
    ///
    /// # Errors
    ///
    /// `Io` if they cannot be read.
    pub(crate) fn read_into(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match &self.source {
            ByteSource::File(file) => fs::read_exact_at(file.as_ref(), buffer, offset)
                .map_err(|error| Error::io("read", &self.path, error)),
            ByteSource::Mapping(mapping) => {
                mapping.copy_out(usize::try_from(offset).expect("inside the mapping"), buffer);
                let end = offset + buffer.len() as u64;
                mapping.replaced_in(offset, end).map_or(Ok(()), |at| Err(mapping.unreadable(at)))
            }
        }
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
        let mut window = std::mem::take(&mut self.window);
        let read = self.read_into(&mut window, offset);
        self.window = window;
        read?;
        self.start = offset;
        Ok(())
    }
}

impl ReadAt for SegmentReader {
    type Error = Error;

    fn skip_zeros(&mut self, offset: u64) -> u64 {
        let in_window = offset.checked_sub(self.start).is_some_and(|skip| skip < self.window.len() as u64);
        match &self.source {
            // Only where the file would be read next.
            ByteSource::File(file) if !in_window => {
                let skipped = file.data_from(offset) - offset;
                offset + (skipped & !7)
            }
            ByteSource::File(_) | ByteSource::Mapping(_) => offset,
        }
    }

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
