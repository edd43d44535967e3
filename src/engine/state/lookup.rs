//! The lookup: from a key to its record through an index, verified on first use.
//!
//! [`Lookup`] finds the record of a key. Three searches differ, and stand where they are needed. A
//! pass finds the entry of a value by its location. A prefetch wants every entry of a hash. A bulk
//! load compares two records of the log, and inserts one.

use std::cmp::Ordering;
use std::sync::Arc;

use super::State;
use crate::engine::state::catalog::KeyspaceData;
use crate::engine::state::visibility::Prior;
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::format::{Defect, KeyspaceId, Seq};
use crate::index::key_index::{KeyIndex, SearchKey};
use crate::index::key_search::{KeyCompare, KeySearch};
use crate::index::lines::block_error::BlockError;
use crate::index::tree::EntryPlace;
use crate::mem::address_space::Record;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The search for the record of one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: SearchKey<'a>,
}

/// The record of a key, and its location in the index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundRecord<'p> {
    pub(crate) location: Location,
    pub(crate) record: Record<'p>,
    /// True if the search has met the mark that the record was verified since this open.
    pub(crate) is_verified: bool,
}

impl Lookup<'_> {
    /// Returns the record of the key that an index leads to, a tombstone included. The caller
    /// decides if a reader may see it.
    ///
    /// Another record with the tag of a hash index is verified. It is hardly ever a coincidence: the
    /// record may be the key's own, and damaged. In a tree, the records next to the place where the key is
    /// missing are verified, if they were compared.
    ///
    /// # Errors
    ///
    /// The errors of [`State::record`], and `Corrupt` for another record.
    #[inline]
    pub(crate) fn find<'p>(
        self,
        state: &'p State,
        index: &impl KeySearch,
        pin: &'p Pin,
    ) -> Result<Option<FoundRecord<'p>>> {
        self.find_with(state, index, pin, move |other| state.check_record(other))
    }

    /// Returns the record of the key like [`Lookup::find`], with less verified: another record only
    /// if a page of it may be unreadable. A damaged record of the key counts as absent.
    ///
    /// # Errors
    ///
    /// The errors of [`State::record`].
    pub(crate) fn find_readable<'p>(
        self,
        state: &'p State,
        index: &impl KeySearch,
        pin: &'p Pin,
    ) -> Result<Option<FoundRecord<'p>>> {
        self.find_with(state, index, pin, move |other| state.check_replaced(other))
    }

    /// Returns the record of the key. Another record with the tag goes through `check_other`.
    #[inline]
    fn find_with<'p>(
        self,
        state: &'p State,
        index: &impl KeySearch,
        pin: &'p Pin,
        check_other: impl Fn(&Record<'p>) -> Result<()>,
    ) -> Result<Option<FoundRecord<'p>>> {
        let Self { keyspace, key } = self;
        let compare =
            Comparison { state, pin, keyspace, key: key.bytes, check_other, hit: None, is_verified: false };
        let Some((location, found)) = index.find(key, compare)? else { return Ok(None) };
        let Some(record) = found.hit else { return Ok(None) };
        state.check_replaced(&record)?;
        Ok(Some(FoundRecord { location, record, is_verified: found.is_verified }))
    }
}

/// The comparison of a key with those in records of the log.
struct Comparison<'a, 'p, C> {
    state: &'p State,
    pin: &'p Pin,
    keyspace: KeyspaceId,
    key: &'a [u8],
    check_other: C,
    /// The record of the key.
    hit: Option<Record<'p>>,
    /// True if a tree says that it was verified.
    is_verified: bool,
}

impl<'p, C: Fn(&Record<'p>) -> Result<()>> KeyCompare<Error> for Comparison<'_, 'p, C> {
    #[inline]
    fn is_key(&mut self, location: Location) -> Result<bool> {
        let record = self.state.record_as_it_is(location, self.pin)?;
        if record.is_of(self.keyspace, self.key) {
            self.hit = Some(record);
            return Ok(true);
        }
        (self.check_other)(&record)?;
        Ok(false)
    }

    fn order(&mut self, (location, is_verified): EntryPlace) -> Result<Ordering> {
        let record = self.state.record_as_it_is(location, self.pin)?;
        let order = record.key().cmp(self.key);
        // Zeros in place of an unreadable page may have any order.
        self.state.check_replaced(&record)?;
        if record.header().keyspace != self.keyspace {
            return Err(self.state.damage_of(&record, Defect::IndexMismatch));
        }
        if order.is_eq() {
            (self.hit, self.is_verified) = (Some(record), is_verified);
        }
        Ok(order)
    }

    fn check_beside(&mut self, location: Location) -> Result<()> {
        let record = self.state.record_as_it_is(location, self.pin)?;
        (self.check_other)(&record)
    }
}

impl State {
    /// Returns the newest visible record of a key.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the index leads to bytes that are no longer the written ones.
    #[inline]
    pub(crate) fn lookup<'p>(
        &'p self,
        contents: &KeyspaceData,
        key: SearchKey<'_>,
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        loop {
            let lookup = Lookup { keyspace: contents.id, key };
            let found = lookup.find(self, &contents.index, pin)?;
            let Some(FoundRecord { location, record, is_verified }) = found else { return Ok(None) };
            if self.visibility.is_visible(record.seq()) {
                // A removal whose batch has just ended, or a value whose header is damaged.
                if !record.is_put() {
                    self.check_record(&record)?;
                }
                if !is_verified {
                    self.check_first(&contents.index, key, location, &record)?;
                }
                return Ok(record.is_put().then_some(record));
            }
            match self.visibility.before(location, pin) {
                Some(Prior::Absent) => return Ok(None),
                Some(Prior::At(location)) => {
                    let record = self.record(location, pin)?;
                    self.check_former(&contents.index, &record)?;
                    return Ok(Some(record));
                }
                // No batch has such a number: the header is damaged.
                None if record.seq() > Seq::MAX => {
                    return Err(self.damage_of(&record, Defect::HeaderChecksum));
                }
                // The batch ended meanwhile.
                None => std::hint::spin_loop(),
            }
        }
    }

    /// Returns the record at a location from the index.
    ///
    /// # Errors
    ///
    /// - `Corrupt` if its lengths lead out of the published bytes.
    /// - `Io` if one of its pages cannot be read.
    /// - `MissingSegment`, `Corrupt` or an error of the operating system if its segment is opened
    ///   now, and has changed.
    #[inline]
    pub(crate) fn record<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        let record = self.record_as_it_is(location, pin)?;
        self.check_replaced(&record)?;
        Ok(record)
    }

    /// Returns a record like [`State::record`]. The caller calls [`State::check_replaced`] after
    /// reading from it.
    ///
    /// # Errors
    ///
    /// The errors of [`State::record`], except for unreadable pages.
    #[inline]
    pub(crate) fn record_as_it_is<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        match self.shared.space.record(location, pin) {
            Some(record) => Ok(record),
            None => self.record_again(location, pin),
        }
    }

    /// Returns the record at a location where a first attempt found none, or usually the reason why
    /// there is none.
    #[cold]
    fn record_again<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        let found = self.shared.space.find(location, pin)?;
        found.ok_or_else(|| self.damage(location, Defect::LengthOutOfRange))
    }

    /// Returns the record that an entry of the index shows to readers now, if any. `is_verified` says that
    /// the record is known to be verified since this open.
    #[inline]
    pub(crate) fn visible<'p>(
        &'p self,
        contents: &KeyspaceData,
        (location, is_verified): (Location, bool),
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        let record = self.record(location, pin)?;
        if self.visibility.is_visible(record.seq()) {
            if !record.is_put() {
                self.check_record(&record)?;
            }
            if !is_verified && contents.index.is_from_checkpoint() {
                self.check_first(&contents.index, self.search_key(record.key()), location, &record)?;
            }
            self.check_replaced(&record)?;
            return Ok(record.is_put().then_some(record));
        }
        self.visible_before(contents, location, &record, pin)
    }

    /// Returns the record that an entry of a batch in progress hides, if any.
    #[cold]
    fn visible_before<'p>(
        &'p self,
        contents: &KeyspaceData,
        location: Location,
        record: &Record<'p>,
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        match self.visibility.before(location, pin) {
            Some(Prior::Absent) => Ok(None),
            Some(Prior::At(location)) => {
                let record = self.record(location, pin)?;
                self.check_former(&contents.index, &record)?;
                Ok(Some(record))
            }
            // The batch ended meanwhile, so look up the key's present record.
            None => self.lookup(contents, self.search_key(record.key()), pin),
        }
    }

    /// Prefetches the records that the key may have now.
    #[inline]
    pub(crate) fn prefetch_records(&self, contents: &KeyspaceData, key: SearchKey<'_>) {
        self.prefetch_index(&contents.index, key);
    }

    /// Prefetches the records that an index may lead to.
    #[inline]
    pub(crate) fn prefetch_index(&self, index: &KeyIndex, key: SearchKey<'_>) {
        // A line that cannot be read is an error of the search that follows.
        drop(index.visit_candidates(key, |location| {
            self.shared.space.prefetch(location);
            Ok::<(), BlockError>(())
        }));
    }

    /// Returns the keyed hash of a key.
    #[inline]
    pub(crate) fn hash_of(&self, key: &[u8]) -> Hash {
        self.hash_key.hash(key)
    }

    /// Returns a key with its keyed hash.
    #[inline]
    pub(crate) fn search_key<'k>(&self, key: &'k [u8]) -> SearchKey<'k> {
        SearchKey { bytes: key, hash: self.hash_key.hash(key) }
    }

    /// Returns the key in the record at a location of an index, if it can be read. The record is verified
    /// unless `is_verified` says that it was.
    pub(crate) fn key_at<'p>(
        &'p self,
        location: Location,
        is_verified: bool,
        pin: &'p Pin,
    ) -> Option<&'p [u8]> {
        let record = self.record_as_it_is(location, pin).ok()?;
        let key = record.key();
        self.check_key(&record, is_verified).ok().map(|()| key)
    }

    /// Verifies a record whose key decides about another one, unless `is_verified` says that it was.
    #[inline]
    fn check_key(&self, record: &Record<'_>, is_verified: bool) -> Result<()> {
        if is_verified { self.check_replaced(record) } else { self.check_record(record) }
    }

    /// Returns true if the key in the record at a location of an index is before another one. The record
    /// is verified unless `is_verified` says that it was.
    ///
    /// # Errors
    ///
    /// The errors of [`State::record`], and `Corrupt`.
    pub(crate) fn is_before(
        &self,
        (location, is_verified): (Location, bool),
        other: &[u8],
        pin: &Pin,
    ) -> Result<bool> {
        let record = self.record_as_it_is(location, pin)?;
        let is_before = record.key() < other;
        self.check_key(&record, is_verified).map(|()| is_before)
    }

    /// Verifies a record against both of its checksums.
    ///
    /// It runs if every read is verified, or if a record has the right tag but another key, which
    /// is hardly ever a coincidence. The header is verified too: with another kind or keyspace, a
    /// value would count as absent.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    #[cold]
    pub(crate) fn check_record(&self, record: &Record<'_>) -> Result<()> {
        record.verify().map_err(|defect| self.damage_of(record, defect))
    }

    /// Verifies a record that the index leads to, unless that was done since this open.
    ///
    /// If the index came from a checkpoint, nothing has read the record yet.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    #[inline]
    pub(crate) fn check_first(
        &self,
        index: &KeyIndex,
        key: SearchKey<'_>,
        location: Location,
        record: &Record<'_>,
    ) -> Result<()> {
        if index.is_from_checkpoint() {
            self.check_unless_verified(index, key, location, record)
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    fn check_unless_verified(
        &self,
        index: &KeyIndex,
        key: SearchKey<'_>,
        location: Location,
        record: &Record<'_>,
    ) -> Result<()> {
        if index.is_verified(key, location) {
            return Ok(());
        }
        self.check_record(record)?;
        index.set_verified(key, location);
        Ok(())
    }

    /// Verifies a record if an unreadable page of its mapping was replaced.
    ///
    /// Called after reading from the record, so that zeros are not taken for its bytes.
    ///
    /// # Errors
    ///
    /// `Io` or `Corrupt`.
    #[inline]
    pub(crate) fn check_replaced(&self, record: &Record<'_>) -> Result<()> {
        if record.is_replaced() { self.check_record(record) } else { Ok(()) }
    }

    /// Verifies a record like [`State::check_first`], if the index no longer leads to it.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    pub(crate) fn check_former(&self, index: &KeyIndex, record: &Record<'_>) -> Result<()> {
        if index.is_from_checkpoint() { self.check_record(record) } else { Ok(()) }
    }

    /// Verifies the header of a record, on which its lengths depend.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    pub(crate) fn check_header(&self, record: &Record<'_>) -> Result<()> {
        record.verify_header().map_err(|defect| self.damage_of(record, defect))
    }

    /// Returns an error with the file and the offset of a record that does not verify.
    #[cold]
    pub(crate) fn damage_of(&self, record: &Record<'_>, defect: Defect) -> Error {
        let (mapping, offset) = record.place();
        if let Some(unreadable) = record.unreadable() {
            crate::trace::page_unreadable(&unreadable);
            return unreadable;
        }
        let segments = self.shared.segments.read();
        let found = segments.values().find(|segment| std::ptr::eq(Arc::as_ptr(segment.mapping()), mapping));
        let path = found.map_or_else(|| self.shared.dir.path().to_owned(), |segment| segment.path().clone());
        Error::Corrupt { path, offset: offset as u64, defect }
    }

    /// Returns an error with the file and the offset of damage.
    #[cold]
    pub(crate) fn damage(&self, location: Location, defect: Defect) -> Error {
        let segments = self.shared.segments.read();
        let found =
            segments.values().find_map(|segment| Some((segment, segment.range().offset_of(location)?)));
        match found {
            Some((segment, offset)) => Error::Corrupt { path: segment.path().clone(), offset, defect },
            None => Error::Corrupt { path: self.shared.dir.path().to_owned(), offset: 0, defect },
        }
    }
}
