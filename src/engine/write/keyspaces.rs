//! Creating, renaming, clearing and dropping keyspaces.
//!
//! Each change is a record in the log, so it has its place in the order of all writes. After a
//! crash the keyspaces are those of the surviving prefix, as the keys are. The manifest follows
//! when the record is durable (`catalog`).
//!
//! **Order**, under the writer mutex: check the names, reserve space, append the record, and only
//! then change the contents that readers load. A reader that loaded them before sees the state
//! before the change.

use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState, NewContents};
use crate::engine::state::write_guard::WriteGuard;
use crate::engine::state::{WriterState, dropped};
use crate::error::{Error, Result};
use crate::format::keyspace_change::{ENTRY_LEN_MAX, KeyspaceChange, MAX_CODEC_LEN, MAX_NAME_LEN};
use crate::format::record::RecordKind;
use crate::format::{KeyspaceId, Seq};
use crate::index::key_index::KeyIndex;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::allocator::quota::SpaceClass;
use crate::log::writer::NewRecord;
use crate::mem::dead_bytes::DeadCause;

/// The most keyspaces with a name: each needs at least one memory mapping, and a process has
/// 65,530.
const KEYSPACES_MAX: usize = 16_384;

/// The order that a caller needs a keyspace to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// Any; a new one has none.
    Any,
    Ascending,
}

impl KeyOrder {
    /// Returns the order of a keyspace with this number.
    pub(crate) fn of(id: KeyspaceId) -> Self {
        if id.is_ordered() { Self::Ascending } else { Self::Any }
    }

    /// Returns the number that a new keyspace gets.
    fn id_of(self, next: KeyspaceId) -> KeyspaceId {
        if self == Self::Ascending { next.ordered() } else { next }
    }
}

impl Engine {
    /// Returns the keyspace with a name, and creates it with a codec if there is none.
    ///
    /// # Errors
    ///
    /// See [`Store::keyspace`](crate::Store::keyspace).
    pub(crate) fn keyspace(
        &self,
        name: &str,
        codec: &str,
        order: KeyOrder,
        durability: Durability,
    ) -> Result<Arc<KeyspaceState>> {
        self.fork_guard.check()?;
        check_name(name)?;
        check_codec(codec)?;
        if let Some(keyspace) = self.catalog.get(name) {
            // A read, which works after a failed sync too, and waits for nothing.
            return self.with_order(keyspace, order);
        }
        let kind = order.id_of(KeyspaceId::DEFAULT);
        let slot = KeyspaceIndex::empty(kind, self.shared.dir.path())?;
        let mut guard = WriteGuard::lock(self)?;
        if let Some(keyspace) = self.catalog.get(name) {
            drop(guard);
            return self.with_order(keyspace, order);
        }
        if guard.writer.names.iter().len() > KEYSPACES_MAX {
            return Err(Error::Limit {
                what: "a store has at most 16,384 named keyspaces, each with an index of its own",
                advice: "put a prefix before the keys of one keyspace instead",
            });
        }
        let id = order.id_of(guard.writer.names.next());
        let change = KeyspaceChange::Create { id, name: name.to_owned(), codec: codec.to_owned() };
        let seq = self.append_change(&mut guard, &change)?;
        let new = NewContents { id, begin: seq, slot };
        let keyspace = self.catalog.add(&mut guard.writer.indexes, name, codec, new);
        let work = guard.end();
        self.notify_worker(work);
        crate::trace::keyspace_created(name, id.number());
        self.wait_for(seq, durability)?;
        Ok(keyspace)
    }

    /// Returns a keyspace that has the order that the caller needs.
    fn with_order(&self, keyspace: Arc<KeyspaceState>, order: KeyOrder) -> Result<Arc<KeyspaceState>> {
        if order == KeyOrder::Ascending {
            self.ordered_contents(&keyspace, &self.pin())?;
        }
        Ok(keyspace)
    }

    /// Returns the keyspace with a name, which must exist.
    ///
    /// # Errors
    ///
    /// See [`Store::open_keyspace`](crate::Store::open_keyspace).
    pub(crate) fn open_keyspace(&self, name: &str) -> Result<Arc<KeyspaceState>> {
        self.fork_guard.check()?;
        self.catalog.get(name).ok_or_else(|| Error::KeyspaceNotFound { name: name.to_owned() })
    }

    /// Returns the names of all keyspaces but the default one.
    pub(crate) fn keyspace_names(&self) -> Vec<String> {
        if self.fork_guard.is_forked() {
            return Vec::new();
        }
        let names = self.catalog.all().into_iter().map(|keyspace| keyspace.name().to_string());
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Gives a keyspace another name.
    ///
    /// # Errors
    ///
    /// See [`Store::rename_keyspace`](crate::Store::rename_keyspace).
    pub(crate) fn rename_keyspace(&self, from: &str, to: &str, durability: Durability) -> Result<()> {
        self.fork_guard.check()?;
        check_movable(from, "the default keyspace cannot be renamed")?;
        check_name(to)?;
        check_movable(to, "it is the default keyspace's; choose another")?;
        let mut guard = WriteGuard::lock(self)?;
        let (keyspace, taken) = (self.catalog.get(from), self.catalog.get(to).is_some());
        let Some(keyspace) = keyspace.filter(|_| !taken) else {
            let there = keyspace_answer(from, to, self.catalog.get(from).is_some());
            drop(guard);
            self.wait_for(self.last_seq(), durability)?;
            return there;
        };
        let id = self.id_of(&keyspace)?;
        let seq = self.append_change(&mut guard, &KeyspaceChange::Rename { id, name: to.to_owned() })?;
        self.catalog.rename(&keyspace, to);
        let work = guard.end();
        self.notify_worker(work);
        crate::trace::keyspace_renamed(to, id.number());
        self.wait_for(seq, durability)
    }

    /// Drops a keyspace and its contents. Returns true if it existed.
    ///
    /// # Errors
    ///
    /// See [`Store::drop_keyspace`](crate::Store::drop_keyspace).
    pub(crate) fn drop_keyspace(&self, name: &str, durability: Durability) -> Result<bool> {
        self.fork_guard.check()?;
        check_movable(name, "the default keyspace cannot be dropped; clear it")?;
        let guard = match self.catalog.get(name) {
            Some(keyspace) => self.lock_to_empty(&keyspace),
            None => self.writer.lock(),
        };
        let mut guard = WriteGuard::of(self, guard)?;
        let Some(keyspace) = self.catalog.get(name) else {
            // See `clear_keyspace`: a crash must not undo the answer.
            let seq = guard.writer.log.last_user();
            drop(guard);
            self.wait_for(seq, durability)?;
            return Ok(false);
        };
        let id = self.id_of(&keyspace)?;
        let seq = self.append_change(&mut guard, &KeyspaceChange::Drop { id, name: name.to_owned() })?;
        let old = self.catalog.drop_keyspace(&self.shared.space, &mut guard.writer.indexes, &keyspace, seq);
        self.bury(old.as_ref());
        let work = guard.end();
        let waits = self.free(old);
        self.notify_worker(work.or(waits));
        crate::trace::keyspace_dropped(name, id.number());
        self.wait_for(seq, durability)?;
        Ok(true)
    }

    /// Removes every key of a keyspace. The time does not depend on their number.
    ///
    /// # Errors
    ///
    /// See [`Keyspace::clear`](crate::Keyspace::clear).
    pub(crate) fn clear_keyspace(
        &self,
        keyspace: &Arc<KeyspaceState>,
        durability: Durability,
    ) -> Result<Seq> {
        self.fork_guard.check()?;
        // A clear does not change the kind.
        let slot = KeyspaceIndex::empty(self.id_of(keyspace)?, self.shared.dir.path())?;
        let mut guard = WriteGuard::of(self, self.lock_to_empty(keyspace))?;
        let old = self.id_of(keyspace)?;
        if self.is_empty(keyspace) {
            // As for an absent key: there is nothing to write, and a crash must not undo the
            // answer.
            let seq = guard.writer.log.last_user();
            drop(guard);
            self.wait_for(seq, durability)?;
            return Ok(seq);
        }
        let next = guard.writer.names.next();
        let id = if old.is_ordered() { next.ordered() } else { next };
        let name = keyspace.name();
        let seq =
            self.append_change(&mut guard, &KeyspaceChange::Clear { id, old, name: name.to_string() })?;
        let new = NewContents { id, begin: seq, slot };
        let before = self.catalog.clear(&self.shared.space, &mut guard.writer.indexes, keyspace, new);
        self.bury(before.as_ref());
        let work = guard.end();
        let waits = self.free(before);
        self.notify_worker(work.or(waits));
        crate::trace::keyspace_cleared(&name, id.number());
        self.wait_for(seq, durability)?;
        Ok(seq)
    }

    /// Takes the writer mutex, with the index of a keyspace that is to be cleared or dropped loaded
    /// whole if snapshots are live.
    ///
    /// A snapshot may still need that index. If its checkpoint turned out to be damaged later, it
    /// could not be rebuilt for removed contents.
    fn lock_to_empty(&self, keyspace: &KeyspaceState) -> MutexGuard<'_, WriterState> {
        loop {
            let guard = self.writer.lock();
            if self.catalog.snapshots.holding().snapshots == 0 {
                return guard;
            }
            let pin = self.pin();
            let index = keyspace.contents(&pin).map(|contents| &contents.index);
            let index = index.filter(|index| index.is_partial()).map(KeyIndex::shared_lines);
            let Some(index) = index else { return guard };
            drop((guard, pin));
            let complete = self.complete_all();
            let whole = complete.and_then(|()| index.load_all().or_else(|unread| self.rebuild_for(unread)));
            if whole.is_err() {
                // The log is damaged as well, and so are the snapshot's records. Dropping them may
                // be the way out.
                return self.writer.lock();
            }
        }
    }

    /// Returns the number of a keyspace now. It is stable under the writer mutex.
    fn id_of(&self, keyspace: &KeyspaceState) -> Result<KeyspaceId> {
        let pin = self.pin();
        keyspace.contents(&pin).map(|contents| contents.id).ok_or_else(|| dropped(keyspace))
    }

    fn is_empty(&self, keyspace: &KeyspaceState) -> bool {
        let pin = self.pin();
        let is_empty = |contents: &KeyspaceData| {
            contents.keys() == 0 && contents.index.hashed().is_none_or(|index| !index.lacks_parts())
        };
        keyspace.contents(&pin).is_none_or(is_empty)
    }

    /// Checks a change against the names and logs it. On an error nothing has changed.
    fn append_change(&self, guard: &mut WriteGuard<'_>, change: &KeyspaceChange) -> Result<Seq> {
        let value = change.encode();
        let draft = NewRecord::new(RecordKind::Keyspace, change.id(), change.name().as_bytes(), &value)?;
        let frees = matches!(change, KeyspaceChange::Clear { .. } | KeyspaceChange::Drop { .. });
        // A change that frees so much may use all the space there is.
        let want = if frees { SpaceClass::Last } else { SpaceClass::Insertion };
        let next = guard.writer.names.next();
        if change.id().number() == next.0 && KeyspaceId(next.0 + 1).is_ordered() {
            return Err(Error::Limit {
                what: "all 2^31 - 1 keyspace numbers of the store are used",
                advice: "copy its content to a new store",
            });
        }
        if !frees {
            // The manifest must be able to name it, even on a full disk.
            self.shared.manifest.reserve_keyspaces(guard.writer.names.encoded_len() + ENTRY_LEN_MAX)?;
        }
        guard.writer.log.reserve(&self.shared, &self.allocator, want, draft.size())?;
        let (location, seq) = guard.writer.log.append(&self.shared, &draft)?;
        guard
            .writer
            .names
            .apply(change)
            .expect("the names were looked at, and the number is not the last one");
        guard.effect.begin(seq);
        self.shared.space.add_dead(location, DeadCause::Note, draft.size());
        self.catalog.note(seq, change.clone());
        Ok(seq)
    }

    /// Counts everything that the index of removed contents leads to as dead. Called under the writer mutex.
    pub(crate) fn bury(&self, slot: Option<&KeyspaceIndex>) {
        slot.into_iter().for_each(KeyspaceIndex::supersede_if_waiting);
        for (ordinal, bytes) in slot.into_iter().flat_map(KeyspaceIndex::live) {
            self.shared.space.add_hidden_in(ordinal, bytes);
        }
    }

    /// Frees the memory of an index, unless a reader uses it. Returns true if the worker must do it
    /// later.
    fn free(&self, slot: Option<KeyspaceIndex>) -> bool {
        drop(slot);
        self.catalog.collect()
    }
}

/// Returns the reason why a keyspace cannot be renamed, or `Ok` if it has the name already.
fn keyspace_answer(from: &str, to: &str, is_there: bool) -> Result<()> {
    match is_there {
        false => Err(Error::KeyspaceNotFound { name: from.to_owned() }),
        true if from == to => Ok(()),
        true => Err(Error::KeyspaceExists { name: to.to_owned() }),
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.len() <= MAX_NAME_LEN {
        return Ok(());
    }
    Err(Error::InvalidKeyspaceName { name: name.to_owned(), reason: "names are at most 255 bytes long" })
}

/// Refuses the keyspace without a name, which always exists.
fn check_movable(name: &str, reason: &'static str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::InvalidKeyspaceName { name: String::new(), reason });
    }
    Ok(())
}

fn check_codec(codec: &str) -> Result<()> {
    if codec.is_ascii() && codec.len() <= MAX_CODEC_LEN {
        return Ok(());
    }
    let value = codec.to_owned();
    Err(Error::InvalidOption { option: "codec", value, reason: "its id must be at most 64 bytes of ASCII" })
}
