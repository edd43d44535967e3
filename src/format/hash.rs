//! The keyed hash.
