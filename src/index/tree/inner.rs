//! An inner node: children in the order of their keys, and the separators between them.
//!
//! | words | meaning |
//! |---|---|
//! | 0 | control word: the number of children, the length of the prefix that all separators share, the level |
//! | 1 | bits 0-15: the offset at which the bytes begin; bits 16-31: the offset of the shared prefix |
//! | 2.. | a slot for each child: its number in bits 0-31, the head of its separator in bits 32-63 |
//! | behind them | half a word for each child: the offset of its separator's rest in bits 0-15, the length of the separator without the prefix in bits 16-31 |
//! | up to the end | bytes: the shared prefix, and the rests, in any order |
//!
//! A separator is a key, or the beginning of one. Keys below child i are at or above separator i and below separator
//! i + 1. The first child has no separator. The *head* is the first four bytes of a separator behind the prefix, with
//! zeros behind its end; the *rest* is what follows. Bytes lie in words from the highest byte to the lowest, so that
//! words compare as bytes do.

use std::cmp::Ordering;

use super::LEVELS_MAX;
use super::node::{Control, INNER_WORDS, TreeNode, Words, common_len, key_word, lower_bound, to_usize};
use crate::format::record::MAX_ORDERED_KEY_LEN;

/// The size of a node in bytes.
const SIZE: usize = INNER_WORDS * 8;
/// The word of the first slot.
const SLOTS: usize = 2;
/// The length of a head in bytes.
const HEAD: usize = 4;
/// The most children of a node, so that their number fits into a control word.
const CHILDREN_MAX: usize = if cfg!(loom) { 3 } else { 400 };

/// The side from which a search comes if a separator equals the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The child that may hold the key.
    At,
    /// The child that may hold the greatest key below it.
    Before,
}

/// An inner node whose words may change while they are read: then it returns any result, and the
/// reader finds its control word changed.
#[derive(Debug)]
pub(super) struct InnerView<'w, W: ?Sized> {
    pub(super) words: &'w W,
    pub(super) count: usize,
    pub(super) skip: usize,
}

impl<'w, W: Words + ?Sized> InnerView<'w, W> {
    pub(super) fn new(words: &'w W, control: Control) -> Self {
        Self { words, count: control.count(), skip: control.skip() }
    }

    /// Returns the position of the word of a slot.
    pub(super) fn slot_word(slot: usize) -> usize {
        SLOTS + slot
    }

    /// Returns the word of a slot.
    #[inline]
    pub(super) fn slot(&self, slot: usize) -> u64 {
        self.word(SLOTS + slot)
    }

    /// Returns the number of the child in a slot.
    pub(super) fn child(&self, slot: usize) -> u32 {
        child_of(self.slot(slot))
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        // Offsets that were overwritten meanwhile may lead anywhere, also behind the last word.
        self.words.word(at)
    }

    #[inline]
    fn head(&self, slot: usize) -> u64 {
        self.slot(slot) >> 32
    }

    /// Returns the offset of the rest of a separator, and the length of the separator without the
    /// prefix.
    fn info(&self, slot: usize) -> (usize, usize) {
        let half = self.word(SLOTS + self.count + slot / 2) >> (slot % 2 * 32);
        (to_usize(half & 0xffff), to_usize(half >> 16 & 0xffff))
    }

    fn prefix_at(&self) -> usize {
        to_usize(self.word(1) >> 16 & 0xffff)
    }

    /// Returns up to eight bytes from an offset on, with zeros behind `len`.
    #[inline]
    fn bytes(&self, offset: usize, len: usize) -> u64 {
        let (at, shift) = (offset / 8, offset % 8 * 8);
        let first = self.word(at) << shift;
        let second = if shift == 0 { 0 } else { self.word(at + 1) >> (64 - shift) };
        let word = first | second;
        if len >= 8 { word } else { word & !(u64::MAX >> (8 * len)) }
    }

    /// Compares `key[at..]` with `len` bytes from an offset on.
    fn compare(&self, key: &[u8], at: usize, offset: usize, len: usize) -> Ordering {
        let mut done = 0;
        while done < len {
            let here = len - done;
            let (ours, theirs) = (key_word(key, at + done), self.bytes(offset + done, here));
            let ours = if here >= 8 { ours } else { ours & !(u64::MAX >> (8 * here)) };
            if ours != theirs {
                return ours.cmp(&theirs);
            }
            done += 8;
        }
        // Equal up to the length of the shorter one, or to zeros behind it.
        key.len().saturating_sub(at).cmp(&len)
    }

    /// Compares a key that has the shared prefix with the separator of a slot.
    fn compare_slot(&self, key: &[u8], slot: usize) -> Ordering {
        let (offset, len) = self.info(slot);
        let behind = key.len() - self.skip;
        if len <= HEAD || behind <= HEAD {
            // The heads are equal, so the shorter one is a prefix of the longer one, or differs by
            // zeros.
            return behind.cmp(&len);
        }
        self.compare(key, self.skip + HEAD, offset, len - HEAD)
    }

    /// Returns the slot of the child that a key leads to.
    #[inline]
    pub(super) fn search(&self, key: &[u8], side: Side) -> usize {
        match if self.skip == 0 { Ordering::Equal } else { self.compare_prefix(key) } {
            Ordering::Less => return 0,
            Ordering::Greater => return self.count - 1,
            Ordering::Equal => {}
        }
        let head = key_word(key, self.skip) >> 32;
        let first = lower_bound(1..self.count, |slot| self.slot(slot) < head << 32);
        if first == self.count || self.head(first) != head {
            return first - 1;
        }
        self.search_rests(key, side, first)
    }

    /// Compares a key with the prefix that all separators share. Equal if the key begins with it.
    #[inline(never)]
    fn compare_prefix(&self, key: &[u8]) -> Ordering {
        let here = key.len().min(self.skip);
        self.compare(&key[..here], 0, self.prefix_at(), self.skip)
    }

    /// Searches like [`InnerView::search`] from the first slot on whose head is that of the key.
    #[inline(never)]
    fn search_rests(&self, key: &[u8], side: Side, first: usize) -> usize {
        let head = self.head(first);
        let end = lower_bound(first..self.count, |slot| self.head(slot) == head);
        let is_before = |slot| match self.compare_slot(key, slot) {
            Ordering::Less => false,
            Ordering::Equal => side == Side::At,
            Ordering::Greater => true,
        };
        lower_bound(first..end, is_before) - 1
    }

    /// Appends the separator of a slot to `key`.
    pub(super) fn separator(&self, slot: usize, key: &mut Vec<u8>) {
        self.copy(self.prefix_at(), self.skip, key);
        let (offset, len) = self.info(slot);
        let head = self.slot(slot).to_be_bytes();
        key.extend_from_slice(&head[..len.min(HEAD)]);
        self.copy(offset, len.saturating_sub(HEAD), key);
    }

    fn copy(&self, offset: usize, len: usize, key: &mut Vec<u8>) {
        // A length that was overwritten meanwhile may be any.
        let len = len.min(SIZE);
        for done in (0..len).step_by(8) {
            let bytes = self.bytes(offset + done, len - done).to_be_bytes();
            key.extend_from_slice(&bytes[..(len - done).min(8)]);
        }
    }
}

/// Checks the words of an inner node that was read from a checkpoint. Returns its children, or `None`
/// for a node that no writer makes.
pub(super) fn check(control: Control, words: &[u64]) -> Option<Vec<u32>> {
    let is_level = (1..=LEVELS_MAX as u64).contains(&control.level());
    let view = InnerView::new(words, control);
    if words.len() != INNER_WORDS || !is_level || !(1..=CHILDREN_MAX).contains(&view.count) {
        return None;
    }
    let bytes_at = to_usize(view.word(1) & 0xffff);
    let mut bytes = bytes_at + view.skip;
    let is_inside = |at: usize, len: usize| len == 0 || (at >= bytes_at && at + len <= SIZE);
    if image_end(view.count) * 8 > bytes_at || !is_inside(view.prefix_at(), view.skip) {
        return None;
    }
    let (mut before, mut key) = (Vec::new(), Vec::new());
    for slot in 1..view.count {
        let (offset, len) = view.info(slot);
        let rest = len.saturating_sub(HEAD);
        // The head of a short separator ends with zeros.
        let behind_head = if len < HEAD { view.head(slot) & (u64::from(u32::MAX) >> (8 * len)) } else { 0 };
        if view.skip + len > MAX_ORDERED_KEY_LEN || !is_inside(offset, rest) || behind_head != 0 {
            return None;
        }
        bytes += rest;
        key.clear();
        view.separator(slot, &mut key);
        if before >= key {
            return None;
        }
        std::mem::swap(&mut before, &mut key);
    }
    // No two share a byte, so a part of them fits into a node.
    (bytes == SIZE).then(|| (0..view.count).map(|slot| view.child(slot)).collect())
}

/// Returns the number of the child in the word of a slot.
pub(super) fn child_of(slot: u64) -> u32 {
    u32::try_from(slot & u64::from(u32::MAX)).expect("32 bits")
}

/// The words of an inner node outside of the tree.
#[derive(Clone)]
pub(super) struct InnerImage {
    words: Box<[u64; INNER_WORDS]>,
    pub(super) count: usize,
    pub(super) skip: usize,
}

impl InnerImage {
    /// Copies a node. Writer only.
    pub(super) fn read(node: TreeNode<'_>) -> Self {
        let control = node.control_unordered();
        let mut words = Box::new([0; INNER_WORDS]);
        let image = InnerView::new(&node, control);
        let bytes_at = to_usize(image.word(1) & 0xffff);
        for at in (1..image_end(control.count())).chain(bytes_at / 8..INNER_WORDS) {
            words[at] = node.word(at);
        }
        Self { words, count: control.count(), skip: control.skip() }
    }

    pub(super) fn view(&self) -> InnerView<'_, [u64]> {
        InnerView { words: &self.words[..], count: self.count, skip: self.skip }
    }

    /// Stores the words into a node that is being built. Writer only.
    pub(super) fn write(&self, node: TreeNode<'_>) {
        for at in (1..image_end(self.count)).chain(self.bytes_at() / 8..INNER_WORDS) {
            node.set(at, self.words[at]);
        }
    }

    /// Returns the words from the second on.
    #[cfg(all(test, not(loom)))]
    pub(super) fn words(&self) -> &[u64] {
        &self.words[1..]
    }

    fn bytes_at(&self) -> usize {
        to_usize(self.words[1] & 0xffff)
    }

    fn set_info(&mut self, slot: usize, info: u64) {
        let word = &mut self.words[SLOTS + self.count + slot / 2];
        let shift = slot % 2 * 32;
        *word = *word & !(0xffff_ffff << shift) | info << shift;
    }

    fn put_bytes(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let shift = 56 - at % 8 * 8;
            let word = &mut self.words[at / 8];
            *word = *word & !(0xff << shift) | u64::from(*byte) << shift;
        }
    }
}

/// A split of a child, for the node above it: the slot of the child, the two that stand for it, and the
/// separator between them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChildSplit<'k> {
    pub(super) slot: usize,
    pub(super) left: u32,
    pub(super) separator: &'k [u8],
    pub(super) right: u32,
}

/// Stores the words of a node into another one that is being built, with one child split. Returns the
/// number of its children; `None` if it lacks the space, or the separator has another prefix: nothing was
/// stored then. Writer only.
pub(super) fn build_with_split(old: TreeNode<'_>, new: TreeNode<'_>, split: ChildSplit<'_>) -> Option<usize> {
    let view = InnerView::new(&old, old.control_unordered());
    let ChildSplit { slot, left, separator, right } = split;
    let (count, skip) = (view.count, view.skip);
    let is_below = |prefix| view.compare(prefix, 0, view.prefix_at(), skip) == Ordering::Equal;
    let suffix =
        separator.get(..skip).filter(|prefix| skip == 0 || is_below(prefix)).map(|_| &separator[skip..])?;
    let rest = suffix.get(HEAD..).unwrap_or_default();
    let bytes_at = to_usize(view.word(1) & 0xffff);
    let offset = bytes_at.checked_sub(rest.len())?;
    if count == CHILDREN_MAX || image_end(count + 1) > offset / 8 {
        return None;
    }
    new.set(1, view.word(1) & !0xffff | offset as u64);
    new.copy(old, SLOTS..SLOTS + slot, SLOTS);
    new.set(SLOTS + slot, view.slot(slot) >> 32 << 32 | u64::from(left));
    new.set(SLOTS + slot + 1, key_word(suffix, 0) >> 32 << 32 | u64::from(right));
    new.copy(old, SLOTS + slot + 1..SLOTS + count, SLOTS + slot + 2);
    // The halves behind the new one move by a half, into the next word or the upper half.
    let half = offset as u64 | (suffix.len() as u64) << 16;
    let halves = |word: usize| view.word(SLOTS + count + word);
    let (whole, upper) = (slot.div_ceil(2), slot % 2 == 0);
    let new_halves = |word: usize| SLOTS + count + 1 + word;
    new.copy(old, SLOTS + count..SLOTS + count + whole, SLOTS + count + 1);
    let lower = u64::from(u32::MAX);
    let (beside, last) = (halves(whole), (count + 1).div_ceil(2));
    new.set(new_halves(whole), if upper { beside & lower | half << 32 } else { half | beside << 32 });
    for word in whole + 1..last {
        new.set(new_halves(word), halves(word - 1) >> 32 | halves(word) << 32);
    }
    new.copy(old, bytes_at / 8..INNER_WORDS, bytes_at / 8);
    for (at, byte) in (offset..).zip(rest) {
        let shift = 56 - at % 8 * 8;
        new.set(at / 8, new.word(at / 8) & !(0xff << shift) | u64::from(*byte) << shift);
    }
    Some(count + 1)
}

/// Returns the word behind the slots and the halves of a node with this many children.
fn image_end(count: usize) -> usize {
    SLOTS + count + count.div_ceil(2)
}

/// The children of a node with their whole separators.
#[derive(Debug, Default, Clone)]
pub(super) struct Draft {
    children: Vec<u32>,
    /// The separators of all children, one behind the other. That of the first child is empty.
    bytes: Vec<u8>,
    /// The end of each separator in `bytes`.
    ends: Vec<usize>,
}

impl Draft {
    /// Returns the children and separators of a node.
    pub(super) fn of(image: &InnerImage) -> Self {
        let mut draft = Self::default();
        let view = image.view();
        for slot in 0..image.count {
            if slot > 0 {
                view.separator(slot, &mut draft.bytes);
            }
            draft.children.push(view.child(slot));
            draft.ends.push(draft.bytes.len());
        }
        draft
    }

    pub(super) fn count(&self) -> usize {
        self.children.len()
    }

    pub(super) fn push(&mut self, separator: &[u8], child: u32) {
        self.bytes.extend_from_slice(separator);
        self.children.push(child);
        self.ends.push(self.bytes.len());
    }

    /// Appends the children of another node, whose first one gets a separator.
    pub(super) fn append(&mut self, separator: &[u8], other: &Self) {
        for slot in 0..other.count() {
            self.push(if slot == 0 { separator } else { other.separator(slot) }, other.children[slot]);
        }
    }

    pub(super) fn insert(&mut self, slot: usize, separator: &[u8], child: u32) {
        let start = self.start(slot);
        self.bytes.splice(start..start, separator.iter().copied());
        self.children.insert(slot, child);
        self.ends.insert(slot, start);
        self.ends[slot..].iter_mut().for_each(|end| *end += separator.len());
    }

    /// Removes a child that is not the first, with its separator.
    pub(super) fn remove(&mut self, slot: usize) {
        let (start, end) = (self.start(slot), self.ends[slot]);
        self.bytes.drain(start..end);
        self.children.remove(slot);
        self.ends.remove(slot);
        self.ends[slot..].iter_mut().for_each(|at| *at -= end - start);
    }

    pub(super) fn set_child(&mut self, slot: usize, child: u32) {
        self.children[slot] = child;
    }

    pub(super) fn child(&self, slot: usize) -> u32 {
        self.children[slot]
    }

    fn start(&self, slot: usize) -> usize {
        slot.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    pub(super) fn separator(&self, slot: usize) -> &[u8] {
        &self.bytes[self.start(slot)..self.ends[slot]]
    }

    /// Returns the node of a range of children; `None` if it does not fit. The first child's
    /// separator is left out.
    pub(super) fn encode(&self, children: std::ops::Range<usize>) -> Option<InnerImage> {
        let (first, count) = (children.start, children.len());
        // Separators ascend, so what the first and the last share is shared by all.
        let shared = || common_len(self.separator(first + 1), self.separator(children.end - 1));
        let skip = if count < 2 { 0 } else { shared() };
        let rest_of = |slot: usize| self.separator(slot).get(skip + HEAD..).unwrap_or_default();
        let rests: usize = (first + 1..children.end).map(|slot| rest_of(slot).len()).sum();
        if count > CHILDREN_MAX || image_end(count) * 8 + skip + rests > SIZE {
            return None;
        }
        let mut image = InnerImage { words: Box::new([0; INNER_WORDS]), count, skip };
        let mut offset = SIZE - skip;
        if count >= 2 {
            image.put_bytes(offset, &self.separator(first + 1)[..skip]);
        }
        let prefix_at = offset as u64;
        for slot in 0..count {
            image.words[SLOTS + slot] = u64::from(self.children[first + slot]);
            if slot > 0 {
                let separator = self.separator(first + slot);
                let rest = rest_of(first + slot);
                offset -= rest.len();
                image.put_bytes(offset, rest);
                image.words[SLOTS + slot] |= key_word(separator, skip) >> 32 << 32;
                // Those of a damaged file may not ascend from node to node.
                let len = separator.len().checked_sub(skip)?;
                image.set_info(slot, offset as u64 | (len as u64) << 16);
            }
        }
        image.words[1] = prefix_at << 16 | offset as u64;
        Some(image)
    }

    /// Returns the bytes that a child takes in a node, about.
    fn weight(&self, slot: usize) -> usize {
        12 + self.separator(slot).len().saturating_sub(HEAD)
    }

    /// Returns the bytes that all children take in a node, about, if their separators share nothing.
    pub(super) fn size(&self) -> usize {
        (0..self.count()).map(|slot| self.weight(slot)).sum()
    }

    /// Returns the slot in the middle of a range of two children or more, by the bytes that they take.
    fn middle(&self, children: std::ops::Range<usize>) -> usize {
        let half = children.clone().map(|slot| self.weight(slot)).sum::<usize>() / 2;
        let mut sum = 0;
        let middle = children.clone().find(|slot| {
            sum += self.weight(*slot);
            sum >= half
        });
        middle.unwrap_or(0).clamp(children.start + 1, children.end - 1)
    }

    /// Appends the nodes of a range of children, as few as halves of it allow, each with its first slot.
    pub(super) fn encode_all(&self, children: std::ops::Range<usize>, images: &mut Vec<(usize, InnerImage)>) {
        // Two children always fit.
        if let Some(image) = self.encode(children.clone()) {
            images.push((children.start, image));
            return;
        }
        let middle = self.middle(children.clone());
        self.encode_all(children.start..middle, images);
        self.encode_all(middle..children.end, images);
    }

    /// Splits the node in two. Returns the first slot of the second one, and both.
    ///
    /// There is such a slot: a node that held all but one of the children is one of the two if that
    /// one is the first or the last, and otherwise they share the prefix.
    pub(super) fn split(&self) -> (usize, InnerImage, InnerImage) {
        let middle = self.middle(0..self.count());
        let slots =
            (0..self.count()).flat_map(|distance| [middle.saturating_sub(distance), middle + distance]);
        let mut slots = slots.filter(|slot| (1..self.count()).contains(slot));
        let halves =
            slots.find_map(|slot| Some((slot, self.encode(0..slot)?, self.encode(slot..self.count())?)));
        halves.expect("one child more than fits makes two nodes")
    }
}
