//! The builder for opening a store: few options, each with a default that is right for nearly everyone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::opening;
use super::store::Store;
use crate::config::{Config, Durability, RecoveryProgress, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Tell};
use crate::error::Result;
use crate::sync::worker::Background;

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
    pub(super) config: Config,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The least size of a segment, in bytes.
    pub const SEGMENT_BYTES_MIN: u64 = SEGMENT_BYTES_MIN;
    /// The greatest size of a segment, in bytes: 4 GiB. A value that needs more gets a segment of its own size.
    pub const SEGMENT_BYTES_MAX: u64 = SEGMENT_BYTES_MAX;

    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self { config: Config::default() }
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
        self.config.durability = durability;
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
        self.config.sync_interval = interval;
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
        self.config.segment_bytes = bytes;
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
        self.config.max_disk_bytes = Some(bytes);
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
        self.config.verify_reads = verify;
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
        self.config.background = background.into();
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
        self.config.compaction = compaction;
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
        self.config.compaction_bytes_per_second = Some(bytes);
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
    /// let store = mapcask::Options::new().checkpoint_bytes(64 << 20).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "checkpoint")]
    #[must_use]
    pub fn checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.config.checkpoint_bytes = bytes;
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
        self.config.recovery_progress = Tell(Some(Arc::new(tell)));
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
        self.config.create = create;
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
        self.config.wait_for_lock = time;
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
        self.config.read_only = read_only;
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
        self.config.sigbus_guard = guard;
        self
    }

    /// Opens the store in a directory, or creates it there.
    ///
    /// After an unclean end (the process was killed, or the power was cut) the store is recovered; see
    /// [`Store::recovery_report`].
    ///
    /// The files of an open store are mapped into memory. They belong to the store: a program that changes or truncates
    /// them while they are mapped breaks what this crate promises. A lock keeps a second mapcask out. A page that cannot be
    /// read or written is an error of what needs it; on Linux a handler for SIGBUS sees to that ([`Options::sigbus_guard`]).
    ///
    /// A relative path is that of the working directory now; where the process goes later does not matter. What an image of
    /// the index holds is not read here, so damage in it, or a segment file that was cut, is an error of the reads that need
    /// it; [`Store::verify`] reads everything.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Error, Options};
    ///
    /// let missing = Options::new().create(false).open(&path);
    /// assert!(matches!(missing, Err(Error::NotFound { .. })));
    /// let store = Options::new().open(&path)?;
    /// assert!(store.recovery_report().created);
    /// let second = Options::new().open(&path);
    /// assert!(matches!(second, Err(Error::Locked { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Locked` when another handle has it open, unless both only read; `Foreign`, `ForeignFile`, `TooNew`, `UnsupportedFileSystem` or
    /// `NotFound` when there is no store that can be opened here, all without touching anything but the lock file; `Corrupt` or
    /// `MissingSegment` when durable data is damaged, likewise (see [`salvage`](crate::api::salvage)); `NoSpace`,
    /// `ReadOnly`, `Io` or `Limit` when the operating system refuses; `InvalidOption`. A disk that others filled does not keep
    /// a store from being opened and read; where an open cannot write, [`Options::read_only`] does not need to.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        opening::open(&self.config, path.as_ref())
    }

    /// Opens the store on a simulated disk.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// store.insert("a", "1")?;
    /// // The process dies here; the machine does not.
    /// let store = Options::new().background(false).open_on(&disk.kill())?;
    /// assert!(store.contains_key("a")?);
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn open_on(self, disk: &crate::fs::sim::SimDisk) -> Result<Store> {
        opening::open_in(self.config, disk.dir())
    }
}
