//! The contents of a store, read through any handle.

use std::collections::BTreeMap;

use mapcask::{Follower, Reader, Result, Store};

/// The contents of one keyspace.
pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// The contents of every keyspace, by name.
pub(crate) type Contents = BTreeMap<String, Map>;

/// Returns the contents of a keyspace. Iteration, owned and borrowed, lookups and the count must
/// agree on them, so no write and no refresh may be under way.
fn try_map_of(reader: &Reader) -> Result<Map> {
    let items = reader.iter().map(|item| item.map(|(key, value)| (Vec::from(key), Vec::from(value))));
    let found = items.collect::<Result<Vec<_>>>()?;
    let map: Map = found.iter().cloned().collect();
    assert_eq!(reader.len(), map.len());
    if reader.is_ordered() {
        assert!(found.iter().map(|(key, value)| (key, value)).eq(&map));
        let back = reader.range::<&[u8]>(..).rev().map(|item| item.map(|(key, _)| Vec::from(key)));
        assert!(back.collect::<Result<Vec<_>>>()?.iter().eq(map.keys().rev()));
        assert_eq!(reader.count_range::<&[u8]>(..)?, map.len() as u64);
    }
    let view = reader.view();
    let borrowed: BTreeMap<&[u8], &[u8]> = view.iter().collect::<Result<_>>()?;
    assert!(borrowed.into_iter().eq(map.iter().map(|(key, value)| (&key[..], &value[..]))));
    for (key, value) in &map {
        assert_eq!(reader.get(key)?.as_deref(), Some(value.as_slice()), "{key:?}");
    }
    Ok(map)
}

/// Returns the contents of the default keyspace, and of each named one that `open` leads to.
fn contents(default: &Reader, names: Vec<String>, open: impl Fn(&str) -> Result<Map>) -> Result<Contents> {
    let named = names.into_iter().map(|name| {
        let map = open(&name)?;
        Ok((name, map))
    });
    let mut all: Contents = named.collect::<Result<_>>()?;
    all.insert(String::new(), try_map_of(default)?);
    Ok(all)
}

/// Returns what a follower shows, or why it cannot show everything.
pub(crate) fn try_shown(follower: &Follower) -> Result<Contents> {
    contents(follower, follower.keyspace_names(), |name| try_map_of(&follower.keyspace(name)?))
}

/// Returns what a store holds, or why it cannot show everything.
pub(crate) fn try_held(store: &Store) -> Result<Contents> {
    contents(store, store.keyspace_names(), |name| {
        let keyspace = store.open_keyspace(name)?;
        try_map_of(&keyspace)
    })
}

/// Returns what a follower shows.
#[allow(dead_code, reason = "each test file uses its part")]
pub(crate) fn shown(follower: &Follower) -> Contents {
    try_shown(follower).unwrap()
}

/// Returns what a store holds.
#[allow(dead_code, reason = "each test file uses its part")]
pub(crate) fn held(store: &Store) -> Contents {
    try_held(store).unwrap()
}

/// Returns the contents of a keyspace.
#[allow(dead_code, reason = "each test file uses its part")]
pub(crate) fn map_of(reader: &Reader) -> Map {
    try_map_of(reader).unwrap()
}
