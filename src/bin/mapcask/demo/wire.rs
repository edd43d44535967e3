//! The messages between the two processes of the demo, through pipes and so outside of the store.
//!
//! **Format.** All numbers are little-endian.
//!
//! The plan, on the writer's standard input, holds for each unit:
//!
//! - its number (8 bytes) and the count of its files (4);
//! - for each file the index (8), length (8), checksum (4), length of the key (4), and the key.
//!
//! The notes, on the writer's standard output, have 24 bytes each: [`Note`].

use std::io::{self, Read};

use anyhow::{Context, Result, bail};

use super::tree::{File, Tree};

/// One write of the writer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) unit: u64,
    /// The index and the description of each file.
    pub(super) files: Vec<(u64, File)>,
}

/// Encodes the plan for some units of the tree.
pub(super) fn encode_plan(tree: &Tree, units: &[usize]) -> Vec<u8> {
    let mut plan = Vec::new();
    for &unit in units {
        let files = &tree.units[unit].files;
        plan.extend((unit as u64).to_le_bytes());
        plan.extend(small(files.len()).to_le_bytes());
        for &index in files {
            let file = &tree.files[index];
            plan.extend((index as u64).to_le_bytes());
            plan.extend(file.len.to_le_bytes());
            plan.extend(file.crc.to_le_bytes());
            plan.extend(small(file.key.len()).to_le_bytes());
            plan.extend(&file.key);
        }
    }
    plan
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("batches and keys are bounded when the tree is listed")
}

pub(super) fn decode_plan(mut plan: &[u8]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    while !plan.is_empty() {
        let unit = u64::from_le_bytes(take(&mut plan)?);
        let count = u32::from_le_bytes(take(&mut plan)?);
        let files = (0..count).map(|_| decode_file(&mut plan)).collect::<Result<_>>()?;
        jobs.push(Job { unit, files });
    }
    Ok(jobs)
}

fn decode_file(plan: &mut &[u8]) -> Result<(u64, File)> {
    let index = u64::from_le_bytes(take(plan)?);
    let len = u64::from_le_bytes(take(plan)?);
    let crc = u32::from_le_bytes(take(plan)?);
    let key_len = usize::try_from(u32::from_le_bytes(take(plan)?))?;
    let key = plan.split_off(..key_len).context("the plan ends within a key")?.to_vec();
    Ok((index, File { key, len, crc }))
}

fn take<const N: usize>(plan: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = plan.split_first_chunk().context("the plan ends within a number")?;
    *plan = rest;
    Ok(*taken)
}

/// A message of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// The store is open, and writing begins.
    Ready,
    /// The store acknowledged the unit.
    Written {
        /// The unit's number.
        unit: u64,
        /// The time spent in the store, in nanoseconds.
        nanos: u64,
    },
    /// The file has changed since the tree was listed, and is left out from now on.
    LeftOut {
        /// The file's index.
        file: u64,
    },
}

/// The size of a note in bytes: its kind, a checksum of the rest, and two numbers.
pub(super) const NOTE_SIZE: usize = 4 + 4 + 8 + 8;

impl Note {
    pub(super) fn encode(self) -> [u8; NOTE_SIZE] {
        let (kind, subject, nanos) = match self {
            Self::Ready => (1_u32, 0, 0),
            Self::Written { unit, nanos } => (2, unit, nanos),
            Self::LeftOut { file } => (3, file, 0),
        };
        let mut note = [0; NOTE_SIZE];
        note[..4].copy_from_slice(&kind.to_le_bytes());
        note[8..16].copy_from_slice(&subject.to_le_bytes());
        note[16..].copy_from_slice(&nanos.to_le_bytes());
        let sum = checksum(&note);
        note[4..8].copy_from_slice(&sum.to_le_bytes());
        note
    }

    pub(super) fn decode(note: &[u8; NOTE_SIZE]) -> Result<Self> {
        let mut fields = note.as_slice();
        let kind = u32::from_le_bytes(take(&mut fields)?);
        let sum = u32::from_le_bytes(take(&mut fields)?);
        let subject = u64::from_le_bytes(take(&mut fields)?);
        let nanos = u64::from_le_bytes(take(&mut fields)?);
        match kind {
            _ if sum != checksum(note) => bail!("a note of the writer is garbled"),
            1 => Ok(Self::Ready),
            2 => Ok(Self::Written { unit: subject, nanos }),
            3 => Ok(Self::LeftOut { file: subject }),
            _ => bail!("a note of the writer has unknown kind {kind}"),
        }
    }
}

fn checksum(note: &[u8; NOTE_SIZE]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&note[..4]);
    hasher.update(&note[8..]);
    hasher.finalize()
}

/// Returns the next note, or `None` at the end. A note that a kill cut off counts as the end.
pub(super) fn next_note(pipe: &mut impl Read) -> Result<Option<Note>> {
    let mut note = [0; NOTE_SIZE];
    match pipe.read_exact(&mut note) {
        Ok(()) => Note::decode(&note).map(Some),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).context("cannot read what the writer says"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Unit;
    use super::*;

    #[test]
    fn wire_restores_notes_and_finds_a_flipped_bit() {
        for note in [Note::Ready, Note::Written { unit: 7, nanos: u64::MAX }, Note::LeftOut { file: 1 << 40 }]
        {
            let bytes = note.encode();
            assert_eq!(Note::decode(&bytes).unwrap(), note);
            for bit in 0..NOTE_SIZE * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Note::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_note_that_was_cut_off_acknowledges_nothing() {
        let bytes = Note::Written { unit: 1, nanos: 2 }.encode();
        for len in 0..NOTE_SIZE {
            assert_eq!(next_note(&mut &bytes[..len]).unwrap(), None);
        }
        assert!(next_note(&mut bytes.as_slice()).unwrap().is_some());
    }

    #[test]
    fn a_plan_goes_both_ways_and_is_refused_when_cut() {
        let file = |key: &[u8]| File { key: key.to_vec(), len: 3, crc: 4 };
        let tree = Tree {
            files: vec![file(b"a"), file(b""), file(b"b/c")],
            units: vec![Unit { files: vec![0, 2] }, Unit { files: vec![1] }],
            ..Tree::default()
        };
        let plan = encode_plan(&tree, &[1, 0]);
        let jobs = decode_plan(&plan).unwrap();
        assert_eq!(jobs[0], Job { unit: 1, files: vec![(1, file(b""))] });
        assert_eq!(jobs[1], Job { unit: 0, files: vec![(0, file(b"a")), (2, file(b"b/c"))] });
        let first_len = encode_plan(&tree, &[1]).len();
        for len in (1..plan.len()).filter(|&len| len != first_len) {
            assert!(decode_plan(&plan[..len]).is_err(), "{len}");
        }
    }
}
