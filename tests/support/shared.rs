//! The memory that a writing process shares with its parent: the operations it has begun and
//! acknowledged.
//!
//! Both map a file, so that a record costs only a store to memory and outlives the process. The
//! file lies outside of the store. In the power-cut suite it also lies outside of the file system
//! that is cut.

#![expect(unsafe_code, reason = "atomics in memory that two processes share")]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use mapcask::Durability;
use memmap2::{MmapOptions, MmapRaw};

use super::history::{Begun, RunRecord, THREADS};

/// The greatest number of one thread's operations in one run.
pub(crate) const OPERATIONS_MAX: usize = 20_000;

const PHASE: usize = 0;
const CUT: usize = 1;
const SEED: usize = 2;
const RUN: usize = 3;
const DURABILITY: usize = 4;
/// For each thread, the numbers of operations begun and acknowledged. Threads are a cache line
/// apart.
const COUNTS: usize = 8;
/// For each thread and operation, the numbers acknowledged by all threads when it began, and a flag
/// for durability.
const BEGUN: usize = COUNTS + THREADS * 8;
const BEGUN_WORDS: usize = THREADS + 1;
const WORDS: usize = BEGUN + THREADS * OPERATIONS_MAX * BEGUN_WORDS;

const LEVELS: [Durability; 3] = [Durability::Os, Durability::Interval, Durability::Disk];

/// The progress of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Starting,
    Opening,
    /// It has reported the contents it found, and writes.
    Writing,
}

/// The shared memory.
#[derive(Debug)]
pub(crate) struct Shared {
    map: MmapRaw,
}

impl Shared {
    /// Creates the memory for one run.
    pub(crate) fn create(path: &Path, seed: u64, run: u32, durability: Durability) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.expect("the folder is writable");
        file.set_len(WORDS as u64 * 8).expect("a sparse file");
        let shared = Self { map: MmapOptions::new().map_raw(&file).expect("a mapping") };
        let level = LEVELS.iter().position(|level| *level == durability).expect("all levels are listed");
        shared.set(SEED, seed);
        shared.set(RUN, u64::from(run));
        shared.set(DURABILITY, level as u64);
        shared
    }

    /// Opens the memory in the writing process.
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).expect("the parent made it");
        let map = MmapOptions::new().len(WORDS * 8).map_raw(&file).expect("a mapping");
        Self { map }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: the index was just checked, so the pointer stays in the mapping.
        let pointer = unsafe { self.map.as_mut_ptr().cast::<u64>().add(index) };
        // SAFETY: the mapping is aligned to a page, lives as long as `self`, and is accessed as
        // atomics only, by both processes.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    // SeqCst throughout: both processes must agree on the order of different words, and speed does
    // not matter.

    fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    fn begun_at(thread: usize, number: usize) -> usize {
        BEGUN + (thread * OPERATIONS_MAX + number - 1) * BEGUN_WORDS
    }

    /// Returns the progress of the process.
    pub(crate) fn phase(&self) -> Phase {
        [Phase::Starting, Phase::Opening, Phase::Writing][usize::try_from(self.get(PHASE)).unwrap_or(0)]
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.set(PHASE, phase as u64);
    }

    /// Tells the process to expect errors from now on.
    pub(crate) fn announce_cut(&self) {
        self.set(CUT, 1);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.get(CUT) != 0
    }

    pub(crate) fn seed(&self) -> u64 {
        self.get(SEED)
    }

    pub(crate) fn run(&self) -> u32 {
        u32::try_from(self.get(RUN)).expect("it was one")
    }

    pub(crate) fn durability(&self) -> Durability {
        LEVELS[usize::try_from(self.get(DURABILITY)).expect("a small number")]
    }

    /// Records that a thread begins its operation `number`, which counts from one.
    pub(crate) fn begin(&self, thread: usize, number: usize) {
        let at = Self::begun_at(thread, number);
        for other in 0..THREADS {
            self.set(at + other, self.get(COUNTS + other * 8 + 1));
        }
        self.set(COUNTS + thread * 8, number as u64);
    }

    /// Records that a thread's operation has returned. `covers` is true if everything acknowledged
    /// before it is durable.
    pub(crate) fn acknowledge(&self, thread: usize, number: usize, covers: bool) {
        self.set(Self::begun_at(thread, number) + THREADS, u64::from(covers));
        self.set(COUNTS + thread * 8 + 1, number as u64);
    }

    /// Returns the number of operations acknowledged by all threads.
    pub(crate) fn acknowledged(&self) -> u64 {
        (0..THREADS).map(|thread| self.get(COUNTS + thread * 8 + 1)).sum()
    }

    /// Returns the operations of the run, once the process is dead.
    pub(crate) fn record(&self, run: u32) -> RunRecord {
        let number = |index| usize::try_from(self.get(index)).expect("a small number");
        let begun = |thread, n| {
            let at = Self::begun_at(thread, n);
            let seen = std::array::from_fn(|other| number(at + other));
            Begun { seen, covers: self.get(at + THREADS) != 0 }
        };
        RunRecord {
            run,
            begun: std::array::from_fn(|thread| {
                (1..=number(COUNTS + thread * 8)).map(|n| begun(thread, n)).collect()
            }),
            acknowledged: std::array::from_fn(|thread| number(COUNTS + thread * 8 + 1)),
        }
    }
}
