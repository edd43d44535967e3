//! The file of a segment: opening it, reading its header at once or on first use, and removing it.
//!
//! It reads no records.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::format::manifest::SegmentEntry;
use crate::format::segment_header::{Role, SEGMENT_HEADER_SIZE, SegmentHeader};
use crate::format::{Defect, READ_VERSION, SegmentId, Seq, StoreId, file_name};
use crate::fs::leftovers::unlink;
use crate::fs::{Access, Dir, File, Identity, Misplaced};
use crate::mem::mapping::{MapOnDemand, Mapping};

/// Opens a segment file, reads its header, and compares it with the name, the store and the file's
/// size.
///
/// # Errors
///
/// `MissingSegment`, `Corrupt`, `ForeignFile` or `TooNew`, or an error of the operating system.
pub(crate) fn open_file(
    dir: &dyn Dir,
    store: StoreId,
    id: SegmentId,
    access: Access,
) -> Result<(Arc<dyn File>, SegmentHeader)> {
    let name = file_name::segment(id);
    let path = dir.path().join(&name);
    let file = dir.open(&name, access).map_err(|error| match error.kind() {
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

/// Returns the header of a new segment of the log.
pub(crate) fn header_of_log(store: StoreId, id: SegmentId, size: u64, nonce: u64) -> SegmentHeader {
    SegmentHeader {
        store,
        id,
        size,
        nonce,
        first_seq: Seq::ZERO,
        role: Role::Log,
        generation: 0,
        replaced: Vec::new(),
    }
}

/// Compares a segment's header with its entry in the manifest.
///
/// # Errors
///
/// `Corrupt`.
pub(crate) fn check_header(header: &SegmentHeader, entry: &SegmentEntry, path: &Path) -> Result<()> {
    if header.size == entry.size && header.nonce == entry.nonce {
        return Ok(());
    }
    Err(Error::Corrupt { path: path.to_owned(), offset: 0, defect: Defect::WrongSegment })
}

/// A sealed segment that is mapped on first use. Until then the checkpoint's facts replace its
/// header.
#[derive(Debug)]
pub(crate) struct Unopened {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) store: StoreId,
    pub(crate) entry: SegmentEntry,
    /// The offset of its first record, according to the checkpoint.
    pub(crate) data_offset: u64,
}

impl Unopened {
    /// Returns the file's path, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(file_name::segment(self.entry.id))
    }
}

impl MapOnDemand for Unopened {
    fn map(&self) -> Result<Arc<Mapping>> {
        let Self { dir, store, entry, data_offset } = self;
        let opened = open_file(dir.as_ref(), *store, entry.id, Access::Read);
        let (file, header) = opened.map_err(|error| match (error, dir.check_place()) {
            (Error::MissingSegment { .. }, Err(Misplaced::Removed)) => {
                Error::DirectoryGone { path: dir.path().to_owned(), replaced: false }
            }
            (error, _) => error,
        })?;
        let path = self.path();
        check_header(&header, entry, &path)?;
        let told = (entry.role, entry.generation, *data_offset);
        if told != (header.role, header.generation, header.data_offset()) {
            return Err(Error::Corrupt { path, offset: 0, defect: Defect::WrongSegment });
        }
        file.map(len_of(entry.size)?).map_err(|error| Error::io("map", path, error))
    }
}

/// The last sequence number at the latest update of a segment file's times.
///
/// A store into a mapped, faulted page changes no time, and backup programs rely on the times.
#[derive(Debug, Default)]
pub(crate) struct Times(AtomicU64);

impl Times {
    /// Records that the times are right for records up to `last`.
    pub(crate) fn are_told(&self, last: Seq) {
        // Relaxed: see `tell`.
        self.0.store(last.0, Ordering::Relaxed);
    }

    /// Updates the file's times if there are new records. They are durable when the kernel next
    /// writes them, not with a sync.
    pub(crate) fn tell(&self, last: Seq, file: impl FnOnce() -> Option<Arc<dyn File>>) {
        // Relaxed: a thread that misses another's update repeats it.
        if self.0.swap(last.0, Ordering::Relaxed) != last.0
            && let Some(Err(error)) = file().map(|file| file.touch())
        {
            // No guarantee of the store depends on it.
            crate::trace::background_failed(&error);
        }
    }
}

/// Returns the length of a segment's mapping.
///
/// # Errors
///
/// `Limit` if the processor's addresses are too short.
pub(crate) fn len_of(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|_| Error::Limit {
        what: "a segment is larger than this processor's address space",
        advice: "open the store on a 64-bit machine",
    })
}

/// Removes a segment's file. A missing file is no error. The removal is durable after the
/// directory's sync.
///
/// # Errors
///
/// Errors of the operating system.
pub(crate) fn unlink_segment(dir: &dyn Dir, id: SegmentId) -> Result<()> {
    unlink(dir, &file_name::segment(id))
}

/// Compares an open file with its state when it was opened.
///
/// # Errors
///
/// `Corrupt` if its size differs, `MissingSegment` if its name is gone or leads to another file.
pub(crate) fn check_identity(file: &dyn File, opened: &Identity, path: &Path) -> Result<()> {
    let now = file.identity().map_err(|error| Error::io("look at", path, error))?;
    if now.size != opened.size {
        let defect = Defect::WrongSize { expected: opened.size, found: now.size };
        return Err(Error::Corrupt { path: path.to_owned(), offset: now.size, defect });
    }
    if now.links == 0 || now.inode != opened.inode {
        return Err(Error::MissingSegment { path: path.to_owned() });
    }
    Ok(())
}

/// Reads a segment's header.
///
/// # Errors
///
/// `Corrupt` or `TooNew`, or an error of the operating system.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimDisk;
    use crate::mem::PAGE_SIZE;

    const STORE: StoreId = StoreId([7; 16]);
    const SIZE: u64 = PAGE_SIZE as u64;
    const NONCE: u64 = 9;

    /// Puts a segment's file on a disk under the name of `id`.
    fn put(disk: &SimDisk, header: &SegmentHeader, id: SegmentId, len: u64) {
        let mut bytes = header.encode();
        bytes.resize(usize::try_from(len).unwrap(), 0);
        disk.put_file(&file_name::segment(id), &bytes);
    }

    #[test]
    fn open_refuses_the_file_of_another_segment() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        let open = |id| open_file(dir.as_ref(), STORE, SegmentId(id), Access::Read).map(|(_, header)| header);
        let header = header_of_log(STORE, SegmentId(1), SIZE, NONCE);
        put(&disk, &header, SegmentId(1), SIZE);
        assert_eq!(open(1).unwrap(), header);
        let foreign = header_of_log(StoreId([8; 16]), SegmentId(2), SIZE, NONCE);
        put(&disk, &foreign, SegmentId(2), SIZE);
        let refused = open(2).unwrap_err();
        assert!(matches!(refused, Error::ForeignFile { .. }), "{refused}");
        put(&disk, &header, SegmentId(3), SIZE);
        let refused = open(3).unwrap_err();
        assert!(matches!(refused, Error::Corrupt { defect: Defect::WrongSegment, .. }), "{refused}");
        for len in [SIZE / 2, 2 * SIZE] {
            put(&disk, &header, SegmentId(1), len);
            let refused = open(1).unwrap_err();
            assert!(matches!(refused, Error::Corrupt { defect: Defect::WrongSize { .. }, .. }), "{refused}");
        }
    }

    #[test]
    fn header_of_a_remade_segment_does_not_fit_the_entry() {
        let entry = SegmentEntry::new(SegmentId(1), SIZE, NONCE);
        let check = |size, nonce| {
            check_header(&header_of_log(STORE, SegmentId(1), size, nonce), &entry, Path::new("segment"))
        };
        check(SIZE, NONCE).unwrap();
        check(SIZE, NONCE + 1).unwrap_err();
        check(2 * SIZE, NONCE).unwrap_err();
    }

    #[test]
    fn check_identity_notices_another_or_a_removed_file() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        for name in ["one", "other"] {
            disk.put_file(name, b"equally long");
        }
        let [one, other] = ["one", "other"].map(|name| dir.open(name, Access::Read).unwrap());
        let opened = one.identity().unwrap();
        let check = |file: &Arc<dyn File>| check_identity(file.as_ref(), &opened, Path::new("segment"));
        check(&one).unwrap();
        let refused = check(&other).unwrap_err();
        assert!(matches!(refused, Error::MissingSegment { .. }), "{refused}");
        disk.remove_file("one").unwrap();
        let refused = check(&one).unwrap_err();
        assert!(matches!(refused, Error::MissingSegment { .. }), "{refused}");
    }
}
