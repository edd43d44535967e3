//! Models of the tree under loom: small histories, with every value that a relaxed load may return.
//!
//! A leaf has two entries here and an inner node three children, so that a few keys make several levels. Keys are single
//! bytes.

use loom::thread;

use super::*;

static BYTES: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut at = 0;
    while at < 64 {
        bytes[at as usize] = at;
        at += 1;
    }
    bytes
};

fn key(number: u8) -> &'static [u8] {
    std::slice::from_ref(&BYTES[usize::from(number)])
}

/// Returns the location that stands for key and version: its low byte is the key's number plus one.
fn place(number: u8, version: u64) -> Location {
    Location::from_bits(version << 8 | (u64::from(number) + 1))
}

fn key_of(location: Location, _: bool) -> Option<&'static [u8]> {
    Some(key((location.to_bits() & 0xff) as u8 - 1))
}

fn get(tree: &Tree, number: u8) -> Option<Location> {
    let compare = |other| Ok::<_, BlockError>(key_of(other, true).unwrap().cmp(key(number)));
    tree.find(key(number), compare).unwrap()
}

fn put(writer: &mut TreeWriter, number: u8) {
    writer.reserve(1).unwrap();
    writer.insert(key(number), place(number, 0), key_of);
}

fn remove(writer: &mut TreeWriter, number: u8) {
    assert!(writer.remove(key(number), place(number, 0), key_of));
}

/// Explores a history: the tree has the keys of `before`, and `change` runs beside `read`.
fn explore(
    before: &'static [u8],
    change: impl Fn(&mut TreeWriter) + Sync + Send + 'static,
    read: impl Fn(&Tree) + Sync + Send + Clone + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let (tree, mut writer) = Tree::new(Path::new("store")).unwrap();
        for number in before {
            put(&mut writer, *number);
        }
        let read = read.clone();
        let reader = thread::spawn(move || read(&tree));
        change(&mut writer);
        reader.join().expect("the reader does not panic");
    });
}

#[test]
fn loom_tree_key_that_moves_in_a_reused_leaf_is_found() {
    // The node that the removal replaces is built anew by the insert, with key 20 in another slot.
    explore(
        &[10, 20],
        |writer| {
            remove(writer, 10);
            put(writer, 30);
        },
        |tree| assert_eq!(get(tree, 20), Some(place(20, 0))),
    );
}

#[test]
fn loom_tree_reader_of_an_old_root_takes_no_reused_leaf() {
    // The leaf that was the root is built anew, as one of three.
    explore(
        &[10, 20],
        |writer| {
            put(writer, 15);
            put(writer, 30);
        },
        |tree| assert_eq!(get(tree, 10), Some(place(10, 0))),
    );
}

#[test]
fn loom_tree_reader_in_an_old_parent_takes_no_reused_leaf() {
    // The split of the first leaf replaces the parent. The last insert builds the first leaf's node
    // anew, with other keys.
    explore(
        &[10, 20, 30],
        |writer| {
            put(writer, 15);
            put(writer, 35);
        },
        |tree| assert_eq!(get(tree, 10), Some(place(10, 0))),
    );
}

#[test]
fn loom_tree_split_hides_no_key() {
    for number in [10, 20] {
        explore(
            &[10, 20],
            |writer| put(writer, 15),
            move |tree| {
                assert_eq!(get(tree, number), Some(place(number, 0)));
            },
        );
    }
}

#[test]
fn loom_tree_merge_that_lowers_the_root_hides_no_key() {
    explore(
        &[10, 20, 30],
        |writer| remove(writer, 30),
        |tree| {
            assert_eq!(get(tree, 10), Some(place(10, 0)));
        },
    );
}

#[test]
fn loom_tree_split_of_a_parent_hides_no_key() {
    // Ascending keys leave one key in each leaf but the last: three leaves, and a fourth one.
    for number in [10, 30] {
        explore(
            &[10, 20, 30, 40, 50, 60],
            |writer| put(writer, 15),
            move |tree| {
                assert_eq!(get(tree, number), Some(place(number, 0)));
            },
        );
    }
}

#[test]
fn loom_tree_replace_is_never_seen_new_and_then_old() {
    explore(
        &[10],
        |writer| assert!(writer.replace(key(10), place(10, 0), place(10, 1))),
        |tree| {
            let first = get(tree, 10).expect("it is there");
            let second = get(tree, 10).expect("it is there");
            assert!(second >= first);
        },
    );
}

#[test]
fn loom_tree_key_that_was_seen_is_not_missed() {
    explore(
        &[10],
        |writer| put(writer, 20),
        |tree| {
            if get(tree, 20).is_some() {
                assert_eq!(get(tree, 20), Some(place(20, 0)));
            }
        },
    );
}

#[test]
fn loom_tree_leaf_is_gathered_as_of_one_moment() {
    explore(
        &[10],
        |writer| {
            put(writer, 20);
            remove(writer, 10);
        },
        |tree| {
            let scan = tree.scan_leaves(Aim::At(key(0)), 2);
            assert_eq!(scan.fence(), None);
            let found: Vec<_> = scan.leaf.entries().map(leaf::LeafEntry::location).collect();
            let moments = [vec![10], vec![10, 20], vec![20]];
            let moments =
                moments.map(|keys| keys.into_iter().map(|number| place(number, 0)).collect::<Vec<_>>());
            assert!(moments.contains(&found), "{found:?}");
        },
    );
}

/// Returns the keys that a scan finds, from either end. It reads three leaves at a time.
fn scanned(tree: &Tree, ascends: bool) -> Vec<u8> {
    let is_before =
        |(location, _), other: &[u8]| Ok::<_, BlockError>(key_of(location, true).unwrap() < other);
    let (mut found, mut from, mut to) = (Vec::new(), Some(Vec::new()), None);
    while let Some(start) = &from {
        let bounds = (&**start, to.as_deref());
        let take = |(location, _)| found.push(key_of(location, true).unwrap()[0]);
        if ascends {
            from = tree.scan(bounds, &mut 3, take, is_before).unwrap();
        } else {
            to = tree.scan_back(bounds, &mut 3, take, is_before).unwrap();
            from = from.filter(|_| to.is_some());
        }
    }
    found
}

/// Asserts that every scan beside a change finds the keys that stay, and no key twice.
fn explore_scans(
    before: &'static [u8],
    change: impl Fn(&mut TreeWriter) + Sync + Send + Copy + 'static,
    stay: &'static [u8],
) {
    for ascends in [true, false] {
        explore(before, change, move |tree| {
            let mut found = scanned(tree, ascends);
            if !ascends {
                found.reverse();
            }
            assert!(found.is_sorted_by(|one, other| one < other), "{found:?}");
            assert!(stay.iter().all(|number| found.contains(number)), "{found:?}");
        });
    }
}

#[test]
fn loom_tree_scan_beside_a_split_finds_what_stays() {
    // The second of three leaves is split, and so is the parent.
    explore_scans(&[10, 20, 30, 40, 50], |writer| put(writer, 35), &[10, 20, 30, 40, 50]);
}

#[test]
fn loom_tree_scan_beside_a_merge_finds_what_stays() {
    // The second of three leaves ends.
    explore_scans(
        &[10, 20, 30, 40, 50],
        |writer| {
            remove(writer, 30);
            remove(writer, 40);
        },
        &[10, 20, 50],
    );
}

#[test]
fn loom_tree_scan_beside_a_reused_leaf_finds_what_stays() {
    // The node of the second of three leaves leaves the tree, and is built anew as the last one.
    explore_scans(
        &[10, 20, 30, 40, 50],
        |writer| {
            remove(writer, 30);
            put(writer, 60);
        },
        &[10, 20, 40, 50],
    );
}

#[test]
fn loom_tree_capture_holds_each_page_as_it_was() {
    // The insert builds the leaf anew that left the tree before, stores into the root, and takes out
    // the leaf that it replaces, while the capture takes the pages of all of them.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (_, mut writer) = Tree::new(Path::new("store")).unwrap();
        [10, 20, 30].into_iter().for_each(|number| put(&mut writer, number));
        let all_pages = |writer: &mut TreeWriter| {
            let mut capture = writer.begin_checkpoint(usize::MAX).expect("none is being taken");
            let lines = capture.table().lines.iter().sum::<u64>();
            move || {
                let mut pages = vec![Default::default(); usize::try_from(lines).unwrap()];
                pages.iter_mut().for_each(|page| capture.take(page).expect("there is room for all"));
                pages
            }
        };
        let then = all_pages(&mut writer)();
        let pages = all_pages(&mut writer);
        let checkpoint = thread::spawn(pages);
        remove(&mut writer, 10);
        assert!(checkpoint.join().expect("the checkpoint does not panic") == then);
    });
}
