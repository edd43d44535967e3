//! The common parts of the tests against a model: states, writes, the history of acknowledged
//! states, and reading a store.
//!
//! Only the public API is used. [`Write::apply`] alone decides the effect and outcome of a write.
//! [`History::check_cut`] and [`History::check_kill`] alone decide which states a crash may leave.

pub(crate) mod history;
pub(crate) mod machine;
pub(crate) mod trace;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use mapcask::sim::SimDisk;
use mapcask::{Durability, Error, Keyspace, Options, Result, Snapshot, Store};

pub(crate) use history::History;
pub(crate) use write::{Outcome, Write};

/// A key or a value. A long one is printed as its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            short if short.len() <= 24 => write!(f, "\"{}\"", short.escape_ascii()),
            long => write!(f, "{} bytes of {:?}", long.len(), long[0]),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<T: AsRef<[u8]> + ?Sized> From<&T> for Bytes {
    fn from(bytes: &T) -> Self {
        Self(bytes.as_ref().to_vec())
    }
}

/// The contents of a keyspace.
pub(crate) type Map = BTreeMap<Bytes, Bytes>;

/// The contents of a store: all keyspaces by their names, including the default one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct State(pub(crate) BTreeMap<String, Arc<Map>>);

impl State {
    /// Returns the state of an empty store.
    pub(crate) fn new() -> Self {
        Self(BTreeMap::from([(String::new(), Arc::default())]))
    }

    /// Returns the value of a key, `None` also if the keyspace does not exist.
    pub(crate) fn get(&self, keyspace: &str, key: &[u8]) -> Option<&Bytes> {
        // A borrowed key type would avoid this copy, but it is not worth the code.
        self.0.get(keyspace)?.get(&Bytes::from(key))
    }

    /// Returns the names as the store lists them.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).filter(|name| !name.is_empty()).collect()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

/// Returns the options of all these tests: the smallest segments, so that a few writes fill one,
/// and no worker thread.
pub(crate) fn options(durability: Durability) -> Options {
    Options::new().durability(durability).background(false).segment_bytes(4096)
}

/// Opens the store of a disk.
pub(crate) fn open(disk: &SimDisk, durability: Durability) -> Result<Store> {
    options(durability).open_on(disk)
}

/// Returns all keyspaces of a store, and creates none.
fn keyspaces(store: &Store) -> impl Iterator<Item = (String, Keyspace)> {
    let names = [String::new()].into_iter().chain(store.keyspace_names());
    names.map(|name| {
        let keyspace = store.open_keyspace(&name).unwrap();
        (name, keyspace)
    })
}

/// Returns the keyspace of a name, and creates it if there is none. One whose name begins with `o` is
/// created as an ordered one.
pub(crate) fn handle(store: &Store, name: &str) -> Result<Keyspace> {
    match store.open_keyspace(name) {
        Err(Error::KeyspaceNotFound { .. }) if name.starts_with('o') => store.ordered_keyspace(name),
        Err(Error::KeyspaceNotFound { .. }) => store.keyspace(name),
        found => found,
    }
}

/// Returns the contents of a store by iteration, and compares them with its statistics.
pub(crate) fn content(store: &Store) -> State {
    let before = store.last_seq();
    let state = State(keyspaces(store).map(|(name, keyspace)| (name, Arc::new(map(&keyspace)))).collect());
    check_stats(store, &state);
    assert_eq!(store.last_seq(), before, "looking writes nothing");
    state
}

fn map(keyspace: &Keyspace) -> Map {
    let mut map = Map::new();
    for item in keyspace {
        let (key, value) = item.unwrap();
        let before = map.insert(Bytes::from(&key), Bytes::from(&value));
        assert!(before.is_none(), "each key comes once");
    }
    assert_eq!(keyspace.len(), map.len(), "the count of keys is that of the iteration");
    if keyspace.is_ordered() {
        check_order(keyspace, &map);
    }
    for (key, value) in &map {
        let found = keyspace.get(key).unwrap();
        assert_eq!(found.as_deref(), Some(&**value), "a read agrees with the iteration");
    }
    map
}

type Item = Result<(mapcask::Value, mapcask::Value)>;

fn items(items: impl Iterator<Item = Item>) -> Vec<(Bytes, Bytes)> {
    items.map(Result::unwrap).map(|(key, value)| (Bytes::from(&key), Bytes::from(&value))).collect()
}

/// Compares the reads of an ordered keyspace with its contents.
fn check_order(keyspace: &Keyspace, map: &Map) {
    let all: Vec<_> = map.clone().into_iter().collect();
    assert_eq!(items(keyspace.iter()), all, "an iteration ascends");
    assert_eq!(items(keyspace.range::<Bytes>(..)), all);
    let mut back = items(keyspace.range::<Bytes>(..).rev());
    back.reverse();
    assert_eq!(back, all, "a range descends from the back");
    let item = |found: Result<Option<(mapcask::Value, mapcask::Value)>>| {
        found.unwrap().map(|(key, value)| (Bytes::from(&key), Bytes::from(&value)))
    };
    assert_eq!(item(keyspace.first_key_value()), all.first().cloned());
    assert_eq!(item(keyspace.last_key_value()), all.last().cloned());
    assert_eq!(keyspace.count_range::<Bytes>(..).unwrap(), all.len() as u64);
    // Every key, and the end of every third, as a bound.
    for (at, (key, _)) in all.iter().enumerate().step_by(3) {
        let key = &**key;
        assert_eq!(items(keyspace.range(key..)), all[at..]);
        assert_eq!(items(keyspace.range(..=key)), all[..=at]);
        assert_eq!(items(keyspace.range(..key).rev()).len(), at);
        assert_eq!(keyspace.count_range(key..).unwrap(), (all.len() - at) as u64);
        assert_eq!(item(keyspace.get_ge(key)), Some(all[at].clone()));
        assert_eq!(item(keyspace.get_le(key)), Some(all[at].clone()));
        assert_eq!(item(keyspace.get_gt(key)), all.get(at + 1).cloned());
        assert_eq!(item(keyspace.get_lt(key)), at.checked_sub(1).map(|before| all[before].clone()));
        let page = keyspace.get_range(key.., 2).unwrap();
        assert_eq!(items(page.into_iter().map(Ok)), all[at..(at + 2).min(all.len())]);
        let prefix = &key[..key.len().min(1)];
        let expected: Vec<_> = all.iter().filter(|(key, _)| key.starts_with(prefix)).cloned().collect();
        assert_eq!(items(keyspace.prefix(prefix)), expected);
    }
}

/// Compares the statistics of a store with its contents. A record's bytes are header, key and
/// value, rounded up to eight.
pub(crate) fn check_stats(store: &Store, state: &State) {
    let size = |(key, value): (&Bytes, &Bytes)| (32 + key.len() + value.len()).next_multiple_of(8) as u64;
    let stats = store.stats();
    let mut sum = (0, 0);
    for (name, map) in &state.0 {
        let one = store.keyspace(name).unwrap().keyspace_stats().unwrap();
        let expected = (map.len() as u64, map.iter().map(size).sum::<u64>());
        assert_eq!((one.keys, one.live_bytes), expected, "keys and live bytes of keyspace {name:?}");
        sum = (sum.0 + expected.0, sum.1 + expected.1);
    }
    assert_eq!((stats.keys, stats.live_bytes), sum, "keys and live bytes of the store");
    assert_eq!(stats.keyspaces, state.0.len());
}

/// Returns the values of these keys, which must be all keys of the store. An iteration of a hash index
/// would visit all of it, which is thousands of times as large as a history of three steps. Reads in
/// order are compared, too.
pub(crate) fn content_under(store: &Store, keys: &[impl AsRef<[u8]>]) -> State {
    let under = |(name, keyspace): (String, Keyspace)| {
        let found = keys.iter().filter_map(|key| Some((Bytes::from(key), keyspace.get(key).unwrap()?)));
        let map: Map = found.map(|(key, value)| (key, Bytes::from(&value))).collect();
        assert_eq!(keyspace.len(), map.len(), "there is no other key");
        if keyspace.is_ordered() {
            check_order(&keyspace, &map);
        }
        (name, Arc::new(map))
    };
    State(keyspaces(store).map(under).collect())
}

/// Returns the values that a read-only open shows for these keys, and checks that it does nothing
/// to the disk.
pub(crate) fn look_under(disk: &SimDisk, durability: Durability, keys: &[impl AsRef<[u8]>]) -> State {
    let before = disk.position();
    let found = match options(durability).read_only(true).open_on(disk) {
        Ok(store) => content_under(&store, keys),
        // The first writer creates the store.
        Err(Error::NotFound { .. }) => State::new(),
        Err(error) => panic!("{error}"),
    };
    assert!(disk.position() == before, "looking does nothing to the disk");
    found
}

/// Checks by iteration and by gets that a snapshot shows the expected contents.
pub(crate) fn check_snapshot(snapshot: &Snapshot, expected: &State, keys: &[impl AsRef<[u8]>]) {
    assert_eq!(snapshot.keyspace_names(), expected.names());
    for (name, map) in &expected.0 {
        let keyspace = snapshot.keyspace(name).unwrap();
        let mut found = Map::new();
        for item in keyspace.iter() {
            let (key, value) = item.unwrap();
            let twice = found.insert(Bytes::from(&key), Bytes::from(&value));
            assert!(twice.is_none(), "{key:?} came twice");
        }
        assert!(found == **map, "in the snapshot of {:?}: {name:?}", snapshot.seq());
        if keyspace.is_ordered() {
            let all: Vec<_> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(items(keyspace.iter()), all, "an iteration ascends");
            assert_eq!(items(keyspace.range::<Bytes>(..)), all);
            let mut back = items(keyspace.range::<Bytes>(..).rev());
            back.reverse();
            assert_eq!(back, all, "a range descends from the back");
            let (start, end) = (all.len() / 3, all.len() * 2 / 3);
            if let (Some((from, _)), Some((to, _))) = (all.get(start), all.get(end)) {
                assert_eq!(items(keyspace.range(&**from..&**to)), all[start..end]);
            }
        }
        for key in keys {
            let value = keyspace.get(key).unwrap();
            assert_eq!(
                value.as_deref(),
                map.get(&Bytes::from(key)).map(|value| &**value),
                "{:?}",
                key.as_ref()
            );
        }
    }
}

/// Returns the file name of the index checkpoint, if there is one.
pub(crate) fn image_of(disk: &SimDisk) -> Option<String> {
    let is_image = |name: &String| name.starts_with("INDEX-") && !name.ends_with(".tmp");
    let images: Vec<_> = disk.files().into_iter().filter(is_image).collect();
    assert!(images.len() <= 1, "{images:?}");
    images.into_iter().next()
}

/// Returns a number from the environment, for runs larger than a plain `cargo test`.
pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}
