//! A directory known by its path: the variant of `dir_handle` for systems that cannot hold one by a
//! descriptor.
//!
//! Names are checked before they are opened, so that a link is not followed. A file that is swapped
//! in between is not noticed. No guarantee of the store is tested on these systems.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Access, Medium, NamesStamp, Standing};

/// A directory, known by its path.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
}

#[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "one signature on every system")]
impl Place {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        fs::read_dir(path).map(|_| Self { path: path.to_owned() })
    }

    pub(super) fn standing(&self, _: &Path, _: SystemTime) -> io::Result<(Standing, Option<NamesStamp>)> {
        Ok((if self.path.is_dir() { Standing::Here } else { Standing::Removed }, None))
    }

    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    pub(super) fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        let path = self.path.join(name);
        if !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        OpenOptions::new().read(true).write(access == Access::Write).open(path)
    }

    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))
    }

    /// Returns a constant for every existing name, because there are no inodes to compare.
    pub(super) fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        match fs::symlink_metadata(self.path.join(name)) {
            Ok(_) => Ok(Some((0, 0))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(from), self.path.join(to));
        // A hard link does not overwrite; a rename does.
        fs::hard_link(&from, to)?;
        fs::remove_file(from)
    }

    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    /// Does nothing: the file system's journal keeps names in order.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn sync_parent(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Returns zero, because std cannot query it.
    #[expect(clippy::unused_self, reason = "one signature on every system")]
    pub(super) fn names_bytes(&self) -> u64 {
        0
    }

    pub(super) fn free_files(&self) -> Option<u64> {
        None
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Returns `None`, because std cannot query it.
    #[expect(clippy::unused_self, reason = "one signature on every system")]
    pub(super) fn mount_id(&self) -> Option<u64> {
        None
    }

    pub(super) fn medium(&self) -> io::Result<Medium> {
        Ok(Medium::Device)
    }

    pub(super) fn try_lock(&self, _: bool) -> io::Result<Option<bool>> {
        Ok(None)
    }

    pub(super) fn wait_for_lock(&self, _: bool) {}

    pub(super) fn unlock(&self) {}
}
