//! Attaching to a store that another process may be writing to: reading it without changing
//! anything, and finding the place from which to follow its log.
//!
//! It differs from an open in three ways:
//!
//! - It takes no lock and ignores files that the manifest does not name. No such file holds a
//!   record that counts (I6).
//! - It does not judge where the log ends. The log ends where the first word of the next record is
//!   zero. An open after a crash stops at the same byte, because it reads by the same rules.
//! - It maps every segment before it reads any, and reads the mappings, so that compaction can take
//!   nothing away. A segment that vanishes before it is mapped has been replaced, and a newer
//!   manifest says by which.
//!
//! **Order.** The manifest first, the log second. Compaction leaves a record out only if a later
//! record hides it, and makes that one durable before the manifest names the copies. So the log
//! that is read after the manifest holds it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use super::chain_link::{ChainLink, Links, begin};
use super::decision::{DirectoryAction, Known, NextSegment};
use super::directory::{DirectoryScan, check_medium, read_manifest};
use super::read_ahead;
use super::read_ahead::ReadAhead;
use super::record_batch::Begin;
use super::replay::{Replay, Replayed};
use super::restore::Restore;
use super::segment_chain::{LOAD_ALL, SegmentChain, known_of, look_behind, next_of};
use super::tail_findings::start_of;
use super::{Recovered, decide_directory};
use crate::config::Config;
use crate::error::{Error, RESERVE_ADDRESSES, Result};
use crate::format::file_name::MANIFESTS;
use crate::format::hash::{HASH_ID, HashKey};
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::Dir;
use crate::fs::read_only::Unlocked;
use crate::index::checkpoint::is_of_checkpoint;
use crate::log::context::LogContext;
use crate::log::control_page::{ControlPage, ControlReader};
use crate::log::group_commit::GroupCommit;
use crate::log::manifest::ManifestStore;
use crate::log::segment::{Prefault, Segment};
use crate::log::segment_reader::SegmentReader;
use crate::log::writer::Tail;
use crate::mem::address_space::AddressSpace;

/// The most attempts to read a store whose files are replaced meanwhile.
const ATTEMPTS: usize = 100;

/// The place in the log up to which a follower has read.
#[derive(Debug, Clone)]
pub(crate) struct LogPlace {
    pub(crate) segment: Arc<Segment>,
    /// The offset of the next record, in bytes.
    pub(crate) offset: u64,
    /// The number of the record before it. `None` at the first record of a segment.
    pub(crate) last: Option<Seq>,
    /// True if the segment holds a record that is not one of the log's own.
    pub(crate) is_used: bool,
}

/// A store as a follower first finds it.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) recovered: Recovered,
    pub(crate) manifest: Manifest,
    /// The place to follow from. `None` in a store without a record.
    pub(crate) place: Option<LogPlace>,
    /// The last segment before the place that holds a user's record, and its end.
    pub(crate) before: Option<(SegmentId, u64)>,
}

/// The contents of a store, read anew into the address space of a follower.
#[derive(Debug)]
pub(crate) struct Reread {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) replayed: Replayed,
    pub(crate) last: Seq,
    pub(crate) place: Option<LogPlace>,
    pub(crate) before: Option<(SegmentId, u64)>,
}

/// Attaches to the store in a directory, which only offers reading.
///
/// # Errors
///
/// See [`Follower::open`](crate::Follower::open).
pub(crate) fn attach(dir: &Arc<dyn Dir>, config: &Config) -> Result<Attached> {
    config.check()?;
    check_medium(dir.as_ref())?;
    attempt(dir, config, |manifest| match attach_once(dir, config, manifest, manifest.checkpoint > 0) {
        Err(error) if is_of_checkpoint(&error) && is_current(dir.as_ref(), manifest)? => {
            crate::trace::checkpoint_unusable(&error);
            attach_once(dir, config, manifest, false)
        }
        other => other,
    })
}

/// Finds the store in a directory. Returns its newest manifest.
///
/// # Errors
///
/// The errors of [`attach`] about the directory.
pub(crate) fn find(dir: &dyn Dir) -> Result<Manifest> {
    check_medium(dir)?;
    newest(dir, &Config::default())
}

/// Reads the whole log of a store into an address space that is in use.
///
/// # Errors
///
/// The errors of [`attach`].
pub(crate) fn reread(
    dir: &Arc<dyn Dir>,
    config: &Config,
    space: &AddressSpace,
    hash_key: &HashKey,
) -> Result<Reread> {
    attempt(dir, config, |manifest| {
        let mut replay =
            Replay::new(dir.as_ref(), space, hash_key, manifest, manifest.durable, &config.recovery_progress);
        let mut log = LiveLog::new(dir.as_ref(), manifest, config);
        let told = log.told_durable()?;
        let read = log.read(None, &mut replay).and_then(|()| replay.finish());
        let read = read.and_then(|replayed| {
            let durable = replayed.durable.max(told);
            log.check_durable(durable).map(|()| replayed)
        });
        if read.is_err() {
            for segment in &log.chain.opened {
                space.retire(segment.mapping(), 0);
            }
        }
        let replayed = read?;
        let LiveLog { chain, place, before, .. } = log;
        let (manifest, last) = (manifest.clone(), chain.last);
        Ok(Reread { manifest, segments: chain.segments, replayed, last, place, before })
    })
}

/// Calls `with` on the newest manifest, again as long as it fails because the manifest changed.
fn attempt<T>(
    dir: &Arc<dyn Dir>,
    config: &Config,
    mut with: impl FnMut(&Manifest) -> Result<T>,
) -> Result<T> {
    let mut left = ATTEMPTS;
    loop {
        let manifest = newest(dir.as_ref(), config)?;
        if manifest.hash_id != HASH_ID {
            let path = dir.path().join(MANIFESTS[0]);
            return Err(Error::TooNew { path, found: manifest.hash_id, supported: HASH_ID });
        }
        left -= 1;
        dir.reader_point("attach-manifest");
        match with(&manifest) {
            Err(_) if left > 0 && !is_current(dir.as_ref(), &manifest)? => {}
            Err(error @ Error::MissingSegment { .. }) => {
                // Another process may be destroying the store.
                newest(dir.as_ref(), config)?;
                return Err(error);
            }
            other => return other,
        }
    }
}

/// Returns the newest manifest.
///
/// # Errors
///
/// The refusals of an open, and errors of the operating system.
fn newest(dir: &dyn Dir, config: &Config) -> Result<Manifest> {
    let config = Config { create: false, ..config.clone() };
    let mut left = ATTEMPTS;
    loop {
        let survey = DirectoryScan::of(dir)?;
        left -= 1;
        match decide_directory(dir, &survey, &config) {
            // Each copy may have been read while it was written. They are never both unfinished.
            Err(Error::Corrupt { .. }) if left > 0 => thread::yield_now(),
            Err(error) => return Err(error),
            Ok(action) => {
                debug_assert_eq!(action, DirectoryAction::Open, "nothing is created");
                if survey.is_mixed() {
                    return Err(Error::ForeignFile { path: dir.path().join(MANIFESTS[1]) });
                }
                return Ok(survey.manifest().expect("the table opens where a copy is whole").0);
            }
        }
    }
}

/// Returns true if a manifest is still the newest one.
fn is_current(dir: &dyn Dir, manifest: &Manifest) -> Result<bool> {
    let now = read_manifest(dir)?;
    Ok(now.is_some_and(|now| now.store == manifest.store && now.generation == manifest.generation))
}

fn attach_once(
    dir: &Arc<dyn Dir>,
    config: &Config,
    manifest: &Manifest,
    checkpoint: bool,
) -> Result<Attached> {
    let space = AddressSpace::reserve_guarded(config.sigbus_guard)
        .map_err(|error| Error::io(RESERVE_ADDRESSES, dir.path(), error))?;
    let named: Vec<_> = manifest.segments.iter().map(|entry| entry.id).collect();
    let open = || Restore::open(dir, &space, manifest, &manifest.segments, &named);
    let checkpoint = checkpoint.then(open).transpose()?;
    let hash_key = HashKey::from_secret(manifest.secret);
    let mut log = LiveLog::new(dir.as_ref(), manifest, config);
    // Before the log is read: then everything that it calls durable is in the log.
    let durable = manifest.durable.max(log.told_durable()?);
    let progress = &config.recovery_progress;
    let mut replay = Replay::new(dir.as_ref(), &space, &hash_key, manifest, durable, progress);
    log.read(checkpoint.as_ref(), &mut replay)?;
    let replayed = replay.finish()?;
    log.check_durable(replayed.durable)?;
    let LiveLog { chain, place, before, .. } = log;
    let recovered = assemble(dir, manifest, space, hash_key, chain, replayed)?;
    Ok(Attached { recovered, manifest: manifest.clone(), place, before })
}

/// Assembles a store that refuses every write.
fn assemble(
    dir: &Arc<dyn Dir>,
    manifest: &Manifest,
    space: AddressSpace,
    hash_key: HashKey,
    chain: SegmentChain,
    replayed: Replayed,
) -> Result<Recovered> {
    let Replayed { keyspaces, names, durable, mut report, .. } = replayed;
    report.clean = manifest.clean;
    report.incarnation = manifest.incarnation;
    report.durable_seq = durable.0;
    report.segments = chain.segments.len();
    let refusal = Error::OpenedReadOnly { path: dir.path().to_owned() };
    let commit = Arc::new(GroupCommit::refusing(durable, refusal));
    let control = Arc::new(ControlPage::in_memory(dir.as_ref())?);
    let segment = Segment::nowhere(&space, dir.path())?;
    let segments = chain.segments.into_iter().map(|segment| (segment.id(), segment)).collect();
    let (last, incarnation) = (chain.last, manifest.incarnation);
    let tail = Tail { segment, offset: 0, previous: None, next_seq: last.next(), incarnation, durable, last };
    let store = ManifestStore::in_memory(dir, &commit, manifest.clone());
    Ok(Recovered {
        shared: LogContext::new(Arc::clone(dir), manifest.store, space, store, commit, segments),
        lock: Box::new(Unlocked),
        control,
        hash_key,
        keyspaces,
        names,
        pending: Vec::new(),
        tail,
        ready: Vec::new(),
        prefault: Prefault::Plain,
        unsynced: Vec::new(),
        checkpoint: None,
        hinted: None,
        hint_files: BTreeSet::new(),
        waiting: None,
        report,
    })
}

/// The log of a store that may be live.
struct LiveLog<'a> {
    dir: &'a dyn Dir,
    manifest: &'a Manifest,
    /// True if mapped pages are guarded.
    is_guarded: bool,
    chain: SegmentChain,
    place: Option<LogPlace>,
    before: Option<(SegmentId, u64)>,
}

impl<'a> LiveLog<'a> {
    fn new(dir: &'a dyn Dir, manifest: &'a Manifest, config: &Config) -> Self {
        let mut chain = SegmentChain::new(manifest);
        chain.is_followed = true;
        Self { dir, manifest, is_guarded: config.sigbus_guard, chain, place: None, before: None }
    }

    /// Checks that nothing is missing that is known to have been durable.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    fn check_durable(&self, durable: Seq) -> Result<()> {
        if durable <= self.chain.last {
            return Ok(());
        }
        let defect = Defect::MissingRecords { last: self.chain.last.0, durable: durable.0 };
        Err(match &self.place {
            Some(place) => place.segment.corrupt_at(place.offset, defect),
            None => Error::Corrupt { path: self.dir.path().join(MANIFESTS[0]), offset: 0, defect },
        })
    }

    /// Returns the number up to which the control page calls the log durable.
    fn told_durable(&self) -> Result<Seq> {
        let page = ControlReader::open(self.dir, self.is_guarded)?;
        let state = page.and_then(|page| page.state(self.manifest.store));
        let counts = state.filter(|state| {
            state.header.is_of(state.generation, self.manifest)
                && Some(state.header.boot_id) == self.dir.boot_id()
        });
        Ok(counts.and_then(|state| state.durable).unwrap_or(Seq::ZERO))
    }

    /// Returns true if a writer may have the store open: one opened it in this boot of the system,
    /// and did not close it.
    fn may_have_writer(&self) -> Result<bool> {
        let page = ControlReader::open(self.dir, self.is_guarded)?;
        Ok(page.is_some_and(|page| page.may_have_writer(self.dir, self.manifest.store)))
    }

    /// Reads the log to its end.
    fn read(&mut self, checkpoint: Option<&Restore>, replay: &mut Replay<'_>) -> Result<()> {
        let Self { dir, manifest, .. } = *self;
        let to_read = begin(manifest, &manifest.segments, checkpoint, replay)?;
        checkpoint.map_or(Ok(()), |checkpoint| checkpoint.purge(replay))?;
        let Links { copies, mut links } =
            self.chain.links(dir, manifest, &manifest.segments, checkpoint, replay)?;
        dir.reader_point("attach-opened");
        self.find_written(&mut links)?;
        while let Some(mapped) = replay.space.map_next() {
            mapped?;
        }
        for segment in &self.chain.segments {
            segment.follow();
        }
        dir.reader_point("attach-mapped");
        let sealed = manifest.segments.iter().filter(|entry| entry.state == SegmentState::Sealed);
        let sealed = sealed.map(|entry| entry.last_seq).max();
        replay.durable = replay.durable.max(sealed.unwrap_or(Seq::ZERO));
        let mut tasks: Vec<_> = copies.iter().map(|copy| copy.task(manifest)).collect();
        tasks.extend(links.iter().map(|link| link.task(manifest)));
        let threads = read_ahead::threads_for(&tasks);
        replay.use_threads(threads);
        read_ahead::read(dir, &tasks, threads, replay.hash_key, |mut ahead| {
            if to_read >= LOAD_ALL || checkpoint.is_some() {
                // The checkpoint's file may be replaced at any time.
                replay.load_all()?;
            }
            for copy in copies {
                self.chain.copies(copy, &mut ahead, replay)?;
            }
            self.known_place();
            let mut continues = self.begins(&links, replay)?;
            for at in 0..links.len() {
                continues = continues && self.follow(&links, at, &mut ahead, replay)?;
            }
            Ok(())
        })?;
        for link in links {
            // Behind a hole, too: an open decides about it later, and a mapping costs nothing.
            self.chain.keep(link.segment, link.entry);
        }
        Ok(())
    }

    /// Adds the segments that were written to after they had been found empty, until there is none.
    ///
    /// Then each segment among the links has its predecessor among them, because the predecessor
    /// was written first. A segment whose start record is not published yet is none of them.
    fn find_written(&mut self, links: &mut Vec<ChainLink>) -> Result<()> {
        let is_begun = |link: &ChainLink| link.start.is_some() || link.entry.state != SegmentState::Open;
        for link in links.extract_if(.., |link| !is_begun(link)) {
            self.chain.ready.push(Arc::clone(&link.segment));
            self.chain.keep(link.segment, link.entry);
        }
        // A closed store's manifest names the end of its last segment, and others are found later.
        let mut found_more = !self.manifest.clean;
        while found_more {
            found_more = false;
            for segment in std::mem::take(&mut self.chain.ready) {
                let start = start_of(&segment, &mut SegmentReader::of(self.dir, &segment)?)?;
                if start.is_none() {
                    self.chain.ready.push(segment);
                    continue;
                }
                found_more = true;
                let entry = *self.manifest.segment(segment.id()).expect("it was opened because it is named");
                self.chain.segments.retain(|other| !Arc::ptr_eq(other, &segment));
                let begin = Begin::of(&segment);
                links.push(ChainLink::new(entry, segment, start, begin));
            }
        }
        links.sort_by_key(ChainLink::place_in_order);
        Ok(())
    }

    /// Sets the place to the end of the segments that a checkpoint covers.
    fn known_place(&mut self) {
        let Some(end) = self.chain.previous else { return };
        let segment = self.chain.segments.iter().find(|segment| segment.id() == end.segment);
        self.place = segment.map(|segment| LogPlace {
            segment: Arc::clone(segment),
            offset: end.offset,
            last: Some(self.chain.last),
            is_used: true,
        });
    }

    /// Returns true if the log begins with the first link, and false if its predecessor is lost.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a writer may have the store open.
    fn begins(&self, links: &[ChainLink], replay: &mut Replay<'_>) -> Result<bool> {
        let Some(ChainLink { segment, start: Some((_, start)), .. }) = links.first() else { return Ok(true) };
        let previous = self.manifest.segment(SegmentId(start.previous));
        let previous = previous.filter(|entry| entry.state != SegmentState::Retired);
        // Its predecessor is none, or was durable if no longer named.
        let fits = previous.is_none_or(|previous| {
            previous.state != SegmentState::Open && previous.end == start.previous_end
        });
        if !fits {
            self.note_hole(links, segment.data_offset(), Defect::BrokenChain, replay)?;
        }
        Ok(fits)
    }

    /// Ends the log at an offset in the first of these links, with others behind it.
    ///
    /// A power cut leaves holes, and the next writer cuts the log there. The proofs of durability
    /// behind it count.
    ///
    /// # Errors
    ///
    /// `Corrupt` with this defect if a writer may have the store open: a live log has no holes.
    fn note_hole(
        &self,
        links: &[ChainLink],
        offset: u64,
        defect: Defect,
        replay: &mut Replay<'_>,
    ) -> Result<()> {
        if self.may_have_writer()? {
            return Err(links[0].segment.corrupt_at(offset, defect));
        }
        for (at, link) in links.iter().enumerate() {
            let from = if at == 0 { offset } else { link.segment.data_offset() };
            let behind = look_behind(&link.segment, from, replay)?;
            replay.durable = replay.durable.max(behind.durable);
        }
        Ok(())
    }

    /// Reads one segment of the log. Returns true if the log continues behind it.
    fn follow(
        &mut self,
        links: &[ChainLink],
        at: usize,
        ahead: &mut ReadAhead<'_>,
        replay: &mut Replay<'_>,
    ) -> Result<bool> {
        let ChainLink { entry, segment, begin, .. } = &links[at];
        let clean = self.manifest.clean && entry.state == SegmentState::Open;
        let walked = replay.read(ahead, segment, *begin)?;
        self.chain.last = self.chain.last.max(walked.last.unwrap_or(Seq::ZERO));
        let known = known_of(entry, clean, walked.stop);
        let damage = || segment.corrupt_at(walked.stop, walked.defect.unwrap_or(Defect::BrokenChain));
        if matches!(known, Known::SealedBefore | Known::CutBefore | Known::CleanBefore) {
            return Err(damage());
        }
        if let Some(place) = self.place.take().filter(|place| place.is_used) {
            self.before = Some((place.segment.id(), place.offset));
        }
        self.place = Some(LogPlace {
            segment: Arc::clone(segment),
            offset: walked.stop,
            last: walked.last,
            is_used: walked.written > 0,
        });
        match next_of(self.manifest, links, at, walked.stop, known) {
            NextSegment::Continues => Ok(true),
            // With a writer, the defect may be of a record that is being written. The first refresh
            // looks at it again.
            NextSegment::None if walked.defect.is_none() || self.may_have_writer()? => Ok(false),
            _ => {
                let defect = walked.defect.unwrap_or(Defect::BrokenChain);
                self.note_hole(&links[at..], walked.stop, defect, replay)?;
                Ok(false)
            }
        }
    }
}
