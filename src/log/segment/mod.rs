//! One segment file: making it, opening it, making its pages ready for the writer, syncing it.
//!
//! It does not know what its records say, nor its neighbours; `log` does.
//!
//! **Making one.** Under a temporary name: reserve the blocks, write the header (and zeros, see [`Prefault`]), sync;
//! rename; the caller syncs the directory. Only then is it named by the manifest (I6). A full disk is an error here, before any
//! record has been written; where a page that is ready cannot be written to all the same, `unwritten` says why.
//!
//! **Crash points.** `segment-made` before the rename, `segment-renamed` before the directory's sync.

mod prefault;
mod unbacked;
mod unwritten;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::Defect;
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::format::record_reader::Order;
use crate::format::segment_header::{Role, SegmentHeader};
use crate::format::{SegmentId, Seq, StoreId, file_name};
use crate::fs::{Access, Dir, File, Identity};
use crate::log::group_commit::{GroupCommit, SyncTurn};
use crate::log::segment_file::{
    Times, Unopened, check_header, check_identity, header_of_log, len_of, open_file, unlink_segment,
};
use crate::mem::address_space::{AddressSpace, GranuleRange};
use crate::mem::alloc;
use crate::mem::mapping::{Mapping, PAGE_SIZE};

/// How the pages ahead of the writer are made ready. Chosen by the store's default durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefault {
    /// Zeros by aligned writes of 2 MiB just ahead of the writer, so that the kernel holds them in folios of 2 MiB and
    /// maps each by one fault. Right where nobody waits for a sync.
    Large,
    /// Zeros by writes of 4 KiB over the whole file, synced before use: a later sync then writes only the pages that
    /// changed, and no block map. With folios of 2 MiB each sync would write 2 MiB.
    Small,
    /// Pages are made ready as they are: a segment that already holds records.
    Plain,
}

/// Why a mapping gets no range of the flat space.
const NO_PLACE: Error = Error::Limit {
    what: "all segments together are larger than 8 TiB",
    advice: "open a second store for what comes next",
};

/// Size of the pieces that [`Prefault::Large`] writes, in bytes.
const LARGE_PIECE: u64 = 2 << 20;

/// What a new segment is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentPlan {
    pub(crate) store: StoreId,
    pub(crate) id: SegmentId,
    pub(crate) size: u64,
    /// Bytes that are to be free besides, or it is not made.
    pub(crate) beside: u64,
    pub(crate) nonce: u64,
    pub(crate) prefault: Prefault,
}

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
    /// The least sequence number in it; zero while that is not known.
    first_seq: AtomicU64,
    /// It holds no record that is hidden by a record numbered at or below this (I7).
    filtered: AtomicU64,
    prefault: Prefault,
    range: GranuleRange,
    mapping: Arc<Mapping>,
    /// Whose turn it is to sync through `file`, or through the mapping, which is the same open file.
    sync_turn: SyncTurn,
    /// The one handle for all syncs. Kept until the segment is durable, then given back.
    file: Mutex<Option<(Arc<dyn File>, Identity)>>,
    /// The writer may store below this offset without a fault.
    ready: AtomicU64,
    times: Times,
    /// Held while pages are made ready.
    extending: Mutex<()>,
}

impl Segment {
    /// Makes a segment file and maps it; its name is not durable yet.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or what the operating system says; the caller removes what was made, see [`remove_unnamed`].
    pub(crate) fn create(dir: &dyn Dir, space: &AddressSpace, plan: &SegmentPlan) -> Result<Arc<Self>> {
        let file = Self::make(dir, plan)?;
        let header = SegmentHeader::decode(&header_of(plan).encode());
        let data_offset = header.ok().and_then(Result::ok).expect("just encoded").data_offset();
        let shape = SegmentShape {
            id: plan.id,
            size: plan.size,
            nonce: plan.nonce,
            data_offset,
            prefault: plan.prefault,
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
        let header = header_of(plan).encode();
        match plan.prefault {
            Prefault::Large => {
                let mut piece = header;
                alloc::resize(&mut piece, to_usize(plan.size.min(LARGE_PIECE))).map_err(space)?;
                file.write_at(&piece, 0).map_err(space)?;
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

    /// Opens a segment that the manifest names, and compares it with what the manifest says.
    ///
    /// # Errors
    ///
    /// `MissingSegment`, `Corrupt`, `ForeignFile` or `TooNew`, or what the operating system says.
    pub(crate) fn open(
        dir: &dyn Dir,
        space: &AddressSpace,
        store: StoreId,
        entry: &SegmentEntry,
    ) -> Result<Arc<Self>> {
        Self::open_with(dir, store, entry, |mapping| space.place(mapping).ok_or(NO_PLACE))
    }

    /// As [`Segment::open`], in the range that the segment had when an image of the index was made; `checkpoint` is the error
    /// where it cannot have it.
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
            role: header.role,
            generation: header.generation,
        };
        let segment = Self::map(dir, file, shape, place)?;
        segment.set_bounds(entry.first_seq, entry.filtered);
        Ok(segment)
    }

    /// As [`Segment::open_at`], for a sealed segment of which nothing is needed yet: its file is opened, compared and
    /// mapped when it is first needed.
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
            range,
            mapping,
            sync_turn: SyncTurn::new(),
            file: Mutex::new(file),
            ready: AtomicU64::new(ready),
            times: Times::default(),
            extending: Mutex::new(()),
        })
    }

    /// The entry under which the manifest names a new segment.
    pub(crate) fn entry(&self) -> SegmentEntry {
        SegmentEntry {
            id: self.id,
            size: self.size,
            nonce: self.nonce,
            end: 0,
            last_seq: Seq::ZERO,
            first_seq: Seq::ZERO,
            filtered: Seq::ZERO,
            state: SegmentState::Open,
            role: Role::Log,
            generation: 0,
        }
    }

    /// Takes note of the least number in it, and of what its records are known not to be hidden by.
    pub(crate) fn set_bounds(&self, first_seq: Seq, filtered: Seq) {
        // Relaxed, both: read under the writer mutex, or after the manifest called the segment sealed.
        self.first_seq.store(first_seq.0, Ordering::Relaxed);
        self.filtered.store(filtered.0, Ordering::Relaxed);
    }

    /// Takes note of the first number in a segment of the log: no record in it can be hidden by an earlier one.
    pub(crate) fn begins_at(&self, first_seq: Seq) {
        self.set_bounds(first_seq, Seq(first_seq.0 - 1));
    }

    /// The least sequence number in it; zero while that is not known.
    pub(crate) fn first_seq(&self) -> Seq {
        // Relaxed: see `set_bounds`.
        Seq(self.first_seq.load(Ordering::Relaxed))
    }

    /// It holds no record that is hidden by a record numbered at or below this (I7).
    pub(crate) fn filtered(&self) -> Seq {
        // Relaxed: see `set_bounds`.
        Seq(self.filtered.load(Ordering::Relaxed))
    }

    /// What it is for.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// In what order its records may come.
    pub(crate) fn order(&self) -> Order {
        match self.role {
            Role::Log => Order::Consecutive,
            Role::Survivors => Order::Any,
        }
    }

    /// How often its records have been moved.
    pub(crate) fn generation(&self) -> u8 {
        self.generation
    }

    /// Its number.
    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    /// Its file, for messages.
    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The file's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// What seeds its checksums.
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Where its first record lies, in bytes.
    pub(crate) fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Its range of the flat space.
    pub(crate) fn range(&self) -> GranuleRange {
        self.range
    }

    /// Its mapping.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Makes a range durable.
    ///
    /// # Errors
    ///
    /// `Poisoned`, because of what the operating system says, or because the file is not the one that was opened (`msync`
    /// notices neither a truncated nor a replaced file), now or before.
    pub(crate) fn sync(&self, from: u64, to: u64, commit: &GroupCommit) -> Result<()> {
        let was_kept = self.sync_if_kept(from, to, commit)?;
        assert!(was_kept, "a segment that is not yet durable keeps its file");
        Ok(())
    }

    /// As [`Segment::sync`], for whoever need not sync what is durable already: that has no file any more, and false is said.
    ///
    /// # Errors
    ///
    /// As [`Segment::sync`].
    pub(crate) fn sync_if_kept(&self, from: u64, to: u64, commit: &GroupCommit) -> Result<bool> {
        commit.sync_alone(&self.sync_turn, || self.sync_range(from, to))
    }

    /// Makes a range durable, if the file is kept; whether it is.
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

    /// Looks whether its name still leads to its file, as long as that is not durable: what is synced is to be found by the next open.
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

    /// Has the file's times say that it was written to, the last number being `last`, where it was since they last did.
    pub(crate) fn tell_time(&self, last: Seq) {
        self.times.tell(last, || self.file());
    }

    /// Takes note that its times are right.
    pub(crate) fn times_are_told(&self, last: Seq) {
        self.times.are_told(last);
    }

    /// The file, while it is kept.
    pub(crate) fn file(&self) -> Option<Arc<dyn File>> {
        self.file.lock().as_ref().map(|(file, _)| Arc::clone(file))
    }

    /// Gives the descriptor back: the segment is durable and never written again.
    pub(crate) fn release_file(&self) {
        self.mapping.set_file(None);
        self.file.lock().take();
    }

    /// The error that the segment is damaged at an offset.
    pub(crate) fn corrupt_at(&self, offset: u64, defect: Defect) -> Error {
        Error::Corrupt { path: self.path().clone(), offset, defect }
    }

    /// An error of the operating system about this file.
    pub(crate) fn io(&self, operation: &'static str, error: std::io::Error) -> Error {
        Error::io(operation, &self.path, error)
    }
}

/// Removes the file of a segment that could not be made, whichever name it has; what is left of it holds no record.
///
/// # Errors
///
/// What the operating system says; there may be a file then.
pub(crate) fn remove_unnamed(dir: &dyn Dir, id: SegmentId) -> Result<()> {
    let name = file_name::temporary(&file_name::segment(id));
    match dir.unlink(&name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", dir.path().join(name), error))
        }
        _ => unlink_segment(dir, id),
    }
}

/// What [`Segment::map`] needs to know.
#[derive(Debug, Clone, Copy)]
struct SegmentShape {
    id: SegmentId,
    size: u64,
    nonce: u64,
    data_offset: u64,
    prefault: Prefault,
    role: Role,
    generation: u8,
}

fn header_of(plan: &SegmentPlan) -> SegmentHeader {
    header_of_log(plan.store, plan.id, plan.size, plan.nonce)
}

/// An offset in a mapping: it fits, because the mapping was made.
fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets in a mapping fit the address space")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::{Fault, Operation, SimDisk};

    const SIZE: u64 = 4 * PAGE_SIZE as u64;

    fn plan(id: u64) -> SegmentPlan {
        let (store, id, prefault) = (StoreId([7; 16]), SegmentId(id), Prefault::Large);
        SegmentPlan { store, id, size: SIZE, beside: 0, nonce: 9, prefault }
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
        // Any other error says itself what it is.
        let error = segment.no_page(0, SIZE, std::io::Error::from_raw_os_error(5));
        assert!(matches!(error, Error::Io { operation: "populate", .. }), "{error:?}");
        disk.fail_nth(Some(Operation::Read), 2, Fault::Io, false);
        let error = no_page();
        assert!(matches!(error, Error::Io { operation: "read", .. }), "{error:?}");
        disk.truncate("0000000001.seg", SIZE / 2).unwrap();
        assert!(matches!(no_page(), Error::Corrupt { offset: 8192, .. }), "{:?}", no_page());
    }

    #[test]
    fn whatever_fails_while_a_segment_is_made_its_file_can_be_removed() {
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
