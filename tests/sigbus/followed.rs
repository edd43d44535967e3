//! Tests of followers whose files another program truncates.

use mapcask::{Error, Follower};

use super::{directory, fill, options, segments};

#[test]
fn a_cut_segment_is_no_end_of_a_followed_log() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    fill(&store, 0..50, 1000);
    let follower = Follower::open(&path).unwrap();
    assert_eq!(follower.len(), 50);
    // The place of the follower is behind the cut, and the next first word reads as zero.
    let segments = segments(&path);
    for segment in &segments {
        std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(8192).unwrap();
    }
    for _ in 0..2 {
        assert!(matches!(follower.refresh(), Err(Error::Io { .. })), "{:?}", follower.refresh());
    }
    assert!(Follower::open(&path).is_err());
}

#[test]
fn a_cut_control_page_does_not_stop_a_follower() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = options().background(false).open(&path).unwrap();
    fill(&store, 0..50, 1000);
    let follower = Follower::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(path.join("CONTROL")).unwrap().set_len(0).unwrap();
    fill(&store, 50..3000, 1000);
    follower.refresh().unwrap();
    assert_eq!(follower.len(), 3000);
    assert_eq!(Follower::open(&path).unwrap().len(), 3000);
}
