//! Recovery's changes to files: quarantined segments are renamed, quarantined tails are copied, and
//! unneeded files are removed.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::directory::DirectoryScan;
use crate::error::{Error, Result};
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::{SegmentId, file_name};
use crate::fs::{Access, Dir, File};
use crate::log::manifest::ManifestStore;
use crate::log::segment_file::{open_file, unlink_segment};
use crate::log::segment_reader::SegmentReader;
use crate::log::sync_plan::SegmentRange;
use crate::mem::alloc;

/// Removes the files of segments that compaction has released, and of those that repeat records of
/// others.
pub(crate) fn remove(
    dir: &dyn Dir,
    manifest: &ManifestStore,
    retired: &[(SegmentId, u64)],
    repeated: &[SegmentId],
) -> Result<()> {
    if retired.is_empty() && repeated.is_empty() {
        return Ok(());
    }
    let store = manifest.read(|manifest| manifest.store);
    for (id, nonce) in retired {
        match open_file(dir, store, *id, Access::Read) {
            // Only the file with the nonce that the manifest names.
            Ok((_, header)) if header.nonce == *nonce => unlink_segment(dir, *id)?,
            Err(error @ Error::Io { .. }) => return Err(error),
            _ => {}
        }
    }
    for id in repeated {
        unlink_segment(dir, *id)?;
    }
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    // The next manifest update makes it durable.
    manifest.forget(&retired.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    Ok(())
}

/// Removes the checkpoints that the manifest does not name. If a power cut restores one, the next
/// open removes it.
pub(super) fn remove_checkpoints(
    dir: &dyn Dir,
    survey: &DirectoryScan,
    named: Option<&IndexCheckpoint>,
) -> Result<()> {
    let named = named.map(|checkpoint| checkpoint.number);
    for number in survey.checkpoints.iter().filter(|number| Some(**number) != named) {
        let name = file_name::checkpoint(*number);
        dir.unlink(&name).map_err(|error| Error::io("remove", dir.path().join(&name), error))?;
    }
    Ok(())
}

/// The bytes of a quarantined range that are in memory at once.
const PIECE: usize = 1 << 20;

/// Copies complete records behind a cut to a file of their own, durably. `None` if an earlier
/// attempt did.
pub(super) fn quarantine_tail(dir: &dyn Dir, aside: &SegmentRange) -> Result<Option<PathBuf>> {
    let io = |operation, name: &str, error| Error::io(operation, dir.path().join(name), error);
    for n in 0.. {
        let name = file_name::aside(aside.segment.id(), n);
        match dir.open(&name, Access::Read) {
            Ok(file) => {
                let size = file.identity().map_err(|error| io("look at", &name, error))?.size;
                let read = |error| io("read", &name, error);
                if size == aside.to - aside.from && is_copy(dir, aside, file.as_ref(), read)? {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                write_quarantined(dir, aside, &name, |error| io("write", &name, error))?;
                return Ok(Some(dir.path().join(name)));
            }
            Err(error) => return Err(io("open", &name, error)),
        }
    }
    unreachable!("some number is free")
}

/// Passes the range to be quarantined to `take`, piece by piece, each with its offset in the copy,
/// until it returns false.
fn pieces(
    dir: &dyn Dir,
    aside: &SegmentRange,
    mut take: impl FnMut(&[u8], u64) -> Result<bool>,
) -> Result<()> {
    // An earlier open may have sealed the segment at the cut. Its file is then released.
    let source = SegmentReader::of(dir, &aside.segment)?;
    let mut buffer = Vec::new();
    let mut at = aside.from;
    while at < aside.to {
        let len = usize::try_from(aside.to - at).unwrap_or(PIECE).min(PIECE);
        alloc::resize(&mut buffer, len).map_err(|error| aside.segment.io("read", error))?;
        source.read_into(&mut buffer, at)?;
        if !take(&buffer, at - aside.from)? {
            return Ok(());
        }
        at += buffer.len() as u64;
    }
    Ok(())
}

/// Returns true if a file of equal size holds the bytes of the range.
fn is_copy(
    dir: &dyn Dir,
    aside: &SegmentRange,
    file: &dyn File,
    failed: impl Fn(io::Error) -> Error,
) -> Result<bool> {
    let mut there = Vec::new();
    let mut same = true;
    pieces(dir, aside, |bytes, at| {
        alloc::resize(&mut there, bytes.len()).map_err(&failed)?;
        crate::fs::read_exact_at(file, &mut there, at).map_err(&failed)?;
        same = there == bytes;
        Ok(same)
    })?;
    Ok(same)
}

/// Writes a copy. Its name exists only after all of it is durable.
fn write_quarantined(
    dir: &dyn Dir,
    aside: &SegmentRange,
    name: &str,
    failed: impl Fn(io::Error) -> Error,
) -> Result<()> {
    let temporary = file_name::temporary(name);
    let created = match dir.create(&temporary) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            dir.unlink(&temporary).and_then(|()| dir.create(&temporary))
        }
        other => other,
    };
    let file = created.map_err(&failed)?;
    pieces(dir, aside, |bytes, at| file.write_at(bytes, at).map(|()| true).map_err(&failed))?;
    let named = file.sync().and_then(|()| dir.rename(&temporary, name)).and_then(|()| dir.sync());
    named.map_err(failed)
}

/// Removes the hints of segments that this open used no hint of. One that stays is removed later, or
/// with the store: no chunk of it fits any more.
pub(super) fn remove_hints(dir: &dyn Dir, survey: &DirectoryScan, used: &BTreeSet<SegmentId>) {
    for id in survey.hints.iter().filter(|id| !used.contains(id)) {
        drop(dir.unlink(&file_name::hint(*id)));
    }
}

/// Renames segments that are no longer part of the store, and removes files whose creation was
/// interrupted. If a power cut restores such a file, the next open removes it.
pub(super) fn quarantine_file(
    dir: &dyn Dir,
    survey: &DirectoryScan,
    ids: &[SegmentId],
) -> Result<Vec<PathBuf>> {
    let io = |operation, name: &str, error| Error::io(operation, dir.path().join(name), error);
    let mut paths = Vec::new();
    let mut taken = Vec::new();
    if !ids.is_empty() {
        taken = dir.list().map_err(|error| Error::io("list", dir.path(), error))?;
    }
    for id in ids {
        let old = file_name::segment(*id);
        let new = (0..).map(|n| file_name::aside(*id, n)).find(|name| !taken.contains(name));
        let new = new.expect("some number is free");
        dir.rename(&old, &new).map_err(|error| io("rename", &old, error))?;
        paths.push(dir.path().join(&new));
        taken.push(new);
    }
    for name in &survey.temporaries {
        match dir.unlink(name) {
            // Left by an interrupted copy: repeating that copy has removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.map_err(|error| io("remove", name, error))?,
        }
    }
    if !ids.is_empty() {
        dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fs::sim::{Exhaustive, SimDisk, Tears};
    use crate::log::segment::segment_plan::SegmentPlan;
    use crate::log::segment::{Prefault, Segment};
    use crate::mem::address_space::AddressSpace;

    /// Returns a disk with a durable segment of this size, and the segment.
    fn segment(size: u64) -> (SimDisk, Arc<Segment>) {
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().expect("a new one");
        let space = AddressSpace::reserve().expect("address space");
        let plan = SegmentPlan::sample(1, size, Prefault::Plain);
        let segment = Segment::create(dir.as_ref(), &space, &plan).expect("there is room");
        dir.sync().expect("nothing is wrong");
        (disk, segment)
    }

    #[test]
    fn no_piece_is_larger_than_its_buffer() {
        let size = 3 * PIECE as u64;
        let (disk, segment) = segment(size);
        let mut taken = Vec::new();
        let aside = SegmentRange { segment, from: 64, to: size };
        pieces(disk.dir().as_ref(), &aside, |bytes, at| {
            taken.push((at, bytes.len()));
            Ok(true)
        })
        .expect("it can be read");
        let at = |n: usize| (n * PIECE) as u64;
        assert_eq!(taken, [(at(0), PIECE), (at(1), PIECE), (at(2), PIECE - 64)]);
    }

    #[test]
    fn quarantined_copy_is_whole_under_its_name_and_durable() {
        let size = 3 * crate::mem::PAGE_SIZE as u64;
        let (disk, segment) = segment(size);
        let file = segment.file().expect("it was just made");
        file.write_at(&[7; 6000], 64).expect("there is room");
        file.sync().expect("nothing is wrong");
        disk.forget_history();
        let aside = SegmentRange { segment, from: 64, to: 6064 };
        let path = quarantine_tail(disk.dir().as_ref(), &aside).expect("there is room").expect("a new copy");
        let name = path.file_name().expect("a file").to_str().expect("text");
        for at in disk.positions() {
            let (point, mut all) = (disk.crash_point(at, Tears::None), Exhaustive::new());
            loop {
                match point.cut_power(&mut all).read_file(name) {
                    Ok(bytes) => assert!(bytes == [7; 6000], "{at:?}: {} bytes", bytes.len()),
                    Err(_) => assert_ne!(at, disk.position(), "the copy was reported"),
                }
                if !all.advance() {
                    break;
                }
            }
        }
    }
}
