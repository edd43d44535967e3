//! A cache that is never stale: a reader keeps decoded rows of another process's store, and drops exactly
//! those that the change feed names.
//!
//! Reading from the store is cheap, and decoding is not: the cache is for the decoded rows. Before it
//! serves, the reader reads the feed to its end. So what it serves is at least as new as every write
//! that had returned then. If compaction has removed changes that the reader has not seen, the reader
//! cannot know which rows are stale, and drops all.
//!
//! The writer is a child process. It changes a group of rows for each order that it gets through a pipe,
//! while the reader serves. Each change of a row raises its version, and at the end some rows are removed,
//! so that the reader can prove for each row served that it was not stale.
//!
//! `cargo run --example cache_invalidation`

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use mapcask::{ChangeKind, Changes, Follower, Options, Reader, Since};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The number of rows.
const ROWS: u64 = 1000;
/// The groups of changes. The reader sleeps during the one in the middle.
const GROUPS: u64 = 40;
/// The number of changes in a group, and in the one during which the reader sleeps.
const CHANGES: u64 = 1000;
const MISSED: u64 = 10_000;
/// The number of times that the reader serves during a group, and of the rows each time.
const SERVED: u64 = 20;
const ASKED: u64 = 50;
/// The time after which a writer that stands still has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key under which the writer keeps the number of groups that it has finished.
const FINISHED: &str = "finished";

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [path] => write(Path::new(path)),
        _ => read(),
    }
}

// ---- The writer ---------------------------------------------------------------------------------

/// Returns the `n`-th number of a row. Low numbers are frequent, as in a real table.
fn pick(n: u64) -> u64 {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) % ROWS;
    mixed * mixed / ROWS
}

/// Changes rows as it is told to, until the pipe of the orders is closed.
fn write(path: &Path) -> Result<()> {
    let store = options().open(path)?;
    let rows = store.keyspace("rows")?;
    let mut versions = vec![0_u64; usize::try_from(ROWS)?];
    let mut change = |id: u64| -> Result<()> {
        let version = &mut versions[usize::try_from(id)?];
        *version += 1;
        rows.insert(id.to_le_bytes(), encoded(*version))?;
        Ok(())
    };
    for (order, group) in std::io::stdin().lines().zip(0..) {
        match order?.as_str() {
            "change" => (0..CHANGES).try_for_each(|n| change(pick(group * CHANGES + n)))?,
            "change and compact" => {
                (0..MISSED).try_for_each(|n| change(n % ROWS))?;
                store.compact()?;
            }
            order => return Err(format!("{order} is no order").into()),
        }
        store.insert(FINISHED, (group + 1).to_le_bytes())?;
    }
    for id in (0..ROWS).step_by(10) {
        rows.remove(id.to_le_bytes())?;
    }
    store.close()?;
    Ok(())
}

fn options() -> Options {
    Options::new().segment_bytes(256 << 10)
}

fn encoded(version: u64) -> String {
    format!("{version},{}", "x".repeat(100))
}

/// Makes the store with every row in its first version.
fn fill(path: &Path) -> Result<()> {
    let store = options().open(path)?;
    let rows = store.keyspace("rows")?;
    for id in 0..ROWS {
        rows.insert(id.to_le_bytes(), encoded(0))?;
    }
    store.close()?;
    Ok(())
}

// ---- The reader ---------------------------------------------------------------------------------

/// A decoded row.
struct Row {
    version: u64,
}

impl Row {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)?;
        let (version, _) = text.split_once(',').ok_or("a row has fields")?;
        Ok(Self { version: version.parse()? })
    }
}

/// Returns a number that rises with each change of a row. A removal is the last change.
fn age(row: Option<&Row>) -> u64 {
    row.map_or(u64::MAX, |row| row.version)
}

#[derive(Debug, Default)]
struct Counts {
    hits: u64,
    misses: u64,
    invalidations: u64,
    clears: u64,
}

/// Decoded rows of a store that another process writes to.
struct Cache {
    follower: Follower,
    rows: Reader,
    changes: Changes,
    /// The rows by key. `None` if there is no such row.
    decoded: HashMap<Vec<u8>, Option<Row>>,
    counts: Counts,
}

impl Cache {
    fn open(path: &Path) -> Result<Self> {
        let follower = Follower::open(path)?;
        // The feed begins before the first row is read.
        let changes = follower.changes(Since::Now)?.only(["rows"]);
        let rows = follower.keyspace("rows")?;
        Ok(Self { follower, rows, changes, decoded: HashMap::new(), counts: Counts::default() })
    }

    /// Drops every row that has changed.
    fn catch_up(&mut self) -> Result<()> {
        loop {
            match self.changes.next() {
                Ok(Some(change)) => match change.kind {
                    ChangeKind::Insert { key, .. } | ChangeKind::Remove { key } => {
                        self.counts.invalidations += u64::from(self.decoded.remove(key).is_some());
                    }
                    // Of the keyspace as a whole.
                    _ => self.decoded.clear(),
                },
                Ok(None) => break,
                // The changes between are unknown, or some of those that were read never happened.
                Err(mapcask::Error::Lagged { .. } | mapcask::Error::Rewound { .. }) => {
                    self.decoded.clear();
                    self.counts.clears += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // After the feed: a row that is read now is at least as new as the changes that were read.
        self.follower.refresh()?;
        Ok(())
    }

    /// Returns a row as of the last catching up, or newer.
    fn get(&mut self, id: u64) -> Result<Option<&Row>> {
        let key = id.to_le_bytes().to_vec();
        if self.decoded.contains_key(&key) {
            self.counts.hits += 1;
        } else {
            self.counts.misses += 1;
            let row = self.rows.get(&key)?.map(|bytes| Row::decode(&bytes)).transpose()?;
            self.decoded.insert(key.clone(), row);
        }
        Ok(self.decoded[&key].as_ref())
    }

    /// Asks for rows, and checks that none is older than the store was before the feed was read.
    fn serve(&mut self, ids: &[u64]) -> Result<()> {
        self.follower.refresh()?;
        let mut least = Vec::new();
        for id in ids {
            let row = self.rows.get(id.to_le_bytes())?.map(|bytes| Row::decode(&bytes)).transpose()?;
            least.push(age(row.as_ref()));
        }
        self.catch_up()?;
        for (id, least) in ids.iter().zip(least) {
            let served = age(self.get(*id)?);
            if served < least {
                return Err(format!("row {id} was served in version {served}, not {least}").into());
            }
        }
        Ok(())
    }

    /// Waits until the writer has finished so many groups.
    fn await_groups(&self, groups: u64) -> Result<()> {
        loop {
            let seen = self.follower.last_seq();
            let finished = self.follower.get(FINISHED)?.map_or(Ok(0), |bytes| number(&bytes))?;
            if finished >= groups {
                return Ok(());
            }
            if !self.follower.wait(seen, PATIENCE)? {
                return Err(format!("the writer stands still after {finished} groups").into());
            }
        }
    }
}

fn number(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

/// Serves rows from a cache while the writer changes them.
fn read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    fill(&path)?;
    let mut cache = Cache::open(&path)?;
    let mut writer = Command::new(std::env::current_exe()?).arg(&path).stdin(Stdio::piped()).spawn()?;
    let orders = writer.stdin.take().ok_or("it has a pipe")?;
    let served = serve_groups(&mut cache, orders);
    if served.is_err() {
        writer.kill()?;
    }
    let status = writer.wait()?;
    served?;
    if !status.success() {
        return Err("the writer failed".into());
    }
    cache.serve(&(0..ROWS).collect::<Vec<_>>())?;
    report(&cache)
}

/// Orders one group of changes after the other, and serves rows during each.
fn serve_groups(cache: &mut Cache, mut orders: ChildStdin) -> Result<()> {
    let mut asked = 0;
    for group in 0..GROUPS {
        cache.await_groups(group)?;
        if group == GROUPS / 2 {
            // The reader sleeps, as a suspended machine does, and compaction goes on.
            writeln!(orders, "change and compact")?;
            cache.await_groups(group + 1)?;
        } else {
            writeln!(orders, "change")?;
        }
        for _ in 0..SERVED {
            let ids: Vec<u64> = (asked..asked + ASKED).map(pick).collect();
            asked += ASKED;
            cache.serve(&ids)?;
        }
    }
    cache.await_groups(GROUPS)
}

/// Compares the whole cache with the store, and prints the counts.
fn report(cache: &Cache) -> Result<()> {
    for (key, row) in &cache.decoded {
        let stored = cache.rows.get(key)?.map(|bytes| Row::decode(&bytes)).transpose()?;
        if age(stored.as_ref()) != age(row.as_ref()) {
            return Err(format!("row {key:?} is stale in the end").into());
        }
    }
    let Counts { hits, misses, invalidations, clears } = cache.counts;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{hits} hits, {misses} misses, {invalidations} rows dropped, {clears} times all of them")?;
    if [hits, misses, invalidations, clears].contains(&0) {
        return Err("a part of the cache was not used".into());
    }
    writeln!(out, "no row was stale, and the cache is equal to the store")?;
    Ok(())
}
