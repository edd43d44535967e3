//! Administration of a store: statistics, compaction, verification, and the recovery report.

use super::store::Store;
use crate::engine::compaction::report::{CompactionProgress, CompactionReport};
use crate::engine::scrub::VerifyReport;
use crate::engine::stats::Stats;
use crate::error::Result;
use crate::recovery::report::RecoveryReport;

impl Store {
    /// Returns a snapshot of the store's counters.
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

    /// Returns the size of the store's files on the disk, in bytes.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// assert!(store.size_on_disk()? <= 36 << 10, "an empty store is small");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` if the file system cannot be asked.
    #[doc(alias = "real_disk_size")]
    #[doc(alias = "disk_space")]
    pub fn size_on_disk(&self) -> Result<u64> {
        self.engine().size_on_disk()
    }

    /// Compacts the whole store: rewrites live records and frees the space of overwritten and
    /// removed ones.
    ///
    /// The background compacts by itself once enough space can be freed; this frees all of it.
    /// Reads and writes go on meanwhile. Every earlier write is made durable first.
    ///
    /// When this returns, overwritten and removed bytes are in no file of the store. Exceptions are
    /// bytes overwritten while it ran, and segments that damage kept it from reading. Files that
    /// held such bytes are unlinked, not overwritten. During a pass the output takes up to
    /// [`Options::segment_bytes`](crate::Options::segment_bytes) more, or one larger record.
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
    /// `Corrupt` if a record to be copied fails verification: its segment is left as it is.
    /// `NoSpace` if there is no space for the output. `Io`, `Poisoned`, `Closed`, `Forked`. Passes
    /// that were completed before an error are kept.
    #[doc(alias = "compact_range")]
    #[doc(alias = "major_compact")]
    #[doc(alias = "merge")]
    #[doc(alias = "vacuum")]
    pub fn compact(&self) -> Result<CompactionReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.compactor.compact(engine, |_| true)
    }

    /// Compacts the whole store, and reports to `progress` a few times per megabyte.
    ///
    /// Return `false` from `progress` to stop at the next safe point. `progress` may call any
    /// method of the store, [`compact`](Store::compact) and [`close`](Store::close) included: no
    /// lock is held, and such a call may end the running pass. While the files exceed their
    /// [bound](crate#space), a `progress` that writes is slowed by some milliseconds per 64 KiB.
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
    /// Fails as [`compact`](Store::compact) does.
    pub fn compact_with(&self, progress: impl FnMut(CompactionProgress) -> bool) -> Result<CompactionReport> {
        let _events = crate::trace::at_end();
        let engine = self.engine();
        engine.compactor.compact(engine, progress)
    }

    /// Compacts those of these segments that are sealed, in one pass. For tests of choices that no
    /// policy makes.
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
    /// Fails as [`compact`](Store::compact) does.
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

    /// Writes an index checkpoint now, however little was written since the last one.
    ///
    /// Returns `false` if a compaction pass is under way, which rules a checkpoint out.
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
    /// `Poisoned`, or the error that stopped it.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn take_checkpoint(&self) -> Result<bool> {
        let _events = crate::trace::at_end();
        self.engine().fork_guard.check()?;
        let engine = self.engine();
        engine.checkpointer.take_now(engine, &engine.compactor)
    }

    /// Returns the number of parts of the index that hints stand for and that are not complete yet, and
    /// the number that were completed since the store was opened.
    ///
    /// ```
    /// use mapcask::Options;
    /// use mapcask::sim::SimDisk;
    ///
    /// let disk = SimDisk::new();
    /// disk.set_hint_chunk(Some(4096));
    /// let store = Options::new().background(false).open_on(&disk)?;
    /// for n in 0..200u32 {
    ///     store.insert(n.to_le_bytes(), "a value")?;
    /// }
    /// while store.step()? {}
    /// let store = Options::new().background(false).open_on(&disk.kill())?;
    /// assert!(store.recovery_report().hinted_bytes > 0);
    /// let (waiting, completed) = store.index_parts();
    /// assert!(waiting > 0 && completed == 0);
    /// assert!(store.contains_key(7u32.to_le_bytes())?);
    /// assert_eq!(store.index_parts(), (waiting - 1, 1));
    /// # Ok::<(), mapcask::Error>(())
    /// ```
    #[must_use]
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn index_parts(&self) -> (usize, u64) {
        if self.engine().fork_guard.is_forked() {
            return (0, 0);
        }
        let hinted = &self.engine().hinted;
        (hinted.waiting(), hinted.applied())
    }

    /// Reads everything and compares it with its checksums, while readers and writers go on.
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
    /// `Corrupt` with the first damage found; `Io`, `Closed`, `Forked`.
    #[doc(alias = "check_integrity")]
    #[doc(alias = "verify_checksum")]
    pub fn verify(&self) -> Result<VerifyReport> {
        let _events = crate::trace::at_end();
        self.engine().verify()
    }

    /// Returns the report of the open: what it found and did.
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
