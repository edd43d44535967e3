//! The simulated disk behind the traits of `fs`: directory, files, locks and mappings.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fault::{Fault, Operation};
use super::machine::{HeldLock, Machine, SharedDisk};
use super::model::{DirChange, Event, NodeId, inode_of, page_count, split};
use super::stored::Stored;
use crate::error::Resource;
use crate::fs::tuning::Tuning;
use crate::fs::{Access, Claim, Dir, File, Identity, Lock, LockFailure, Medium, Misplaced, Standing};
use crate::mem::mapping::{Backing, Mapping};

/// The directory of a simulated machine.
#[derive(Debug)]
pub(super) struct SimDir {
    path: PathBuf,
    shared: Arc<SharedDisk>,
}

impl SimDir {
    pub(super) fn new(shared: Arc<SharedDisk>) -> Self {
        Self { path: PathBuf::from("/simulated"), shared }
    }

    /// Makes a handle, which takes a descriptor.
    fn file(&self, machine: &mut Machine, node: NodeId, access: Access) -> Arc<dyn File> {
        machine.descriptors += 1;
        let told = Arc::new(AtomicU64::new(machine.model.node(node).told_at_open()));
        Arc::new(SimFile { shared: Arc::clone(&self.shared), node, access, told })
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.shared))))
    }

    fn create_dir(&self) -> io::Result<()> {
        let mut machine = self.shared.lock();
        machine.enter(Operation::CreateDir)?;
        if !machine.model.made {
            machine.record(Event::MakeDir);
        }
        Ok(())
    }

    fn sync_parent(&self) -> io::Result<()> {
        // Directories are created durably here, so there is nothing to do.
        self.shared.lock().enter(Operation::SyncParent).map(drop)
    }

    fn check_place(&self) -> Result<(), Misplaced> {
        let mut machine = self.shared.lock();
        match machine.standing {
            Standing::Removed => return Err(Misplaced::Removed),
            Standing::Replaced => return Err(Misplaced::Replaced),
            Standing::Here => {}
        }
        let lost = |held: &HeldLock| held.note.is_some() && machine.lookup(&held.name).ok() != held.node;
        let Some(at) = machine.locks.iter().position(lost) else { return Ok(()) };
        if !machine.locks_dirs {
            return Err(Misplaced::Unlocked);
        }
        // The file is put back, because the directory's lock is held.
        let HeldLock { name, note, .. } = machine.locks[at].clone();
        let node = machine.lookup(&name).unwrap_or_else(|_| machine.create(&name));
        machine.locks[at].node = Some(node);
        // On a full disk the note is lost.
        drop(machine.write_note(node, &note.unwrap_or_default()));
        Ok(())
    }

    fn id_of(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        Ok(self.shared.lock().lookup(name).ok().map(inode_of))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut machine = self.shared.lock();
        machine.enter_unseen(Operation::List)?;
        machine.check_descriptors()?;
        machine.check_dir()?;
        Ok(machine.model.names.keys().map(|name| name.to_string()).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut machine = self.shared.lock();
        machine.enter(Operation::Create)?;
        machine.check_dir()?;
        if machine.model.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        machine.check_descriptors()?;
        machine.check_limit(Resource::Files, machine.model.names.len() as u64, 1)?;
        let node = machine.create(name);
        Ok(self.file(&mut machine, node, Access::Write))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut machine = self.shared.lock();
        machine.enter_unseen(Operation::Open)?;
        let node = machine.lookup(name)?;
        machine.check_descriptors()?;
        Ok(self.file(&mut machine, node, access))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.shared.lock();
        machine.enter(Operation::Rename)?;
        let node = machine.lookup(from)?;
        if from != to {
            if machine.model.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            machine.record(Event::Change(DirChange::Rename(from.into(), to.into(), node)));
        }
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut machine = self.shared.lock();
        machine.enter(Operation::Unlink)?;
        let node = machine.lookup(name)?;
        machine.record(Event::Change(DirChange::Unlink(name.into(), node)));
        Ok(())
    }

    fn remove_dir(&self) {
        // The machine is its directory; an empty one is equivalent to none.
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.shared.lock();
        let gate = machine.plan.gate(Operation::SyncDir);
        // A failed sync leaves the changes uncertain: a journal loses none of them unless it stops
        // for good. The directory is opened for the sync, which needs a descriptor.
        let synced = machine.enter(Operation::SyncDir).and_then(|()| machine.check_descriptors());
        if synced.is_ok() {
            machine.record(Event::SyncDir);
        }
        drop(machine);
        if let Some(gate) = gate {
            gate.hold();
        }
        synced
    }

    fn lock(&self, name: &str, claim: Claim<'_>, _: Duration) -> Result<Box<dyn Lock>, LockFailure> {
        let mut machine = self.shared.lock();
        machine.enter(Operation::Lock).map_err(LockFailure::Io)?;
        machine.check_dir().map_err(LockFailure::Io)?;
        let there = machine.lookup(name).ok();
        let (by_dir, by_file) = (machine.locks_dirs, there.is_some());
        let shared = claim == Claim::Look;
        let stands = |held: &&HeldLock| {
            held.name == name && (by_dir || by_file && held.node == there) && !(shared && held.shared)
        };
        if let Some(held) = machine.locks.iter().find(stands) {
            let note = there.filter(|_| !held.shared).map_or_else(Vec::new, |node| machine.content(node));
            return Err(LockFailure::Held(note));
        }
        machine.check_descriptors().map_err(LockFailure::Io)?;
        let mut node = there;
        let note = if let Claim::Write(note) = claim { Some(note) } else { None };
        if let Some(note) = note {
            if there.is_none() {
                let files = machine.model.names.len() as u64;
                machine.check_limit(Resource::Files, files, 1).map_err(LockFailure::Io)?;
            }
            let file = there.unwrap_or_else(|| machine.create(name));
            machine.write_note(file, note).map_err(LockFailure::Io)?;
            node = Some(file);
        }
        machine.locks_taken += 1;
        let id = machine.locks_taken;
        let note = note.map(<[u8]>::to_vec);
        machine.locks.push(HeldLock { id, name: name.to_owned(), node, note, shared });
        machine.descriptors += 1;
        Ok(Box::new(SimLock { shared: Arc::clone(&self.shared), id }))
    }

    fn free_bytes(&self) -> Option<u64> {
        let machine = self.shared.lock();
        machine.settings.told_capacity().map(|told| told.saturating_sub(machine.model.allocated()))
    }

    fn free_files(&self) -> Option<u64> {
        let machine = self.shared.lock();
        let most = machine.limits.get(&Resource::Files)?;
        Some(most.saturating_sub(machine.model.names.len() as u64))
    }

    fn names_bytes(&self) -> u64 {
        0
    }

    fn medium(&self) -> io::Result<Medium> {
        Ok(self.shared.lock().settings.medium)
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        self.shared.lock().settings.boot_id
    }

    fn mount_id(&self) -> Option<u64> {
        self.shared.lock().settings.mount_id
    }

    fn now(&self) -> Duration {
        self.shared.now()
    }

    fn tuning(&self) -> Tuning {
        Tuning { hint_chunk: self.shared.lock().settings.hint_chunk, ..Tuning::SIMULATED }
    }

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut machine = self.shared.lock();
        for piece in buffer.chunks_mut(8) {
            let word = machine.random.next().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
        Ok(())
    }

    fn crash_point(&self, name: &'static str) {
        let mut machine = self.shared.lock();
        machine.observe();
        machine.record(Event::Point(name));
        drop(machine);
        self.reader_point(name);
    }

    fn reader_point(&self, name: &'static str) {
        let hook = self.shared.lock().hook.clone();
        if let Some(hook) = hook.0 {
            hook(name);
        }
    }

    fn observes(&self) -> bool {
        true
    }
}

/// A held lock.
#[derive(Debug)]
struct SimLock {
    shared: Arc<SharedDisk>,
    id: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut machine = self.shared.lock();
        machine.locks.retain(|held| held.id != self.id);
        machine.descriptors -= 1;
    }
}

/// An open file.
#[derive(Debug)]
struct SimFile {
    shared: Arc<SharedDisk>,
    node: NodeId,
    access: Access,
    /// The number of the file's failures that this open file has reported. Its mappings share the
    /// count. Each failure is reported once per open file, by the first sync through the file or
    /// one of its mappings.
    told: Arc<AtomicU64>,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.shared.lock().descriptors -= 1;
    }
}

impl File for SimFile {
    fn has_lost_pages(&self) -> bool {
        let machine = self.shared.lock();
        // Relaxed: accessed only with the machine locked.
        self.told.load(Ordering::Relaxed) < machine.model.node(self.node).failures
    }

    fn identity(&self) -> io::Result<Identity> {
        let machine = self.shared.lock();
        let size = machine.model.node(self.node).size;
        Ok(Identity { size, links: machine.model.links(self.node), inode: inode_of(self.node) })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut machine = self.shared.lock();
        machine.enter_unseen(Operation::Read)?;
        let end = offset + buffer.len() as u64;
        let here = machine
            .unreadable
            .iter()
            .filter(|(node, bad)| *node == self.node && bad.start < end && offset < bad.end);
        let Some(bad) = here.map(|(_, bad)| bad.start).min() else {
            let read = machine.read(self.node, offset, buffer);
            machine.bytes_read += read as u64;
            return Ok(read);
        };
        // As with a real file, the bytes before are read, and a read that begins there fails.
        let readable = usize::try_from(bad.saturating_sub(offset)).expect("less than the buffer's length");
        if readable == 0 {
            return Err(Fault::Io.error());
        }
        Ok(machine.read(self.node, offset, &mut buffer[..readable]))
    }

    fn data_from(&self, offset: u64) -> u64 {
        let machine = self.shared.lock();
        let bad = machine.unreadable.iter().filter(|(node, bad)| *node == self.node && offset < bad.end);
        let bad = bad.map(|(_, bad)| bad.start.max(offset)).min().unwrap_or(u64::MAX);
        bad.min(machine.data_from(self.node, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.shared.lock();
        machine.observe();
        match machine.plan.meet(Operation::Write) {
            None => machine.write(self.node, offset, bytes),
            Some(fault) => {
                if fault == Fault::Short {
                    machine.write(self.node, offset, &bytes[..bytes.len() / 2])?;
                }
                Err(fault.error())
            }
        }
    }

    fn extend(&self, size: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.shared.lock();
        machine.enter(Operation::Allocate)?;
        machine.check_limit(Resource::FileSize, size, 0)?;
        if size > machine.model.node(self.node).size {
            machine.record(Event::Size(self.node, size));
        }
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.allocate_beside(size, 0)
    }

    fn allocate_beside(&self, size: u64, beside: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.shared.lock();
        machine.enter(Operation::Allocate)?;
        let old = machine.model.node(self.node).size;
        if size < old {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file never shrinks"));
        }
        machine.check_limit(Resource::FileSize, size, 0)?;
        let pages = 0..page_count(size);
        machine.check_space(self.node, 0..page_count(size.saturating_add(beside)))?;
        if size > old {
            machine.record(Event::Size(self.node, size));
        }
        machine.record(Event::Reserve(self.node, pages));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let pages = |machine: &Machine| 0..machine.model.node(self.node).pages.len();
        sync_pages(&self.shared, Operation::Sync, self.node, &self.told, pages)
    }

    fn touch(&self) -> io::Result<()> {
        // Simulated files have no times.
        self.check_writable()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.shared.lock();
        machine.enter(Operation::Punch)?;
        machine.punch(self.node, offset, len)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.shared.lock().model.node(self.node).allocated())
    }

    fn map(&self, len: usize) -> io::Result<Arc<Mapping>> {
        let writable = self.access == Access::Write;
        let mut machine = self.shared.lock();
        machine.enter_unseen(Operation::Map)?;
        let (memory, stored) = machine.map(self.node, len, writable)?;
        let (shared, told) = (Arc::clone(&self.shared), Arc::clone(&self.told));
        let backing = SimBacking { shared, node: self.node, writable, told, stored };
        Ok(Arc::new(Mapping::simulated(memory, writable, Arc::new(backing))))
    }
}

/// Makes pages durable, or marks them clean and returns an error. Also returns an error for an
/// earlier failure that this open file has not reported yet.
fn sync_pages(
    shared: &SharedDisk,
    operation: Operation,
    node: NodeId,
    told: &AtomicU64,
    pages: impl FnOnce(&Machine) -> Range<usize>,
) -> io::Result<()> {
    let mut machine = shared.lock();
    let gate = machine.plan.gate(operation);
    let mut synced = machine.enter(operation);
    let pages = pages(&machine);
    if synced.is_err() {
        machine.record(Event::SyncFailed(node, pages));
    } else {
        machine.record(Event::Sync(node, pages));
        // Relaxed, here and below: accessed only with the machine locked.
        if told.load(Ordering::Relaxed) < machine.model.node(node).failures {
            machine.record(Event::Told(node));
            synced = Err(Fault::Io.error());
        }
    }
    told.store(machine.model.node(node).failures, Ordering::Relaxed);
    drop(machine);
    if let Some(gate) = gate {
        gate.hold();
    }
    synced
}

/// The backing of one mapping.
#[derive(Debug)]
struct SimBacking {
    shared: Arc<SharedDisk>,
    node: NodeId,
    writable: bool,
    /// The count of the open file that the mapping was made from.
    told: Arc<AtomicU64>,
    stored: Arc<Stored>,
}

impl SimBacking {
    fn pages(offset: usize, len: usize) -> Range<usize> {
        split(offset as u64).0..page_count((offset + len) as u64)
    }
}

impl Backing for SimBacking {
    fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        // A range behind the file's end is no error: msync does not notice a file that was cut
        // (measured).
        let pages = |_: &Machine| Self::pages(offset, len);
        sync_pages(&self.shared, Operation::SyncRange, self.node, &self.told, pages)
    }

    fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        let mut machine = self.shared.lock();
        machine.enter(Operation::Populate)?;
        let pages = Self::pages(offset, len);
        if pages.end > machine.model.node(self.node).pages.len() {
            return Err(io::Error::other("simulated bad address"));
        }
        machine.check_space(self.node, pages.clone())?;
        // The kernel dirties pages here; a clean page that stays clean is the worse case for the
        // program.
        machine.record(Event::Reserve(self.node, pages));
        Ok(())
    }

    fn note_store(&self, offset: usize, len: usize) {
        self.stored.note(offset, len);
    }
}

impl Drop for SimBacking {
    fn drop(&mut self) {
        self.shared.lock().unmap(self.node, self.writable);
    }
}
