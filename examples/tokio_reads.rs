//! Reads from async tasks without waiting for the disk on a thread of the runtime.
//!
//! `try_get` returns a value in memory at once. For any other value it returns `NotResident` and
//! asks the kernel for the pages; the task moves that read to a thread that may block. Writes at
//! `Durability::Os` are stores to memory and stay in the task. A flush waits for the disk, so it
//! moves to such a thread too.
//!
//! `cargo run --example tokio_reads`

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mapcask::{Store, TryGet, Value};

const KEYS: u64 = 10_000;
const TASKS: u64 = 16;

type Failure = Box<dyn Error + Send + Sync>;

/// The reads that were answered at once, and those that were handed over.
#[derive(Default)]
struct Counts {
    at_once: AtomicU64,
    handed_over: AtomicU64,
}

async fn get(store: &Store, key: u64, counts: &Counts) -> Result<Option<Value>, Failure> {
    match store.try_get(key.to_le_bytes())? {
        TryGet::Ready(value) => {
            counts.at_once.fetch_add(1, Ordering::Relaxed);
            Ok(value)
        }
        TryGet::NotResident => {
            counts.handed_over.fetch_add(1, Ordering::Relaxed);
            let store = store.clone();
            Ok(tokio::task::spawn_blocking(move || store.get(key.to_le_bytes())).await??)
        }
    }
}

async fn flush(store: &Store) -> Result<(), Failure> {
    let store = store.clone();
    Ok(tokio::task::spawn_blocking(move || store.flush()).await??)
}

/// Reads every key, starting at `first`, and one absent key.
async fn read_all(store: Store, first: u64, counts: Arc<Counts>) -> Result<u64, Failure> {
    let mut sum = 0;
    for key in (first..KEYS).chain(0..first) {
        let value = get(&store, key, &counts).await?.ok_or("a key is missing")?;
        sum += u64::from_le_bytes(value[..8].try_into()?);
    }
    assert!(get(&store, KEYS, &counts).await?.is_none());
    Ok(sum)
}

async fn run(store: Store) -> Result<(), Failure> {
    for key in 0..KEYS {
        store.insert(key.to_le_bytes(), (key * 3).to_le_bytes().repeat(25))?;
    }
    flush(&store).await?;
    assert!(store.durable_seq() >= store.last_seq());

    let counts = Arc::new(Counts::default());
    let task = |task| tokio::spawn(read_all(store.clone(), task * KEYS / TASKS, Arc::clone(&counts)));
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    for task in tasks {
        assert_eq!(task.await??, 3 * (0..KEYS).sum::<u64>());
    }
    let (at_once, handed_over) =
        (counts.at_once.load(Ordering::Relaxed), counts.handed_over.load(Ordering::Relaxed));
    assert_eq!(at_once + handed_over, TASKS * (KEYS + 1));
    writeln!(
        std::io::stdout(),
        "{at_once} reads answered at once, {handed_over} handed to a thread that may wait"
    )?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    // The tasks have their own handles; this one closes the store when they are done.
    runtime.block_on(run(store.clone()))?;
    store.close()?;
    Ok(())
}
