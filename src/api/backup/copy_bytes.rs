//! The copy of one segment: writing it, and verifying it by reading it back.

use crate::engine::moment::MomentPart;
use crate::error::{Error, Result};
use crate::format::Defect;
use crate::format::backup_list::CopiedSegment;
use crate::fs::{Access, Dir, File, read_exact_at};
use crate::log::segment_file::read_header;
use crate::log::segment_reader::{Records, SegmentReader};
use crate::log::sync_plan::SegmentRange;
use crate::mem::{PAGE_SIZE, alloc};

/// The bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// Copies `end` bytes that `read` returns, and returns their checksum.
///
/// # Errors
///
/// Those of `read`, and those of `write` for bytes and their offset.
pub(super) fn copy_bytes(
    end: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
    mut write: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<u32> {
    let mut buffer = alloc::zeros_or_few(PIECE, PAGE_SIZE);
    let mut sum = crc32fast::Hasher::new();
    let mut at = 0;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..len];
        read(piece, at)?;
        sum.update(piece);
        write(piece, at)?;
        at += len as u64;
    }
    Ok(sum.finalize())
}

/// Returns the checksum over the first `end` bytes of a file.
///
/// # Errors
///
/// `Io` if they cannot be read.
pub(super) fn sum_of(dir: &dyn Dir, name: &str, file: &dyn File, end: u64) -> Result<u32> {
    let io = |error| Error::io("read", dir.path().join(name), error);
    copy_bytes(end, |piece, at| read_exact_at(file, piece, at).map_err(io), |_, _| Ok(()))
}

/// Writes a copy to a new file, durably, and returns it with its checksum.
///
/// # Errors
///
/// `NoSpace`, and errors of the operating system.
pub(super) fn write_copy(dir: &dyn Dir, name: &str, source: &SegmentReader, end: u64) -> Result<u32> {
    let io = |operation, error| Error::io(operation, dir.path().join(name), error);
    let file = dir.create(name).map_err(|error| io("create", error))?;
    let read = |piece: &mut [u8], at| source.read_into(piece, at);
    let sum =
        copy_bytes(end, read, |piece, at| file.write_at(piece, at).map_err(|error| io("write", error)))?;
    file.sync().map_err(|error| io("sync", error))?;
    Ok(sum)
}

/// Reads a copy back: its bytes must have the checksum that is expected, if one is, and each of its
/// records must be whole.
///
/// # Errors
///
/// `Corrupt` if the copy differs, or the segment itself is damaged; errors of the operating system.
pub(super) fn verify_copy(
    dir: &dyn Dir,
    name: &str,
    part: &MomentPart,
    expected: Option<u32>,
) -> Result<CopiedSegment> {
    let MomentPart { segment, end } = part;
    let path = dir.path().join(name);
    let file = dir.open(name, Access::Read).map_err(|error| Error::io("open", &path, error))?;
    let sum = sum_of(dir, name, file.as_ref(), *end)?;
    if expected.is_some_and(|expected| expected != sum) {
        return Err(Error::Corrupt { path, offset: 0, defect: Defect::Checksum });
    }
    let header = read_header(file.as_ref(), &path)?;
    if (header.id, header.nonce, header.size) != (segment.id(), segment.nonce(), segment.size()) {
        return Err(segment.corrupt_at(0, Defect::WrongSegment));
    }
    let range = SegmentRange::new(segment, segment.data_offset(), *end);
    let mut records = Records::of(SegmentReader::new(file, path, *end), &range, segment.order());
    while records.next()?.is_some() {}
    Ok(CopiedSegment { id: segment.id(), nonce: segment.nonce(), end: *end, sum })
}
