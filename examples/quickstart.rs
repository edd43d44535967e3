//! Shows the everyday use of a store: open, write, read, a batch, iteration, a flush, and opening
//! it again.
//!
//! `cargo run --example quickstart [DIR]`; without a directory it uses one that it removes.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use mapcask::{Store, WriteBatch};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(path) => run(path.as_ref()),
        None => run(tempfile::tempdir()?.path()),
    }
}

fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();

    // A missing store is created. Cloning the handle is cheap, and any thread may use it.
    let store = Store::open(path)?;
    store.insert("greeting", "hello")?;
    // From here on the value survives `kill -9`. A read copies nothing: it borrows the mapped file.
    let greeting = store.get("greeting")?.ok_or("what was inserted is there")?;
    writeln!(out, "{}", greeting.escape_ascii())?;

    // Keyspaces are separate maps in one store; the store itself is the one without a name.
    let (accounts, transfers) = (store.keyspace("accounts")?, store.keyspace("transfers")?);
    accounts.clear()?;
    accounts.insert("alice", "100")?;
    accounts.insert("bob", "100")?;

    // A batch is atomic, also across a crash, and is carried out only if its conditions hold.
    let mut batch = WriteBatch::new();
    batch.on(&accounts).require("alice", "100").insert("alice", "90").insert("bob", "110");
    batch.on(&transfers).insert("1", "alice to bob: 10");
    batch.remove("greeting");
    store.write(&batch)?;
    assert!(matches!(store.write(&batch), Err(mapcask::Error::ConditionFailed { .. })));
    // A value that was read stays valid after its key is removed.
    assert_eq!(greeting, b"hello");
    assert!(!store.contains_key("greeting")?);

    for item in &accounts {
        let (name, balance) = item?;
        writeln!(out, "{} has {}", name.escape_ascii(), balance.escape_ascii())?;
    }

    // From here on everything survives a power cut too.
    store.flush()?;
    store.close()?;

    let store = Store::open(path)?;
    let values = store.keyspace("accounts")?.multi_get(&["alice", "bob", "carol"])?;
    assert_eq!(values.iter().flatten().collect::<Vec<_>>(), [b"90".as_slice(), b"110"]);
    let report = store.recovery_report();
    writeln!(out, "opened again: {} keys, closed before: {}", report.keys, report.clean)?;
    store.close()?;
    Ok(())
}
