//! The identity of a file: the system calls that tell it, for an open file and for a name.

use std::fs::{File, Metadata};
use std::io;

use super::Identity;

/// Returns the identity of an open file, without a look at its times.
///
/// If a program looks at the times of a file, Linux 6.13 and later give the file a new time at its
/// next change. On ext4 without a journal, a sync of its pages then writes the inode too.
#[cfg(target_os = "linux")]
pub(super) fn identity(file: &File) -> io::Result<Identity> {
    match stat_without_times(file, "") {
        Err(error) if has_no_statx(error) => Ok(identity_of(&file.metadata()?)),
        found => Ok(found?),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn identity(file: &File) -> io::Result<Identity> {
    Ok(identity_of(&file.metadata()?))
}

/// Returns the identity of a name in a directory, as [`identity`] does. A link is not followed.
#[cfg(target_os = "linux")]
pub(super) fn identity_at(directory: &File, name: &str) -> io::Result<Identity> {
    match stat_without_times(directory, name) {
        Err(error) if has_no_statx(error) => identity_by_stat(directory, name),
        found => Ok(found?),
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn identity_at(directory: &File, name: &str) -> io::Result<Identity> {
    identity_by_stat(directory, name)
}

/// Looks at a name in a directory, or at the open file itself if the name is empty.
#[cfg(target_os = "linux")]
fn stat_without_times(file: &File, name: &str) -> rustix::io::Result<Identity> {
    use rustix::fs::{AtFlags, StatxFlags};
    let mask = StatxFlags::SIZE | StatxFlags::NLINK | StatxFlags::INO;
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::io::retry_on_intr(|| rustix::fs::statx(file, name, flags, mask))?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    let links = u64::from(found.stx_nlink);
    Ok(Identity { size: found.stx_size, links, inode: (device, found.stx_ino) })
}

/// True if the system, or a sandbox that does not know the call, refuses `statx`.
#[cfg(target_os = "linux")]
fn has_no_statx(error: rustix::io::Errno) -> bool {
    matches!(error, rustix::io::Errno::NOSYS | rustix::io::Errno::PERM)
}

#[cfg(unix)]
#[expect(clippy::useless_conversion, reason = "the fields have other types on other systems")]
fn identity_by_stat(directory: &File, name: &str) -> io::Result<Identity> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::io::retry_on_intr(|| rustix::fs::statat(directory, name, flags))?;
    let number = |number| u64::try_from(number).unwrap_or(u64::MAX);
    Ok(Identity {
        size: number(i128::from(stat.st_size)),
        links: u64::from(stat.st_nlink),
        inode: (number(i128::from(stat.st_dev)), u64::from(stat.st_ino)),
    })
}

/// Returns the identity of a file by what `stat` says of it.
#[cfg(unix)]
fn identity_of(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity { size: metadata.size(), links: metadata.nlink(), inode: (metadata.dev(), metadata.ino()) }
}

/// Returns the size alone as identity: without inodes a file cannot be told from its replacement.
#[cfg(not(unix))]
fn identity_of(metadata: &Metadata) -> Identity {
    Identity { size: metadata.len(), links: 1, inode: (0, 0) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn identity_is_the_same_by_every_call() {
        let here = std::env::current_exe().unwrap();
        let directory = File::open(here.parent().unwrap()).unwrap();
        let name = here.file_name().and_then(|name| name.to_str()).unwrap();
        let file = File::open(&here).unwrap();
        let found = identity(&file).unwrap();
        assert_eq!(found, identity_of(&file.metadata().unwrap()));
        assert_eq!(found, identity_at(&directory, name).unwrap());
        assert_eq!(found, identity_by_stat(&directory, name).unwrap());
        for look in [identity_at, identity_by_stat] {
            assert_eq!(look(&directory, "missing").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
