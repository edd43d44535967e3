//! The numbers of a view: what a follower has applied, and the state that it shows.

use std::time::{Duration, Instant};

use anyhow::Result;
use mapcask::{Error, Follower, KeyspaceStats, Seq, Since, Stats};

use super::super::look::word_of;

/// Watches a store through a follower.
#[derive(Debug)]
pub(super) struct Watch {
    follower: Follower,
    /// The bytes of the log as of the last refresh.
    log_bytes: u64,
    /// The number of the last write. Above it are the log's own records.
    last_write: Seq,
    durable: Seq,
    /// The time since which the durable point has stood where it is, before the last write. `None` if
    /// all writes are durable.
    behind: Option<Instant>,
    /// The bytes that compaction has freed since the begin.
    freed: u64,
    interval: Interval,
}

/// The work that was seen since the last sample.
#[derive(Debug)]
struct Interval {
    begun: Instant,
    writes: u64,
    bytes: u64,
    freed: u64,
    /// True if a part of the log was gone, so that not all writes were seen.
    jumped: bool,
}

impl Interval {
    fn begin() -> Self {
        Self { begun: Instant::now(), writes: 0, bytes: 0, freed: 0, jumped: false }
    }
}

/// One view of a store.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) writer: &'static str,
    /// The time for which the next four count.
    pub(super) time: Duration,
    pub(super) writes: u64,
    pub(super) log_bytes: u64,
    pub(super) freed: u64,
    pub(super) jumped: bool,
    /// The bytes that compaction has freed since the begin.
    pub(super) freed_in_all: u64,
    pub(super) stats: Stats,
    pub(super) size_on_disk: u64,
    pub(super) durable_seq: Seq,
    /// The number of sequence numbers between the durable point and the last write.
    pub(super) not_durable: u64,
    /// The time for which the first of them is known to wait. `None` if all are durable.
    pub(super) waits: Option<Duration>,
    /// Each keyspace, the one with the most live bytes first.
    pub(super) keyspaces: Vec<(String, KeyspaceStats)>,
}

fn log_bytes(stats: &Stats) -> u64 {
    stats.live_bytes + stats.dead_bytes
}

/// Returns the number of the last write. The follower knows only that of the last record, which may be
/// one that the log wrote for itself, and that nothing makes durable.
fn last_write_of(follower: &Follower) -> Result<Seq> {
    let (mut last, end) = (follower.durable_seq()?, follower.last_seq());
    let mut changes = follower.changes(Since::Seq(last))?;
    loop {
        match changes.next() {
            Ok(Some(change)) if change.seq <= end => last = change.seq,
            Ok(_) => return Ok(last),
            // The writer was faster. The feed goes on behind the part that is gone.
            Err(Error::Lagged { .. } | Error::Rewound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Watch {
    pub(super) fn begin(follower: Follower) -> Result<Self> {
        let last_write = last_write_of(&follower)?;
        let log_bytes = log_bytes(&follower.stats());
        let (durable, interval) = (follower.durable_seq()?, Interval::begin());
        Ok(Self { follower, log_bytes, last_write, durable, behind: None, freed: 0, interval })
    }

    /// Applies what is new in the log, and counts it.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let refreshed = self.follower.refresh()?;
        let after = log_bytes(&self.follower.stats());
        if refreshed.jumped {
            self.interval.jumped = true;
            self.last_write = last_write_of(&self.follower)?;
        } else {
            // A pass replaces segments by copies, and everything else only adds to the log.
            let freed = (self.log_bytes + refreshed.bytes).saturating_sub(after);
            self.freed += freed;
            self.interval.freed += freed;
            self.last_write = refreshed.last_write.unwrap_or(self.last_write);
        }
        self.interval.writes += refreshed.writes;
        self.interval.bytes += refreshed.bytes;
        self.log_bytes = after;
        let durable = self.follower.durable_seq()?;
        let stood = self.behind.filter(|_| durable == self.durable);
        self.behind = (durable < self.last_write).then(|| stood.unwrap_or_else(Instant::now));
        self.durable = durable;
        Ok(())
    }

    /// Refreshes, and returns a view of the time since the last sample.
    pub(super) fn sample(&mut self) -> Result<Sample> {
        self.refresh()?;
        let Interval { begun, writes, bytes, freed, jumped } =
            std::mem::replace(&mut self.interval, Interval::begin());
        let names = std::iter::once(String::new()).chain(self.follower.keyspace_names());
        let with_stats = |name: String| {
            let stats = self.follower.keyspace(&name).and_then(|keyspace| keyspace.keyspace_stats());
            stats.map(|stats| (name, stats))
        };
        let mut keyspaces = names.map(with_stats).collect::<mapcask::Result<Vec<_>>>()?;
        keyspaces.sort_by_key(|(_, stats)| std::cmp::Reverse(stats.live_bytes));
        Ok(Sample {
            writer: word_of(self.follower.writer_status()?),
            time: begun.elapsed(),
            writes,
            log_bytes: bytes,
            freed,
            jumped,
            freed_in_all: self.freed,
            stats: self.follower.stats(),
            size_on_disk: self.follower.size_on_disk()?,
            durable_seq: self.durable,
            not_durable: self.last_write.0.saturating_sub(self.durable.0),
            waits: self.behind.map(|since| since.elapsed()),
            keyspaces,
        })
    }
}
