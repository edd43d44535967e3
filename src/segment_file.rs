//! The file of a segment: opening it and reading its header, and removing it.
//!
//! It maps nothing and reads no records.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::segment_header::{SEGMENT_HEADER_SIZE, SegmentHeader};
use crate::format::{Defect, READ_VERSION, SegmentId, StoreId, names};
use crate::fs::{Access, Dir, File};

/// Opens a segment file and reads its header, comparing it with the name, the store and the file's size.
///
/// # Errors
///
/// `MissingSegment`, `Corrupt`, `ForeignFile` or `TooNew`, or what the operating system says.
pub(crate) fn open_file(
    dir: &dyn Dir,
    store: StoreId,
    id: SegmentId,
) -> Result<(Arc<dyn File>, SegmentHeader)> {
    let name = names::segment(id);
    let path = dir.path().join(&name);
    let file = dir.open(&name, Access::Write).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::MissingSegment { path: path.clone() },
        _ => Error::io("open", &path, error),
    })?;
    let header = read_header(file.as_ref(), &path)?;
    let size = file.identity().map_err(|error| Error::io("look at", &path, error))?.size;
    if header.store != store {
        return Err(Error::ForeignFile { path });
    }
    if header.id != id {
        return Err(Error::Corrupt { path, offset: 0, defect: Defect::WrongSegment });
    }
    if header.size != size {
        let defect = Defect::WrongSize { expected: header.size, found: size };
        return Err(Error::Corrupt { path, offset: size.min(header.size), defect });
    }
    Ok((file, header))
}

/// Removes a segment's file; gone already is as good. Durable after the directory's sync.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn unlink_segment(dir: &dyn Dir, id: SegmentId) -> Result<()> {
    let name = names::segment(id);
    match dir.unlink(&name) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove", dir.path().join(name), error))
        }
        _ => Ok(()),
    }
}

/// Reads a segment's header.
///
/// # Errors
///
/// `Corrupt` or `TooNew`, or what the operating system says.
pub(crate) fn read_header(file: &dyn File, path: &Path) -> Result<SegmentHeader> {
    let io = |error| Error::io("read", path, error);
    let corrupt = |defect| Error::Corrupt { path: path.to_owned(), offset: 0, defect };
    let mut bytes = vec![0; SEGMENT_HEADER_SIZE];
    let read = file.read_at(&mut bytes, 0).map_err(io)?;
    bytes.truncate(read);
    let len = SegmentHeader::encoded_len(&bytes).map_err(corrupt)?;
    if len > bytes.len() {
        bytes.resize(len, 0);
        let read = file.read_at(&mut bytes, 0).map_err(io)?;
        bytes.truncate(read);
    }
    match SegmentHeader::decode(&bytes).map_err(corrupt)? {
        Ok(header) => Ok(header),
        Err(version) => Err(Error::TooNew {
            path: path.to_owned(),
            found: u32::from(version),
            supported: u32::from(READ_VERSION),
        }),
    }
}
