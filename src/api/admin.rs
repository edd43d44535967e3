//! Looking after a store: what it says of itself, its room, its health.

use super::store::Store;
use crate::engine::compaction::report::{CompactionProgress, CompactionReport};
use crate::engine::scrub::VerifyReport;
use crate::engine::stats::Stats;
use crate::error::Result;
use crate::recovery::report::RecoveryReport;

impl Store {
    /// Returns what the store says of itself.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// store.insert("a", "2")?;
    /// let stats = store.stats();
    /// assert_eq!(stats.keys, 1);
    /// assert!(stats.dead_bytes > 0, "the first value");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Returns the bytes that the store's files take on the disk.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// assert!(store.size_on_disk()? <= 32 << 10, "an empty store is small");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io`.
    #[doc(alias = "real_disk_size")]
    #[doc(alias = "disk_space")]
    pub fn size_on_disk(&self) -> Result<u64> {
        self.engine().size_on_disk()
    }

    /// Rewrites what is alive, and gives back the room of what was overwritten and removed. The background does so by
    /// itself when there is enough of it; this does all there is, and returns what it did.
    ///
    /// Reads and writes go on meanwhile. Everything written before is made durable first. Removed and overwritten bytes
    /// are in no file of the store when it returns, except for what was overwritten while it ran, and what damage
    /// stopped it from reading; files that held them are removed, not overwritten. While a pass runs its output takes
    /// at most [`Options::segment_bytes`](crate::Options::segment_bytes), or one larger record, more.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// store.remove("a")?;
    /// let report = store.compact()?;
    /// assert_eq!(report.segments_removed, 1);
    /// assert_eq!(store.compact()?.passes, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt` where a record that is to be moved does not verify: its segment is left as it is; `NoSpace` where there is
    /// no room for the output; `Io`, `Poisoned`, `Closed`, `Forked`. What was done before an error stays done.
    #[doc(alias = "compact_range")]
    #[doc(alias = "major_compact")]
    #[doc(alias = "merge")]
    #[doc(alias = "vacuum")]
    pub fn compact(&self) -> Result<CompactionReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.compactor.compact(engine, |_| true)
    }

    /// As [`compact`](Store::compact), telling `progress` how far it is, a few times per megabyte. It ends early, at the
    /// next moment at which that leaves nothing half done, once `progress` returns false.
    ///
    /// `progress` may call whatever it likes, also [`compact`](Store::compact) and [`close`](Store::close): no lock is held
    /// meanwhile, and what is under way may have been ended by such a call. Where the files have grown beyond their bound,
    /// each 64 KiB that it writes take some milliseconds.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// store.insert("a", "2")?;
    /// store.compact_with(|progress| {
    ///     println!("{} bytes to go in this pass", progress.bytes_left);
    ///     true
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`compact`](Store::compact).
    pub fn compact_with(&self, progress: impl FnMut(CompactionProgress) -> bool) -> Result<CompactionReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.compactor.compact(engine, progress)
    }

    /// Compacts exactly these segments in one pass, as far as they are sealed; for tests of what no policy chooses.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let store = Options::new().background(false).open_on(&SimDisk::new())?;
    /// store.insert("a", "1")?;
    /// let report = store.compact_segments(&[1, 2, 3], |_| true)?;
    /// assert_eq!(report.passes, 0, "none of them is sealed");
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`compact`](Store::compact).
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn compact_segments(
        &self,
        segments: &[u64],
        progress: impl FnMut(CompactionProgress) -> bool,
    ) -> Result<CompactionReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.compactor.compact_segments(engine, segments, progress)
    }

    /// Makes an image of the indexes now, whatever was written since the last one; false where that is not possible at this
    /// moment, because a pass of compaction is under way.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// let seq = store.insert("a", "1")?;
    /// assert!(store.take_checkpoint()?);
    /// store.close()?;
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// assert_eq!(store.recovery_report().checkpoint_seq, Some(seq.0));
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Poisoned`, and what stopped it.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn take_checkpoint(&self) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.engine().fork_guard.check()?;
        let engine = self.engine();
        engine.checkpointer.take_now(engine, &engine.compactor)
    }

    /// Reads everything and compares it with its checksums, beside readers and writers.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let report = store.verify()?;
    /// assert_eq!(report.keys, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt` with the first damage; `Io`, `Closed`, `Forked`.
    #[doc(alias = "check_integrity")]
    #[doc(alias = "verify_checksum")]
    pub fn verify(&self) -> Result<VerifyReport> {
        let _events = crate::trace::at_end();
        self.engine().verify()
    }

    /// Returns what opening the store found and did.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// let store = mapcask::Store::open(&path)?;
    /// assert!(store.recovery_report().created);
    /// store.close()?;
    /// let store = mapcask::Store::open(&path)?;
    /// assert!(store.recovery_report().clean);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.engine().report
    }
}
