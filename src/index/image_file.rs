//! A file for the tests of images.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::fs::{File, Identity};
use crate::mapping::Mapping;

/// A file in memory that counts what is read, and can fail.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub(super) bytes: Vec<u8>,
    pub(super) read: AtomicUsize,
    pub(super) fails: AtomicBool,
}

impl File for Bytes {
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
        unreachable!("an image is read here")
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        unreachable!("an image is read here")
    }
    fn sync(&self) -> io::Result<()> {
        unreachable!("an image is read here")
    }
    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!("an image is read here")
    }
    fn allocated(&self) -> io::Result<u64> {
        unreachable!("an image is read here")
    }
    fn map(&self, _: usize) -> io::Result<Arc<Mapping>> {
        unreachable!("an image is not mapped")
    }
}
