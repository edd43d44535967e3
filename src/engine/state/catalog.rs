//! The keyspaces of an open store: their names, and the index of each.
//!
//! It does not write records: `keyspaces` does, and changes this under the writer mutex.
//!
//! **Concurrency.** A handle holds a [`KeyspaceState`], whose [`KeyspaceData`] change as a whole (a clear, a drop) while readers
//! go on under a pin: whoever loaded the old contents reads what was there before the change. Contents change only under
//! the writer mutex, so a writer that loads them there has the newest. Lock order: writer mutex, then `names`, then
//! `pending`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::engine::state::snapshot_registry::{Forget, RetainedVersions, SnapshotRegistry};
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::manifest::Manifest;
use crate::format::{KeyspaceId, Seq};
use crate::index::hash::{Index, IndexWriter};
use crate::index::keyspace_index::KeyspaceIndex;
use crate::mem::address_space::{AddressSpace, RangePin};
use crate::recovery::recovered::RecoveredKeyspace;
use crate::sync::epoch::{Domain, Pin};
use crate::sync::rcu::RcuCell;

/// What a keyspace holds, from its creation or a clear to the next clear or its drop.
#[derive(Debug)]
pub(crate) struct KeyspaceData {
    pub(crate) id: KeyspaceId,
    pub(crate) index: Arc<Index>,
    /// The place of the index's writer in [`Indexes`].
    slot: usize,
    /// Keys; the index holds more entries while a batch with removals is being applied.
    pub(crate) keys: AtomicU64,
    /// Bytes of records that are the newest of their key.
    pub(crate) live_bytes: AtomicU64,
    /// The number of the change that began them; zero for those that were there when the store was opened.
    pub(crate) begin: Seq,
    /// What live snapshots see of them and the index no longer shows.
    pub(crate) versions: Arc<RetainedVersions>,
}

/// Contents as a snapshot sees them: present ones, or former.
#[derive(Debug)]
pub(crate) struct KeyspaceAsOf {
    pub(crate) id: KeyspaceId,
    pub(crate) index: Arc<Index>,
    pub(crate) versions: Arc<RetainedVersions>,
    begin: Seq,
    /// The number of the change that ended them.
    end: Seq,
    /// Former ones lead to segments that compaction may remove.
    range_pins: Vec<RangePin>,
}

impl Clone for KeyspaceAsOf {
    /// Without what keeps the segments: that stays with the keyspace for as long as a snapshot sees this.
    fn clone(&self) -> Self {
        let (index, versions) = (Arc::clone(&self.index), Arc::clone(&self.versions));
        Self { id: self.id, index, versions, begin: self.begin, end: self.end, range_pins: Vec::new() }
    }
}

impl KeyspaceData {
    fn seen(&self, end: Seq) -> KeyspaceAsOf {
        let (index, versions) = (Arc::clone(&self.index), Arc::clone(&self.versions));
        KeyspaceAsOf { id: self.id, index, versions, begin: self.begin, end, range_pins: Vec::new() }
    }

    /// Keys.
    pub(crate) fn keys(&self) -> u64 {
        // Relaxed: a count on its own.
        self.keys.load(Ordering::Relaxed)
    }

    /// Bytes of records that are the newest of their key.
    pub(crate) fn live_bytes(&self) -> u64 {
        // Relaxed: as for `keys`.
        self.live_bytes.load(Ordering::Relaxed)
    }
}

/// A keyspace, as its handles know it.
#[derive(Debug)]
pub(crate) struct KeyspaceState {
    /// Which open store it belongs to.
    owner: u64,
    /// None once it was dropped.
    contents: RcuCell<KeyspaceData>,
    name: RwLock<Arc<str>>,
    codec: Box<str>,
    /// Contents that were replaced, and that a live snapshot sees.
    former: Mutex<Vec<KeyspaceAsOf>>,
}

impl Forget for KeyspaceState {
    fn forget(&self, end: Seq) {
        let gone: Vec<_> = self.former.lock().extract_if(.., |former| former.end == end).collect();
        // Not with the lock held: giving the memory of an index back takes time.
        drop(gone);
    }
}

impl KeyspaceState {
    /// Pins the store that it belongs to, for the time of a read.
    pub(crate) fn pin(&self) -> Pin {
        self.contents.pin()
    }

    /// What it holds now; `None` once it was dropped.
    #[inline]
    pub(crate) fn contents<'p>(&'p self, pin: &'p Pin) -> Option<&'p KeyspaceData> {
        self.contents.load(pin)
    }

    /// What it holds now, without a lock.
    pub(crate) fn seen_now(&self) -> Option<KeyspaceAsOf> {
        Some(self.contents.load(&self.pin())?.seen(Seq(u64::MAX)))
    }

    /// What it held as of a number, for a snapshot that is alive; `None` where there was no such keyspace then.
    pub(crate) fn as_of(&self, at: Seq) -> Option<KeyspaceAsOf> {
        let pin = self.pin();
        // The present ones first: they become former ones before they are replaced.
        let present = self.contents.load(&pin).filter(|contents| contents.begin <= at);
        if let Some(contents) = present {
            return Some(contents.seen(Seq(u64::MAX)));
        }
        let former = self.former.lock();
        former.iter().find(|former| former.begin <= at && at < former.end).cloned()
    }

    /// Keeps the present contents for the snapshots that see them; called before they are replaced by the change of a
    /// number, under the writer mutex.
    fn keep_for(
        self: &Arc<Self>,
        snapshots: &SnapshotRegistry,
        space: &AddressSpace,
        slot: &KeyspaceIndex,
        end: Seq,
    ) {
        let pin = self.pin();
        let Some(contents) = self.contents.load(&pin).filter(|contents| snapshots.see(contents.begin)) else {
            return;
        };
        // Before the snapshots know of it: they may go at once.
        let mut former = contents.seen(end);
        former.range_pins = slot.live().filter_map(|(ordinal, _)| space.pin_range(ordinal)).collect();
        self.former.lock().push(former);
        let target: Arc<dyn Forget> = Arc::<Self>::clone(self);
        if !snapshots.keep_other(target, contents.begin, end) {
            self.forget(end);
        }
    }

    /// Its name; the last one, once it was dropped.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.read())
    }

    /// What its keys and values are encoded by; empty where they are bytes.
    pub(crate) fn codec(&self) -> &str {
        &self.codec
    }

    /// Whether it belongs to this open store.
    pub(crate) fn is_of(&self, catalog: &Catalog) -> bool {
        self.owner == catalog.owner
    }
}

/// The indexes of all keyspaces, under the writer mutex.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    slots: Vec<Option<KeyspaceIndex>>,
    free: Vec<usize>,
}

impl Indexes {
    /// The index of contents, which must be a keyspace's present ones.
    #[inline]
    pub(crate) fn of(&mut self, contents: &KeyspaceData) -> &mut KeyspaceIndex {
        let slot = self.slots.get_mut(contents.slot).and_then(Option::as_mut);
        slot.expect("contents have their slot until they are replaced, under this mutex")
    }

    /// Bytes that are live in the segment with this ordinal, in all keyspaces.
    pub(crate) fn live_in(&self, ordinal: usize) -> u64 {
        self.slots.iter().flatten().map(|slot| slot.live_in(ordinal)).sum()
    }

    fn add(&mut self, slot: KeyspaceIndex) -> usize {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(slot);
        at
    }

    /// Takes the index of a keyspace whose contents are about to be replaced.
    fn take(&mut self, keyspace: &KeyspaceState) -> Option<KeyspaceIndex> {
        let slot = keyspace.contents(&keyspace.pin())?.slot;
        self.free.push(slot);
        self.slots[slot].take()
    }
}

/// The keyspaces by name.
pub(crate) type ByName = BTreeMap<Arc<str>, Arc<KeyspaceState>>;

/// The keyspaces by name, and in an order of their own.
#[derive(Debug, Default)]
struct Names {
    /// Copied before it is changed while a snapshot has it.
    by_name: Arc<ByName>,
    /// By the number of their present contents.
    by_id: BTreeMap<KeyspaceId, Arc<KeyspaceState>>,
    list: Vec<Arc<KeyspaceState>>,
}

/// The keyspaces of an open store.
#[derive(Debug)]
pub(crate) struct Catalog {
    owner: u64,
    pins: Domain,
    names: RwLock<Names>,
    pub(crate) snapshots: SnapshotRegistry,
    /// Whose turn it is in [`Catalog::next_few`].
    turn: AtomicUsize,
    /// Changes that the manifest does not have yet, in the order of the log.
    pending: Mutex<VecDeque<(Seq, KeyspaceChange)>>,
    /// Keyspaces with old contents that a reader may still look at.
    retired: Mutex<Vec<Arc<KeyspaceState>>>,
}

impl Catalog {
    /// Starts with what recovery found.
    pub(crate) fn new(
        loaded: Vec<RecoveredKeyspace>,
        pending: Vec<(Seq, KeyspaceChange)>,
        pins: Domain,
    ) -> (Self, Indexes) {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        let catalog = Self {
            // Relaxed: a number of its own is all it is.
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            pins,
            names: RwLock::default(),
            snapshots: SnapshotRegistry::default(),
            turn: AtomicUsize::new(0),
            pending: Mutex::new(pending.into()),
            retired: Mutex::default(),
        };
        let mut indexes = Indexes::default();
        for RecoveredKeyspace { id, name, codec, slot, keys, live_bytes } in loaded {
            let keyspace = catalog.add(&mut indexes, &name, &codec, (id, Seq::ZERO), slot);
            let pin = keyspace.pin();
            let contents = keyspace.contents(&pin).expect("just made");
            // Relaxed, both: nobody else has it yet.
            contents.keys.store(keys, Ordering::Relaxed);
            contents.live_bytes.store(live_bytes, Ordering::Relaxed);
        }
        (catalog, indexes)
    }

    /// Adds a keyspace; called under the writer mutex.
    pub(crate) fn add(
        &self,
        indexes: &mut Indexes,
        name: &str,
        codec: &str,
        (id, begin): (KeyspaceId, Seq),
        slot: KeyspaceIndex,
    ) -> Arc<KeyspaceState> {
        let keyspace = Arc::new(KeyspaceState {
            owner: self.owner,
            contents: RcuCell::new(self.pins),
            name: RwLock::new(name.into()),
            codec: codec.into(),
            former: Mutex::default(),
        });
        keyspace.contents.replace(Some(contents(indexes, id, begin, slot)));
        let mut names = self.names.write();
        Arc::make_mut(&mut names.by_name).insert(name.into(), Arc::clone(&keyspace));
        names.by_id.insert(id, Arc::clone(&keyspace));
        names.list.push(Arc::clone(&keyspace));
        drop(names);
        keyspace
    }

    /// Gives a keyspace new, empty contents, and returns the index of the old ones; called under the writer mutex.
    pub(crate) fn clear(
        &self,
        space: &AddressSpace,
        indexes: &mut Indexes,
        keyspace: &Arc<KeyspaceState>,
        (id, begin): (KeyspaceId, Seq),
        slot: KeyspaceIndex,
    ) -> Option<KeyspaceIndex> {
        let before = id_of(keyspace);
        let old = indexes.take(keyspace);
        old.iter().for_each(|slot| keyspace.keep_for(&self.snapshots, space, slot, begin));
        keyspace.contents.replace(Some(contents(indexes, id, begin, slot)));
        let mut names = self.names.write();
        names.by_id.insert(id, Arc::clone(keyspace));
        before.and_then(|before| names.by_id.remove(&before));
        drop(names);
        self.retired.lock().push(Arc::clone(keyspace));
        old
    }

    /// Gives a keyspace another index that holds the same; called under the writer mutex. Searches of the one before fail
    /// from then on.
    pub(crate) fn reindex(&self, indexes: &mut Indexes, keyspace: &Arc<KeyspaceState>, index: IndexWriter) {
        let pin = keyspace.pin();
        let Some(was) = keyspace.contents(&pin) else { return };
        let contents = KeyspaceData {
            id: was.id,
            index: Arc::clone(index.index()),
            slot: was.slot,
            // Relaxed, both: only the holder of the writer mutex changes them.
            keys: AtomicU64::new(was.keys.load(Ordering::Relaxed)),
            live_bytes: AtomicU64::new(was.live_bytes.load(Ordering::Relaxed)),
            begin: was.begin,
            versions: Arc::clone(&was.versions),
        };
        let before = std::mem::replace(&mut indexes.of(was).index, index);
        keyspace.contents.replace(Some(Box::new(contents)));
        before.index().supersede();
        self.retired.lock().push(Arc::clone(keyspace));
    }

    /// Takes a keyspace away, and returns its index; called under the writer mutex.
    pub(crate) fn drop_keyspace(
        &self,
        space: &AddressSpace,
        indexes: &mut Indexes,
        keyspace: &Arc<KeyspaceState>,
        end: Seq,
    ) -> Option<KeyspaceIndex> {
        let before = id_of(keyspace);
        let old = indexes.take(keyspace);
        old.iter().for_each(|slot| keyspace.keep_for(&self.snapshots, space, slot, end));
        keyspace.contents.replace(None);
        let mut names = self.names.write();
        before.and_then(|before| names.by_id.remove(&before));
        Arc::make_mut(&mut names.by_name).remove(&*keyspace.name());
        names.list.retain(|other| !Arc::ptr_eq(other, keyspace));
        drop(names);
        self.retired.lock().push(Arc::clone(keyspace));
        old
    }

    /// Gives a keyspace another name; called under the writer mutex.
    pub(crate) fn rename(&self, keyspace: &Arc<KeyspaceState>, name: &str) {
        let name: Arc<str> = name.into();
        let mut names = self.names.write();
        let old = std::mem::replace(&mut *keyspace.name.write(), Arc::clone(&name));
        let by_name = Arc::make_mut(&mut names.by_name);
        by_name.remove(&old);
        by_name.insert(name, Arc::clone(keyspace));
    }

    /// The names as they are now, for a snapshot; called under the writer mutex.
    pub(crate) fn names(&self) -> Arc<ByName> {
        Arc::clone(&self.names.read().by_name)
    }

    /// The keyspace of a name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<KeyspaceState>> {
        self.names.read().by_name.get(name).map(Arc::clone)
    }

    /// The keyspace whose present contents have this number.
    pub(crate) fn by_id(&self, id: KeyspaceId) -> Option<Arc<KeyspaceState>> {
        self.names.read().by_id.get(&id).map(Arc::clone)
    }

    /// Live bytes, in all keyspaces.
    pub(crate) fn live_bytes(&self) -> u64 {
        let pin = self.pins.pin();
        let names = self.names.read();
        names.list.iter().filter_map(|keyspace| Some(keyspace.contents(&pin)?.live_bytes())).sum()
    }

    /// All keyspaces, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<KeyspaceState>> {
        self.names.read().by_name.values().map(Arc::clone).collect()
    }

    /// Some keyspaces, others at every call, so that a look at all of them takes many short calls.
    pub(crate) fn next_few(&self, count: usize) -> Vec<Arc<KeyspaceState>> {
        let names = self.names.read();
        let count = count.min(names.list.len());
        // Relaxed: whoever is left out has a turn later.
        let turn = self.turn.fetch_add(count, Ordering::Relaxed) % names.list.len().max(1);
        names.list.iter().cycle().skip(turn).take(count).map(Arc::clone).collect()
    }

    /// Takes note of a change that the log has and the manifest has not; called under the writer mutex, before any
    /// later sync can be planned.
    pub(crate) fn note(&self, seq: Seq, change: KeyspaceChange) {
        self.pending.lock().push_back((seq, change));
    }

    /// Raises what a manifest says is durable, and has it list the keyspaces as of that point: what it lists must
    /// never be ahead of what a power cut leaves of the log.
    pub(crate) fn note_durable(&self, manifest: &mut Manifest, durable: Seq) {
        manifest.durable = manifest.durable.max(durable);
        let mut pending = self.pending.lock();
        while let Some((_, change)) = pending
            .front()
            .is_some_and(|(seq, _)| *seq <= manifest.durable)
            .then(|| pending.pop_front())
            .flatten()
        {
            manifest.keyspaces.apply(&change).expect("changes are checked before they are logged");
        }
    }

    /// Drops old contents that no reader can look at any more; whether some are left.
    pub(crate) fn collect(&self) -> bool {
        // Not with the lock held: giving memory back takes time, and a writer may want to add to the list.
        let mut left = std::mem::take(&mut *self.retired.lock());
        left.retain(|keyspace| !keyspace.contents.collect());
        let mut retired = self.retired.lock();
        retired.append(&mut left);
        !retired.is_empty()
    }

    /// Whether [`Catalog::collect`] may have something to do.
    pub(crate) fn has_retired(&self) -> bool {
        !self.retired.lock().is_empty()
    }
}

/// The number of what a keyspace holds.
fn id_of(keyspace: &KeyspaceState) -> Option<KeyspaceId> {
    keyspace.contents(&keyspace.pin()).map(|contents| contents.id)
}

fn contents(indexes: &mut Indexes, id: KeyspaceId, begin: Seq, slot: KeyspaceIndex) -> Box<KeyspaceData> {
    let index = Arc::clone(slot.index.index());
    let slot = indexes.add(slot);
    Box::new(KeyspaceData {
        id,
        index,
        slot,
        keys: AtomicU64::new(0),
        live_bytes: AtomicU64::new(0),
        begin,
        versions: Arc::default(),
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slot() -> KeyspaceIndex {
        KeyspaceIndex::new(Index::new().expect("memory").1)
    }

    #[test]
    fn old_contents_wait_for_the_last_reader_and_go_then() {
        let (catalog, mut indexes) = Catalog::new(Vec::new(), Vec::new(), Domain::new());
        let keyspace = catalog.add(&mut indexes, "a", "", (KeyspaceId(1), Seq(1)), slot());
        let pin = keyspace.pin();
        let seen = Arc::clone(&keyspace.contents(&pin).expect("it is there").index);
        drop(catalog.clear(
            &AddressSpace::reserve().expect("address space"),
            &mut indexes,
            &keyspace,
            (KeyspaceId(2), Seq(2)),
            slot(),
        ));
        assert!(catalog.collect() && catalog.has_retired(), "a reader may look at it");
        assert_eq!(Arc::strong_count(&seen), 2);
        drop(pin);
        assert!(!catalog.collect() && !catalog.has_retired());
        assert_eq!(Arc::strong_count(&seen), 1);
    }

    #[test]
    fn every_keyspace_has_a_turn() {
        let (catalog, mut indexes) = Catalog::new(Vec::new(), Vec::new(), Domain::new());
        assert!(catalog.next_few(3).is_empty());
        for n in 0..10 {
            catalog.add(&mut indexes, &n.to_string(), "", (KeyspaceId(n), Seq(1)), slot());
        }
        let mut seen: Vec<_> =
            (0..4).flat_map(|_| catalog.next_few(3)).map(|keyspace| keyspace.name()).collect();
        assert_eq!(seen.len(), 12);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 10);
        assert_eq!(catalog.next_few(64).len(), 10);
    }
}
