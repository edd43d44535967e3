//! What keeps a codec's time, memory and stack bounded, whatever the bytes are.
//!
//! Both formats check lengths of text and bytes against what is there, but neither checks the length of a collection
//! whose elements take no bytes: eight bytes that announce 2^60 elements of type `()` keep a reader busy for ever, and
//! with elements that have default values for all their fields it fills the memory meanwhile. Neither limits how deep
//! values are nested, and a stack that overflows ends the process.
//!
//! So a [`Bounded`] goes along with all that serde calls on the way, and counts. An element that takes bytes has at least
//! one that belongs to no other element: a leaf's, or the length of a collection in it. So all collections together
//! have at most as many elements as there are bytes, plus those that take none, of which [`BARE_MAX`] are allowed.
//! `reading` and `writing` count alike, so that what is written can be read.

use std::cell::Cell;

/// How many elements may take no bytes, in all collections of a value together.
const BARE_MAX: u64 = 4096;
/// How deep values may be nested; each takes some hundred bytes of stack, in a build without optimisation a few thousand.
const DEPTH_MAX: u32 = 256;

const TOO_MANY: &str = "its collections have more elements than its bytes can account for";
const TOO_DEEP: &str = "its values are nested too deep";

/// Something of serde's that counts while it passes everything on.
#[derive(Debug)]
pub(super) struct Bounded<'s, T> {
    pub(super) inner: T,
    pub(super) bounds: Bounds<'s>,
}

/// What has been counted, and what is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'s> {
    /// Elements so far, of all collections.
    elements: &'s Cell<u64>,
    most: u64,
    /// The length of the bytes.
    len: usize,
    depth: u32,
    /// Whether the elements of what is being visited count: those of a collection do, the fields of a type do not.
    counts: bool,
}

impl<'s> Bounds<'s> {
    pub(super) fn of_reading(elements: &'s Cell<u64>, len: usize) -> Self {
        Self { elements, most: (len as u64).saturating_add(BARE_MAX), len, depth: 0, counts: false }
    }

    /// How many bytes there will be is not known yet.
    pub(super) fn of_writing(elements: &'s Cell<u64>) -> Self {
        Self { elements, most: u64::MAX, len: usize::MAX, depth: 0, counts: false }
    }

    /// Refuses what was written where reading would.
    ///
    /// # Errors
    ///
    /// The reason.
    pub(super) fn check_written(elements: &Cell<u64>, len: usize) -> Result<(), String> {
        Bounds::of_reading(elements, len).expect_more(0).map_err(str::to_owned)
    }

    /// The same for a collection (`counts`) or for something with a fixed number of parts.
    pub(super) fn of(self, counts: bool) -> Self {
        Self { counts, ..self }
    }

    /// Whether elements count here.
    pub(super) fn counts(self) -> bool {
        self.counts
    }

    /// Refuses a collection that announces too many elements, before anything is done for it.
    ///
    /// # Errors
    ///
    /// The reason.
    pub(super) fn expect_more(self, count: u64) -> Result<(), &'static str> {
        let fits = self.elements.get().checked_add(count).is_some_and(|elements| elements <= self.most);
        if fits { Ok(()) } else { Err(TOO_MANY) }
    }

    /// How many elements to make room for ahead: no more than there are bytes, whatever is announced.
    pub(super) fn room(self, announced: Option<usize>) -> Option<usize> {
        announced.map(|count| count.min(self.len))
    }

    /// Counts an element, if elements count here.
    ///
    /// # Errors
    ///
    /// The reason.
    pub(super) fn count(self) -> Result<(), &'static str> {
        if self.counts {
            self.expect_more(1)?;
            self.elements.set(self.elements.get() + 1);
        }
        Ok(())
    }

    /// Goes along with a value that lies in this one.
    ///
    /// # Errors
    ///
    /// The reason.
    pub(super) fn child<T>(self, inner: T) -> Result<Bounded<'s, T>, &'static str> {
        if self.depth == DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        Ok(Bounded { inner, bounds: Self { depth: self.depth + 1, counts: false, ..self } })
    }
}
