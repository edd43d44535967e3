//! Reads of many keys with overlapping loads, prefetch hints, and reads that do not wait for the
//! disk.
//!
//! The seqlock (`sync::seqlock`) makes the reads of many keys one point in the order of writes.

use crate::engine::read::Value;
use crate::engine::state::State;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::engine::state::hinted_records::waiting_part;
use crate::error::{Error, Result};
use crate::index::key_index::SearchKey;
use crate::mem::address_space::Record;
use crate::mem::alloc;
use crate::sync::epoch::Pin;

/// The number of keys in flight at once: about as many loads as a core keeps in flight.
pub(crate) const WINDOW: usize = 16;
/// The number of attempts to read many keys between two writes, before the writers' lock is taken.
pub(super) const ATTEMPTS: usize = 3;

/// The result of a read that does not wait for the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryGet {
    /// The value; `None` if the key is absent.
    Ready(Option<Value>),
    /// Reading it would wait for the disk. The kernel was asked to read it.
    NotResident,
}

/// A read of many keys of one keyspace, as of one point in the order of writes.
struct MultiGet<'p, F> {
    state: &'p State,
    keyspace: &'p KeyspaceState,
    pin: &'p Pin,
    /// Makes the result for a record.
    give: F,
}

/// The outcome of an attempt to read between two writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Done,
    /// A write took effect meanwhile.
    Overlapped,
}

impl<'p, T, F: Fn(Record<'p>) -> T> MultiGet<'p, F> {
    /// Appends the results for `keys` to `out`, which has the space. On an error `out` is unchanged.
    fn read(&self, keys: &[impl AsRef<[u8]>], out: &mut Vec<Option<T>>) -> Result<()> {
        let state = self.state;
        let len = out.len();
        for _ in 0..ATTEMPTS {
            let start = state.seqlock.now();
            let one_moment = || state.seqlock.is_unchanged_since(start);
            match self.read_all(keys, out, one_moment)? {
                Attempt::Done => return Ok(()),
                Attempt::Overlapped => out.truncate(len),
            }
        }
        // Writers leave no gap. The caller's `AsRef` code does not run under their lock.
        let mut all: Vec<&[u8]> = Vec::new();
        state.room_for(&mut all, keys.len())?;
        all.extend(keys.iter().map(AsRef::as_ref));
        let _quiet = state.writer.lock();
        self.read_all(&all, out, || true).map(drop)
    }

    /// Reads the keys, as long as `one_moment` holds. On an error `out` is unchanged.
    fn read_all(
        &self,
        keys: &[impl AsRef<[u8]>],
        out: &mut Vec<Option<T>>,
        one_moment: impl Fn() -> bool,
    ) -> Result<Attempt> {
        let start = out.len();
        let contents = self.state.contents(self.keyspace, self.pin)?;
        for window in keys.chunks(WINDOW) {
            if let Err(error) = self.read_window(contents, window, out) {
                out.truncate(start);
                return Err(error);
            }
            if !one_moment() {
                return Ok(Attempt::Overlapped);
            }
        }
        Ok(Attempt::Done)
    }

    fn read_window(
        &self,
        contents: &KeyspaceData,
        keys: &[impl AsRef<[u8]>],
        out: &mut Vec<Option<T>>,
    ) -> Result<()> {
        let state = self.state;
        let window = state.prefetch_window(contents, keys);
        for key in window.into_iter().flatten() {
            let record = state.lookup(contents, key, self.pin)?;
            if let (true, Some(record)) = (state.config.verify_reads, &record) {
                state.check_record(record)?;
            }
            if let Some(record) = &record {
                record.prefetch_rest();
            }
            out.push(record.map(&self.give));
        }
        Ok(())
    }
}

impl State {
    /// Appends the results of `give` for the records of many keys, as of one point in the order of
    /// writes.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::multi_get`](crate::Reader::multi_get) does; `out` is then unchanged.
    pub(crate) fn get_many<'p, T>(
        &'p self,
        keyspace: &'p KeyspaceState,
        keys: &[impl AsRef<[u8]>],
        pin: &'p Pin,
        out: &mut Vec<Option<T>>,
        give: impl Fn(Record<'p>) -> T,
    ) -> Result<()> {
        self.fork_guard.check()?;
        let len = out.len();
        self.room_for(out, keys.len())?;
        let read = MultiGet { state: self, keyspace, pin, give };
        loop {
            match read.read(keys, out) {
                Err(error) if waiting_part(&error).is_some() => {
                    self.complete_parts_of(keys.iter().map(|key| self.hash_of(key.as_ref())))?;
                    out.truncate(len);
                }
                Err(error) if self.rebuild_if_damaged(&error)? => out.truncate(len),
                other => return other,
            }
        }
    }

    /// Reserves space in `out` for `count` more elements.
    ///
    /// # Errors
    ///
    /// If memory is short.
    pub(crate) fn room_for<T>(&self, out: &mut Vec<T>, count: usize) -> Result<()> {
        alloc::reserve(out, count)
            .map_err(|error| Error::io("read many keys of", self.shared.dir.path(), error))
    }

    /// Starts the loads of up to [`WINDOW`] keys: first those of their buckets, then of overflow
    /// lines, then of their records.
    #[inline]
    fn prefetch_window<'k>(
        &self,
        contents: &KeyspaceData,
        keys: &'k [impl AsRef<[u8]>],
    ) -> [Option<SearchKey<'k>>; WINDOW] {
        let window: [Option<SearchKey<'k>>; WINDOW] = std::array::from_fn(|n| {
            let key = self.search_key(keys.get(n)?.as_ref());
            contents.index.prefetch_many(key);
            Some(key)
        });
        for key in window.iter().flatten() {
            contents.index.prefetch_next(*key);
        }
        for key in window.iter().flatten() {
            self.prefetch_records(contents, *key);
        }
        window
    }

    /// Appends owned values of many keys, as of one point in the order of writes.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::multi_get`](crate::Reader::multi_get) does.
    pub(crate) fn get_many_values(
        &self,
        keyspace: &KeyspaceState,
        keys: &[impl AsRef<[u8]>],
        out: &mut Vec<Option<Value>>,
    ) -> Result<()> {
        let pin = self.pin();
        self.room_for(out, keys.len())?;
        let mut records = Vec::new();
        self.get_many(keyspace, keys, &pin, &mut records, |record| record)?;
        // References are counted once, not at every attempt.
        out.extend(records.into_iter().map(|record| record.map(|record| Value::of(&record))));
        Ok(())
    }

    /// Starts to load the memory that gets of these keys will touch; waits for nothing.
    pub(crate) fn prefetch(&self, keyspace: &KeyspaceState, keys: &[impl AsRef<[u8]>]) {
        if self.fork_guard.check().is_err() {
            return;
        }
        let pin = self.pin();
        let Some(contents) = keyspace.contents(&pin) else { return };
        for window in keys.chunks(WINDOW) {
            self.prefetch_window(contents, window);
        }
    }

    /// Reads a key unless that would wait for the disk.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::try_get`](crate::Reader::try_get) does.
    pub(crate) fn try_get(&self, keyspace: &KeyspaceState, key: &[u8]) -> Result<TryGet> {
        self.fork_guard.check()?;
        loop {
            match self.is_near(keyspace, key) {
                Ok(true) => return self.get_value(keyspace, key).map(TryGet::Ready),
                Ok(false) => return Ok(TryGet::NotResident),
                Err(error) if self.rebuild_if_damaged(&error)? => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns `true` if every record that a get may compare is in memory.
    fn is_near(&self, keyspace: &KeyspaceState, key: &[u8]) -> Result<bool> {
        let pin = self.pin();
        let contents = self.contents(keyspace, &pin)?;
        let mut absent = false;
        contents.index.visit_candidates(self.search_key(key), |location| {
            let resident = self.shared.space.bring_near(location, &pin, !self.notifier.has_no_worker());
            absent |= !resident.map_err(|error| Error::io("ask about", self.shared.dir.path(), error))?;
            Ok::<(), Error>(())
        })?;
        Ok(!absent)
    }
}
