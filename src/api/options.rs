//! The builder that opens a store. Each option has a default that suits nearly every program.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Durability, RecoveryProgress, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Tell};
use crate::sync::worker::Background;

/// The options with which a store is opened.
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
    /// The smallest allowed segment size, in bytes: 4 KiB.
    pub const SEGMENT_BYTES_MIN: u64 = SEGMENT_BYTES_MIN;
    /// The largest allowed segment size, in bytes: 4 GiB. A larger value gets a segment of its own
    /// size.
    pub const SEGMENT_BYTES_MAX: u64 = SEGMENT_BYTES_MAX;

    /// Returns the default options.
    #[must_use]
    pub fn new() -> Self {
        Self { config: Config::default() }
    }

    /// Sets the failures that an acknowledged write survives. Default: [`Durability::Os`].
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

    /// Sets the longest time that a write waits for its sync to start at [`Durability::Interval`].
    /// Default: 100 ms.
    ///
    /// A power cut loses at most the writes of this time and those of one sync under way.
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

    /// Sets the size that segment files grow to, in bytes. It is a multiple of 4,096. Default: 64
    /// MiB.
    ///
    /// The first file after an open has 16 KiB and the second 256 KiB. Each further file is four
    /// times as large, up to this size. In a store of 4 MiB or more, the second file already has a
    /// sixteenth of the store's size, rounded down to a power of two.
    ///
    /// A value or batch that fits into no such file gets a file that is as large as it needs. A file
    /// for values or batches of 64 KiB or more has space for sixteen of them. It then takes at most
    /// this size, and at most an eighth of the free space.
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

    /// Limits the total size to which insertions may grow the segment files, in bytes. Default: no
    /// limit.
    ///
    /// The least limit is two of the smallest segments: 32 KiB, or twice [`Options::segment_bytes`]
    /// if that is less.
    ///
    /// Two sizes count against the limit:
    ///
    /// - [`Stats::segment_bytes`](crate::Stats::segment_bytes): the files at their full size,
    ///   preallocated ones included;
    /// - [`Stats::removed_bytes_in_use`](crate::Stats::removed_bytes_in_use): removed files that a
    ///   view, a value, an iterator or a snapshot still holds.
    ///
    /// An insertion that would need a file beyond the limit fails with
    /// [`Error::DiskLimit`](crate::Error::DiskLimit) and writes nothing. A batch that holds an
    /// insertion does too. Insertions succeed again once there is space, or after an open with a
    /// higher limit. The last files below the limit are made smaller, so that the limit is used up.
    ///
    /// Before an insertion is refused, compaction frees the space that it can, unless
    /// [`Options::compaction`] is off. A segment is then worth a pass once an eighth of it is dead.
    /// During a pass its output may take up to [`Options::segment_bytes`] beyond the limit.
    ///
    /// The limit never refuses a removal or a batch of removals. These may exceed it by files of 16
    /// KiB, or of `segment_bytes` if that is less. While the store exceeds the limit, insertions
    /// are refused even if the last file has space. A store that is already larger opens normally.
    /// An open that needs a file and finds no space creates one of 4 KiB.
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

    /// Makes every read verify the record's checksum, if `true`. Default: `false`.
    ///
    /// By default each record is verified when it is written and when an open reads it. A record
    /// that the open did not read, because an index checkpoint led to it, is verified by its first
    /// read.
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

    /// Selects the thread that does the store's background work. Default: `true`.
    ///
    /// | value | background work |
    /// |---|---|
    /// | `true` | by a thread of this store |
    /// | `&`[`Background`] | by a thread shared with other stores |
    /// | `false` | by no thread |
    ///
    /// With `false`, writers create segments themselves, and [`Durability::Interval`] syncs only
    /// when [`Store::flush`](crate::Store::flush) is called. This suits tests that must be
    /// deterministic.
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

    /// Makes the background thread compact the store, if `true`. Default: `true`.
    ///
    /// Compaction frees the space of overwritten and removed records. After an open, compaction
    /// starts with the first write. With `false`, or without a background thread, call
    /// [`Store::compact`](crate::Store::compact).
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

    /// Limits the bytes per second that background compaction reads and writes. Default: no limit.
    ///
    /// If records are overwritten faster than this limit allows to compact, the store grows beyond
    /// its [space bound](crate#space).
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

    /// Sets the bytes that an open after a kill may have to read before the background writes an
    /// index checkpoint. Default: 256 MiB, which take about a quarter of a second to read.
    ///
    /// It counts the bytes written to the log and moved by compaction since the last checkpoint. A
    /// checkpoint is written only once those bytes exceed four times its own size, about 16 bytes
    /// per key. An open on the mount of the killed process reads less, because it uses hints.
    /// Writing a checkpoint reads no log, and makes durable the writes that it covers. A close also
    /// writes one, if that spares the next open enough reading.
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

    /// Keeps at least the last bytes of the log for [change feeds](crate::Changes), at the price of
    /// as much space. Default: zero.
    ///
    /// Compaction leaves the segments of the log alone that are nearer to its end than this. So a
    /// feed that is less than this number of bytes behind the last write never returns
    /// [`Error::Lagged`](crate::Error::Lagged), unless space is short: before a write is refused for
    /// [`Options::max_disk_bytes`] or a full disk, compaction takes these segments, too. So does
    /// [`Store::compact`](crate::Store::compact), which ends the history.
    ///
    /// The bytes are those of the files, so many small segments count as much as they take. At most 64
    /// segments are kept, and one more for each [`Options::segment_bytes`] of `bytes`. Only a store
    /// whose process is killed again and again has so many small ones.
    ///
    /// Feeds are not registered anywhere: none makes the store keep more. A feed keeps the space of
    /// removed files that it has mapped, as a [`Follower`](crate::Follower) does.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Options::new().keep_changes(64 << 20).open(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "retention")]
    #[must_use]
    pub fn keep_changes(mut self, bytes: u64) -> Self {
        self.config.keep_changes = bytes;
        self
    }

    /// Sets a callback that reports the progress of an open, about once per megabyte, on the
    /// opening thread. Default: none.
    ///
    /// If a checkpoint proves damaged halfway, reading starts again, and so do the numbers.
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

    /// Creates the store if there is none, if `true`. Default: `true`.
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

    /// Sets the time for which an open waits while another handle has the store open. Default:
    /// zero.
    ///
    /// After that time the open fails with [`Error::Locked`](crate::Error::Locked). Use this for a
    /// service whose old process is still closing when the new one starts. Of several waiting opens
    /// any may be next. The open looks every 0.5 to 5 ms. With [`Duration::MAX`] it sleeps until the
    /// system gives it the lock, and cannot be interrupted.
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

    /// Opens the store for reading only, if `true`: nothing in its directory changes. Default:
    /// `false`.
    ///
    /// - After a kill, recovery happens in memory only. The store shows what any other open would
    ///   show.
    /// - It takes two pages of memory more than the index, however much there is to recover.
    /// - Read permission is enough, also on a file system that is full or mounted read-only. Access
    ///   times of the files may change.
    /// - A call that would write fails with
    ///   [`Error::OpenedReadOnly`](crate::Error::OpenedReadOnly). So does
    ///   [`flush`](crate::Store::flush) after a kill, if data that the store shows is not known to
    ///   be durable.
    /// - Such a store is never created, has no background thread, and leaves no trace when it is
    ///   closed.
    ///
    /// Any number of processes and handles may open a store for reading at once. While they do, an
    /// open for writing fails with [`Error::Locked`](crate::Error::Locked), and so does the
    /// reverse. A [`Follower`](crate::Follower) reads a store that another process writes to, and
    /// keeps no writer out.
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

    /// Turns an unreadable or unwritable page of the store's files into an error, if `true`.
    /// Default: `true`.
    ///
    /// Without a guard such a page ends the process, because the kernel sends SIGBUS. Its causes
    /// are a failing disk, a file that another program truncated, and a full disk under a file that
    /// shares blocks with a copy. The first store that is opened with this option installs a
    /// handler for the process, which stays. Signals that do not concern a store's files are passed
    /// to the previous handler, or have the default effect.
    ///
    /// With `false` the pages of this store are unguarded. On Linux 5.14 and later,
    /// [`Reader::get_into`](crate::Reader::get_into), [`Store::verify`](crate::Store::verify)
    /// and opening then ask the kernel to read pages before they touch them.
    ///
    /// There is no guard in these cases:
    ///
    /// - on systems other than Linux;
    /// - on a thread that blocks SIGBUS;
    /// - for a system call of another library that is given a borrowed value: the call returns an
    ///   error;
    /// - after another library replaced the handler without calling it.
    ///
    /// Bytes that were returned before their page was lost read as zeros afterwards.
    /// [`Value::check`](crate::Value::check) and [`View::check`](crate::View::check) detect that.
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
}
