//! Requests to the kernel to read records before they are touched.

use std::io;
use std::sync::atomic::Ordering;

use super::address_space::AddressSpace;
use crate::error::Result;
use crate::format::record::HEADER_SIZE;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

impl AddressSpace {
    /// Returns true if the record at a location is in memory, according to the kernel, and asks the
    /// kernel to read it otherwise. Also true if nothing is published or assigned there, because
    /// then there is nothing to wait for. A segment that is not mapped yet counts as not in memory
    /// while the worker (`attended`) has still to map it.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn bring_near(&self, location: Location, pin: &Pin, attended: bool) -> io::Result<bool> {
        // Relaxed: `place_of` loads it again.
        let is_empty =
            self.table.slot_of(location).is_some_and(|it| it.mapping.load(Ordering::Relaxed).is_null());
        if is_empty && attended && self.is_waiting_for_its_turn(location) {
            return Ok(false);
        }
        // A segment that cannot be mapped is not waited for: a read returns the reason.
        let Some((mapping, offset)) = self.place_of(location, pin) else { return Ok(true) };
        // The header holds the record's length, so it comes first.
        if !mapping.bring_near(offset, HEADER_SIZE)? {
            return Ok(false);
        }
        let Some(record) = self.record(location, pin) else { return Ok(true) };
        let len = usize::try_from(record.raw_header().payload_len()).unwrap_or(usize::MAX);
        mapping.bring_near(offset, HEADER_SIZE.saturating_add(len))
    }

    /// Does for the header of a record what [`AddressSpace::bring_near`] does for the record. Maps its
    /// segment if need be.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn bring_header_near(&self, location: Location, pin: &Pin) -> io::Result<bool> {
        let Some((mapping, offset)) = self.place_of(location, pin) else { return Ok(true) };
        mapping.bring_near(offset, HEADER_SIZE)
    }

    /// Without the page guard, has the kernel read the record at a location, so that an unreadable
    /// page is an error before it is accessed.
    ///
    /// # Errors
    ///
    /// Returns `Io` if the record cannot be read; otherwise as for [`AddressSpace::find`].
    pub(crate) fn reach(&self, location: Location, pin: &Pin) -> Result<()> {
        if self.table.guarded {
            return Ok(());
        }
        self.map_at(location)?;
        let Some((mapping, offset)) = self.place_of(location, pin) else { return Ok(()) };
        // The header holds the record's length, so it comes first.
        mapping.reach(offset, HEADER_SIZE)?;
        let Some(record) = self.record(location, pin) else { return Ok(()) };
        let len = usize::try_from(record.raw_header().payload_len()).unwrap_or(usize::MAX);
        mapping.reach(offset, HEADER_SIZE.saturating_add(len))
    }
}
