//! The random steps of a writer, and their effect on its contents.

use mapcask::{Store, WriteBatch};

use super::contents::Contents;

/// The names of the keyspaces that a history creates.
pub(crate) const NAMES: [&str; 3] = ["one", "two", "three"];

/// One step of a writer.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Put(usize, u8, usize),
    Remove(usize, u8),
    Batch(Vec<(usize, u8, Option<usize>)>),
    Create(usize),
    Clear(usize),
    Drop(usize),
    Rename(usize, usize),
    Flush,
    Compact,
    Close,
    Kill,
}

impl Step {
    /// Draws a step.
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        let place = rng.usize(0..=NAMES.len());
        let key = rng.u8(0..12);
        match rng.u32(0..100) {
            0..45 => Self::Put(place, key, rng.usize(0..300)),
            45..58 => Self::Remove(place, key),
            58..72 => {
                let count = rng.usize(1..8);
                let one = |rng: &mut fastrand::Rng| {
                    let len = rng.bool().then(|| rng.usize(0..120));
                    (rng.usize(0..=NAMES.len()), rng.u8(0..12), len)
                };
                Self::Batch((0..count).map(|_| one(rng)).collect())
            }
            72..78 => Self::Create(rng.usize(0..NAMES.len())),
            78..81 => Self::Clear(place),
            81..83 => Self::Drop(rng.usize(0..NAMES.len())),
            83..85 => Self::Rename(rng.usize(0..NAMES.len()), rng.usize(0..NAMES.len())),
            85..88 => Self::Flush,
            88..96 => Self::Compact,
            96..98 => Self::Close,
            _ => Self::Kill,
        }
    }

    /// Applies the step to the model. A write to a keyspace that is not there does nothing.
    #[allow(dead_code, reason = "each suite uses its part")]
    pub(crate) fn apply(&self, contents: &mut Contents, number: usize) {
        match self {
            Self::Put(place, key, len) => {
                if let Some(map) = contents.get_mut(name_of(*place)) {
                    map.insert(vec![*key], value_of(number, *len));
                }
            }
            Self::Remove(place, key) => {
                if let Some(map) = contents.get_mut(name_of(*place)) {
                    map.remove([*key].as_slice());
                }
            }
            Self::Batch(writes) => {
                for (place, key, len) in writes {
                    let Some(map) = contents.get_mut(name_of(*place)) else { continue };
                    match len {
                        Some(len) => drop(map.insert(vec![*key], value_of(number, *len))),
                        None => drop(map.remove([*key].as_slice())),
                    }
                }
            }
            Self::Create(name) => drop(contents.entry(NAMES[*name].to_owned()).or_default()),
            Self::Clear(place) => {
                if let Some(map) = contents.get_mut(name_of(*place)) {
                    map.clear();
                }
            }
            Self::Drop(name) => drop(contents.remove(NAMES[*name])),
            Self::Rename(from, to) => {
                if !contents.contains_key(NAMES[*to])
                    && let Some(map) = contents.remove(NAMES[*from])
                {
                    contents.insert(NAMES[*to].to_owned(), map);
                }
            }
            Self::Flush | Self::Compact | Self::Close | Self::Kill => {}
        }
    }

    /// Carries out a write on the store.
    pub(crate) fn write(&self, store: &Store, number: usize) {
        let place = |place: usize| match place {
            0 => Some((**store).clone()),
            _ => store.open_keyspace(name_of(place)).ok(),
        };
        match self {
            Self::Put(at, key, len) => {
                if let Some(keyspace) = place(*at) {
                    keyspace.insert([*key], value_of(number, *len)).unwrap();
                }
            }
            Self::Remove(at, key) => {
                if let Some(keyspace) = place(*at) {
                    keyspace.remove([*key]).unwrap();
                }
            }
            Self::Batch(writes) => {
                let mut batch = WriteBatch::new();
                for (at, key, len) in writes {
                    let Some(keyspace) = place(*at) else { continue };
                    match len {
                        Some(len) => drop(batch.on(&keyspace).insert([*key], value_of(number, *len))),
                        None => drop(batch.on(&keyspace).remove([*key])),
                    }
                }
                store.write(&batch).unwrap();
            }
            Self::Create(name) => create(store, NAMES[*name]),
            Self::Clear(at) => {
                if let Some(keyspace) = place(*at) {
                    keyspace.clear().unwrap();
                }
            }
            Self::Drop(name) => drop(store.drop_keyspace(NAMES[*name]).unwrap()),
            Self::Rename(from, to) => drop(store.rename_keyspace(NAMES[*from], NAMES[*to])),
            Self::Flush => store.flush().unwrap(),
            Self::Compact => drop(store.compact().unwrap()),
            Self::Close | Self::Kill => unreachable!("the caller does it"),
        }
    }
}

/// Creates a keyspace, unless it is there. The first of the names is that of an ordered one.
fn create(store: &Store, name: &str) {
    if store.open_keyspace(name).is_ok() {
        return;
    }
    let made = if name == NAMES[0] { store.ordered_keyspace(name) } else { store.keyspace(name) };
    drop(made.unwrap());
}

/// Returns the name of a keyspace: the default one, and those that a history creates.
pub(crate) fn name_of(place: usize) -> &'static str {
    place.checked_sub(1).map_or("", |name| NAMES[name])
}

/// Returns the value that the step of this number writes.
pub(crate) fn value_of(number: usize, len: usize) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + len, b'x');
    value
}
