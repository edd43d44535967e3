//! Tests of the pages that a get reads from the disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::options::Options;
use super::store::Store;
use crate::mem::PAGE_SIZE;
use crate::mem::mapping::Mapping;

/// Makes all files durable, and asks the kernel to drop their pages.
pub(super) fn forget(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let file = File::open(entry.expect("an entry").path()).expect("a file");
        file.sync_all().expect("it can be synced");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is a file");
    }
}

pub(super) fn scratch() -> tempfile::TempDir {
    let here = std::env::current_exe().expect("the test itself");
    tempfile::tempdir_in(here.parent().expect("it lies in a folder")).expect("it may be made")
}

/// Returns the faults of this thread for which the kernel read from the device.
pub(super) fn major_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has it");
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in brackets");
    fields.split(' ').nth(9).and_then(|count| count.parse().ok()).expect("the tenth field behind it")
}

/// Maps all segments of a store, has the kernel read them as for so much memory, and returns them.
pub(super) fn read_singly_beyond(store: &Store, memory: u64) -> Vec<Arc<Mapping>> {
    let engine = store.engine();
    let mappings: Vec<_> = engine.shared.segments.read().values().map(|it| it.mapping().clone()).collect();
    for mapping in &mappings {
        engine.shared.space.map_now(mapping).expect("the file is there");
    }
    engine.read_singly_beyond(memory);
    mappings
}

/// Cause: the kernel read around each faulted page, as far as the device's read-ahead said.
/// Symptom: with data of four times the memory and a read-ahead of 8 MiB, a get read 7 MiB.
#[test]
fn get_from_a_store_beyond_memory_reads_single_pages() {
    let place = scratch();
    let options = || Options::new().background(false).segment_bytes(16 << 20);
    let store = options().open(place.path()).expect("an empty directory");
    for key in 0..8000_u32 {
        store.insert(key.to_le_bytes(), [7; 1000]).expect("there is room");
    }
    store.insert("large", vec![8; 1 << 20]).expect("there is room");
    store.close().expect("sound");
    for memory in [u64::MAX, 1 << 20] {
        forget(place.path());
        let store = options().open(place.path()).expect("it is whole");
        assert!(store.get(7999_u32.to_le_bytes()).expect("whole").is_some());
        let mappings = read_singly_beyond(&store, memory);
        assert!(mappings.iter().all(|mapping| mapping.reads_singly() == (memory != u64::MAX)));
        forget(place.path());
        let value = store.get(4000_u32.to_le_bytes()).expect("whole").expect("it is there");
        let page = value.as_ptr() as usize / PAGE_SIZE * PAGE_SIZE;
        let is_near = |page: usize| {
            let of = |mapping: &&Arc<Mapping>| {
                (mapping.base() as usize..mapping.base() as usize + mapping.len()).contains(&page)
            };
            let mapping = mappings.iter().find(of).expect("a page of a segment");
            mapping.bring_near(page - mapping.base() as usize, PAGE_SIZE).expect("it is mapped")
        };
        assert!(is_near(page), "it was read");
        assert!(memory == u64::MAX || !is_near(page + 3 * PAGE_SIZE), "and its neighbours were not");
        // A large value is read at once all the same: each page would be a fault.
        let before = major_faults();
        let large = store.get("large").expect("whole").expect("it is there");
        assert!(large.iter().all(|byte| *byte == 8));
        let faults = major_faults() - before;
        assert!(memory == u64::MAX || faults < 64, "{faults} faults for 256 pages");
    }
}
