//! Opening a store: scan the directory, decide by tables, read the log, and only then change
//! anything.
//!
//! **Order.**
//!
//! 1. If the directory does not look like a store, scan it and decide (`decision::directory`)
//!    before touching the lock file.
//! 2. Take the lock, scan and decide. If there is no store, create one.
//! 3. Choose the newest whole copy of the manifest.
//! 4. Decide about the files that it does not name (`decision::unlisted`).
//! 5. Read the log, collect the proofs of durability, and decide where the log ends
//!    (`decision::stop`).
//! 6. Copy complete records behind the cut into quarantine.
//! 7. Write the manifest.
//! 8. Rename the quarantined segments, and remove what is not needed.
//! 9. Continue in the segment that a clean close left, or begin a new one.
//! 10. Rewrite and sync what was read above the durable point (`log::rewrite`). The worker or the
//!     first sync does this.
//!
//! In an existing store, steps 1 to 5 touch only the lock file, so a refusal leaves everything
//! unchanged. If everything is as a clean close left it, steps 6 to 8 are skipped: the first write
//! updates the manifest. After a kill, steps 7 to 9 may wait for the worker or the first write
//! (`RecoveredParts::can_wait`).
//!
//! **Invariants.** I5 (sequence numbers start above every number that was ever assigned), I8 (a cut
//! segment is never appended to, and its end is in the manifest before anything else is written),
//! I9. Recovery is idempotent: after a crash during recovery, the next open reaches the same state.
//!
//! **Crash points.** `recovery-aside`, `recovery-manifest`, `recovery-renamed`.

pub(crate) mod analysis;
pub(crate) mod attach;
pub(crate) mod build_context;
mod build_findings;
mod chain_link;
pub(crate) mod decision;
pub(crate) mod directory;
pub(crate) mod hinted_parts;
mod hints;
pub(crate) mod index_builder;
pub(crate) mod index_builders;
pub(crate) mod quarantine;
mod read_ahead;
mod read_only;
mod record_batch;
pub(crate) mod recovered;
mod recovered_parts;
pub(crate) mod replay;
pub(crate) mod report;
mod restore;
mod segment_chain;
mod sorted_records;
pub(crate) mod tail_findings;
mod tree_filling;
mod word_plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::hinted_parts::HintedParts;
use self::recovered::RecoveredKeyspace;
use self::recovered_parts::{Built, RecoveredParts, numbers_behind};
use self::replay::Replayed;
use self::report::RecoveryReport;
use crate::config::{Config, Durability};
use crate::error::{Error, Result};
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::control_page::ControlHeader;
use crate::format::file_name::{LOCK, MANIFESTS};
use crate::format::hash::{HASH_ID, HashKey};
use crate::format::keyspace_change::{KeyspaceChange, KeyspaceSet};
use crate::format::manifest::Manifest;
use crate::format::{Defect, READ_VERSION, SegmentId, Seq, StoreId};
use crate::fs::{Claim, Dir, Lock, LockFailure};
use crate::log::allocator::SegmentAllocator;
use crate::log::context::LogContext;
use crate::log::control_page::ControlPage;
use crate::log::group_commit::GroupCommit;
use crate::log::manifest::ManifestStore;
use crate::log::segment::{Prefault, Segment};
use crate::log::sync_plan::SegmentRange;
use crate::log::writer::{LogEnd, Tail};
use crate::mem::PAGE_SIZE;
use crate::recovery::analysis::{Analysis, Read};
use crate::recovery::decision::{DirectoryAction, directory};
use crate::recovery::directory::{DirectoryScan, check_medium};
use crate::recovery::quarantine::{
    quarantine_file, quarantine_tail, remove, remove_checkpoints, remove_hints,
};

/// An opened store, before the public handle is built around it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) shared: LogContext,
    pub(crate) lock: Box<dyn Lock>,
    pub(crate) control: Arc<ControlPage>,
    pub(crate) hash_key: HashKey,
    pub(crate) keyspaces: Vec<RecoveredKeyspace>,
    /// The names of the keyspaces, according to the log.
    pub(crate) names: KeyspaceSet,
    /// Changes to the keyspaces that the manifest does not contain yet.
    pub(crate) pending: Vec<(Seq, KeyspaceChange)>,
    pub(crate) tail: Tail,
    pub(crate) ready: Vec<Arc<Segment>>,
    pub(crate) prefault: Prefault,
    pub(crate) unsynced: Vec<SegmentRange>,
    /// The checkpoint that the indexes were loaded from.
    pub(crate) checkpoint: Option<IndexCheckpoint>,
    /// The records that are not in the indexes yet.
    pub(crate) hinted: Option<HintedParts>,
    /// The segments that have hints.
    pub(crate) hint_files: BTreeSet<SegmentId>,
    /// If the open waits: the segments whose files are to be removed then, with their nonces.
    pub(crate) waiting: Option<Vec<(SegmentId, u64)>>,
    pub(crate) report: RecoveryReport,
}

/// Opens or creates the store in a directory.
///
/// # Errors
///
/// See [`Options::open`](crate::Options::open).
pub(crate) fn open(dir: Arc<dyn Dir>, config: &Config) -> Result<Recovered> {
    config.check()?;
    // A full scan waits for the lock. It comes first only where the directory may not be a store.
    let first = match DirectoryScan::is_store(dir.as_ref()) {
        true => DirectoryAction::Open,
        false => decide_directory(dir.as_ref(), &DirectoryScan::of(dir.as_ref())?, config)?,
    };
    check_medium(dir.as_ref())?;
    let create_dir = || dir.create_dir().map_err(|error| Error::io("create", dir.path(), error));
    if first == DirectoryAction::Create {
        create_dir()?;
    }
    let lock = take_lock(dir.as_ref(), config).or_else(|error| {
        // A directory without a store to open is the more important error.
        decide_directory(dir.as_ref(), &DirectoryScan::of(dir.as_ref())?, config)?;
        Err(error)
    })?;
    // Another process may have changed the directory before it released the lock.
    let mut survey = DirectoryScan::of(dir.as_ref())?;
    let created = decide_directory(dir.as_ref(), &survey, config)? == DirectoryAction::Create;
    if created {
        if first != DirectoryAction::Create {
            // The directory was emptied meanwhile, or no store in it was ever finished.
            create_dir()?;
        }
        create(dir.as_ref(), &survey)?;
        survey = DirectoryScan::of(dir.as_ref())?;
    }
    open_store(dir, config, &survey, lock, created)
}

/// Applies the table of directories.
pub(crate) fn decide_directory(
    dir: &dyn Dir,
    survey: &DirectoryScan,
    config: &Config,
) -> Result<DirectoryAction> {
    let path = dir.path();
    survey.check_not_removing(dir)?;
    match directory(survey.facts()) {
        DirectoryAction::Create if !config.create => Err(Error::NotFound { path: path.to_owned() }),
        action @ (DirectoryAction::Create | DirectoryAction::Open) => Ok(action),
        DirectoryAction::RefuseForeign => {
            let found = survey.foreign.clone().unwrap_or_else(|| MANIFESTS[0].to_owned());
            Err(Error::Foreign { path: path.to_owned(), found })
        }
        DirectoryAction::RefuseNewer => Err(Error::TooNew {
            path: path.join(MANIFESTS[0]),
            found: u32::from(survey.newer().unwrap_or(u16::MAX)),
            supported: u32::from(READ_VERSION),
        }),
        DirectoryAction::RefuseLost => {
            let (copy, defect) = survey.damage().unwrap_or((0, Defect::Truncated));
            Err(Error::Corrupt { path: path.join(MANIFESTS[copy]), offset: 0, defect })
        }
    }
}

fn take_lock(dir: &dyn Dir, config: &Config) -> Result<Box<dyn Lock>> {
    let note = format!("{}\n", std::process::id());
    let claim = if config.read_only { Claim::Look } else { Claim::Write(note.as_bytes()) };
    dir.lock(LOCK, claim, config.wait_for_lock).map_err(|failure| match failure {
        LockFailure::Io(error) if config.read_only => Error::io("lock", dir.path().join(LOCK), error),
        failure => lock_failed(dir, failure),
    })
}

/// Returns the error for a lock that was not obtained.
pub(crate) fn lock_failed(dir: &dyn Dir, failure: LockFailure) -> Error {
    match failure {
        LockFailure::Held(note) => {
            let line = std::str::from_utf8(&note).ok().and_then(|note| note.lines().next());
            let pid = line.and_then(|line| line.trim().parse().ok());
            Error::Locked { path: dir.path().to_owned(), pid }
        }
        LockFailure::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Error::ReadOnly { path: dir.path().to_owned() }
        }
        LockFailure::Io(error) => Error::io("lock", dir.path().join(LOCK), error),
    }
}

/// Makes the two copies of the manifest of an empty store durable. It overwrites only what an
/// unfinished attempt left.
fn create(dir: &dyn Dir, survey: &DirectoryScan) -> Result<()> {
    let random = |bytes: &mut [u8]| {
        dir.random(bytes).map_err(|error| Error::io("draw random bytes for", dir.path(), error))
    };
    let mut store = [0; 16];
    let mut secret = [0; 32];
    random(&mut store)?;
    random(&mut secret)?;
    let manifest = Manifest {
        generation: 1,
        store: StoreId(store),
        hash_id: HASH_ID,
        secret,
        clean: true,
        next_segment: SegmentId(1),
        incarnation: 0,
        durable: Seq::ZERO,
        next_seq: Seq(1),
        segments: Vec::new(),
        retired_seq: Seq::ZERO,
        checkpoint: 0,
        keyspaces: KeyspaceSet::new(),
    };
    let bytes = manifest.encode();
    for (copy, name) in MANIFESTS.into_iter().enumerate() {
        let io = |operation, error| Error::io(operation, dir.path().join(name), error);
        // A copy found in the scan holds nothing. Any other must still not exist.
        let file =
            if survey.has_copy(copy) { dir.open(name, crate::fs::Access::Write) } else { dir.create(name) };
        let file = file.map_err(|error| io("create", error))?;
        if file.identity().map_err(|error| io("look at", error))?.size == 0 {
            // This reserves its block, and a copy-on-write file system then writes it in place.
            file.allocate(PAGE_SIZE as u64)
                .map_err(|error| Error::allocating(PAGE_SIZE as u64, dir.path().join(name), error))?;
        }
        file.write_at(&bytes, 0).map_err(|error| io("write", error))?;
        file.sync().map_err(|error| io("sync", error))?;
    }
    dir.sync().map_err(|error| Error::io("sync", dir.path(), error))
}

fn open_store(
    dir: Arc<dyn Dir>,
    config: &Config,
    survey: &DirectoryScan,
    lock: Box<dyn Lock>,
    created: bool,
) -> Result<Recovered> {
    if survey.is_mixed() {
        return Err(Error::ForeignFile { path: dir.path().join(MANIFESTS[1]) });
    }
    let (manifest, suspect) = survey.manifest().expect("the table opens where a copy is whole");
    let Analysis { entries, unlisted, boot_id, has_cache, read, hash_key } =
        Analysis::read(&dir, survey, &manifest, suspect == [false; 2], config, true)?;
    let Read { space, mut chain, replayed, checkpoint } = read;

    chain.quarantined.extend_from_slice(&unlisted.quarantined);
    let repeated = unlisted.repeated;
    let unseen = numbers_behind(&entries);
    if !unlisted.adopted.is_empty() && !config.read_only {
        // Its creator may have died between the rename and the sync of the directory (I6).
        dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    }
    let found = RecoveredParts { manifest, suspect, chain, repeated, unseen, boot_id, has_cache, created };
    let built = Built { space, hash_key, replayed, checkpoint, lock };
    match config.read_only {
        true => read_only::apply(dir, survey, found, built),
        false => apply(dir, config, survey, found, built),
    }
}

/// Carries out the decisions. From here on files are changed.
fn apply(
    dir: Arc<dyn Dir>,
    config: &Config,
    survey: &DirectoryScan,
    mut found: RecoveredParts,
    mut built: Built,
) -> Result<Recovered> {
    let as_closed = found.is_as_closed(survey, built.checkpoint.as_ref());
    let can_wait = found.can_wait(survey, built.checkpoint.as_ref());
    found.update_manifest(dir.as_ref(), survey, &mut built)?;
    let RecoveredParts { manifest, suspect, chain, repeated, boot_id, created, .. } = found;
    let Built { space, hash_key, replayed, checkpoint, lock } = built;
    let Replayed { keyspaces, names, pending, durable, hinted, mut report, .. } = replayed;
    for aside in &chain.asides {
        report.quarantined.extend(quarantine_tail(dir.as_ref(), aside)?);
    }
    dir.crash_point("recovery-aside");

    report.clean = manifest.clean;
    let (store, next_seq) = (manifest.store, manifest.next_seq);
    let commit = Arc::new(GroupCommit::new(durable));
    let manifest = ManifestStore::open(&dir, &commit, manifest, suspect, created)?;
    let incarnation = manifest.read(|manifest| manifest.incarnation);
    if !as_closed && !can_wait {
        manifest.begin().map_err(Error::into_cause)?;
    }
    dir.crash_point("recovery-manifest");
    report.quarantined.extend(quarantine_file(dir.as_ref(), survey, &chain.quarantined)?);
    remove_checkpoints(dir.as_ref(), survey, checkpoint.as_ref())?;
    remove_hints(dir.as_ref(), survey, &chain.hinted);
    dir.crash_point("recovery-renamed");
    if !can_wait {
        remove(dir.as_ref(), &manifest, &chain.retired, &repeated)?;
    }

    let header = control_header(dir.as_ref(), store, boot_id, incarnation)?;
    let control =
        manifest.announce_on(|generation| ControlPage::create(dir.as_ref(), &header, durable, generation))?;
    let segments = chain.segments.into_iter().map(|segment| (segment.id(), segment)).collect();
    let shared = LogContext::new(dir, store, space, manifest, commit, segments);

    let prefault = if config.durability == Durability::Disk { Prefault::Small } else { Prefault::Large };
    let mut ready = chain.ready;
    let start = FirstSegment { previous: chain.previous, next_seq, incarnation, durable, last: chain.last };
    let tail = tail(&shared, config, prefault, &mut ready, Resume::of(can_wait, chain.resume), start)?;
    report.created = created;
    report.incarnation = incarnation;
    report.durable_seq = durable.0;
    report.segments = shared.segments.read().len();
    report.rewritten_bytes = chain.unsynced.iter().map(|range| range.to - range.from).sum();
    Ok(Recovered {
        shared,
        lock,
        control,
        hash_key,
        keyspaces,
        names,
        pending,
        tail,
        ready,
        prefault,
        unsynced: chain.unsynced,
        checkpoint,
        hinted,
        hint_files: chain.hinted,
        waiting: can_wait.then_some(chain.retired),
        report,
    })
}

/// Returns the fixed part of the control page, which other processes map.
fn control_header(
    dir: &dyn Dir,
    store: StoreId,
    boot_id: Option<[u8; 16]>,
    incarnation: u64,
) -> Result<ControlHeader> {
    let mut writer_nonce = [0; 8];
    dir.random(&mut writer_nonce).map_err(|error| Error::io("draw random bytes for", dir.path(), error))?;
    let writer_nonce = u64::from_le_bytes(writer_nonce);
    Ok(ControlHeader { store, boot_id: boot_id.unwrap_or([0; 16]), incarnation, writer_nonce })
}

/// The position that the log continues from, in any segment.
struct FirstSegment {
    previous: Option<LogEnd>,
    next_seq: Seq,
    incarnation: u64,
    durable: Seq,
    last: Seq,
}

/// The place in which the log goes on.
enum Resume {
    /// The segment that a clean close left, at its end.
    In(Arc<Segment>, u64),
    /// A new segment.
    InNew,
    /// A new segment, once the findings are written.
    Later,
}

impl Resume {
    fn of(can_wait: bool, closed_in: Option<(Arc<Segment>, u64)>) -> Self {
        match closed_in {
            _ if can_wait => Self::Later,
            Some((segment, offset)) => Self::In(segment, offset),
            None => Self::InNew,
        }
    }
}

/// Returns the tail of the log.
fn tail(
    shared: &LogContext,
    config: &Config,
    prefault: Prefault,
    ready: &mut Vec<Arc<Segment>>,
    resume: Resume,
    start: FirstSegment,
) -> Result<Tail> {
    let FirstSegment { previous, next_seq, incarnation, durable, last } = start;
    // Of a log without a segment, nothing but its last number is known.
    let behind = previous.unwrap_or(LogEnd { segment: SegmentId(0), offset: 0, last });
    let (segment, offset, previous) = match resume {
        Resume::In(segment, offset) => (segment, offset, None),
        Resume::Later => (Segment::nowhere(&shared.space, shared.dir.path())?, 0, Some(behind)),
        Resume::InNew => {
            let segment = match first_segment(shared, config, prefault, ready) {
                // Other programs have filled the disk. The store can still be read, and the first
                // write tries again.
                Err(error) if error.is_about_room() && !shared.segments.read().is_empty() => {
                    crate::trace::no_segment(&error);
                    Segment::nowhere(&shared.space, shared.dir.path())?
                }
                made => made?,
            };
            let offset = segment.data_offset();
            (segment, offset, Some(behind))
        }
    };
    segment.resume_at(offset, prefault);
    Ok(Tail { segment, offset, previous, next_seq, incarnation, durable, last })
}

/// Returns the segment that a new incarnation begins with: a preallocated one, or a new one.
fn first_segment(
    shared: &LogContext,
    config: &Config,
    prefault: Prefault,
    ready: &mut Vec<Arc<Segment>>,
) -> Result<Arc<Segment>> {
    if !ready.is_empty() {
        return Ok(ready.remove(0));
    }
    SegmentAllocator::make_first(shared, config, prefault)
}
