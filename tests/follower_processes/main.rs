//! Tests of followers in real processes: beside writers that are killed, stopped and continued, as
//! another user, through other mounts, and by the system calls that they make.
//!
//! A child is this test binary, started again for one test ([`child`]). It reports through a pipe
//! and takes orders through another one, so no result depends on time.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod backups;
mod births;
mod calls;
mod child;
#[path = "../support/contents.rs"]
mod contents;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the filter and its listener are system calls that only libc has")]
mod counted;
mod failover;
mod history;
mod kills;
mod linear;
#[allow(dead_code, reason = "each test file uses its part of what they share")]
#[path = "../support/linearize.rs"]
mod linearize;
mod places;
mod stops;
mod waits;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use mapcask::Options;

use self::contents::Contents;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns the options of a writer whose steps depend on its writes alone.
fn options() -> Options {
    Options::new().segment_bytes(64 << 10).background(false)
}

/// Returns a number that stands for contents in the report of a child.
fn digest(contents: &Contents) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

/// Lists the places at which two contents differ, for messages.
fn differences(found: &Contents, expected: &Contents) -> Vec<String> {
    let brief = |value: Option<&Vec<u8>>| {
        value
            .map(|value| (history::number_in(value), value.len()))
            .map_or("none".into(), |v| format!("{v:?}"))
    };
    let mut all = Vec::new();
    for name in found.keys().chain(expected.keys().filter(|name| !found.contains_key(*name))) {
        let empty = BTreeMap::new();
        let (has, wants) = (found.get(name).unwrap_or(&empty), expected.get(name).unwrap_or(&empty));
        if found.contains_key(name) != expected.contains_key(name) {
            all.push(format!("keyspace {name:?} is in one of them only"));
        }
        for key in has.keys().chain(wants.keys().filter(|key| !has.contains_key(*key))) {
            let (has, wants) = (has.get(key), wants.get(key));
            if has != wants {
                let key = String::from_utf8_lossy(key);
                all.push(format!("{name:?} {key:?}: {} instead of {}", brief(has), brief(wants)));
            }
        }
    }
    all
}

/// Prints that a test was skipped, past the capture of its output.
fn skip(test: &str, reason: &str) {
    let text = format!("\n## {test} SKIPPED: {reason}; nothing was shown\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(test, "not root");
    }
    is_root
}
