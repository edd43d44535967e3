//! Destroying a store: deletes every file of it, and nothing else.
//!
//! **Order.**
//!
//! 1. Take the lock.
//! 2. Write a file that records the intent, durably, with the store's id.
//! 3. Remove every file of the store, durably.
//! 4. Remove that file, and the lock file.
//! 5. Remove the directory, if it is empty.
//!
//! **Crash points.** `destroy-begun` after step 2, `destroy-emptied` after step 3. From step 2 to
//! step 4 an open and a salvage refuse the directory. Its remains must not pass for a store that
//! lost its data, nor for one that never had any. Destroying it again continues.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::StoreId;
use crate::format::file_name;
use crate::format::file_name::{FileName, LOCK, MANIFESTS, REMOVING};
use crate::fs::real::RealDir;
use crate::fs::{Access, Claim, Dir};
use crate::log::segment_file::read_header;
use crate::recovery::directory::DirectoryScan;
use crate::recovery::{decide_directory, lock_failed};

/// Deletes the store in a directory: its files, and the directory if nothing else is in it.
///
/// Files of other programs stay, and so do segments of another store. After an interruption,
/// [`Store::open`](crate::Store::open) refuses the directory, and another call of this continues.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// let store = mapcask::Store::open(&path)?;
/// assert!(matches!(mapcask::destroy(&path), Err(mapcask::Error::Locked { .. })));
/// store.close()?;
/// mapcask::destroy(&path)?;
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// `Locked` while the store is open; `NotFound` if there is none. `Foreign`, `ForeignFile`,
/// `TooNew` or `Corrupt` if the store cannot be identified; nothing was touched then. `Io` or
/// `ReadOnly` if the operating system refuses.
#[doc(alias = "remove_dir_all")]
#[doc(alias = "drop_database")]
pub fn destroy(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    destroy_in(&RealDir::new(path).map_err(|error| Error::io("find", path, error))?)
}

/// Deletes a store as [`destroy`] does, on a simulated disk.
///
/// # Errors
///
/// Fails as [`destroy`] does.
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub fn destroy_on(disk: &crate::fs::sim::SimDisk) -> Result<()> {
    destroy_in(disk.dir().as_ref())
}

fn destroy_in(dir: &dyn Dir) -> Result<()> {
    let io = |operation, name: &str, error| Error::io(operation, dir.path().join(name), error);
    // Before anything is locked: the directory of another program is not touched.
    whose(dir, &DirectoryScan::of(dir)?)?;
    let lock = dir.lock(LOCK, Claim::Remove, Duration::ZERO).map_err(|failure| lock_failed(dir, failure))?;
    let survey = DirectoryScan::of(dir)?;
    let store = whose(dir, &survey)?;
    if survey.removing() != Some(Some(store)) {
        announce(dir, store, survey.removing().is_some()).map_err(|error| io("write", REMOVING, error))?;
    }
    dir.crash_point("destroy-begun");
    for name in dir.list().map_err(|error| Error::io("list", dir.path(), error))? {
        if is_of(dir, store, &name)? {
            unlink(dir, &name)?;
        }
    }
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    dir.crash_point("destroy-emptied");
    unlink(dir, LOCK)?;
    unlink(dir, REMOVING)?;
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    dir.remove_dir();
    drop(lock);
    Ok(())
}

/// Returns the id of the store in a directory, or of the one being destroyed there.
///
/// # Errors
///
/// `NotFound` if there is none, and the errors of an open if the store cannot be identified.
fn whose(dir: &dyn Dir, survey: &DirectoryScan) -> Result<StoreId> {
    let removed = survey.removing().flatten();
    let manifest = survey.manifest().map(|(manifest, _)| manifest.store);
    if survey.is_mixed() || removed.is_some() && manifest.is_some() && manifest != removed {
        return Err(Error::ForeignFile { path: dir.path().join(MANIFESTS[1]) });
    }
    match removed.or(manifest) {
        Some(store) => Ok(store),
        None => {
            decide_directory(dir, survey, &Config { create: false, ..Config::default() })?;
            Err(Error::NotFound { path: dir.path().to_owned() })
        }
    }
}

/// Records durably that the store is being destroyed.
fn announce(dir: &dyn Dir, store: StoreId, is_there: bool) -> std::io::Result<()> {
    // A file that an interrupted attempt left is still empty.
    let file = if is_there { dir.open(REMOVING, Access::Write)? } else { dir.create(REMOVING)? };
    file.write_at(&store.0, 0)?;
    file.sync()?;
    dir.sync()
}

/// Returns `true` if a name is that of a file of the store to remove in step 3.
fn is_of(dir: &dyn Dir, store: StoreId, name: &str) -> Result<bool> {
    let meaning = file_name::parse(name);
    let is_other = match meaning {
        FileName::Neutral => name != file_name::STANDBY,
        FileName::Foreign | FileName::Lock | FileName::Removing => true,
        _ => false,
    };
    if is_other {
        return Ok(false);
    }
    let path = dir.path().join(name);
    let file = match dir.open(name, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(Error::io("open", path, error));
        }
        // A link or a folder never belongs to the store, whatever its name.
        Err(_) => return Ok(false),
    };
    if meaning == FileName::Neutral {
        // The file by which standbys take turns is always empty.
        let identity = file.identity().map_err(|error| Error::io("look at", path, error))?;
        return Ok(identity.size == 0);
    }
    if !matches!(meaning, FileName::Segment(_) | FileName::Aside(..)) {
        return Ok(true);
    }
    // Neither the quarantined tail of a segment nor a damaged segment has a valid header.
    Ok(read_header(file.as_ref(), &path).map_or(true, |header| header.store == store))
}

fn unlink(dir: &dyn Dir, name: &str) -> Result<()> {
    match dir.unlink(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove", dir.path().join(name), error))
        }
        _ => Ok(()),
    }
}
