//! A read-only view of a directory: every call that would change something is refused. The one
//! file that a follower may open for writing is the waiters page, which no reader believes.
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
pub(crate) struct ReadOnlyDir {
    dir: Arc<dyn Dir>,
    /// True if the waiters page may be opened for writing.
    may_ask: bool,
}

impl ReadOnlyDir {
    /// Returns a view that changes nothing at all.
    pub(crate) fn new(dir: Arc<dyn Dir>) -> Self {
        Self { dir, may_ask: false }
    }

    /// Returns a view for a follower, which asks the writer to be woken.
    pub(crate) fn with_requests(dir: Arc<dyn Dir>) -> Self {
        Self { dir, may_ask: true }
    }
}

/// Stands for the lock in a follower, which takes none.
#[derive(Debug)]
pub(crate) struct Unlocked;

impl Lock for Unlocked {}

fn refused() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Dir for ReadOnlyDir {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self { dir: self.dir.reopen()?, may_ask: self.may_ask }))
    }

    fn create_dir(&self) -> io::Result<()> {
        Err(refused())
    }

    fn sync_parent(&self) -> io::Result<()> {
        Err(refused())
    }

    fn check_place(&self) -> Result<(), Misplaced> {
        self.dir.check_place()
    }

    fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        self.dir.id_of(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        Err(refused())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        if name != file_name::WAITERS || access == Access::Read {
            return self.dir.open(name, Access::Read);
        }
        // By this page a follower asks to be woken.
        if self.may_ask { self.dir.open(name, access) } else { Err(refused()) }
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
        self.dir.lock(name, Claim::Look, wait)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.dir.free_bytes()
    }

    fn free_files(&self) -> Option<u64> {
        self.dir.free_files()
    }

    fn names_bytes(&self) -> u64 {
        self.dir.names_bytes()
    }

    fn medium(&self) -> io::Result<Medium> {
        self.dir.medium()
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        self.dir.boot_id()
    }

    fn mount_id(&self) -> Option<u64> {
        self.dir.mount_id()
    }

    fn now(&self) -> Duration {
        self.dir.now()
    }

    fn tuning(&self) -> Tuning {
        self.dir.tuning()
    }

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.dir.random(buffer)
    }

    fn crash_point(&self, _: &'static str) {}

    fn reader_point(&self, name: &'static str) {
        self.dir.reader_point(name);
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
        ReadOnlyDir::new(disk.dir()).open(file_name::WAITERS, Access::Write).unwrap_err();
        let dir = ReadOnlyDir::with_requests(disk.dir());
        dir.open(file_name::WAITERS, Access::Write).unwrap().write_at(b"other", 0).unwrap();
        dir.open(file_name::WAITERS, Access::Read).unwrap().write_at(b"other", 0).unwrap_err();
        dir.open(file_name::CONTROL, Access::Write).unwrap().write_at(b"other", 0).unwrap_err();
    }

    #[test]
    fn a_file_is_opened_for_reading_whatever_the_access() {
        let disk = SimDisk::new();
        disk.put_file("file", b"content");
        let dir = ReadOnlyDir::new(disk.dir());
        for access in [Access::Read, Access::Write] {
            let file = dir.open("file", access).unwrap();
            file.write_at(b"other", 0).unwrap_err();
        }
        assert_eq!(disk.read_file("file").unwrap(), b"content");
    }
}
