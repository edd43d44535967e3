//! The settings of an open store, as every layer reads them. `api/options.rs` has the builder.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mem::PAGE_SIZE;
use crate::sync::worker::Background;

/// The size of the first segment after an open, in bytes. With the small files beside it a store
/// takes 36 KiB.
const SMALLEST_SEGMENT: u64 = 16 << 10;
/// The smallest allowed segment size, in bytes.
pub(crate) const SEGMENT_BYTES_MIN: u64 = PAGE_SIZE as u64;
/// The largest allowed segment size, in bytes.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 32;

/// The failures that an acknowledged write survives.
///
/// The crate's page states the [contract](crate#durability) of each level, and its cost.
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
    /// The operating system has the bytes when the call returns, and their sync starts within
    /// [`Options::sync_interval`](crate::Options::sync_interval).
    Interval,
    /// The bytes are on the disk when the call returns.
    Disk,
}

/// The settings of one store. [`Options`](crate::Options) documents each of them.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) durability: Durability,
    pub(crate) sync_interval: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) max_disk_bytes: Option<u64>,
    pub(crate) verify_reads: bool,
    pub(crate) background: Background,
    pub(crate) compaction: bool,
    pub(crate) compaction_bytes_per_second: Option<u64>,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) keep_changes: u64,
    pub(crate) recovery_progress: Tell,
    pub(crate) create: bool,
    pub(crate) wait_for_lock: Duration,
    pub(crate) read_only: bool,
    pub(crate) sigbus_guard: bool,
}

/// The progress of an open through the log that no index checkpoint covers.
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
    /// The bytes of the log that were read so far.
    pub bytes_read: u64,
    /// The most bytes that there may be to read. After a kill the end of the last segments is
    /// unknown.
    pub bytes_total: u64,
}

/// The callback that an open reports its progress to, if any.
#[derive(Clone, Default)]
pub(crate) struct Tell(pub(crate) Option<Arc<dyn Fn(RecoveryProgress) + Send + Sync>>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tell(_)" } else { "Tell(none)" })
    }
}

impl Tell {
    pub(crate) fn tell(&self, progress: RecoveryProgress) {
        if let Some(tell) = &self.0 {
            tell(progress);
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            durability: Durability::Os,
            sync_interval: Duration::from_millis(100),
            segment_bytes: 64 << 20,
            max_disk_bytes: None,
            verify_reads: false,
            background: Background::from(true),
            compaction: true,
            compaction_bytes_per_second: None,
            checkpoint_bytes: 256 << 20,
            keep_changes: 0,
            recovery_progress: Tell::default(),
            create: true,
            wait_for_lock: Duration::ZERO,
            read_only: false,
            sigbus_guard: true,
        }
    }
}

impl Config {
    /// Returns the size of the smallest segment that is created unless space is short, in bytes.
    pub(crate) fn smallest_segment(&self) -> u64 {
        SMALLEST_SEGMENT.min(self.segment_bytes)
    }

    /// Refuses values that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        let bytes = self.segment_bytes;
        let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
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
