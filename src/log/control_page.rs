//! The control page: a mapped page with the durable end of the log while the system runs.
//!
//! It is disposable. The next open trusts it only with the current boot id and the incarnation in
//! the manifest. Even then it only proves that something *was* durable: it can turn a torn tail
//! into damage, never the reverse.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::control_page::{
    CONTROL_SIZE, ControlHeader, DURABLE_OFFSET, durable_word, parse_durable_word,
};
use crate::format::file_name;
use crate::fs::{Access, Dir};
use crate::mem::mapping::Mapping;

/// The writer's side of the page.
#[derive(Debug)]
pub(crate) struct ControlPage {
    mapping: Arc<Mapping>,
    writer_nonce: u64,
}

impl ControlPage {
    /// Creates the page for this writer.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn create(dir: &dyn Dir, control: &ControlHeader, durable: Seq) -> Result<Self> {
        let path = || dir.path().join(file_name::CONTROL);
        let file = match dir.open(file_name::CONTROL, Access::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => dir.create(file_name::CONTROL),
            other => other,
        };
        let file = file.map_err(|error| Error::io("open", path(), error))?;
        let size = file.identity().map_err(|error| Error::io("look at", path(), error))?.size;
        if size < CONTROL_SIZE as u64 {
            // This reserves its block: a store into the mapping must not be the first to find a
            // full disk.
            file.allocate(CONTROL_SIZE as u64).map_err(|error| Error::io("allocate", path(), error))?;
        }
        let mut page = control.encode().to_vec();
        page.resize(CONTROL_SIZE, 0);
        let word = durable_word(durable, control.writer_nonce).to_le_bytes();
        page[DURABLE_OFFSET..][..8].copy_from_slice(&word);
        file.write_at(&page, 0).map_err(|error| Error::io("write", path(), error))?;
        let mapping = file.map(CONTROL_SIZE).map_err(|error| Error::io("map", path(), error))?;
        Ok(Self { mapping, writer_nonce: control.writer_nonce })
    }

    /// Returns a page that is in no file, for a read-only store.
    ///
    /// # Errors
    ///
    /// `Io` if memory is short.
    pub(crate) fn in_memory(dir: &dyn Dir) -> Result<Self> {
        let memory = Mapping::in_memory(CONTROL_SIZE);
        let mapping = memory.map_err(|error| Error::io("make a page for", dir.path(), error))?;
        Ok(Self { mapping: Arc::new(mapping), writer_nonce: 0 })
    }

    /// Puts the page under the guard. A store into it that fails is lost, and the page is
    /// disposable.
    pub(crate) fn guard(&self) {
        self.mapping.guard();
    }

    /// Publishes that every record up to `durable` is durable. Only the leader of a sync calls it,
    /// one at a time.
    pub(crate) fn set_durable(&self, durable: Seq) {
        let word = durable_word(durable, self.writer_nonce).to_le();
        // Release: a follower that acquires the word finds the records that it covers.
        self.mapping.word(DURABLE_OFFSET).store(word, Ordering::Release);
        self.mapping.note_store(DURABLE_OFFSET, 8);
    }
}

/// Reads the durable number that the last writer left on the page. `None` if it cannot be trusted.
///
/// # Errors
///
/// Errors of the operating system. A missing or damaged page is `Ok(None)`.
pub(crate) fn read(dir: &dyn Dir, believed: impl FnMut(&ControlHeader) -> bool) -> Result<Option<Seq>> {
    let path = dir.path().join(file_name::CONTROL);
    let file = match dir.open(file_name::CONTROL, Access::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| Error::io("open", &path, error))?,
    };
    let mut page = vec![0; CONTROL_SIZE];
    let len = file.read_at(&mut page, 0).map_err(|error| Error::io("read", &path, error))?;
    let Some(word) = page[..len].get(DURABLE_OFFSET..).and_then(|rest| rest.first_chunk()) else {
        return Ok(None);
    };
    let control = ControlHeader::decode(&page[..len]).ok().filter(believed);
    Ok(control.and_then(|control| parse_durable_word(u64::from_le_bytes(*word), control.writer_nonce)))
}
