//! The whole of a store's everyday life: open, write, read, a batch, iteration, a flush, and opening it again.
//!
//! `cargo run --example quickstart [DIR]`

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use mapcask::{Store, WriteBatch};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/quickstart"), PathBuf::from);

    // Created where there is none. Cloning the handle is cheap, and any thread may use it.
    let store = Store::open(&path)?;
    store.insert("greeting", "hello")?;
    // From here on the value survives `kill -9`. It is read without a copy, straight from the mapped file.
    let greeting = store.get("greeting")?.ok_or("what was inserted is there")?;
    writeln!(out, "{}", greeting.escape_ascii())?;

    // All of a batch is there after a crash, or nothing.
    let mut batch = WriteBatch::new();
    batch.insert("account/alice", "90");
    batch.insert("account/bob", "110");
    batch.remove("greeting");
    store.write(batch)?;
    // A value that was read stays valid after its key is gone.
    assert_eq!(greeting, b"hello");

    for item in store.iter() {
        let (key, value) = item?;
        writeln!(out, "{} = {}", key.escape_ascii(), value.escape_ascii())?;
    }

    // From here on everything survives a power cut too.
    store.flush()?;
    store.close()?;

    let store = Store::open(&path)?;
    assert!(store.contains_key("account/alice")?);
    writeln!(out, "{} keys after opening again: {:?}", store.len(), store.recovery_report())?;
    store.close()?;
    Ok(())
}
