//! Followers that are stopped while the writer goes on.

use crate::child::Child;
use crate::contents::held;
use crate::{digest, options, scratch};

#[test]
fn a_stopped_follower_is_exact_after_one_refresh() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = options().open(&path).unwrap();
    let users = store.keyspace("users").unwrap();
    let mut follower = Child::start("follow", &path);
    let mut rng = fastrand::Rng::new();
    let (mut followed, mut jumped) = (0, 0);
    for round in 0..40_u64 {
        let is_many = round % 2 == 0;
        if round == 20 {
            // From here on the signal meets the follower within a refresh.
            follower.ask("spin");
        }
        follower.stop();
        for n in 0..if is_many { 300 } else { 20 } {
            store.insert(format!("{}", rng.u32(0..50)), vec![7; rng.usize(0..1000)]).unwrap();
            users.insert(format!("{n}"), round.to_le_bytes()).unwrap();
        }
        store.remove(format!("{}", rng.u32(0..50))).unwrap();
        if round % 8 == 3 {
            users.clear().unwrap();
        }
        if is_many {
            store.compact().unwrap();
        }
        follower.go_on();
        let look = follower.look();
        assert_eq!(look.digest, digest(&held(&store)), "round {round}: {look:?}");
        assert!(look.seq >= store.last_seq().0, "round {round}: {look:?}");
        if look.jumped { jumped += 1 } else { followed += 1 }
    }
    println!("{followed} refreshes followed, {jumped} jumped");
    assert!(store.stats().compaction.segments_removed > 0);
    assert!(followed > 0 && jumped > 0, "{followed} refreshes followed, {jumped} jumped");
    assert_eq!(follower.ask("verify"), store.verify().unwrap().keys.to_string());
}
