//! Published records, and owned slices of them that keep their mapping.
#![expect(unsafe_code, reason = "this makes slices of published bytes")]

use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

use super::PAGE_SIZE;
use super::address_space::prefetch_lines;
use super::mapping::Mapping;
use crate::error::{Error, Result};
use crate::format::record::{HEADER_SIZE, RawHeader, RecordHeader, RecordPlace, payload_sum};
use crate::format::{Defect, KeyspaceId, Seq};

/// The length from which the value of a record is read at once, where the kernel reads single pages.
const LARGE: usize = 2 * PAGE_SIZE;

/// A published record, valid while its segment is pinned. It has two words, because a get passes it
/// through several layers.
///
/// Its lengths were compared with the published mark. Its checksums were verified when the record
/// was written or replayed, not now. Fields are decoded when they are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'p> {
    /// The header's first byte. The whole header is published; the payload follows it.
    start: *const u8,
    mapping: &'p Mapping,
}

impl<'p> Record<'p> {
    /// Makes the record that starts here.
    ///
    /// # Safety
    ///
    /// The bytes of its header are published in the mapping; a caller that reads more of it
    /// compares its lengths with the published mark first.
    #[inline]
    pub(super) unsafe fn at(start: *const u8, mapping: &'p Mapping) -> Self {
        Self { start, mapping }
    }

    /// Returns the header.
    pub(crate) fn header(&self) -> RecordHeader {
        self.raw_header().unverified()
    }

    /// Returns the header's bytes.
    #[inline]
    pub(crate) fn raw_header(&self) -> RawHeader<'p> {
        // SAFETY: the header's bytes are published (`AddressSpace::record`): initialised,
        // unchanging (I1), mapped for `'p`.
        RawHeader::new(unsafe { &*self.start.cast::<[u8; HEADER_SIZE]>() })
    }

    /// Returns the ordinal of its segment's mapping.
    #[inline]
    pub(crate) fn ordinal(&self) -> usize {
        self.mapping.ordinal()
    }

    /// True if a page of its mapping was replaced, possibly of this record: data read from it must
    /// be verified.
    #[inline]
    pub(crate) fn is_replaced(&self) -> bool {
        self.mapping.is_replaced()
    }

    /// Verifies the header, on which the lengths depend.
    ///
    /// # Errors
    ///
    /// The defect.
    pub(crate) fn verify_header(&self) -> Result<(), Defect> {
        let (mapping, offset) = self.place();
        let place = RecordPlace { nonce: mapping.nonce(), offset: offset as u64 };
        // The lengths were compared with the published end when the record was found.
        let valid = self.raw_header().validate(place, self.header().size());
        valid.map(drop).map_err(|_| Defect::HeaderChecksum)
    }

    /// Verifies the record against both of its checksums.
    ///
    /// # Errors
    ///
    /// The defect.
    pub(crate) fn verify(&self) -> Result<(), Defect> {
        self.verify_header()?;
        let is_valid = payload_sum(self.key(), self.value()) == self.header().payload_sum;
        if is_valid { Ok(()) } else { Err(Defect::PayloadChecksum) }
    }

    /// Returns an error if a page of it could not be read.
    pub(crate) fn unreadable(&self) -> Option<Error> {
        if !self.is_replaced() {
            return None;
        }
        let offset = self.place().1 as u64;
        // If the header cannot be read, its lengths are zero, and the header's page is among the
        // replaced ones.
        let page = self.mapping.replaced_in(offset, offset + self.header().size())?;
        Some(self.mapping.unreadable(page))
    }

    /// Asks the kernel to read a value of several pages at once, if it would read single ones.
    #[inline]
    pub(crate) fn bring_large_value(&self) {
        if self.raw_header().value_len() >= LARGE {
            self.bring_near();
        }
    }

    /// Asks the kernel to read the pages behind the header's, unless the value is one that
    /// [`Record::bring_large_value`] asks for.
    pub(crate) fn bring_rest(&self) {
        let (mapping, offset) = self.place();
        let raw = self.raw_header();
        let len = self.len();
        if raw.value_len() < LARGE && offset % PAGE_SIZE + len > PAGE_SIZE {
            // If it is refused, each page is read when it is needed.
            drop(mapping.bring_near(offset, len));
        }
    }

    #[cold]
    fn bring_near(&self) {
        if self.mapping.reads_singly() {
            let (_, offset) = self.place();
            let len = usize::try_from(self.header().size()).unwrap_or(usize::MAX);
            // If it is refused, each page is read when it is needed.
            drop(self.mapping.bring_near(offset, len));
        }
    }

    /// Returns the sequence number.
    #[inline]
    pub(crate) fn seq(&self) -> Seq {
        self.raw_header().seq()
    }

    /// True for a value, false for a tombstone.
    #[inline]
    pub(crate) fn is_put(&self) -> bool {
        self.raw_header().is_put()
    }

    /// True if it is a record of this key in this keyspace.
    #[inline]
    pub(crate) fn is_of(&self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        self.key() == key && self.raw_header().keyspace() == keyspace
    }

    /// Returns the key.
    #[inline]
    pub(crate) fn key(&self) -> &'p [u8] {
        self.payload(0, self.raw_header().key_len())
    }

    /// Returns the value.
    #[inline]
    pub(crate) fn value(&self) -> &'p [u8] {
        self.bring_large_value();
        let raw = self.raw_header();
        self.payload(raw.key_len(), raw.value_len())
    }

    #[inline]
    fn payload(&self, from: usize, len: usize) -> &'p [u8] {
        debug_assert!((from + len) as u64 <= self.raw_header().payload_len());
        // SAFETY: `AddressSpace::record` compared the payload's length with the published mark.
        let start = unsafe { self.start.add(HEADER_SIZE + from) };
        // SAFETY: published bytes: initialised, unchanging (I1), mapped for `'p`.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Prefetches the cache lines behind the first; see [`prefetch_lines`].
    #[inline]
    pub(crate) fn prefetch_rest(&self) {
        prefetch_lines(self.start, self.len());
    }

    /// Returns the length of header, key and value.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let raw = self.raw_header();
        HEADER_SIZE + raw.key_len() + raw.value_len()
    }

    /// Returns key and value as owned slices that keep their segment mapped.
    pub(crate) fn keep_record(&self) -> OwnedRecord {
        OwnedRecord { seq: self.seq(), key: self.key(), value: self.keep_value() }
    }

    /// Returns the value as an owned slice that keeps its segment mapped.
    pub(crate) fn keep_value(&self) -> Slice {
        self.keep(self.value())
    }

    fn keep(&self, bytes: &'p [u8]) -> Slice {
        let value = ptr::from_ref(bytes);
        let mapping: *const Mapping = self.mapping;
        // SAFETY: the mapping lies in an `Arc` that the space still holds (`AddressSpace::record`),
        // so its count is not zero for as long as the pin.
        unsafe { Arc::increment_strong_count(mapping) };
        // SAFETY: the reference that the line above added is ours to own.
        let mapping = unsafe { Arc::from_raw(mapping) };
        Slice { value, mapping }
    }

    /// Returns the record's mapping and its offset there, for copying reads.
    pub(crate) fn place(&self) -> (&'p Mapping, usize) {
        (self.mapping, self.start as usize - self.mapping.base() as usize)
    }
}

/// Published bytes that keep their mapping.
#[derive(Debug)]
pub(crate) struct Slice {
    value: *const [u8],
    mapping: Arc<Mapping>,
}

impl Slice {
    /// Checks that the bytes are still those of the file.
    ///
    /// # Errors
    ///
    /// Returns `Io` if a page of them could not be read, and was replaced.
    pub(crate) fn check(&self) -> Result<()> {
        let from = self.value.cast::<u8>() as usize - self.mapping.base() as usize;
        match self.mapping.replaced_in(from as u64, (from + self.value.len()) as u64) {
            Some(offset) => Err(self.mapping.unreadable(offset)),
            None => Ok(()),
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: made from a slice over published bytes (unchanging, I1) of `self.mapping`, which
        // is still mapped.
        unsafe { &*self.value }
    }
}

/// A record that keeps its mapping.
#[derive(Debug, Clone)]
pub(crate) struct OwnedRecord {
    seq: Seq,
    /// The key, in the same mapping as the value.
    key: *const [u8],
    value: Slice,
}

impl OwnedRecord {
    /// Returns the sequence number.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// Returns the key.
    pub(crate) fn key(&self) -> &[u8] {
        // SAFETY: made from a slice over published bytes (unchanging, I1) of the value's mapping,
        // which is still mapped.
        unsafe { &*self.key }
    }

    /// Returns the length of key and value together, in bytes.
    pub(crate) fn len(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }

    /// Returns the value.
    pub(crate) fn into_value(self) -> Slice {
        self.value
    }

    /// Returns the key and the value.
    pub(crate) fn into_parts(self) -> (Slice, Slice) {
        (Slice { value: self.key, mapping: Arc::clone(&self.value.mapping) }, self.value)
    }
}

// SAFETY: as for `Slice`.
unsafe impl Send for OwnedRecord {}
// SAFETY: as for `Slice`.
unsafe impl Sync for OwnedRecord {}

impl Clone for Slice {
    fn clone(&self) -> Self {
        Self { value: self.value, mapping: Arc::clone(&self.mapping) }
    }
}

// SAFETY: the bytes never change and the mapping is `Send + Sync`; the pointer is only read through.
unsafe impl Send for Slice {}
// SAFETY: as above.
unsafe impl Sync for Slice {}
