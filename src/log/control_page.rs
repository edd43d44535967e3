//! The control page: a mapped page that the writer keeps up to date for followers in other
//! processes, and for the next open.
//!
//! It is disposable. The next open trusts it only with the current boot id and the incarnation in
//! the manifest. Even then it only proves that something *was* durable: it can turn a torn tail
//! into damage, never the reverse.
//!
//! **Concurrency.** One writer, any number of followers that map the page read-only. A writer that
//! opens the store changes the fixed part between two stores to the status word: `Unknown` before,
//! `Open` after. A follower reads the status, the rest, and the status again.
//!
//! **Invariants.** I14: the generation word never names a manifest that is not in both copies.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::control_page::{
    CONTROL_HEADER_SIZE, CONTROL_SIZE, ControlHeader, ControlPlace, DURABLE_OFFSET, DURABLE_WAKE_OFFSET,
    GENERATION_OFFSET, NONCE_OFFSET, PLACE_OFFSET, PLACE_SIZE, RECORDS_WAKE_OFFSET, STATE_OFFSET,
    WriterStatus, durable_word, parse_durable_word,
};
use crate::format::waiters::{FOR_DURABLE, FOR_RECORDS, FOR_SYNC};
use crate::format::{Defect, StoreId, file_name};
use crate::fs::{Access, Dir};
use crate::log::group_commit::CommitWatcher;
use crate::log::waiters::WaitersPage;
use crate::mem::mapping::Mapping;
use crate::mem::shared_word::SharedWord;
use crate::sync::wake_up::fence_after_unlock;

/// The writer's side of the page.
#[derive(Debug)]
pub(crate) struct ControlPage {
    mapping: Arc<Mapping>,
    writer_nonce: u64,
    /// The waiters in other processes. `None` in a store that is not written to.
    waiters: Option<Waiters>,
}

/// The waiters of the page, and the words that they sleep on.
#[derive(Debug)]
struct Waiters {
    page: WaitersPage,
    for_records: SharedWord,
    for_durable: SharedWord,
}

impl Waiters {
    /// Wakes the waiters that ask for a reason, after a change and a fence.
    fn wake_for(&self, reason: u64) {
        if self.page.asked_for(reason) != 0 {
            let word = if reason == FOR_RECORDS { &self.for_records } else { &self.for_durable };
            self.page.answer(word, reason);
        }
    }
}

/// The request of a waiter that the caller carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    None,
    /// The worker is to sync.
    Sync,
}

impl ControlPage {
    /// Creates the page for this writer. `generation` is that of the manifest on the disk.
    ///
    /// A page that is there stays the same file: followers have it mapped.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn create(
        dir: &dyn Dir,
        control: &ControlHeader,
        durable: Seq,
        generation: u64,
    ) -> Result<Self> {
        let path = || dir.path().join(file_name::CONTROL);
        let file = match dir.open(file_name::CONTROL, Access::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => dir.create(file_name::CONTROL),
            other => other,
        };
        let file = file.map_err(|error| Error::io("open", path(), error))?;
        let identity = file.identity().map_err(|error| Error::io("look at", path(), error))?;
        if identity.size < CONTROL_SIZE as u64 {
            // This reserves its block: a store into the mapping must not be the first to find a
            // full disk.
            file.allocate(CONTROL_SIZE as u64).map_err(|error| Error::io("allocate", path(), error))?;
        }
        let mut front = [0; GENERATION_OFFSET + 8];
        front[..CONTROL_HEADER_SIZE].copy_from_slice(&control.encode());
        let word = durable_word(durable, control.writer_nonce).to_le_bytes();
        front[DURABLE_OFFSET..][..8].copy_from_slice(&word);
        front[GENERATION_OFFSET..][..8].copy_from_slice(&generation.to_le_bytes());
        let unknown = WriterStatus::Unknown.to_word().to_le_bytes();
        let inode = identity.inode;
        let place = dir.mount_id().map(|mount| ControlPlace { mount, inode }.encode(control.writer_nonce));
        // By writes, because a store could be the first to find that the disk is full.
        let parts: [(usize, &[u8]); 3] =
            [(STATE_OFFSET, &unknown), (0, &front), (PLACE_OFFSET, &place.unwrap_or([0; PLACE_SIZE]))];
        for (offset, bytes) in parts {
            file.write_at(bytes, offset as u64).map_err(|error| Error::io("write", path(), error))?;
        }
        let mapping = file.map(CONTROL_SIZE).map_err(|error| Error::io("map", path(), error))?;
        let word = |offset| SharedWord::new(&mapping, offset);
        let (for_records, for_durable) = (word(RECORDS_WAKE_OFFSET), word(DURABLE_WAKE_OFFSET));
        let waiters = Waiters { page: WaitersPage::create(dir)?, for_records, for_durable };
        let page = Self { mapping, writer_nonce: control.writer_nonce, waiters: Some(waiters) };
        page.set_status(WriterStatus::Open);
        Ok(page)
    }

    /// Returns a page that is in no file, for a read-only store.
    ///
    /// # Errors
    ///
    /// `Io` if memory is short.
    pub(crate) fn in_memory(dir: &dyn Dir) -> Result<Self> {
        let memory = Mapping::in_memory(CONTROL_SIZE);
        let mapping = memory.map_err(|error| Error::io("make a page for", dir.path(), error))?;
        Ok(Self { mapping: Arc::new(mapping), writer_nonce: 0, waiters: None })
    }

    /// Puts the page under the guard. A store into it that fails is lost, and the page is
    /// disposable.
    pub(crate) fn guard(&self) {
        self.mapping.guard();
        if let Some(waiters) = &self.waiters {
            waiters.page.guard();
        }
    }

    /// Wakes followers that wait for records, after a write whose mutex was released just now.
    /// Without a waiter it costs a load.
    #[inline]
    pub(crate) fn wake_for_records(&self) -> Request {
        let Some(waiters) = &self.waiters else { return Request::None };
        fence_after_unlock();
        let asked = waiters.page.asked_for(FOR_RECORDS | FOR_SYNC);
        if asked == 0 {
            return Request::None;
        }
        waiters.wake_for(FOR_RECORDS);
        if asked & FOR_SYNC == 0 { Request::None } else { Request::Sync }
    }

    /// Returns the number that followers want to be durable, if one asks, and clears the request.
    pub(crate) fn take_wanted(&self) -> Option<Seq> {
        self.waiters.as_ref()?.page.take_wanted()
    }

    /// Returns true if a follower asks for a sync.
    pub(crate) fn is_sync_asked(&self) -> bool {
        self.waiters.as_ref().is_some_and(|waiters| waiters.page.is_sync_asked())
    }

    /// Returns the word on which an idle worker sleeps, so that followers can wake it.
    pub(crate) fn worker_word(&self) -> Option<Arc<SharedWord>> {
        Some(self.waiters.as_ref()?.page.worker())
    }

    /// Publishes that both copies of the manifest are at least of this generation.
    pub(crate) fn set_generation(&self, generation: u64) {
        self.set(GENERATION_OFFSET, generation);
        // They let go of removed files.
        self.wake(FOR_RECORDS);
    }

    /// Publishes the status of this writer.
    pub(crate) fn set_status(&self, status: WriterStatus) {
        self.set(STATE_OFFSET, status.to_word());
        self.wake(FOR_RECORDS);
        self.wake(FOR_DURABLE);
    }

    /// Wakes the waiters that ask for a reason, after the change.
    fn wake(&self, reason: u64) {
        if let Some(waiters) = &self.waiters {
            fence(Ordering::SeqCst);
            waiters.wake_for(reason);
        }
    }

    fn set(&self, offset: usize, value: u64) {
        // Release: a follower that acquires the word finds the records and files that it speaks of.
        self.mapping.word(offset).store(value.to_le(), Ordering::Release);
        self.mapping.note_store(offset, 8);
    }
}

impl CommitWatcher for ControlPage {
    fn set_durable(&self, durable: Seq) {
        self.set(DURABLE_OFFSET, durable_word(durable, self.writer_nonce));
    }

    fn wake_for_durable(&self) {
        self.wake(FOR_DURABLE);
    }

    fn set_failed(&self) {
        self.set_status(WriterStatus::Failed);
    }
}

/// The page of another process, as a follower sees it.
#[derive(Debug)]
pub(crate) struct ControlReader {
    mapping: Arc<Mapping>,
    /// The file's inode, as in `Identity`.
    inode: (u64, u64),
}

/// The contents of the page at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ControlState {
    pub(crate) header: ControlHeader,
    pub(crate) status: WriterStatus,
    /// The generation that both copies of the manifest have, at least.
    pub(crate) generation: u64,
    /// Every record up to this is durable. `None` if the word is damaged.
    pub(crate) durable: Option<Seq>,
}

impl ControlReader {
    /// Maps the page. `None` if there is none, as in a store that was never opened.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn open(dir: &dyn Dir, is_guarded: bool) -> Result<Option<Self>> {
        let path = || dir.path().join(file_name::CONTROL);
        let file = match dir.open(file_name::CONTROL, Access::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Error::io("open", path(), error))?,
        };
        let identity = file.identity().map_err(|error| Error::io("look at", path(), error))?;
        if identity.size < CONTROL_SIZE as u64 {
            // Its writer has only begun.
            return Ok(None);
        }
        let mapping = file.map(CONTROL_SIZE).map_err(|error| Error::io("map", path(), error))?;
        if is_guarded {
            // Another program may cut the file.
            mapping.guard();
        }
        Ok(Some(Self { mapping, inode: identity.inode }))
    }

    /// Returns true if the page is still the file of its name.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn is_in_place(&self, dir: &dyn Dir) -> Result<bool> {
        let found = dir.id_of(file_name::CONTROL);
        let found =
            found.map_err(|error| Error::io("look at", dir.path().join(file_name::CONTROL), error))?;
        Ok(found == Some(self.inode))
    }

    /// Returns the words on which followers sleep: those that wait for records, and those that wait
    /// for durability.
    pub(crate) fn wake_words(&self) -> (SharedWord, SharedWord) {
        let word = |offset| SharedWord::new(&self.mapping, offset);
        (word(RECORDS_WAKE_OFFSET), word(DURABLE_WAKE_OFFSET))
    }

    /// Returns the words that change whenever there is a newer manifest or another writer. Cheaper
    /// than [`ControlReader::state`].
    #[inline]
    pub(crate) fn glance(&self) -> [u64; 3] {
        [STATE_OFFSET, GENERATION_OFFSET, NONCE_OFFSET].map(|offset| self.word(offset))
    }

    /// Returns the page's contents. `None` while a writer is opening the store, and if the page
    /// belongs to another store or is damaged.
    pub(crate) fn state(&self, store: StoreId) -> Option<ControlState> {
        let status = self.word(STATE_OFFSET);
        let header = self.header().ok()?;
        let generation = self.word(GENERATION_OFFSET);
        let durable = parse_durable_word(self.word(DURABLE_OFFSET), header.writer_nonce);
        // Acquire: a writer that changed the parts above had first changed the status.
        fence(Ordering::Acquire);
        let is_same = self.word(STATE_OFFSET) == status;
        let status = WriterStatus::from_word(status);
        let counts = is_same && status != WriterStatus::Unknown && header.store == store;
        counts.then_some(ControlState { header, status, generation, durable })
    }

    /// Returns true if a writer of this boot of the system opened the store and did not close it, or
    /// is opening it.
    pub(crate) fn may_have_writer(&self, dir: &dyn Dir, store: StoreId) -> bool {
        let Ok(header) = self.header() else { return false };
        let status = WriterStatus::from_word(self.word(STATE_OFFSET));
        // A system that tells no boot has the same one on both sides.
        let is_of_this_boot = header.boot_id == dir.boot_id().unwrap_or([0; 16]);
        header.store == store && is_of_this_boot && status != WriterStatus::Closed
    }

    fn header(&self) -> std::result::Result<ControlHeader, Defect> {
        let mut bytes = [0; CONTROL_HEADER_SIZE];
        self.mapping.copy_out(0, &mut bytes);
        ControlHeader::decode(&bytes)
    }

    #[inline]
    fn word(&self, offset: usize) -> u64 {
        // Acquire: pairs with the release in `ControlPage::set`.
        u64::from_le(self.mapping.word(offset).load(Ordering::Acquire))
    }
}

/// The facts that the last writer left on the page for the next open.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ControlFindings {
    /// The number that it knew to be durable. `None` if the word is damaged.
    pub(crate) durable: Option<Seq>,
    /// True if the kernel still has every page that the writer wrote.
    ///
    /// The page is of this boot, its mount and its file are those on which the writer worked, and
    /// the writer had the store open without a failure. So nothing has been unmounted in between,
    /// and no copy of the directory is at hand.
    pub(crate) has_cache: bool,
}

/// Reads the facts that the last writer left on the page. A page that `believed` refuses by its
/// header and its generation says nothing, and so does a missing or damaged one.
///
/// # Errors
///
/// Errors of the operating system.
pub(crate) fn read(
    dir: &dyn Dir,
    believed: impl FnOnce(&ControlHeader, u64) -> bool,
) -> Result<ControlFindings> {
    let path = dir.path().join(file_name::CONTROL);
    let file = match dir.open(file_name::CONTROL, Access::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ControlFindings::default()),
        other => other.map_err(|error| Error::io("open", &path, error))?,
    };
    let mut page = vec![0; CONTROL_SIZE];
    let len = file.read_at(&mut page, 0).map_err(|error| Error::io("read", &path, error))?;
    let page = &page[..len];
    let word = |offset: usize| Some(u64::from_le_bytes(*page.get(offset..)?.first_chunk()?));
    let header = ControlHeader::decode(page).ok().zip(word(GENERATION_OFFSET));
    let Some((control, _)) = header.filter(|(control, generation)| believed(control, *generation)) else {
        return Ok(ControlFindings::default());
    };
    let durable = word(DURABLE_OFFSET).and_then(|word| parse_durable_word(word, control.writer_nonce));
    let is_open = word(STATE_OFFSET).map(WriterStatus::from_word) == Some(WriterStatus::Open);
    let told = page.get(PLACE_OFFSET..).and_then(|bytes| ControlPlace::decode(bytes, control.writer_nonce));
    let here = match dir.mount_id().filter(|_| is_open && told.is_some()) {
        Some(mount) => {
            let identity = file.identity().map_err(|error| Error::io("look at", &path, error))?;
            Some(ControlPlace { mount, inode: identity.inode })
        }
        None => None,
    };
    // A system that tells no boot proves nothing.
    let has_cache = here.is_some() && told == here && control.boot_id != [0; 16];
    Ok(ControlFindings { durable, has_cache })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimDisk;
    use crate::log::group_commit::GroupCommit;

    const STORE: StoreId = StoreId([7; 16]);

    fn header(writer_nonce: u64) -> ControlHeader {
        ControlHeader { store: STORE, boot_id: [1; 16], incarnation: 1, writer_nonce }
    }

    #[test]
    fn a_follower_reads_the_words_of_each_writer_from_one_mapping() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().unwrap();
        assert!(ControlReader::open(dir.as_ref(), true).unwrap().is_none());
        let first = ControlPage::create(dir.as_ref(), &header(5), Seq(3), 9).unwrap();
        let reader = ControlReader::open(dir.as_ref(), true).unwrap().expect("it exists");
        let state = reader.state(STORE).expect("it is whole");
        assert_eq!((state.generation, state.durable, state.status), (9, Some(Seq(3)), WriterStatus::Open));
        assert_eq!(reader.state(StoreId([8; 16])), None);
        first.set_generation(10);
        first.set_durable(Seq(4));
        first.set_status(WriterStatus::Closed);
        let state = reader.state(STORE).expect("it is whole");
        assert_eq!((state.generation, state.durable, state.status), (10, Some(Seq(4)), WriterStatus::Closed));
        let second = ControlPage::create(dir.as_ref(), &header(6), Seq(4), 11).unwrap();
        let state = reader.state(STORE).expect("it is whole");
        assert_eq!((state.header.writer_nonce, state.generation), (6, 11));
        assert_eq!((state.durable, state.status), (Some(Seq(4)), WriterStatus::Open));
        second.set_status(WriterStatus::Unknown);
        assert_eq!(reader.state(STORE), None, "a writer is opening the store");
    }

    #[test]
    fn page_shows_a_commit_and_wakes_for_each_rise() {
        let disk = SimDisk::new();
        let dir = disk.dir();
        dir.create_dir().unwrap();
        let page = Arc::new(ControlPage::create(dir.as_ref(), &header(5), Seq(3), 9).unwrap());
        let commit = GroupCommit::new(Seq(3));
        commit.show_at(Arc::clone(&page) as Arc<dyn CommitWatcher>);
        let reader = ControlReader::open(dir.as_ref(), true).unwrap().expect("it exists");
        let asking = WaitersPage::open(dir.as_ref()).unwrap().expect("it exists");
        let (_, word) = reader.wake_words();
        let state = || {
            let state = reader.state(STORE).expect("it is whole");
            (state.durable, state.status, word.load(Ordering::Relaxed))
        };
        for _ in 0..3 {
            asking.ask(FOR_DURABLE);
            commit.run(|| Ok(Seq(5))).unwrap();
            assert_eq!(state(), (Some(Seq(5)), WriterStatus::Open, 1), "the number rose once");
        }
        commit.run(|| Ok(Seq(6))).unwrap();
        assert_eq!(state(), (Some(Seq(6)), WriterStatus::Open, 2));
        // A failure that comes during a sync: the sync's success proves nothing.
        let lost = || {
            commit.poison(Error::Closed);
            Ok(Seq(7))
        };
        commit.run(lost).unwrap_err();
        assert_eq!(state(), (Some(Seq(6)), WriterStatus::Failed, 2));
    }
}
