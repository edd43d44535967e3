//! A directory held by a descriptor, and its files, reached by their names relative to the
//! descriptor.
//!
//! A path leads elsewhere once a directory is renamed, removed or mounted over; a descriptor does
//! not. Links in the directory are not followed, only regular files are opened, and nothing
//! existing is ever overwritten by a creation. So another user with write access to the directory
//! can neither redirect a store to another file nor block it.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, retry_on_intr};

use super::{Access, Medium, NamesStamp, Standing, identity, platform};
use crate::format::file_name;
use crate::format::file_name::MANIFESTS;

/// The owner shown for files of users without a name in this namespace (`overflowuid`, proc(5)).
const NOBODY: u32 = 65_534;
/// The longest step in which a file system counts time, if it counts whole seconds. Two changes in one step have
/// the same time.
const LONG_STEP: Duration = Duration::from_secs(2);
/// Ten times the longest step if it counts parts of a second: a tick of a kernel, which is 10 ms at most.
const SHORT_STEP: Duration = Duration::from_millis(100);

/// An open directory.
#[derive(Debug)]
pub(super) struct Place {
    dir: File,
    /// Its device and inode.
    inode: (u64, u64),
    /// True if the file system counts the names of directories, so that a count of zero means a
    /// removed one.
    counts_names: bool,
    /// The mode and owner of new files.
    like: OnceLock<Like>,
}

/// The mode and owner of the existing files; `None` for each that the process gives its files
/// anyway.
#[derive(Debug, Clone, Copy)]
struct Like {
    mode: Option<Mode>,
    owner: Option<(Uid, Gid)>,
}

impl Place {
    /// Opens the directory at a path, which may contain links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let dir = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        let dir = platform::above_standard_streams(File::from(dir))?;
        let found = dir.metadata()?;
        Ok(Self { dir, inode: inode_of(&found), counts_names: found.nlink() > 0, like: OnceLock::new() })
    }

    /// Returns if the path still leads to this directory, and the stamp of its names. There is a stamp if the
    /// path leads to it, and the last change of a name is settled at the time `now`.
    pub(super) fn standing(
        &self,
        path: &Path,
        now: SystemTime,
    ) -> io::Result<(Standing, Option<NamesStamp>)> {
        let there = std::fs::metadata(path).ok();
        let inode = there.as_ref().map(inode_of);
        if inode != Some(self.inode) {
            let ours = identity::identity(&self.dir)?;
            if self.counts_names && ours.links == 0 {
                return Ok((Standing::Removed, None));
            }
            // No path: moved, or out of this process's sight. No other directory can be mistaken for it.
            if inode.is_some_and(|inode| inode != ours.inode) {
                return Ok((Standing::Replaced, None));
            }
        }
        Ok((Standing::Here, there.and_then(|there| settled_stamp(&there, now))))
    }

    /// Returns the names in the directory.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                // A name that is not Unicode is no name of a store, but it must be reported too.
                names.push(OsStr::from_bytes(name).to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Opens an existing file.
    pub(super) fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        let flags = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = self.open_regular(name, flags, Mode::empty())?;
        if access == Access::Write {
            self.check_only_name(name, &file.metadata()?)?;
        }
        Ok(file)
    }

    /// Creates a file that does not exist, with mode and owner of the existing ones.
    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        let like = *self.like.get_or_init(|| self.find_like());
        let mode = like.mode.unwrap_or(Mode::from_raw_mode(0o666));
        let file = self.open_regular(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)?;
        like.apply(&file).inspect_err(|_| {
            // Best effort; the error says why the file was not created.
            drop(self.unlink(name));
        })?;
        Ok(file)
    }

    fn open_regular(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<File> {
        // Without NONBLOCK, opening a fifo blocks; regular files ignore the flag.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| rustix::fs::openat(&self.dir, name, flags, mode));
        let file = platform::above_standard_streams(File::from(opened.map_err(of_what_is_no_file)?))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(no_file("it is not a regular file")) }
    }

    /// Refuses a file that a write would change under a second name.
    fn check_only_name(&self, name: &str, file: &Metadata) -> io::Result<()> {
        if file.nlink() <= 1 {
            return Ok(());
        }
        let temporary = file_name::temporary(name);
        if file.nlink() == 2 && self.id_of(&temporary)? == Some((file.dev(), file.ino())) {
            // A rename in two steps was interrupted between them.
            return self.unlink(&temporary);
        }
        Err(io::Error::other(format!(
            "it has {} names (hard links), and what is written to it would change under all of them; copy the files \
             of a store instead of linking them",
            file.nlink()
        )))
    }

    /// Returns device and inode of a name, or `None` if nothing has it; a link is not followed.
    pub(super) fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        match identity::identity_at(&self.dir, name) {
            Ok(found) => Ok(Some(found.inode)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns mode and owner of the manifest; without a manifest, the owner of the directory.
    fn find_like(&self) -> Like {
        let stat = |name: &str| rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let plain = |stat: &rustix::fs::Stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1
        };
        let manifest = MANIFESTS.iter().filter_map(|name| stat(name)).find(plain);
        let mode =
            manifest.as_ref().map(|stat| Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o666));
        let owner = manifest.or_else(|| rustix::fs::fstat(&self.dir).ok()).and_then(|stat| {
            // Only the administrator may change a file's owner, and only a store of another user
            // needs it.
            let is_others = rustix::process::geteuid().is_root() && stat.st_uid != 0;
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            (is_others && stat.st_uid != NOBODY).then_some(owner)
        });
        Like { mode, owner }
    }

    /// Renames a file; the new name must be free.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        match rustix::fs::renameat_with(&self.dir, from, &self.dir, to, rustix::fs::RenameFlags::NOREPLACE) {
            // The file system does not support the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return Ok(other?),
        }
        self.rename_in_two_steps(from, to)
    }

    /// Renames by a link and a removal, and overwrites nothing either. A crash in between leaves
    /// both names; the next opening of the file removes the old one.
    fn rename_in_two_steps(&self, from: &str, to: &str) -> io::Result<()> {
        rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty())?;
        self.unlink(from)
    }

    /// Removes a name.
    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.dir.sync_all() {
            // Some file systems (in user space) have no such sync, so nothing can be done.
            Err(error) if platform::has_no_sync(&error) => Ok(()),
            other => other,
        }
    }

    /// Makes the directory's own name durable, in its current parent.
    pub(super) fn sync_parent(&self, _: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match retry_on_intr(|| rustix::fs::openat(&self.dir, "..", flags, Mode::empty())) {
            Ok(parent) => platform::sync_foreign(&File::from(parent)),
            // A parent that this user cannot read was not made by this user.
            Err(Errno::ACCESS | Errno::PERM) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the bytes of the file system that are free for this user; `None` if unknown.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let system = rustix::fs::fstatvfs(&self.dir).ok()?;
        let free = system.f_bavail.checked_mul(system.f_frsize)?;
        Some(free.saturating_sub(platform::not_for_files(&self.dir)))
    }

    /// Returns the number of further files that the file system can hold; `None` if unknown or
    /// limited by space only.
    pub(super) fn free_files(&self) -> Option<u64> {
        let system = rustix::fs::fstatvfs(&self.dir).ok()?;
        (system.f_files > 0).then_some(system.f_favail)
    }

    /// Returns the bytes that must be free to change a name.
    pub(super) fn names_bytes(&self) -> u64 {
        platform::names_bytes(&self.dir)
    }

    /// Returns the identity of the mount; `None` if unknown.
    pub(super) fn mount_id(&self) -> Option<u64> {
        platform::mount_id(&self.dir)
    }

    /// Returns the medium of the file system.
    pub(super) fn medium(&self) -> io::Result<Medium> {
        platform::medium(&self.dir)
    }

    /// Takes the lock on the directory itself, which no other program can replace, exclusive or
    /// `shared`. Returns true if it was taken, and `None` if the file system has no such locks.
    pub(super) fn try_lock(&self, shared: bool) -> io::Result<Option<bool>> {
        let operation = match shared {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match retry_on_intr(|| rustix::fs::flock(&self.dir, operation)) {
            Ok(()) => Ok(Some(true)),
            Err(Errno::WOULDBLOCK) => Ok(Some(false)),
            Err(Errno::BADF | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until that lock is free, and takes it. Returns at once if the file system has no such
    /// locks, or an error stands in the way: [`Place::try_lock`] tells it.
    pub(super) fn wait_for_lock(&self, shared: bool) {
        let operation = if shared { FlockOperation::LockShared } else { FlockOperation::LockExclusive };
        let _ = retry_on_intr(|| rustix::fs::flock(&self.dir, operation));
    }

    /// Releases that lock explicitly, because other holders of the descriptor may outlive this one.
    pub(super) fn unlock(&self) {
        // Unlocking fails if there is no lock.
        let _ = rustix::fs::flock(&self.dir, FlockOperation::Unlock);
    }
}

impl Like {
    fn apply(self, file: &File) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            rustix::fs::fchown(file, Some(user), Some(group)).map_err(|errno| {
                let error = io::Error::from(errno);
                let (user, group) = (user.as_raw(), group.as_raw());
                let text = format!(
                    "the new file cannot be given to user {user} and group {group}, whose store it is: {error}; act \
                     as that user"
                );
                io::Error::new(error.kind(), text)
            })?;
        }
        if let Some(mode) = self.mode
            && Mode::from_raw_mode(file.metadata()?.mode()) & Mode::from_raw_mode(0o777) != mode
        {
            // This process's umask may differ from that of the process that made the store.
            rustix::fs::fchmod(file, mode)?;
        }
        Ok(())
    }
}

fn no_file(what: &str) -> io::Error {
    io::Error::other(format!(
        "{what}, and a store's files are regular files; remove it, or find out who put it there"
    ))
}

/// Translates the system's error for a name that is not a regular file's.
fn of_what_is_no_file(errno: Errno) -> io::Error {
    match errno {
        Errno::LOOP | Errno::MLINK => no_file("it is a symbolic link"),
        Errno::NXIO | Errno::NODEV => no_file("it is a fifo, a socket or a device"),
        Errno::ISDIR => no_file("it is a directory"),
        errno => errno.into(),
    }
}

fn inode_of(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Returns the stamp of the names in a directory, if their last change is settled at the time `now`.
fn settled_stamp(directory: &Metadata, now: SystemTime) -> Option<NamesStamp> {
    let changed = (directory.ctime(), directory.ctime_nsec());
    is_settled(changed, now)?.then_some(NamesStamp { inode: inode_of(directory), changed })
}

/// Returns if no later change can have the time of this one, in seconds and nanoseconds. `None` if it is not a
/// time of the past.
fn is_settled((seconds, nanoseconds): (i64, i64), now: SystemTime) -> Option<bool> {
    let changed = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
    let age = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(changed)?;
    // A part of a second shows that the file system counts them.
    Some(age > if nanoseconds == 0 { LONG_STEP } else { SHORT_STEP })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch() -> (tempfile::TempDir, Place) {
        let here = std::env::current_exe().expect("the test itself");
        let dir = tempfile::tempdir_in(here.parent().expect("it lies in a folder")).unwrap();
        let place = Place::open(dir.path()).unwrap();
        (dir, place)
    }

    #[test]
    fn stamp_of_names_is_that_of_a_settled_directory_at_its_path() {
        let (dir, place) = scratch();
        let settled = SystemTime::now() + Duration::from_secs(4);
        let at = |path: &Path, now| place.standing(path, now).unwrap().1;
        let stamp = |path: &Path| at(path, settled);
        let found = std::fs::metadata(dir.path()).unwrap();
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(found.ctime()).unwrap());
        assert_eq!(at(dir.path(), made), None, "a change is a moment old");
        assert_eq!(at(dir.path(), SystemTime::UNIX_EPOCH), None, "the clock was set back");
        let before = stamp(dir.path()).unwrap();
        assert_eq!(stamp(dir.path()), Some(before));
        // Some file systems give changes within some milliseconds the same time.
        let made = (0..u32::MAX).find(|name| {
            std::fs::write(dir.path().join(name.to_string()), "1").unwrap();
            stamp(dir.path()) != Some(before)
        });
        let after = stamp(dir.path()).unwrap();
        // The contents of a file are no name.
        std::fs::write(dir.path().join(made.unwrap().to_string()), "2").unwrap();
        assert_eq!(stamp(dir.path()), Some(after));
        let (elsewhere, _) = scratch();
        assert_eq!(stamp(elsewhere.path()), None);
        assert_eq!(stamp(&dir.path().join("missing")), None);
    }

    #[test]
    fn change_is_settled_once_its_step_of_time_is_over() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let (whole, part) = ((7, 0), (7, 1));
        for (changed, millis, settled) in [
            (whole, 7_000, Some(false)),
            (whole, 9_000, Some(false)),
            (whole, 9_001, Some(true)),
            (part, 7_100, Some(false)),
            (part, 7_101, Some(true)),
            (part, 7_000, None),
        ] {
            assert_eq!(is_settled(changed, at(millis)), settled, "{changed:?} at {millis}");
        }
        assert_eq!(is_settled((-1, 0), at(0)), None);
    }

    #[test]
    fn open_accepts_only_regular_files_and_follows_no_link() {
        let (dir, place) = scratch();
        std::fs::write(dir.path().join("target"), "precious").unwrap();
        symlink("target", dir.path().join("link")).unwrap();
        symlink("missing", dir.path().join("dangling")).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let status = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
        assert!(status.success());
        for name in ["link", "dangling", "folder", "fifo"] {
            for access in [Access::Read, Access::Write] {
                let error = place.open_file(name, access).unwrap_err();
                assert!(error.to_string().contains("regular files"), "{name}: {error}");
            }
            let error = place.create_file(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"precious");
        assert!(!dir.path().join("missing").exists());
    }

    #[test]
    fn a_file_with_two_names_is_read_and_not_written() {
        let (dir, place) = scratch();
        std::fs::write(dir.path().join("one"), "text").unwrap();
        std::fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
        place.open_file("one", Access::Read).unwrap();
        let error = place.open_file("one", Access::Write).unwrap_err();
        assert!(error.to_string().contains("copy the files"), "{error}");
    }

    #[test]
    fn a_rename_replaces_nothing_in_one_step_or_two() {
        let (dir, place) = scratch();
        for rename in [Place::rename, Place::rename_in_two_steps] {
            for name in ["one", "two"] {
                std::fs::write(dir.path().join(name), name).unwrap();
            }
            let error = rename(&place, "one", "two").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(dir.path().join("two")).unwrap(), b"two");
            rename(&place, "one", "three").unwrap();
            assert!(!dir.path().join("one").exists());
            std::fs::remove_file(dir.path().join("three")).unwrap();
        }
    }

    #[test]
    fn an_interrupted_rename_in_two_steps_is_finished() {
        let (dir, place) = scratch();
        std::fs::write(dir.path().join("one.tmp"), "text").unwrap();
        std::fs::hard_link(dir.path().join("one.tmp"), dir.path().join("one")).unwrap();
        place.open_file("one", Access::Write).unwrap();
        assert_eq!(place.list().unwrap(), ["one"]);
    }

    #[test]
    fn a_directory_is_told_from_its_replacement() {
        let (dir, _) = scratch();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        std::fs::create_dir(&here).unwrap();
        let place = Place::open(&here).unwrap();
        let standing = |path| place.standing(path, SystemTime::now()).unwrap().0;
        assert_eq!(standing(&here), Standing::Here);
        std::fs::rename(&here, &there).unwrap();
        assert_eq!(standing(&here), Standing::Here, "moved, and nothing in its place");
        std::fs::create_dir(&here).unwrap();
        assert_eq!(standing(&here), Standing::Replaced);
        std::fs::remove_dir(&there).unwrap();
        assert_eq!(standing(&here), Standing::Removed);
    }

    #[test]
    fn a_new_file_gets_the_mode_of_the_manifest() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, place) = scratch();
        std::fs::write(dir.path().join(MANIFESTS[0]), "").unwrap();
        let mode = std::fs::Permissions::from_mode(0o664);
        std::fs::set_permissions(dir.path().join(MANIFESTS[0]), mode).unwrap();
        let file = place.create_file("one").unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o664);
    }
}
