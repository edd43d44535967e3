//! A cache that is never stale: a reader keeps decoded rows of another process's store, and drops exactly
//! those that the change feed names.
//!
//! Reading from the store is cheap, and decoding is not: the cache is for the decoded rows. Before it
//! serves, the reader reads the feed to its end. So what it serves is at least as new as every write
//! that had returned then. If compaction has removed changes that the reader has not seen, the reader
//! cannot know which rows are stale, and drops all.
//!
//! The writer is a child process. Each change of a row raises its version, and at the end some rows are
//! removed, so that the reader can prove for each row served that it was not stale.
//!
//! `cargo run --example cache_invalidation`

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mapcask::{ChangeKind, Changes, Follower, Options, Reader, Since};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The number of rows.
const ROWS: u64 = 1000;
/// The number of changes before the reader sleeps, and the number after it.
const CHANGES: u64 = 20_000;
/// The number of changes while the reader sleeps.
const MISSED: u64 = 10_000;
/// The number of rows that the reader asks for at a time.
const ASKED: u64 = 50;
/// The time after which a writer that stands still has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two groups of changes.
const SPACING: Duration = Duration::from_millis(2);
/// The key under which the writer says how far it is.
const PHASE: &str = "phase";

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

/// Changes rows, compacts the store while the reader sleeps, goes on, and removes some rows.
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
    for n in 0..CHANGES {
        change(pick(n))?;
        if n % 500 == 0 {
            thread::sleep(SPACING);
        }
    }
    store.insert(PHASE, "1")?;
    // The reader says when it sleeps.
    std::io::stdin().read_line(&mut String::new())?;
    for n in 0..MISSED {
        change(n % ROWS)?;
    }
    store.compact()?;
    store.insert(PHASE, "2")?;
    for n in 0..CHANGES {
        change(pick(n + 7))?;
        if n % 500 == 0 {
            thread::sleep(SPACING);
        }
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

    /// Returns true if the writer has come to a phase.
    fn has_come_to(&self, phase: &str) -> Result<bool> {
        Ok(self.follower.get(PHASE)?.as_deref() == Some(phase.as_bytes()))
    }
}

/// Serves rows from a cache while the writer changes them.
fn read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    fill(&path)?;
    let mut cache = Cache::open(&path)?;
    let mut writer = Command::new(std::env::current_exe()?).arg(&path).stdin(Stdio::piped()).spawn()?;
    let (mut asked, mut slept) = (0, false);
    loop {
        // Before the last look, so that the last one sees everything.
        let is_over = writer.try_wait()?;
        if is_over.is_some_and(|status| !status.success()) {
            return Err("the writer failed".into());
        }
        if !slept && cache.has_come_to("1")? {
            // Now the reader sleeps, as a suspended machine does, and compaction goes on.
            writeln!(writer.stdin.take().ok_or("it has a pipe")?, "go on")?;
            while !cache.has_come_to("2")? {
                let seen = cache.follower.last_seq();
                cache.follower.wait(seen, PATIENCE)?;
            }
            slept = true;
        }
        let ids: Vec<u64> = (asked..asked + ASKED).map(pick).collect();
        asked += ASKED;
        cache.serve(&ids)?;
        if is_over.is_some() {
            break;
        }
    }
    cache.serve(&(0..ROWS).collect::<Vec<_>>())?;
    report(&cache)
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
