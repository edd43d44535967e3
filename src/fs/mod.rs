//! The only door to files: one directory, and the files in it.
//!
//! Two implementations stand behind it: the real file system (`real`) and the simulated disk (`sim`). Neither lies
//! on the hot path: a mapped segment is a pointer and a length, whoever made it.
//!
//! **Determinism.** Time, randomness and the boot id come through here as well, so that a test decides them.

#[cfg_attr(not(unix), path = "dir_handle_portable.rs")]
mod dir_handle;
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
use crate::mem::mapping::Mapping;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading only; a mapping of it is read-only.
    Read,
    /// Reading and writing.
    Write,
}

/// What lies under a directory, as far as durability goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A local file system on a device.
    Device,
    /// A file system in memory: nothing survives a power cut.
    Memory,
    /// A network file system, by name.
    Network(&'static str),
}

/// Who a file is: what `msync` does not check and the sync path must (a truncated or replaced file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Size in bytes.
    pub(crate) size: u64,
    /// Number of names; zero once unlinked.
    pub(crate) links: u64,
    /// Device and inode, or what stands for them.
    pub(crate) inode: (u64, u64),
}

/// Where a directory that was opened is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Where it was, or somewhere else with nothing in its place.
    Here,
    /// Nowhere: what is written into it is gone once it is closed.
    Removed,
    /// Somewhere else, or mounted over: its path leads to another directory.
    Replaced,
}

/// Why nothing may be written to a directory any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// [`Standing::Removed`].
    Removed,
    /// [`Standing::Replaced`].
    Replaced,
    /// The lock file was taken away, and another writer may be at work.
    Unlocked,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub(crate) enum LockFailure {
    /// Another handle holds it; the note in the file, where that handle writes.
    Held(Vec<u8>),
    /// The operating system refused.
    Io(io::Error),
}

/// The purpose of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim<'a> {
    /// Writing, alone: the note is put into the lock file, which is made where it is missing.
    Write(&'a [u8]),
    /// Removing what is there, alone: nothing is made or written.
    Remove,
    /// Looking, beside others who look: nothing is made or written.
    Look,
}

/// A held lock; dropping it releases it.
pub(crate) trait Lock: Send + Sync + fmt::Debug {}

/// One directory.
pub(crate) trait Dir: Send + Sync + fmt::Debug {
    /// The directory's path, for messages.
    fn path(&self) -> &Path;
    /// Makes the directory and its parents, durably, where they are missing.
    fn create_dir(&self) -> io::Result<()>;
    /// Makes the directory's own name durable, in the directory that it lies in. Never makes anything.
    fn sync_parent(&self) -> io::Result<()>;
    /// Looks whether what is written to the directory can still be found by its path, and nobody else can be writing to it.
    /// A directory that was moved away, with nothing in its place, is one that can be found.
    fn check_place(&self) -> Result<(), Misplaced>;
    /// The [`Identity::inode`] of the file with a name, if there is one; a link is not followed.
    fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>>;
    /// The names in the directory, in no order; `NotFound` where there is no directory.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file that must not exist yet, open for reading and writing, of size zero.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens a file that exists: a regular one, no link is followed; for writing, one that has no other name.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;
    /// Renames within the directory; `AlreadyExists` where anything has the new name. Durable after [`Dir::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Durable after [`Dir::sync`].
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Removes the directory itself if it is empty, and still the one that its path leads to; otherwise does nothing.
    fn remove_dir(&self);
    /// Makes creations, renames and removals so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Takes the lock on the directory and its permanent file `name`. Waits for another holder up to `wait`.
    fn lock(&self, name: &str, claim: Claim<'_>, wait: Duration) -> Result<Box<dyn Lock>, LockFailure>;
    /// Bytes that are free on the file system; `None` where that cannot be known.
    fn free_bytes(&self) -> Option<u64>;
    /// The number of files that the file system can still hold; `None` where that is unknown, or only its size limits them.
    fn free_files(&self) -> Option<u64>;
    /// Bytes that have to be free for a name to be changed, beside those that it takes then.
    fn names_bytes(&self) -> u64;
    /// What lies below.
    fn medium(&self) -> io::Result<Medium>;
    /// Identifies this run of the operating system; `None` where that cannot be known.
    fn boot_id(&self) -> Option<[u8; 16]>;
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// The thresholds of recovery.
    fn tuning(&self) -> Tuning {
        Tuning::REAL
    }
    /// Fills `buffer` with random bytes.
    fn random(&self, buffer: &mut [u8]) -> io::Result<()>;
    /// Marks a named point of the write path. The simulated disk observes mapped stores here; the real one does
    /// nothing, and the caller guards hot paths with [`Dir::observes`].
    fn crash_point(&self, name: &'static str);
    /// Whether crash points do anything.
    fn observes(&self) -> bool;
}

/// One open file. Every sync of a file goes through the one handle (or the one mapping made from it) that the store
/// owns: the kernel reports a lost write once per open file description.
pub(crate) trait File: Send + Sync + fmt::Debug {
    /// Size, links and inode now.
    fn identity(&self) -> io::Result<Identity>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, extending the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Grows the file to `size` with its blocks reserved, reading as zeros; the size never changes afterwards.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// As [`File::allocate`], if so many bytes `beside` those can be had at the same moment; they are free again afterwards. Where
    /// only writing would tell, nothing is tried. After an error the file has any size.
    fn allocate_beside(&self, size: u64, beside: u64) -> io::Result<()>;
    /// Makes written bytes, the size and the blocks durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Has the file's times say that it was changed now: stores into mapped pages that lie ready do not. Durable some time.
    fn touch(&self) -> io::Result<()>;
    /// Gives the blocks of a range back; it reads as zeros afterwards. Where that is not supported, does nothing.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Bytes allocated on the disk.
    fn allocated(&self) -> io::Result<u64>;
    /// Maps the first `len` bytes, shared; writable as the file was opened.
    fn map(&self, len: usize) -> io::Result<Arc<Mapping>>;
    /// The number under which the operating system knows the open file, where it is one of its own.
    fn descriptor(&self) -> Option<i32> {
        None
    }
}

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
///
/// `UnexpectedEof` where the file ends before, and what the operating system says.
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
