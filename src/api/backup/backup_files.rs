//! The files of a backup's directory, and its newest whole list.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use crate::error::{Error, Result};
use crate::format::READ_VERSION;
use crate::format::backup_list::{BackupList, LIST_LEN_MAX};
use crate::format::file_name::{BackupName, backup_list, parse_backup};
use crate::fs::{Access, Dir, read_exact_at};
use crate::mem::alloc;

/// The contents of a backup's directory.
#[derive(Debug, Default)]
pub(super) struct BackupFiles {
    /// The newest whole list: the backup.
    pub(super) newest: Option<BackupList>,
    /// The numbers of all lists, whole or not.
    pub(super) lists: Vec<u64>,
    /// The names of copies.
    pub(super) copies: BTreeSet<String>,
    /// The names of files whose creation was interrupted.
    pub(super) temporaries: Vec<String>,
    /// The first name that is no part of a backup.
    pub(super) foreign: Option<String>,
}

impl BackupFiles {
    /// Looks at the directory. A directory that does not exist is empty.
    ///
    /// # Errors
    ///
    /// `TooNew`, and errors of the operating system.
    pub(super) fn look(dir: &dyn Dir) -> Result<Self> {
        let mut names = match dir.list() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            names => names.map_err(|error| Error::io("list", dir.path(), error))?,
        };
        names.sort_unstable();
        let mut found = Self::default();
        for name in names {
            match parse_backup(&name) {
                BackupName::List(number) => found.lists.push(number),
                BackupName::Copy => drop(found.copies.insert(name)),
                BackupName::Temporary => found.temporaries.push(name),
                BackupName::Ignored => {}
                BackupName::Foreign => found.foreign = found.foreign.or(Some(name)),
            }
        }
        found.lists.sort_unstable();
        for number in found.lists.iter().rev() {
            if found.newest.is_none() {
                found.newest = read_list(dir, *number)?;
            }
        }
        Ok(found)
    }
}

/// Reads a list. `None` if it is not whole.
///
/// # Errors
///
/// `TooNew`, and errors of the operating system.
pub(super) fn read_list(dir: &dyn Dir, number: u64) -> Result<Option<BackupList>> {
    let name = backup_list(number);
    let path = dir.path().join(&name);
    let io = |error| Error::io("read", &path, error);
    let file = dir.open(&name, Access::Read).map_err(io)?;
    let size = file.identity().map_err(io)?.size.min(LIST_LEN_MAX);
    let mut bytes = alloc::zeros(usize::try_from(size).unwrap_or(usize::MAX)).map_err(io)?;
    read_exact_at(file.as_ref(), &mut bytes, 0).map_err(io)?;
    match BackupList::decode(&bytes) {
        Ok(Ok(list)) => Ok(Some(list).filter(|list| list.number == number)),
        Ok(Err(version)) => {
            let (found, supported) = (u32::from(version), u32::from(READ_VERSION));
            Err(Error::TooNew { path, found, supported })
        }
        Err(_) => Ok(None),
    }
}
