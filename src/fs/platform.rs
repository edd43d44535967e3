//! System calls that the real file system needs beyond std: one function per need, one body per
//! kind of system.
//!
//! The store's guarantees are tested on Linux. On other systems a function does the nearest thing
//! that keeps the guarantee, or keeps it slowly, and its comment says so.

use std::fs::{File, Metadata};
use std::io;

use super::Medium;

/// The number of zeros written at a time if blocks cannot be reserved. In bytes.
#[cfg(unix)]
const ZEROS_SIZE: usize = 1 << 20;

/// Moves a descriptor that took the number of standard input, output or error. Otherwise code that
/// prints to a closed standard stream would write into the store's file.
#[cfg(unix)]
pub(super) fn above_standard_streams(file: File) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    if file.as_raw_fd() > 2 {
        return Ok(file);
    }
    Ok(File::from(rustix::io::fcntl_dupfd_cloexec(&file, 3)?))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn above_standard_streams(file: File) -> io::Result<File> {
    Ok(file)
}

/// Returns the bytes allocated on disk.
#[cfg(unix)]
pub(super) fn allocated(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // `st_blocks` counts units of 512 bytes, independent of the file system's block size (stat(2)).
    metadata.blocks() * 512
}

#[cfg(not(unix))]
pub(super) fn allocated(metadata: &Metadata) -> u64 {
    metadata.len()
}

/// Reads at an offset, once.
#[cfg(unix)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Writes at an offset, once; may write fewer bytes than asked.
#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

/// Writes all bytes at an offset, across short writes and interruptions by signals.
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write_at(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets a file's times to now.
#[cfg(unix)]
pub(super) fn touch(file: &File) -> io::Result<()> {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // Both times: changing one alone needs the file's owner, and write access is enough for both
    // (utimensat(2)).
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

#[cfg(not(unix))]
pub(super) fn touch(file: &File) -> io::Result<()> {
    file.set_modified(std::time::SystemTime::now())
}

/// True if a sync was refused because the file system has none for directories.
pub(super) fn has_no_sync(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Makes the names in a directory durable that may belong to another user. One on a read-only file
/// system was not made by this process.
#[cfg(unix)]
pub(super) fn sync_foreign(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        Err(error) if has_no_sync(&error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        other => other,
    }
}

/// Does [`sync_foreign`] by path. A directory that this user cannot read was not made by this user.
#[cfg(unix)]
pub(super) fn sync_foreign_dir(path: &std::path::Path) -> io::Result<()> {
    match File::open(path) {
        Ok(directory) => sync_foreign(&directory),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does nothing: here a directory cannot be opened as a file, and the file system's journal keeps
/// entries in order.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn sync_foreign_dir(_: &std::path::Path) -> io::Result<()> {
    Ok(())
}

/// Refuses a size above the process's limit: growing past it is a fatal signal (SIGXFSZ), not an
/// error.
#[cfg(unix)]
pub(super) fn check_size_limit(size: u64) -> io::Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        // A denied call, as in some sandboxes, is not reported as such, and its number is
        // meaningless.
        Some(limit) if size > limit && confirmed_limit().is_none_or(|limit| size > limit) => {
            Err(io::ErrorKind::FileTooLarge.into())
        }
        _ => Ok(()),
    }
}

/// Returns the limit on file sizes as the system shows it; `None` if it does not.
#[cfg(unix)]
fn confirmed_limit() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max file size"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn check_size_limit(_: u64) -> io::Result<()> {
    Ok(())
}

/// Reserves the blocks of `old..new` and grows the file to `new`.
#[cfg(target_os = "linux")]
pub(super) fn reserve(file: &File, old: u64, new: u64) -> io::Result<()> {
    if old == 0 {
        overwrite_in_place(file);
    }
    // The range starts at zero, because a copied file may have holes.
    if reserve_at_once(file, 0, new)? { Ok(()) } else { write_zeros(file, old, new) }
}

/// Reserves the blocks of `from..to` and grows the file to `to`, if that takes no writing. Returns
/// true if it was done.
///
/// btrfs treats the blocks of one call as one piece, and frees such pieces only as a whole.
#[cfg(target_os = "linux")]
pub(super) fn reserve_at_once(file: &File, from: u64, to: u64) -> io::Result<bool> {
    use rustix::io::Errno;
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, to - from) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
            other => return Ok(other.map(|()| true)?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn reserve_at_once(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn reserve(file: &File, old: u64, new: u64) -> io::Result<()> {
    write_zeros(file, old, new)
}

/// Grows the file: Windows reserves the clusters of a non-sparse file when its end is set.
#[cfg(not(unix))]
pub(super) fn reserve(file: &File, _: u64, new: u64) -> io::Result<()> {
    file.set_len(new)
}

/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
#[cfg(target_os = "linux")]
const BTRFS: u32 = 0x9123_683e;

/// Returns the bytes that are reported as free and are not available for files.
#[cfg(target_os = "linux")]
pub(super) fn not_for_files(directory: &File) -> u64 {
    /// If btrfs keeps its metadata beside the files (`mkfs.btrfs --mixed`), it refuses to create
    /// and rename files with less free space than this (measured: 2.3 and 2.9 MiB, at every size of
    /// the file system). On other layouts it is little.
    const NOTES: u64 = 3 << 20;
    if magic(directory).ok() == Some(BTRFS) { NOTES } else { 0 }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn not_for_files(_: &File) -> u64 {
    0
}

/// Returns the bytes that must be free to change a name, beside those that the change itself takes.
#[cfg(target_os = "linux")]
pub(super) fn names_bytes(directory: &File) -> u64 {
    /// btrfs usually reserves a block of 16 KiB for each of up to sixteen items, and counts them
    /// against a quota, too.
    const NAMES: u64 = 16 * (16 << 10);
    if magic(directory).ok() == Some(BTRFS) { NAMES } else { 0 }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn names_bytes(_: &File) -> u64 {
    0
}

/// Turns copy-on-write off for a file that has no blocks yet. Under copy-on-write, a page that is
/// synced and stored to again (the log's tail) needs new space. On a full disk that store is a
/// fatal signal (measured on btrfs: 256 of 256 stores with copy-on-write, 0 of 256 without).
#[cfg(target_os = "linux")]
fn overwrite_in_place(file: &File) {
    if magic(file).ok() != Some(BTRFS) {
        return;
    }
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        // If it is refused (a mount that forbids it), the store still works until the disk is full.
        let _ = rustix::fs::ioctl_setflags(file, flags | rustix::fs::IFlags::NOCOW);
    }
}

/// Reserves blocks by writing zeros into them; on failure the file has its old size again.
#[cfg(unix)]
fn write_zeros(file: &File, old: u64, new: u64) -> io::Result<()> {
    crate::mem::alloc::with_zeros(ZEROS_SIZE, |zeros| {
        let mut offset = old;
        while offset < new {
            let len = usize::try_from(new - offset).map_or(ZEROS_SIZE, |rest| rest.min(ZEROS_SIZE));
            match write_at(file, &zeros[..len], offset) {
                Ok(written) if written > 0 => offset += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    // The first failure is reported; if the file stays longer, it reads as zeros.
                    drop(file.set_len(old));
                    return Err(failed.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(())
    })
}

/// Frees the blocks of a range.
#[cfg(target_os = "linux")]
pub(super) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match rustix::fs::fallocate(file, flags, offset, len) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            other => return Ok(other?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn punch_hole(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

/// Returns the offset of the next byte that may not be zero; see `File::data_from`.
///
/// Blocks that were reserved and never written count as zeros, unless a mapping has stored to them.
/// Only these file systems are asked, because some others have left such stores out.
#[cfg(target_os = "linux")]
pub(super) fn data_from(file: &File, offset: u64) -> u64 {
    use rustix::fs::SeekFrom;
    use rustix::io::Errno;
    // tmpfs, ext2 to ext4, XFS, btrfs.
    if !matches!(magic(file), Ok(0x0102_1994 | 0xef53 | 0x5846_5342 | BTRFS)) {
        return offset;
    }
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data.max(offset),
        Err(Errno::NXIO) => u64::MAX,
        // Not supported: everything may be data.
        Err(_) => offset,
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn data_from(_: &File, offset: u64) -> u64 {
    offset
}

/// Returns the file system's magic number.
#[cfg(target_os = "linux")]
fn magic(file: &File) -> io::Result<u32> {
    // The type differs between systems in sign and in width: only the low 32 bits carry the number.
    let word = i128::from(rustix::fs::fstatfs(file)?.f_type);
    Ok(u32::try_from(word.rem_euclid(1 << 32)).expect("the remainder has 32 bits"))
}

/// Returns the medium of a directory.
#[cfg(target_os = "linux")]
pub(super) fn medium(directory: &File) -> io::Result<Medium> {
    Ok(medium_of_magic(magic(directory)?))
}

/// Returns a device: other systems have no comparable numbers for kinds of file systems.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn medium(_: &File) -> io::Result<Medium> {
    Ok(Medium::Device)
}

/// Returns the medium for a magic number of `linux/magic.h` or of the kernel's file systems.
#[cfg(target_os = "linux")]
fn medium_of_magic(magic: u32) -> Medium {
    match magic {
        // tmpfs, ramfs, hugetlbfs.
        0x0102_1994 | 0x8584_58f6 | 0x9584_58f6 => Medium::Memory,
        0x6969 => Medium::Network("nfs"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Medium::Network("smb"),
        0x0102_1997 => Medium::Network("9p"),
        0x00c3_6400 => Medium::Network("ceph"),
        0x5346_414f | 0x6b41_4653 => Medium::Network("afs"),
        0x7375_7245 => Medium::Network("coda"),
        0x564c => Medium::Network("ncp"),
        0x0bd0_0bd0 => Medium::Network("lustre"),
        0x0116_1970 => Medium::Network("gfs2"),
        0x7461_636f => Medium::Network("ocfs2"),
        0x786f_4256 => Medium::Network("vboxsf"),
        // FUSE (0x6573_5546) is one number for all its file systems, and most are local: ntfs-3g,
        // encrypted and snapshotting layers, container file systems. A daemon that maps files at
        // all keeps one page cache on this machine. Another one refuses the mapping, which is an
        // error and no damage.
        _ => Medium::Device,
    }
}

/// Returns an identity of this boot of the system; `None` if unknown.
#[cfg(target_os = "linux")]
pub(super) fn boot_id() -> Option<[u8; 16]> {
    parse_uuid(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn boot_id() -> Option<[u8; 16]> {
    None
}

/// Returns the identity of the mount that an open directory is on; `None` if unknown.
///
/// Since Linux 6.8 there is a number for each mount that is never given out again in a boot.
#[cfg(target_os = "linux")]
pub(super) fn mount_id(directory: &impl std::os::fd::AsFd) -> Option<u64> {
    /// `STATX_MNT_ID_UNIQUE`, which rustix lacks.
    const UNIQUE: u32 = 0x4000;
    let wanted = rustix::fs::StatxFlags::from_bits_retain(UNIQUE);
    let found = rustix::fs::statx(directory, "", rustix::fs::AtFlags::EMPTY_PATH, wanted).ok()?;
    (found.stx_mask & UNIQUE != 0).then_some(found.stx_mnt_id)
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn mount_id(_: &impl std::os::fd::AsFd) -> Option<u64> {
    None
}

/// Parses 32 hexadecimal digits into 16 bytes; dashes and surrounding white space are ignored.
#[cfg(target_os = "linux")]
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits =
        text.trim().chars().filter(|&c| c != '-').map(|c| c.to_digit(16)).collect::<Option<Vec<_>>>()?;
    if digits.len() != 32 {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(pair[0] * 16 + pair[1]).ok()?;
    }
    Some(id)
}

/// Fills `buffer` with random bytes.
#[cfg(target_os = "linux")]
pub(super) fn random(buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn random(buffer: &mut [u8]) -> io::Result<()> {
    use std::io::Read;
    File::open("/dev/urandom")?.read_exact(buffer)
}

/// Hashes a counter with fresh seeds. The seeds of std's hash maps come from the system's
/// generator, and std offers no other random source.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "one signature on every system")]
pub(super) fn random(buffer: &mut [u8]) -> io::Result<()> {
    use std::hash::{BuildHasher, RandomState};
    for (i, piece) in buffer.chunks_mut(8).enumerate() {
        let word = RandomState::new().hash_one(i).to_le_bytes();
        piece.copy_from_slice(&word[..piece.len()]);
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn parse_uuid_accepts_dashes_or_none_and_refuses_the_rest() {
        let id = parse_uuid("00010203-0405-0607-0809-0a0b0c0d0eff\n").unwrap();
        assert_eq!(id, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(parse_uuid("000102030405060708090a0b0c0d0eff"), Some(id));
        assert_eq!(parse_uuid("00010203-0405-0607-0809-0a0b0c0d0ef"), None);
        assert_eq!(parse_uuid("00010203-0405-0607-0809-0a0b0c0d0efg"), None);
        assert_eq!(boot_id(), boot_id());
    }

    #[test]
    fn memory_network_and_device_are_told_apart() {
        assert_eq!(medium_of_magic(0x0102_1994), Medium::Memory);
        assert_eq!(medium_of_magic(0x6969), Medium::Network("nfs"));
        assert_eq!(medium_of_magic(0xff53_4d42), Medium::Network("smb"));
        assert_eq!(medium_of_magic(0xef53), Medium::Device);
        assert_eq!(medium_of_magic(0x6573_5546), Medium::Device);
    }

    #[test]
    fn zeros_are_written_where_blocks_cannot_be_reserved() {
        let dir = tempfile::tempdir_in(
            std::env::current_exe().expect("the test itself").parent().expect("it lies in a folder"),
        )
        .unwrap();
        let file = File::create_new(dir.path().join("zeros")).unwrap();
        write_zeros(&file, 0, (3 << 20) + 5).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), (3 << 20) + 5);
        assert!(allocated(&metadata) >= 3 << 20);
    }
}
