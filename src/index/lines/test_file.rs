//! A file for tests of checkpoints, and functions that make checkpoints in it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::capture::{Abandoned, Capture};
use super::lazy::BlockSource;
use crate::format::checkpoint::{BLOCK_LEN, FRAME_SIZE, frame_sum};
use crate::fs::{File, Identity};
use crate::mem::mapping::Mapping;

pub(in crate::index) const NONCE: u64 = 99;
/// The length of the bytes before the frames in these tests.
pub(in crate::index) const FRONT_LEN: usize = 40;
const FRONT: u64 = FRONT_LEN as u64;

/// A file in memory that counts reads and can fail.
#[derive(Debug, Default)]
pub(in crate::index) struct TestFile {
    pub(in crate::index) bytes: Vec<u8>,
    pub(in crate::index) read: AtomicUsize,
    pub(in crate::index) fails: AtomicBool,
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
pub(in crate::index) fn frames(mut capture: Capture, first_frame: u64) -> Result<Vec<u8>, Abandoned> {
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

pub(in crate::index) fn seal(bytes: &mut Vec<u8>, number: u64, block: &[u8]) {
    bytes.extend_from_slice(block);
    bytes.extend_from_slice(&frame_sum(NONCE, number, block).to_le_bytes());
}

pub(in crate::index) fn file_of(bytes: Vec<u8>) -> Arc<TestFile> {
    Arc::new(TestFile { bytes, ..TestFile::default() })
}

/// Returns the blocks of an index in a file, behind `first_frame` others.
pub(in crate::index) fn source_of(file: &Arc<TestFile>, first_frame: u64) -> BlockSource {
    let file: Arc<dyn File> = Arc::<TestFile>::clone(file);
    let path: Arc<Path> = Arc::from(Path::new("store/INDEX-000001"));
    BlockSource { file, path, nonce: NONCE, first_frame, frames_at: FRONT }
}
