//! The set of keyspaces, and the log records that change it.
//!
//! The log is authoritative for keyspaces; the manifest holds the set as of its durable number.
//! Both go through [`KeyspaceSet::apply`], so one function decides which change may follow which
//! state.
//!
//! **Format** of a record of kind `Keyspace`. The header's `keyspace` is the number of the changed
//! keyspace (for a clear, the new number). The record's key is a name. Its value is one byte for
//! the kind of change, followed by the change's data. See docs/design/format.md, "Keyspace changes".

use std::collections::BTreeMap;

use super::{ByteReader, Defect, KeyspaceId};

/// The longest name of a keyspace, in bytes of UTF-8.
pub const MAX_NAME_LEN: usize = 255;
/// The longest name of a codec, in bytes of ASCII.
pub const MAX_CODEC_LEN: usize = 64;

const CREATE: u8 = 1;
const RENAME: u8 = 2;
const CLEAR: u8 = 3;
const DROP: u8 = 4;

/// A change to the set of keyspaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyspaceChange {
    /// Creates an empty keyspace under a free name.
    Create {
        /// The keyspace's number.
        id: KeyspaceId,
        /// The keyspace's name.
        name: String,
        /// The codec of its keys and values; empty for plain bytes.
        codec: String,
    },
    /// Gives a keyspace another name, which was free.
    Rename {
        /// The keyspace's number.
        id: KeyspaceId,
        /// The new name.
        name: String,
    },
    /// Replaces a keyspace by a new, empty one of the same name.
    Clear {
        /// The new number.
        id: KeyspaceId,
        /// The old number.
        old: KeyspaceId,
        /// The name of both.
        name: String,
    },
    /// Drops a keyspace, which frees its name.
    Drop {
        /// The keyspace's number.
        id: KeyspaceId,
        /// The keyspace's name.
        name: String,
    },
}

impl KeyspaceChange {
    /// Returns the number in the record's header.
    #[must_use]
    pub fn id(&self) -> KeyspaceId {
        match self {
            Self::Create { id, .. }
            | Self::Rename { id, .. }
            | Self::Clear { id, .. }
            | Self::Drop { id, .. } => *id,
        }
    }

    /// Returns the name, which is the record's key.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Create { name, .. }
            | Self::Rename { name, .. }
            | Self::Clear { name, .. }
            | Self::Drop { name, .. } => name,
        }
    }

    /// Encodes the record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Create { codec, .. } => {
                let mut bytes = vec![CREATE];
                bytes.extend_from_slice(codec.as_bytes());
                bytes
            }
            Self::Rename { .. } => vec![RENAME],
            Self::Clear { old, .. } => {
                let mut bytes = vec![CLEAR];
                bytes.extend_from_slice(&old.0.to_le_bytes());
                bytes
            }
            Self::Drop { .. } => vec![DROP],
        }
    }

    /// Decodes a record's keyspace number, key and value.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of the record.
    pub fn decode(id: KeyspaceId, name: &[u8], value: &[u8]) -> Result<Self, Defect> {
        let name = text(name, MAX_NAME_LEN)?.to_owned();
        let mut reader = ByteReader(value);
        let change = match reader.u8()? {
            CREATE => {
                let codec = codec(std::mem::take(&mut reader.0))?.to_owned();
                Self::Create { id, name, codec }
            }
            RENAME => Self::Rename { id, name },
            CLEAR => Self::Clear { id, old: KeyspaceId(reader.u32()?), name },
            DROP => Self::Drop { id, name },
            _ => return Err(Defect::BadField("keyspace change")),
        };
        if reader.0.is_empty() { Ok(change) } else { Err(Defect::BadField("keyspace change")) }
    }
}

/// A keyspace, as found under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKeyspace {
    /// The keyspace's number.
    pub id: KeyspaceId,
    /// The codec of its keys and values; empty for plain bytes.
    pub codec: String,
}

/// The keyspaces of a store by name. The default one, whose name is empty, is always present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceSet {
    names: BTreeMap<String, NamedKeyspace>,
    /// The next number. Every number below was assigned; one without a name belongs to a dropped
    /// keyspace.
    next: KeyspaceId,
}

/// The most bytes that one keyspace occupies in a manifest.
pub const ENTRY_LEN_MAX: u64 = entry_len(MAX_NAME_LEN, MAX_CODEC_LEN);

/// Returns the bytes of one keyspace in a manifest: its number, and two texts behind their lengths.
const fn entry_len(name: usize, codec: usize) -> u64 {
    (4 + 1 + name + 1 + codec) as u64
}

impl Default for KeyspaceSet {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyspaceSet {
    /// Returns the keyspaces of an empty store.
    #[must_use]
    pub fn new() -> Self {
        let named = NamedKeyspace { id: KeyspaceId::DEFAULT, codec: String::new() };
        Self { names: BTreeMap::from([(String::new(), named)]), next: KeyspaceId(KeyspaceId::DEFAULT.0 + 1) }
    }

    /// Makes the set that a manifest lists.
    ///
    /// # Errors
    ///
    /// Returns `BadField` if no sequence of changes leads to this set.
    pub fn from_parts(names: BTreeMap<String, NamedKeyspace>, next: KeyspaceId) -> Result<Self, Defect> {
        let mut numbers: Vec<_> = names.values().map(|named| named.id.number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let is_unordered = names.get("").is_some_and(|named| !named.id.is_ordered());
        if numbers.len() != names.len()
            || numbers.last() >= Some(&next.0)
            || next.is_ordered()
            || !is_unordered
        {
            return Err(Defect::BadField("keyspaces"));
        }
        Ok(Self { names, next })
    }

    /// Iterates over names and keyspaces, in ascending order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &NamedKeyspace)> {
        self.names.iter().map(|(name, named)| (name.as_str(), named))
    }

    /// Returns the bytes of all keyspaces in a manifest.
    #[must_use]
    pub fn encoded_len(&self) -> u64 {
        self.names.iter().map(|(name, named)| entry_len(name.len(), named.codec.len())).sum()
    }

    /// Returns the keyspace of a name; `None` if the name is free.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&NamedKeyspace> {
        self.names.get(name)
    }

    /// Returns the number of the next new keyspace.
    #[must_use]
    pub fn next(&self) -> KeyspaceId {
        self.next
    }

    /// True if the number was assigned and no name has it any more. Takes time linear in the number
    /// of keyspaces.
    #[must_use]
    pub fn is_dropped(&self, id: KeyspaceId) -> bool {
        id.number() < self.next.0 && self.names.values().all(|named| named.id.number() != id.number())
    }

    /// Applies a change.
    ///
    /// # Errors
    ///
    /// Returns `BadField` if the change cannot follow this state; the set is unchanged then.
    pub fn apply(&mut self, change: &KeyspaceChange) -> Result<(), Defect> {
        const IMPOSSIBLE: Defect = Defect::BadField("keyspace change");
        let name = change.name();
        let here = self.names.get(name).map(|named| named.id);
        let is_next = |id: &KeyspaceId| id.number() == self.next.0;
        match change {
            KeyspaceChange::Create { id, codec, .. } if here.is_none() && is_next(id) => {
                self.next = following(*id)?;
                self.names.insert(name.to_owned(), NamedKeyspace { id: *id, codec: codec.clone() });
            }
            KeyspaceChange::Clear { id, old, .. }
                if here == Some(*old) && is_next(id) && id.is_ordered() == old.is_ordered() =>
            {
                self.next = following(*id)?;
                self.names.get_mut(name).ok_or(IMPOSSIBLE)?.id = *id;
            }
            KeyspaceChange::Drop { id, .. } if here == Some(*id) && !name.is_empty() => {
                self.names.remove(name);
            }
            KeyspaceChange::Rename { id, .. } if here.is_none() => {
                let old = self.names.iter().find(|(old, named)| named.id == *id && !old.is_empty());
                let old = old.map(|(old, _)| old.clone()).ok_or(IMPOSSIBLE)?;
                let named = self.names.remove(&old).ok_or(IMPOSSIBLE)?;
                self.names.insert(name.to_owned(), named);
            }
            _ => return Err(IMPOSSIBLE),
        }
        Ok(())
    }
}

/// Returns the number behind the one of a keyspace. There are 2^31 - 1.
fn following(id: KeyspaceId) -> Result<KeyspaceId, Defect> {
    let next = KeyspaceId(id.number() + 1);
    if next.is_ordered() { Err(Defect::BadField("keyspace change")) } else { Ok(next) }
}

/// Decodes a name.
///
/// # Errors
///
/// Returns `BadField` if the name is longer than `max` bytes or not UTF-8.
pub fn text(bytes: &[u8], max: usize) -> Result<&str, Defect> {
    if bytes.len() > max {
        return Err(Defect::BadField("name"));
    }
    std::str::from_utf8(bytes).map_err(|_| Defect::BadField("name"))
}

/// Decodes a codec's name.
///
/// # Errors
///
/// Returns `BadField` if the name is longer than [`MAX_CODEC_LEN`] or not ASCII.
pub fn codec(bytes: &[u8]) -> Result<&str, Defect> {
    match text(bytes, MAX_CODEC_LEN) {
        Ok(text) if text.is_ascii() => Ok(text),
        _ => Err(Defect::BadField("codec")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: KeyspaceId = KeyspaceId(7);

    fn samples() -> Vec<KeyspaceChange> {
        let name = "käse".to_owned();
        vec![
            KeyspaceChange::Create { id: ID, name: name.clone(), codec: String::new() },
            KeyspaceChange::Create { id: ID, name: String::new(), codec: "bincode-1".to_owned() },
            KeyspaceChange::Rename { id: ID, name: name.clone() },
            KeyspaceChange::Clear { id: ID, old: KeyspaceId(3), name: name.clone() },
            KeyspaceChange::Drop { id: ID, name },
        ]
    }

    #[test]
    fn a_change_comes_back_from_its_bytes() {
        for change in samples() {
            let value = change.encode();
            assert_eq!(KeyspaceChange::decode(change.id(), change.name().as_bytes(), &value), Ok(change));
        }
    }

    #[test]
    fn keyspace_change_refuses_values_never_written() {
        for value in
            [&[][..], &[0], &[5], &[RENAME, 0], &[DROP, 0], &[CLEAR, 1, 2, 3], &[CLEAR, 1, 2, 3, 4, 5]]
        {
            assert!(KeyspaceChange::decode(ID, b"name", value).is_err(), "{value:?}");
        }
        assert_eq!(KeyspaceChange::decode(ID, &[0xff], &[DROP]), Err(Defect::BadField("name")));
        assert_eq!(KeyspaceChange::decode(ID, &[b'x'; 256], &[DROP]), Err(Defect::BadField("name")));
        assert_eq!(KeyspaceChange::decode(ID, b"x", "\u{1}ä".as_bytes()), Err(Defect::BadField("codec")));
        let long = [vec![CREATE], vec![b'x'; MAX_CODEC_LEN + 1]].concat();
        assert_eq!(KeyspaceChange::decode(ID, b"x", &long), Err(Defect::BadField("codec")));
    }

    #[test]
    fn changes_are_carried_out_and_impossible_ones_change_nothing() {
        let mut keyspaces = KeyspaceSet::new();
        let named = |name: &str| name.to_owned();
        let create =
            |id, name| KeyspaceChange::Create { id: KeyspaceId(id), name: named(name), codec: named("c") };
        let rename = |id, name| KeyspaceChange::Rename { id: KeyspaceId(id), name: named(name) };
        let clear = |id, old, name| KeyspaceChange::Clear {
            id: KeyspaceId(id),
            old: KeyspaceId(old),
            name: named(name),
        };
        let drop = |id, name| KeyspaceChange::Drop { id: KeyspaceId(id), name: named(name) };
        for change in [create(1, "a"), create(2, "b"), rename(1, "c"), clear(3, 2, "b"), drop(1, "c")] {
            keyspaces.apply(&change).expect("it is possible");
        }
        keyspaces.apply(&clear(4, 0, "")).expect("the default keyspace can be cleared");
        assert_eq!(keyspaces.get("b"), Some(&NamedKeyspace { id: KeyspaceId(3), codec: named("c") }));
        assert_eq!(keyspaces.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["", "b"]);
        let dropped = (0..6).filter(|id| keyspaces.is_dropped(KeyspaceId(*id)));
        assert_eq!(dropped.collect::<Vec<_>>(), [0, 1, 2]);
        let before = keyspaces.clone();
        let impossible = [
            create(5, "b"),
            create(6, "d"),
            create(4, "d"),
            rename(3, ""),
            rename(2, "d"),
            rename(4, "d"),
            clear(5, 2, "b"),
            clear(6, 3, "b"),
            clear(5, 3, "d"),
            drop(4, ""),
            drop(3, "d"),
            drop(2, "b"),
        ];
        for change in impossible {
            assert!(keyspaces.apply(&change).is_err(), "{change:?}");
            assert_eq!(keyspaces, before);
        }
    }

    #[test]
    fn keyspace_set_refuses_states_without_a_history() {
        let named = |id| NamedKeyspace { id: KeyspaceId(id), codec: String::new() };
        let of = |names: &[(&str, u32)], next| {
            let names = names.iter().map(|(name, id)| ((*name).to_owned(), named(*id))).collect();
            KeyspaceSet::from_parts(names, KeyspaceId(next))
        };
        assert_eq!(of(&[("", 0)], 1), Ok(KeyspaceSet::new()));
        assert!(of(&[("", 2), ("a", 1)], 3).is_ok());
        for (names, next) in [(&[("a", 1)][..], 2), (&[("", 0), ("a", 0)], 2), (&[("", 0), ("a", 2)], 2)] {
            assert!(of(names, next).is_err(), "{names:?}");
        }
    }
}
