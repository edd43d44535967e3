//! Followers of stores that another process creates and destroys meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use mapcask::{Error, Follower, WriteBatch, destroy};

use crate::child::{Child, tell};
use crate::{options, scratch};

/// The number of stores that are created.
const STORES: u64 = 60;

/// Creates and destroys a store by orders. A part of a child.
pub(crate) fn create(path: &Path) {
    let mut store = None;
    for order in std::io::stdin().lines().map(Result::unwrap) {
        if order == "create" {
            let made = store.insert(options().open(path).unwrap());
            let mut batch = WriteBatch::new();
            batch.insert("a", "1");
            batch.insert("b", "2");
            made.write(&batch).unwrap();
        } else {
            drop(store.take());
            destroy(path).unwrap();
        }
        tell("done");
    }
}

/// The results of opens and refreshes.
#[derive(Debug, Default)]
struct Counts {
    opened: u64,
    missing: u64,
    /// The errors of a store that is being destroyed.
    gone: u64,
}

/// Opens followers again and again until a process has carried out an order.
fn open_until(is_done: &AtomicBool, path: &Path, order: &str, counts: &mut Counts) {
    while !is_done.load(Relaxed) {
        let refreshed = Follower::open(path).and_then(|follower| {
            counts.opened += 1;
            // A follower shows nothing, or the whole batch.
            let keys = [follower.len(), follower.refresh().map(|_| follower.len())?];
            assert!(keys.iter().all(|keys| [0, 2].contains(keys)), "{keys:?} keys");
            Ok(())
        });
        match refreshed {
            Ok(()) => {}
            Err(Error::NotFound { .. }) => counts.missing += 1,
            Err(Error::Destroying { .. } | Error::Replaced { .. }) if order == "destroy" => counts.gone += 1,
            Err(error) => panic!("{order}: {error:?}"),
        }
    }
}

#[test]
fn follower_opens_at_each_moment_of_a_stores_life() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let mut writer = Child::start("create", &path);
    let mut counts = Counts::default();
    for round in 0..STORES {
        for order in ["create", "destroy"] {
            let is_done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| open_until(&is_done, &path, order, &mut counts));
                assert_eq!(writer.ask(order), "done");
                is_done.store(true, Relaxed);
            });
            match (order, Follower::open(&path)) {
                ("create", Ok(follower)) => assert_eq!(follower.len(), 2),
                ("destroy", Err(Error::NotFound { .. })) => {}
                (_, other) => panic!("round {round}, after {order}: {other:?}"),
            }
        }
    }
    println!("{counts:?}");
    assert!(writer.end().success());
}
