//! The real file system: one directory of it, reached through std and, beyond std, through
//! `platform`.
//!
//! It adds neither a cache nor retries, except for calls that a signal interrupted. In particular a
//! failed sync is reported and never retried, because the kernel forgets a lost page once it has
//! reported it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::dir_handle::Place;
use super::lock::{self, HeldClaim, HoldingFile};
use super::{
    Access, Claim, Dir, File, Identity, Lock, LockFailure, Medium, Misplaced, NamesStamp, Standing, identity,
    platform,
};
use crate::error::{RanOut, Resource};
use crate::mem::mapping::Mapping;

/// The moment from which [`Dir::now`] counts, one for the process.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One directory of the real file system.
#[derive(Debug)]
pub(crate) struct RealDir {
    /// The path at creation, for messages; it is not used for access once the directory is open.
    path: PathBuf,
    /// The directory, once it was found or created.
    place: OnceLock<Arc<Place>>,
    holding: HoldingFile,
}

impl RealDir {
    /// Makes a handle of the directory at `path`, which need not exist yet. A relative path is
    /// resolved now, so that later changes of the working directory have no effect.
    ///
    /// # Errors
    ///
    /// Returns an error if the path is empty, or relative to a working directory that no longer
    /// exists.
    pub(crate) fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        LazyLock::force(&START);
        let path = std::path::absolute(path)?;
        Ok(Self { path, place: OnceLock::new(), holding: HoldingFile::default() })
    }

    /// Returns true if the directory is another one, or would be made inside of it. Links are followed.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn lies_in(&self, other: &Path) -> io::Result<bool> {
        let other = match fs::canonicalize(other) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for ancestor in self.path.ancestors() {
            match fs::canonicalize(ancestor) {
                Ok(found) => return Ok(found.starts_with(other)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Returns the directory, and holds it open from now on.
    fn place(&self) -> io::Result<&Arc<Place>> {
        if let Some(place) = self.place.get() {
            return Ok(place);
        }
        let found = Arc::new(Place::open(&self.path)?);
        Ok(self.place.get_or_init(|| found))
    }
}

impl Dir for RealDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self::new(&self.path)?))
    }

    fn create_dir(&self) -> io::Result<()> {
        match self.place.get() {
            Some(place) => place.sync_parent(&self.path),
            None => {
                create_dir_durably(&self.path)?;
                self.place().map(drop)
            }
        }
    }

    fn sync_parent(&self) -> io::Result<()> {
        self.place()?.sync_parent(&self.path)
    }

    fn check_place(&self) -> Result<(), Misplaced> {
        self.check_place_since(None).map(drop)
    }

    fn check_place_since(&self, last: Option<NamesStamp>) -> Result<Option<NamesStamp>, Misplaced> {
        let Some(place) = self.place.get() else { return Ok(None) };
        // An unknown location proves nothing: all access goes through the descriptor in any case.
        let unknown = (Standing::Here, None);
        let (standing, stamp) = place.standing(&self.path, SystemTime::now()).unwrap_or(unknown);
        match standing {
            Standing::Removed => return Err(Misplaced::Removed),
            Standing::Replaced => return Err(Misplaced::Replaced),
            Standing::Here if stamp.is_some() && stamp == last => return Ok(stamp),
            Standing::Here => {}
        }
        let mut holding = self.holding.lock();
        if holding.as_mut().is_none_or(HeldClaim::is_safe) { Ok(stamp) } else { Err(Misplaced::Unlocked) }
    }

    fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        self.place()?.id_of(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.place()?.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let place = self.place()?;
        let file = place.create_file(name).map_err(|error| match error.kind() {
            // The system has one error number for exhausted blocks and exhausted inodes.
            io::ErrorKind::StorageFull if place.free_files() == Some(0) => {
                io::Error::new(error.kind(), RanOut(Resource::Files))
            }
            _ => error,
        })?;
        Ok(Arc::new(RealFile { file, access: Access::Write }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = self.place()?.open_file(name, access)?;
        Ok(Arc::new(RealFile { file, access }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.place()?.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.place()?.unlink(name)
    }

    fn remove_dir(&self) {
        let standing = self.place().and_then(|place| place.standing(&self.path, SystemTime::now()));
        if standing.is_ok_and(|(standing, _)| standing == Standing::Here) {
            // The file system refuses if the directory is not empty, or if the path is a link.
            drop(fs::remove_dir(&self.path));
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.place()?.sync()
    }

    fn lock(&self, name: &str, claim: Claim<'_>, wait: Duration) -> Result<Box<dyn Lock>, LockFailure> {
        let place = self.place().map_err(LockFailure::Io)?;
        Ok(Box::new(lock::take(place, &self.holding, name, claim, wait)?))
    }

    fn free_bytes(&self) -> Option<u64> {
        self.place().ok()?.free_bytes()
    }

    fn free_files(&self) -> Option<u64> {
        self.place().ok()?.free_files()
    }

    fn names_bytes(&self) -> u64 {
        self.place().map_or(0, |place| place.names_bytes())
    }

    fn medium(&self) -> io::Result<Medium> {
        match self.place() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            place => return place?.medium(),
        }
        // The directory may not exist yet; then the nearest existing ancestor will hold it.
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for ancestor in self.path.ancestors().skip(1) {
            match Place::open(ancestor) {
                Ok(directory) => return directory.medium(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        platform::boot_id()
    }

    fn mount_id(&self) -> Option<u64> {
        self.place().ok()?.mount_id()
    }

    fn now(&self) -> Duration {
        START.elapsed()
    }

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        platform::random(buffer)
    }

    fn crash_point(&self, _: &'static str) {}

    fn observes(&self) -> bool {
        false
    }
}

/// Creates a directory and its parents. Each new one is synced into its parent; otherwise a power
/// cut could remove the whole store.
fn create_dir_durably(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        // An earlier process may have died between creating and syncing it.
        return platform::sync_foreign_dir(parent);
    }
    if !parent.is_dir() {
        create_dir_durably(parent)?;
    }
    match fs::create_dir(path) {
        // Another process was faster, and may not have synced it yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    Place::open(parent)?.sync()
}

/// One open file.
#[derive(Debug)]
struct RealFile {
    file: fs::File,
    access: Access,
}

impl File for RealFile {
    fn identity(&self) -> io::Result<Identity> {
        identity::identity(&self.file)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match platform::read_at(&self.file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        platform::check_size_limit(offset.saturating_add(bytes.len() as u64))?;
        platform::write_all_at(&self.file, bytes, offset)
    }

    fn extend(&self, size: u64) -> io::Result<()> {
        platform::check_size_limit(size)?;
        self.file.set_len(size.max(self.file.metadata()?.len()))
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let old = self.file.metadata()?.len();
        if size < old {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file never shrinks"));
        }
        if size == 0 {
            return Ok(());
        }
        platform::check_size_limit(size)?;
        platform::reserve(&self.file, old, size)
    }

    fn allocate_beside(&self, size: u64, beside: u64) -> io::Result<()> {
        self.allocate(size)?;
        let all = size.saturating_add(beside);
        if beside == 0 || platform::check_size_limit(all).is_err() {
            return Ok(());
        }
        // Space that only writing can reserve is not tested, and a file that is too large says
        // nothing about space.
        match platform::reserve_at_once(&self.file, size, all) {
            Ok(true) => self.file.set_len(size),
            Err(error) if error.kind() != io::ErrorKind::FileTooLarge => Err(error),
            Ok(false) | Err(_) => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn touch(&self) -> io::Result<()> {
        platform::touch(&self.file)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        platform::punch_hole(&self.file, offset, len)
    }

    fn data_from(&self, offset: u64) -> u64 {
        platform::data_from(&self.file, offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(platform::allocated(&self.file.metadata()?))
    }

    #[cfg(unix)]
    fn descriptor(&self) -> Option<i32> {
        Some(std::os::fd::AsRawFd::as_raw_fd(&self.file))
    }

    fn map(&self, len: usize) -> io::Result<Arc<Mapping>> {
        // An access behind the file's end is a fatal signal, not an error.
        if self.file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Arc::new(Mapping::of_file(&self.file, len, self.access == Access::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::read_exact_at;

    fn scratch() -> (tempfile::TempDir, RealDir) {
        let temporary = tempfile::tempdir_in(
            std::env::current_exe().expect("the test itself").parent().expect("it lies in a folder"),
        )
        .unwrap();
        let dir = RealDir::new(temporary.path().join("a/b")).unwrap();
        dir.create_dir().unwrap();
        (temporary, dir)
    }

    #[test]
    fn lock_note_replaces_a_longer_one() {
        let (_temporary, dir) = scratch();
        for note in ["1234567\n", "89\n", "10111\n"] {
            let lock = dir.lock("LOCK", Claim::Write(note.as_bytes()), Duration::ZERO);
            drop(lock.expect("it is free"));
            assert_eq!(fs::read_to_string(dir.path().join("LOCK")).unwrap(), note);
        }
    }

    #[test]
    fn create_dir_changes_nothing_if_the_directory_exists() {
        let (_temporary, dir) = scratch();
        dir.create("one").unwrap();
        dir.create_dir().unwrap();
        dir.sync().unwrap();
        assert_eq!(dir.list().unwrap(), ["one"]);
        let missing = RealDir::new(dir.path().join("missing")).unwrap();
        assert_eq!(missing.list().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_created_file_must_be_new_and_an_opened_one_must_exist() {
        let (_temporary, dir) = scratch();
        dir.create("one").unwrap();
        assert_eq!(dir.create("one").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dir.open("two", Access::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
        dir.rename("one", "two").unwrap();
        dir.open("two", Access::Read).unwrap();
        dir.unlink("two").unwrap();
        assert!(dir.list().unwrap().is_empty());
    }

    #[test]
    fn allocated_file_reads_as_zeros_and_never_shrinks() {
        let (_temporary, dir) = scratch();
        let file = dir.create("one").unwrap();
        file.allocate(1 << 16).unwrap();
        assert_eq!(file.identity().unwrap().size, 1 << 16);
        assert!(file.allocated().unwrap() >= 1 << 16);
        assert_eq!(file.allocate(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let mut bytes = vec![1; 1 << 16];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn allocate_beside_frees_its_space_afterwards() {
        let (_temporary, dir) = scratch();
        let file = dir.create("one").unwrap();
        file.allocate_beside(1 << 16, 1 << 20).unwrap();
        assert_eq!(file.identity().unwrap().size, 1 << 16);
        let allocated = file.allocated().unwrap();
        assert!((1 << 16..1 << 20).contains(&allocated), "{allocated}");
        // No file may be that large, so it is not tried.
        file.allocate_beside(1 << 16, 1 << 62).unwrap();
        assert_eq!(file.identity().unwrap().size, 1 << 16);
    }

    #[test]
    fn a_mapping_and_the_file_show_the_same_bytes() {
        let (_temporary, dir) = scratch();
        let file = dir.create("one").unwrap();
        file.allocate(8192).unwrap();
        let mapping = file.map(8192).unwrap();
        mapping.populate_write(0, 8192).unwrap();
        file.write_at(b"written", 4093).unwrap();
        let mut bytes = [0; 7];
        mapping.copy_out(4093, &mut bytes);
        assert_eq!(&bytes, b"written");
        mapping.sync_range(0, 8192).unwrap();
        file.sync().unwrap();
        assert_eq!(file.map(8193).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(!dir.open("one", Access::Read).unwrap().map(4096).unwrap().is_writable());
    }

    #[test]
    fn a_punched_range_reads_as_zeros_and_its_neighbours_survive() {
        let (_temporary, dir) = scratch();
        let file = dir.create("one").unwrap();
        file.write_at(&[7; 3 * 4096], 0).unwrap();
        let before = file.allocated().unwrap();
        file.punch_hole(4096, 4096).unwrap();
        let mut bytes = [0; 3 * 4096];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        if file.allocated().unwrap() < before {
            assert_eq!(bytes[4096..8192], [0; 4096]);
        }
        assert_eq!((bytes[4095], bytes[8192]), (7, 7));
        assert_eq!(file.read_at(&mut bytes, 2 * 4096 + 1).unwrap(), 4095);
    }

    #[test]
    fn reserved_blocks_are_no_data_until_a_mapping_stores_to_them() {
        const PAGE: usize = 4096;
        let (_temporary, dir) = scratch();
        let file = dir.create("one").unwrap();
        file.allocate(1 << 20).unwrap();
        let skipped = file.data_from(0);
        assert!([0, u64::MAX].contains(&skipped), "{skipped}");
        if cfg!(target_os = "linux") && dir.medium().unwrap() == Medium::Device {
            assert_eq!(skipped, u64::MAX, "the tests run on ext4, XFS or btrfs");
        }
        let mapping = file.map(1 << 20).unwrap();
        mapping.populate_write(64 * PAGE, PAGE).unwrap();
        assert!(file.data_from(0) <= 64 * PAGE as u64);
        assert_eq!(file.data_from(64 * PAGE as u64 + 8), 64 * PAGE as u64 + 8);
        mapping.sync_range(64 * PAGE, 65 * PAGE).unwrap();
        assert!(file.data_from(0) <= 64 * PAGE as u64);
    }

    #[test]
    fn identity_tells_an_unlinked_and_a_replaced_file() {
        let (_temporary, dir) = scratch();
        let file = dir.create("one").unwrap();
        let before = file.identity().unwrap();
        assert_eq!(before.links, 1);
        dir.unlink("one").unwrap();
        assert_eq!(file.identity().unwrap().links, 0);
        assert_ne!(dir.create("one").unwrap().identity().unwrap().inode, before.inode);
    }

    #[test]
    fn lock_excludes_others_until_its_owner_drops_it() {
        let (_temporary, dir) = scratch();
        let write = |note| dir.lock("LOCK", Claim::Write(note), Duration::ZERO).unwrap();
        drop(write(b"a long note"));
        let lock = write(b"42");
        for claim in [Claim::Write(b"43"), Claim::Remove, Claim::Look] {
            match RealDir::new(dir.path()).unwrap().lock("LOCK", claim, Duration::ZERO) {
                Err(LockFailure::Held(note)) => assert_eq!(note, b"42"),
                other => panic!("expected a held lock, got {other:?}"),
            }
        }
        drop(lock);
        write(b"44");
    }

    #[test]
    fn shared_locks_coexist_and_exclude_writers() {
        let (_temporary, dir) = scratch();
        drop(dir.lock("LOCK", Claim::Write(b"42"), Duration::ZERO).unwrap());
        let other = || RealDir::new(dir.path()).unwrap();
        let (one, two) = (other(), other());
        let first = one.lock("LOCK", Claim::Look, Duration::ZERO).unwrap();
        let second = two.lock("LOCK", Claim::Look, Duration::ZERO).unwrap();
        drop(first);
        for claim in [Claim::Write(b"43"), Claim::Remove] {
            match other().lock("LOCK", claim, Duration::ZERO) {
                Err(LockFailure::Held(note)) => {
                    assert_eq!(note, b"", "the note is that of an earlier writer")
                }
                found => panic!("expected a held lock, got {found:?}"),
            }
        }
        one.lock("LOCK", Claim::Look, Duration::ZERO).unwrap();
        drop(second);
        assert_eq!(fs::read_to_string(dir.path().join("LOCK")).unwrap(), "42");
        other().lock("LOCK", Claim::Write(b"43"), Duration::ZERO).unwrap();
    }

    #[test]
    fn time_does_not_go_back_and_random_bytes_differ() {
        let (_temporary, dir) = scratch();
        let before = dir.now();
        assert!(dir.now() >= before);
        let (mut one, mut two) = ([0; 32], [0; 32]);
        dir.random(&mut one).unwrap();
        dir.random(&mut two).unwrap();
        assert_ne!(one, two);
        dir.medium().unwrap();
        assert!(!dir.observes());
    }
}
