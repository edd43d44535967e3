//! The file of an index checkpoint: written while the store runs, and opened by recovery.
//!
//! It decides neither when a checkpoint is made nor if one may be used. The exchange between an
//! index and a checkpoint is in `index/lines/capture.rs` and `index/lines/lazy.rs`; the bytes are in
//! `format/checkpoint.rs`.
//!
//! **Order.** The checkpoint is written under a temporary name, synced, renamed, and the directory
//! synced; a checkpoint is never changed in place. The caller finishes it only once the log is
//! durable up to the checkpoint's last number (I3).
//!
//! **Crash points.** Up to the rename a temporary file exists, which an open removes. After it a
//! complete checkpoint exists.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::checkpoint::{BLOCK_LEN, CheckpointKeyspace, FRAME_SIZE, IndexCheckpoint, frame_sum};
use crate::format::{Defect, file_name};
use crate::fs::leftovers::Leftovers;
use crate::fs::{Access, Dir, File, read_exact_at};
use crate::index::key_index::KeyIndexWriter;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::capture::{Abandoned, Capture};
use crate::index::lines::lazy::BlockSource;
use crate::mem::alloc;

/// Blocks that are written at once: 1 MiB.
const STEP_BLOCKS: usize = (1 << 20) / BLOCK_LEN;
/// The first read of an open, in bytes: usually the whole front.
const FIRST_READ: u64 = 1 << 14;

/// The result of a step of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteStep {
    /// More blocks are left to write.
    More,
    /// Everything is written; nothing is durable yet.
    Written,
    /// An index changed too fast, and the file was removed.
    Abandoned,
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub(crate) struct CheckpointWriter {
    file: Arc<dyn File>,
    name: String,
    nonce: u64,
    /// The captures left, the current one last, so that it can be popped.
    captures: Vec<Capture>,
    frame: u64,
    offset: u64,
    leftovers: Arc<Leftovers>,
}

impl CheckpointWriter {
    /// Creates the file and writes the front. The captures are those of the front's keyspaces, in
    /// its order.
    ///
    /// # Errors
    ///
    /// Returns the file system's error, for example of a full disk, because the file's blocks are
    /// reserved here.
    pub(crate) fn start(
        dir: &dyn Dir,
        checkpoint: &IndexCheckpoint,
        mut captures: Vec<Capture>,
        leftovers: &Arc<Leftovers>,
    ) -> Result<Self> {
        debug_assert!(
            checkpoint
                .keyspaces
                .iter()
                .map(|keyspace| keyspace.table)
                .eq(captures.iter().map(Capture::table)),
            "the front is that of these indexes"
        );
        captures.reverse();
        let name = file_name::checkpoint(checkpoint.number);
        let temporary = file_name::temporary(&name);
        let failed = |error| Error::io("write", dir.path().join(&temporary), error);
        let file = dir.create(&temporary).map_err(failed)?;
        let front = checkpoint.encode();
        let size = checkpoint.size();
        let written = file.allocate(size).and_then(|()| file.write_at(&front, 0));
        if let Err(error) = written {
            leftovers.remove(dir, temporary.clone(), 0);
            return Err(failed(error));
        }
        let (nonce, offset, leftovers) = (checkpoint.nonce, front.len() as u64, Arc::clone(leftovers));
        Ok(Self { file, name, nonce, captures, frame: 0, offset, leftovers })
    }

    /// Removes the file. An open would remove it as well, so it does not count as used space
    /// meanwhile.
    fn remove(&self, dir: &dyn Dir) {
        self.leftovers.remove(dir, file_name::temporary(&self.name), 0);
    }

    /// Writes about 1 MiB. Takes no lock that could block a writer of the store, except that of a
    /// page's copy.
    ///
    /// # Errors
    ///
    /// Returns the file system's error; the file was removed then.
    pub(crate) fn step(&mut self, dir: &dyn Dir) -> Result<WriteStep> {
        match self.write_some() {
            Ok(Ok(step)) => Ok(step),
            Ok(Err(Abandoned)) => {
                self.remove(dir);
                Ok(WriteStep::Abandoned)
            }
            Err(error) => {
                self.remove(dir);
                Err(Error::io("write", dir.path().join(file_name::temporary(&self.name)), error))
            }
        }
    }

    fn write_some(&mut self) -> io::Result<std::result::Result<WriteStep, Abandoned>> {
        let mut bytes = alloc::with_capacity(STEP_BLOCKS * FRAME_SIZE)?;
        let mut block = [0; BLOCK_LEN];
        while bytes.len() < STEP_BLOCKS * FRAME_SIZE {
            let Some(capture) = self.captures.last_mut() else { break };
            match capture.next_block(&mut block) {
                Ok(true) => {
                    bytes.extend_from_slice(&block);
                    bytes.extend_from_slice(&frame_sum(self.nonce, self.frame, &block).to_le_bytes());
                    self.frame += 1;
                }
                Ok(false) => drop(self.captures.pop()),
                Err(abandoned) => return Ok(Err(abandoned)),
            }
        }
        self.file.write_at(&bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(Ok(if self.captures.is_empty() { WriteStep::Written } else { WriteStep::More }))
    }

    /// Removes the file of a checkpoint that is no longer needed.
    pub(crate) fn discard(self, dir: &dyn Dir) {
        self.remove(dir);
    }

    /// Makes a written checkpoint durable under its name. The log must be durable up to the
    /// checkpoint's last number (I3).
    ///
    /// # Errors
    ///
    /// Returns the file system's error; the file was removed then.
    pub(crate) fn finish(self, dir: &dyn Dir) -> Result<()> {
        debug_assert!(self.captures.is_empty(), "it is written");
        let temporary = file_name::temporary(&self.name);
        let failed = |error| Error::io("finish", dir.path().join(&self.name), error);
        let synced = self.file.sync();
        dir.crash_point("image-synced");
        let named = synced.and_then(|()| dir.rename(&temporary, &self.name));
        named.map_err(failed).inspect_err(|_| self.remove(dir))?;
        dir.crash_point("image-renamed");
        // The manifest does not name the file.
        dir.sync().map_err(failed).inspect_err(|_| self.leftovers.remove(dir, self.name.clone(), 0))
    }
}

/// True if an error is about a checkpoint, which the store can do without: the log holds all of its
/// information.
pub(crate) fn is_of_checkpoint(error: &Error) -> bool {
    if let Some(unread) = BlockError::of(error)
        && unread.waiting_part().is_none()
        && !unread.is_final()
    {
        // Met when an index was about to grow.
        return true;
    }
    let (Error::Corrupt { path, .. } | Error::Io { path, .. }) = error else { return false };
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| matches!(file_name::parse(name), file_name::FileName::Checkpoint(_)))
}

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct OpenedCheckpoint {
    /// The decoded front.
    pub(crate) checkpoint: IndexCheckpoint,
    file: Arc<dyn File>,
    path: Arc<Path>,
    front_len: u64,
}

impl OpenedCheckpoint {
    /// Opens a checkpoint and reads its front.
    ///
    /// # Errors
    ///
    /// Returns the file system's error, or `Corrupt` for a front that is damaged or belongs to
    /// another file. The log holds all information of a checkpoint, so a caller may continue
    /// without it.
    pub(crate) fn open(dir: &dyn Dir, number: u64) -> Result<Self> {
        let name = file_name::checkpoint(number);
        let path = dir.path().join(&name);
        let failed = |error| Error::io("read", &*path, error);
        let damaged = |defect| Error::Corrupt { path: path.clone(), offset: 0, defect };
        let file = dir.open(&name, Access::Read).map_err(failed)?;
        let size = file.identity().map_err(failed)?.size;
        let mut bytes = vec![0; usize::try_from(size.min(FIRST_READ)).expect("at most 16 KiB")];
        read_exact_at(&*file, &mut bytes, 0).map_err(failed)?;
        let front_len = IndexCheckpoint::front_len(&bytes, size).map_err(damaged)?;
        let first = bytes.len();
        if front_len > first {
            alloc::resize(&mut bytes, front_len).map_err(failed)?;
            read_exact_at(&*file, &mut bytes[first..], first as u64).map_err(failed)?;
        }
        let checkpoint = IndexCheckpoint::decode(&bytes, size).map_err(damaged)?;
        if checkpoint.number != number {
            return Err(damaged(Defect::BadField("number")));
        }
        Ok(Self { checkpoint, file, path: Arc::from(path), front_len: front_len as u64 })
    }

    /// Returns the error for a front that does not fit the store.
    pub(crate) fn unfit(&self, field: &'static str) -> Error {
        Error::Corrupt { path: self.path.to_path_buf(), offset: 0, defect: Defect::BadField(field) }
    }

    /// Returns the error of an operation on the checkpoint.
    pub(crate) fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        Error::io(operation, &*self.path, error)
    }

    /// Returns the path of the checkpoint.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the length of the front in bytes.
    pub(crate) fn front_len(&self) -> u64 {
        self.front_len
    }

    /// Makes the indexes of the front's keyspaces, in its order; `None` for those that `is_needed` refuses.
    /// They are partial, and keep the file open until they are whole.
    ///
    /// # Errors
    ///
    /// As for [`KeyIndexWriter::restore`].
    pub(crate) fn indexes(
        &self,
        is_needed: impl Fn(&CheckpointKeyspace) -> bool,
    ) -> Result<Vec<Option<KeyIndexWriter>>> {
        let mut first_frame = 0;
        let index = |keyspace: &CheckpointKeyspace| {
            let source = BlockSource {
                file: Arc::clone(&self.file),
                path: Arc::clone(&self.path),
                nonce: self.checkpoint.nonce,
                first_frame,
                frames_at: self.front_len,
            };
            first_frame += keyspace.table.blocks().iter().sum::<u64>();
            let restored = is_needed(keyspace).then(|| KeyIndexWriter::restore(keyspace.table, source));
            restored.transpose().map_err(|error| self.failed("load an index from", error))
        };
        self.checkpoint.keyspaces.iter().map(index).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::format::checkpoint::CheckpointKeyspace;
    use crate::format::hash::HashKey;
    use crate::format::{KeyspaceId, Seq, StoreId};
    use crate::fs::real::RealDir;
    use crate::index::hash::{Index, IndexWriter};
    use crate::mem::location::Location;

    fn scratch() -> (tempfile::TempDir, RealDir) {
        let executable = std::env::current_exe().expect("the test itself");
        let temporary =
            tempfile::tempdir_in(executable.parent().expect("it lies in a folder")).expect("a folder");
        let dir = RealDir::new(temporary.path()).expect("a directory by its full path");
        (temporary, dir)
    }

    fn hash_key() -> HashKey {
        HashKey::from_secret([7; 32])
    }

    fn filled(count: u64) -> IndexWriter {
        let (_, mut writer) = Index::new().expect("there is room");
        let key = hash_key();
        for number in 0..count {
            writer.reserve().expect("there is room");
            writer.insert(key.hash(&number.to_le_bytes()), Location::from_bits(number + 1));
        }
        writer
    }

    fn get(index: &Index, number: u64) -> Option<Location> {
        let matches = |location: Location| Ok::<_, BlockError>(location.to_bits() == number + 1);
        index.find(hash_key().hash(&number.to_le_bytes()), matches).expect("nothing fails here")
    }

    fn begin(writers: &mut [IndexWriter], limit: usize) -> (IndexCheckpoint, Vec<Capture>) {
        let captures: Vec<_> = writers
            .iter_mut()
            .map(|writer| writer.begin_checkpoint(limit).expect("none is being taken"))
            .collect();
        let keyspace = |(id, capture): (u32, &Capture)| CheckpointKeyspace {
            id: KeyspaceId(id),
            keys: capture.table().entries,
            live_bytes: 0,
            table: capture.table(),
            live: Vec::new(),
        };
        let checkpoint = IndexCheckpoint {
            store: StoreId([1; 16]),
            number: 1,
            nonce: 0xabcd,
            last: Seq(9),
            hash_id: 1,
            segments: Vec::new(),
            keyspaces: (0..).zip(&captures).map(keyspace).collect(),
        };
        (checkpoint, captures)
    }

    fn write(dir: &RealDir, writers: &mut [IndexWriter]) {
        let (checkpoint, captures) = begin(writers, 0);
        let mut writing =
            CheckpointWriter::start(dir, &checkpoint, captures, &Arc::default()).expect("nothing fails here");
        while writing.step(dir).expect("nothing fails here") == WriteStep::More {}
        writing.finish(dir).expect("nothing fails here");
    }

    #[test]
    fn checkpoint_restores_several_indexes_from_one_file() {
        let (_temporary, dir) = scratch();
        let counts = [0, 1, 1000, 100_000, 5];
        let mut writers = counts.map(filled);
        write(&dir, &mut writers);
        assert_eq!(dir.list().unwrap(), ["INDEX-000001"]);
        let opened = OpenedCheckpoint::open(&dir, 1).unwrap();
        for (mut writer, count) in opened.indexes(|_| true).unwrap().into_iter().flatten().zip(counts) {
            assert_eq!(writer.len() as u64, count);
            let index = Arc::clone(writer.hashed().expect("it is not ordered").index());
            assert!((0..count).all(|number| get(&index, number).is_some()));
            assert_eq!(get(&index, count), None);
            index.lines().load_all().unwrap();
        }
        assert!(matches!(OpenedCheckpoint::open(&dir, 2), Err(Error::Io { .. })));
        dir.rename("INDEX-000001", "INDEX-000002").unwrap();
        assert!(matches!(OpenedCheckpoint::open(&dir, 2), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn abandoned_checkpoint_leaves_no_file() {
        let (_temporary, dir) = scratch();
        let mut writers = [filled(200_000)];
        let (checkpoint, captures) = begin(&mut writers, 1);
        let mut writing = CheckpointWriter::start(&dir, &checkpoint, captures, &Arc::default()).unwrap();
        assert_eq!(writing.step(&dir).unwrap(), WriteStep::More);
        for number in 0..1000u64 {
            let (hash, location) = (hash_key().hash(&number.to_le_bytes()), Location::from_bits(number + 1));
            assert!(writers[0].replace(hash, location, location));
        }
        assert_eq!(writing.step(&dir).unwrap(), WriteStep::Abandoned);
        assert!(dir.list().unwrap().is_empty());
    }
}
