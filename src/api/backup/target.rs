//! The directory of a backup: what is copied to it, in which order, and what is removed.
//!
//! **Order.**
//!
//! 1. Look at the directory, and take its lock.
//! 2. Take the moment.
//! 3. Remove what neither the newest list nor the moment needs.
//! 4. Copy each segment that is not there, under a temporary name. Sync it, verify it, rename it.
//! 5. Sync the directory. Write the list in the same way, and sync the directory again.
//! 6. Remove the older lists, and the copies that only they name.
//!
//! The newest whole list is the backup. Every file that a list names is durable before the list, and
//! stays until a newer list is durable. So a crash at any point leaves the old backup or the new one.
//!
//! **Crash points.** `backup-copied` before a copy gets its name, `backup-listed` before the list
//! does, `backup-named` before the directory is synced for the list, `backup-begun` after step 2.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::backup_files::{BackupFiles, read_list};
use super::copy_bytes::{verify_copy, write_copy};
use super::report::BackupReport;
use crate::engine::moment::{Moment, MomentPart};
use crate::error::{Error, Result};
use crate::format::backup_list::{BackupList, CopiedSegment};
use crate::format::file_name::{LOCK, backup_copy, backup_list, temporary};
use crate::format::{Defect, StoreId};
use crate::fs::leftovers::unlink;
use crate::fs::{Access, Claim, Dir, Lock, LockFailure};
use crate::log::context::LogContext;
use crate::log::segment_reader::SegmentReader;
use crate::recovery::lock_failed;

/// Writes a backup of the moment that `take` returns.
///
/// # Errors
///
/// See [`Store::backup`](crate::Store::backup).
pub(super) fn write(
    dir: &dyn Dir,
    shared: &LogContext,
    take: impl FnOnce() -> Result<Moment>,
) -> Result<BackupReport> {
    // Before anything is created: the directory of another program is not touched.
    check(dir, &BackupFiles::look(dir)?, shared.store)?;
    dir.create_dir().map_err(|error| Error::io("create", dir.path(), error))?;
    let _lock = lock(dir)?;
    let files = BackupFiles::look(dir)?;
    check(dir, &files, shared.store)?;
    let moment = take()?;
    dir.crash_point("backup-begun");
    let number = files.lists.last().map_or(1, |last| last.saturating_add(1));
    let mut report = BackupReport::new(moment.last);
    let mut target = Target::of(dir, shared, &files);
    report.files_removed += target.remove_useless(&files, &moment)?;
    let Moment { manifest, last, parts } = moment;
    let mut copies = Vec::with_capacity(parts.len());
    // One after the other: the mapping of a removed segment is let go of once it is copied.
    for part in parts {
        let (copy, is_copied) = target.copy_part(&part)?;
        report.count(copy.end, is_copied);
        copies.push(copy);
    }
    sync(dir)?;
    let is_known = |newest: &BackupList| newest.manifest == manifest && newest.copies == copies;
    if !files.newest.as_ref().is_some_and(is_known) {
        let list = BackupList { number, last, manifest, copies };
        write_list(dir, &list)?;
        report.files_removed += target.remove_older(&files, &list)?;
    }
    Ok(report)
}

/// Takes the lock of a target.
fn lock(dir: &dyn Dir) -> Result<Box<dyn Lock>> {
    let note = format!("{}\n", std::process::id());
    dir.lock(LOCK, Claim::Write(note.as_bytes()), Duration::ZERO).map_err(|failure| match failure {
        LockFailure::Held(_) => {
            let reason = "another backup to it, or a restore from it, is running; wait for it".to_owned();
            Error::InvalidTarget { path: dir.path().to_owned(), reason }
        }
        failure @ LockFailure::Io(_) => lock_failed(dir, failure),
    })
}

/// Refuses a directory that is not for backups of this store.
fn check(dir: &dyn Dir, files: &BackupFiles, store: StoreId) -> Result<()> {
    let refuse = |reason: String| Err(Error::InvalidTarget { path: dir.path().to_owned(), reason });
    if let Some(name) = &files.foreign {
        return refuse(format!("it holds {name:?}, which is no part of a backup; choose an empty directory"));
    }
    if files.newest.as_ref().is_some_and(|newest| newest.manifest.store != store) {
        return refuse("it holds a backup of another store; choose another directory".to_owned());
    }
    Ok(())
}

/// A directory to which segments are copied.
struct Target<'a> {
    dir: &'a dyn Dir,
    /// The store.
    shared: &'a LogContext,
    /// The copies that the newest list names.
    listed: BTreeMap<String, CopiedSegment>,
    /// The copies that are there.
    present: BTreeSet<String>,
}

impl<'a> Target<'a> {
    fn of(dir: &'a dyn Dir, shared: &'a LogContext, files: &BackupFiles) -> Self {
        let listed = files.newest.iter().flat_map(|newest| &newest.copies);
        let listed = listed.map(|copy| (name_of(copy), *copy)).collect();
        Self { dir, shared, listed, present: files.copies.clone() }
    }

    /// Removes the files that neither the newest list nor the moment needs: a full disk must not
    /// stay full because of them. Returns their number.
    fn remove_useless(&mut self, files: &BackupFiles, moment: &Moment) -> Result<usize> {
        let newest = files.newest.as_ref().map(|newest| newest.number);
        let lists =
            files.lists.iter().filter(|number| Some(**number) != newest).map(|number| backup_list(*number));
        let needed: BTreeSet<String> = moment.parts.iter().map(name_of_part).collect();
        let is_needed = |name: &&String| needed.contains(*name) || self.listed.contains_key(*name);
        let copies = self.present.iter().filter(|name| !is_needed(name)).cloned();
        let useless: Vec<String> = lists.chain(copies).chain(files.temporaries.iter().cloned()).collect();
        if !useless.is_empty() {
            // An interrupted backup may have named its list, and not synced the name.
            sync(self.dir)?;
        }
        for name in &useless {
            unlink(self.dir, name)?;
            self.present.remove(name);
        }
        Ok(useless.len())
    }

    /// Makes sure that a part is in the directory. Returns true if it was copied now.
    fn copy_part(&self, part: &MomentPart) -> Result<(CopiedSegment, bool)> {
        let Self { dir, shared, .. } = *self;
        let name = name_of_part(part);
        if self.present.contains(&name) {
            if let Some(copy) = self.kept_copy(part, &name)? {
                return Ok((copy, false));
            }
            // It is damaged, so no backup loses anything.
            unlink(dir, &name)?;
        }
        let unfinished = temporary(&name);
        let copied = SegmentReader::of_removable(shared.dir.as_ref(), shared.store, &part.segment)
            .and_then(|source| write_copy(dir, &unfinished, &source, part.end))
            .and_then(|sum| verify_copy(dir, &unfinished, part, Some(sum)));
        let copy = copied.inspect_err(|_| {
            // A full disk is not to stay full. The first error is reported.
            drop(unlink(dir, &unfinished));
        })?;
        dir.crash_point("backup-copied");
        rename(dir, &unfinished, &name)?;
        Ok((copy, true))
    }

    /// Returns a copy that is there. `None` if it is damaged.
    fn kept_copy(&self, part: &MomentPart, name: &str) -> Result<Option<CopiedSegment>> {
        let io = |operation, error| Error::io(operation, self.dir.path().join(name), error);
        let file = self.dir.open(name, Access::Read).map_err(|error| io("open", error))?;
        if file.identity().map_err(|error| io("look at", error))?.size != part.end {
            return Ok(None);
        }
        if let Some(copy) = self.listed.get(name) {
            return Ok(Some(*copy));
        }
        // An interrupted backup left it.
        match verify_copy(self.dir, name, part, None) {
            Ok(copy) => Ok(Some(copy)),
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the list before this one, and the copies that only it names. Returns their number.
    fn remove_older(&self, files: &BackupFiles, list: &BackupList) -> Result<usize> {
        let older = files.newest.iter().map(|newest| backup_list(newest.number));
        let named: BTreeSet<String> = list.copies.iter().map(name_of).collect();
        let copies = self.listed.keys().filter(|name| !named.contains(*name)).cloned();
        let useless: Vec<String> = older.chain(copies).collect();
        for name in &useless {
            unlink(self.dir, name)?;
        }
        sync(self.dir)?;
        Ok(useless.len())
    }
}

fn name_of_part(part: &MomentPart) -> String {
    backup_copy(part.segment.id(), part.segment.nonce(), part.end)
}

pub(super) fn name_of(copy: &CopiedSegment) -> String {
    backup_copy(copy.id, copy.nonce, copy.end)
}

/// Writes the list, which makes the copies the backup.
fn write_list(dir: &dyn Dir, list: &BackupList) -> Result<()> {
    let name = backup_list(list.number);
    let unfinished = temporary(&name);
    let io = |operation, error| Error::io(operation, dir.path().join(&unfinished), error);
    let written = || {
        let file = dir.create(&unfinished).map_err(|error| io("create", error))?;
        file.write_at(&list.encode(), 0).map_err(|error| io("write", error))?;
        file.sync().map_err(|error| io("sync", error))
    };
    written().inspect_err(|_| drop(unlink(dir, &unfinished)))?;
    dir.crash_point("backup-listed");
    rename(dir, &unfinished, &name)?;
    dir.crash_point("backup-named");
    sync(dir)?;
    if read_list(dir, list.number)?.as_ref() != Some(list) {
        return Err(Error::Corrupt { path: dir.path().join(&name), offset: 0, defect: Defect::Checksum });
    }
    Ok(())
}

fn rename(dir: &dyn Dir, from: &str, to: &str) -> Result<()> {
    dir.rename(from, to).map_err(|error| Error::io("rename", dir.path().join(from), error))
}

fn sync(dir: &dyn Dir) -> Result<()> {
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))
}
