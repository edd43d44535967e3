//! The public handle of a change feed.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::api::follower::Follower;
use crate::api::options::Options;
use crate::api::snapshot::{KeyspaceSnapshot, Snapshot, SnapshotIter};
use crate::api::store::Store;
use crate::config::Config;
use crate::engine::feed::change::{Change, ChangeKind, KeyspaceRef};
use crate::engine::feed::{Feed, since::Since};
use crate::engine::follow::wait::Wait;
use crate::engine::read::Value;
use crate::error::{Error, Result};
use crate::format::feed_position::FeedPosition;
use crate::fs::Dir;
use crate::fs::read_only::ReadOnlyDir;
use crate::fs::real::RealDir;

/// The number of keys of a state between two looks at the log.
const KEEP_UP_SPACING: usize = 1024;

/// Every change of a store, in order: insertions, removals, and changes of keyspaces.
///
/// [`Store::changes`] and [`Follower::changes`] open one beside a handle, and [`Changes::open`] opens
/// one alone, in any process. It needs no index and takes no lock. It writes nothing but the request
/// to be woken, as a waiting [`Follower`] does.
///
/// # Order and completeness
///
/// The changes come in the order of the log, each exactly once. [`Change::more`] marks those of one
/// batch. A change that is not there any more is never left out silently:
///
/// - Compaction removes old parts of the log. A feed that has not read them returns
///   [`Error::Lagged`] once, and then goes on with the oldest part from which the log is whole.
///   [`Options::keep_changes`] makes the store keep more of it. A consumer that lagged reads the
///   state anew ([`Since::State`]).
/// - A power cut can take back changes that were not durable. A feed that had returned such a change,
///   or is opened at a position behind it, returns [`Error::Rewound`] once. A feed of
///   [`durable`](Changes::durable) changes never returns such a change. It can still begin behind
///   one: with [`Since::Now`], or behind a state.
///
/// # Exactly once
///
/// A consumer stores [`Changes::position`] together with the effect of the changes, for example in
/// one [`WriteBatch`](crate::WriteBatch), and goes on from the stored position after a restart.
/// `examples/materialized_view.rs` does so. An effect that cannot be stored with a position happens
/// at least once, and [`Change::seq`] tells repetitions.
///
/// # Cost
///
/// Keys and values are slices of the mapped log. Each record is verified once when it is read. A feed
/// that begins at a number reads the segment that holds it from its beginning, and the part of the
/// log that the manifest does not call durable, for the names of keyspaces. A call that finds nothing
/// new loads a few words. It makes a system call once a second while a writer has the store open, and
/// a few each time otherwise.
///
/// A feed maps the log segments that the store names. Those that it has not read keep their space
/// when compaction removes them. The next call lets go of all but 16 of them. So a feed that lags and
/// is not called can keep as much as all log segments took at its last call. One that has read
/// everything keeps the segment that it read last, and those that were made ready.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let path = directory.path().join("data");
/// use mapcask::{ChangeKind, Changes, Since, Store, WriteBatch};
///
/// let store = Store::open(&path)?;
/// let mut changes = Changes::open(&path, Since::Now)?;
/// let mut batch = WriteBatch::new();
/// batch.insert("a", "1");
/// batch.remove("b");
/// store.write(&batch)?;
///
/// let change = changes.next()?.expect("there is one");
/// assert_eq!(change.kind, ChangeKind::Insert { key: b"a", value: b"1" });
/// assert!(change.more);
/// let change = changes.next()?.expect("there is another");
/// assert_eq!(change.kind, ChangeKind::Remove { key: b"b" });
/// assert!(!change.more);
/// assert_eq!(changes.next()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "subscribe")]
#[doc(alias = "watch")]
#[doc(alias = "watch_prefix")]
#[doc(alias = "get_updates_since")]
pub struct Changes {
    feed: Feed,
    /// The rest of the state, which comes first.
    state: Option<StateReader>,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Changes");
        text.field("position", &self.position());
        text.finish_non_exhaustive()
    }
}

/// Reads a snapshot as changes.
struct StateReader {
    snapshot: Snapshot,
    /// The keyspaces that were not read yet.
    names: VecDeque<String>,
    keyspace: Option<StateKeyspace>,
    /// The key and the value that were returned last.
    item: Option<(Value, Value)>,
    /// The number of keys that were returned.
    count: usize,
    /// True once its end was returned.
    has_ended: bool,
}

/// The keyspace of a snapshot that is read.
struct StateKeyspace {
    id: u32,
    name: String,
    items: SnapshotIter,
    /// True until the keyspace was returned.
    is_new: bool,
}

/// The next part of a state.
enum StatePart {
    Keyspace,
    Item,
    End,
}

impl StateReader {
    fn new(snapshot: Snapshot) -> Self {
        let names = [String::new()].into_iter().chain(snapshot.keyspace_names()).collect();
        Self { snapshot, names, keyspace: None, item: None, count: 0, has_ended: false }
    }

    /// Goes to the next part.
    fn advance(&mut self, feed: &mut Feed) -> Result<StatePart> {
        loop {
            if let Some(keyspace) = &mut self.keyspace {
                // The default keyspace is always there.
                if std::mem::take(&mut keyspace.is_new) && !keyspace.name.is_empty() {
                    return Ok(StatePart::Keyspace);
                }
                if self.count.is_multiple_of(KEEP_UP_SPACING) {
                    // Before an item is taken: an error must not cost one.
                    feed.keep_up()?;
                }
                match keyspace.items.next() {
                    Some(Ok(item)) => {
                        self.item = Some(item);
                        self.count += 1;
                        return Ok(StatePart::Item);
                    }
                    Some(Err(error)) => {
                        // The iterator has ended. The next call begins this keyspace anew.
                        self.names.push_front(std::mem::take(&mut keyspace.name));
                        self.keyspace = None;
                        return Err(error);
                    }
                    None => self.keyspace = None,
                }
            }
            let Some(name) = self.names.front() else {
                self.has_ended = true;
                return Ok(StatePart::End);
            };
            if feed.wants(Some(name)) {
                let part: KeyspaceSnapshot = self.snapshot.keyspace(name)?;
                let (id, items, name) = (part.id().number(), part.iter(), name.clone());
                self.keyspace = Some(StateKeyspace { id, name, items, is_new: true });
            }
            self.names.pop_front();
        }
    }

    /// Returns the present part as a change.
    fn change(&self, part: &StatePart) -> Change<'_> {
        let keyspace = self.keyspace.as_ref();
        let name = keyspace.map(|keyspace| keyspace.name.as_str());
        let kind = match (part, &self.item) {
            (StatePart::Item, Some((key, value))) => ChangeKind::State { key, value },
            (StatePart::Keyspace, _) => ChangeKind::Created { name: name.unwrap_or_default() },
            (StatePart::End | StatePart::Item, _) => ChangeKind::StateEnd,
        };
        let keyspace = KeyspaceRef { id: keyspace.map_or(0, |keyspace| keyspace.id), name };
        Change { seq: self.snapshot.seq(), keyspace, kind, more: kind != ChangeKind::StateEnd }
    }
}

impl Changes {
    /// Opens the feed of the store in a directory, which another process may be writing to, with the
    /// default [`Options`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Changes, Since, Store};
    ///
    /// Store::open(&path)?.insert("a", "1")?;
    /// let mut changes = Changes::open(&path, Since::Oldest)?;
    /// assert!(changes.next()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Options::changes`] does.
    pub fn open(path: impl AsRef<Path>, since: impl Into<Since>) -> Result<Self> {
        Options::new().changes(path, since)
    }

    /// Opens a feed in a directory that may be simulated. `snapshot` takes the state, if it is asked
    /// for.
    fn open_in(
        config: &Config,
        dir: &Arc<dyn Dir>,
        since: Since,
        snapshot: impl FnOnce() -> Result<Snapshot>,
    ) -> Result<Self> {
        let _events = crate::trace::at_end();
        let dir: Arc<dyn Dir> = Arc::new(ReadOnlyDir::with_requests(Arc::clone(dir)));
        let mut feed = Feed::open(dir, config.sigbus_guard, since)?;
        // After the feed was opened: the log behind the state is mapped then.
        let snapshot = (since == Since::State).then(snapshot).transpose()?;
        let state = snapshot.map(StateReader::new);
        if let Some(state) = &state {
            feed.skip_to(state.snapshot.seq())?;
        }
        Ok(Self { feed, state })
    }

    /// Returns only changes of the keyspaces with these names; the name of the default one is empty.
    ///
    /// A keyspace counts by its name before or after a change, so a rename to or from one of these
    /// names is returned. See [`KeyspaceRef::name`] for changes from before the feed was opened.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let mut changes = store.changes(Since::Now)?.only(["users"]);
    /// store.insert("a", "1")?;
    /// store.keyspace("users")?;
    /// assert_eq!(changes.next()?.and_then(|change| change.keyspace.name), Some("users"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn only<N: Into<String>>(mut self, keyspaces: impl IntoIterator<Item = N>) -> Self {
        self.feed.only(keyspaces.into_iter().map(Into::into).collect());
        self
    }

    /// Returns only changes that are durable. A power cut cannot take them back. A state is not
    /// limited by this.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let mut changes = store.changes(Since::Now)?.durable();
    /// store.insert("a", "1")?;
    /// store.flush()?;
    /// assert!(changes.next()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.feed.durable();
        self
    }

    /// Returns the next change, in place; `None` if there is none yet. It never waits.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::collections::BTreeMap;
    ///
    /// use mapcask::{ChangeKind, Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// store.insert("a", "1")?;
    /// let mut changes = store.changes(Since::State)?;
    /// store.insert("b", "2")?;
    /// let mut copy = BTreeMap::new();
    /// while let Some(change) = changes.next()? {
    ///     match change.kind {
    ///         ChangeKind::State { key, value } | ChangeKind::Insert { key, value } => {
    ///             copy.insert(key.to_vec(), value.to_vec());
    ///         }
    ///         ChangeKind::Remove { key } => drop(copy.remove(key)),
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(copy.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `Lagged` and `Rewound`, once each: see [`Changes`]. The next call goes on.
    /// - `Replaced` if another store or directory is in its place now. Open a feed of that one: at the
    ///   [position](Changes::position) of this one, if it is a copy of the store.
    /// - `Corrupt`, `MissingSegment` or `Io` if the log cannot be read. The next call tries again.
    /// - `TooNew` if a later version of this crate writes to the store.
    /// - `Exhausted` if memory, mappings or descriptors run out.
    /// - `Forked`.
    #[expect(clippy::should_implement_trait, reason = "a change borrows the feed, which no iterator can say")]
    pub fn next(&mut self) -> Result<Option<Change<'_>>> {
        self.next_in(None)
    }

    /// Returns the next change, in place, and waits for it: asleep, as
    /// [`Wait::Sleep`](crate::Wait::Sleep) says. `None` if the time is over.
    ///
    /// A feed of [`durable`](Changes::durable) changes waits until the writer syncs by itself. It asks
    /// for no sync.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use std::time::Duration;
    ///
    /// use mapcask::{Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let mut changes = store.changes(Since::Now)?;
    /// std::thread::spawn(move || store.insert("a", "1"));
    /// let change = changes.next_within(Duration::from_secs(60))?.expect("it comes");
    /// assert!(!change.more);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Changes::next`]; `Io` if the pages of the writer cannot be opened.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Change<'_>>> {
        self.next_in(Some(timeout))
    }

    fn next_in(&mut self, timeout: Option<Duration>) -> Result<Option<Change<'_>>> {
        self.feed.check()?;
        if self.state.as_ref().is_some_and(|state| state.has_ended) {
            self.state = None;
        }
        let Self { feed, state } = self;
        let Some(state) = state else {
            return match timeout {
                Some(timeout) => feed.next_within(Wait::Sleep, timeout),
                None => feed.next(),
            };
        };
        let part = state.advance(feed)?;
        Ok(Some(state.change(&part)))
    }

    /// Returns the place behind the last change that was returned, as a position that outlives the
    /// process.
    ///
    /// Within a batch it is the place before the batch. Within a state it stands for the whole state.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let mut changes = store.changes(Since::Now)?;
    /// let seq = store.insert("a", "1")?;
    /// assert!(changes.position().seq() < seq);
    /// changes.next()?;
    /// assert_eq!(changes.position().seq(), seq);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn position(&self) -> FeedPosition {
        self.feed.position(self.state.as_ref().is_some_and(|state| !state.has_ended))
    }
}

impl Store {
    /// Returns a feed of the store's changes.
    ///
    /// It is the same as one in another process, and stays readable after the store is closed.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{ChangeKind, Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let mut changes = store.changes(Since::Now)?;
    /// store.insert("a", "1")?;
    /// let change = changes.next()?.expect("there is one");
    /// assert_eq!(change.kind, ChangeKind::Insert { key: b"a", value: b"1" });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Options::changes`] does; `Forked`.
    pub fn changes(&self, since: impl Into<Since>) -> Result<Changes> {
        let state = &self.handle().state;
        state.fork_guard.check_inherited()?;
        Changes::open_in(&state.config, &state.shared.dir, since.into(), || Ok(self.snapshot()))
    }
}

impl Follower {
    /// Returns a feed of the changes of the store that it follows.
    ///
    /// The feed reads the log by itself, and does not depend on what the follower shows. With
    /// [`Since::State`] it refreshes the follower first, and reads its state.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Follower, Since, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let mut changes = Follower::open(&path)?.changes(Since::Now)?;
    /// store.insert("a", "1")?;
    /// assert!(changes.next()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Options::changes`] and [`Follower::refresh`] do; `Forked`.
    pub fn changes(&self, since: impl Into<Since>) -> Result<Changes> {
        let state = &self.handle().state;
        state.fork_guard.check_inherited()?;
        Changes::open_in(&state.config, &state.shared.dir, since.into(), || {
            self.refresh()?;
            Ok(self.snapshot())
        })
    }
}

impl Options {
    /// Opens the feed of the store in a directory, which another process may be writing to.
    ///
    /// Of the options, [`sigbus_guard`](Options::sigbus_guard) has a meaning for a feed. With
    /// [`Since::State`] those of a [`Follower`] have one, too: the state is read through a follower,
    /// which needs the memory for an index until the state is complete.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let path = directory.path().join("data");
    /// use mapcask::{Error, Options, Since, Store};
    ///
    /// assert!(matches!(Options::new().changes(&path, Since::Now), Err(Error::NotFound { .. })));
    /// Store::open(&path)?;
    /// assert_eq!(Options::new().changes(&path, Since::Oldest)?.next()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - `NotFound`, `Foreign`, `ForeignFile`, `TooNew`, `Destroying` or `UnsupportedFileSystem` if
    ///   the directory holds no store that can be read here.
    /// - `Replaced` if the position is one of another store.
    /// - `Corrupt` or `MissingSegment` if the log is damaged.
    /// - `Io` or `Exhausted` if the operating system refuses.
    pub fn changes(self, path: impl AsRef<Path>, since: impl Into<Since>) -> Result<Changes> {
        let path = path.as_ref();
        let dir = RealDir::new(path).map_err(|error| Error::io("find", path, error))?;
        self.changes_in(Arc::new(dir), since.into())
    }

    /// Opens the feed of the store on a simulated disk.
    ///
    /// # Errors
    ///
    /// Fails as [`Options::changes`] does.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub fn changes_on(self, disk: &crate::fs::sim::SimDisk, since: impl Into<Since>) -> Result<Changes> {
        self.changes_in(disk.dir(), since.into())
    }

    fn changes_in(self, dir: Arc<dyn Dir>, since: Since) -> Result<Changes> {
        let config = self.config.clone();
        let follower = Arc::clone(&dir);
        Changes::open_in(&config, &dir, since, || Ok(Follower::open_in(self.config, follower)?.snapshot()))
    }
}
