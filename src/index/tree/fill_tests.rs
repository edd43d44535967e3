//! Tests of bulk loading against `BTreeMap`.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;

use super::tests::{Keys, SHAPES, backward, bytes_per_key, check, forward, keys};
use super::*;

/// A run of records, in the order of their keys.
struct Run<'k> {
    keys: &'k Keys,
    locations: std::vec::IntoIter<Location>,
    /// The records of the tree that were read.
    read: usize,
}

impl<'k> Run<'k> {
    fn new(keys: &'k Keys, records: &BTreeMap<&'k [u8], Location>) -> Self {
        let locations: Vec<_> = records.values().copied().collect();
        Self { keys, locations: locations.into_iter(), read: 0 }
    }
}

impl<'k> RunSource<'k> for Run<'k> {
    type Error = io::Error;

    fn next(&mut self) -> io::Result<Option<(&'k [u8], Location)>> {
        Ok(self.locations.next().map(|location| (self.keys.key_of()(location, true).unwrap(), location)))
    }

    fn key(&mut self, location: Location) -> io::Result<&'k [u8]> {
        self.read += 1;
        Ok(self.keys.key_of()(location, true).unwrap())
    }

    fn prefetch(&self, _: Location) {}

    fn is_newer(&mut self, other: Location, location: Location) -> io::Result<bool> {
        Ok(location.to_bits() > other.to_bits())
    }

    fn failed(&self, error: io::Error) -> io::Error {
        error
    }
}

/// Runs of several sizes with inserts and removals between them.
fn fill_and_change(shape: &str, count: usize, seed: u64) {
    let keys = keys(shape, count);
    let key_of = keys.key_of();
    let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
    let mut model = BTreeMap::<&[u8], Location>::new();
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..12 {
        let size = [0, 1, count / 50, count / 5, count][random.usize(..5)];
        // Some runs lie closely together.
        let from = random.usize(..count);
        let width = [count, count / 20 + 1][random.usize(..2)];
        let mut run = BTreeMap::new();
        for _ in 0..size {
            let at = (from + random.usize(..width)) % count;
            run.insert(&*keys.0[at], keys.location(at, random.u64(..6)));
        }
        let mut source = Run::new(&keys, &run);
        writer.fill(&mut source, random.bool()).unwrap();
        for (key, location) in run {
            let newest = model.entry(key).or_insert(location);
            *newest = location.max(*newest);
        }
        check(&tree, &keys);
        assert_eq!(forward(&tree, &keys, &[], None), model.values().copied().collect::<Vec<_>>());
        for _ in 0..size / 3 {
            let at = random.usize(..count);
            let key = &*keys.0[at];
            writer.reserve(1).unwrap();
            if let Some(old) = model.remove(key) {
                assert!(writer.remove(key, old, key_of));
            } else {
                writer.insert(key, keys.location(at, round), key_of);
                model.insert(key, keys.location(at, round));
            }
        }
        check(&tree, &keys);
        assert_eq!(backward(&tree, &keys, &[], None), model.values().rev().copied().collect::<Vec<_>>());
    }
    for (key, location) in &model {
        assert_eq!(tree.find(key, keys.compare(key)).unwrap(), Some(*location), "{shape}");
    }
    let [leaves, inners] = writer.nodes_used();
    let [free_leaves, free_inners] = writer.nodes_free();
    let in_tree = check(&tree, &keys).map(|count| count as u64);
    assert_eq!(in_tree, [leaves - free_leaves, inners - free_inners], "no node is lost");
}

#[test]
fn runs_into_a_tree_equal_a_btreemap() {
    for shape in SHAPES {
        fill_and_change(shape, if shape == "zeros" { 300 } else { 20_000 }, 1);
        for seed in 0..30 {
            fill_and_change(shape, 200, seed);
        }
    }
}

/// Returns a run of keys, as an open without a checkpoint puts them into a tree.
fn of_keys<'k>(keys: &'k Keys, range: std::ops::Range<usize>) -> Run<'k> {
    Run::new(keys, &range.map(|at| (&*keys.0[at], keys.location(at, 0))).collect())
}

#[test]
fn memory_per_key_is_bounded_after_runs() {
    for (shape, is_series, [first, more]) in [
        ("random", false, [11.6, 13.2]),
        ("names", false, [11.6, 13.2]),
        ("paths", false, [12.7, 15.0]),
        ("ascending", true, [9.2, 9.2]),
        ("descending", true, [9.2, 9.2]),
    ] {
        for runs in [1, 3, 7, 20] {
            let keys = keys(shape, 200_000);
            let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
            let size = keys.0.len() / runs;
            for run in 0..runs {
                writer.fill(&mut of_keys(&keys, run * size..(run + 1) * size), is_series).unwrap();
            }
            check(&tree, &keys);
            let (bytes, most) = (bytes_per_key(&tree, &writer), if runs == 1 { first } else { more });
            assert!(bytes < most, "{shape}, {runs} runs: {bytes}");
        }
    }
}

/// A run reads the records of a tree where it splits a leaf between two of them, and where keys are tied.
#[test]
fn run_reads_few_records_of_the_tree() {
    let keys = keys("random", 60_000);
    let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
    let mut first = of_keys(&keys, 0..20_000);
    writer.fill(&mut first, false).unwrap();
    assert_eq!(first.read, 0, "the tree was empty");
    let mut second = of_keys(&keys, 20_000..60_000);
    writer.fill(&mut second, false).unwrap();
    check(&tree, &keys);
    assert!(second.read < 10_000, "{} records were read for 40,000 keys", second.read);
}
