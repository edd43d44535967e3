//! The anomalies by name, and what is no conflict.

use super::*;

#[test]
fn lost_update_is_a_conflict_that_names_keyspace_and_key() {
    let (store, both) = open_both();
    for keyspace in both {
        keyspace.insert("counter", 1_u64.to_le_bytes()).unwrap();
        let mut transaction = store.begin();
        let count = number(transaction.get(&keyspace, "counter").unwrap().as_deref());
        transaction.insert(&keyspace, "counter", (count + 1).to_le_bytes()).unwrap();
        keyspace.insert("counter", 7_u64.to_le_bytes()).unwrap();
        let last = store.last_seq();
        assert_eq!(conflict(transaction.commit()), at_key(&keyspace.name(), "counter"));
        assert_eq!(store.last_seq(), last, "nothing was written");
        assert_eq!(number(keyspace.get("counter").unwrap().as_deref()), 7);
    }
}

#[test]
fn value_that_went_away_and_came_back_is_a_conflict() {
    let (store, both) = open_both();
    for keyspace in both {
        for back in ["again", "by removal"] {
            keyspace.insert("a", "1").unwrap();
            let mut transaction = store.begin();
            transaction.get(&keyspace, "a").unwrap();
            transaction.insert(&keyspace, "b", "2").unwrap();
            if back == "by removal" {
                keyspace.remove("a").unwrap();
            }
            keyspace.insert("a", "1").unwrap();
            assert_eq!(conflict(transaction.commit()), at_key(&keyspace.name(), "a"));
        }
    }
}

#[test]
fn absence_that_was_read_must_hold_at_the_commit() {
    let (store, both) = open_both();
    for keyspace in both {
        let begin = || {
            let mut transaction = store.begin();
            assert!(!transaction.contains_key(&keyspace, "name").unwrap());
            transaction.insert(&keyspace, "name", "taken").unwrap();
            transaction
        };
        let (first, second, third) = (begin(), begin(), begin());
        // A key that came and went has left no trace.
        keyspace.insert("name", "brief").unwrap();
        keyspace.remove("name").unwrap();
        first.commit().unwrap();
        assert_eq!(conflict(second.commit()), at_key(&keyspace.name(), "name"));
        keyspace.remove("name").unwrap();
        third.commit().unwrap();
    }
}

#[test]
fn write_skew_is_a_conflict_of_the_second_transaction() {
    let (store, [plain, ordered]) = open_both();
    plain.insert("anna", "on call").unwrap();
    ordered.insert("berta", "on call").unwrap();
    let mut first = store.begin();
    let mut second = store.begin();
    assert!(first.contains_key(&ordered, "berta").unwrap());
    first.remove(&plain, "anna").unwrap();
    assert!(second.contains_key(&plain, "anna").unwrap());
    second.remove(&ordered, "berta").unwrap();
    first.commit().unwrap();
    assert_eq!(conflict(second.commit()), at_key("plain", "anna"));
    assert!(ordered.contains_key("berta").unwrap());
}

#[test]
fn write_skew_over_a_range_is_a_conflict() {
    let (store, [_, ordered]) = open_both();
    for n in 0..50_u32 {
        ordered.insert(n.to_be_bytes(), "1").unwrap();
    }
    let mut first = store.begin();
    let mut second = store.begin();
    for (transaction, own) in [(&mut first, 100_u32), (&mut second, 101)] {
        assert_eq!(transaction.count_range::<&[u8]>(&ordered, ..).unwrap(), 50);
        transaction.insert(&ordered, own.to_be_bytes(), "1").unwrap();
    }
    second.commit().unwrap();
    assert_eq!(conflict(first.commit()), ("ordered".to_owned(), None));
    assert_eq!(ordered.len(), 51);
}

/// A transaction that reads `b..d`, with the keys `b` and `c`, and writes elsewhere.
fn reader_of_a_range(store: &Store, ordered: &Keyspace) -> mapcask::Transaction {
    let mut transaction = store.begin();
    assert_eq!(transaction.range(ordered, "b".."d").count(), 2);
    transaction.insert(store, "seen", "2").unwrap();
    transaction
}

fn filled() -> (Store, Keyspace) {
    let (store, [_, ordered]) = open_both();
    for key in ["a", "b", "c", "d"] {
        ordered.insert(key, "1").unwrap();
    }
    (store, ordered)
}

#[test]
fn phantom_in_a_range_is_a_conflict() {
    for key in ["b\0", "bb", "c", "c\u{7f}"] {
        let (store, ordered) = filled();
        let transaction = reader_of_a_range(&store, &ordered);
        ordered.insert(key, "2").unwrap();
        let named = Some(key.into()).filter(|_| key == "c");
        assert_eq!(conflict(transaction.commit()), ("ordered".to_owned(), named));
    }
}

#[test]
fn key_removed_from_a_range_is_a_conflict_that_names_it() {
    for again in [false, true] {
        let (store, ordered) = filled();
        let transaction = reader_of_a_range(&store, &ordered);
        ordered.remove("c").unwrap();
        // As many keys as before are no excuse.
        ordered.insert(if again { "c" } else { "bb" }, "1").unwrap();
        assert_eq!(conflict(transaction.commit()), at_key("ordered", "c"));
    }
}

#[test]
fn neighbour_outside_of_a_range_is_no_conflict() {
    let (store, ordered) = filled();
    let transaction = reader_of_a_range(&store, &ordered);
    for key in ["a", "az", "d", "e"] {
        ordered.insert(key, "2").unwrap();
    }
    ordered.remove("a").unwrap();
    // A key that came and went inside of it is none either.
    ordered.insert("bb", "2").unwrap();
    ordered.remove("bb").unwrap();
    transaction.commit().unwrap();
}

#[test]
fn range_is_read_only_as_far_as_it_was_consumed() {
    let (store, ordered) = filled();
    let begin = || {
        let mut transaction = store.begin();
        let mut range = transaction.range::<&str>(&ordered, ..);
        assert_eq!(range.next().unwrap().unwrap().0, "a");
        assert_eq!(range.next_back().unwrap().unwrap().0, "d");
        transaction.insert(&store, "seen", "2").unwrap();
        transaction
    };
    let (first, second, third) = (begin(), begin(), begin());
    ordered.remove("b").unwrap();
    ordered.insert("c", "2").unwrap();
    ordered.insert("bb", "2").unwrap();
    first.commit().unwrap();
    ordered.insert("dd", "2").unwrap();
    assert_eq!(conflict(second.commit()), ("ordered".to_owned(), None));
    ordered.remove("dd").unwrap();
    third.commit().unwrap();
}

#[test]
fn end_of_a_keyspace_is_read_with_what_lies_before_it() {
    let (store, ordered) = filled();
    let begin = || {
        let mut transaction = store.begin();
        assert_eq!(transaction.first_key_value(&ordered).unwrap().unwrap().0, "a");
        assert_eq!(transaction.get_gt(&ordered, "b").unwrap().unwrap().0, "c");
        transaction.insert(&store, "seen", "2").unwrap();
        transaction
    };
    let (first, second, third) = (begin(), begin(), begin());
    ordered.insert("ab", "2").unwrap();
    ordered.insert("b", "2").unwrap();
    ordered.insert("cc", "2").unwrap();
    first.commit().unwrap();
    ordered.insert("b\0", "2").unwrap();
    assert!(second.commit().is_err());
    ordered.remove("b\0").unwrap();
    ordered.insert("", "2").unwrap();
    assert!(third.commit().is_err());
}

#[test]
fn transaction_that_only_read_commits_whatever_happened() {
    let (store, [plain, ordered]) = open_both();
    plain.insert("a", "1").unwrap();
    ordered.insert("a", "1").unwrap();
    let mut transaction = store.begin();
    let at = store.last_seq();
    transaction.get(&plain, "a").unwrap();
    transaction.get(&plain, "b").unwrap();
    assert_eq!(transaction.count_range::<&str>(&ordered, ..).unwrap(), 1);
    plain.insert("a", "2").unwrap();
    plain.insert("b", "2").unwrap();
    ordered.clear().unwrap();
    store.drop_keyspace("plain").unwrap();
    let last = store.last_seq();
    assert_eq!(transaction.get(&plain, "a").unwrap().unwrap(), "1");
    assert_eq!(transaction.commit().unwrap(), at);
    assert_eq!(store.last_seq(), last);
}

#[test]
fn long_fork_is_not_seen_by_two_readers() {
    let (store, [plain, ordered]) = open_both();
    let mut transactions = Vec::new();
    for n in 0..20_u64 {
        let (at, key) = if n % 2 == 0 { (&plain, "x") } else { (&ordered, "y") };
        transactions.push(store.begin());
        at.insert(key, n.to_le_bytes()).unwrap();
    }
    let mut seen: Vec<(u64, u64)> = Vec::new();
    for mut transaction in transactions {
        let x = number(transaction.get(&plain, "x").unwrap().as_deref());
        let y = number(transaction.get(&ordered, "y").unwrap().as_deref());
        seen.push((x, y));
        transaction.commit().unwrap();
    }
    assert!(seen.is_sorted_by(|one, other| one.0 <= other.0 && one.1 <= other.1), "{seen:?}");
}

#[test]
fn blind_writes_never_conflict() {
    let (store, [plain, ordered]) = open_both();
    let mut transaction = store.begin();
    for keyspace in [&plain, &ordered] {
        transaction.insert(keyspace, "a", "1").unwrap();
        transaction.remove(keyspace, "b").unwrap();
        // A read of its own write is no read of the store.
        assert_eq!(transaction.get(keyspace, "a").unwrap().unwrap(), "1");
        assert_eq!(transaction.get(keyspace, "b").unwrap(), None);
        keyspace.insert("a", "2").unwrap();
        keyspace.insert("b", "2").unwrap();
    }
    plain.clear().unwrap();
    transaction.commit().unwrap();
    for keyspace in [&plain, &ordered] {
        assert_eq!(keyspace.get("a").unwrap().unwrap(), "1");
        assert_eq!(keyspace.len(), 1);
    }
}

#[test]
fn peeked_values_may_change_before_the_commit() {
    let (store, both) = open_both();
    for keyspace in both {
        keyspace.insert("a", "1").unwrap();
        let mut transaction = store.begin();
        assert_eq!(transaction.peek(&keyspace, "a").unwrap().unwrap(), "1");
        transaction.insert(&keyspace, "b", "1").unwrap();
        assert_eq!(transaction.peek(&keyspace, "b").unwrap().unwrap(), "1");
        assert_eq!(transaction.peek(&keyspace, "a").unwrap().unwrap(), "1");
        assert_eq!(transaction.snapshot().keyspace(&keyspace.name()).unwrap().get("b").unwrap(), None);
        keyspace.insert("a", "2").unwrap();
        assert_eq!(transaction.peek(&keyspace, "a").unwrap().unwrap(), "1");
        transaction.commit().unwrap();
    }
}

#[test]
fn cleared_dropped_or_new_keyspace_that_was_read_is_a_conflict() {
    let (store, both) = open_both();
    for keyspace in &both {
        let name = keyspace.name();
        for absent in [false, true] {
            keyspace.insert("a", "1").unwrap();
            let mut transaction = store.begin();
            transaction.get(keyspace, if absent { "none" } else { "a" }).unwrap();
            transaction.insert(&store, "b", "2").unwrap();
            keyspace.clear().unwrap();
            assert_eq!(conflict(transaction.commit()), (name.clone(), None));
        }
        let mut transaction = store.begin();
        transaction.get(keyspace, "a").unwrap();
        transaction.insert(&store, "b", "2").unwrap();
        store.drop_keyspace(&name).unwrap();
        assert_eq!(conflict(transaction.commit()), (name, None));
    }
    let mut first = store.begin();
    let mut second = store.begin();
    let new = store.ordered_keyspace("new").unwrap();
    new.insert("a", "1").unwrap();
    for transaction in [&mut first, &mut second] {
        assert_eq!(transaction.get(&new, "a").unwrap(), None);
        assert_eq!(transaction.count_range::<&str>(&new, ..).unwrap(), 0);
    }
    first.commit().unwrap();
    second.insert(&new, "b", "2").unwrap();
    assert_eq!(conflict(second.commit()), ("new".to_owned(), None));
    store.transact(|transaction| transaction.get(&new, "a").map(|found| assert!(found.is_some()))).unwrap();
}

#[test]
fn compaction_of_what_was_read_is_no_conflict() {
    let (store, [plain, ordered]) = open_both();
    for n in 0..200_u32 {
        for (garbage, keyspace) in [(0, &plain), (1, &ordered)] {
            keyspace.insert(n.to_be_bytes(), [1; 100]).unwrap();
            store.insert([garbage], [1; 300]).unwrap();
        }
    }
    let mut transaction = store.begin();
    for n in 0..200_u32 {
        assert!(transaction.contains_key(&plain, n.to_be_bytes()).unwrap());
    }
    assert_eq!(transaction.count_range::<&[u8]>(&ordered, ..).unwrap(), 200);
    transaction.insert(&plain, "sum", "200").unwrap();
    let moved = store.compact().unwrap().bytes_moved;
    assert!(moved > 400 * 100, "only {moved} bytes were moved");
    transaction.commit().unwrap();
}

#[test]
fn transact_tries_again_until_nothing_came_between() {
    let (store, [plain, _]) = open_both();
    plain.insert("counter", 0_u64.to_le_bytes()).unwrap();
    let mut attempts = 0_u64;
    let result = store.transact(|transaction| {
        let count = number(transaction.get(&plain, "counter")?.as_deref());
        attempts += 1;
        if attempts < 6 {
            plain.insert("counter", attempts.to_le_bytes())?;
        }
        transaction.insert(&plain, "counter", (count + 100).to_le_bytes())?;
        Ok::<_, Error>(count)
    });
    assert_eq!((result.unwrap(), attempts), (5, 6));
    assert_eq!(number(plain.get("counter").unwrap().as_deref()), 105);
}

#[test]
fn error_of_the_body_is_returned_and_nothing_is_written() {
    #[derive(Debug)]
    enum Refusal {
        Poor,
        Store(#[expect(dead_code, reason = "only shown")] Error),
    }
    impl From<Error> for Refusal {
        fn from(error: Error) -> Self {
            Self::Store(error)
        }
    }
    let (store, [plain, _]) = open_both();
    let last = store.last_seq();
    let mut calls = 0;
    let result: std::result::Result<(), _> = store.transact(|transaction| {
        calls += 1;
        transaction.get(&plain, "a")?;
        transaction.insert(&plain, "a", "1")?;
        plain.insert("a", "2")?;
        Err(Refusal::Poor)
    });
    assert!(matches!(result, Err(Refusal::Poor)), "{result:?}");
    assert_eq!((calls, store.last_seq().0), (1, last.0 + 1));
    let result: std::result::Result<(), Refusal> = store.transact(|transaction| {
        transaction.insert(&plain, vec![0; mapcask::MAX_KEY_LEN + 1], "1")?;
        Ok(())
    });
    assert!(matches!(result, Err(Refusal::Store(_))), "{result:?}");
}

/// A write without a transaction, to a keyspace with the keys `a`, `b` and `c`.
type PlainWrite = fn(&Keyspace) -> Result<()>;

const PLAIN_WRITES: [(&str, PlainWrite); 11] = [
    ("insert", |k| k.insert("b", "2").map(drop)),
    ("remove", |k| k.remove("b").map(drop)),
    ("replace", |k| k.replace("b", "2").map(drop)),
    ("take", |k| k.take("b").map(drop)),
    ("swap", |k| k.compare_and_swap("b", Some("1"), Some("1")).map(drop)),
    ("insert_if_absent", |k| k.insert_if_absent("bb", "2").map(drop)),
    ("update", |k| k.update_and_fetch("b", |_| Some("2")).map(drop)),
    ("fetch", |k| k.fetch_and_update("b", |_| None::<&str>).map(drop)),
    ("clear", |k| k.clear().map(drop)),
    ("pop_first", |k| k.pop_first_in("b"..).map(drop)),
    ("batch", |k| {
        let mut batch = mapcask::WriteBatch::new();
        batch.require_present("b");
        batch.remove("c");
        batch.insert("b", "2");
        k.write(&batch).map(drop)
    }),
];

#[test]
fn every_kind_of_plain_write_is_a_conflict() {
    let (store, both) = open_both();
    for (of, keyspace) in both.iter().enumerate() {
        for (name, write) in PLAIN_WRITES {
            if of == 0 && name == "pop_first" {
                continue;
            }
            keyspace.clear().unwrap();
            for key in ["a", "b", "c"] {
                keyspace.insert(key, "1").unwrap();
            }
            let mut by_key = store.begin();
            let mut elsewhere = store.begin();
            for key in ["b", "bb"] {
                by_key.get(keyspace, key).unwrap();
            }
            elsewhere.get(keyspace, "a").unwrap();
            let mut by_range = store.begin();
            if of == 1 {
                assert_eq!(by_range.range(keyspace, "b".."c").count(), 1);
            } else {
                by_range.get(keyspace, "b").unwrap();
                by_range.get(keyspace, "bb").unwrap();
            }
            write(keyspace).unwrap();
            for (transaction, fails) in [(by_key, true), (by_range, true), (elsewhere, name == "clear")] {
                let mut transaction = transaction;
                transaction.insert(&store, "sum", name).unwrap();
                assert_eq!(transaction.commit().is_err(), fails, "{name}");
            }
        }
    }
}
