//! What recovery does to files: what is set aside gets another name, what nobody needs is removed.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::chain::Aside;
use super::survey::Survey;
use crate::error::{Error, Result};
use crate::format::image::Image;
use crate::format::{SegmentId, names};
use crate::fs::{Access, Dir};
use crate::manifest_store::ManifestStore;
use crate::segment_file::{open_file, unlink_segment};

/// Removes the files of segments that compaction has done with, and those that repeat what is in others.
pub(super) fn remove(
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
            // Only what the manifest speaks of.
            Ok((_, header)) if header.nonce == *nonce => unlink_segment(dir, *id)?,
            Err(error @ Error::Io { .. }) => return Err(error),
            _ => {}
        }
    }
    for id in repeated {
        unlink_segment(dir, *id)?;
    }
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    // On the disk with the next change.
    manifest.forget(&retired.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    Ok(())
}

/// Removes the images that the manifest does not name; one that a power cut brings back is removed by the next open.
pub(super) fn remove_images(dir: &dyn Dir, survey: &Survey, named: Option<&Image>) -> Result<()> {
    let named = named.map(|image| image.number);
    for number in survey.images.iter().filter(|number| Some(**number) != named) {
        let name = names::image(*number);
        dir.unlink(&name).map_err(|error| Error::io("remove", dir.path().join(&name), error))?;
    }
    Ok(())
}

/// Copies complete records behind a cut to a file of their own, durably. `None` where an earlier attempt did.
pub(super) fn copy_aside(dir: &dyn Dir, aside: &Aside) -> Result<Option<PathBuf>> {
    let io = |operation, name: &str, error| Error::io(operation, dir.path().join(name), error);
    let source = aside.segment.file().expect("an opened segment has its file");
    let len = usize::try_from(aside.to - aside.from).expect("inside of a mapped file");
    let mut bytes = vec![0; len];
    crate::fs::read_exact_at(source.as_ref(), &mut bytes, aside.from)
        .map_err(|error| aside.segment.io("read", error))?;
    for n in 0.. {
        let name = names::aside(aside.segment.id(), n);
        match dir.open(&name, Access::Read) {
            Ok(file) => {
                let mut there = vec![0; len];
                let size = file.identity().map_err(|error| io("look at", &name, error))?.size;
                let read = file.read_at(&mut there, 0).map_err(|error| io("read", &name, error))?;
                if size == len as u64 && read == len && there == bytes {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                write_aside(dir, &name, &bytes).map_err(|error| io("write", &name, error))?;
                return Ok(Some(dir.path().join(name)));
            }
            Err(error) => return Err(io("open", &name, error)),
        }
    }
    unreachable!("some number is free")
}

fn write_aside(dir: &dyn Dir, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = names::temporary(name);
    let file = match dir.create(&temporary) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            dir.unlink(&temporary)?;
            dir.create(&temporary)
        }
        other => other,
    }?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    dir.rename(&temporary, name)?;
    dir.sync()
}

/// Gives segments that are no longer part of the store another name, and removes what was only being made.
pub(super) fn rename_aside(dir: &dyn Dir, survey: &Survey, ids: &[SegmentId]) -> Result<Vec<PathBuf>> {
    let io = |operation, name: &str, error| Error::io(operation, dir.path().join(name), error);
    let mut paths = Vec::new();
    let mut taken = Vec::new();
    if !ids.is_empty() {
        taken = dir.list().map_err(|error| Error::io("list", dir.path(), error))?;
    }
    for id in ids {
        let old = names::segment(*id);
        let new = (0..).map(|n| names::aside(*id, n)).find(|name| !taken.contains(name));
        let new = new.expect("some number is free");
        dir.rename(&old, &new).map_err(|error| io("rename", &old, error))?;
        paths.push(dir.path().join(&new));
        taken.push(new);
    }
    for name in &survey.temporaries {
        match dir.unlink(name) {
            // Removed by the copy of an aside that was begun before.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.map_err(|error| io("remove", name, error))?,
        }
    }
    if !ids.is_empty() || !survey.temporaries.is_empty() {
        dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    }
    Ok(paths)
}
