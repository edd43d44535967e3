//! One segment file: making it, opening it, prefaulting its pages for the writer, syncing it.
//!
//! It knows neither the meaning of its records nor its neighbours. `log` does.
//!
//! **Making one.** Under a temporary name: reserve the blocks, write the header (and zeros, see
//! [`Prefault`]), sync, rename. The caller syncs the directory. Only then does the manifest name it
//! (I6). A full disk is an error here, before any record has been written. If a faulted page cannot
//! be written to all the same, `unwritten` finds the reason.
//!
//! **Crash points.** `segment-made` before the rename, `segment-renamed` before the directory's
//! sync.

mod errors;
mod followed;
mod prefault;
pub(crate) mod segment_plan;
mod unbacked;
mod unwritten;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use self::segment_plan::SegmentPlan;
use crate::error::{Error, Result};
use crate::format::manifest::SegmentEntry;
use crate::format::record_reader::Order;
use crate::format::segment_header::{Role, SegmentHeader};
use crate::format::{SegmentId, Seq, StoreId, file_name};
use crate::fs::{Access, Dir, File, Identity};
use crate::log::group_commit::{GroupCommit, SyncTurn};
use crate::log::segment_file::{
    Times, Unopened, check_header, check_identity, len_of, open_file, unlink_segment,
};
use crate::mem::PAGE_SIZE;
use crate::mem::address_space::{AddressSpace, GranuleRange};
use crate::mem::alloc;
use crate::mem::mapping::Mapping;

/// The way to prefault the pages ahead of the writer. The store's default durability determines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefault {
    /// Zeros by aligned writes of 2 MiB just ahead of the writer.
    ///
    /// The kernel then holds them in folios of 2 MiB, and maps each by one fault. This is right if
    /// writers do not wait for syncs.
    Large,
    /// Zeros by writes of 4 KiB over the whole file, synced before use.
    ///
    /// A later sync then writes only the pages that changed, and no block map. With folios of 2 MiB
    /// each sync would write 2 MiB.
    Small,
    /// Pages are faulted as they are, in a segment that already holds records.
    Plain,
}

/// The error if the address space has no range left for a mapping.
const NO_PLACE: Error = Error::Limit {
    what: "all segments together are larger than 8 TiB",
    advice: "open a second store for what comes next",
};

/// One segment of the store.
#[derive(Debug)]
pub(crate) struct Segment {
    id: SegmentId,
    path: PathBuf,
    size: u64,
    nonce: u64,
    data_offset: u64,
    role: Role,
    generation: u8,
    /// The least sequence number in it. Zero if it is not known.
    first_seq: AtomicU64,
    /// It holds no record that is hidden by a record numbered at or below this (I7).
    filtered: AtomicU64,
    prefault: Prefault,
    /// Bytes that were written with the file. Zero unless the mode is [`Prefault::Large`].
    piece: u64,
    /// The offset from which blank pieces of 2 MiB are filled at once. Below it there may be records.
    /// Set in the mode [`Prefault::Plain`] only.
    blank_from: AtomicU64,
    range: GranuleRange,
    mapping: Arc<Mapping>,
    /// The turn to sync through `file`, or through the mapping, which is the same open file.
    sync_turn: SyncTurn,
    /// The one handle for all syncs. It is kept until the segment is durable, then released.
    file: Mutex<Option<(Arc<dyn File>, Identity)>>,
    /// The writer may store below this offset without a fault.
    ready: AtomicU64,
    times: Times,
    /// True if another process owns it, and this one follows.
    is_followed: AtomicBool,
    /// Held while pages are faulted.
    extending: Mutex<()>,
}

impl Segment {
    /// Makes a segment file and maps it. Its name is not durable yet.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system. The caller removes the file, see
    /// [`remove_unnamed`].
    pub(crate) fn create(dir: &dyn Dir, space: &AddressSpace, plan: &SegmentPlan) -> Result<Arc<Self>> {
        let file = Self::make(dir, plan)?;
        let header = SegmentHeader::decode(&plan.header().encode());
        let data_offset = header.ok().and_then(Result::ok).expect("just encoded").data_offset();
        let shape = SegmentShape {
            id: plan.id,
            size: plan.size,
            nonce: plan.nonce,
            data_offset,
            prefault: plan.prefault,
            piece: plan.piece_written(),
            role: Role::Log,
            generation: 0,
        };
        Self::map(dir, file, shape, |mapping| space.place(mapping).ok_or(NO_PLACE))
    }

    fn make(dir: &dyn Dir, plan: &SegmentPlan) -> Result<Arc<dyn File>> {
        let name = &file_name::segment(plan.id);
        let temporary = &file_name::temporary(name);
        let path = || dir.path().join(temporary);
        let space = |error| Error::allocating(plan.size, path(), error);
        let file = dir.create(temporary).map_err(|error| Error::io("create", path(), error))?;
        file.allocate_beside(plan.size, plan.beside).map_err(space)?;
        let header = plan.header().encode();
        match plan.prefault {
            Prefault::Large => {
                // One call for all zeros, so that the kernel holds them in one folio.
                let len = to_usize(plan.piece_written());
                alloc::with_zeros(len, |zeros| file.write_at(zeros, 0)).map_err(space)?;
                file.write_at(&header, 0).map_err(space)?;
            }
            Prefault::Small => {
                let mut page = header;
                page.resize(page.len().next_multiple_of(PAGE_SIZE), 0);
                file.write_at(&page, 0).map_err(space)?;
                let zeros = [0; PAGE_SIZE];
                for offset in (page.len() as u64..plan.size).step_by(PAGE_SIZE) {
                    file.write_at(&zeros, offset).map_err(space)?;
                }
            }
            Prefault::Plain => file.write_at(&header, 0).map_err(space)?,
        }
        dir.crash_point("segment-made");
        file.sync().map_err(|error| Error::io("sync", path(), error))?;
        dir.rename(temporary, name).map_err(|error| Error::io("rename", path(), error))?;
        dir.crash_point("segment-renamed");
        Ok(file)
    }

    /// Opens a segment that the manifest names, and compares it with its entry.
    ///
    /// # Errors
    ///
    /// `MissingSegment`, `Corrupt`, `ForeignFile` or `TooNew`, or an error of the operating system.
    pub(crate) fn open(
        dir: &dyn Dir,
        space: &AddressSpace,
        store: StoreId,
        entry: &SegmentEntry,
    ) -> Result<Arc<Self>> {
        Self::open_with(dir, store, entry, |mapping| space.place(mapping).ok_or(NO_PLACE))
    }

    /// Opens a segment like [`Segment::open`], in the address range that it had when the index
    /// checkpoint was made.
    ///
    /// `checkpoint` returns the error for a range that is not available.
    pub(crate) fn open_at(
        dir: &dyn Dir,
        space: &AddressSpace,
        store: StoreId,
        entry: &SegmentEntry,
        range: GranuleRange,
        checkpoint: impl FnOnce() -> Error,
    ) -> Result<Arc<Self>> {
        Self::open_with(dir, store, entry, |mapping| {
            if space.place_at(mapping, range) { Ok(range) } else { Err(checkpoint()) }
        })
    }

    fn open_with(
        dir: &dyn Dir,
        store: StoreId,
        entry: &SegmentEntry,
        place: impl FnOnce(&Arc<Mapping>) -> Result<GranuleRange>,
    ) -> Result<Arc<Self>> {
        let (file, header) = open_file(dir, store, entry.id, Access::Write)?;
        check_header(&header, entry, &dir.path().join(file_name::segment(entry.id)))?;
        let shape = SegmentShape {
            id: entry.id,
            size: entry.size,
            nonce: entry.nonce,
            data_offset: header.data_offset(),
            prefault: Prefault::Plain,
            piece: 0,
            role: header.role,
            generation: header.generation,
        };
        let segment = Self::map(dir, file, shape, place)?;
        segment.set_bounds(entry.first_seq, entry.filtered);
        Ok(segment)
    }

    /// Opens a sealed segment like [`Segment::open_at`], but lazily.
    ///
    /// Its file is opened, compared and mapped when it is first needed.
    pub(crate) fn open_later(
        space: &AddressSpace,
        unopened: Unopened,
        range: GranuleRange,
        checkpoint: impl FnOnce() -> Error,
    ) -> Result<Arc<Self>> {
        let Unopened { entry, data_offset, .. } = unopened;
        let shape = SegmentShape {
            id: entry.id,
            size: entry.size,
            nonce: entry.nonce,
            data_offset,
            prefault: Prefault::Plain,
            piece: 0,
            role: entry.role,
            generation: entry.generation,
        };
        let path = unopened.path();
        let mapping = Arc::new(Mapping::later(len_of(entry.size)?, Box::new(unopened)));
        if !space.place_at(&mapping, range) {
            return Err(checkpoint());
        }
        let segment = Self::of(path, shape, mapping, range, None);
        segment.set_bounds(entry.first_seq, entry.filtered);
        Ok(segment)
    }

    fn map(
        dir: &dyn Dir,
        file: Arc<dyn File>,
        shape: SegmentShape,
        place: impl FnOnce(&Arc<Mapping>) -> Result<GranuleRange>,
    ) -> Result<Arc<Self>> {
        let path = dir.path().join(file_name::segment(shape.id));
        let mapping = file.map(len_of(shape.size)?).map_err(|error| Error::io("map", &path, error))?;
        let identity = file.identity().map_err(|error| Error::io("look at", &path, error))?;
        let range = place(&mapping)?;
        Ok(Self::of(path, shape, mapping, range, Some((file, identity))))
    }

    fn of(
        path: PathBuf,
        shape: SegmentShape,
        mapping: Arc<Mapping>,
        range: GranuleRange,
        file: Option<(Arc<dyn File>, Identity)>,
    ) -> Arc<Self> {
        mapping.set_nonce(shape.nonce);
        mapping.set_path(&path);
        mapping.set_file(file.as_ref().and_then(|(file, _)| file.descriptor()));
        let ready = if shape.prefault == Prefault::Plain { 0 } else { shape.data_offset };
        Arc::new(Self {
            id: shape.id,
            path,
            size: shape.size,
            nonce: shape.nonce,
            data_offset: shape.data_offset,
            role: shape.role,
            generation: shape.generation,
            first_seq: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            prefault: shape.prefault,
            piece: shape.piece,
            blank_from: AtomicU64::new(u64::MAX),
            range,
            mapping,
            sync_turn: SyncTurn::new(),
            file: Mutex::new(file),
            ready: AtomicU64::new(ready),
            times: Times::default(),
            is_followed: AtomicBool::new(false),
            extending: Mutex::new(()),
        })
    }

    /// Returns the entry under which the manifest names a new segment.
    pub(crate) fn entry(&self) -> SegmentEntry {
        SegmentEntry::new(self.id, self.size, self.nonce)
    }

    /// Sets the least number in it, and the number up to which no record hides one in it.
    pub(crate) fn set_bounds(&self, first_seq: Seq, filtered: Seq) {
        // Relaxed, both: read under the writer mutex, or after the manifest marked the segment
        // sealed.
        self.first_seq.store(first_seq.0, Ordering::Relaxed);
        self.filtered.store(filtered.0, Ordering::Relaxed);
    }

    /// Sets the first number in a segment of the log: no record in it can be hidden by an earlier
    /// one.
    pub(crate) fn begins_at(&self, first_seq: Seq) {
        self.set_bounds(first_seq, Seq(first_seq.0 - 1));
    }

    /// Returns the least sequence number in it. Zero if it is not known.
    pub(crate) fn first_seq(&self) -> Seq {
        // Relaxed: see `set_bounds`.
        Seq(self.first_seq.load(Ordering::Relaxed))
    }

    /// Returns the number up to which no record hides one in it (I7).
    pub(crate) fn filtered(&self) -> Seq {
        // Relaxed: see `set_bounds`.
        Seq(self.filtered.load(Ordering::Relaxed))
    }

    /// Returns its role.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Returns the order that its records must have.
    pub(crate) fn order(&self) -> Order {
        match self.role {
            Role::Log => Order::Consecutive,
            Role::Copies => Order::Any,
        }
    }

    /// Returns the number of times its records have been moved.
    pub(crate) fn generation(&self) -> u8 {
        self.generation
    }

    /// Returns its number.
    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    /// Returns its file's path, for messages.
    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Returns the file's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the nonce that seeds its checksums.
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Returns the offset of its first record, in bytes.
    pub(crate) fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Returns its range of the address space.
    pub(crate) fn range(&self) -> GranuleRange {
        self.range
    }

    /// Returns its mapping.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Makes a range durable.
    ///
    /// # Errors
    ///
    /// `Poisoned`, now or after an earlier failure. The cause is an error of the operating system,
    /// or a file that is no longer the opened one. `msync` notices neither a truncated nor a
    /// replaced file.
    pub(crate) fn sync(&self, from: u64, to: u64, commit: &GroupCommit) -> Result<()> {
        let was_kept = self.sync_if_kept(from, to, commit)?;
        assert!(was_kept, "a segment that is not yet durable keeps its file");
        Ok(())
    }

    /// Syncs like [`Segment::sync`], if the file is still kept. Returns false if it is not: then
    /// the segment is already durable.
    ///
    /// # Errors
    ///
    /// The errors of [`Segment::sync`].
    pub(crate) fn sync_if_kept(&self, from: u64, to: u64, commit: &GroupCommit) -> Result<bool> {
        commit.sync_alone(&self.sync_turn, || self.sync_range(from, to))
    }

    /// Makes a range durable if the file is kept. Returns true if it is.
    fn sync_range(&self, from: u64, to: u64) -> Result<bool> {
        {
            let file = self.file.lock();
            let Some((file, opened)) = file.as_ref() else { return Ok(false) };
            check_identity(file.as_ref(), opened, &self.path)?;
        }
        let start = from / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let len = to_usize(to - start);
        self.check_readable(start, to)?;
        self.mapping.sync_range(to_usize(start), len).map_err(|error| self.io("sync", error))?;
        self.sync_behind_copies()?;
        Ok(true)
    }

    /// Checks that its name still leads to its file while that is not durable, so that the next
    /// open finds it.
    ///
    /// # Errors
    ///
    /// `MissingSegment`.
    pub(crate) fn check_name(&self, dir: &dyn Dir) -> Result<()> {
        let opened = self.file.lock().as_ref().map(|(_, opened)| opened.inode);
        match dir.id_of(&file_name::segment(self.id)) {
            Ok(found) if opened.is_some() && found != opened => {
                Err(Error::MissingSegment { path: self.path.clone() })
            }
            // An error says nothing about the file.
            _ => Ok(()),
        }
    }

    /// Updates the file's times if records up to `last` were written since the last update.
    pub(crate) fn tell_time(&self, last: Seq) {
        self.times.tell(last, || self.file());
    }

    /// Records that its times are right up to `last`.
    pub(crate) fn times_are_told(&self, last: Seq) {
        self.times.are_told(last);
    }

    /// Returns the file, while it is kept.
    pub(crate) fn file(&self) -> Option<Arc<dyn File>> {
        self.file.lock().as_ref().map(|(file, _)| Arc::clone(file))
    }

    /// Reserves the blocks of all of it, where a close or a copy of the file has left holes.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system.
    pub(crate) fn own_blocks(&self) -> Result<()> {
        let Some(file) = self.file() else { return Ok(()) };
        file.allocate(self.size).map_err(|error| Error::allocating(self.size, self.path.clone(), error))
    }

    /// Releases the file descriptor: the segment is durable and never written again.
    pub(crate) fn release_file(&self) {
        self.mapping.set_file(None);
        self.file.lock().take();
    }
}

/// Removes the file of a segment that could not be made, under either name. The file holds no
/// record.
///
/// # Errors
///
/// Errors of the operating system. The file may then still exist.
pub(crate) fn remove_unnamed(dir: &dyn Dir, id: SegmentId) -> Result<()> {
    let name = file_name::temporary(&file_name::segment(id));
    match dir.unlink(&name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", dir.path().join(name), error))
        }
        _ => unlink_segment(dir, id),
    }
}

/// The parameters of [`Segment::map`].
#[derive(Debug, Clone, Copy)]
struct SegmentShape {
    id: SegmentId,
    size: u64,
    nonce: u64,
    data_offset: u64,
    prefault: Prefault,
    piece: u64,
    role: Role,
    generation: u8,
}

/// Converts an offset in a mapping. It fits, because the mapping was made.
fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets in a mapping fit the address space")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::{Fault, Operation, SimDisk};

    const SIZE: u64 = 4 * PAGE_SIZE as u64;

    fn plan(id: u64) -> SegmentPlan {
        SegmentPlan::sample(id, SIZE, Prefault::Large)
    }

    fn bad_address() -> std::io::Error {
        std::io::Error::from_raw_os_error(14)
    }

    #[test]
    fn a_page_that_cannot_be_read_is_not_called_no_space() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().unwrap();
        let space = AddressSpace::reserve().unwrap();
        let segment = Segment::create(dir.as_ref(), &space, &plan(1)).unwrap();
        let no_page = || segment.no_page(0, SIZE, bad_address());
        assert!(matches!(no_page(), Error::NoSpace { needed: SIZE, .. }), "{:?}", no_page());
        // Any other error names its cause itself.
        let error = segment.no_page(0, SIZE, std::io::Error::from_raw_os_error(5));
        assert!(matches!(error, Error::Io { operation: "populate", .. }), "{error:?}");
        disk.fail_nth(Some(Operation::Read), 2, Fault::Io, false);
        let error = no_page();
        assert!(matches!(error, Error::Io { operation: "read", .. }), "{error:?}");
        disk.truncate("0000000001.seg", SIZE / 2).unwrap();
        assert!(matches!(no_page(), Error::Corrupt { offset: 8192, .. }), "{:?}", no_page());
    }

    #[test]
    fn file_of_a_failed_segment_creation_can_be_removed() {
        for operation in [
            Operation::Create,
            Operation::Allocate,
            Operation::Write,
            Operation::Sync,
            Operation::Rename,
            Operation::Map,
        ] {
            let disk = SimDisk::new();
            let dir = disk.dir();
            dir.create_dir().unwrap();
            disk.fail_nth(Some(operation), 1, Fault::Io, false);
            let space = AddressSpace::reserve().unwrap();
            Segment::create(dir.as_ref(), &space, &plan(1)).unwrap_err();
            remove_unnamed(dir.as_ref(), SegmentId(1)).unwrap();
            assert!(disk.files().is_empty(), "{operation:?}: {:?}", disk.files());
        }
    }
}
