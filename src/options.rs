//! How a store is opened: few options, each with a default that is right for nearly everyone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::background::Background;
use crate::error::{Error, Result};
use crate::mapping::PAGE_SIZE;

/// The size of the first segment after an open, in bytes: with the small files beside it a store takes 32 KiB.
const SMALLEST_SEGMENT: u64 = 16 << 10;

/// What an acknowledged write survives.
///
/// | level | survives | cost |
/// |---|---|---|
/// | `Os` | death of the process: panic, abort, `kill -9`, the out-of-memory killer | memory speed, no system call for values below 64 KiB |
/// | `Interval` | also power loss, except for the last interval | a sync in the background |
/// | `Disk` | also power loss and a kernel crash, before the call returns | one device flush per group of writers |
///
/// After a power cut the store holds a prefix of what was acknowledged, in order, no shorter than what was durable.
///
/// ```
/// use mapcask::Durability;
///
/// assert!(Durability::Os < Durability::Interval && Durability::Interval < Durability::Disk);
/// assert_eq!(Durability::default(), Durability::Os);
/// ```
#[doc(alias = "PersistMode")]
#[doc(alias = "WriteOptions")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Durability {
    /// The operating system has the bytes when the call returns.
    #[default]
    Os,
    /// As `Os`, and at most [`Options::sync_interval`] later the bytes are on their way to the disk.
    Interval,
    /// The bytes are on the disk when the call returns.
    Disk,
}

/// How a store is opened.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// let store = mapcask::Options::new().durability(mapcask::Durability::Disk).open(&path)?;
/// store.insert("key", "value")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) sync_interval: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) max_disk_bytes: Option<u64>,
    pub(crate) verify_reads: bool,
    pub(crate) background: Background,
    pub(crate) compaction: bool,
    pub(crate) compaction_bytes_per_second: Option<u64>,
    pub(crate) image_bytes: u64,
    pub(crate) recovery_progress: Tell,
    pub(crate) create: bool,
    pub(crate) wait_for_lock: Duration,
    pub(crate) read_only: bool,
    pub(crate) sigbus_guard: bool,
}

/// How far an open is with reading what no image holds.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// let options = mapcask::Options::new().recovery_progress(|progress| {
///     eprintln!("{} of at most {} bytes", progress.bytes_read, progress.bytes_total);
/// });
/// let store = options.open(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// Bytes of the log that were read.
    pub bytes_read: u64,
    /// Bytes that there are to be read at most: after a kill nobody knows where the last segments end.
    pub bytes_total: u64,
}

/// Whom an open tells how far it is.
#[derive(Clone, Default)]
pub(crate) struct Tell(Option<Arc<dyn Fn(RecoveryProgress) + Send + Sync>>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tell(_)" } else { "Tell(nobody)" })
    }
}

impl Tell {
    pub(crate) fn tell(&self, progress: RecoveryProgress) {
        if let Some(tell) = &self.0 {
            tell(progress);
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The least size of a segment, in bytes.
    pub const SEGMENT_BYTES_MIN: u64 = PAGE_SIZE as u64;
    /// The greatest size of a segment, in bytes: 4 GiB. A value that needs more gets a segment of its own size.
    pub const SEGMENT_BYTES_MAX: u64 = 1 << 32;

    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            durability: Durability::Os,
            sync_interval: Duration::from_millis(100),
            segment_bytes: 64 << 20,
            max_disk_bytes: None,
            verify_reads: false,
            background: Background::from(true),
            compaction: true,
            compaction_bytes_per_second: None,
            image_bytes: 256 << 20,
            recovery_progress: Tell::default(),
            create: true,
            wait_for_lock: Duration::ZERO,
            read_only: false,
            sigbus_guard: true,
        }
    }

    /// What an acknowledged write survives. Default: [`Durability::Os`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().durability(mapcask::Durability::Interval).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a write may wait for its sync at [`Durability::Interval`]. Default: 100 ms.
    ///
    /// After a power cut at most the writes of this time, and of one sync that was under way, are missing.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::time::Duration;
    ///
    /// use mapcask::{Durability, Options};
    ///
    /// let options = Options::new().durability(Durability::Interval).sync_interval(Duration::from_millis(20));
    /// let store = options.open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        self.sync_interval = interval;
        self
    }

    /// The size that segment files grow to, in bytes; a multiple of 4,096. Default: 64 MiB.
    ///
    /// The first file after each open has 16 KiB, the second one 256 KiB, and each next one is four times as large, up to this.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().segment_bytes(1 << 20).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// The most bytes that insertions may make the store's segment files take together. Default: no limit. At least two
    /// of the smallest segments: 32 KiB, or twice [`Options::segment_bytes`] where that is less.
    ///
    /// What counts is the size of the files as they were made, those made ahead included:
    /// [`Stats::segment_bytes`](crate::Stats::segment_bytes); and of removed files what a view, a value, an iterator or a snapshot
    /// still holds: [`Stats::removed_bytes_in_use`](crate::Stats::removed_bytes_in_use). An insertion, or a batch that holds one, that would need a file
    /// beyond the limit is refused with [`Error::DiskLimit`](crate::Error::DiskLimit), and nothing was written; it works
    /// again when there is room, or after opening with a higher limit. Before that the last files are made smaller, so
    /// that the limit is used up.
    ///
    /// Before an insertion is refused, compaction (unless [`Options::compaction`] is off) makes what room there is to be made: a
    /// segment of which an eighth is dead is worth a pass. While a pass runs its output may take up to
    /// [`Options::segment_bytes`] beyond the limit.
    ///
    /// A removal, or a batch of removals, is never refused because of the limit: it may go beyond it by files of 16 KiB
    /// (or `segment_bytes` where that is less). While more is used than allowed, insertions are refused even where the
    /// last file has room. A store that is larger already opens normally; an open that needs a file and finds no
    /// room makes one of 4 KiB.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().max_disk_bytes(10 << 20).open(&path)?;
    /// assert_eq!(store.stats().max_disk_bytes, Some(10 << 20));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn max_disk_bytes(mut self, bytes: u64) -> Self {
        self.max_disk_bytes = Some(bytes);
        self
    }

    /// Whether every read verifies the record's checksum. Default: no; every record is verified when it is written and
    /// when an open reads it, or by the first read of it where an image of the index saved the open that.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().verify_reads(true).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn verify_reads(mut self, verify: bool) -> Self {
        self.verify_reads = verify;
        self
    }

    /// Who does the store's work in the background: `true`, a thread of its own; `&`[`Background`], a thread shared with
    /// other stores; `false`, nobody. Default: `true`.
    ///
    /// With nobody, writers make segments ready themselves, and [`Durability::Interval`] syncs when
    /// [`Store::flush`](crate::Store::flush) is called. For tests that must be deterministic.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().background(false).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn background(mut self, background: impl Into<Background>) -> Self {
        self.background = background.into();
        self
    }

    /// Whether the background compacts the store by itself, so that what was overwritten and removed does not take room
    /// for ever. Default: yes; a store that was closed is left as it is until something is written. Without it, or without a background, [`Store::compact`](crate::Store::compact) does it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().compaction(false).open(&path)?;
    /// store.insert("key", "value")?;
    /// store.remove("key")?;
    /// store.compact()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn compaction(mut self, compaction: bool) -> Self {
        self.compaction = compaction;
        self
    }

    /// Limits what the background's compaction reads and writes, in bytes per second. Default: no limit.
    ///
    /// The bound on the size of the store holds only as far as the limit leaves room for it: when more is overwritten than
    /// may be compacted, the store grows.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().compaction_bytes_per_second(50 << 20).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn compaction_bytes_per_second(mut self, bytes: u64) -> Self {
        self.compaction_bytes_per_second = Some(bytes);
        self
    }

    /// How much an open after a kill may have to read before the background makes an image of the index, in bytes.
    /// Default: 256 MiB, which takes about a quarter of a second to read.
    ///
    /// What counts is what was written to the log and moved by compaction since the last image; and an image is
    /// made only once that is four times as much as the image takes (about 16 bytes per key). Making one reads no log,
    /// and makes durable what it shows. A close makes one for itself.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().image_bytes(64 << 20).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "checkpoint")]
    #[must_use]
    pub fn image_bytes(mut self, bytes: u64) -> Self {
        self.image_bytes = bytes;
        self
    }

    /// Has an open tell how far it is, about once per megabyte, on the thread that opens. Default: nobody is told.
    ///
    /// Where an image turns out to be damaged in the middle of it, reading begins again, and so do the numbers.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let options = mapcask::Options::new();
    /// let options = options.recovery_progress(|progress| eprintln!("{} bytes read", progress.bytes_read));
    /// let store = options.open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn recovery_progress(mut self, tell: impl Fn(RecoveryProgress) + Send + Sync + 'static) -> Self {
        self.recovery_progress = Tell(Some(Arc::new(tell)));
        self
    }

    /// Whether a store is created where there is none. Default: yes.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let missing = mapcask::Options::new().create(false).open(&path);
    /// assert!(matches!(missing, Err(mapcask::Error::NotFound { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How long an open waits for whoever has the store open, before it is refused with
    /// [`Error::Locked`](crate::Error::Locked). Default: not at all.
    ///
    /// For a service whose old process is still closing when the new one starts. It looks at most every 50 ms; of several
    /// that wait, any may be next.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::time::Duration;
    ///
    /// let old = mapcask::Store::open(&path)?;
    /// let closing = std::thread::spawn(move || old.close());
    /// let new = mapcask::Options::new().wait_for_lock(Duration::from_secs(10)).open(&path)?;
    /// # closing.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn wait_for_lock(mut self, time: Duration) -> Self {
        self.wait_for_lock = time;
        self
    }

    /// Opens the store for reading only: nothing in its directory changes, not even after a kill, where recovery ends in memory.
    /// Default: no.
    ///
    /// It shows what any other open would show. It takes two pages of memory more than the index, whatever there is to be
    /// recovered. Reading permission is enough, on a file system that is mounted read-only or full as well.
    ///
    /// Calls that would write are refused with [`Error::OpenedReadOnly`](crate::Error::OpenedReadOnly). So is a
    /// [`flush`](crate::Store::flush) where, after a kill, something that is shown is not known to be durable. Such a store is
    /// never created, has no background, and is closed without a trace. Access times of its files may change.
    ///
    /// It may be open so any number of times at once, in any processes. Meanwhile nobody can open it for writing, nor the other
    /// way round: that is [`Error::Locked`](crate::Error::Locked).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Error, Options, Store};
    ///
    /// Store::open(&path)?.insert("a", "1")?;
    /// let store = Options::new().read_only(true).open(&path)?;
    /// assert!(store.contains_key("a")?);
    /// assert!(matches!(store.insert("b", "2"), Err(Error::OpenedReadOnly { .. })));
    /// assert!(matches!(Store::open(&path), Err(Error::Locked { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "open_read_only")]
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether a page of the store's files that cannot be read or written is an error, and not the death of the process.
    /// Default: yes.
    ///
    /// A failing disk, a file that another program cut, and a full disk under a file whose blocks a copy shares make the
    /// kernel send SIGBUS. The first store that is opened with this installs a handler for the process, which stays.
    /// Signals that are not about a store's files go to the handler that was there before, or have the default effect.
    /// With `false` the pages of this store are left alone, and such a page ends the process; but
    /// [`Keyspace::get_into`](crate::Keyspace::get_into), [`Store::verify`](crate::Store::verify) and opening have the kernel read
    /// pages before they touch them (from Linux 5.14 on).
    ///
    /// There is no guard elsewhere than on Linux, on a thread that blocks SIGBUS, for the system calls of others that are given
    /// a borrowed value (those return an error), and after another library has replaced the handler without calling it.
    /// Bytes that were handed out before their page was lost read as zeros afterwards:
    /// [`Value::check`](crate::Value::check) and [`View::check`](crate::View::check) tell.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().sigbus_guard(false).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "signal")]
    #[must_use]
    pub fn sigbus_guard(mut self, guard: bool) -> Self {
        self.sigbus_guard = guard;
        self
    }

    /// The size of the smallest segment that is made without need, in bytes.
    pub(crate) fn smallest_segment(&self) -> u64 {
        SMALLEST_SEGMENT.min(self.segment_bytes)
    }

    /// Refuses values that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        let bytes = self.segment_bytes;
        let range = Self::SEGMENT_BYTES_MIN..=Self::SEGMENT_BYTES_MAX;
        if !range.contains(&bytes) || !bytes.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Error::InvalidOption {
                option: "segment_bytes",
                value: bytes.to_string(),
                reason: "it must be a multiple of 4096, from 4096 to 4 GiB",
            });
        }
        if let Some(limit) = self.max_disk_bytes.filter(|limit| *limit < 2 * self.smallest_segment()) {
            return Err(Error::InvalidOption {
                option: "max_disk_bytes",
                value: limit.to_string(),
                reason: "it must be at least 32 KiB, or twice segment_bytes where that is less",
            });
        }
        if self.compaction_bytes_per_second == Some(0) {
            return Err(Error::InvalidOption {
                option: "compaction_bytes_per_second",
                value: "0".to_owned(),
                reason: "it must be at least 1; to switch compaction off use Options::compaction",
            });
        }
        if self.sync_interval.is_zero() {
            return Err(Error::InvalidOption {
                option: "sync_interval",
                value: "0".to_owned(),
                reason: "it must be longer than nothing; for a sync per write use Durability::Disk",
            });
        }
        Ok(())
    }
}
