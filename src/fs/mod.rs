//! File access: one directory and its files. All access to files goes through this module.
//!
//! It has two implementations: the real file system (`real`) and the simulated disk (`sim`).
//! Neither is on the hot path: a mapped segment is a pointer and a length in both.
//!
//! **Determinism.** Time, randomness and the boot id come through here as well, so that a test
//! controls them.

#[cfg_attr(not(unix), path = "dir_handle_portable.rs")]
mod dir_handle;
mod identity;
pub(crate) mod leftovers;
mod lock;
mod platform;
pub(crate) mod read_only;
pub(crate) mod real;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub mod sim;
pub(crate) mod tuning;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::tuning::Tuning;
use crate::mem::lost_pages;
use crate::mem::mapping::Mapping;

/// The access mode of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading only; its mappings are read-only.
    Read,
    /// Reading and writing.
    Write,
}

/// The medium of a directory, as far as durability is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A local file system on a device.
    Device,
    /// A file system in memory: its contents do not survive a power cut.
    Memory,
    /// A network file system, by name.
    Network(&'static str),
}

/// The identity of a file. The sync path compares it, because `msync` does not report a truncated
/// or replaced file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Size in bytes.
    pub(crate) size: u64,
    /// The number of names; zero once unlinked.
    pub(crate) links: u64,
    /// Device and inode, or a substitute for them.
    pub(crate) inode: (u64, u64),
}

/// The last change of the names in a directory. The same stamp at two times shows that no name was made,
/// removed or replaced between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamesStamp {
    /// Device and inode of the directory.
    inode: (u64, u64),
    /// The time of its last change, in seconds and nanoseconds.
    changed: (i64, i64),
}

/// The location of an open directory, compared with its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Where it was, or moved with no directory in its place.
    Here,
    /// Removed: files written into it are lost once it is closed.
    Removed,
    /// Moved or mounted over: its path leads to another directory.
    Replaced,
}

/// The reason why nothing may be written to a directory any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// [`Standing::Removed`].
    Removed,
    /// [`Standing::Replaced`].
    Replaced,
    /// The lock file was removed, and another writer may be active.
    Unlocked,
}

/// The reason why a lock was not taken.
#[derive(Debug)]
pub(crate) enum LockFailure {
    /// Another handle holds it; with the note in the file if that handle writes.
    Held(Vec<u8>),
    /// The system's error.
    Io(io::Error),
}

/// The purpose of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim<'a> {
    /// Writing, exclusive: the note is put into the lock file, which is created if it is missing.
    Write(&'a [u8]),
    /// Removing the store, exclusive: nothing is created or written.
    Remove,
    /// Reading, shared with other readers: nothing is created or written.
    Look,
}

/// A held lock; dropping it releases it.
pub(crate) trait Lock: Send + Sync + fmt::Debug {}

/// One directory.
pub(crate) trait Dir: Send + Sync + fmt::Debug {
    /// Returns the directory's path, for messages.
    fn path(&self) -> &Path;
    /// Returns a handle to the directory that is at this path now. It shares no lock with `self`.
    fn reopen(&self) -> io::Result<Arc<dyn Dir>>;
    /// Creates the directory and its parents durably, unless they exist.
    fn create_dir(&self) -> io::Result<()>;
    /// Makes the directory's own name durable in its parent. Never creates anything.
    fn sync_parent(&self) -> io::Result<()>;
    /// Checks that files written to the directory can still be found by its path, and that no other
    /// process can be writing to it. A directory that was moved, with nothing in its place, passes.
    fn check_place(&self) -> Result<(), Misplaced>;
    /// Does as [`Self::check_place`], by one look at the directory if its path leads to it and its names have
    /// not changed since the stamp `last`. Returns the stamp of its names from before all checks. `None` if that
    /// is unknown, or if a name changed so short a time ago that the next change might have the same stamp.
    fn check_place_since(&self, _last: Option<NamesStamp>) -> Result<Option<NamesStamp>, Misplaced> {
        self.check_place().map(|()| None)
    }
    /// Returns the [`Identity::inode`] of a file; `None` if the name is free. A link is not
    /// followed.
    fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>>;
    /// Returns the names in the directory, in no order; `NotFound` if there is no directory.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file that must not exist yet, open for reading and writing, of size zero.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing regular file without following a link; for writing, only a file with no
    /// other name.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;
    /// Renames within the directory; `AlreadyExists` if the new name is taken. Durable after
    /// [`Dir::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Durable after [`Dir::sync`].
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Removes the directory itself if it is empty and its path still leads to it; otherwise does
    /// nothing.
    fn remove_dir(&self);
    /// Makes all earlier creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
    /// Takes the lock on the directory and its permanent file `name`. Waits for another holder up
    /// to `wait`; [`Duration::MAX`] has no end.
    fn lock(&self, name: &str, claim: Claim<'_>, wait: Duration) -> Result<Box<dyn Lock>, LockFailure>;
    /// Returns the free bytes of the file system; `None` if unknown.
    fn free_bytes(&self) -> Option<u64>;
    /// Returns the number of further files that the file system can hold; `None` if unknown or
    /// limited by space only.
    fn free_files(&self) -> Option<u64>;
    /// Returns the bytes that must be free to change a name, beside those that the change itself
    /// takes.
    fn names_bytes(&self) -> u64;
    /// Returns the medium of the directory.
    fn medium(&self) -> io::Result<Medium>;
    /// Returns an identity of this boot of the system; `None` if unknown.
    fn boot_id(&self) -> Option<[u8; 16]>;
    /// Returns an identity of the mount that the directory is on, which no other mount of this boot
    /// ever has; `None` if unknown.
    ///
    /// While it is the same, the kernel still has every page that was written and not yet brought to
    /// the disk.
    fn mount_id(&self) -> Option<u64>;
    /// Returns the time since a fixed moment; never goes back. Takes no lock, so that a forked child
    /// may ask.
    fn now(&self) -> Duration;
    /// Returns the thresholds of recovery.
    fn tuning(&self) -> Tuning {
        Tuning::REAL
    }
    /// Fills `buffer` with random bytes.
    fn random(&self, buffer: &mut [u8]) -> io::Result<()>;
    /// Marks a named point of the write path. The simulated disk observes mapped stores here. The
    /// real one does nothing, and the caller guards hot paths with [`Dir::observes`].
    fn crash_point(&self, name: &'static str);
    /// Marks a named point of a follower, at which a test lets the writer act. Does nothing on real
    /// directories.
    fn reader_point(&self, _name: &'static str) {}
    /// True if crash points have an effect.
    fn observes(&self) -> bool;
}

/// One open file. Every sync of a file goes through the one handle (or the one mapping made from
/// it) that the store owns: the kernel reports a lost write once per open file description.
pub(crate) trait File: Send + Sync + fmt::Debug {
    /// Returns the current size, links and inode.
    fn identity(&self) -> io::Result<Identity>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` and extends the file if necessary.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Grows the file to `size` without reserving blocks, reading as zeros.
    fn extend(&self, size: u64) -> io::Result<()>;
    /// Grows the file to `size` with its blocks reserved, reading as zeros; the size never changes
    /// afterwards.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// Allocates like [`File::allocate`], if `beside` further bytes are available at the same
    /// moment; these are free again afterwards. The further bytes are not checked if only writing
    /// would show them. After an error the size of the file is unspecified.
    fn allocate_beside(&self, size: u64, beside: u64) -> io::Result<()>;
    /// Makes written bytes, the size and the blocks durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Sets the file's times to now, because stores into preallocated mapped pages do not. Durable
    /// eventually.
    fn touch(&self) -> io::Result<()>;
    /// Frees the blocks of a range, which reads as zeros afterwards. Does nothing if that is not
    /// supported.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Returns an offset at or behind `offset`: everything between the two reads as zeros. Returns
    /// `u64::MAX` if that holds up to the end of the file, and `offset` if nothing is known.
    fn data_from(&self, offset: u64) -> u64 {
        offset
    }
    /// Returns the bytes allocated on disk.
    fn allocated(&self) -> io::Result<u64>;
    /// Maps the first `len` bytes, shared; writable if the file was opened for writing.
    fn map(&self, len: usize) -> io::Result<Arc<Mapping>>;
    /// True if pages written to the file were lost on their way to the disk, as far as this open file
    /// can know. Each failure is told once.
    fn has_lost_pages(&self) -> bool {
        self.descriptor().is_some_and(lost_pages::has_lost_pages)
    }
    /// Returns the system's descriptor of the open file; `None` if it has none.
    fn descriptor(&self) -> Option<i32> {
        None
    }
}

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
///
/// Returns `UnexpectedEof` if the file ends earlier, or the system's error.
pub(crate) fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}
