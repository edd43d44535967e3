//! Bounds that keep a codec's time, memory and stack limited, whatever the bytes are.
//!
//! Both formats check the lengths of text and bytes against the input. Two dangers remain:
//!
//! - A collection whose elements take no bytes: eight bytes that announce 2^60 elements of type
//!   `()` keep a reader busy for ever. If the elements have default values for all their fields, it
//!   also fills the memory.
//! - Deep nesting, which neither format limits. A stack overflow ends the process.
//!
//! So a [`Bounded`] wraps every call of serde on the way, and counts. An element that takes bytes
//! has at least one that belongs to no other element: a leaf's, or the length of a collection in
//! it. So all collections together have at most as many elements as there are bytes, plus those
//! that take none, of which [`BARE_MAX`] are allowed. `bounded_reader` and `bounded_writer` count
//! alike, so that all that is written can be read.

use std::cell::Cell;

/// The number of elements that may take no bytes, in all collections of a value together.
const BARE_MAX: u64 = 4096;
/// The greatest nesting depth. A level takes some hundred bytes of stack, or a few thousand in a
/// build without optimisation.
const DEPTH_MAX: u32 = 256;

const TOO_MANY: &str = "its collections have more elements than its bytes can account for";
const TOO_DEEP: &str = "its values are nested too deep";

/// A part of serde that counts while it passes every call on.
#[derive(Debug)]
pub(super) struct Bounded<'s, T> {
    pub(super) inner: T,
    pub(super) bounds: Bounds<'s>,
}

/// The counts so far, and their limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'s> {
    /// The number of elements so far, in all collections.
    elements: &'s Cell<u64>,
    most: u64,
    /// The length of the bytes.
    len: usize,
    depth: u32,
    /// True if the elements of the visited value count: those of a collection do, the fields of a
    /// type do not.
    counts: bool,
}

impl<'s> Bounds<'s> {
    pub(super) fn of_reading(elements: &'s Cell<u64>, len: usize) -> Self {
        Self { elements, most: (len as u64).saturating_add(BARE_MAX), len, depth: 0, counts: false }
    }

    /// Returns the bounds for writing, where the number of bytes is not known yet.
    pub(super) fn of_writing(elements: &'s Cell<u64>) -> Self {
        Self { elements, most: u64::MAX, len: usize::MAX, depth: 0, counts: false }
    }

    /// Refuses a written value that reading would refuse.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    #[cfg(any(feature = "bincode", feature = "postcard"))]
    pub(super) fn check_written(elements: &Cell<u64>, len: usize) -> Result<(), String> {
        Bounds::of_reading(elements, len).expect_more(0).map_err(str::to_owned)
    }

    /// Returns these bounds for a collection (`counts`), or for a value with a fixed number of
    /// parts.
    pub(super) fn of(self, counts: bool) -> Self {
        Self { counts, ..self }
    }

    /// Returns `true` if elements count here.
    pub(super) fn counts(self) -> bool {
        self.counts
    }

    /// Refuses a collection that announces too many elements, before any work is done for it.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    pub(super) fn expect_more(self, count: u64) -> Result<(), &'static str> {
        let fits = self.elements.get().checked_add(count).is_some_and(|elements| elements <= self.most);
        if fits { Ok(()) } else { Err(TOO_MANY) }
    }

    /// Returns the number of elements to reserve space for: at most the number of bytes, whatever
    /// is announced.
    pub(super) fn room(self, announced: Option<usize>) -> Option<usize> {
        announced.map(|count| count.min(self.len))
    }

    /// Counts an element, if elements count here.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    pub(super) fn count(self) -> Result<(), &'static str> {
        if self.counts {
            self.expect_more(1)?;
            self.elements.set(self.elements.get() + 1);
        }
        Ok(())
    }

    /// Wraps a value that is nested in this one.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    pub(super) fn child<T>(self, inner: T) -> Result<Bounded<'s, T>, &'static str> {
        if self.depth == DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        Ok(Bounded { inner, bounds: Self { depth: self.depth + 1, counts: false, ..self } })
    }
}
