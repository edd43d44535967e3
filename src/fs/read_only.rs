//! A read-only view of a directory: every call that would change something is refused. The one
//! file that may be opened for writing is the waiters page, which no reader believes.
//!
//! A store opened read-only, a follower, and salvage access files only through it. They never ask for a
//! change, so an error from here is a bug in them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::tuning::Tuning;
use super::{Access, Claim, Dir, File, Lock, LockFailure, Medium, Misplaced};
use crate::format::file_name;

/// A directory in which files are opened for reading only, and the lock is taken for reading.
#[derive(Debug)]
pub(crate) struct ReadOnlyDir(pub(crate) Arc<dyn Dir>);

/// Stands for the lock in a follower, which takes none.
#[derive(Debug)]
pub(crate) struct Unlocked;

impl Lock for Unlocked {}

fn refused() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Dir for ReadOnlyDir {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self(self.0.reopen()?)))
    }

    fn create_dir(&self) -> io::Result<()> {
        Err(refused())
    }

    fn sync_parent(&self) -> io::Result<()> {
        Err(refused())
    }

    fn check_place(&self) -> Result<(), Misplaced> {
        self.0.check_place()
    }

    fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        self.0.id_of(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        Err(refused())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        // By this page a follower asks to be woken.
        let access = if name == file_name::WAITERS { access } else { Access::Read };
        self.0.open(name, access)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn unlink(&self, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn remove_dir(&self) {}

    fn sync(&self) -> io::Result<()> {
        Err(refused())
    }

    fn lock(&self, name: &str, _: Claim<'_>, wait: Duration) -> Result<Box<dyn Lock>, LockFailure> {
        self.0.lock(name, Claim::Look, wait)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }

    fn free_files(&self) -> Option<u64> {
        self.0.free_files()
    }

    fn names_bytes(&self) -> u64 {
        self.0.names_bytes()
    }

    fn medium(&self) -> io::Result<Medium> {
        self.0.medium()
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        self.0.boot_id()
    }

    fn now(&self) -> Duration {
        self.0.now()
    }

    fn tuning(&self) -> Tuning {
        self.0.tuning()
    }

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.random(buffer)
    }

    fn crash_point(&self, _: &'static str) {}

    fn reader_point(&self, name: &'static str) {
        self.0.reader_point(name);
    }

    fn observes(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimDisk;

    #[test]
    fn every_file_but_the_waiters_page_is_opened_for_reading_only() {
        let disk = SimDisk::new();
        for name in [file_name::CONTROL, file_name::WAITERS] {
            disk.put_file(name, b"content");
        }
        let dir = ReadOnlyDir(disk.dir());
        dir.open(file_name::WAITERS, Access::Write).unwrap().write_at(b"other", 0).unwrap();
        dir.open(file_name::WAITERS, Access::Read).unwrap().write_at(b"other", 0).unwrap_err();
        dir.open(file_name::CONTROL, Access::Write).unwrap().write_at(b"other", 0).unwrap_err();
    }

    #[test]
    fn a_file_is_opened_for_reading_whatever_the_access() {
        let disk = SimDisk::new();
        disk.put_file("file", b"content");
        let dir = ReadOnlyDir(disk.dir());
        for access in [Access::Read, Access::Write] {
            let file = dir.open("file", access).unwrap();
            file.write_at(b"other", 0).unwrap_err();
        }
        assert_eq!(disk.read_file("file").unwrap(), b"content");
    }
}
