//! Tests of searches among tied entries.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::cell::Cell;

use super::node::key_word;
use super::tests::Keys;
use super::*;

/// Returns keys that are all tied in one leaf: every second number behind a common beginning.
fn tied_keys(count: u64) -> Keys {
    Keys((0..count).map(|number| key(2 * number)).collect())
}

fn key(number: u64) -> Vec<u8> {
    [&b"tied"[..], &number.to_be_bytes()].concat()
}

fn tree_of(keys: &Keys) -> (Arc<Tree>, TreeWriter) {
    let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
    writer.reserve(keys.0.len()).unwrap();
    for (at, key) in keys.0.iter().enumerate() {
        writer.insert(key, keys.location(at, 0), keys.key_of());
    }
    (tree, writer)
}

/// Compares with a key, and takes the order of one record for the opposite.
fn lying<'k>(
    keys: &'k Keys,
    key: &'k [u8],
    liar: Location,
) -> impl Fn(Location) -> Result<cmp::Ordering, BlockError> {
    move |location| {
        let order = keys.compare(key)(location)?;
        Ok(match order {
            _ if location != liar => order,
            // The sought key itself is damaged.
            cmp::Ordering::Equal => cmp::Ordering::Less,
            order => order.reverse(),
        })
    }
}

/// Compares the record at a place as that at its location.
fn at(
    compare: impl Fn(Location) -> Result<cmp::Ordering, BlockError>,
) -> impl Fn(EntryPlace) -> Result<cmp::Ordering, BlockError> {
    move |(location, _)| compare(location)
}

#[test]
fn wrong_key_that_misleads_a_search_is_beside_its_end() {
    let keys = tied_keys(20);
    let (tree, writer) = tree_of(&keys);
    let (mut misled, mut found) = (0, 0);
    for (liar, sought) in (0..20).flat_map(|liar| (0..40).map(move |sought| (liar, sought))) {
        let (liar, sought) = (keys.location(liar, 0), key(sought));
        let honest = tree.look_for(&sought, at(keys.compare(&sought))).unwrap();
        for by_writer in [false, true] {
            let compare = at(lying(&keys, &sought, liar));
            let told =
                if by_writer { writer.look_for(&sought, compare) } else { tree.look_for(&sought, compare) };
            match (honest, told.unwrap()) {
                (Ok(honest), Ok(told)) if honest == told => found += 1,
                (_, Ok(told)) => panic!("found {told:?}"),
                (honest, Err(beside)) => {
                    let ends = |beside: Beside| beside.locations().collect::<Vec<_>>();
                    if honest.err().map(ends).as_ref() != Some(&ends(beside)) {
                        assert!(ends(beside).contains(&liar), "{sought:?} {liar:?}");
                        misled += 1;
                    }
                }
            }
        }
    }
    assert!(misled > 100 && found > 100, "{misled} {found}");
}

#[test]
fn insert_at_a_noted_place_reads_the_keys_beside_it() {
    for sought in [1, 19, 39] {
        let keys = tied_keys(20);
        let (tree, mut writer) = tree_of(&keys);
        let (liar, sought) = (keys.location(usize::try_from(sought / 2).unwrap(), 0), key(sought));
        assert!(writer.look_for(&sought, at(lying(&keys, &sought, liar))).unwrap().is_err());
        // The record beside the place turns out to be damaged.
        let key_of = |location, flag| keys.key_of()(location, flag).filter(|_| location != liar);
        writer.reserve(1).unwrap();
        writer.insert(&sought, Location::from_bits(1000), key_of);
        assert!(tree.has_ended(), "{sought:?}");
    }
}

#[test]
fn keys_that_ascend_are_compared_with_one_tied_key() {
    let keys = tied_keys(31 * 20);
    let (_, mut writer) = Tree::new(Path::new("store")).unwrap();
    let (compared, read) = (Cell::new(0), Cell::new(0));
    for (at, key) in keys.0.iter().enumerate() {
        let compare = keys.compare(key);
        let found = writer.look_for(key, |(location, _)| {
            compared.set(compared.get() + 1);
            compare(location)
        });
        assert!(found.unwrap().is_err());
        writer.reserve(1).unwrap();
        writer.insert(key, keys.location(at, 0), |location, flag| {
            read.set(read.get() + 1);
            keys.key_of()(location, flag)
        });
    }
    // Each leaf of 31 is filled by a split, which reads the keys of the one before.
    let count = keys.0.len();
    assert!(compared.get() <= count + 20, "{}", compared.get());
    assert!(read.get() <= count + 20 * 31, "{}", read.get());
}

#[test]
fn key_word_is_the_rest_of_a_key_with_zeros_behind_it() {
    for len in 0..=20_u8 {
        let key: Vec<u8> = (1..=len).collect();
        for at in 0..=30 {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(key.iter().skip(at)) {
                *to = *from;
            }
            assert_eq!(key_word(&key, at), u64::from_be_bytes(bytes), "{len} {at}");
        }
    }
}
