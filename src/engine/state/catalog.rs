//! The catalog: the keyspaces of an open store, their names, and the index of each.
//!
//! It does not write records. `keyspaces` does, and changes the catalog under the writer mutex.
//!
//! **Concurrency.** A handle holds a [`KeyspaceState`]. Its [`KeyspaceData`] is replaced whole (by
//! a clear or a drop) while readers continue under a pin. A reader that loaded the old contents
//! reads the state before the change. Contents change only under the writer mutex, so a writer that
//! loads them there has the newest. Lock order: writer mutex, then `names`, then `pending`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::engine::state::present_contents::PresentContents;
use crate::engine::state::snapshot_registry::{Forget, RetainedVersions, SnapshotRegistry};
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::manifest::Manifest;
use crate::format::{KeyspaceId, Seq};
use crate::index::key_index::{KeyIndex, KeyIndexWriter};
use crate::index::keyspace_index::KeyspaceIndex;
use crate::mem::address_space::{AddressSpace, RangePin};
use crate::recovery::recovered::RecoveredKeyspace;
use crate::sync::epoch::{Domain, Pin};
use crate::sync::rcu::RcuCell;
use crate::sync::statistic::SingleWriter;

/// The contents of a keyspace, from its creation or a clear to the next clear or its drop.
#[derive(Debug)]
pub(crate) struct KeyspaceData {
    pub(crate) id: KeyspaceId,
    pub(crate) index: KeyIndex,
    /// The position of the index's writer in [`Indexes`].
    slot: usize,
    /// The number of keys. The index holds more entries while a batch with removals is being
    /// applied.
    pub(crate) keys: SingleWriter,
    /// Bytes of the records that are the newest of their key.
    pub(crate) live_bytes: SingleWriter,
    /// The number of the change that began them. Zero if they existed when the store was opened.
    pub(crate) begin: Seq,
    /// Versions that live snapshots see and the index no longer shows.
    pub(crate) versions: Arc<RetainedVersions>,
}

/// Contents as a snapshot sees them: present or former ones.
#[derive(Debug)]
pub(crate) struct KeyspaceAsOf {
    pub(crate) id: KeyspaceId,
    pub(crate) index: KeyIndex,
    pub(crate) versions: Arc<RetainedVersions>,
    begin: Seq,
    /// The number of the change that ended them.
    end: Seq,
    /// Former contents lead to segments that compaction may remove.
    range_pins: Vec<RangePin>,
}

impl Clone for KeyspaceAsOf {
    /// Clones without the range pins: those stay with the keyspace as long as a snapshot sees the
    /// contents.
    fn clone(&self) -> Self {
        let (index, versions) = (self.index.clone(), Arc::clone(&self.versions));
        Self { id: self.id, index, versions, begin: self.begin, end: self.end, range_pins: Vec::new() }
    }
}

/// The contents that a keyspace gets when it is created, cleared or recovered.
#[derive(Debug)]
pub(crate) struct NewContents {
    pub(crate) id: KeyspaceId,
    /// See [`KeyspaceData::begin`].
    pub(crate) begin: Seq,
    pub(crate) slot: KeyspaceIndex,
}

impl NewContents {
    /// Adds the index to those of the store, and returns the contents.
    fn add_to(self, indexes: &mut Indexes) -> Box<KeyspaceData> {
        let Self { id, begin, slot } = self;
        let index = slot.index.index();
        let slot = indexes.add(slot);
        Box::new(KeyspaceData {
            id,
            index,
            slot,
            keys: SingleWriter::default(),
            live_bytes: SingleWriter::default(),
            begin,
            versions: Arc::default(),
        })
    }
}

impl KeyspaceData {
    fn seen(&self, end: Seq) -> KeyspaceAsOf {
        let (index, versions) = (self.index.clone(), Arc::clone(&self.versions));
        KeyspaceAsOf { id: self.id, index, versions, begin: self.begin, end, range_pins: Vec::new() }
    }

    /// Returns the number of keys.
    pub(crate) fn keys(&self) -> u64 {
        // Relaxed: an independent count.
        self.keys.get()
    }

    /// Returns the bytes of the records that are the newest of their key.
    pub(crate) fn live_bytes(&self) -> u64 {
        // Relaxed: see `keys`.
        self.live_bytes.get()
    }
}

/// A keyspace, as its handles know it.
#[derive(Debug)]
pub(crate) struct KeyspaceState {
    /// The open store that it belongs to.
    owner: u64,
    /// The present contents. `None` once it was dropped.
    contents: RcuCell<KeyspaceData>,
    /// Set after `contents`.
    pub(crate) present: PresentContents,
    name: RwLock<Arc<str>>,
    codec: Box<str>,
    /// Contents that were replaced, and that a live snapshot sees.
    former: Mutex<Vec<KeyspaceAsOf>>,
}

impl Forget for KeyspaceState {
    fn forget(&self, end: Seq) {
        let gone: Vec<_> = self.former.lock().extract_if(.., |former| former.end == end).collect();
        // Without the lock: freeing an index's memory takes time.
        drop(gone);
    }
}

impl KeyspaceState {
    /// Pins the store that it belongs to, for the time of a read.
    pub(crate) fn pin(&self) -> Pin {
        self.contents.pin()
    }

    /// Returns its present contents. `None` once it was dropped.
    #[inline]
    pub(crate) fn contents<'p>(&'p self, pin: &'p Pin) -> Option<&'p KeyspaceData> {
        self.contents.load(pin)
    }

    /// Returns its present contents, without a lock.
    pub(crate) fn seen_now(&self) -> Option<KeyspaceAsOf> {
        Some(self.contents.load(&self.pin())?.seen(Seq(u64::MAX)))
    }

    /// Returns its contents as of a number, for a live snapshot. `None` if it had none then.
    pub(crate) fn as_of(&self, at: Seq) -> Option<KeyspaceAsOf> {
        let pin = self.pin();
        // The present contents first: they become former ones before they are replaced.
        let present = self.contents.load(&pin).filter(|contents| contents.begin <= at);
        if let Some(contents) = present {
            return Some(contents.seen(Seq(u64::MAX)));
        }
        let former = self.former.lock();
        former.iter().find(|former| former.begin <= at && at < former.end).cloned()
    }

    /// Keeps the present contents for the snapshots that see them.
    ///
    /// Called under the writer mutex, before change `end` replaces them.
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
        // Before the snapshots know of it, since they may be dropped at once.
        let mut former = contents.seen(end);
        former.range_pins = slot.live().filter_map(|(ordinal, _)| space.pin_range(ordinal)).collect();
        self.former.lock().push(former);
        let target: Arc<dyn Forget> = Arc::<Self>::clone(self);
        if !snapshots.keep_other(target, contents.begin, end) {
            self.forget(end);
        }
    }

    /// Returns its name. Once it was dropped, that is the last one.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.read())
    }

    /// Returns the name of the codec of its keys and values. Empty if they are bytes.
    pub(crate) fn codec(&self) -> &str {
        &self.codec
    }

    /// Returns true if it belongs to this open store.
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
    /// Returns the index of contents, which must be the present ones of a keyspace.
    #[inline]
    pub(crate) fn of(&mut self, contents: &KeyspaceData) -> &mut KeyspaceIndex {
        let slot = self.slots.get_mut(contents.slot).and_then(Option::as_mut);
        slot.expect("contents have their slot until they are replaced, under this mutex")
    }

    /// Returns the live bytes in the segment with this ordinal, in all keyspaces.
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

    /// Removes the index of a keyspace whose contents are about to be replaced.
    fn take(&mut self, keyspace: &KeyspaceState) -> Option<KeyspaceIndex> {
        let slot = keyspace.contents(&keyspace.pin())?.slot;
        self.free.push(slot);
        self.slots[slot].take()
    }
}

/// The keyspaces by name.
pub(crate) type ByName = BTreeMap<Arc<str>, Arc<KeyspaceState>>;

/// The keyspaces by name, by number, and in a list.
#[derive(Debug, Default)]
struct Names {
    /// Copied before a change while a snapshot has it.
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
    /// The position of the next turn in [`Catalog::next_few`].
    turn: AtomicUsize,
    /// Changes that the manifest does not contain yet, in the order of the log.
    pending: Mutex<VecDeque<(Seq, KeyspaceChange)>>,
    /// Keyspaces with old contents that a reader may still use.
    retired: Mutex<Vec<Arc<KeyspaceState>>>,
}

impl Catalog {
    /// Starts with the keyspaces that recovery found.
    pub(crate) fn new(
        loaded: Vec<RecoveredKeyspace>,
        pending: Vec<(Seq, KeyspaceChange)>,
        pins: Domain,
    ) -> (Self, Indexes) {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        let catalog = Self {
            // Relaxed: only a unique number.
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
            let keyspace =
                catalog.add(&mut indexes, &name, &codec, NewContents { id, begin: Seq::ZERO, slot });
            let pin = keyspace.pin();
            let contents = keyspace.contents(&pin).expect("just made");
            // Relaxed, both: no other thread has it yet.
            contents.keys.set(keys);
            contents.live_bytes.set(live_bytes);
        }
        (catalog, indexes)
    }

    /// Adds a keyspace, under the writer mutex.
    pub(crate) fn add(
        &self,
        indexes: &mut Indexes,
        name: &str,
        codec: &str,
        new: NewContents,
    ) -> Arc<KeyspaceState> {
        let id = new.id;
        let keyspace = Arc::new(KeyspaceState {
            owner: self.owner,
            contents: RcuCell::new(self.pins),
            present: PresentContents::new(id),
            name: RwLock::new(name.into()),
            codec: codec.into(),
            former: Mutex::default(),
        });
        keyspace.contents.replace(Some(new.add_to(indexes)));
        let mut names = self.names.write();
        Arc::make_mut(&mut names.by_name).insert(name.into(), Arc::clone(&keyspace));
        names.by_id.insert(id, Arc::clone(&keyspace));
        names.list.push(Arc::clone(&keyspace));
        drop(names);
        keyspace
    }

    /// Gives a keyspace new, empty contents, under the writer mutex. Returns the index of the old
    /// ones.
    pub(crate) fn clear(
        &self,
        space: &AddressSpace,
        indexes: &mut Indexes,
        keyspace: &Arc<KeyspaceState>,
        new: NewContents,
    ) -> Option<KeyspaceIndex> {
        let (id, begin) = (new.id, new.begin);
        let before = id_of(keyspace);
        let old = indexes.take(keyspace);
        old.iter().for_each(|slot| keyspace.keep_for(&self.snapshots, space, slot, begin));
        keyspace.contents.replace(Some(new.add_to(indexes)));
        keyspace.present.set(Some(id));
        let mut names = self.names.write();
        before.and_then(|before| names.by_id.remove(&before));
        names.by_id.insert(id, Arc::clone(keyspace));
        drop(names);
        self.retired.lock().push(Arc::clone(keyspace));
        old
    }

    /// Gives a keyspace another index with equal contents, under the writer mutex.
    ///
    /// Searches of the old index fail from then on.
    pub(crate) fn reindex(&self, indexes: &mut Indexes, of: &Arc<KeyspaceState>, index: KeyIndexWriter) {
        let pin = of.pin();
        let Some(was) = of.contents(&pin) else { return };
        let contents = KeyspaceData {
            id: was.id,
            index: index.index(),
            slot: was.slot,
            // Relaxed, both: only the holder of the writer mutex changes them.
            keys: was.keys.copied(),
            live_bytes: was.live_bytes.copied(),
            begin: was.begin,
            versions: Arc::clone(&was.versions),
        };
        let before = std::mem::replace(&mut indexes.of(was).index, index);
        of.contents.replace(Some(Box::new(contents)));
        before.index().lines().supersede();
        self.retired.lock().push(Arc::clone(of));
    }

    /// Removes a keyspace, under the writer mutex. Returns its index.
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
        keyspace.present.set(None);
        let mut names = self.names.write();
        before.and_then(|before| names.by_id.remove(&before));
        Arc::make_mut(&mut names.by_name).remove(&*keyspace.name());
        names.list.retain(|other| !Arc::ptr_eq(other, keyspace));
        drop(names);
        self.retired.lock().push(Arc::clone(keyspace));
        old
    }

    /// Gives a keyspace another name, under the writer mutex.
    pub(crate) fn rename(&self, keyspace: &Arc<KeyspaceState>, name: &str) {
        let name: Arc<str> = name.into();
        let mut names = self.names.write();
        let old = std::mem::replace(&mut *keyspace.name.write(), Arc::clone(&name));
        let by_name = Arc::make_mut(&mut names.by_name);
        by_name.remove(&old);
        by_name.insert(name, Arc::clone(keyspace));
    }

    /// Gives keyspaces other names in one step, under the writer mutex. They may swap names.
    pub(crate) fn rename_all<'k>(&self, renamed: impl Iterator<Item = (&'k Arc<KeyspaceState>, &'k str)>) {
        let mut names = self.names.write();
        let by_name = Arc::make_mut(&mut names.by_name);
        let renamed: Vec<_> = renamed.collect();
        for (keyspace, _) in &renamed {
            by_name.remove(&*keyspace.name());
        }
        for (keyspace, name) in renamed {
            let name: Arc<str> = name.into();
            *keyspace.name.write() = Arc::clone(&name);
            by_name.insert(name, Arc::clone(keyspace));
        }
    }

    /// Returns the present names, for a snapshot. Called under the writer mutex.
    pub(crate) fn names(&self) -> Arc<ByName> {
        Arc::clone(&self.names.read().by_name)
    }

    /// Returns the keyspace with a name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<KeyspaceState>> {
        self.names.read().by_name.get(name).map(Arc::clone)
    }

    /// Returns the keyspace whose present contents have this number.
    pub(crate) fn by_id(&self, id: KeyspaceId) -> Option<Arc<KeyspaceState>> {
        self.names.read().by_id.get(&id).map(Arc::clone)
    }

    /// Returns the live bytes of all keyspaces.
    pub(crate) fn live_bytes(&self) -> u64 {
        let pin = self.pins.pin();
        let names = self.names.read();
        names.list.iter().filter_map(|keyspace| Some(keyspace.contents(&pin)?.live_bytes())).sum()
    }

    /// Returns all keyspaces, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<KeyspaceState>> {
        self.names.read().by_name.values().map(Arc::clone).collect()
    }

    /// Returns some keyspaces, others at every call, so that many short calls see all of them.
    pub(crate) fn next_few(&self, count: usize) -> Vec<Arc<KeyspaceState>> {
        let names = self.names.read();
        let count = count.min(names.list.len());
        // Relaxed: a keyspace that is left out has a turn later.
        let turn = self.turn.fetch_add(count, Ordering::Relaxed) % names.list.len().max(1);
        names.list.iter().cycle().skip(turn).take(count).map(Arc::clone).collect()
    }

    /// Records a change that the log has and the manifest has not.
    ///
    /// Called under the writer mutex, before any later sync can be planned.
    pub(crate) fn note(&self, seq: Seq, change: KeyspaceChange) {
        self.pending.lock().push_back((seq, change));
    }

    /// Raises a manifest's durable number, and updates its keyspaces to that number.
    ///
    /// The list must never be ahead of the log that survives a power cut.
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

    /// Drops old contents that no reader can use any more. Returns true if some are left.
    pub(crate) fn collect(&self) -> bool {
        // Without the lock: freeing memory takes time, and a writer may want to add to the list.
        let mut left = std::mem::take(&mut *self.retired.lock());
        left.retain(|keyspace| !keyspace.contents.collect());
        let mut retired = self.retired.lock();
        retired.append(&mut left);
        !retired.is_empty()
    }

    /// Returns true if [`Catalog::collect`] may have work.
    pub(crate) fn has_retired(&self) -> bool {
        !self.retired.lock().is_empty()
    }
}

/// Returns the number of a keyspace's present contents.
fn id_of(keyspace: &KeyspaceState) -> Option<KeyspaceId> {
    keyspace.contents(&keyspace.pin()).map(|contents| contents.id)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn new(number: u32) -> NewContents {
        let id = KeyspaceId(number);
        let slot = KeyspaceIndex::empty(id, std::path::Path::new("store")).expect("memory");
        NewContents { id, begin: Seq(number.into()), slot }
    }

    #[test]
    fn old_contents_are_dropped_after_the_last_reader() {
        let (catalog, mut indexes) = Catalog::new(Vec::new(), Vec::new(), Domain::new());
        let keyspace = catalog.add(&mut indexes, "a", "", new(1));
        let pin = keyspace.pin();
        let index = &keyspace.contents(&pin).expect("it is there").index;
        let seen = Arc::clone(index.hashed().expect("it is not ordered"));
        drop(catalog.clear(
            &AddressSpace::reserve().expect("address space"),
            &mut indexes,
            &keyspace,
            new(2),
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
            catalog.add(&mut indexes, &n.to_string(), "", new(n));
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
