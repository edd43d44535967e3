//! The two copies of the manifest on the disk, and the one in memory.
//!
//! **Protocol.** A change is written over one copy and synced, then over the other and synced. The
//! two copies are never dirty at once, so a power cut damages at most one. The other then holds the
//! state before or after the change. A change is in force once [`ManifestStore::update`] returns
//! `Ok` (I6).
//!
//! **Space.** Both files keep blocks for more segments than there are, reserved before a segment is
//! made. So the manifest can be written on a full disk, where the file system writes reserved
//! blocks in place. The bytes behind the encoded manifest are zeros, or those of an earlier, longer
//! one.
//!
//! **Behind.** An open of a closed store changes only the manifest in memory. The disk still says
//! that the store was closed, which is true until the first write. The first change writes the
//! manifest, or [`ManifestStore::begin`] before the first record. So an open followed only by reads
//! costs no sync, and leaves the files unchanged. An open after a kill may do so, too, until
//! `State::resume`.
//!
//! **Crash points.** `manifest-first` and `manifest-second`, each between the write of a copy and
//! its sync.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::file_name::{LOCK, MANIFESTS};
use crate::format::manifest::{MAGIC, Manifest, SEGMENT_ENTRY_SIZE, SegmentEntry, SegmentState};
use crate::format::{SegmentId, Seq};
use crate::fs::{Access, Dir, File, Misplaced, NamesStamp};
use crate::log::control_page::ControlPage;
use crate::log::group_commit::GroupCommit;
use crate::mem::PAGE_SIZE;

/// The number of further segments that the copies keep space for, where the disk is not full.
///
/// They are the preallocated segments, the copies that a pass makes, and the retired segments.
pub(crate) const SPARE_ENTRIES: usize = 32;

/// Stores the manifest.
#[derive(Debug)]
pub(crate) struct ManifestStore {
    dir: Arc<dyn Dir>,
    commit: Arc<GroupCommit>,
    /// The inodes of the copies, as in `Identity`.
    inodes: [(u64, u64); 2],
    /// True if the manifest in memory is not on the disk yet.
    is_behind: AtomicBool,
    /// True if the manifest on the disk was that of a clean close when it was read, and for a
    /// read-only store.
    was_closed: bool,
    held: Mutex<HeldFile>,
    /// The page that tells followers of a new generation.
    control: OnceLock<Arc<ControlPage>>,
}

#[derive(Debug)]
struct HeldFile {
    manifest: Manifest,
    /// The two copies. Empty for a read-only store, where nothing is ever written.
    files: Vec<Arc<dyn File>>,
    /// True for a copy that may be damaged, at most one of them. It is written first.
    suspect: [bool; 2],
    /// True if the whole copies are known to be on the disk, and so is the directory's own name.
    proven: bool,
    /// Bytes of each file that are known to have blocks.
    reserved: u64,
    /// Bytes that the keyspaces may take once all logged changes are in the manifest.
    keyspaces: u64,
}

impl HeldFile {
    /// Reverts a change that is nowhere on the disk. The durable number and the keyspaces stay.
    fn restore(&mut self, before: Manifest) {
        self.manifest.segments = before.segments;
        self.manifest.retired_seq = before.retired_seq;
        self.manifest.checkpoint = before.checkpoint;
        self.manifest.clean = before.clean;
    }
}

impl ManifestStore {
    /// Takes over the copies that recovery chose `manifest` from, for the next incarnation.
    ///
    /// `suspect` is true for a copy that is not whole. `proven` is true if the copies and the
    /// directory's own name are known to be on the disk.
    pub(crate) fn open(
        dir: &Arc<dyn Dir>,
        commit: &Arc<GroupCommit>,
        mut manifest: Manifest,
        suspect: [bool; 2],
        proven: bool,
    ) -> Result<Self> {
        let was_closed = std::mem::replace(&mut manifest.clean, false);
        manifest.incarnation += 1;
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
            // Before the other copy is overwritten, the name of this one must be durable.
            dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
        }
        let inode = |copy: usize| match files[copy].identity() {
            Ok(identity) => Ok(identity.inode),
            Err(error) => Err(Error::io("look at", dir.path().join(MANIFESTS[copy]), error)),
        };
        let inodes = [inode(0)?, inode(1)?];
        let held = HeldFile { manifest, files, suspect, proven, reserved: 0, keyspaces: 0 };
        Ok(Self::with(dir, commit, inodes, held, was_closed))
    }

    /// Returns the manifest of a read-only store, which is never written: `commit` refuses every
    /// change.
    pub(crate) fn in_memory(dir: &Arc<dyn Dir>, commit: &Arc<GroupCommit>, manifest: Manifest) -> Self {
        let (files, suspect) = (Vec::new(), [false; 2]);
        let held = HeldFile { manifest, files, suspect, proven: false, reserved: 0, keyspaces: 0 };
        Self::with(dir, commit, [(0, 0); 2], held, true)
    }

    /// Replaces the manifest of a read-only store with a newer one.
    pub(crate) fn follow(&self, manifest: Manifest) {
        let mut held = self.held.lock();
        debug_assert!(held.files.is_empty(), "a writer changes its manifest with `update`");
        held.manifest = manifest;
    }

    fn with(
        dir: &Arc<dyn Dir>,
        commit: &Arc<GroupCommit>,
        inodes: [(u64, u64); 2],
        held: HeldFile,
        was_closed: bool,
    ) -> Self {
        let (is_behind, held) = (AtomicBool::new(true), Mutex::new(held));
        let (dir, commit) = (Arc::clone(dir), Arc::clone(commit));
        Self { dir, commit, inodes, is_behind, was_closed, held, control: OnceLock::new() }
    }

    /// Announces every later generation on the page that `create` makes with the present one.
    ///
    /// # Errors
    ///
    /// Those of `create`.
    pub(crate) fn announce_on(
        &self,
        create: impl FnOnce(u64) -> Result<ControlPage>,
    ) -> Result<Arc<ControlPage>> {
        let held = self.held.lock();
        let control = Arc::new(create(held.manifest.generation)?);
        assert!(self.control.set(Arc::clone(&control)).is_ok(), "a writer has one control page");
        Ok(control)
    }

    /// Returns true if the manifest on the disk is still that of the incarnation before.
    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        // Relaxed: changed with the manifest locked. Only the writer must not miss the change, and
        // it makes it.
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Returns true if the manifest on the disk is still that of the clean close before this open, or
    /// is never written.
    pub(crate) fn is_closed(&self) -> bool {
        self.was_closed && self.is_behind()
    }

    /// Marks the store as open on the disk, before the first record is written.
    ///
    /// # Errors
    ///
    /// The errors of [`ManifestStore::update`].
    pub(crate) fn begin(&self) -> Result<()> {
        if self.is_behind() { self.update(|_| ()) } else { Ok(()) }
    }

    /// Checks that the next open will find the store's files in their place, and that no other
    /// process writes to them.
    ///
    /// # Errors
    ///
    /// `Poisoned` by `DirectoryGone`, `FileGone` or `LockLost`.
    pub(crate) fn check_place(&self) -> Result<()> {
        self.check_place_since(None).map(drop)
    }

    /// Does as [`Self::check_place`], by one look if the names have not changed since the stamp `last`.
    /// Returns their stamp from before the check; see [`Dir::check_place_since`].
    ///
    /// # Errors
    ///
    /// The errors of [`Self::check_place`].
    pub(crate) fn check_place_since(&self, last: Option<NamesStamp>) -> Result<Option<NamesStamp>> {
        let path = self.dir.path();
        let error = match self.dir.check_place_since(last) {
            Ok(stamp) if stamp.is_some() && stamp == last => return Ok(stamp),
            Ok(stamp) => match self.lost_copy() {
                None => return Ok(stamp),
                Some(copy) => Error::FileGone { path: self.path(copy) },
            },
            Err(Misplaced::Removed) => Error::DirectoryGone { path: path.to_owned(), replaced: false },
            Err(Misplaced::Replaced) => Error::DirectoryGone { path: path.to_owned(), replaced: true },
            Err(Misplaced::Unlocked) => Error::LockLost { path: path.join(LOCK) },
        };
        self.commit.poison(error);
        self.commit.check().map(|()| None)
    }

    /// Returns the first copy whose name no longer leads to its file. An open would read another
    /// file, or none.
    fn lost_copy(&self) -> Option<usize> {
        // An error says nothing about the file.
        let is_lost = |copy: &usize| matches!(self.dir.id_of(MANIFESTS[*copy]), Ok(found) if found != Some(self.inodes[*copy]));
        (0..2).find(is_lost)
    }

    /// Ensures that both copies and the directory's own name are on the disk.
    ///
    /// A copy that a killed process wrote may exist in the page cache only. Until it is on the
    /// disk, overwriting the other could leave no copy. The creator of the directory, or of a copy
    /// of the store, may not have made its name durable, and the contents depend on that.
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
            // A copy that is written again whole loses nothing. If neither is whole, the disk's
            // state is unknown.
            self.commit.poison(error);
            return self.commit.check();
        }
        if held.suspect.contains(&true) {
            // The copy's creator may have died before its name was durable, and it must stand for
            // the other.
            self.dir.sync().map_err(|error| Error::io("sync", self.dir.path(), error))?;
        }
        held.proven = true;
        Ok(())
    }

    /// Reserves blocks in both files for `more` segments than there are.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system. The manifest is unchanged.
    pub(crate) fn reserve(&self, more: usize) -> Result<()> {
        self.reserve_in(&mut self.held.lock(), more)
    }

    /// Reserves like [`ManifestStore::reserve`], and for keyspaces of `bytes` bytes in total,
    /// before their names are logged.
    ///
    /// # Errors
    ///
    /// The errors of [`ManifestStore::reserve`].
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
            // Even if it is large enough: a file that was copied may have holes.
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
    /// - If the first copy cannot be written, neither the disk nor the memory has the change.
    /// - If the second copy cannot be written, or the first is left invalid, the change is in force
    ///   in memory and may be on the disk. The caller checks, and repeats it.
    /// - `Poisoned` after a failed sync, which poisons the store.
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
        // Never over the only copy that is known to be whole.
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
        if let Some(control) = self.control.get() {
            // Now both copies have it (I14).
            control.set_generation(held.manifest.generation);
        }
        Ok(result)
    }

    /// Invalidates a copy that was written in part. Returns true if that was possible.
    ///
    /// Otherwise it counts as whole if all that changed is in the written part.
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
            // A caller that receives a plain "no space" would try again for ever.
            self.commit.check().err().unwrap_or(error)
        })
    }

    /// Calls `look` on the manifest.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Manifest) -> R) -> R {
        look(&self.held.lock().manifest)
    }

    /// Returns the next segment number.
    ///
    /// It is not written here. A crash loses an unused number, and recovery does not reuse the
    /// number of an unfinished file.
    pub(crate) fn next_segment(&self) -> SegmentId {
        let mut held = self.held.lock();
        let id = held.manifest.next_segment;
        held.manifest.next_segment = SegmentId(id.0 + 1);
        id
    }

    /// Marks segments as retired, with `last` as the last number in them. Then their files may be
    /// removed.
    ///
    /// # Errors
    ///
    /// The errors of [`ManifestStore::update`].
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

    /// Drops segments whose files are durably gone.
    ///
    /// The next change makes it durable. Until then an open finds names without files, as it
    /// expects of retired segments.
    pub(crate) fn forget(&self, ids: &[SegmentId]) {
        self.held.lock().manifest.forget(ids);
    }

    /// Names a segment, if it is not named already.
    ///
    /// # Errors
    ///
    /// The errors of [`ManifestStore::update`].
    pub(crate) fn add(&self, entry: SegmentEntry) -> Result<()> {
        self.update(|manifest| manifest.add(entry))
    }

    /// Returns true if a segment is named in memory, and not only until its file is removed.
    pub(crate) fn has(&self, id: SegmentId) -> bool {
        self.read(|manifest| manifest.has(id))
    }

    fn path(&self, copy: usize) -> PathBuf {
        self.dir.path().join(MANIFESTS[copy])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::StoreId;
    use crate::format::keyspace_change::KeyspaceSet;
    use crate::fs::sim::{Exhaustive, Fault, Operation, SimDisk, Tears};

    /// Returns a manifest with so many segments that its counters lie in the first half.
    fn sample() -> Manifest {
        Manifest {
            generation: 1,
            store: StoreId([7; 16]),
            hash_id: 1,
            secret: [0; 32],
            clean: false,
            next_segment: SegmentId(9),
            incarnation: 1,
            durable: Seq::ZERO,
            next_seq: Seq(1),
            segments: (1..9).map(|id| SegmentEntry::new(SegmentId(id), 8192, id)).collect(),
            retired_seq: Seq::ZERO,
            checkpoint: 0,
            keyspaces: KeyspaceSet::new(),
        }
    }

    /// Stores the sample on a new disk. Each copy that is `damaged` has other bytes in its place.
    fn stored(damaged: [bool; 2]) -> (SimDisk, ManifestStore) {
        let disk = SimDisk::new();
        for (name, damaged) in MANIFESTS.into_iter().zip(damaged) {
            let bytes = sample().encode();
            disk.put_file(name, if damaged { &bytes[..100] } else { &bytes });
        }
        let commit = Arc::new(GroupCommit::new(Seq::ZERO));
        let store = ManifestStore::open(&disk.dir(), &commit, sample(), damaged, false).unwrap();
        disk.forget_history();
        (disk, store)
    }

    /// Returns the newest whole copy on a disk.
    fn newest(disk: &SimDisk) -> Option<Manifest> {
        let whole = |name| Manifest::decode(&disk.read_file(name).ok()?).ok()?.ok();
        MANIFESTS.into_iter().filter_map(whole).max_by_key(|manifest| manifest.generation)
    }

    /// Calls `check` on every state that a power cut can leave now or in the known history.
    fn after_every_cut(disk: &SimDisk, check: impl Fn(&SimDisk)) {
        for at in disk.positions() {
            let (point, mut all) = (disk.crash_point(at, Tears::Words(8)), Exhaustive::new());
            loop {
                check(&point.cut_power(&mut all));
                if !all.advance() {
                    break;
                }
            }
        }
    }

    fn writes(disk: &SimDisk) -> u64 {
        disk.operations().get(&Operation::Write).copied().unwrap_or(0)
    }

    #[test]
    fn change_is_undone_if_the_first_copy_cannot_be_written() {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
            let (disk, store) = stored([false; 2]);
            disk.fail_nth(Some(Operation::Write), 1, fault, false);
            store.update(|manifest| manifest.checkpoint = 5).unwrap_err();
            assert_eq!(store.read(|manifest| manifest.checkpoint), 0, "{fault:?}: in memory");
            disk.forget_history();
            after_every_cut(&disk, |cut| {
                assert_eq!(newest(cut).unwrap().checkpoint, 0, "{fault:?}: on the disk");
            });
            assert_eq!(newest(&disk).unwrap().checkpoint, 0, "{fault:?}: in the cache");
            store.update(|manifest| manifest.checkpoint = 6).unwrap();
            disk.forget_history();
            after_every_cut(&disk, |cut| assert_eq!(newest(cut).unwrap().checkpoint, 6, "{fault:?}"));
        }
    }

    #[test]
    fn a_whole_copy_is_on_the_disk_throughout_an_update() {
        for damaged in [[false, false], [true, false], [false, true]] {
            let (disk, store) = stored(damaged);
            for checkpoint in 1..3 {
                store.update(|manifest| manifest.checkpoint = checkpoint).unwrap();
            }
            after_every_cut(&disk, |cut| assert!(newest(cut).is_some(), "{damaged:?}"));
        }
    }

    #[test]
    fn nothing_is_written_if_the_directory_is_gone() {
        let (disk, store) = stored([false; 2]);
        store.update(|manifest| manifest.checkpoint = 1).unwrap();
        disk.remove_dir();
        let before = writes(&disk);
        let refused = store.update(|manifest| manifest.checkpoint = 2).unwrap_err();
        assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
        assert_eq!(writes(&disk), before);
    }

    #[test]
    fn nothing_is_written_after_a_failed_sync() {
        let (disk, store) = stored([false; 2]);
        store.update(|manifest| manifest.checkpoint = 1).unwrap();
        disk.fail_nth(Some(Operation::Sync), 1, Fault::Io, false);
        store.update(|manifest| manifest.checkpoint = 2).unwrap_err();
        let before = writes(&disk);
        let refused = store.update(|manifest| manifest.checkpoint = 3).unwrap_err();
        assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
        assert_eq!(writes(&disk), before);
    }

    #[test]
    fn reserved_bytes_suffice_for_segments_and_keyspaces() {
        let (disk, store) = stored([false; 2]);
        let reserved = |least: u64| {
            for name in MANIFESTS {
                let len = disk.read_file(name).unwrap().len() as u64;
                assert!(len >= least, "{name}: {len} of {least}");
            }
        };
        let mut least = sample().encoded_len() + 100 * SEGMENT_ENTRY_SIZE as u64;
        store.reserve(100).unwrap();
        reserved(least);
        least += 50_000;
        store.reserve_keyspaces(50_000).unwrap();
        store.reserve(100).unwrap();
        reserved(least);
    }
}
