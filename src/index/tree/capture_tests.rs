//! Tests of captures of trees and of trees from checkpoints: exact, complete or refused, and later like
//! a tree that was never closed.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::thread;

use super::inner::{Draft, InnerImage};
use super::tests::{Keys, backward, check, forward, keys};
use super::*;
use crate::error::Error;
use crate::format::checkpoint::{BLOCK_LEN, FRAME_SIZE};
use crate::index::lines::capture::Abandoned;
use crate::index::lines::test_file::{FRONT_LEN, file_of, frames, seal, source_of};

type Model<'k> = BTreeMap<&'k [u8], Location>;

/// Inserts, replaces and removes keys, in a tree and in a model.
struct Churn<'k> {
    keys: &'k Keys,
    random: fastrand::Rng,
    model: Model<'k>,
    version: u64,
    /// Removals in ten changes of a key that is there.
    removals: u8,
}

impl<'k> Churn<'k> {
    fn new(keys: &'k Keys, seed: u64) -> Self {
        Self { keys, random: fastrand::Rng::with_seed(seed), model: Model::new(), version: 0, removals: 4 }
    }

    fn change(&mut self, writer: &mut TreeWriter, count: usize) {
        let key_of = self.keys.key_of();
        for _ in 0..count {
            self.version += 1;
            let at = self.random.usize(..self.keys.0.len());
            let (key, new) = (&*self.keys.0[at], self.keys.location(at, self.version));
            let old = writer.find(key, self.keys.compare(key)).unwrap();
            assert_eq!(old, self.model.get(key).copied());
            writer.reserve(1).unwrap();
            match old {
                None => writer.insert(key, new, key_of),
                Some(old) if self.random.u8(..10) < self.removals => {
                    assert!(writer.remove(key, old, key_of));
                    self.model.remove(key);
                    continue;
                }
                Some(old) => assert!(writer.replace(key, old, new)),
            }
            self.model.insert(key, new);
        }
    }

    fn all(&self) -> Vec<Location> {
        self.model.values().copied().collect()
    }
}

/// Makes a tree that has gone through `count` changes.
fn churned(keys: &Keys, seed: u64, count: usize) -> (Churn<'_>, TreeWriter) {
    let (_, mut writer) = Tree::new(Path::new("store")).unwrap();
    let mut churn = Churn::new(keys, seed);
    churn.change(&mut writer, count);
    (churn, writer)
}

/// Captures a tree and opens it from the checkpoint.
fn restored(writer: &mut TreeWriter) -> (Arc<Tree>, TreeWriter) {
    let capture = writer.begin_checkpoint(0).unwrap();
    let table = capture.table();
    Tree::restore(table, source_of(&file_of(frames(capture, 3).unwrap()), 3)).unwrap()
}

/// Checks a whole tree, and that every node is in it or free.
fn check_nodes(writer: &mut TreeWriter, keys: &Keys) {
    let nodes = check(writer.tree(), keys).map(|count| count as u64);
    let free = writer.nodes_free();
    assert_eq!([nodes[0] + free[0], nodes[1] + free[1]], writer.nodes_used());
}

#[test]
fn tree_capture_is_exact_while_the_writer_changes_nodes() {
    for (seed, shape) in (0..).zip(["random", "paths", "zeros", "long", "random", "names"]) {
        let keys = keys(shape, if shape == "zeros" { 300 } else { 3000 });
        let (mut churn, mut writer) = churned(&keys, seed, 6000);
        let then = churn.all();
        let mut capture = writer.begin_checkpoint(usize::MAX).unwrap();
        assert!(writer.begin_checkpoint(usize::MAX).is_none(), "one at a time");
        let table = capture.table();
        assert_eq!(table.entries, then.len() as u64);
        let before = writer.tree().memory_bytes();
        let (mut bytes, mut block) = (vec![7; FRONT_LEN], [0; BLOCK_LEN]);
        // The tree gets smaller and larger meanwhile.
        churn.removals = if seed % 2 == 0 { 10 } else { 1 };
        for number in 0.. {
            churn.change(&mut writer, 60);
            if !capture.next_block(&mut block).unwrap() {
                break;
            }
            seal(&mut bytes, number, &block);
        }
        assert!(writer.tree().memory_bytes() > before, "copies count as memory");
        drop(capture);
        churn.change(&mut writer, 10);
        check_nodes(&mut writer, &keys);
        let (tree, mut loaded) = Tree::restore(table, source_of(&file_of(bytes), 0)).unwrap();
        assert_eq!(forward(&tree, &keys, &[], None), then, "{shape}");
        assert_eq!(backward(&tree, &keys, &[], None), then.into_iter().rev().collect::<Vec<_>>());
        tree.lines().load_all().unwrap();
        assert!(!tree.is_partial());
        assert!(loaded.begin_checkpoint(0).is_some());
        check_nodes(&mut loaded, &keys);
    }
}

#[test]
fn tree_capture_is_exact_while_another_thread_writes() {
    let keys = keys("random", 30_000);
    for seed in 0..5 {
        let (mut churn, mut writer) = churned(&keys, seed, 60_000);
        let then = churn.all();
        let capture = writer.begin_checkpoint(usize::MAX).unwrap();
        let table = capture.table();
        let bytes = thread::scope(|scope| {
            let checkpoint = scope.spawn(move || frames(capture, 0).unwrap());
            churn.change(&mut writer, 30_000);
            checkpoint.join().unwrap()
        });
        let (tree, _writer) = Tree::restore(table, source_of(&file_of(bytes), 0)).unwrap();
        assert_eq!(forward(&tree, &keys, &[], None), then, "seed {seed}");
    }
}

#[test]
fn tree_writer_abandons_a_capture_that_keeps_too_much() {
    let keys = keys("random", 20_000);
    let (mut churn, mut writer) = churned(&keys, 1, 20_000);
    let mut capture = writer.begin_checkpoint(3).unwrap();
    churn.change(&mut writer, 1000);
    let mut block = [0; BLOCK_LEN];
    assert_eq!(capture.next_block(&mut block), Err(Abandoned));
    let (tree, _loaded) = restored(&mut writer);
    assert_eq!(forward(&tree, &keys, &[], None), churn.all());
    drop(capture);
}

#[test]
fn restored_tree_behaves_as_if_never_closed() {
    for (seed, shape) in (0..24).zip(["random", "paths", "zeros", "long", "ascending"].into_iter().cycle()) {
        let keys = keys(shape, if shape == "zeros" { 300 } else { 2000 });
        let (mut churn, mut writer) = churned(&keys, seed, 3000);
        let (tree, mut loaded) = restored(&mut writer);
        assert_eq!(tree.len(), churn.model.len());
        // Little is loaded at first; then all, while the writer goes on.
        churn.removals = if seed % 2 == 0 { 9 } else { 2 };
        churn.change(&mut loaded, 200);
        if seed % 3 > 0 {
            tree.lines().load_more().unwrap();
        }
        churn.change(&mut loaded, 2000);
        assert_eq!(forward(&tree, &keys, &[], None), churn.all(), "{shape} {seed}");
        tree.lines().load_all().unwrap();
        churn.change(&mut loaded, 1000);
        check_nodes(&mut loaded, &keys);
        // A checkpoint of the tree that came from one.
        let (tree, mut loaded) = restored(&mut loaded);
        assert_eq!(forward(&tree, &keys, &[], None), churn.all());
        tree.lines().load_all().unwrap();
        churn.change(&mut loaded, 10);
        check_nodes(&mut loaded, &keys);
    }
}

/// A leaf that is not loaded looks empty.
#[test]
fn partial_tree_merges_loaded_leaves_only() {
    let keys = keys("random", 20_000);
    let (mut churn, mut writer) = churned(&keys, 1, 30_000);
    let (tree, mut loaded) = restored(&mut writer);
    let key_of = keys.key_of();
    for at in (0..20_000).step_by(1000) {
        // All keys of a leaf go.
        tree.check(Aim::At(&keys.0[at])).unwrap();
        let (_, leaf) = tree.leaf_of(&keys.0[at]);
        for location in leaf.entries().map(leaf::LeafEntry::location) {
            let key = key_of(location, true).unwrap();
            loaded.reserve(1).unwrap();
            assert!(loaded.remove(key, location, key_of));
            churn.model.remove(key);
        }
    }
    assert!(tree.is_partial());
    assert_eq!(forward(&tree, &keys, &[], None), churn.all());
    tree.lines().load_all().unwrap();
    check_nodes(&mut loaded, &keys);
}

#[test]
fn opening_a_tree_reads_a_few_blocks_at_every_size() {
    for count in [1, 1000, 10_000, 200_000] {
        let keys = keys("random", count);
        let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
        writer.reserve(count).unwrap();
        for (at, key) in keys.0.iter().enumerate() {
            writer.insert(key, keys.location(at, 0), keys.key_of());
        }
        let capture = writer.begin_checkpoint(0).unwrap();
        let table = capture.table();
        let file = file_of(frames(capture, 0).unwrap());
        let (partial, _writer) = Tree::restore(table, source_of(&file, 0)).unwrap();
        assert_eq!(partial.memory_bytes(), tree.memory_bytes());
        let key = &*keys.0[0];
        assert_eq!(partial.find(key, keys.compare(key)).unwrap(), Some(keys.location(0, 0)));
        let read = file.read.load(std::sync::atomic::Ordering::Relaxed);
        assert!(read <= 5 * FRAME_SIZE, "{read} bytes for {count} keys");
    }
}

#[test]
fn readers_and_writer_load_a_tree_concurrently() {
    let keys = keys("paths", 20_000);
    for seed in 0..5 {
        let (mut churn, mut writer) = churned(&keys, seed, 30_000);
        let (tree, mut loaded) = restored(&mut writer);
        // Keys that the writer leaves alone.
        let still: Vec<_> = churn.model.iter().step_by(2).map(|(key, location)| (*key, *location)).collect();
        thread::scope(|scope| {
            for part in 0..2 {
                let (tree, still, keys) = (&tree, &still, &keys);
                scope.spawn(move || {
                    for (key, location) in still.iter().skip(part * 97) {
                        assert_eq!(tree.find(key, keys.compare(key)).unwrap(), Some(*location));
                    }
                });
            }
            let tree = &tree;
            scope.spawn(move || tree.lines().load_all().unwrap());
            let moving: Vec<_> =
                churn.model.iter().skip(1).step_by(2).map(|(key, location)| (*key, *location)).collect();
            for (key, location) in moving {
                loaded.reserve(1).unwrap();
                assert!(loaded.remove(key, location, keys.key_of()));
                churn.model.remove(key);
            }
        });
        assert_eq!(forward(&tree, &keys, &[], None), churn.all());
        check(&tree, &keys);
    }
}

#[test]
fn damaged_block_of_a_tree_is_an_error_and_never_a_miss() {
    let keys = keys("random", 3000);
    let (churn, mut writer) = churned(&keys, 1, 6000);
    let capture = writer.begin_checkpoint(0).unwrap();
    let table = capture.table();
    let bytes = frames(capture, 0).unwrap();
    let blocks = (bytes.len() - FRONT_LEN) / FRAME_SIZE;
    let (mut refused, mut needless) = (0, 0);
    for block in 0..blocks {
        let mut bytes = bytes.clone();
        bytes[FRONT_LEN + block * FRAME_SIZE + 77 * (block % 50)] ^= 1 << (block % 8);
        let Ok((tree, mut loaded)) = Tree::restore(table, source_of(&file_of(bytes), 0)) else {
            refused += 1;
            continue;
        };
        let mut errors = 0;
        for (key, location) in &churn.model {
            match tree.find(key, keys.compare(key)) {
                Ok(found) => assert_eq!(found, Some(*location)),
                Err(unread) => {
                    assert!(matches!(Error::from(unread), Error::Corrupt { .. }));
                    errors += 1;
                    // A write finds the same, before anything changes.
                    assert!(loaded.find(key, keys.compare(key)).is_err());
                }
            }
        }
        needless += u64::from(errors == 0);
        assert!(tree.lines().load_all().is_err());
        assert!(tree.is_partial());
        assert!(loaded.begin_checkpoint(0).is_none());
    }
    assert!(refused <= 2, "the last block of each row");
    assert!(needless <= writer.nodes_free()[1], "no search needs a node that is free");
}

/// Blocks that no writer makes, with the right checksums: each is refused, or searches end.
#[test]
fn hostile_blocks_of_a_tree_end_every_search() {
    let keys = keys("names", 4000);
    let (churn, mut writer) = churned(&keys, 1, 8000);
    let capture = writer.begin_checkpoint(0).unwrap();
    let table = capture.table();
    let bytes = frames(capture, 0).unwrap();
    let blocks = (bytes.len() - FRONT_LEN) / FRAME_SIZE;
    let mut random = fastrand::Rng::with_seed(5);
    let mut refused = 0;
    for round in 0..300 {
        // The inner nodes are the last blocks.
        let inner = blocks - usize::try_from(table.blocks()[1]).unwrap();
        let block = if round % 2 == 0 { random.usize(inner..blocks) } else { random.usize(..inner) };
        let mut changed = bytes[FRONT_LEN + block * FRAME_SIZE..][..BLOCK_LEN].to_vec();
        let word = [0, 1, 2, random.usize(..400), random.usize(..BLOCK_LEN / 8)][random.usize(..5)];
        let value = [0, u64::MAX, random.u64(..), random.u64(..1 << 32), 1 << random.u8(..64)];
        let old = u64::from_le_bytes(changed[word * 8..][..8].try_into().unwrap());
        let new = [value[random.usize(..5)], old ^ 1 << random.u8(..64)][random.usize(..2)];
        changed[word * 8..][..8].copy_from_slice(&new.to_le_bytes());
        let mut sealed = Vec::new();
        seal(&mut sealed, block as u64, &changed);
        let mut bytes = bytes.clone();
        bytes[FRONT_LEN + block * FRAME_SIZE..][..FRAME_SIZE].copy_from_slice(&sealed);
        let Ok((tree, _loaded)) = Tree::restore(table, source_of(&file_of(bytes), 0)) else { continue };
        // A location may lead anywhere; the engine finds that out by the record.
        let compare = |location: Location, key: &[u8]| {
            let at = (usize::try_from(location.to_bits()).unwrap() - 1) % keys.0.len();
            Ok::<_, BlockError>(keys.0[at].as_slice().cmp(key))
        };
        for key in churn.model.keys().step_by(7) {
            drop(tree.find(key, |location| compare(location, key)));
        }
        refused += usize::from(tree.lines().load_all().is_err());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn purge_removes_the_entries_of_lost_segments() {
    for shape in ["random", "paths", "long"] {
        let keys = keys(shape, 5000);
        let (mut churn, mut writer) = churned(&keys, 3, 9000);
        let (tree, mut loaded) = restored(&mut writer);
        let is_kept = |location: Location| location.to_bits() % 5 > 2;
        let before = churn.model.len();
        churn.model.retain(|_, location| is_kept(*location));
        assert_eq!(loaded.purge(is_kept).unwrap(), (before - churn.model.len()) as u64);
        assert_eq!(forward(&tree, &keys, &[], None), churn.all(), "{shape}");
        check_nodes(&mut loaded, &keys);
        churn.change(&mut loaded, 5000);
        check_nodes(&mut loaded, &keys);
        assert_eq!(loaded.purge(|_| false).unwrap(), churn.model.len() as u64);
        assert_eq!((tree.len(), forward(&tree, &keys, &[], None)), (0, Vec::new()));
    }
}

#[test]
fn records_of_a_restored_tree_are_verified_where_they_decide() {
    let keys = keys("random", 2000);
    let (_, mut writer) = Tree::new(Path::new("store")).unwrap();
    let half = keys.0.len() / 2;
    writer.reserve(half).unwrap();
    for at in 0..half {
        writer.insert(&keys.0[at], keys.location(at, 0), keys.key_of());
    }
    let (tree, mut loaded) = restored(&mut writer);
    let (mut verified, mut trusted) = (std::collections::HashSet::new(), 0);
    let first = &*keys.0[0];
    assert!(tree.find(first, keys.compare(first)).unwrap().is_some());
    assert!(!tree.is_verified(first, keys.location(0, 0)));
    tree.set_verified(first, keys.location(0, 0));
    assert!(tree.is_verified(first, keys.location(0, 0)));
    assert!(!tree.is_verified(first, keys.location(0, 1)), "another record");
    for at in half..keys.0.len() {
        let key = &*keys.0[at];
        assert_eq!(loaded.find(key, keys.compare(key)).unwrap(), None);
        loaded.reserve(1).unwrap();
        loaded.insert(key, keys.location(at, 0), |location, is_verified| {
            if is_verified {
                trusted += 1;
            } else {
                assert!(verified.insert(location), "a record is verified once");
            }
            keys.key_of()(location, is_verified)
        });
    }
    assert!(verified.len() > 20 && trusted > 0, "{} {trusted}", verified.len());
    tree.lines().load_all().unwrap();
    check_nodes(&mut loaded, &keys);
}

/// Inner nodes with the right checksums whose links are not those of a tree.
#[test]
fn links_of_a_checkpoint_are_those_of_a_tree() {
    let keys = keys("long", 5000);
    let (_, mut writer) = Tree::new(Path::new("store")).unwrap();
    writer.reserve(keys.0.len()).unwrap();
    for (at, key) in keys.0.iter().enumerate() {
        writer.insert(key, keys.location(at, 0), keys.key_of());
    }
    let capture = writer.begin_checkpoint(0).unwrap();
    let table = capture.table();
    let bytes = frames(capture, 0).unwrap();
    let root = Root(writer.tree().head.0.root.load(Ordering::Relaxed));
    assert!(root.level() >= 2, "there are inner nodes below inner nodes");
    let leaves = usize::try_from(table.blocks()[0]).unwrap();
    let place = |node: u32| FRONT_LEN + (leaves + node as usize) * FRAME_SIZE;
    let word = |bytes: &[u8], node: u32, at: usize| {
        u64::from_le_bytes(bytes[place(node) + at * 8..][..8].try_into().unwrap())
    };
    // Returns the result of an open of the whole tree with other words in a node.
    let with_table = |table: IndexTable, node: u32, words: &[(usize, u64)]| {
        let mut bytes = bytes.clone();
        for (at, word) in words {
            bytes[place(node) + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let mut sealed = Vec::new();
        let number = (leaves + node as usize) as u64;
        seal(&mut sealed, number, &bytes[place(node)..][..BLOCK_LEN]);
        bytes[place(node)..][..FRAME_SIZE].copy_from_slice(&sealed);
        // Each node is checked against those before it: from the leaves up, and from the root down.
        let file = file_of(bytes);
        let results = [false, true].map(|downward| {
            Tree::restore(table, source_of(&file, 0)).is_ok_and(|(tree, _writer)| {
                let found = if downward { tree.leads_to(&[], Location::from_bits(1)) } else { Ok(false) };
                found.is_ok() && tree.lines().load_all().is_ok()
            })
        });
        assert_eq!(results[0], results[1]);
        results[0]
    };
    let with = |node: u32, words: &[(usize, u64)]| with_table(table, node, words);
    let top = root.node();
    let [first, second] = [2, 3].map(|at| word(&bytes, top, at));
    assert!(with(top, &[(2, first)]), "nothing was changed");
    let child = |slot: u64, child: u64| slot >> 32 << 32 | child;
    assert!(!with(top, &[(2, child(first, second & 0xffff_ffff))]), "two links to one node");
    assert!(!with(top, &[(2, child(first, u64::from(top)))]), "a link to itself");
    assert!(!with(top, &[(2, child(first, table.lines[1]))]), "a link behind the last node");
    let below = u32::try_from(first & 0xffff_ffff).unwrap();
    let leaf = word(&bytes, below, 2);
    let other = word(&bytes, below, 3) & 0xffff_ffff;
    assert!(!with(below, &[(2, child(leaf, other))]), "two links to one leaf");
    assert!(!with(below, &[(2, child(leaf, table.lines[0]))]), "a link behind the last leaf");
    for level in [root.level() + 1, root.level() - 1] {
        let kind = IndexKind::Tree { root: top, level: u32::try_from(level).unwrap() };
        assert!(!with_table(IndexTable { kind, ..table }, top, &[]), "a root of level {level}");
    }
    // The level and the number of children are in the control word.
    let control = word(&bytes, below, 0);
    assert!(!with(below, &[(0, control + (1 << 20))]), "a node of another level");
    let mut draft = Draft::of(&InnerImage::read(writer.tree().inner(below)));
    draft.remove(draft.count() - 1);
    let image = draft.encode(0..draft.count()).unwrap();
    let mut words = vec![(0, (control & !0xf_ffff) + ((image.skip as u64) << 9) + image.count as u64)];
    words.extend((1..).zip(image.words().iter().copied()));
    assert!(!with(below, &words), "a node with a child less, which is an orphan");
    assert!(!with(below, &[(0, control & !0x1ff)]), "a node without children");
    assert!(!with(below, &[(0, control | 31 << 20)]), "a linked node that is out of the tree");
}
