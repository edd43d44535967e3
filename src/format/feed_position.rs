//! The position of a change feed, which a consumer stores.
//!
//! **Format.** Forty-eight bytes: kind (1), zeros (3), the CRC-32 of all other bytes (4), store (16),
//! and three words: the incarnation, the number of the last change, and that of the last record.

use super::record::payload_sum;
use super::{ByteReader, Defect, Seq, StoreId};

/// Size of a position in bytes.
const SIZE: usize = 48;
const CHANGE: u8 = 1;
const STATE: u8 = 2;

/// The place of a [change feed](crate::Changes) in the history of one store.
///
/// A consumer stores it together with the effect of the changes before it, and later goes on from
/// there. It is meaningful only for the store that it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedPosition {
    pub(crate) store: StoreId,
    /// The incarnation that wrote the last change; zero if it is not known.
    pub(crate) incarnation: u64,
    /// The number of the last change that was returned, at the end of a batch.
    pub(crate) seq: Seq,
    /// The number of the last record that was read. The log's own records may come behind a change.
    pub(crate) last: Seq,
    /// True within a state, which is read from its beginning again.
    pub(crate) is_state: bool,
}

impl FeedPosition {
    /// The number of bytes that it takes.
    pub const SIZE: usize = SIZE;

    /// Returns the number of the last change before it, at the end of a batch.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Encodes it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{FeedPosition, Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let bytes = store.changes(Since::Now)?.position().to_bytes();
    /// let seq = store.insert("a", "1")?;
    /// let mut changes = store.changes(FeedPosition::from_bytes(&bytes)?)?;
    /// assert_eq!(changes.next()?.map(|change| change.seq), Some(seq));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0] = if self.is_state { STATE } else { CHANGE };
        bytes[8..24].copy_from_slice(&self.store.0);
        for (word, at) in [self.incarnation, self.seq.0, self.last.0].into_iter().zip((24..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let sum = sum_of(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Decodes it.
    ///
    /// # Errors
    ///
    /// `Truncated` or `Reserved` for another length, `HeaderChecksum` for other bytes, and `BadField`
    /// for an impossible number.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Defect> {
        let Some((bytes, rest)) = bytes.split_first_chunk::<SIZE>() else { return Err(Defect::Truncated) };
        if !rest.is_empty() {
            return Err(Defect::Reserved);
        }
        let [kind, zeros @ .., s0, s1, s2, s3] = bytes.first_chunk::<8>().expect("it is longer");
        if u32::from_le_bytes([*s0, *s1, *s2, *s3]) != sum_of(bytes) {
            return Err(Defect::HeaderChecksum);
        }
        let is_state = match *kind {
            CHANGE => false,
            STATE => true,
            _ => return Err(Defect::BadField("kind")),
        };
        if *zeros != [0; 3] {
            return Err(Defect::Reserved);
        }
        let mut reader = ByteReader(&bytes[8..]);
        let store = StoreId(*reader.0.first_chunk().expect("it is longer"));
        reader.0 = &reader.0[16..];
        let position =
            Self { store, incarnation: reader.u64()?, seq: reader.seq()?, last: reader.seq()?, is_state };
        if position.seq > position.last { Err(Defect::BadField("seq")) } else { Ok(position) }
    }
}

fn sum_of(bytes: &[u8; SIZE]) -> u32 {
    payload_sum(&bytes[..4], &bytes[8..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(is_state: bool) -> FeedPosition {
        FeedPosition { store: StoreId([7; 16]), incarnation: 3, seq: Seq(9), last: Seq(11), is_state }
    }

    #[test]
    fn position_comes_back_from_its_bytes() {
        for position in [sample(false), sample(true)] {
            assert_eq!(FeedPosition::from_bytes(&position.to_bytes()), Ok(position));
        }
    }

    #[test]
    fn every_changed_bit_of_a_position_is_found() {
        let bytes = sample(false).to_bytes();
        for bit in 0..8 * SIZE {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FeedPosition::from_bytes(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(FeedPosition::from_bytes(&bytes[1..]), Err(Defect::Truncated));
        assert_eq!(FeedPosition::from_bytes(&[&bytes[..], &[0]].concat()), Err(Defect::Reserved));
    }

    #[test]
    fn impossible_position_is_refused() {
        let position = FeedPosition { last: Seq(8), ..sample(false) };
        assert_eq!(FeedPosition::from_bytes(&position.to_bytes()), Err(Defect::BadField("seq")));
    }
}
