//! Making a store of a backup.
//!
//! **Order.**
//!
//! 1. Verify every file that the list names, before anything is created.
//! 2. Make the directory, and take its lock. Write a mark, durably.
//! 3. Write the segments, then the two copies of the manifest, durably.
//! 4. Remove the mark.
//!
//! While the mark is there, an open refuses the directory, and another restore begins again.
//!
//! **Crash points.** `restore-begun` after step 2, `restore-written` after step 3.
//!
//! **Identity.** The new store has an identity of its own, which the headers of its segments carry.
//! Its sequence numbers go on from an earlier place than those of the original. Under the same
//! identity, a reader that remembers a number could take writes of one for those of the other.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::backup_files::BackupFiles;
use super::copy_bytes::{copy_bytes, sum_of};
use super::report::RestoreReport;
use super::target::name_of;
use crate::error::{Error, Result};
use crate::format::backup_list::{BackupList, CopiedSegment};
use crate::format::file_name;
use crate::format::file_name::{FileName, LOCK, MANIFESTS, RESTORING};
use crate::format::manifest::Manifest;
use crate::format::segment_header::SegmentHeader;
use crate::format::{Defect, StoreId};
use crate::fs::leftovers::unlink;
use crate::fs::real::RealDir;
use crate::fs::{Access, Claim, Dir, File, Lock, LockFailure, read_exact_at};
use crate::log::segment_file::read_header;
use crate::recovery::directory::check_medium;
use crate::recovery::lock_failed;

/// Makes a store of a backup, in a directory that is empty or does not exist.
///
/// Every file of the backup is verified before anything is created. The store opens as one that was
/// killed: the first open reads all of it. It is another store than the one that was backed up, with
/// an identity of its own. A [`Follower`](crate::Follower) of a store that is replaced by it says so.
///
/// If it is interrupted, an open refuses the directory, and another call begins again. The backup is
/// only read.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let (path, target, restored) =
/// #     (directory.path().join("data"), directory.path().join("backup"), directory.path().join("new"));
/// let store = mapcask::Store::open(&path)?;
/// let seq = store.insert("a", "1")?;
/// store.backup(&target)?;
/// assert_eq!(mapcask::restore(&target, &restored)?.last_seq, seq.0);
/// assert_eq!(mapcask::Store::open(&restored)?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// - `NoBackup` if there is none that was finished; `TooNew`.
/// - `Corrupt` or `MissingSegment` if a file of the backup is damaged or gone. Nothing was created.
/// - `InvalidTarget` if the directory is not empty, or lies in that of the backup.
///   `UnsupportedFileSystem`.
/// - `Locked` if a backup to the same directory is running.
/// - `NoSpace`, `Io`, `ReadOnly` or `Exhausted` if the operating system refuses. Call it again.
pub fn restore(backup: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<RestoreReport> {
    let (backup, path) = (backup.as_ref(), path.as_ref());
    let find = |path: &Path| RealDir::new(path).map_err(|error| Error::io("find", path, error));
    let (from, into) = (find(backup)?, find(path)?);
    if into.lies_in(from.path()).map_err(|error| Error::io("find", path, error))? {
        let reason = "it lies in the directory of the backup; choose one outside".to_owned();
        return Err(Error::InvalidTarget { path: into.path().to_owned(), reason });
    }
    restore_in(&from, &into)
}

/// Makes a store of a backup as [`restore`] does, on simulated disks.
///
/// # Errors
///
/// Fails as [`restore`] does.
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub fn restore_on(backup: &crate::fs::sim::SimDisk, disk: &crate::fs::sim::SimDisk) -> Result<RestoreReport> {
    restore_in(backup.dir().as_ref(), disk.dir().as_ref())
}

fn restore_in(from: &dyn Dir, into: &dyn Dir) -> Result<RestoreReport> {
    let _reading = lock_to_read(from)?;
    let newest = BackupFiles::look(from)?.newest;
    let list = newest.ok_or_else(|| Error::NoBackup { path: from.path().to_owned() })?;
    for copy in &list.copies {
        let file = open_copy(from, copy)?;
        check_sum(from, copy, sum_of(from, &name_of(copy), file.as_ref(), copy.end)?)?;
    }
    check_medium(into)?;
    // Before anything is created: the directory of another program is not touched.
    check_empty(into)?;
    into.create_dir().map_err(|error| Error::io("create", into.path(), error))?;
    let note = format!("{}\n", std::process::id());
    let claim = Claim::Write(note.as_bytes());
    let _lock = into.lock(LOCK, claim, Duration::ZERO).map_err(|failure| lock_failed(into, failure))?;
    begin(into, &check_empty(into)?)?;
    into.crash_point("restore-begun");
    let mut id = [0; 16];
    into.random(&mut id).map_err(|error| Error::io("draw random bytes for", into.path(), error))?;
    let store = StoreId(id);
    let BackupList { last, mut manifest, copies, .. } = list;
    manifest.store = store;
    let mut report = RestoreReport { last_seq: last.0, ..RestoreReport::default() };
    for copy in &copies {
        write_segment(from, into, store, copy)?;
        report.files += 1;
        report.bytes += copy.end;
    }
    sync(into)?;
    write_manifest(into, &manifest)?;
    sync(into)?;
    into.crash_point("restore-written");
    unlink(into, RESTORING)?;
    sync(into).inspect_err(|_| {
        // A power cut could bring it back. Until the removal is durable, the restore is not finished.
        drop(into.create(RESTORING));
    })?;
    Ok(report)
}

/// Keeps backups to a directory away while it is read. `None` where none can write.
fn lock_to_read(dir: &dyn Dir) -> Result<Option<Box<dyn Lock>>> {
    use ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match dir.lock(LOCK, Claim::Look, Duration::ZERO) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockFailure::Io(error))
            if matches!(
                error.kind(),
                NotFound | NotADirectory | PermissionDenied | ReadOnlyFilesystem | Unsupported
            ) =>
        {
            Ok(None)
        }
        Err(failure) => Err(lock_failed(dir, failure)),
    }
}

/// Opens a file of the backup, and compares its size with the list.
///
/// # Errors
///
/// `MissingSegment` or `Corrupt`, and errors of the operating system.
fn open_copy(from: &dyn Dir, copy: &CopiedSegment) -> Result<Arc<dyn File>> {
    let name = name_of(copy);
    let path = from.path().join(&name);
    let file = from.open(&name, Access::Read).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::MissingSegment { path: path.clone() },
        _ => Error::io("open", &path, error),
    })?;
    let found = file.identity().map_err(|error| Error::io("look at", &path, error))?.size;
    if found != copy.end {
        let defect = Defect::WrongSize { expected: copy.end, found };
        return Err(Error::Corrupt { path, offset: found.min(copy.end), defect });
    }
    Ok(file)
}

fn check_sum(from: &dyn Dir, copy: &CopiedSegment, sum: u32) -> Result<()> {
    if sum == copy.sum {
        return Ok(());
    }
    Err(Error::Corrupt { path: from.path().join(name_of(copy)), offset: 0, defect: Defect::Checksum })
}

/// Returns the names of an earlier attempt in a directory that is empty otherwise.
///
/// # Errors
///
/// `InvalidTarget`, and errors of the operating system.
fn check_empty(into: &dyn Dir) -> Result<Vec<String>> {
    let names = match into.list() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(|error| Error::io("list", into.path(), error))?,
    };
    let is_restoring = names.iter().any(|name| name == RESTORING);
    let mut earlier = Vec::new();
    for name in names {
        match file_name::parse(&name) {
            FileName::Lock | FileName::Neutral => {}
            FileName::Segment(_) | FileName::Manifest(_) | FileName::Restoring if is_restoring => {
                earlier.push(name);
            }
            _ => {
                let reason = format!("it holds {name:?}; choose an empty directory");
                return Err(Error::InvalidTarget { path: into.path().to_owned(), reason });
            }
        }
    }
    Ok(earlier)
}

/// Writes the mark, and removes the rest of an earlier attempt.
fn begin(into: &dyn Dir, earlier: &[String]) -> Result<()> {
    if !earlier.iter().any(|name| name == RESTORING) {
        into.create(RESTORING).map_err(|error| Error::io("create", into.path().join(RESTORING), error))?;
    }
    // The interrupted attempt may not have synced it.
    sync(into)?;
    for name in earlier.iter().filter(|name| *name != RESTORING) {
        unlink(into, name)?;
    }
    Ok(())
}

/// Writes a segment of the new store, durably but for its name.
fn write_segment(from: &dyn Dir, into: &dyn Dir, store: StoreId, copy: &CopiedSegment) -> Result<()> {
    let source = open_copy(from, copy)?;
    let source_path = from.path().join(name_of(copy));
    let header = read_header(source.as_ref(), &source_path)?;
    let name = file_name::segment(copy.id);
    let io = |operation, error| Error::io(operation, into.path().join(&name), error);
    let size = header.size;
    let header = SegmentHeader { store, ..header }.encode();
    let file = into.create(&name).map_err(|error| io("create", error))?;
    // Behind the end it is a hole, as in a sealed segment: nothing is appended there.
    file.extend(size).map_err(|error| Error::allocating(size, into.path().join(&name), error))?;
    let read = |piece: &mut [u8], at| {
        read_exact_at(source.as_ref(), piece, at).map_err(|error| Error::io("read", &source_path, error))
    };
    let sum = copy_bytes(copy.end, read, |piece, at| {
        // The new header is written last.
        let skip = usize::try_from((header.len() as u64).saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(rest) = piece.get(skip..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
        file.write_at(rest, at + skip as u64).map_err(|error| io("write", error))
    })?;
    check_sum(from, copy, sum)?;
    file.write_at(&header, 0).map_err(|error| io("write", error))?;
    file.sync().map_err(|error| io("sync", error))
}

fn write_manifest(into: &dyn Dir, manifest: &Manifest) -> Result<()> {
    let bytes = manifest.encode();
    for name in MANIFESTS {
        let io = |operation, error| Error::io(operation, into.path().join(name), error);
        let file = into.create(name).map_err(|error| io("create", error))?;
        file.write_at(&bytes, 0).map_err(|error| io("write", error))?;
        file.sync().map_err(|error| io("sync", error))?;
    }
    Ok(())
}

fn sync(dir: &dyn Dir) -> Result<()> {
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))
}
