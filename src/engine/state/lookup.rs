//! The lookup: from a key to its visible record, verified where that was not done before.

use std::sync::Arc;

use super::State;
use crate::engine::state::catalog::KeyspaceData;
use crate::engine::state::visibility::Prior;
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::format::record::{RecordPlace, payload_sum};
use crate::format::{Defect, Seq};
use crate::index::hash::Index;
use crate::index::hash::lazy::BlockError;
use crate::mem::address_space::Record;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

impl State {
    /// The newest visible record of a key.
    ///
    /// # Errors
    ///
    /// `Corrupt` where the index leads to bytes that are no longer what was written.
    #[inline]
    pub(crate) fn lookup<'p>(
        &'p self,
        contents: &KeyspaceData,
        hash: Hash,
        key: &[u8],
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        loop {
            let mut hit = None;
            let found = contents.index.find(hash, |location| {
                let record = self.record_as_it_is(location, pin)?;
                if record.is_of(contents.id, key) {
                    hit = Some(record);
                    return Ok(true);
                }
                self.check_record(&record)?;
                Ok::<bool, Error>(false)
            })?;
            let (Some(location), Some(record)) = (found, hit) else { return Ok(None) };
            self.check_replaced(&record)?;
            if self.visibility.is_visible(record.seq()) {
                // A removal whose batch has just ended, or a value whose header has rotted.
                if !record.is_put() {
                    self.check_record(&record)?;
                }
                self.check_first(&contents.index, hash, location, &record)?;
                return Ok(record.is_put().then_some(record));
            }
            match self.visibility.before(location, pin) {
                Some(Prior::Absent) => return Ok(None),
                Some(Prior::At(location)) => {
                    let record = self.record(location, pin)?;
                    self.check_former(&contents.index, &record)?;
                    return Ok(Some(record));
                }
                // No batch has such a number: the header has rotted.
                None if record.seq() > Seq::MAX => {
                    return Err(self.damage_of(&record, Defect::HeaderChecksum));
                }
                // The batch ended meanwhile.
                None => std::hint::spin_loop(),
            }
        }
    }

    /// The record at a location that the index gave.
    ///
    /// # Errors
    ///
    /// `Corrupt` where its lengths lead out of what was written; `Io` where a page of it cannot be had; `MissingSegment`, `Corrupt` or what the operating system says
    /// where its segment was not needed before, and is not what it was.
    #[inline]
    pub(crate) fn record<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        let record = self.record_as_it_is(location, pin)?;
        self.check_replaced(&record)?;
        Ok(record)
    }

    /// As [`State::record`], for whoever asks [`State::check_replaced`] after all that is read of it.
    ///
    /// # Errors
    ///
    /// As [`State::record`], but for pages that cannot be had.
    #[inline]
    pub(crate) fn record_as_it_is<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        match self.shared.space.record(location, pin) {
            Some(record) => Ok(record),
            None => self.record_again(location, pin),
        }
    }

    /// The record at a location where a first look found none; as a rule why there is none.
    #[cold]
    fn record_again<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        let found = self.shared.space.find(location, pin)?;
        found.ok_or_else(|| self.damage(location, Defect::LengthOutOfRange))
    }

    /// The record that an entry of the index shows to readers now, if any.
    pub(crate) fn visible<'p>(
        &'p self,
        contents: &KeyspaceData,
        location: Location,
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        let record = self.record(location, pin)?;
        if self.visibility.is_visible(record.seq()) {
            if !record.is_put() {
                self.check_record(&record)?;
            }
            if contents.index.is_from_checkpoint() {
                self.check_first(&contents.index, self.hash_of(record.key()), location, &record)?;
            }
            self.check_replaced(&record)?;
            return Ok(record.is_put().then_some(record));
        }
        match self.visibility.before(location, pin) {
            Some(Prior::Absent) => Ok(None),
            Some(Prior::At(location)) => {
                let record = self.record(location, pin)?;
                self.check_former(&contents.index, &record)?;
                Ok(Some(record))
            }
            // The batch ended meanwhile: what the key has now.
            None => self.lookup(contents, self.hash_of(record.key()), record.key(), pin),
        }
    }

    /// Starts the loads of the records that the key may have now.
    #[inline]
    pub(crate) fn prefetch_records(&self, contents: &KeyspaceData, hash: Hash) {
        // What cannot be read is an error of the search that follows.
        drop(contents.index.find(hash, |location| {
            self.shared.space.prefetch(location);
            Ok::<bool, BlockError>(false)
        }));
    }

    /// The keyed hash of a key.
    #[inline]
    pub(crate) fn hash_of(&self, key: &[u8]) -> Hash {
        self.hash_key.hash(key)
    }

    /// Verifies a record against both of its checksums: where every read is verified, and where a record has the right
    /// tag and is not what was looked for, which is hardly ever a coincidence.
    ///
    /// The header too: with another kind or keyspace a value would be taken for absent.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    #[cold]
    pub(crate) fn check_record(&self, record: &Record<'_>) -> Result<()> {
        self.check_header(record)?;
        if payload_sum(record.key(), record.value()) != record.header().payload_sum {
            return Err(self.damage_of(record, Defect::PayloadChecksum));
        }
        Ok(())
    }

    /// Verifies a record that the index leads to, unless that was done since this open: where the index came from an image,
    /// nothing has read the record yet.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    #[inline]
    pub(crate) fn check_first(
        &self,
        index: &Index,
        hash: Hash,
        location: Location,
        record: &Record<'_>,
    ) -> Result<()> {
        if index.is_from_checkpoint() {
            self.check_unless_verified(index, hash, location, record)
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    fn check_unless_verified(
        &self,
        index: &Index,
        hash: Hash,
        location: Location,
        record: &Record<'_>,
    ) -> Result<()> {
        if index.is_verified(hash, location) {
            return Ok(());
        }
        self.check_record(record)?;
        index.set_verified(hash, location);
        Ok(())
    }

    /// Verifies a record, where a page of its mapping was replaced because it could not be read: asked after what was read of
    /// the record, so that zeros are not taken for it.
    ///
    /// # Errors
    ///
    /// `Io`, or `Corrupt`.
    #[inline]
    pub(crate) fn check_replaced(&self, record: &Record<'_>) -> Result<()> {
        if record.is_replaced() { self.check_record(record) } else { Ok(()) }
    }

    /// As [`State::check_first`], for what the index no longer leads to.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    pub(crate) fn check_former(&self, index: &Index, record: &Record<'_>) -> Result<()> {
        if index.is_from_checkpoint() { self.check_record(record) } else { Ok(()) }
    }

    /// Verifies the header of a record: what its lengths count for.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    pub(crate) fn check_header(&self, record: &Record<'_>) -> Result<()> {
        let (mapping, offset) = record.place();
        let place = RecordPlace { nonce: mapping.nonce(), offset: offset as u64 };
        // The lengths were compared with what is published when the record was found.
        let valid = record.raw_header().validate(place, record.header().size());
        valid.map(drop).map_err(|_| self.damage_of(record, Defect::HeaderChecksum))
    }

    /// Names the file and the offset of a record that does not verify.
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

    /// Names the file and the offset of damage.
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
