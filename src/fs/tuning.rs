//! The thresholds of recovery and of hints, injected with the directory.

/// Thresholds of recovery, in records unless stated otherwise. Work below some of them is not
/// divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Records that are collected before they are put into the indexes: 4 MiB, and as much again
    /// while they are sorted.
    pub(crate) gathered: usize,
    /// Records that may be read ahead before readers wait, approximately: 32 MiB.
    pub(crate) read_ahead: u64,
    /// The number of records from which a second thread pays.
    pub(crate) few: usize,
    /// Overflow lines of an index that a thread takes at once.
    pub(crate) lines_at_once: u64,
    /// Buckets of an index that a thread splits before it asks for more.
    pub(crate) splits_at_once: u64,
    /// Bytes of preallocated segments that a close keeps, however small the store is.
    pub(crate) unused_at_close: u64,
    /// Bytes of the log that one chunk of hints describes. `None` if no hints are written.
    pub(crate) hint_chunk: Option<u64>,
}

impl Tuning {
    /// The thresholds of every store on a real file system.
    pub(crate) const REAL: Self = Self {
        gathered: 1 << 18,
        read_ahead: 2 << 20,
        few: 1 << 13,
        lines_at_once: 64,
        splits_at_once: 512,
        unused_at_close: 1 << 20,
        hint_chunk: Some(2 << 20),
    };
    /// The thresholds on a simulated disk, where a few hundred records must reach all paths that
    /// millions reach on a real one. A test asks for hints, because each file of hints adds states
    /// after a power cut.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) const SIMULATED: Self = Self {
        gathered: 1 << 12,
        read_ahead: 4 << 10,
        few: 1 << 8,
        lines_at_once: 3,
        splits_at_once: 4,
        unused_at_close: 4096,
        hint_chunk: None,
    };
}
