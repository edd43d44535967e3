//! Salvage: copies every record with valid checksums from a store that does not open to another
//! store.
//!
//! It only reads the damaged store, and changes nothing in it. If an open would accept the store,
//! the result is exactly what the open would show: the decisions are recovery's own
//! (`recovery::analysis`). Otherwise every file of the store is read, page by page where a read
//! fails (`source`). `members` selects the files.
//!
//! The newest intact record of each key counts, and a batch is copied as a whole or not at all.
//! Missing data is accounted for by file, range, cause and sequence numbers.
//!
//! **Memory.** At most 100 bytes for each key that was ever written, and one value at a time.
//! Neither the sizes of keys nor those of segments and store matter.

pub(crate) mod fates;
mod members;
mod reading;
pub(crate) mod report;
mod source;
#[cfg(test)]
mod tests;
mod writing;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::fates::{Fates, SALVAGE_UNFINISHED};
use self::members::{FoundMembers, Member, Members};
use self::reading::SalvagedRecords;
use self::report::Account;
use self::report::{DamageCause, SalvageReport};
use crate::api::store::Store;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::control_page::ControlHeader;
use crate::format::file_name::{LOCK, MANIFESTS};
use crate::format::manifest::{MANIFEST_HEADER_SIZE, Manifest, SegmentState};
use crate::format::segment_header::Role;
use crate::format::{Defect, READ_VERSION};
use crate::fs::read_only::ReadOnlyDir;
use crate::fs::real::RealDir;
use crate::fs::{Claim, Dir, Lock, LockFailure};
use crate::log::control_page;
use crate::recovery::analysis::{Examined, examine};
use crate::recovery::directory::{Copy, DirectoryScan};
use crate::recovery::lock_failed;

/// Copies the newest intact record of each key from a damaged store into another store.
///
/// - Nothing in the damaged store is changed. From a store that opens, it copies exactly the
///   store's contents.
/// - `into` may hold other keys. Equal keys are overwritten.
/// - Keys are copied to keyspaces of the same names. If the name is lost, or belongs to a keyspace
///   of another codec in `into`, it is `salvaged-` and a number. A keyspace without keys is not
///   copied.
/// - Until a salvage has finished, `into` has a keyspace called [`SALVAGE_UNFINISHED`]. After an
///   interruption, repeat the salvage with the same `into`. It starts again, with an equal result.
/// - When it returns, all copied data is durable.
///
/// It takes at most 100 bytes of memory for each key that was ever written, and one value at a
/// time.
///
/// # Errors
///
/// `Locked` while the store is open; `NotFound` if there is none; `TooNew` if no part of it has a
/// known format; `Io` if the directory cannot be listed; every error of writing to `into`.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let damaged = directory.path().join("damaged");
/// # let store = mapcask::Store::open(&damaged)?;
/// # store.insert("key", "value")?;
/// # store.close()?;
/// let rescued = mapcask::Store::open(directory.path().join("rescued"))?;
/// let report = mapcask::salvage(&damaged, &rescued)?;
/// println!("{} keys came back, {} places are damaged", report.keys, report.damage.len());
/// # assert_eq!(rescued.get("key")?.as_deref(), Some(b"value".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "repair")]
pub fn salvage(from: impl AsRef<Path>, into: &Store) -> Result<SalvageReport> {
    let from = from.as_ref();
    salvage_from(Arc::new(RealDir::new(from).map_err(|error| Error::io("find", from, error))?), into)
}

/// Copies a damaged store as [`salvage`] does, from a simulated disk.
///
/// # Errors
///
/// Fails as [`salvage`] does.
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub fn salvage_on(from: &crate::fs::sim::SimDisk, into: &Store) -> Result<SalvageReport> {
    salvage_from(from.dir(), into)
}

fn salvage_from(dir: Arc<dyn Dir>, into: &Store) -> Result<SalvageReport> {
    into.engine().fork_guard.check()?;
    let dir: Arc<dyn Dir> = Arc::new(ReadOnlyDir::new(dir));
    // Before anything is read: a writer may be about to change it.
    let _lock = lock(dir.as_ref())?;
    let mut unread = [None, None];
    let survey = DirectoryScan::with(dir.as_ref(), |copy, error| {
        unread[copy] = Some(error);
        Ok(Copy::Broken(Defect::Truncated))
    })?;
    survey.check_not_removing(dir.as_ref())?;
    if survey.segments.is_empty() && survey.manifest().is_none() {
        return Err(survey.newer().map_or_else(
            || Error::NotFound { path: dir.path().to_owned() },
            |found| Error::TooNew {
                path: dir.path().join(MANIFESTS[0]),
                found: u32::from(found),
                supported: u32::from(READ_VERSION),
            },
        ));
    }
    let mark = into.with_durability(Durability::Disk);
    mark.keyspace(SALVAGE_UNFINISHED)?.insert("from", dir.path().as_os_str().as_encoded_bytes())?;

    let mut account = Account::default();
    let mut records = SalvagedRecords::new(dir.as_ref())?;
    // An open refuses a copy of the manifest that it cannot read.
    let is_readable = unread.iter().all(Option::is_none);
    note_copies(dir.as_ref(), &survey.copies, unread, &mut account);
    let fates = match is_readable.then(|| whole(&dir, &survey)).flatten() {
        Some((members, examined)) => {
            account.report.intact = true;
            for member in &members {
                account.report.intact &= records.read(dir.as_ref(), member, &mut account);
            }
            Fates::of_open(examined.keyspaces)
        }
        None => gather(dir.as_ref(), survey, &mut records, &mut account),
    };
    writing::write(dir.as_ref(), records, &fates, into, &mut account)?;
    into.flush()?;
    mark.drop_keyspace(SALVAGE_UNFINISHED)?;
    Ok(account.report)
}

/// Returns the segments that an open would read, or `None` if it would not accept the store.
fn whole(dir: &Arc<dyn Dir>, survey: &DirectoryScan) -> Option<(Vec<Member>, Examined)> {
    // The account reports the reasons for which an open refuses the store.
    let examined = examine(dir, survey).ok().flatten()?;
    if survey.manifest().is_some_and(|(manifest, _)| members::goes_on(dir.as_ref(), &manifest)) {
        return None;
    }
    let members = examined.segments.iter().map(|entry| Member::of_open(dir.as_ref(), entry).ok());
    Some((members.collect::<Option<_>>()?, examined))
}

/// Reads every record that can be read in a damaged store.
fn gather(
    dir: &dyn Dir,
    survey: DirectoryScan,
    records: &mut SalvagedRecords,
    account: &mut Account,
) -> Fates {
    let mut found = Vec::new();
    for id in &survey.segments {
        match FoundMembers::look(dir, *id) {
            Ok(file) => found.push(file),
            Err(damage) => {
                account.report.damage.push(damage);
                account.doubt(None);
            }
        }
    }
    let manifest = manifest_of(dir, survey.copies, &found, account);
    let store = members::store_of(&found, manifest.as_slice());
    let Members { live, retired } = members::choose(dir, &found, store, manifest.as_ref(), account);
    let mut whole = true;
    for member in &live {
        let is_whole = records.read(dir, member, account);
        whole &= is_whole || member.role == Role::Log;
    }
    let copies = manifest.iter().flat_map(|manifest| &manifest.segments);
    let mut copies = copies.filter(|entry| entry.role == Role::Copies);
    whole &= copies.all(|entry| {
        entry.state == SegmentState::Retired || live.iter().any(|member| member.nonce == entry.nonce)
    });
    if !whole {
        // Output of compaction is damaged, and all its victims are still there.
        for member in &retired {
            records.read(dir, member, account);
        }
    }
    let (last, durable) = records.ends();
    let proof = manifest.as_ref().and_then(|manifest| {
        let is_believed = |control: &ControlHeader, generation| {
            control.is_of(generation, manifest) && Some(control.boot_id) == dir.boot_id()
        };
        // A page that cannot be read proves nothing.
        let page = control_page::read(dir, is_believed).ok().and_then(|page| page.durable);
        page.max(Some(manifest.durable))
    });
    let durable = proof.map_or(durable, |proof| durable.max(proof));
    let last = manifest.as_ref().map_or(last, |manifest| last.max(manifest.retired_seq));
    if durable > last && account.doubt <= durable.0 {
        let defect = Defect::MissingRecords { last: last.0, durable: durable.0 };
        account.note(dir.path().to_owned(), 0, DamageCause::Defect(defect));
        account.doubt(Some(durable.0 + 1));
    }
    Fates::gathered(manifest.as_ref(), &mut records.changes)
}

/// Accounts for the copies of the manifest that are not whole.
fn note_copies(dir: &dyn Dir, copies: &[Copy; 2], unread: [Option<Error>; 2], account: &mut Account) {
    for (n, (copy, unread)) in copies.iter().zip(unread).enumerate() {
        let cause = match (copy, unread) {
            (Copy::Whole(_), _) => continue,
            (_, Some(error)) => DamageCause::Unreadable(error.to_string()),
            (Copy::Nothing, None) => DamageCause::Missing,
            (Copy::Broken(defect), None) => DamageCause::Defect(*defect),
            (Copy::Alien, None) => DamageCause::Defect(Defect::BadMagic),
            (Copy::Newer(version), None) => DamageCause::Newer(*version),
        };
        account.note(dir.path().join(MANIFESTS[n]), MANIFEST_HEADER_SIZE as u64, cause);
    }
}

/// Returns the newest whole manifest of the store.
fn manifest_of(
    dir: &dyn Dir,
    copies: [Copy; 2],
    found: &[FoundMembers],
    account: &mut Account,
) -> Option<Manifest> {
    let whole = |copy| if let Copy::Whole(manifest) = copy { Some(*manifest) } else { None };
    let copies = copies.map(whole);
    let manifests: Vec<Manifest> = copies.iter().flatten().cloned().collect();
    let store = members::store_of(found, &manifests);
    for (name, manifest) in MANIFESTS.into_iter().zip(&copies) {
        if manifest.as_ref().is_some_and(|manifest| Some(manifest.store) != store) {
            account.note(dir.path().join(name), 0, DamageCause::Foreign);
        }
    }
    let of_store = manifests.into_iter().filter(|manifest| Some(manifest.store) == store);
    let newest = of_store.max_by_key(|manifest| manifest.generation);
    if newest.is_none() {
        // The manifest records the drops, and the files that should exist.
        account.doubt(None);
    }
    newest
}

/// Keeps a writer out. Creates no lock file.
fn lock(dir: &dyn Dir) -> Result<Option<Box<dyn Lock>>> {
    match dir.lock(LOCK, Claim::Look, Duration::ZERO) {
        Ok(lock) => Ok(Some(lock)),
        // Either there is no directory, which is reported soon, or it is not writable and so has no
        // writer.
        Err(LockFailure::Io(error)) if is_no_place_for_writers(error.kind()) => Ok(None),
        Err(failure) => Err(lock_failed(dir, failure)),
    }
}

fn is_no_place_for_writers(kind: ErrorKind) -> bool {
    use ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(kind, NotFound | NotADirectory | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}
