//! The error type of the crate: the failure, its place, and advice.
//!
//! Damage in bytes is a [`Defect`](crate::format::Defect). An error adds the file, the offset and
//! the advice.

mod ran_out;
pub(crate) mod resource;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use self::ran_out::ran_out;
pub(crate) use self::ran_out::{RESERVE_ADDRESSES, RanOut};
pub(crate) use self::resource::Resource;
use crate::format::Defect;

/// The result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The failure of an operation: its cause, its place, and advice.
///
/// The text of each variant is a lower-case sentence that ends in advice if there is any. Its
/// numbers are also fields, so that a program can act on them.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// match store.insert(vec![0; mapcask::MAX_KEY_LEN + 1], "value") {
///     Err(mapcask::Error::KeyTooLarge { len, max }) => assert_eq!(len, max + 1),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another handle, in this or another process, has the store open. Two handles conflict unless
    /// both are read-only. A [`Follower`](crate::Follower) reads the store meanwhile.
    #[error("store {} is open{}; close that handle first, or read the store meanwhile with `Follower::open`",
        path.display(), match pid { Some(pid) => format!(" for writing in process {pid}"), None => " already".to_owned() })]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process that has it open for writing, if known.
        pid: Option<u32>,
    },
    /// The directory holds files of another program. Nothing was touched.
    #[error("{} is not a mapcask store: it holds {found:?}; choose an empty directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first name that does not belong to a store.
        found: String,
    },
    /// There is no store at the path, and none may be created.
    #[error("there is no store at {}; check the path, or create one there first", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// The store was written by a newer version of this crate. Nothing was touched.
    #[error("{} has format version {found}, this build reads up to {supported}; use a newer mapcask", path.display())]
    TooNew {
        /// The file with the newer version.
        path: PathBuf,
        /// The format version that a reader must support.
        found: u32,
        /// The newest format version that this build reads.
        supported: u32,
    },
    /// A file carries the identity of another store. Nothing was touched.
    #[error("{} belongs to another store; move it out of this directory", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
    },
    /// The store, the directory or the file system does not allow writing.
    #[error("{} cannot be written; change its permissions, or those of its file system, or read it with \
        `Follower::open`", path.display())]
    ReadOnly {
        /// The directory or file.
        path: PathBuf,
    },
    /// The store was opened with [`Options::read_only`](crate::Options::read_only). Nothing was
    /// changed.
    #[error("the store at {} was opened for reading only; open it without `Options::read_only` to write to it", path.display())]
    OpenedReadOnly {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory of the open store was removed, or its path now leads to another one. Nothing
    /// was written there.
    #[error("{} {} since the store was opened, so what is written now would be lost; close the store, and open it where its \
        files are", path.display(), if *replaced { "leads to another directory" } else { "was removed" })]
    DirectoryGone {
        /// The path that led to the directory.
        path: PathBuf,
        /// True if there is another directory now: the old one was moved, or something was mounted
        /// over it.
        replaced: bool,
    },
    /// An earlier destruction of the store was interrupted.
    #[error("the store at {} was being destroyed when that was interrupted, and what is left is no store; destroy it again", path.display())]
    Destroying {
        /// The store's directory.
        path: PathBuf,
    },
    /// The restore of a backup to this directory was interrupted.
    #[error("the restore to {} was interrupted, and what is there is no store; restore the backup there again", path.display())]
    Restoring {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds no backup that was finished.
    #[error("there is no finished backup at {}; check the path, or run the backup again", path.display())]
    NoBackup {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be the target of a backup or a restore. Nothing was changed there.
    #[error("{} cannot be the target: {reason}", path.display())]
    InvalidTarget {
        /// The directory.
        path: PathBuf,
        /// The reason, with advice.
        reason: String,
    },
    /// A file that the store holds open was removed, renamed or replaced, so the next open would
    /// not find new writes.
    #[error("{} was removed or replaced while the store was open, so what is written now would be lost; close the store, and \
        put the file back, or salvage what is there", path.display())]
    FileGone {
        /// The file.
        path: PathBuf,
    },
    /// The lock file was removed or replaced while the store was open, so another writer may have
    /// it open too.
    ///
    /// This happens only on file systems that cannot lock directories.
    #[error("{} was removed or replaced while the store was open, and another process may write to the same files; close the \
        store everywhere, and verify it", path.display())]
    LockLost {
        /// The lock file.
        path: PathBuf,
    },
    /// The store that a [`Follower`](crate::Follower) reads was removed, or another one is in its
    /// place.
    #[error("the store at {} was removed or replaced while it was followed; open a follower of the one that is there now", path.display())]
    Replaced {
        /// The directory.
        path: PathBuf,
    },
    /// The process that writes to a followed store has failed to write, so what it wrote since the
    /// last sync may be lost.
    #[error("the process that writes to {} has failed to write, and what it wrote since may be lost; close the store there and \
        open it again, which keeps what is durable", path.display())]
    WriterFailed {
        /// The directory.
        path: PathBuf,
    },
    /// Compaction has removed a part of the log that a [change feed](crate::Changes) has not read.
    #[error(
        "changes {from} to {to} are no longer in the log; read the state anew, and keep more of the log with `keep_changes`"
    )]
    Lagged {
        /// The first number that may be missing.
        from: u64,
        /// The last number that may be missing.
        to: u64,
    },
    /// Changes that a [change feed](crate::Changes) has read are not part of the store: it lost the
    /// end of its log, or an earlier state was put back.
    #[error(
        "changes behind {last}, up to {read}, were read and then taken back; undo them, or read the state anew"
    )]
    Rewound {
        /// The last number that is part of the store. Zero if it is not known.
        last: u64,
        /// The number of the last change that was read.
        read: u64,
    },
    /// The key is longer than [`MAX_KEY_LEN`](crate::MAX_KEY_LEN), or than
    /// [`MAX_ORDERED_KEY_LEN`](crate::MAX_ORDERED_KEY_LEN) in an ordered keyspace.
    #[error("key of {len} bytes is longer than the limit of {max}; store a hash of it instead")]
    KeyTooLarge {
        /// The key's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The value is longer than [`MAX_VALUE_LEN`](crate::MAX_VALUE_LEN).
    #[error("value of {len} bytes is longer than the limit of {max}; split it over several keys")]
    ValueTooLarge {
        /// The value's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The batch's records are together longer than the limit of a batch.
    #[error("batch of {len} bytes is longer than the limit of {max}; split it")]
    BatchTooLarge {
        /// The batch's size in the log, in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A condition of a batch did not hold. Nothing was written.
    #[error("the batch's condition on key \"{}\" of {} does not hold and nothing was written; read it again and decide anew",
        key.escape_ascii(), named(keyspace))]
    ConditionFailed {
        /// The name of the condition's keyspace; empty for the default one.
        keyspace: String,
        /// The key of the first condition that did not hold.
        key: Vec<u8>,
    },
    /// A read of a [`Transaction`](crate::Transaction) no longer holds. Nothing was written.
    #[error("the transaction has read {} of {}, which was changed since, and nothing was written; run it again",
        match key { Some(key) => format!("key \"{}\"", key.escape_ascii()), None => "a part".to_owned() }, named(keyspace))]
    Conflict {
        /// The name of the read keyspace; empty for the default one.
        keyspace: String,
        /// The key; `None` if keys were added to a range, or the keyspace was created, cleared or
        /// dropped.
        key: Option<Vec<u8>>,
    },
    /// The keyspace was dropped. Handles to it stay invalid, even if a new keyspace gets its name.
    #[error("keyspace {name:?} was dropped; get it by its name again to create it anew")]
    KeyspaceDropped {
        /// The keyspace's last name.
        name: String,
    },
    /// There is no keyspace of this name.
    #[error("there is no keyspace {name:?}; the store's `keyspace_names` lists those that are there")]
    KeyspaceNotFound {
        /// The name.
        name: String,
    },
    /// The operation needs an ordered keyspace, and this one is not.
    #[error("keyspace {name:?} is not ordered; copy its keys to one that `ordered_keyspace` creates")]
    KeyspaceNotOrdered {
        /// The keyspace's name.
        name: String,
    },
    /// Another keyspace already has the name.
    #[error("there is a keyspace {name:?} already; choose another name, or drop that one first")]
    KeyspaceExists {
        /// The name.
        name: String,
    },
    /// No keyspace can have this name, or the operation is not possible for the keyspace that has
    /// it.
    #[error("keyspace name {name:?}: {reason}")]
    InvalidKeyspaceName {
        /// The name.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// A batch names a keyspace of another store, or of an earlier handle to this one. Nothing was
    /// written.
    #[error(
        "keyspace {name:?} belongs to another open store; use the handle of the store that is written to"
    )]
    ForeignKeyspace {
        /// The keyspace's name.
        name: String,
    },
    /// The keyspace was created with another codec.
    #[error("keyspace {name:?} is encoded by {stored:?}, and not by {asked:?}; open it with the codec it was created with",
        stored = if stored.is_empty() { "no codec" } else { stored.as_str() })]
    CodecMismatch {
        /// The keyspace's name.
        name: String,
        /// The id of the codec that it was created with; empty if it holds plain bytes.
        stored: String,
        /// The id of the codec that it was opened with.
        asked: String,
    },
    /// The sequence number is higher than that of any write so far.
    #[error(
        "sequence number {seq} was not given out yet, the last one is {last}; pass what a write returned"
    )]
    UnknownSeq {
        /// The number.
        seq: u64,
        /// The number of the last write.
        last: u64,
    },
    /// The disk or a quota has no space. Nothing was written, and writes succeed again once there
    /// is space.
    #[error("no space{} at {}; free some space, or raise the quota, and try again",
        match needed { 0 => String::new(), needed => format!(" for {needed} bytes") }, path.display())]
    NoSpace {
        /// The file that could not be created.
        path: PathBuf,
        /// The bytes that were requested; zero if unknown.
        needed: u64,
        /// The operating system's error, if it was asked.
        source: Option<Arc<io::Error>>,
    },
    /// A resource other than space ran out. Nothing was written, and the operation succeeds again
    /// once there is more.
    #[error("cannot {operation} {}: {resource}", path.display())]
    Exhausted {
        /// The resource that ran out.
        resource: Resource,
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// [`Options::max_disk_bytes`](crate::Options::max_disk_bytes) leaves no space. Nothing was
    /// written; removals still work.
    #[error(
        "the store's limit of {limit} bytes on the disk leaves no room: {used} are used{}, and {needed} more are needed; \
         remove what is no longer needed, or open the store with a higher limit",
        match held {
            0 => String::new(),
            held => format!(" ({held} of them by removed files that a view, value, iterator or snapshot holds: let go of it)"),
        }
    )]
    DiskLimit {
        /// The limit in bytes.
        limit: u64,
        /// Bytes of all segment files, including removed ones that are still in use.
        used: u64,
        /// Bytes of removed segment files that a view, a value, an iterator or a snapshot still
        /// uses.
        held: u64,
        /// Bytes of the smallest segment file that could hold the write.
        needed: u64,
    },
    /// Durable data is damaged. Nothing was changed.
    #[error("{} is damaged at offset {offset}: {defect}; restore a backup, or salvage what is intact", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The offset of the damage from the file's start, in bytes.
        offset: u64,
        /// The defect of the bytes.
        defect: Defect,
    },
    /// A segment file that the manifest names is missing.
    #[error("{} is missing; put it back, restore a backup, or salvage what is intact", path.display())]
    MissingSegment {
        /// The missing file.
        path: PathBuf,
    },
    /// The operating system refused an operation.
    #[error("cannot {operation} {:?}: {source}", path.display().to_string())]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// An earlier failure made writing unsafe.
    ///
    /// Reads go on. Writes that were acknowledged after the last successful sync may not survive a
    /// power cut.
    #[error("the store no longer accepts writes after a failure ({cause}); close it and open it again")]
    Poisoned {
        /// The first failure.
        #[source]
        cause: Arc<Error>,
    },
    /// The store was closed.
    #[error("the store is closed; open it again")]
    Closed,
    /// The handle was inherited through `fork`. The child must open the store itself, once the
    /// parent has closed it.
    #[error("this handle was inherited through fork; open the store again in the child")]
    Forked,
    /// An option has a value that is not allowed.
    #[error("option {option} is {value}: {reason}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The allowed values.
        reason: &'static str,
    },
    /// The directory lies on a file system where memory-mapped files are not reliable.
    #[error("{} lies on {kind}, where mapped files are not reliable; use a local file system", path.display())]
    UnsupportedFileSystem {
        /// The directory.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// A limit of the process or of the format was reached.
    #[error("limit reached: {what}; {advice}")]
    Limit {
        /// The limit.
        what: &'static str,
        /// The advice.
        advice: &'static str,
    },
    /// A codec could not convert a value of the caller's type to bytes, or bytes to a value.
    #[error(
        "{codec} cannot convert this value: {reason}; check that it was written with the same type and codec"
    )]
    Codec {
        /// The codec.
        codec: &'static str,
        /// The codec's reason.
        reason: String,
    },
    /// A panic interrupted a step that must not be interrupted. It is a bug, in this crate or in
    /// code that it called.
    #[error("a panic interrupted {operation}; please report it together with its backtrace")]
    Panicked {
        /// The interrupted operation.
        operation: &'static str,
    },
}

fn named(keyspace: &str) -> String {
    if keyspace.is_empty() { "the default keyspace".to_owned() } else { format!("keyspace {keyspace:?}") }
}

impl Error {
    /// Wraps an error of the operating system, with a variant of its own for a resource that ran
    /// out.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if let Some(resource) = ran_out(operation, &source) {
            return Self::Exhausted { resource, operation, path, source: Arc::new(source) };
        }
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, needed: 0, source: Some(Arc::new(source)) }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            _ => Self::Io { operation, path, source: Arc::new(source) },
        }
    }

    /// Wraps an error as [`Error::io`] does, for blocks that could not be reserved in a file of
    /// `size` bytes.
    pub(crate) fn allocating(size: u64, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match Self::io("allocate", path, source) {
            Self::NoSpace { path, source, .. } => Self::NoSpace { path, needed: size, source },
            other => other,
        }
    }

    /// Returns the cause of a poisoned store's error: for an open, after which there is no store to
    /// close.
    pub(crate) fn into_cause(self) -> Self {
        match self {
            Self::Poisoned { cause } => Self::clone(&cause),
            other => other,
        }
    }

    /// Returns `true` if the failure is damage in the store's files, which salvage can deal with.
    ///
    /// ```
    /// let error = mapcask::Error::MissingSegment { path: "data/0000000001.seg".into() };
    /// assert!(error.is_corruption());
    /// ```
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::MissingSegment { .. })
    }
}

#[cfg(test)]
mod tests;
