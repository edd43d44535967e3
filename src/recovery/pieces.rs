//! Reading the records of a segment ahead of whoever puts them into an index.
//!
//! A [`Reader`] reads, verifies and hashes; what it found it gives away in [`Piece`]s, which need the file no more. So it
//! may run on a thread of its own, and what is done with a piece can look ahead in it: that is where the time goes,
//! for the lines of a large index are nowhere near.

use std::sync::mpsc;
use std::thread;

use super::source::FileSource;
use crate::error::Result;
use crate::format::Defect;
use crate::format::hash::{Hash, HashKey};
use crate::format::record::{HEADER_SIZE, Kind};
use crate::format::walk::{Placed, READ_MAX, Source, Step, Walker};

/// Records in a piece, and bytes of keys, at most about.
const RECORDS: usize = 1024;
const BYTES: usize = 64 << 10;
/// Pieces that may wait for whoever takes them.
const WAITING: usize = 4;
/// From so many bytes on a thread pays for itself.
const LARGE: u64 = 4 << 20;

/// Some records, in order.
#[derive(Debug, Default)]
pub(super) struct Piece {
    records: Vec<Found>,
    bytes: Vec<u8>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) placed: Placed,
    /// Of the key of a value or a tombstone.
    pub(super) hash: Hash,
    at: usize,
    len: usize,
}

/// Where reading ended, and why.
#[derive(Debug)]
pub(super) struct End {
    pub(super) walker: Walker,
    /// What stopped it, where it was not zeros or the known end.
    pub(super) defect: Option<Defect>,
}

/// Reads the records of one segment.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) walker: Walker,
    pub(super) source: &'a mut FileSource,
    pub(super) hash_key: &'a HashKey,
}

impl Piece {
    /// The records.
    pub(super) fn records(&self) -> &[Found] {
        &self.records
    }

    /// The key of a value or a tombstone; the payload of the log's own records.
    pub(super) fn bytes(&self, found: &Found) -> &[u8] {
        &self.bytes[found.at..found.at + found.len]
    }

    fn is_full(&self) -> bool {
        self.records.len() >= RECORDS || self.bytes.len() >= BYTES
    }

    fn push(&mut self, source: &mut FileSource, hash_key: &HashKey, placed: Placed) -> Result<()> {
        let header = &placed.header;
        let payload = usize::try_from(header.payload_len()).unwrap_or(usize::MAX);
        let len = match header.kind {
            Kind::Put | Kind::Tombstone => usize::from(header.key_len),
            // Longer ones are none that the store writes.
            Kind::Keyspace | Kind::Watermark | Kind::Start => payload.min(READ_MAX),
            Kind::Batch => 0,
        };
        let bytes = source.bytes(placed.offset + HEADER_SIZE as u64, len)?;
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let hash = hash_key.hash(&self.bytes[at..]);
        self.records.push(Found { placed, hash, at, len });
        Ok(())
    }
}

impl Reader<'_> {
    /// Reads to the end, and has `take` do something with each piece, in order; on another thread than this, where there is
    /// much to read and a processor for it.
    ///
    /// # Errors
    ///
    /// What the operating system says; what `take` says.
    pub(super) fn read(self, limit: u64, mut take: impl FnMut(&Piece) -> Result<()>) -> Result<End> {
        let is_large = limit.saturating_sub(self.walker.offset()) >= LARGE;
        if !is_large || thread::available_parallelism().map_or(1, usize::from) < 2 {
            let mut piece = Piece::default();
            return self.read_pieces(|full| {
                take(&full)?;
                piece = full;
                piece.records.clear();
                piece.bytes.clear();
                Ok(Some(std::mem::take(&mut piece)))
            });
        }
        thread::scope(|scope| {
            let (full, pieces) = mpsc::sync_channel::<Piece>(WAITING);
            let (back, empty) = mpsc::channel::<Piece>();
            let reader =
                thread::Builder::new().name("mapcask-read".to_owned()).spawn_scoped(scope, move || {
                    self.read_pieces(|piece| match full.send(piece) {
                        Ok(()) => Ok(Some(empty.try_recv().unwrap_or_default())),
                        // Whoever takes them has failed.
                        Err(_) => Ok(None),
                    })
                });
            let reader =
                reader.map_err(|error| crate::error::Error::io("start a thread for", "recovery", error))?;
            let mut taken = Ok(());
            for mut piece in pieces {
                taken = take(&piece);
                if taken.is_err() {
                    break;
                }
                piece.records.clear();
                piece.bytes.clear();
                // It has ended, and needs no more.
                drop(back.send(piece));
            }
            let end = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            taken.and(end)
        })
    }

    /// Reads to the end; `give` takes a full piece for an empty one, or none to end it.
    fn read_pieces(mut self, mut give: impl FnMut(Piece) -> Result<Option<Piece>>) -> Result<End> {
        let mut piece = Piece::default();
        let defect = loop {
            match self.walker.step(self.source)? {
                Step::Record(placed) => piece.push(self.source, self.hash_key, placed)?,
                Step::Blank => break None,
                Step::Invalid(defect) => break Some(defect),
            }
            if piece.is_full() {
                match give(piece)? {
                    Some(empty) => piece = empty,
                    None => return Ok(End { walker: self.walker, defect: None }),
                }
            }
        };
        if !piece.records.is_empty() {
            give(piece)?;
        }
        Ok(End { walker: self.walker, defect })
    }
}
