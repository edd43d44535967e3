//! The two copies of the manifest on the disk, and the one in memory.
//!
//! **Protocol.** A change is written over one copy, synced, then over the other, synced. Never are both copies dirty
//! at once, so a power cut damages at most one; the other then holds the state before or after the change. A change is
//! in force once [`ManifestStore::update`] returns `Ok` (I6).
//!
//! **Room.** Both files keep blocks for more segments than there are, reserved before a segment is made: whoever leads out of
//! a full disk can always write the manifest, where the file system writes reserved blocks in place. What lies behind the
//! encoded manifest is zeros, or what an earlier, longer one left.
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

use crate::error::{Error, Result};
use crate::format::file_name::{LOCK, MANIFESTS};
use crate::format::manifest::{MAGIC, Manifest, SEGMENT_ENTRY_SIZE, SegmentEntry, SegmentState};
use crate::format::{SegmentId, Seq};
use crate::fs::{Access, Dir, File, Misplaced};
use crate::log::group_commit::GroupCommit;
use crate::mem::mapping::PAGE_SIZE;

/// For how many segments more than there are the copies keep room, where the disk is not full: the ready ones, the copies that
/// a pass makes, and what lies about retired.
pub(crate) const SPARE_ENTRIES: usize = 32;

/// Keeps the manifest.
#[derive(Debug)]
pub(crate) struct ManifestStore {
    dir: Arc<dyn Dir>,
    commit: Arc<GroupCommit>,
    /// The inodes of the copies, as in `Identity`.
    inodes: [(u64, u64); 2],
    /// What is in memory is not on the disk yet.
    is_behind: AtomicBool,
    held: Mutex<HeldFile>,
}

#[derive(Debug)]
struct HeldFile {
    manifest: Manifest,
    /// The two copies; none where the store is only read, and nothing is ever written.
    files: Vec<Arc<dyn File>>,
    /// Copies that may be damaged, at most one of them; it is written first.
    suspect: [bool; 2],
    /// Both are known to be on the disk, as far as they are whole, and so is the directory's own name.
    proven: bool,
    /// Bytes of each file that are known to have blocks.
    reserved: u64,
    /// Bytes that the keyspaces may take once all that was logged is in the manifest.
    keyspaces: u64,
}

impl HeldFile {
    /// Takes a change back that is nowhere on the disk. What is known to be durable stays known.
    fn restore(&mut self, before: Manifest) {
        self.manifest.segments = before.segments;
        self.manifest.retired_seq = before.retired_seq;
        self.manifest.checkpoint = before.checkpoint;
        self.manifest.clean = before.clean;
    }
}

impl ManifestStore {
    /// Takes over the copies that recovery chose `manifest` from; `suspect` says which of them is not whole, and `proven`
    /// that they, and the directory's own name, are known to be on the disk.
    pub(crate) fn open(
        dir: &Arc<dyn Dir>,
        commit: &Arc<GroupCommit>,
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
        let files = vec![file(MANIFESTS[0])?, file(MANIFESTS[1])?];
        if created {
            // Before the other copy is written over, this one must be sure to have its name.
            dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
        }
        let inode = |copy: usize| match files[copy].identity() {
            Ok(identity) => Ok(identity.inode),
            Err(error) => Err(Error::io("look at", dir.path().join(MANIFESTS[copy]), error)),
        };
        let inodes = [inode(0)?, inode(1)?];
        let held = HeldFile { manifest, files, suspect, proven, reserved: 0, keyspaces: 0 };
        Ok(Self::with(dir, commit, inodes, held))
    }

    /// The manifest of a store that is only read, which stays behind for ever: `commit` refuses whatever would write.
    pub(crate) fn in_memory(dir: &Arc<dyn Dir>, commit: &Arc<GroupCommit>, manifest: Manifest) -> Self {
        let (files, suspect) = (Vec::new(), [false; 2]);
        let held = HeldFile { manifest, files, suspect, proven: false, reserved: 0, keyspaces: 0 };
        Self::with(dir, commit, [(0, 0); 2], held)
    }

    fn with(dir: &Arc<dyn Dir>, commit: &Arc<GroupCommit>, inodes: [(u64, u64); 2], held: HeldFile) -> Self {
        let (is_behind, held) = (AtomicBool::new(true), Mutex::new(held));
        Self { dir: Arc::clone(dir), commit: Arc::clone(commit), inodes, is_behind, held }
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
    /// `Poisoned` by `DirectoryGone`, `FileGone` or `LockLost`.
    pub(crate) fn check_place(&self) -> Result<()> {
        let path = self.dir.path();
        let error = match self.dir.check_place() {
            Ok(()) => match self.lost_copy() {
                None => return Ok(()),
                Some(copy) => Error::FileGone { path: self.path(copy) },
            },
            Err(Misplaced::Removed) => Error::DirectoryGone { path: path.to_owned(), replaced: false },
            Err(Misplaced::Replaced) => Error::DirectoryGone { path: path.to_owned(), replaced: true },
            Err(Misplaced::Unlocked) => Error::LockLost { path: path.join(LOCK) },
        };
        self.commit.poison(error);
        self.commit.check()
    }

    /// The first copy whose name leads to its file no more: an open would read something else, or nothing.
    fn lost_copy(&self) -> Option<usize> {
        // An error says nothing about the file.
        let is_lost = |copy: &usize| matches!(self.dir.id_of(MANIFESTS[*copy]), Ok(found) if found != Some(self.inodes[*copy]));
        (0..2).find(is_lost)
    }

    /// Makes sure that both copies are on the disk: one that a killed process wrote may exist in the page cache only, and
    /// until it is on the disk, writing over the other could leave none. And the directory's own name: whoever made it, or
    /// copied the store there, may not have made that durable, and what is written into it is to be.
    fn prove(&self, held: &mut HeldFile) -> Result<()> {
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

    /// Has both files keep blocks for `more` segments than there are.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or what the operating system says; the manifest is as it was.
    pub(crate) fn reserve(&self, more: usize) -> Result<()> {
        self.reserve_in(&mut self.held.lock(), more)
    }

    /// As [`ManifestStore::reserve`], and for keyspaces that take `bytes` altogether; before their names are logged.
    ///
    /// # Errors
    ///
    /// As [`ManifestStore::reserve`].
    pub(crate) fn reserve_keyspaces(&self, bytes: u64) -> Result<()> {
        let mut held = self.held.lock();
        held.keyspaces = bytes;
        self.reserve_in(&mut held, 1)
    }

    fn reserve_in(&self, held: &mut HeldFile, more: usize) -> Result<()> {
        self.commit.check()?;
        let names = held.keyspaces.saturating_sub(held.manifest.keyspaces.encoded_len());
        let wanted = held.manifest.encoded_len() + names + (more * SEGMENT_ENTRY_SIZE) as u64;
        if wanted <= held.reserved {
            return Ok(());
        }
        let wanted = wanted.next_multiple_of(PAGE_SIZE as u64);
        for copy in 0..2 {
            let file = &held.files[copy];
            let size = file.identity().map_err(|error| Error::io("look at", self.path(copy), error))?.size;
            // Also where it is large enough: a file that was copied may have holes.
            file.allocate(wanted.max(size))
                .map_err(|error| Error::allocating(wanted, self.path(copy), error))?;
        }
        held.reserved = wanted;
        Ok(())
    }

    /// Changes the manifest, durably in both copies.
    ///
    /// # Errors
    ///
    /// Where the first copy cannot be written, neither the disk nor the memory has the change. Where the second one cannot,
    /// or the first one is left as it should not be, the change is in force in memory and may be on the disk: the caller
    /// looks, and makes it again. `Poisoned` after a failed sync, which poisons the store.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut Manifest) -> R) -> Result<R> {
        let mut held = self.held.lock();
        // After a failed sync nothing is tried again.
        self.commit.check()?;
        self.check_place()?;
        self.prove(&mut held)?;
        let before = held.manifest.clone();
        let result = change(&mut held.manifest);
        held.manifest.generation += 1;
        let bytes = held.manifest.encode();
        // Never over the one copy that is known to be whole.
        let first = usize::from(held.suspect[1]);
        for (copy, point) in [(first, "manifest-first"), (1 - first, "manifest-second")] {
            held.suspect[copy] = true;
            if let Err(error) = held.files[copy].write_at(&bytes, 0) {
                if copy == first && self.spoil(&held, copy)? {
                    held.restore(before);
                }
                return Err(Error::io("write", self.path(copy), error));
            }
            self.dir.crash_point(point);
            self.sync(&held, copy)?;
            held.suspect[copy] = false;
        }
        // Relaxed: see `is_behind`.
        self.is_behind.store(false, Ordering::Relaxed);
        Ok(result)
    }

    /// Sees to it that a copy of which a part was written is not taken for whole, which it is where all that changed is in
    /// that part; whether it was possible.
    fn spoil(&self, held: &HeldFile, copy: usize) -> Result<bool> {
        let spoiled = held.files[copy].write_at(&[0; MAGIC.len()], 0).is_ok();
        if spoiled {
            self.sync(held, copy)?;
        }
        Ok(spoiled)
    }

    fn sync(&self, held: &HeldFile, copy: usize) -> Result<()> {
        held.files[copy].sync().map_err(|error| {
            let error = Error::io("sync", self.path(copy), error);
            self.commit.poison(error.clone());
            // Whoever gets a plain "no space" would try again for ever.
            self.commit.check().err().unwrap_or(error)
        })
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
                    entry.state = SegmentState::Retired;
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

    /// Names a segment, if it is not named already.
    ///
    /// # Errors
    ///
    /// As [`ManifestStore::update`].
    pub(crate) fn add(&self, entry: SegmentEntry) -> Result<()> {
        self.update(|manifest| manifest.add(entry))
    }

    /// Whether a segment is named, and not only because its file is to be removed; as far as the memory knows.
    pub(crate) fn has(&self, id: SegmentId) -> bool {
        self.read(|manifest| manifest.has(id))
    }

    fn path(&self, copy: usize) -> PathBuf {
        self.dir.path().join(MANIFESTS[copy])
    }
}
