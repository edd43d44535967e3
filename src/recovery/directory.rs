//! The contents of a store's directory, read without changing anything.

use std::io;
use std::sync::Arc;

use super::decision::{DirectoryFacts, Manifests, UnlistedAction, UnlistedFacts, UnlistedHeader, unlisted};
use crate::error::{Error, Result};
use crate::format::file_name;
use crate::format::file_name::{FileName, MANIFESTS};
use crate::format::manifest::{MAGIC, MANIFEST_LEN_MAX, Manifest, SegmentEntry};
use crate::format::record_reader::next_published;
use crate::format::segment_header::{Role, SegmentHeader};
use crate::format::{Defect, READ_VERSION, SegmentId, StoreId};
use crate::fs::{Access, Dir, File, Medium};
use crate::log::segment_file::open_file;
use crate::log::segment_reader::SegmentReader;
use crate::mem::alloc;

/// One copy of the manifest, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Copy {
    /// Missing, empty, or zeros.
    Nothing,
    Broken(Defect),
    Alien,
    Newer(u16),
    Whole(Box<Manifest>),
}

/// The contents of the directory.
#[derive(Debug)]
pub(crate) struct DirectoryScan {
    exists: bool,
    /// The first name that is not mapcask's.
    pub(crate) foreign: Option<String>,
    /// Files whose creation was interrupted when their process ended.
    pub(crate) temporaries: Vec<String>,
    pub(crate) segments: Vec<SegmentId>,
    /// Index checkpoints, by number.
    pub(crate) checkpoints: Vec<u64>,
    /// Segments with hints.
    pub(crate) hints: Vec<SegmentId>,
    pub(crate) copies: [Copy; 2],
    /// True if there is a file of that copy, of any content.
    has_copy: [bool; 2],
    /// The store that is being destroyed. `Some(None)` if its identity was not yet written
    /// completely.
    removing: Option<Option<StoreId>>,
    /// True if a restore to the directory has not finished.
    is_restoring: bool,
}

impl DirectoryScan {
    /// Scans the directory.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. A missing directory is a result, not an error.
    pub(crate) fn of(dir: &dyn Dir) -> Result<Self> {
        Self::with(dir, |_, error| Err(error))
    }

    /// Returns true if both copies of the manifest are whole and of one generation.
    pub(crate) fn has_equal_copies(&self) -> bool {
        let generation = |copy: &Copy| match copy {
            Copy::Whole(manifest) => Some(manifest.generation),
            _ => None,
        };
        let [first, second] = self.copies.each_ref().map(generation);
        first.is_some() && first == second
    }

    /// Scans the directory like [`DirectoryScan::of`], and calls `unread` for a copy of the
    /// manifest that cannot be read.
    ///
    /// `unread` returns the result that stands for that copy.
    ///
    /// # Errors
    ///
    /// Errors of the operating system, and those that `unread` returns.
    pub(crate) fn with(dir: &dyn Dir, mut unread: impl FnMut(usize, Error) -> Result<Copy>) -> Result<Self> {
        let mut survey = Self {
            exists: true,
            foreign: None,
            temporaries: Vec::new(),
            segments: Vec::new(),
            checkpoints: Vec::new(),
            hints: Vec::new(),
            copies: [Copy::Nothing, Copy::Nothing],
            has_copy: [false; 2],
            removing: None,
            is_restoring: false,
        };
        let mut list = match dir.list() {
            Ok(list) => list,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                survey.exists = false;
                return Ok(survey);
            }
            Err(error) => return Err(Error::io("list", dir.path(), error)),
        };
        list.sort_unstable();
        for name in list {
            match file_name::parse(&name) {
                FileName::Manifest(copy) => match read_copy(dir, &name) {
                    Err(error) if is_gone(&error) => {}
                    read => {
                        survey.has_copy[copy] = true;
                        survey.copies[copy] = read.or_else(|error| unread(copy, error))?;
                    }
                },
                FileName::Segment(id) => survey.segments.push(id),
                FileName::Temporary => survey.temporaries.push(name),
                FileName::Foreign => survey.foreign = survey.foreign.or(Some(name)),
                FileName::Checkpoint(number) => survey.checkpoints.push(number),
                FileName::Hint(id) => survey.hints.push(id),
                FileName::Removing => match read_removing(dir, &name) {
                    // The store has been destroyed since the list was made. Its manifest, which was
                    // read, may be gone as well.
                    Err(error) if is_gone(&error) => return Self::with(dir, unread),
                    read => survey.removing = Some(read?),
                },
                FileName::Restoring => survey.is_restoring = true,
                FileName::Lock
                | FileName::Control
                | FileName::Waiters
                | FileName::Aside(..)
                | FileName::Neutral => {}
            }
        }
        survey.segments.sort_unstable();
        Ok(survey)
    }

    /// Returns true if a copy of the manifest begins with its magic, so that the lock file may be
    /// touched.
    ///
    /// In another directory, that file may be another program's. A copy that cannot be read counts
    /// as absent.
    pub(crate) fn is_store(dir: &dyn Dir) -> bool {
        MANIFESTS.iter().any(|name| {
            let mut magic = [0; 8];
            let read = dir.open(name, Access::Read).and_then(|file| file.read_at(&mut magic, 0));
            read.is_ok() && magic == MAGIC
        })
    }

    /// Returns the facts for the table of directories.
    pub(crate) fn facts(&self) -> DirectoryFacts {
        let any = |wanted: fn(&Copy) -> bool| self.copies.iter().any(wanted);
        let manifests = if any(|copy| matches!(copy, Copy::Newer(_))) {
            Manifests::Newer
        } else if any(|copy| matches!(copy, Copy::Whole(_))) {
            Manifests::Whole
        } else if any(|copy| matches!(copy, Copy::Alien)) {
            Manifests::Alien
        } else if any(|copy| matches!(copy, Copy::Broken(_))) {
            Manifests::Broken
        } else {
            Manifests::Nothing
        };
        let segments = !self.segments.is_empty();
        DirectoryFacts { exists: self.exists, foreign: self.foreign.is_some(), manifests, segments }
    }

    /// Returns the version that a newer copy requires.
    pub(crate) fn newer(&self) -> Option<u16> {
        self.copies
            .iter()
            .find_map(|copy| if let Copy::Newer(version) = copy { Some(*version) } else { None })
    }

    /// Returns the damage of a copy, for the message if no copy is whole.
    pub(crate) fn damage(&self) -> Option<(usize, Defect)> {
        let damage = |copy: &Copy| if let Copy::Broken(defect) = copy { Some(*defect) } else { None };
        self.copies.iter().enumerate().find_map(|(n, copy)| Some((n, damage(copy)?)))
    }

    /// Returns the newest whole copy, and for each copy true if it is not whole.
    pub(crate) fn manifest(&self) -> Option<(Manifest, [bool; 2])> {
        let whole = |copy: &Copy| {
            if let Copy::Whole(manifest) = copy { Some(manifest.as_ref().clone()) } else { None }
        };
        let newest = self.copies.iter().filter_map(whole).max_by_key(|manifest| manifest.generation)?;
        Some((newest, [0, 1].map(|copy| whole(&self.copies[copy]).is_none())))
    }

    /// Returns true if there is a file of that copy, of any content.
    pub(crate) fn has_copy(&self, copy: usize) -> bool {
        self.has_copy[copy]
    }

    /// Returns the store that is being destroyed here. `Some(None)` if its identity was not yet
    /// written: then nothing is gone.
    pub(crate) fn removing(&self) -> Option<Option<StoreId>> {
        self.removing
    }

    /// Refuses a store that is being destroyed, or was not restored to its end.
    ///
    /// # Errors
    ///
    /// `Destroying` or `Restoring`.
    pub(crate) fn check_not_removing(&self, dir: &dyn Dir) -> Result<()> {
        match self.removing {
            None if self.is_restoring => Err(Error::Restoring { path: dir.path().to_owned() }),
            None => Ok(()),
            Some(_) => Err(Error::Destroying { path: dir.path().to_owned() }),
        }
    }

    /// Returns true if the two copies belong to different stores.
    pub(crate) fn is_mixed(&self) -> bool {
        matches!(&self.copies, [Copy::Whole(one), Copy::Whole(other)] if one.store != other.store)
    }
}

/// The bytes of a copy of the manifest that are read first: usually all of it.
const FIRST_READ: u64 = 64 << 10;

/// Returns true if a file was removed after it was listed. Without the lock, another process may
/// destroy the store.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn read_removing(dir: &dyn Dir, name: &str) -> Result<Option<StoreId>> {
    let io = |error| Error::io("read", dir.path().join(name), error);
    let mut id = [0; 16];
    let read = dir.open(name, Access::Read).map_err(io)?.read_at(&mut id, 0).map_err(io)?;
    Ok((read == id.len() && id != [0; 16]).then_some(StoreId(id)))
}

fn read_copy(dir: &dyn Dir, name: &str) -> Result<Copy> {
    let path = dir.path().join(name);
    let io = |error| Error::io("read", &path, error);
    let file = dir.open(name, Access::Read).map_err(io)?;
    let size = file.identity().map_err(io)?.size.min(MANIFEST_LEN_MAX);
    // Read no more than the file's size, and no more than its claimed length: it may be longer by a
    // hole.
    let read = |len: u64| -> Result<Vec<u8>> {
        let mut bytes = alloc::zeros(usize::try_from(len).unwrap_or(usize::MAX)).map_err(io)?;
        let len = file.read_at(&mut bytes, 0).map_err(io)?;
        bytes.truncate(len);
        Ok(bytes)
    };
    let mut bytes = read(size.min(FIRST_READ))?;
    if let Some(len) = Manifest::claimed_len(&bytes).filter(|len| *len > bytes.len() as u64) {
        bytes = read(len.min(size))?;
    }
    Ok(match Manifest::decode(&bytes) {
        Ok(Ok(manifest)) => Copy::Whole(Box::new(manifest)),
        Ok(Err(version)) => Copy::Newer(version),
        Err(_) if bytes.iter().all(|byte| *byte == 0) => Copy::Nothing,
        // A copy whose creation was interrupted has its first bytes, or zeros.
        Err(Defect::BadMagic) if bytes.iter().take(8).any(|byte| *byte != 0) => Copy::Alien,
        Err(defect) => Copy::Broken(defect),
    })
}

/// Returns the newest whole manifest of a directory, without listing it. `None` if both copies are
/// being written, or there are none.
///
/// # Errors
///
/// `TooNew`, and errors of the operating system.
pub(crate) fn read_manifest(dir: &dyn Dir) -> Result<Option<Manifest>> {
    let mut newest: Option<Manifest> = None;
    for name in MANIFESTS {
        let read = match read_copy(dir, name) {
            Err(error) if is_gone(&error) => continue,
            read => read?,
        };
        match read {
            Copy::Newer(version) => {
                let (path, found) = (dir.path().join(name), u32::from(version));
                return Err(Error::TooNew { path, found, supported: u32::from(READ_VERSION) });
            }
            Copy::Whole(manifest)
                if newest.as_ref().is_none_or(|newest| newest.generation < manifest.generation) =>
            {
                newest = Some(*manifest);
            }
            Copy::Whole(_) | Copy::Nothing | Copy::Broken(_) | Copy::Alien => {}
        }
    }
    Ok(newest)
}

/// The decisions about the segment files that the manifest does not name.
#[derive(Debug, Default)]
pub(crate) struct Unlisted {
    /// Segments to be named, and used.
    pub(crate) adopted: Vec<SegmentEntry>,
    /// Segments to be renamed.
    pub(crate) quarantined: Vec<SegmentId>,
    /// Segments to be removed: they repeat records of named segments, or never held a record.
    pub(crate) repeated: Vec<SegmentId>,
}

/// Decides about the segment files that the manifest does not name. It changes nothing.
///
/// # Errors
///
/// `ForeignFile`, `TooNew` or `Corrupt` if the table refuses.
pub(crate) fn look_at_unlisted(
    dir: &dyn Dir,
    survey: &DirectoryScan,
    manifest: &Manifest,
    both_copies: bool,
) -> Result<Unlisted> {
    let mut found = Unlisted::default();
    let mut has_blank = false;
    for id in survey.segments.iter().filter(|id| manifest.segment(**id).is_none()) {
        let opened = open_file(dir, manifest.store, *id, Access::Read);
        let header = match &opened {
            Ok((_, header)) => whose(header, manifest),
            Err(Error::ForeignFile { .. }) => UnlistedHeader::Foreign,
            Err(Error::TooNew { .. }) => UnlistedHeader::Newer,
            Err(Error::Corrupt { .. }) => UnlistedHeader::Damaged,
            Err(error) => return Err(error.clone()),
        };
        let written = match &opened {
            Ok((file, header)) => is_written(dir, *id, Arc::clone(file), header.data_offset(), header.size)?,
            Err(_) => false,
        };
        let beyond = *id >= manifest.next_segment;
        // Both copies say open before a record is written. A copy that says closed names all
        // segments with records.
        let both_copies = both_copies || manifest.clean;
        let action = unlisted(UnlistedFacts { header, written, both_copies, beyond });
        match (action, opened) {
            // One is useful, and each that is kept needs a file descriptor.
            (UnlistedAction::AdoptBlank, Ok(_)) if has_blank => found.repeated.push(*id),
            (UnlistedAction::AdoptBlank | UnlistedAction::AdoptWritten, Ok((_, header))) => {
                has_blank |= action == UnlistedAction::AdoptBlank;
                found.adopted.push(SegmentEntry {
                    role: header.role,
                    generation: header.generation,
                    ..SegmentEntry::new(*id, header.size, header.nonce)
                });
            }
            (UnlistedAction::Quarantine, _) => found.quarantined.push(*id),
            (UnlistedAction::Remove, _) => found.repeated.push(*id),
            (_, Err(error)) => return Err(error),
            (_, Ok(_)) => {
                let path = dir.path().join(file_name::segment(*id));
                return Err(Error::Corrupt { path, offset: 0, defect: Defect::NotInManifest });
            }
        }
    }
    Ok(found)
}

/// Returns the origin of a segment that the manifest does not name.
fn whose(header: &SegmentHeader, manifest: &Manifest) -> UnlistedHeader {
    match header.role {
        Role::Log => UnlistedHeader::Ours,
        Role::Copies if header.replaced.iter().all(|id| manifest.has(*id)) => UnlistedHeader::Copies,
        Role::Copies => UnlistedHeader::OrphanedCopies,
    }
}

/// Returns true if bytes other than zero follow a segment's header.
///
/// # Errors
///
/// Errors of the operating system.
pub(crate) fn is_written(
    dir: &dyn Dir,
    id: SegmentId,
    file: Arc<dyn File>,
    from: u64,
    size: u64,
) -> Result<bool> {
    let path = dir.path().join(file_name::segment(id));
    let mut source = SegmentReader::new(file, path, size);
    Ok(next_published(&mut source, from, size)?.is_some())
}

/// Refuses a file system on which mappings are not reliable.
///
/// # Errors
///
/// `UnsupportedFileSystem`, and errors of the operating system.
pub(crate) fn check_medium(dir: &dyn Dir) -> Result<()> {
    match dir.medium().map_err(|error| Error::io("look at", dir.path(), error))? {
        Medium::Network(kind) => Err(Error::UnsupportedFileSystem { path: dir.path().to_owned(), kind }),
        Medium::Device | Medium::Memory => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keyspace_change::KeyspaceSet;
    use crate::format::{Seq, StoreId};
    use crate::fs::sim::SimDisk;
    use crate::log::segment::segment_plan::SegmentPlan;
    use crate::log::segment::{Prefault, Segment};
    use crate::mem::address_space::AddressSpace;

    #[test]
    fn scan_keeps_one_unlisted_segment_without_records() {
        let store = StoreId([7; 16]);
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().unwrap();
        let space = AddressSpace::reserve().unwrap();
        for id in 1..=5 {
            let plan = SegmentPlan { nonce: id, ..SegmentPlan::sample(id, 8192, Prefault::Large) };
            Segment::create(dir.as_ref(), &space, &plan).unwrap();
        }
        let manifest = Manifest {
            generation: 1,
            store,
            hash_id: 1,
            secret: [0; 32],
            clean: true,
            next_segment: SegmentId(6),
            incarnation: 0,
            durable: Seq::ZERO,
            next_seq: Seq(1),
            segments: Vec::new(),
            retired_seq: Seq::ZERO,
            checkpoint: 0,
            keyspaces: KeyspaceSet::new(),
        };
        let survey = DirectoryScan::of(dir.as_ref()).unwrap();
        let found = look_at_unlisted(dir.as_ref(), &survey, &manifest, true).unwrap();
        assert_eq!(found.adopted.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [1]);
        assert_eq!(found.repeated, [2, 3, 4, 5].map(SegmentId));
    }

    #[test]
    fn create_refuses_a_manifest_that_was_made_meanwhile() {
        for name in MANIFESTS {
            let disk = SimDisk::new();
            let dir = disk.dir();
            dir.create_dir().unwrap();
            let survey = DirectoryScan::of(dir.as_ref()).unwrap();
            disk.put_file(name, b"of another store");
            let refused = crate::recovery::create(dir.as_ref(), &survey).unwrap_err();
            assert!(matches!(refused, Error::Io { operation: "create", .. }), "{refused}");
            assert_eq!(disk.read_file(name).unwrap(), b"of another store");
        }
    }
}
