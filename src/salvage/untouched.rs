//! A directory in which nothing can be changed, whoever asks.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::fs::{Access, Dir, File, Lock, LockFailure, Medium, Misplaced};

/// Everything in it is opened for reading; what would change it is refused.
#[derive(Debug)]
pub(super) struct Untouched(pub(super) Arc<dyn Dir>);

fn refused() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Dir for Untouched {
    fn path(&self) -> &Path {
        self.0.path()
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

    fn open(&self, name: &str, _: Access) -> io::Result<Arc<dyn File>> {
        self.0.open(name, Access::Read)
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

    fn lock(&self, _: &str, _: Option<&[u8]>, _: Duration) -> Result<Box<dyn Lock>, LockFailure> {
        Err(LockFailure::Io(refused()))
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
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

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.random(buffer)
    }

    fn crash_point(&self, _: &'static str) {}

    fn observes(&self) -> bool {
        false
    }
}
