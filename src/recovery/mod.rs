//! Opening a store: finding out what is there, deciding by tables, reading it back, and only then changing anything.
//!
//! **Order.** Where the directory does not look like a store's, survey it and decide (`decision::directory`), before the lock
//! file is touched; take the lock, survey and decide; choose a copy of the manifest; decide about files it does not name
//! (`decision::unlisted`); read the log and decide where it ends (`decision::stop`); copy aside what lies behind a cut; write
//! the manifest; rename what was set aside. Up to the last three steps nothing but the lock file has been touched, so a refusal
//! leaves everything as it was. Where everything is as a clean close left it, none of the three is taken: the manifest
//! waits for the first write.
//!
//! **Invariants.** I5 (sequence numbers start above everything that was ever given out), I8 (a cut segment is never
//! appended to, and its end is in the manifest before anything else is written), I9. Recovery is idempotent: a crash
//! in it leads to the same state, however often.
//!
//! **Crash points.** `recovery-aside`, `recovery-manifest`, `recovery-renamed`.

pub(crate) mod analysis;
pub(crate) mod decision;
pub(crate) mod directory;
mod from_checkpoint;
mod index_builder;
mod quarantine;
mod read_only;
mod reader_pool;
mod record_batch;
pub(crate) mod recovered;
pub(crate) mod replay;
pub(crate) mod report;
mod segment_chain;
pub(crate) mod tail_scan;

use std::sync::Arc;

use self::recovered::RecoveredKeyspace;
use self::replay::Replayed;
use self::report::RecoveryReport;
use crate::config::{Config, Durability};
use crate::error::{Error, Resource, Result};
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::control_page::ControlHeader;
use crate::format::file_name::{LOCK, MANIFESTS};
use crate::format::hash::{HASH_ID, HashKey};
use crate::format::keyspace_change::{KeyspaceChange, KeyspaceSet};
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::HEADER_SIZE;
use crate::format::{Defect, READ_VERSION, SegmentId, Seq, StoreId};
use crate::fs::{Claim, Dir, Lock, LockFailure, Medium};
use crate::log::allocator::SegmentAllocator;
use crate::log::context::LogContext;
use crate::log::control_page::ControlPage;
use crate::log::group_commit::GroupCommit;
use crate::log::manifest::ManifestStore;
use crate::log::segment::{Prefault, Segment};
use crate::log::sync_plan::SegmentRange;
use crate::log::writer::Tail;
use crate::mem::address_space::AddressSpace;
use crate::mem::mapping::PAGE_SIZE;
use crate::recovery::analysis::{Analysis, Read};
use crate::recovery::decision::{DirectoryAction, directory};
use crate::recovery::directory::DirectoryScan;
use crate::recovery::quarantine::{quarantine_file, quarantine_tail, remove, remove_checkpoints};
use crate::recovery::segment_chain::SegmentChain;

/// An opened store, before it has its face.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) shared: LogContext,
    pub(crate) lock: Box<dyn Lock>,
    pub(crate) control: ControlPage,
    pub(crate) hash_key: HashKey,
    pub(crate) keyspaces: Vec<RecoveredKeyspace>,
    /// The names of the keyspaces, as the log has them.
    pub(crate) names: KeyspaceSet,
    /// Changes to the keyspaces that the manifest does not have yet.
    pub(crate) pending: Vec<(Seq, KeyspaceChange)>,
    pub(crate) tail: Tail,
    pub(crate) ready: Vec<Arc<Segment>>,
    pub(crate) prefault: Prefault,
    pub(crate) unsynced: Vec<SegmentRange>,
    /// The image that the indexes came from.
    pub(crate) checkpoint: Option<IndexCheckpoint>,
    pub(crate) report: RecoveryReport,
}

/// Opens or creates the store in a directory.
///
/// # Errors
///
/// See [`Options::open`](crate::Options::open).
pub(crate) fn open(dir: Arc<dyn Dir>, config: &Config) -> Result<Recovered> {
    config.check()?;
    // Looked through as a whole once the lock is there, and before only where there may be something else than a store.
    let first = match DirectoryScan::is_store(dir.as_ref()) {
        true => DirectoryAction::Open,
        false => decide_directory(dir.as_ref(), &DirectoryScan::of(dir.as_ref())?, config)?,
    };
    if let Medium::Network(kind) = dir.medium().map_err(|error| Error::io("look at", dir.path(), error))? {
        return Err(Error::UnsupportedFileSystem { path: dir.path().to_owned(), kind });
    }
    let create_dir = || dir.create_dir().map_err(|error| Error::io("create", dir.path(), error));
    if first == DirectoryAction::Create {
        create_dir()?;
    }
    let lock = take_lock(dir.as_ref(), config).or_else(|error| {
        // Where there is no store to be opened, that comes first.
        decide_directory(dir.as_ref(), &DirectoryScan::of(dir.as_ref())?, config)?;
        Err(error)
    })?;
    // What another process did before it let go of the lock.
    let mut survey = DirectoryScan::of(dir.as_ref())?;
    let created = decide_directory(dir.as_ref(), &survey, config)? == DirectoryAction::Create;
    if created {
        if first != DirectoryAction::Create {
            // Somebody has emptied it meanwhile, or nothing was ever finished there.
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

/// The error of whoever did not get the lock.
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

/// Makes the two copies of the manifest of an empty store, durably; over nothing but what an unfinished attempt left.
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
        // One that was found holds nothing; one that was not must still not be there.
        let file =
            if survey.has_copy(copy) { dir.open(name, crate::fs::Access::Write) } else { dir.create(name) };
        let file = file.map_err(|error| io("create", error))?;
        if file.identity().map_err(|error| io("look at", error))?.size == 0 {
            // With its block reserved, and on a file system that copies on write, to be written in place.
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
    let Analysis { entries, unlisted, boot_id, read, hash_key } =
        Analysis::read(&dir, survey, &manifest, suspect == [false; 2], config, true)?;
    let Read { space, mut chain, replayed, checkpoint } = read;

    chain.quarantined.extend_from_slice(&unlisted.quarantined);
    let repeated = unlisted.repeated;
    let unseen = numbers_behind(&entries);
    if !unlisted.adopted.is_empty() && !config.read_only {
        // Its maker may have died between the rename and the sync of the directory (I6).
        dir.sync().map_err(|error| Error::io("sync", dir.path(), error))?;
    }
    let found = RecoveredParts { manifest, suspect, chain, repeated, unseen, boot_id, created };
    let built = Built { space, hash_key, replayed, checkpoint, lock };
    match config.read_only {
        true => read_only::apply(dir, survey, found, built),
        false => apply(dir, config, survey, found, built),
    }
}

/// What was found on the disk.
struct RecoveredParts {
    manifest: Manifest,
    suspect: [bool; 2],
    chain: SegmentChain,
    /// Segments that repeat what is in others.
    repeated: Vec<SegmentId>,
    /// Sequence numbers of records that may have been behind the end of the log.
    unseen: u64,
    boot_id: Option<[u8; 16]>,
    /// This open has made the store, durably.
    created: bool,
}

impl RecoveredParts {
    /// Whether everything is as a clean close left it, so that nothing on the disk need change before the first write.
    fn is_as_closed(&self, survey: &DirectoryScan, checkpoint: Option<&IndexCheckpoint>) -> bool {
        let Self { manifest, suspect, chain, repeated, .. } = self;
        let named = checkpoint.map_or(0, |checkpoint| checkpoint.number);
        manifest.clean
            && *suspect == [false; 2]
            && chain.resume.is_some()
            && chain.entries == manifest.segments
            && chain.retired.is_empty()
            && chain.quarantined.is_empty()
            && chain.asides.is_empty()
            && repeated.is_empty()
            && survey.temporaries.is_empty()
            && named == manifest.checkpoint
            && survey.checkpoints.iter().all(|number| *number == named)
    }
}

/// What was built in memory.
struct Built {
    space: AddressSpace,
    hash_key: HashKey,
    replayed: Replayed,
    checkpoint: Option<IndexCheckpoint>,
    lock: Box<dyn Lock>,
}

/// Carries out what was decided: from here on files are changed.
fn apply(
    dir: Arc<dyn Dir>,
    config: &Config,
    survey: &DirectoryScan,
    found: RecoveredParts,
    built: Built,
) -> Result<Recovered> {
    let as_closed = found.is_as_closed(survey, built.checkpoint.as_ref());
    let RecoveredParts { mut manifest, suspect, chain, repeated, unseen, boot_id, created } = found;
    let Built { space, hash_key, replayed, checkpoint, lock } = built;
    let Replayed { keyspaces, names, durable_names, pending, durable, mut report } = replayed;
    let next_seq = next_seq(dir.as_ref(), &manifest, &chain, durable, unseen)?;
    manifest.next_seq = next_seq;
    count_on(dir.as_ref(), survey, &mut manifest)?;
    for aside in &chain.asides {
        report.quarantined.extend(quarantine_tail(dir.as_ref(), aside)?);
    }
    dir.crash_point("recovery-aside");

    report.clean = manifest.clean;
    manifest.segments = chain.entries;
    manifest.retired_seq = chain.retired_seq;
    manifest.clean = false;
    manifest.incarnation += 1;
    manifest.durable = durable;
    manifest.keyspaces = durable_names;
    manifest.checkpoint = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.number);
    let (incarnation, store) = (manifest.incarnation, manifest.store);
    let commit = Arc::new(GroupCommit::new(durable));
    let manifest = ManifestStore::open(&dir, &commit, manifest, suspect, created)?;
    if !as_closed {
        manifest.begin().map_err(Error::into_cause)?;
    }
    dir.crash_point("recovery-manifest");
    report.quarantined.extend(quarantine_file(dir.as_ref(), survey, &chain.quarantined)?);
    remove_checkpoints(dir.as_ref(), survey, checkpoint.as_ref())?;
    dir.crash_point("recovery-renamed");
    remove(dir.as_ref(), &manifest, &chain.retired, &repeated)?;

    let control = control_page(dir.as_ref(), store, boot_id, incarnation, durable)?;
    let segments = chain.segments.into_iter().map(|segment| (segment.id(), segment)).collect();
    let shared = LogContext::new(dir, store, space, manifest, commit, segments);

    let prefault = if config.durability == Durability::Disk { Prefault::Small } else { Prefault::Large };
    let mut ready = chain.ready;
    let start = FirstSegment { previous: chain.previous, next_seq, incarnation, durable, last: chain.last };
    let tail = tail(&shared, config, prefault, &mut ready, chain.resume, start)?;
    let unsynced = chain.unsynced;
    report.created = created;
    report.incarnation = incarnation;
    report.durable_seq = durable.0;
    report.segments = shared.segments.read().len();
    report.rewritten_bytes = unsynced.iter().map(|range| range.to - range.from).sum();
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
        unsynced,
        checkpoint,
        report,
    })
}

/// Gives out no segment number twice, and refuses numbers that cannot be counted on.
fn count_on(dir: &dyn Dir, survey: &DirectoryScan, manifest: &mut Manifest) -> Result<()> {
    let highest = survey.segments.last().copied().unwrap_or(SegmentId(0));
    manifest.next_segment = manifest.next_segment.max(SegmentId(highest.0.saturating_add(1)));
    manifest.check_room().map_err(|defect| {
        let path = dir.path().join(MANIFESTS[0]);
        Error::Corrupt { path, offset: 0, defect }
    })
}

/// Makes the page that other processes map.
fn control_page(
    dir: &dyn Dir,
    store: StoreId,
    boot_id: Option<[u8; 16]>,
    incarnation: u64,
    durable: Seq,
) -> Result<ControlPage> {
    let mut writer_nonce = [0; 8];
    dir.random(&mut writer_nonce).map_err(|error| Error::io("draw random bytes for", dir.path(), error))?;
    let writer_nonce = u64::from_le_bytes(writer_nonce);
    let control = ControlHeader { store, boot_id: boot_id.unwrap_or([0; 16]), incarnation, writer_nonce };
    ControlPage::create(dir, &control, durable)
}

/// The first number of the new incarnation: after an unclean end, above everything that can have been given out.
///
/// # Errors
///
/// `Corrupt` where a closed store holds a number that its close did not know of.
fn next_seq(
    dir: &dyn Dir,
    manifest: &Manifest,
    chain: &SegmentChain,
    durable: Seq,
    unseen: u64,
) -> Result<Seq> {
    // A number that compaction filtered by is never given out again, whether its record is there or not.
    let filtered = chain.entries.iter().map(|entry| entry.filtered.max(entry.last_seq)).max();
    let seen = chain.last.max(chain.seen).max(durable).max(filtered.unwrap_or(Seq::ZERO));
    let next = manifest.next_seq.max(seen.next());
    if !manifest.clean {
        // Past what a number can be it is refused, and not given out.
        return Ok(Seq(next.0.saturating_add(unseen).saturating_add(1)));
    }
    if chain.resume.is_some() && next != manifest.next_seq {
        // A greater number than the close knew of: the log could not go on where it stopped.
        let (path, defect) = (dir.path().join(MANIFESTS[0]), Defect::BadField("next_seq"));
        return Err(Error::Corrupt { path, offset: 0, defect });
    }
    Ok(next)
}

/// How many records may have been behind the end of the log: in each segment that was written to, adopted ones included, one
/// for each of its smallest possible places.
fn numbers_behind(entries: &[SegmentEntry]) -> u64 {
    let written = entries.iter().filter(|entry| entry.state != SegmentState::Sealed);
    written.map(|entry| entry.size / HEADER_SIZE as u64).fold(0, u64::saturating_add)
}

/// What the log goes on from, whichever segment it goes on in.
struct FirstSegment {
    previous: Option<(SegmentId, u64)>,
    next_seq: Seq,
    incarnation: u64,
    durable: Seq,
    last: Seq,
}

/// Where the log goes on: in the segment that a clean close left, or a new one.
fn tail(
    shared: &LogContext,
    config: &Config,
    prefault: Prefault,
    ready: &mut Vec<Arc<Segment>>,
    resume: Option<(Arc<Segment>, u64)>,
    start: FirstSegment,
) -> Result<Tail> {
    let FirstSegment { previous, next_seq, incarnation, durable, last } = start;
    let (segment, offset, previous) = match resume {
        Some((segment, offset)) => (segment, offset, None),
        None => {
            let segment = match first_segment(shared, config, prefault, ready) {
                // Others have filled the disk: the store can be read all the same, and the first write tries again.
                Err(error) if is_about_room(&error) && !shared.segments.read().is_empty() => {
                    crate::trace::no_segment(&error);
                    Segment::nowhere(&shared.space, shared.dir.path())?
                }
                made => made?,
            };
            let offset = segment.data_offset();
            (segment, offset, Some(previous.unwrap_or((SegmentId(0), 0))))
        }
    };
    segment.resume_at(offset);
    Ok(Tail { segment, offset, previous, next_seq, incarnation, durable, last })
}

/// True where a file could not be made for want of room.
fn is_about_room(error: &Error) -> bool {
    let resource = if let Error::Exhausted { resource, .. } = error { Some(resource) } else { None };
    matches!(error, Error::NoSpace { .. }) || matches!(resource, Some(Resource::Files | Resource::FileSize))
}

/// The segment that a new incarnation begins with: one that is ready, or a new one.
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
