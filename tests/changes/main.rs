//! Tests of the change feed: it returns the history of the log, in order and whole, or says which part
//! is missing.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod borders;
mod consumer;
#[path = "../support/contents.rs"]
mod contents;
mod cuts;
mod exactly_once;
mod misplaced;
mod oracle;
mod processes;
mod ranges;
#[path = "../support/steps.rs"]
mod steps;
mod waiting;
mod watch;

use mapcask::sim::SimDisk;
use mapcask::{Changes, Error, Options, Since, Store};

use self::oracle::Event;

/// The options of a writer. The segments of the log stay, unless a test compacts.
fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).unwrap()
}

fn feed(disk: &SimDisk, since: impl Into<Since>) -> Changes {
    Options::new().changes_on(disk, since).unwrap()
}

/// Returns all changes up to the end of the log, without the numbers of keyspaces.
fn read(changes: &mut Changes) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    while let Some(change) = changes.next()? {
        events.push(Event::of(&change).unnumbered());
    }
    Ok(events)
}

/// Ends a process without a close.
fn kill(disk: &SimDisk, store: Store) {
    std::mem::forget(store);
    disk.free_locks();
}

/// Returns the size of a suite.
fn cases(default: u64) -> u64 {
    let read = std::env::var("MAPCASK_FEEDS").ok();
    read.map_or(default, |cases| cases.parse().expect("MAPCASK_FEEDS is a number"))
}
