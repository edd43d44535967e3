//! Reads that do not trust a mapped page: verified copies, and checks of bytes that were returned.
//!
//! A page may be lost between two loads of it: the disk fails, or another program truncates the
//! file. The page guard (`mem::page_guard`) then maps zeros there.

use crate::engine::read::{Value, View};
use crate::engine::state::State;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::engine::state::hinted_records::waiting_part;
use crate::error::{Error, Result};
use crate::format::Defect;
use crate::format::record::HEADER_SIZE;
use crate::index::key_index::SearchKey;
use crate::mem::alloc;
use crate::mem::page_guard::check_slice;
use crate::sync::epoch::Pin;

impl Value {
    /// Returns an error if the value's bytes may no longer be those of the file.
    ///
    /// That happens only if the disk failed, or another program truncated the file, since the value
    /// was read. A page that cannot be read reads as zeros from then on; see
    /// [`Options::sigbus_guard`](crate::Options::sigbus_guard). So call this after the bytes were
    /// used. If dozens of pages of one file were lost, an intact value between them may be refused
    /// too.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let value = store.get("a")?.expect("just inserted");
    /// let copy = value.to_vec();
    /// value.check()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` with the file and the offset of the page.
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }
}

impl View<'_> {
    /// Returns an error if bytes borrowed from the view may no longer be those of the file.
    ///
    /// See [`Value::check`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// store.insert("a", "1")?;
    /// let view = store.view();
    /// if let Some(value) = view.get("a")? {
    ///     let copy = value.to_vec();
    ///     view.check(value)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Io` with the store's directory and the offset of the page in its file.
    pub fn check(&self, value: &[u8]) -> Result<()> {
        check_slice(value, self.state.shared.dir.path())
    }
}

impl State {
    /// Copies a value by loads that tolerate a concurrently changing file, and verifies the copy.
    pub(crate) fn get_into(&self, keyspace: &KeyspaceState, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let pin = self.pin();
        out.clear();
        if !self.config.sigbus_guard {
            self.reach(self.contents(keyspace, &pin)?, self.search_key(key), &pin)?;
        }
        let Some(record) = self.get(keyspace, key, &pin)? else { return Ok(false) };
        let header = record.header();
        let key_len = usize::from(header.key_len);
        let len = key_len + header.value_len as usize;
        alloc::resize(out, len)
            .map_err(|error| Error::io("copy a value from", self.shared.dir.path(), error))?;
        let (mapping, offset) = record.place();
        mapping.copy_out(offset + HEADER_SIZE, out);
        if crc32fast::hash(out) != header.payload_sum || !out.starts_with(key) {
            out.clear();
            return Err(self.damage_of(&record, Defect::PayloadChecksum));
        }
        // The header may have been zeros when it was read.
        self.check_replaced(&record)?;
        out.drain(..key_len);
        Ok(true)
    }

    /// Makes the kernel read the records that a search for a key will touch; used where there is
    /// no guard.
    ///
    /// # Errors
    ///
    /// `Io` if they cannot be read; after damage in a checkpoint, the error of a failed rebuild.
    pub(crate) fn reach(&self, contents: &KeyspaceData, key: SearchKey<'_>, pin: &Pin) -> Result<()> {
        let reach = |location| self.shared.space.reach(location, pin);
        loop {
            match contents.index.visit_candidates(key, reach) {
                Ok(()) => return Ok(()),
                Err(error) if waiting_part(&error).is_some() => drop(self.rebuild_if_damaged(&error)?),
                // The records were read to rebuild the index.
                Err(error) if self.rebuild_if_damaged(&error)? => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
