//! A file for tests of checkpoints, and functions that make checkpoints in it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::capture::{Abandoned, Capture};
use super::lazy::BlockSource;
use super::{Index, IndexWriter};
use crate::format::checkpoint::{BLOCK_LEN, FRAME_SIZE, IndexTable, frame_sum};
use crate::fs::{File, Identity};
use crate::mem::mapping::Mapping;

pub(super) const NONCE: u64 = 99;
/// The length of the bytes before the frames in these tests.
pub(super) const FRONT_LEN: usize = 40;
pub(super) const FRONT: u64 = FRONT_LEN as u64;

/// A file in memory that counts reads and can fail.
#[derive(Debug, Default)]
pub(super) struct TestFile {
    pub(super) bytes: Vec<u8>,
    pub(super) read: AtomicUsize,
    pub(super) fails: AtomicBool,
}

impl File for TestFile {
    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity { size: self.bytes.len() as u64, links: 1, inode: (0, 0) })
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let from = self.bytes.get(usize::try_from(offset).expect("a number that fits")..).unwrap_or(&[]);
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        self.read.fetch_add(count, Ordering::Relaxed);
        Ok(count)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("a checkpoint is read here")
    }
    fn extend(&self, _: u64) -> io::Result<()> {
        unreachable!("an index does not extend a file")
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        unreachable!("a checkpoint is read here")
    }
    fn allocate_beside(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!("a checkpoint is read here")
    }
    fn sync(&self) -> io::Result<()> {
        unreachable!("a checkpoint is read here")
    }
    fn touch(&self) -> io::Result<()> {
        unreachable!("a checkpoint is read here")
    }
    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!("a checkpoint is read here")
    }
    fn allocated(&self) -> io::Result<u64> {
        unreachable!("a checkpoint is read here")
    }
    fn map(&self, _: usize) -> io::Result<Arc<Mapping>> {
        unreachable!("a checkpoint is not mapped")
    }
}

/// Returns the frames of a checkpoint, with `first_frame` other frames before them.
pub(super) fn frames(mut capture: Capture, first_frame: u64) -> Result<Vec<u8>, Abandoned> {
    let mut bytes =
        vec![7; usize::try_from(FRONT + first_frame * FRAME_SIZE as u64).expect("a number that fits")];
    let mut block = [0; BLOCK_LEN];
    let mut number = first_frame;
    while capture.next_block(&mut block)? {
        seal(&mut bytes, number, &block);
        number += 1;
    }
    Ok(bytes)
}

pub(super) fn seal(bytes: &mut Vec<u8>, number: u64, block: &[u8]) {
    bytes.extend_from_slice(block);
    bytes.extend_from_slice(&frame_sum(NONCE, number, block).to_le_bytes());
}

pub(super) fn file_of(bytes: Vec<u8>) -> Arc<TestFile> {
    Arc::new(TestFile { bytes, ..TestFile::default() })
}

pub(super) fn open(
    file: &Arc<TestFile>,
    table: IndexTable,
    first_frame: u64,
) -> io::Result<(Arc<Index>, IndexWriter)> {
    let file: Arc<dyn File> = Arc::<TestFile>::clone(file);
    let path: Arc<Path> = Arc::from(Path::new("INDEX-000001"));
    Index::from_checkpoint_with(
        table,
        BlockSource { file, path, nonce: NONCE, first_frame, frames_at: FRONT },
        0,
    )
}
