//! The two copies of the manifest on the disk, and the one in memory.
//!
//! **Protocol.** A change is written over one copy, synced, then over the other, synced. Never are both copies dirty
//! at once, so a power cut damages at most one; the other then holds the state before or after the change. A change is
//! in force once [`ManifestStore::update`] returns `Ok` (I6).
//!
//! **Behind.** An open of a store that was closed changes only the manifest in memory: what is on the disk says that the store
//! was closed, and that is true until something is written. The first change, or [`ManifestStore::begin`] before the first
//! record, writes it down; so an open that is followed by reads alone costs no sync, and leaves the files as they were.
//!
//! **Crash points.** `manifest-first` and `manifest-second`, each between the write of a copy and its sync.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::commit::Commit;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SegmentEntry, State};
use crate::format::names::{LOCK, MANIFESTS};
use crate::format::{SegmentId, Seq};
use crate::fs::{Access, Dir, File, Misplaced};

/// Keeps the manifest.
#[derive(Debug)]
pub(crate) struct ManifestStore {
    dir: Arc<dyn Dir>,
    commit: Arc<Commit>,
    /// What is in memory is not on the disk yet.
    is_behind: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    manifest: Manifest,
    files: [Arc<dyn File>; 2],
    /// Copies that may be damaged, at most one of them; it is written first.
    suspect: [bool; 2],
    /// Both are known to be on the disk, as far as they are whole, and so is the directory's own name.
    proven: bool,
}

impl ManifestStore {
    /// Takes over the copies that recovery chose `manifest` from; `suspect` says which of them is not whole, and `proven`
    /// that they, and the directory's own name, are known to be on the disk.
    pub(crate) fn open(
        dir: &Arc<dyn Dir>,
        commit: &Arc<Commit>,
        manifest: Manifest,
        suspect: [bool; 2],
        proven: bool,
    ) -> Result<Self> {
        let mut created = false;
        let mut file = |name: &str| {
            let opened = match dir.open(name, Access::Write) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    created = true;
                    dir.create(name)
                }
                other => other,
            };
            opened.map_err(|error| Error::io("open", dir.path().join(name), error))
        };
        let files = [file(MANIFESTS[0])?, file(MANIFESTS[1])?];
        if created {
            // Before the other copy is written over, this one must be sure to have its name.
            dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
        }
        let held = Mutex::new(Held { manifest, files, suspect, proven });
        let is_behind = AtomicBool::new(true);
        Ok(Self { dir: Arc::clone(dir), commit: Arc::clone(commit), is_behind, held })
    }

    /// Whether the manifest on the disk is still that of the clean close before this open.
    pub(crate) fn is_behind(&self) -> bool {
        // Relaxed: changed with the manifest locked; who must not miss it is the writer that changes it.
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Has the disk know that the store is being written to; before the first record is.
    ///
    /// # Errors
    ///
    /// As [`ManifestStore::update`].
    pub(crate) fn begin(&self) -> Result<()> {
        if self.is_behind() { self.update(|_| ()) } else { Ok(()) }
    }

    /// Looks whether the store's files are still where whoever opens it next looks for them, and nobody else writes to them.
    ///
    /// # Errors
    ///
    /// `Poisoned` by `DirectoryGone` or `LockLost`.
    pub(crate) fn check_place(&self) -> Result<()> {
        let path = self.dir.path();
        let error = match self.dir.check_place() {
            Ok(()) => return Ok(()),
            Err(Misplaced::Removed) => Error::DirectoryGone { path: path.to_owned(), replaced: false },
            Err(Misplaced::Replaced) => Error::DirectoryGone { path: path.to_owned(), replaced: true },
            Err(Misplaced::Unlocked) => Error::LockLost { path: path.join(LOCK) },
        };
        self.commit.poison(error);
        self.commit.check()
    }

    /// Makes sure that both copies are on the disk: one that a killed process wrote may exist in the page cache only, and
    /// until it is on the disk, writing over the other could leave none. And the directory's own name: whoever made it, or
    /// copied the store there, may not have made that durable, and what is written into it is to be.
    fn prove(&self, held: &mut Held) -> Result<()> {
        if held.proven {
            return Ok(());
        }
        self.dir.sync_parent().map_err(|error| Error::io("sync", self.dir.path(), error))?;
        let mut refused = None;
        for copy in 0..2 {
            if let Err(error) = held.files[copy].sync() {
                held.suspect[copy] = true;
                refused = Some(Error::io("sync", self.path(copy), error));
            }
        }
        if let (true, Some(error)) = (held.suspect == [true; 2], refused) {
            // Of a copy that is written again whole nothing is lost; of both, nobody knows what is on the disk.
            self.commit.poison(error);
            return self.commit.check();
        }
        if held.suspect.contains(&true) {
            // Whoever made it may have died before its name was durable, and it is to stand for the other.
            self.dir.sync().map_err(|error| Error::io("sync", self.dir.path(), error))?;
        }
        held.proven = true;
        Ok(())
    }

    /// Changes the manifest, durably in both copies.
    ///
    /// # Errors
    ///
    /// When a copy cannot be written the change may or may not be on the disk; in memory it is in force, and the next
    /// update writes it again. `Poisoned` after a failed sync, which poisons the store.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut Manifest) -> R) -> Result<R> {
        let mut held = self.held.lock();
        // After a failed sync nothing is tried again.
        self.commit.check()?;
        self.check_place()?;
        self.prove(&mut held)?;
        let result = change(&mut held.manifest);
        held.manifest.generation += 1;
        let bytes = held.manifest.encode();
        // Never over the one copy that is known to be whole.
        let first = usize::from(held.suspect[1]);
        for (copy, point) in [(first, "manifest-first"), (1 - first, "manifest-second")] {
            let path = || self.path(copy);
            held.suspect[copy] = true;
            held.files[copy].write_at(&bytes, 0).map_err(|error| Error::io("write", path(), error))?;
            self.dir.crash_point(point);
            if let Err(error) = held.files[copy].sync() {
                let error = Error::io("sync", path(), error);
                self.commit.poison(error.clone());
                // Whoever gets a plain "no space" would try again for ever.
                return Err(self.commit.check().err().unwrap_or(error));
            }
            held.suspect[copy] = false;
        }
        // Relaxed: see `is_behind`.
        self.is_behind.store(false, Ordering::Relaxed);
        Ok(result)
    }

    /// Looks at the manifest.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Manifest) -> R) -> R {
        look(&self.held.lock().manifest)
    }

    /// Gives out the next segment number. Not written here: a number that is not in use is lost in a crash, and the
    /// name of a file that was being made tells recovery not to use it again.
    pub(crate) fn next_segment(&self) -> SegmentId {
        let mut held = self.held.lock();
        let id = held.manifest.next_segment;
        held.manifest.next_segment = SegmentId(id.0 + 1);
        id
    }

    /// Calls segments retired, the last number in them being `last`: their files may be removed after this.
    ///
    /// # Errors
    ///
    /// As [`ManifestStore::update`].
    pub(crate) fn retire(&self, ids: &[SegmentId], last: Seq) -> Result<()> {
        self.update(|manifest| {
            for id in ids {
                if let Some(entry) = manifest.segment_mut(*id) {
                    entry.state = State::Retired;
                }
            }
            manifest.retired_seq = manifest.retired_seq.max(last);
        })
    }

    /// Takes note of segments whose files are gone, durably. On the disk with the next change: until then an open finds
    /// names without files, which is what it expects of retired segments.
    pub(crate) fn forget(&self, ids: &[SegmentId]) {
        self.held.lock().manifest.forget(ids);
    }

    /// Names a segment.
    pub(crate) fn add(&self, entry: SegmentEntry) -> Result<()> {
        self.update(|manifest| {
            let at = manifest.segments.partition_point(|other| other.id < entry.id);
            manifest.segments.insert(at, entry);
        })
    }

    fn path(&self, copy: usize) -> PathBuf {
        self.dir.path().join(MANIFESTS[copy])
    }
}
