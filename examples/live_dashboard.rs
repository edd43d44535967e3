//! Watches a store live from another process: a dashboard over a running service.
//!
//! The service is a child process that books orders in batches: each adds to one count per country
//! and to the total. The dashboard follows its store, prints a line now and then, and checks in each
//! snapshot that the counts add up to the total.
//!
//! `cargo run --example live_dashboard`

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use mapcask::{Follower, Snapshot, Store, WriteBatch, WriterStatus};

/// The number of orders that the service books.
const ORDERS: u64 = 100_000;
/// The number of orders between two lines of the dashboard.
const SPACING: u64 = 20_000;
const COUNTRIES: [&str; 4] = ["at", "de", "fr", "it"];
const TOTAL: &str = "total";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [path] => serve(Path::new(path)),
        _ => watch(),
    }
}

/// Books orders, as the service would.
fn serve(path: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(path)?;
    let counts = store.keyspace("orders by country")?;
    for order in 1..=ORDERS {
        let country = COUNTRIES[usize::try_from(order * 7 / 3)? % COUNTRIES.len()];
        let before = counts.get(country)?.map_or(Ok(0), |value| number(&value))?;
        let mut batch = WriteBatch::new();
        batch.on(&counts).insert(country, (before + 1).to_le_bytes());
        batch.insert(TOTAL, order.to_le_bytes());
        store.write(&batch)?;
    }
    store.close()?;
    Ok(())
}

/// Follows the service from another process.
fn watch() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    // A store to follow must exist.
    Store::open(&path)?.close()?;
    let follower = Follower::open(&path)?;
    let mut service = Command::new(std::env::current_exe()?).arg(&path).spawn()?;
    let mut out = std::io::stdout().lock();
    let mut printed = 0;
    loop {
        follower.refresh()?;
        let (total, counts) = orders(&follower.snapshot())?;
        if total >= printed + SPACING {
            printed = total;
            writeln!(out, "{total} orders: {}", counts.join(", "))?;
        }
        let is_running = service.try_wait()?.is_none();
        if !is_running && follower.writer_status()? == WriterStatus::Closed && total == ORDERS {
            break;
        }
        if !is_running && !service.wait()?.success() {
            return Err("the service failed".into());
        }
    }
    writeln!(out, "the service closed its store; the dashboard saw all {ORDERS} orders")?;
    Ok(())
}

/// Returns the total and the counts in a snapshot, which is never in the middle of a batch.
fn orders(snapshot: &Snapshot) -> Result<(u64, Vec<String>), Box<dyn Error>> {
    let total = snapshot.get(TOTAL)?.map_or(Ok(0), |value| number(&value))?;
    let (mut sum, mut counts) = (0, Vec::new());
    if let Ok(keyspace) = snapshot.keyspace("orders by country") {
        for country in COUNTRIES {
            let count = keyspace.get(country)?.map_or(Ok(0), |value| number(&value))?;
            sum += count;
            counts.push(format!("{country} {count}"));
        }
    }
    if sum != total {
        return Err(format!("the counts add up to {sum}, and the total is {total}").into());
    }
    Ok((total, counts))
}

fn number(bytes: &[u8]) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_le_bytes(bytes.try_into()?))
}
