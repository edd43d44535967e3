//! Tests conditional writes, reads of many keys at one sequence number, and reads that do not wait.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use mapcask::{Error, Options, Store, TryGet, WriteBatch};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

#[test]
fn a_compare_and_swap_writes_only_over_what_it_expects() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let swap = |old: Option<&str>, new: Option<&str>| store.compare_and_swap("key", old, new).unwrap();
    let current = |error: mapcask::CompareAndSwapError| error.current.map(|value| value.to_vec());
    assert!(swap(None, Some("1")).is_ok());
    assert_eq!(swap(None, Some("2")).map_err(current), Err(Some(b"1".to_vec())));
    assert_eq!(swap(Some("2"), None).map_err(current), Err(Some(b"1".to_vec())));
    let before = store.last_seq();
    let written = swap(Some("1"), Some("2")).unwrap();
    assert_eq!(written.0, before.0 + 1);
    assert!(swap(Some("2"), None).is_ok());
    assert_eq!(swap(Some("2"), Some("3")).map_err(current), Err(None));
    let before = store.last_seq();
    assert_eq!(swap(None, None), Ok(before), "nothing to remove is nothing to write");
    assert_eq!((store.last_seq(), store.len()), (before, 0));
    // An empty value is a value.
    assert!(swap(None, Some("")).is_ok());
    assert_eq!(swap(None, Some("x")).map_err(current), Err(Some(Vec::new())));
}

#[test]
fn each_conditional_write_returns_what_was_there() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let bytes = |value: Option<mapcask::Value>| value.map(|value| value.to_vec());
    assert!(store.insert_if_absent("key", "1").unwrap());
    assert!(!store.insert_if_absent("key", "2").unwrap());
    assert_eq!(bytes(store.replace("key", "3").unwrap()), Some(b"1".to_vec()));
    assert_eq!(bytes(store.replace("other", "4").unwrap()), None);
    assert_eq!(bytes(store.take("other").unwrap()), Some(b"4".to_vec()));
    assert_eq!(bytes(store.take("other").unwrap()), None);
    let twice = |old: Option<&[u8]>| old.map(|old| [old, old].concat());
    assert_eq!(bytes(store.fetch_and_update("key", twice).unwrap()), Some(b"3".to_vec()));
    assert_eq!(bytes(store.update_and_fetch("key", twice).unwrap()), Some(b"3333".to_vec()));
    let seq = store.last_seq();
    assert_eq!(bytes(store.update_and_fetch("missing", twice).unwrap()), None);
    assert_eq!((store.last_seq(), store.len()), (seq, 1));
    let none = |_: Option<&[u8]>| None::<Vec<u8>>;
    assert_eq!(bytes(store.fetch_and_update("key", none).unwrap()), Some(b"3333".to_vec()));
    assert!(store.is_empty() && store.verify().unwrap().keys == 0);
}

#[test]
fn an_update_may_use_the_store_and_meets_what_came_between() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    store.insert("key", "a").unwrap();
    let mut calls = 0;
    let old = store
        .fetch_and_update("key", |old| {
            calls += 1;
            if calls == 1 {
                // Writing an equal value again is another write all the same.
                store.insert("key", "b").unwrap();
                store.insert("key", "a").unwrap();
            }
            Some([old.unwrap(), b"!"].concat())
        })
        .unwrap();
    assert_eq!((calls, old.as_deref()), (2, Some(b"a".as_slice())));
    assert_eq!(store.get("key").unwrap().as_deref(), Some(b"a!".as_slice()));
}

#[test]
fn a_batch_with_a_condition_that_fails_writes_nothing() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let other = store.keyspace("other").unwrap();
    store.insert("there", "1").unwrap();
    other.insert("there", "2").unwrap();
    let written = |conditions: &dyn Fn(&mut WriteBatch)| {
        let mut batch = WriteBatch::new();
        conditions(&mut batch);
        batch.insert("new", "3");
        batch.on(&other).insert("new", "4").remove("there");
        // A condition is checked before the batch, wherever it stands in it.
        batch.require_absent("new");
        let result = store.write(&batch);
        let is_there = [store.get("new"), other.get("new")].map(|value| value.unwrap().is_some());
        assert_eq!(is_there, [result.is_ok(); 2]);
        assert_eq!(other.contains_key("there").unwrap(), result.is_err());
        result.map(|_| {
            let mut undo = WriteBatch::new();
            undo.remove("new");
            undo.on(&other).remove("new").insert("there", "2");
            store.write(&undo).unwrap();
        })
    };
    let refused = |conditions: &dyn Fn(&mut WriteBatch), name: &[u8]| {
        let before = store.last_seq();
        match written(conditions) {
            Err(Error::ConditionFailed { key, .. }) => assert_eq!(key, name),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.last_seq(), before);
    };
    written(&|_| ()).unwrap();
    written(&|batch| batch.require("there", "1")).unwrap();
    written(&|batch| batch.require_present("there")).unwrap();
    written(&|batch| {
        batch.on(&other).require("there", "2").require_absent("missing").require_present("there");
    })
    .unwrap();
    refused(&|batch| batch.require("there", "2"), b"there");
    refused(&|batch| batch.require("missing", ""), b"missing");
    refused(&|batch| batch.require_present("missing"), b"missing");
    refused(&|batch| batch.require_absent("there"), b"there");
    refused(
        &|batch| {
            batch.on(&other).require("there", "1").require_absent("there");
        },
        b"there",
    );
    // This batch holds only conditions.
    let mut batch = WriteBatch::new();
    batch.require("there", "1");
    assert!(batch.is_empty());
    assert_eq!(store.write(&batch).unwrap(), store.last_seq());
    batch.require_absent("there");
    assert!(matches!(store.write(&batch), Err(Error::ConditionFailed { .. })));
}

#[test]
fn many_gets_at_once_are_in_the_order_of_their_keys() {
    let directory = directory();
    let store = Store::open(directory.path()).unwrap();
    for n in 0..1000_u32 {
        store.insert(n.to_le_bytes(), n.to_string()).unwrap();
    }
    for count in [0, 1, 15, 16, 17, 33, 1500] {
        let keys: Vec<_> = (0..count).map(|n: u32| (n * 7 % 1200).to_le_bytes()).collect();
        let values = store.multi_get(&keys).unwrap();
        let mut again = vec![None];
        store.get_many_into(&keys, &mut again).unwrap();
        let view = store.view();
        let mut borrowed = Vec::new();
        view.get_many_into(&keys, &mut borrowed).unwrap();
        assert_eq!((values.len(), again.len(), borrowed.len()), (keys.len(), keys.len() + 1, keys.len()));
        for (n, key) in keys.iter().enumerate() {
            let number = u32::from_le_bytes(*key);
            let expected = (number < 1000).then(|| number.to_string().into_bytes());
            assert_eq!(values[n].as_deref(), expected.as_deref());
            assert_eq!(again[n + 1].as_deref(), expected.as_deref());
            assert_eq!(borrowed[n], expected.as_deref());
        }
        store.prefetch(&keys);
    }
}

/// Makes the kernel drop the pages of a file that were not touched through a mapping.
#[cfg(target_os = "linux")]
fn evict(path: &std::path::Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn try_get_of_an_evicted_value_requests_its_pages() {
    let directory = directory();
    let store = Options::new().background(false).open(directory.path()).unwrap();
    store.insert("large", vec![7; 1 << 20]).unwrap();
    store.insert("small", "1").unwrap();
    assert_eq!(store.try_get("missing").unwrap(), TryGet::Ready(None));
    let TryGet::Ready(Some(value)) = store.try_get("large").unwrap() else { panic!("just written") };
    assert_eq!(value.len(), 1 << 20);
    drop(value);
    store.close().unwrap();
    // Opening reads the files, not the mappings, so the kernel can drop the pages that it read.
    let store = Options::new().background(false).open(directory.path()).unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            evict(&path);
        }
    }
    assert_eq!(store.try_get("large").unwrap(), TryGet::NotResident);
    // The first call asked the kernel for the pages, so they arrive untouched. Each call returns at
    // once.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.try_get("large").unwrap() == TryGet::NotResident {
        assert!(std::time::Instant::now() < until, "the kernel was asked to read it");
        std::thread::yield_now();
    }
    assert_eq!(store.get("large").unwrap().unwrap().len(), 1 << 20);
}
