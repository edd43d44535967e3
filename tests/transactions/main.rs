//! Tests transactions: conflicts exactly where a read no longer holds, own writes, histories of many
//! threads, and kills.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(clippy::big_endian_bytes, reason = "such keys ascend with their numbers")]

mod conflicts;
mod ends;
mod exact;
mod faults;
mod histories;
#[cfg(target_os = "linux")]
mod kills;
mod openings;
mod own_writes;

use mapcask::sim::SimDisk;
use mapcask::{Error, Keyspace, Options, Result, Seq, Store, TxValue};

fn options() -> Options {
    Options::new().segment_bytes(16 << 10).background(false)
}

fn open() -> Store {
    options().open_on(&SimDisk::new()).unwrap()
}

/// Returns a store with a keyspace of each kind.
fn open_both() -> (Store, [Keyspace; 2]) {
    let store = open();
    let both = [store.keyspace("plain").unwrap(), store.ordered_keyspace("ordered").unwrap()];
    (store, both)
}

/// Returns the keyspace and the key of a conflict.
fn conflict(result: Result<Seq>) -> (String, Option<Vec<u8>>) {
    match result {
        Err(Error::Conflict { keyspace, key }) => (keyspace, key),
        other => panic!("no conflict: {other:?}"),
    }
}

fn at_key(keyspace: &str, key: &str) -> (String, Option<Vec<u8>>) {
    (keyspace.to_owned(), Some(key.into()))
}

fn owned((key, value): (TxValue, TxValue)) -> (Vec<u8>, Vec<u8>) {
    (key.into(), value.into())
}

fn number(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()))
}
