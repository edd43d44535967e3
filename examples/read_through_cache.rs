//! Caches a slow origin on a bounded part of the disk; the cache outlives its process.
//!
//! A hit is a read of the store. A miss asks the origin, and stores the answer unless another
//! thread has stored one. At the disk limit some pages are removed, and the store's compaction
//! frees their space.
//!
//! `cargo run --example read_through_cache`

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mapcask::{Options, Store};

/// The limit on the total size of the store's segment files.
const LIMIT: u64 = 1 << 20;
/// The limit on the lock, the manifest and the control page.
const BESIDE: u64 = 64 << 10;
const PAGE_LEN: usize = 4000;
/// The pages that are removed at once: a segment is compacted once an eighth of it is dead.
const EVICTED: usize = 32;
const THREADS: u64 = 4;

/// The slow source; it counts its requests.
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

/// Returns the content of a page.
fn content(page: u64) -> Vec<u8> {
    page.to_le_bytes().repeat(PAGE_LEN / 8)
}

struct Cache {
    path: PathBuf,
    store: Store,
    origin: Origin,
    /// The number of pages that were removed to free space.
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

    /// Removes some pages, in no order, because iteration has none.
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

/// Reads these pages on all threads, each in another order, and checks them.
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

    // Pages that fit are requested once, except where threads met, and then never again.
    read(&cache, 50)?;
    let asked = cache.asked();
    assert!((50..=50 * THREADS).contains(&asked), "{asked}");
    read(&cache, 50)?;
    assert_eq!(cache.asked(), asked);

    // With more pages than fit, every answer is right, and the disk does not grow beyond the limit.
    read(&cache, 500)?;
    let (kept, evicted) = (cache.store.len(), cache.evicted.load(Ordering::Relaxed));
    let freed = cache.store.stats().compaction.bytes_freed;
    writeln!(out, "{kept} pages kept, {evicted} removed, {freed} bytes given back")?;
    assert!(evicted > 0 && freed > 0 && (1..500).contains(&kept), "{kept} kept, {evicted} removed");
    // Removals may exceed the limit by a small segment each, until the next pass.
    assert!(cache.store.size_on_disk()? <= 2 * LIMIT + BESIDE);

    // The origin has changed: all pages are removed at once, and their space is freed.
    cache.store.clear()?;
    let asked = cache.asked();
    read(&cache, 50)?;
    assert!(cache.asked() >= asked + 50 && cache.store.len() == 50);

    // The next process finds the pages.
    cache.store.close()?;
    let cache = Cache::new(cache.path)?;
    read(&cache, 50)?;
    assert_eq!(cache.asked(), 0);
    cache.store.close()?;
    Ok(())
}
