//! The words of a node: its control word, and loads and stores of the others.
//!
//! **Format** (in memory; index checkpoints hold nodes in this form, without versions and verified bits). A leaf has
//! 256 bytes, an inner node 4 KiB.
//!
//! | bits of a control word | meaning |
//! |---|---|
//! | 0-8 | the number of entries of a leaf, or of children |
//! | 9-19 | skip: the length of the prefix that the node leaves out |
//! | 20-24 | level: 0 for a leaf; 31 from when the node leaves the tree until it is built anew |
//! | 25-63 | version: one more each time that the node leaves the tree |

use std::hint::select_unpredictable;
use std::ops::Range;

use crate::mem::line_array::{AdjacentWords, LINE_WORDS, Line};
use crate::sync::{AtomicU64, Ordering};

/// The number of lines of a leaf.
pub(super) const LEAF_LINES: usize = if cfg!(loom) { 1 } else { 4 };
/// The number of lines of an inner node.
pub(super) const INNER_LINES: usize = if cfg!(loom) { 4 } else { 64 };
/// The number of words of a leaf, its control word included.
pub(super) const LEAF_WORDS: usize = LEAF_LINES * LINE_WORDS;
/// The number of words of an inner node, its control word included.
pub(super) const INNER_WORDS: usize = INNER_LINES * LINE_WORDS;

const COUNT_BITS: u32 = 9;
const SKIP_BITS: u32 = 11;
const LEVEL_BITS: u32 = 5;
const LEVEL_SHIFT: u32 = COUNT_BITS + SKIP_BITS;
const VERSION_SHIFT: u32 = LEVEL_SHIFT + LEVEL_BITS;
/// The level of a node that is not in the tree.
const OUT: u64 = (1 << LEVEL_BITS) - 1;

/// The bits of a control word; the default is that of a node that was never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Control(u64);

impl Control {
    /// Returns the number of entries or children.
    pub(super) fn count(self) -> usize {
        to_usize(self.0 & ((1 << COUNT_BITS) - 1))
    }

    /// Returns the length of the prefix that the node leaves out.
    pub(super) fn skip(self) -> usize {
        to_usize(self.0 >> COUNT_BITS & ((1 << SKIP_BITS) - 1))
    }

    /// Returns the level; no level of a tree for a node that is out of it.
    pub(super) fn level(self) -> u64 {
        self.0 >> LEVEL_SHIFT & OUT
    }

    /// Returns true if the node is not in the tree: it has left it, or is being built.
    pub(super) fn is_out(self) -> bool {
        self.level() == OUT
    }

    /// Returns the word of a checkpoint; `None` for one that no writer makes.
    pub(super) fn of_checkpoint(word: u64) -> Option<Self> {
        (word >> VERSION_SHIFT == 0).then_some(Self(word))
    }

    /// Returns a control word without its version.
    pub(super) fn without_version(word: u64) -> u64 {
        word & ((1 << VERSION_SHIFT) - 1)
    }

    /// Returns the word of the node once it is out of the tree, with the next version.
    pub(super) fn out(self) -> Self {
        let version = (self.0 >> VERSION_SHIFT).wrapping_add(1);
        Self(version << VERSION_SHIFT | OUT << LEVEL_SHIFT)
    }

    /// Returns the word of the node once it is built.
    pub(super) fn built(self, level: u64, count: usize, skip: usize) -> Self {
        debug_assert!(count < 1 << COUNT_BITS && skip < 1 << SKIP_BITS && level < OUT);
        let version = self.0 >> VERSION_SHIFT << VERSION_SHIFT;
        Self(version | level << LEVEL_SHIFT | (skip as u64) << COUNT_BITS | count as u64)
    }
}

/// Words that can be read.
pub(super) trait Words {
    /// Returns a word, or zero behind the last. A reader of a node fences before it acts on it.
    fn word(&self, at: usize) -> u64;
}

impl Words for [u64] {
    #[inline]
    fn word(&self, at: usize) -> u64 {
        self.get(at).copied().unwrap_or(0)
    }
}

/// A node in the memory that readers search.
#[derive(Debug, Clone, Copy)]
pub(super) struct TreeNode<'a>(AdjacentWords<'a>);

impl Words for TreeNode<'_> {
    #[inline]
    fn word(&self, at: usize) -> u64 {
        // Relaxed: readers fence (acquire) before they act on it, which pairs with the release in
        // `set`. The writer reads its own stores.
        self.0.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

impl<'a> TreeNode<'a> {
    #[inline]
    pub(super) fn new(lines: &'a [Line]) -> Self {
        Self(AdjacentWords::new(lines))
    }

    #[inline]
    fn place(&self, at: usize) -> &AtomicU64 {
        self.0.get(at).expect("a word of the node")
    }

    /// Prefetches all lines.
    #[inline]
    pub(super) fn prefetch(&self) {
        self.0.prefetch();
    }

    /// Returns the control word, and orders everything that was stored before it.
    #[inline]
    pub(super) fn control(&self) -> Control {
        // Acquire: pairs with the release in `set`. A thread that sees a node as built sees its words.
        Control(self.place(0).load(Ordering::Acquire))
    }

    /// Returns the control word for a comparison that a fence has ordered, or for the writer.
    #[inline]
    pub(super) fn control_unordered(&self) -> Control {
        // Relaxed: see above.
        Control(self.place(0).load(Ordering::Relaxed))
    }

    /// Stores a word. Writer only.
    #[inline]
    pub(super) fn set(&self, at: usize, word: u64) {
        // Release: pairs with the fence of a reader that loaded this word: it sees the control word
        // that announced it (T3), and the record behind an entry (I2).
        self.place(at).store(word, Ordering::Release);
    }

    /// Stores a range of words of another node, from word `to` on. Writer only.
    #[inline]
    pub(super) fn copy(&self, other: TreeNode<'_>, range: Range<usize>, to: usize) {
        let places = self.0.range(to..to + range.len());
        for (place, word) in places.zip(other.0.range(range)) {
            // Relaxed and release: as in `word` and `set`.
            place.store(word.load(Ordering::Relaxed), Ordering::Release);
        }
    }

    /// Sets bits of a word, if it is still the one that was loaded.
    pub(super) fn set_bits(&self, at: usize, loaded: u64, bits: u64) {
        // Relaxed, both: an exchange leaves the release of the store before it in force. Failure of the
        // exchange does no harm.
        let _ = self.place(at).compare_exchange(loaded, loaded | bits, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Stores the control word. Writer only.
    #[inline]
    pub(super) fn set_control(&self, control: Control) {
        self.set(0, control.0);
    }
}

/// Converts a number of a few bits.
#[inline]
pub(super) fn to_usize(bits: u64) -> usize {
    usize::try_from(bits).expect("a few bits")
}

/// Returns eight bytes of a key from `at` on as a number that sorts like them. Zeros stand behind
/// the end.
#[inline]
pub(crate) fn key_word(key: &[u8], at: usize) -> u64 {
    let rest = key.get(at..).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk() {
        return u64::from_be_bytes(*bytes);
    }
    // At the end of a key, its last eight bytes hold the rest.
    let Some(last) = key.last_chunk() else { return short_word(rest) };
    let skipped = u64::BITS - 8 * u32::try_from(rest.len()).expect("less than eight");
    u64::from_be_bytes(*last).checked_shl(skipped).unwrap_or(0)
}

/// Returns the rest of a key of fewer than eight bytes as [`key_word`] does. A search hardly ever needs it, so
/// it is a call.
#[inline(never)]
fn short_word(rest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

/// Returns the length of the common prefix of two keys.
pub(crate) fn common_len(one: &[u8], other: &[u8]) -> usize {
    let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    let same = 8 * words.take_while(|(one, other)| one == other).count();
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

/// Returns the first number of a range for which a condition no longer holds. Its steps have no branch,
/// because a processor could predict only half of them.
#[inline]
pub(super) fn lower_bound(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    // The number before the range of those that are in doubt.
    let (mut before, mut count) = (range.start.wrapping_sub(1), range.len());
    while count > 1 {
        let half = count / 2;
        let middle = before.wrapping_add(half);
        before = select_unpredictable(holds(middle), middle, before);
        count -= half;
    }
    let next = before.wrapping_add(1);
    if count == 0 { next } else { next + usize::from(holds(next)) }
}
