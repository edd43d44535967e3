//! Jumping over a gap: the store is read anew, and every keyspace gets new contents.
//!
//! A follower that was not refreshed for long may find that compaction has removed the part of the
//! log that comes next. The rest does not tell the history in between, only the contents.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Inner;
use crate::engine::Engine;
use crate::engine::state::WriterState;
use crate::engine::state::catalog::{KeyspaceState, NewContents};
use crate::error::Result;
use crate::format::{KeyspaceId, Seq};
use crate::recovery::attach::{Reread, reread};
use crate::recovery::recovered::RecoveredKeyspace;
use crate::recovery::replay::Replayed;

impl Inner {
    /// Reads the store anew.
    ///
    /// # Errors
    ///
    /// The errors of an attach. The follower keeps what it has.
    pub(super) fn jump(&mut self, engine: &Engine) -> Result<()> {
        let Reread { manifest, segments, replayed, last, place, before } =
            reread(&engine.shared.dir, &engine.config, &engine.shared.space, &engine.hash_key)?;
        // Snapshots see by number, so what is new must have a new number. If the store lost its end,
        // its next writer continues with greater ones.
        let last = last.max(engine.last_seq().next());
        let Replayed { keyspaces, names, .. } = replayed;
        {
            let mut writer = engine.writer.lock();
            engine.seqlock.begin(last);
            replace_keyspaces(engine, &mut writer, keyspaces, last);
            writer.names = names;
            writer.log.follow(last);
            engine.seqlock.end(last);
        }
        (self.ahead, self.seen) = (super::ahead_of(segments.iter()), None);
        let new = segments.into_iter().map(|segment| (segment.id(), segment)).collect();
        let old = std::mem::replace(&mut *engine.shared.segments.write(), new);
        for segment in old.values() {
            engine.shared.space.retire(segment.mapping(), 0);
        }
        engine.shared.manifest.follow(manifest.clone());
        self.whole_at = manifest.generation;
        (self.manifest, self.place, self.before) = (manifest, place, before);
        self.copies.clear();
        // The writer's nonce is compared once more.
        self.nonce = None;
        self.must_let_go = false;
        Ok(())
    }
}

/// Gives every keyspace the contents that were read. A keyspace is the same if its number is, or
/// else its name.
fn replace_keyspaces(engine: &Engine, writer: &mut WriterState, found: Vec<RecoveredKeyspace>, seq: Seq) {
    let (catalog, space) = (&engine.catalog, &engine.shared.space);
    let mut by_id: BTreeMap<KeyspaceId, RecoveredKeyspace> =
        found.into_iter().map(|found| (found.id, found)).collect();
    let id_of = |keyspace: &KeyspaceState| keyspace.contents(&keyspace.pin()).map(|contents| contents.id);
    let (same, others): (Vec<_>, Vec<_>) = catalog
        .all()
        .into_iter()
        .partition(|keyspace| id_of(keyspace).is_some_and(|id| by_id.contains_key(&id)));
    let mut matched: Vec<(Arc<KeyspaceState>, RecoveredKeyspace)> = Vec::new();
    for keyspace in same {
        let found = id_of(&keyspace).and_then(|id| by_id.remove(&id)).expect("found above");
        matched.push((keyspace, found));
    }
    for keyspace in others {
        let name = keyspace.name();
        let named = by_id.values().find(|found| *found.name == *name && found.codec == keyspace.codec());
        match named.map(|found| found.id).and_then(|id| by_id.remove(&id)) {
            Some(found) => matched.push((keyspace, found)),
            None => drop(catalog.drop_keyspace(space, &mut writer.indexes, &keyspace, seq)),
        }
    }
    catalog.rename_all(matched.iter().map(|(keyspace, found)| (keyspace, found.name.as_str())));
    for (keyspace, found) in matched {
        let RecoveredKeyspace { id, slot, keys, live_bytes, .. } = found;
        drop(catalog.clear(space, &mut writer.indexes, &keyspace, NewContents { id, begin: seq, slot }));
        set_counts(&keyspace, keys, live_bytes);
    }
    for found in by_id.into_values() {
        let RecoveredKeyspace { id, name, codec, slot, keys, live_bytes } = found;
        let keyspace = catalog.add(&mut writer.indexes, &name, &codec, NewContents { id, begin: seq, slot });
        set_counts(&keyspace, keys, live_bytes);
    }
}

fn set_counts(keyspace: &KeyspaceState, keys: u64, live_bytes: u64) {
    let pin = keyspace.pin();
    let contents = keyspace.contents(&pin).expect("just made");
    contents.keys.set(keys);
    contents.live_bytes.set(live_bytes);
}
