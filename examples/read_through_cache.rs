//! A cache in front of something slow, on a bounded piece of the disk, that outlives its process.
//!
//! A hit is a read of the store; a miss asks the origin and keeps the answer unless another thread has kept one. When the
//! limit of the disk is reached, a part of what is kept is removed; the store's compaction gives its room to what is read now.
//!
//! `cargo run --example read_through_cache`

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mapcask::{Options, Store};

/// The most that the store's segment files may take together.
const LIMIT: u64 = 1 << 20;
/// What the lock, the manifest and the control page may take beside them.
const BESIDE: u64 = 64 << 10;
const PAGE_LEN: usize = 4000;
/// How many pages go at once: room comes back where an eighth of a segment is dead.
const EVICTED: usize = 32;
const THREADS: u64 = 4;

/// What is slow; it counts how often it is asked.
#[derive(Default)]
struct Origin {
    asked: AtomicU64,
}

impl Origin {
    fn fetch(&self, page: u64) -> Vec<u8> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        content(page)
    }
}

/// What a page holds.
fn content(page: u64) -> Vec<u8> {
    page.to_le_bytes().repeat(PAGE_LEN / 8)
}

struct Cache {
    path: PathBuf,
    store: Store,
    origin: Origin,
    /// Answers that went to make room.
    evicted: AtomicU64,
}

impl Cache {
    fn open(path: &Path) -> mapcask::Result<Store> {
        Options::new().max_disk_bytes(LIMIT).open(path)
    }

    fn new(path: PathBuf) -> mapcask::Result<Self> {
        let store = Self::open(&path)?;
        Ok(Self { path, store, origin: Origin::default(), evicted: AtomicU64::new(0) })
    }

    fn get(&self, page: u64) -> mapcask::Result<Vec<u8>> {
        let key = page.to_le_bytes();
        if let Some(value) = self.store.get(key)? {
            return Ok(value.to_vec());
        }
        let value = self.origin.fetch(page);
        loop {
            match self.store.insert_if_absent(key, &value) {
                Ok(_) => return Ok(value),
                // Nothing was written.
                Err(mapcask::Error::DiskLimit { .. }) => self.evict()?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes some of what is kept: any, because iteration is in no order.
    fn evict(&self) -> mapcask::Result<()> {
        for key in self.store.keys().take(EVICTED) {
            if self.store.remove(key?)? {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn asked(&self) -> u64 {
        self.origin.asked.load(Ordering::Relaxed)
    }
}

/// All threads read these pages, each in another order, and check them.
fn read(cache: &Cache, pages: u64) -> mapcask::Result<()> {
    let reader = |first: u64| -> mapcask::Result<()> {
        for page in (first..pages).chain(0..first) {
            assert_eq!(cache.get(page)?, content(page), "page {page}");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let readers = (0..THREADS).map(|thread| scope.spawn(move || reader(thread * pages / THREADS)));
        let readers: Vec<_> = readers.collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let directory = tempfile::tempdir()?;
    let cache = Cache::new(directory.path().join("cache"))?;

    // What fits is asked for once, except where threads met, and then never again.
    read(&cache, 50)?;
    let asked = cache.asked();
    assert!((50..=50 * THREADS).contains(&asked), "{asked}");
    read(&cache, 50)?;
    assert_eq!(cache.asked(), asked);

    // More than fits: every answer is right, and the disk does not grow beyond the limit.
    read(&cache, 500)?;
    let (kept, evicted) = (cache.store.len(), cache.evicted.load(Ordering::Relaxed));
    let freed = cache.store.stats().compaction.bytes_freed;
    writeln!(out, "{kept} pages kept, {evicted} removed, {freed} bytes given back")?;
    assert!(evicted > 0 && freed > 0 && (1..500).contains(&kept), "{kept} kept, {evicted} removed");
    // Removals may go beyond the limit by a small segment each, until the next pass.
    assert!(cache.store.size_on_disk()? <= 2 * LIMIT + BESIDE);

    // The origin has changed: everything goes at once, and its room comes back.
    cache.store.clear()?;
    let asked = cache.asked();
    read(&cache, 50)?;
    assert!(cache.asked() >= asked + 50 && cache.store.len() == 50);

    // The next process finds it warm.
    cache.store.close()?;
    let cache = Cache::new(cache.path)?;
    read(&cache, 50)?;
    assert_eq!(cache.asked(), 0);
    cache.store.close()?;
    Ok(())
}
