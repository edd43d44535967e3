//! Ranges of keys.

use std::ops::{Bound, RangeBounds};

/// The keys from one on up to, and without, another one, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyRange {
    /// The least key that may belong to it.
    pub(crate) from: Vec<u8>,
    /// The least key behind it; `None` if there is none.
    pub(crate) to: Option<Vec<u8>>,
}

impl KeyRange {
    /// Returns the range of some bounds.
    pub(crate) fn of<K: AsRef<[u8]>>(bounds: &impl RangeBounds<K>) -> Self {
        let from = match bounds.start_bound() {
            Bound::Included(key) => key.as_ref().to_vec(),
            Bound::Excluded(key) => following(key.as_ref()),
            Bound::Unbounded => Vec::new(),
        };
        let to = match bounds.end_bound() {
            Bound::Included(key) => Some(following(key.as_ref())),
            Bound::Excluded(key) => Some(key.as_ref().to_vec()),
            Bound::Unbounded => None,
        };
        Self { from, to }
    }

    /// Returns the range of the keys that begin with `prefix`.
    pub(crate) fn of_prefix(prefix: &[u8]) -> Self {
        let end = prefix.iter().rposition(|byte| *byte < u8::MAX).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        });
        Self { from: prefix.to_vec(), to: end }
    }

    /// Returns the range of all keys.
    pub(crate) fn all() -> Self {
        Self { from: Vec::new(), to: None }
    }

    /// Returns the range of the keys below another one.
    pub(crate) fn below(key: &[u8]) -> Self {
        Self { from: Vec::new(), to: Some(key.to_vec()) }
    }

    /// Returns the range of a key and those below it.
    pub(crate) fn up_to(key: &[u8]) -> Self {
        Self { from: Vec::new(), to: Some(following(key)) }
    }

    /// Returns the range of a key and those above it.
    pub(crate) fn at_least(key: &[u8]) -> Self {
        Self { from: key.to_vec(), to: None }
    }

    /// Returns the range of the keys above another one.
    pub(crate) fn above(key: &[u8]) -> Self {
        Self { from: following(key), to: None }
    }

    /// Returns true if a key belongs to it.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        *self.from <= *key && self.to.as_ref().is_none_or(|to| *key < **to)
    }

    /// Returns true if no key can belong to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// Returns the least key above another one.
pub(crate) fn following(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_range_has_the_keys_that_its_bounds_contain() {
        let keys: Vec<Vec<u8>> = [&b""[..], b"\0", b"a", b"a\0", b"a\0\0", b"ab", b"b", b"\xff", b"\xff\xff"]
            .map(Vec::from)
            .into();
        let bounds =
            |key: &Vec<u8>| [Bound::Included(key.clone()), Bound::Excluded(key.clone()), Bound::Unbounded];
        for (start, end) in keys.iter().flat_map(|one| keys.iter().map(move |other| (one, other))) {
            for start in bounds(start) {
                for end in bounds(end) {
                    let range = (start.clone(), end);
                    let found = KeyRange::of(&range);
                    for key in &keys {
                        assert_eq!(
                            found.contains(key),
                            RangeBounds::<Vec<u8>>::contains(&range, key),
                            "{range:?}"
                        );
                        assert!(!found.is_empty() || !found.contains(key));
                    }
                }
            }
        }
    }

    #[test]
    fn key_range_of_a_prefix_has_the_keys_that_begin_with_it() {
        let keys = [
            &b""[..],
            b"\0",
            b"a",
            b"a\xff",
            b"a\xff\xff",
            b"a\xffb",
            b"b",
            b"\xff",
            b"\xff\xff",
            b"\xff\xffa",
        ];
        for prefix in keys {
            let found = KeyRange::of_prefix(prefix);
            for key in keys {
                assert_eq!(found.contains(key), key.starts_with(prefix), "{prefix:?} {key:?}");
            }
        }
        assert!(KeyRange::all().contains(b"") && KeyRange::all().contains(b"\xff\xff"));
    }
}
