//! Tests of the tree against `BTreeMap`.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;
use crate::format::record::MAX_ORDERED_KEY_LEN;

/// Keys that records hold. The record of version v of key k is at location `v * count + k + 1`.
pub(super) struct Keys(pub(super) Vec<Vec<u8>>);

impl Keys {
    pub(super) fn location(&self, key: usize, version: u64) -> Location {
        Location::from_bits(version * self.0.len() as u64 + key as u64 + 1)
    }

    pub(super) fn key_of<'k>(&'k self) -> impl Fn(Location, bool) -> Option<&'k [u8]> + Copy {
        move |location, _| Some(&self.0[(usize::try_from(location.to_bits()).unwrap() - 1) % self.0.len()])
    }

    pub(super) fn compare<'k>(
        &'k self,
        key: &'k [u8],
    ) -> impl Fn(Location) -> Result<cmp::Ordering, BlockError> {
        move |location| Ok(self.key_of()(location, true).expect("all keys can be read").cmp(key))
    }
}

/// Returns distinct keys of one shape.
pub(super) fn keys(shape: &str, count: usize) -> Keys {
    let mut random = fastrand::Rng::with_seed(7);
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::new();
    for number in 0.. {
        if found.len() == count {
            break;
        }
        let key = match shape {
            "random" => std::iter::repeat_with(|| random.u8(..)).take(16).collect(),
            "ascending" => (number as u64).to_be_bytes().to_vec(),
            "descending" => (u64::MAX - number as u64).to_be_bytes().to_vec(),
            "names" => format!("user{}", random.u32(..)).into_bytes(),
            "paths" => format!(
                "tenant-{:05}/project-{:04}/objects/2026/11/{:012x}/file.bin",
                random.u32(..20),
                random.u32(..50),
                random.u64(..1 << 40)
            )
            .into_bytes(),
            "zeros" => {
                let mut key: Vec<_> = (0..8).map(|_| random.u8(..2) * random.u8(..2)).collect();
                key.truncate(random.usize(..8));
                key.push(random.u8(..4));
                key
            }
            "long" => {
                let shared = [0, 3, 500, MAX_ORDERED_KEY_LEN - 9][random.usize(..4)];
                let len = random.usize(shared..=MAX_ORDERED_KEY_LEN - 8);
                let mut key = vec![b'a'; len];
                if shared < len {
                    key[shared] = random.u8(..);
                }
                key.extend(random.u64(..).to_be_bytes());
                key
            }
            _ => unreachable!("a shape"),
        };
        if seen.insert(key.clone()) {
            found.push(key);
        }
        assert!(number < 1000 * count.max(1000), "{shape} has too few keys");
    }
    Keys(found)
}

pub(super) const SHAPES: [&str; 7] = ["random", "ascending", "descending", "names", "paths", "zeros", "long"];

/// Checks the invariants of a whole tree, and returns the numbers of leaves and of inner nodes in it.
pub(super) fn check(tree: &Tree, keys: &Keys) -> [usize; 2] {
    let root = Root(tree.head.0.root.load(Ordering::Relaxed));
    let mut walk = Walk { tree, keys, nodes: [Vec::new(), Vec::new()], entries: 0 };
    walk.node(root.node(), root.level(), None, None);
    assert_eq!(walk.entries, tree.len());
    walk.nodes.map(|mut nodes| {
        let count = nodes.len();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes.len(), count, "a node is in two slots (T6)");
        count
    })
}

struct Walk<'t> {
    tree: &'t Tree,
    keys: &'t Keys,
    nodes: [Vec<u32>; 2],
    entries: usize,
}

impl Walk<'_> {
    fn node(&mut self, number: u32, level: u64, lower: Option<&[u8]>, upper: Option<&[u8]>) {
        self.nodes[usize::from(level > 0)].push(number);
        if level == 0 {
            return self.leaf(number, lower, upper);
        }
        let node = self.tree.inner(number);
        let control = node.control();
        assert_eq!(control.level(), level);
        let view = InnerView::new(&node, control);
        assert!(view.count >= 1);
        let separators: Vec<_> = (1..view.count)
            .map(|slot| {
                let mut key = Vec::new();
                view.separator(slot, &mut key);
                key
            })
            .collect();
        let fences: Vec<_> =
            std::iter::once(lower).chain(separators.iter().map(|key| Some(&**key))).chain([upper]).collect();
        for slot in 0..view.count {
            let (lower, upper) = (fences[slot], fences[slot + 1]);
            assert!(lower.zip(upper).is_none_or(|(lower, upper)| lower < upper), "separators ascend (T4)");
            self.node(view.child(slot), level - 1, lower, upper);
        }
    }

    fn leaf(&mut self, number: u32, lower: Option<&[u8]>, upper: Option<&[u8]>) {
        let leaf = self.tree.leaf_node(number);
        let control = leaf.control();
        assert_eq!(control.level(), 0);
        let copy = leaf::LeafCopy::read(leaf, control);
        let key_of = self.keys.key_of();
        let mut last: Option<&[u8]> = None;
        for entry in copy.entries() {
            let key = key_of(entry.location(), true).unwrap();
            assert!(lower.is_none_or(|lower| lower <= key) && upper.is_none_or(|upper| key < upper), "T4");
            assert!(last.is_none_or(|last| last < key), "T5");
            assert_eq!(entry.fragment(), leaf::fragment(key, copy.skip));
            last = Some(key);
        }
        self.entries += copy.count();
    }
}

/// Returns all locations in a range of keys, forward.
pub(super) fn forward(tree: &Tree, keys: &Keys, from: &[u8], to: Option<&[u8]>) -> Vec<Location> {
    let key_of = keys.key_of();
    let (mut found, mut next) = (Vec::new(), Some(from.to_vec()));
    while let Some(at) = next {
        let is_before =
            |(location, _), key: &[u8]| Ok::<_, BlockError>(key_of(location, true).unwrap() < key);
        next = tree
            .scan((&at, to), &mut (1 + found.len() % 5), |(location, _)| found.push(location), is_before)
            .unwrap();
    }
    found
}

/// Returns all locations in a range of keys, backward.
pub(super) fn backward(tree: &Tree, keys: &Keys, from: &[u8], to: Option<&[u8]>) -> Vec<Location> {
    let key_of = keys.key_of();
    let (mut found, mut next) = (Vec::new(), Some(to.map(<[u8]>::to_vec)));
    while let Some(at) = next {
        let is_before =
            |(location, _), key: &[u8]| Ok::<_, BlockError>(key_of(location, true).unwrap() < key);
        let (bounds, mut leaves) = ((from, at.as_deref()), 1 + found.len() % 5);
        let take = |(location, _)| found.push(location);
        let lower = tree.scan_back(bounds, &mut leaves, take, is_before).unwrap();
        next = lower.map(Some);
    }
    found
}

fn operate(shape: &str, count: usize, operations: usize, seed: u64) {
    let keys = keys(shape, count);
    let key_of = keys.key_of();
    let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
    let mut model = BTreeMap::<&[u8], Location>::new();
    let mut random = fastrand::Rng::with_seed(seed);
    // The tree grows, shrinks to nothing, and grows again.
    for step in 0..operations {
        let grows = step < operations / 3 || step > operations * 2 / 3;
        let at = random.usize(..count);
        let key = &*keys.0[at];
        match (model.get(key).copied(), random.u8(..10)) {
            (None, 0..8) if grows => {
                let location = keys.location(at, random.u64(..4));
                writer.reserve(1).unwrap();
                if random.bool() {
                    assert_eq!(writer.find(key, keys.compare(key)).unwrap(), None);
                    // The place that the search found is another one after a change beside it.
                    let beside = model.range(..key).next_back().filter(|_| random.bool());
                    if let Some((other, old)) = beside.map(|(other, old)| (*other, *old)) {
                        assert!(writer.remove(other, old, key_of));
                        model.remove(other);
                    }
                }
                writer.insert(key, location, key_of);
                model.insert(key, location);
            }
            (Some(old), 0..2) => {
                let new = keys.location(at, random.u64(..4));
                assert!(writer.replace(key, old, new));
                model.insert(key, new);
            }
            (Some(old), 2..10) if !grows => {
                assert!(writer.remove(key, old, key_of));
                model.remove(key);
            }
            (found, _) => {
                assert_eq!(tree.find(key, keys.compare(key)).unwrap(), found);
                assert_eq!(writer.find(key, keys.compare(key)).unwrap(), found);
            }
        }
        if step % (operations / 20) == 0 {
            check(&tree, &keys);
            let mut bounds = [0; 2].map(|_| &*keys.0[random.usize(..count)]);
            bounds.sort_unstable();
            let [from, behind] = bounds;
            for to in [None, Some(behind)].into_iter().filter(|to| *to != Some(from)) {
                let end = to.map_or(Bound::Unbounded, Bound::Excluded);
                let mut expected: Vec<_> =
                    model.range::<[u8], _>((Bound::Included(from), end)).map(|(_, at)| *at).collect();
                assert_eq!(forward(&tree, &keys, from, to), expected);
                expected.reverse();
                assert_eq!(backward(&tree, &keys, from, to), expected);
            }
        }
    }
    assert_eq!(forward(&tree, &keys, &[], None), model.values().copied().collect::<Vec<_>>());
    assert_eq!(backward(&tree, &keys, &[], None), model.values().rev().copied().collect::<Vec<_>>());
    for (key, location) in &model {
        assert_eq!(tree.find(key, keys.compare(key)).unwrap(), Some(*location));
        assert!(writer.remove(key, *location, key_of));
    }
    assert_eq!((tree.len(), check(&tree, &keys)[0]), (0, 1), "{shape}");
}

#[test]
fn tree_equals_a_btreemap() {
    for shape in SHAPES {
        operate(shape, if shape == "zeros" { 300 } else { 5000 }, 60_000, 1);
    }
    for seed in 0..20 {
        for shape in SHAPES {
            operate(shape, 100, 2000, seed);
        }
    }
}

/// Returns the bytes of memory for a key.
pub(super) fn bytes_per_key(tree: &Tree, writer: &TreeWriter) -> f64 {
    let [leaves, inners] = writer.nodes_used();
    (leaves * 256 + inners * 4096) as f64 / tree.len() as f64
}

#[test]
fn memory_per_key_is_bounded() {
    for (shape, most) in
        [("random", 14.0), ("ascending", 9.2), ("descending", 9.2), ("names", 14.0), ("paths", 16.0)]
    {
        let keys = keys(shape, 200_000);
        let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
        for (at, key) in keys.0.iter().enumerate() {
            writer.reserve(1).unwrap();
            writer.insert(key, keys.location(at, 0), keys.key_of());
        }
        check(&tree, &keys);
        let bytes = bytes_per_key(&tree, &writer);
        assert!(bytes < most, "{shape}: {bytes}");
    }
}

#[test]
fn one_reservation_serves_many_inserts_and_a_removal() {
    for shape in SHAPES {
        let keys = keys(shape, 300);
        let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
        writer.reserve(keys.0.len()).unwrap();
        for (at, key) in keys.0.iter().enumerate() {
            writer.insert(key, keys.location(at, 0), keys.key_of());
        }
        for (at, key) in keys.0.iter().enumerate() {
            assert!(writer.remove(key, keys.location(at, 0), keys.key_of()));
        }
        assert_eq!((tree.len(), check(&tree, &keys)[0]), (0, 1), "{shape}");
    }
}
