//! Tests of the texts and causes of errors.

use super::*;

/// Returns each variant once, with the text that a user sees.
fn texts() -> Vec<(Error, &'static str)> {
    [about_directories(), about_writes(), about_resources(), about_keyspaces(), about_handles()].concat()
}

fn path() -> PathBuf {
    PathBuf::from("data")
}

fn file() -> PathBuf {
    PathBuf::from("data/0000000001.seg")
}

fn exhausted(resource: Resource, operation: &'static str) -> Error {
    let source = Arc::new(io::Error::other("simulated"));
    Error::Exhausted { resource, operation, path: file(), source }
}

fn about_resources() -> Vec<(Error, &'static str)> {
    vec![
        (
            exhausted(Resource::Descriptors, "create"),
            "cannot create data/0000000001.seg: too many files are open; close some, or raise the limit (ulimit -n), \
             and try again",
        ),
        (
            exhausted(Resource::Files, "create"),
            "cannot create data/0000000001.seg: the file system has no inode left for it; remove some files, however small, or \
             compact the store, and try again",
        ),
        (
            exhausted(Resource::Mappings, "map"),
            "cannot map data/0000000001.seg: no memory can be mapped; raise vm.max_map_count or the limit on address \
             space (ulimit -v), or close other stores, and try again",
        ),
        (
            exhausted(Resource::FileSize, "allocate"),
            "cannot allocate data/0000000001.seg: the file would be larger than a file of this process may be; raise \
             the limit (ulimit -f), or open the store with smaller segments, and try again",
        ),
        (
            exhausted(Resource::Memory, "write"),
            "cannot write data/0000000001.seg: no memory is left for it; free some, or raise vm.max_map_count or \
             the limit on address space (ulimit -v), and try again",
        ),
    ]
}

fn about_directories() -> Vec<(Error, &'static str)> {
    vec![
        (
            Error::Locked { path: path(), pid: Some(12) },
            "store data is open for writing in process 12; close that handle first, or read the store meanwhile \
             with `Follower::open`",
        ),
        (
            Error::Locked { path: path(), pid: None },
            "store data is open already; close that handle first, or read the store meanwhile with \
             `Follower::open`",
        ),
        (
            Error::Foreign { path: path(), found: "notes.txt".to_owned() },
            "data is not a mapcask store: it holds \"notes.txt\"; choose an empty directory",
        ),
        (
            Error::NotFound { path: path() },
            "there is no store at data; check the path, or create one there first",
        ),
        (
            Error::TooNew { path: file(), found: 2, supported: 1 },
            "data/0000000001.seg has format version 2, this build reads up to 1; use a newer mapcask",
        ),
        (
            Error::ForeignFile { path: file() },
            "data/0000000001.seg belongs to another store; move it out of this directory",
        ),
        (
            Error::DirectoryGone { path: path(), replaced: false },
            "data was removed since the store was opened, so what is written now would be lost; close the store, \
             and open it where its files are",
        ),
        (
            Error::DirectoryGone { path: path(), replaced: true },
            "data leads to another directory since the store was opened, so what is written now would be lost; \
             close the store, and open it where its files are",
        ),
        (
            Error::Destroying { path: path() },
            "the store at data was being destroyed when that was interrupted, and what is left is no store; \
             destroy it again",
        ),
        (
            Error::FileGone { path: PathBuf::from("data/MANIFEST.0") },
            "data/MANIFEST.0 was removed or replaced while the store was open, so what is written now would be lost; \
             close the store, and put the file back, or salvage what is there",
        ),
        (
            Error::LockLost { path: PathBuf::from("data/LOCK") },
            "data/LOCK was removed or replaced while the store was open, and another process may write to the \
             same files; close the store everywhere, and verify it",
        ),
        (
            Error::ReadOnly { path: path() },
            "data cannot be written; change its permissions, or those of its file system, or read it with \
             `Follower::open`",
        ),
        (
            Error::OpenedReadOnly { path: path() },
            "the store at data was opened for reading only; open it without `Options::read_only` to write to it",
        ),
    ]
}

fn about_writes() -> Vec<(Error, &'static str)> {
    let refused = || Arc::new(io::Error::from(io::ErrorKind::PermissionDenied));
    vec![
        (
            Error::KeyTooLarge { len: 70_000, max: 65_535 },
            "key of 70000 bytes is longer than the limit of 65535; store a hash of it instead",
        ),
        (
            Error::ValueTooLarge { len: 5, max: 4 },
            "value of 5 bytes is longer than the limit of 4; split it over several keys",
        ),
        (Error::BatchTooLarge { len: 5, max: 4 }, "batch of 5 bytes is longer than the limit of 4; split it"),
        (
            Error::NoSpace { path: file(), needed: 4096, source: None },
            "no space for 4096 bytes at data/0000000001.seg; free some space, or raise the quota, and try again",
        ),
        (
            Error::NoSpace { path: file(), needed: 0, source: None },
            "no space at data/0000000001.seg; free some space, or raise the quota, and try again",
        ),
        (
            Error::DiskLimit { limit: 8192, used: 8190, held: 0, needed: 4096 },
            "the store's limit of 8192 bytes on the disk leaves no room: 8190 are used, and 4096 more are needed; \
             remove what is no longer needed, or open the store with a higher limit",
        ),
        (
            Error::DiskLimit { limit: 8192, used: 8190, held: 4096, needed: 4096 },
            "the store's limit of 8192 bytes on the disk leaves no room: 8190 are used (4096 of them by removed files \
             that a view, value, iterator or snapshot holds: let go of it), and 4096 more are needed; remove what is \
             no longer needed, or open the store with a higher limit",
        ),
        (
            Error::Corrupt { path: file(), offset: 128, defect: Defect::PayloadChecksum },
            "data/0000000001.seg is damaged at offset 128: the checksum over a key and its value does not match; \
             restore a backup, or salvage what is intact",
        ),
        (
            Error::MissingSegment { path: file() },
            "data/0000000001.seg is missing; put it back, restore a backup, or salvage what is intact",
        ),
        (
            Error::Io { operation: "open", path: file(), source: refused() },
            "cannot open \"data/0000000001.seg\": permission denied",
        ),
        (
            Error::Poisoned { cause: Arc::new(Error::Closed) },
            "the store no longer accepts writes after a failure (the store is closed; open it again); \
             close it and open it again",
        ),
    ]
}

fn about_keyspaces() -> Vec<(Error, &'static str)> {
    let name = || "users".to_owned();
    let mismatch = |stored: &str| Error::CodecMismatch {
        name: name(),
        stored: stored.to_owned(),
        asked: "bincode-1".to_owned(),
    };
    vec![
        (
            Error::ConditionFailed { keyspace: name(), key: b"a\n".to_vec() },
            "the batch's condition on key \"a\\n\" of keyspace \"users\" does not hold and nothing was written; \
             read it again and decide anew",
        ),
        (
            Error::ConditionFailed { keyspace: String::new(), key: b"a".to_vec() },
            "the batch's condition on key \"a\" of the default keyspace does not hold and nothing was written; \
             read it again and decide anew",
        ),
        (
            Error::Conflict { keyspace: name(), key: Some(b"a\n".to_vec()) },
            "the transaction has read key \"a\\n\" of keyspace \"users\", which was changed since, and nothing was \
             written; run it again",
        ),
        (
            Error::Conflict { keyspace: String::new(), key: None },
            "the transaction has read a part of the default keyspace, which was changed since, and nothing was \
             written; run it again",
        ),
        (
            Error::KeyspaceDropped { name: name() },
            "keyspace \"users\" was dropped; get it by its name again to create it anew",
        ),
        (
            Error::KeyspaceNotFound { name: name() },
            "there is no keyspace \"users\"; the store's `keyspace_names` lists those that are there",
        ),
        (
            Error::KeyspaceExists { name: name() },
            "there is a keyspace \"users\" already; choose another name, or drop that one first",
        ),
        (
            Error::InvalidKeyspaceName { name: name(), reason: "it is too long" },
            "keyspace name \"users\": it is too long",
        ),
        (
            Error::ForeignKeyspace { name: name() },
            "keyspace \"users\" belongs to another open store; use the handle of the store that is written to",
        ),
        (
            mismatch("postcard-1"),
            "keyspace \"users\" is encoded by \"postcard-1\", and not by \"bincode-1\"; \
             open it with the codec it was created with",
        ),
        (
            mismatch(""),
            "keyspace \"users\" is encoded by \"no codec\", and not by \"bincode-1\"; \
             open it with the codec it was created with",
        ),
        (
            Error::UnknownSeq { seq: 9, last: 7 },
            "sequence number 9 was not given out yet, the last one is 7; pass what a write returned",
        ),
    ]
}

fn about_handles() -> Vec<(Error, &'static str)> {
    vec![
        (
            Error::Replaced { path: path() },
            "the store at data was removed or replaced while it was followed; open a follower of the one that is \
             there now",
        ),
        (
            Error::Restoring { path: path() },
            "the restore to data was interrupted, and what is there is no store; restore the backup there again",
        ),
        (
            Error::NoBackup { path: path() },
            "there is no finished backup at data; check the path, or run the backup again",
        ),
        (
            Error::InvalidTarget { path: path(), reason: "it is too small; clean it".to_owned() },
            "data cannot be the target: it is too small; clean it",
        ),
        (
            Error::WriterFailed { path: path() },
            "the process that writes to data has failed to write, and what it wrote since may be lost; close the \
             store there and open it again, which keeps what is durable",
        ),
        (
            Error::Lagged { from: 5, to: 9 },
            "changes 5 to 9 are no longer in the log; read the state anew, and keep more of the log with `keep_changes`",
        ),
        (
            Error::Rewound { last: 7, read: 9 },
            "changes behind 7, up to 9, were read and then taken back; undo them, or read the state anew",
        ),
        (Error::Closed, "the store is closed; open it again"),
        (Error::Forked, "this handle was inherited through fork; open the store again in the child"),
        (
            Error::InvalidOption {
                option: "segment_bytes",
                value: "1".to_owned(),
                reason: "it is too small",
            },
            "option segment_bytes is 1: it is too small",
        ),
        (
            Error::UnsupportedFileSystem { path: path(), kind: "NFS" },
            "data lies on NFS, where mapped files are not reliable; use a local file system",
        ),
        (Error::Limit { what: "all", advice: "remove some" }, "limit reached: all; remove some"),
        (
            Error::Codec { codec: "bincode", reason: "it is too short".to_owned() },
            "bincode cannot convert this value: it is too short; \
             check that it was written with the same type and codec",
        ),
        (
            Error::Panicked { operation: "a sync" },
            "a panic interrupted a sync; please report it together with its backtrace",
        ),
    ]
}

#[test]
fn every_text_says_what_to_do() {
    for (error, text) in texts() {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn causes_can_be_followed() {
    use std::error::Error as _;
    let inner = Error::io("sync", "data", io::Error::from(io::ErrorKind::PermissionDenied));
    let poisoned = Error::Poisoned { cause: Arc::new(inner) };
    let cause = poisoned.source().expect("the first failure");
    assert!(cause.source().expect("what the system said").to_string().contains("permission denied"));
}

#[test]
fn a_full_disk_has_a_variant_of_its_own() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(matches!(Error::io("write", "data", kind.into()), Error::NoSpace { .. }));
    }
    for (operation, error, resource) in [
        ("open", io::Error::from_raw_os_error(24), Resource::Descriptors),
        ("open", io::Error::from_raw_os_error(23), Resource::Descriptors),
        ("create", io::Error::new(io::ErrorKind::StorageFull, RanOut(Resource::Files)), Resource::Files),
        ("map", io::ErrorKind::OutOfMemory.into(), Resource::Mappings),
        ("write", io::ErrorKind::FileTooLarge.into(), Resource::FileSize),
    ] {
        let found = Error::io(operation, "data", error);
        assert!(
            matches!(found, Error::Exhausted { resource: ran_out, .. } if ran_out == resource),
            "{found:?}"
        );
    }
    // Memory for another operation.
    let error = Error::io("read", "data", io::ErrorKind::OutOfMemory.into());
    assert!(matches!(error, Error::Io { .. }));
    let error = Error::io("open", "data", io::ErrorKind::ReadOnlyFilesystem.into());
    assert!(matches!(error, Error::ReadOnly { .. }));
}
