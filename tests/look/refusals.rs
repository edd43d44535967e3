//! Tests the result of each public function in a store that is open read-only. The rows are
//! compared with the source, so a new public function needs one.

use std::time::Duration;

use mapcask::sim::SimDisk;
use mapcask::{
    ChangeKind, Changes, Durability, Error, Follower, Options, Postcard, Reader, Result, Seq, Since, Store,
    Transaction, TypedKeyspace, TypedReader, Wait, WriteBatch,
};

use crate::api;

fn refused<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::OpenedReadOnly { .. }))
}

fn typed(store: &Store) -> TypedKeyspace<str, u32, Postcard> {
    store.typed_keyspace("typed", Postcard).unwrap()
}

fn reader(store: &Store) -> Reader {
    Reader::clone(store)
}

fn typed_reader(store: &Store) -> TypedReader<str, u32, Postcard> {
    TypedReader::clone(&typed(store))
}

fn batch() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.insert("a", "2");
    batch
}

/// The name of a function in the source, and a check that returns true if it behaves as required.
type Row = (&'static str, fn(&Store) -> bool);

/// Calls that would write.
const REFUSED: &[Row] = &[
    ("Store::ordered_keyspace", |s| {
        refused(s.ordered_keyspace("new")) && unordered(s.ordered_keyspace("other"))
    }),
    ("Store::keyspace", |s| refused(s.keyspace("new")) && s.keyspace("other").is_ok()),
    ("Store::ordered_typed_keyspace", |s| {
        refused(s.ordered_typed_keyspace::<str, u32, _>("new", Postcard))
            && unordered(s.ordered_typed_keyspace::<str, u32, _>("typed", Postcard))
    }),
    ("Store::typed_keyspace", |s| refused(s.typed_keyspace::<str, u32, _>("new", Postcard))),
    ("Store::rename_keyspace", |s| {
        refused(s.rename_keyspace("other", "new")) && refused(s.rename_keyspace("none", "new"))
    }),
    ("Store::drop_keyspace", |s| refused(s.drop_keyspace("other")) && refused(s.drop_keyspace("none"))),
    ("Store::with_durability", |s| refused(s.with_durability(Durability::Disk).insert("a", "2"))),
    ("Store::step", |s| refused(s.step())),
    ("Store::rest_step", |s| refused(s.rest_step())),
    ("Store::compact", |s| refused(s.compact())),
    ("Store::compact_with", |s| refused(s.compact_with(|_| true))),
    ("Store::compact_segments", |s| refused(s.compact_segments(&[1], |_| true))),
    ("Store::take_checkpoint", |s| refused(s.take_checkpoint())),
    ("salvage_on", |s| {
        let from = SimDisk::new();
        Options::new().background(false).open_on(&from).unwrap().insert("b", "1").unwrap();
        refused(mapcask::salvage_on(&from.kill(), s))
    }),
    ("Keyspace::with_durability", |s| refused(s.with_durability(Durability::Disk).remove("a"))),
    ("Keyspace::insert", |s| refused(s.insert("a", "2")) && refused(s.insert("large", vec![1; 200 << 10]))),
    ("Keyspace::remove", |s| refused(s.remove("a")) && refused(s.remove("none"))),
    ("Keyspace::write", |s| refused(s.write(batch())) && refused(s.write(WriteBatch::new()))),
    ("Keyspace::clear", |s| refused(s.clear())),
    ("Keyspace::compare_and_swap", |s| {
        refused(s.compare_and_swap("a", Some("1"), Some("2")))
            && refused(s.compare_and_swap("a", Some("x"), Some("2")))
    }),
    ("Keyspace::insert_if_absent", |s| refused(s.insert_if_absent("a", "2"))),
    ("Keyspace::replace", |s| refused(s.replace("a", "2"))),
    ("Keyspace::take", |s| refused(s.take("a"))),
    ("Keyspace::pop_first", |s| refused(s.pop_first())),
    ("Keyspace::pop_last", |s| refused(s.pop_last())),
    ("Keyspace::pop_first_in", |s| refused(s.pop_first_in("a"..))),
    ("Keyspace::pop_last_in", |s| refused(s.pop_last_in("a"..))),
    ("Keyspace::fetch_and_update", |s| refused(s.fetch_and_update("a", |_| Some("2")))),
    ("Keyspace::update_and_fetch", |s| refused(s.update_and_fetch("a", |_| None::<&str>))),
    ("WriteBatch::on", |s| {
        let mut batch = WriteBatch::new();
        batch.on(&s.keyspace("other").unwrap()).insert("a", "2");
        refused(s.write(&batch))
    }),
    ("Store::begin", |s| refused(writing(s).commit())),
    ("Store::transact", |s| refused(s.transact(|t| t.insert(s, "a", "2")))),
    ("Transaction::insert", |s| {
        let mut transaction = s.begin();
        transaction.insert(s, "b", "2").unwrap();
        refused(transaction.commit())
    }),
    ("Transaction::remove", |s| {
        let mut transaction = s.begin();
        transaction.remove(s, "none").unwrap();
        refused(transaction.commit())
    }),
    ("Transaction::with_durability", |s| refused(writing(s).with_durability(Durability::Disk).commit())),
    ("Transaction::commit", |s| refused(writing(s).commit()) && s.begin().commit().is_ok()),
    ("TypedKeyspace::with_durability", |s| {
        refused(typed(s).with_durability(Durability::Disk).insert("a", &2))
    }),
    ("TypedKeyspace::insert", |s| refused(typed(s).insert("a", &2))),
    ("TypedKeyspace::insert_if_absent", |s| refused(typed(s).insert_if_absent("a", &2))),
    ("TypedKeyspace::replace", |s| refused(typed(s).replace("a", &2))),
    ("TypedKeyspace::remove", |s| refused(typed(s).remove("a"))),
    ("TypedKeyspace::take", |s| refused(typed(s).take("a"))),
    ("TypedKeyspace::fetch_and_update", |s| refused(typed(s).fetch_and_update("a", |_| Some(2)))),
    ("TypedKeyspace::update_and_fetch", |s| refused(typed(s).update_and_fetch("a", |_| Some(2)))),
    ("TypedKeyspace::insert_in", |s| {
        let mut batch = WriteBatch::new();
        typed(s).insert_in(&mut batch, "a", &2).unwrap();
        refused(s.write(&batch))
    }),
    ("TypedKeyspace::remove_in", |s| {
        let mut batch = WriteBatch::new();
        typed(s).remove_in(&mut batch, "a").unwrap();
        refused(s.write(&batch))
    }),
    ("TypedKeyspace::pop_first", |s| refused(typed(s).pop_first())),
    ("TypedKeyspace::pop_last", |s| refused(typed(s).pop_last())),
    ("TypedKeyspace::pop_first_in", |s| refused(typed(s).pop_first_in("a"..))),
    ("TypedKeyspace::pop_last_in", |s| refused(typed(s).pop_last_in("a"..))),
    ("TypedTransaction::insert", |s| {
        let (typed, mut transaction) = (typed(s), s.begin());
        transaction.on(&typed).insert("b", &2).unwrap();
        refused(transaction.commit())
    }),
    ("TypedTransaction::remove", |s| {
        let (typed, mut transaction) = (typed(s), s.begin());
        transaction.on(&typed).remove("none").unwrap();
        refused(transaction.commit())
    }),
    ("TypedKeyspace::compare_and_swap", |s| refused(typed(s).compare_and_swap("a", Some(&1), Some(&2)))),
];

/// Returns a transaction that has read and written.
fn writing(store: &Store) -> Transaction {
    let mut transaction = store.begin();
    transaction.get(store, "a").unwrap();
    transaction.insert(store, "a", "2").unwrap();
    transaction
}

/// Returns true if a call found the keyspace without order.
fn unordered<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::KeyspaceNotOrdered { .. }))
}

/// Returns the number of keys in a state.
fn states(changes: &mut Changes) -> usize {
    let mut count = 0;
    while let Some(change) = changes.next().unwrap() {
        count += usize::from(matches!(change.kind, ChangeKind::State { .. }));
    }
    count
}

/// Calls that only read.
const WORKS: &[Row] = &[
    ("Store::open_keyspace", |s| s.open_keyspace("other").unwrap().name() == "other"),
    ("Store::keyspace_names", |s| s.keyspace_names() == ["other", "typed"]),
    ("Store::last_seq", |s| s.last_seq().0 > 0),
    ("Store::durable_seq", |s| s.durable_seq() <= s.last_seq()),
    ("Store::snapshot", |s| s.snapshot().get("a").unwrap().as_deref() == Some(b"1")),
    ("Store::stats", |s| s.stats().keys == 3),
    ("Store::size_on_disk", |s| s.size_on_disk().unwrap() > 0),
    ("Store::verify", |s| s.verify().unwrap().keys == 3),
    ("Store::changes", |s| states(&mut s.changes(Since::State).unwrap()) == 3),
    ("Changes::next_within", |s| {
        s.changes(Since::Now).unwrap().next_within(Duration::from_millis(1)).unwrap().is_none()
    }),
    ("Changes::next", |s| s.changes(Since::Now).unwrap().next().unwrap().is_none()),
    ("Changes::only", |s| states(&mut s.changes(Since::State).unwrap().only(["other"])) == 1),
    ("Changes::durable", |s| states(&mut s.changes(Since::State).unwrap().durable()) == 3),
    ("Changes::position", |s| s.changes(Since::Now).unwrap().position().seq() <= s.last_seq()),
    ("Store::backup_on", |s| s.backup_on(&SimDisk::new()).unwrap().files > 0),
    ("Store::index_parts", |s| s.index_parts() == (0, 0)),
    ("Store::recovery_report", |s| !s.recovery_report().created),
    ("Store as Debug", |s| format!("{s:?}").contains("keys")),
    ("Store as IntoIterator", |s| s.into_iter().count() == 1),
    ("Store as Clone", |s| s.clone().contains_key("a").unwrap()),
    ("Reader::name", |s| reader(s).name().is_empty()),
    ("Reader::get", |s| reader(s).get("a").unwrap().as_deref() == Some(b"1")),
    ("Reader::get_into", |s| reader(s).get_into("a", &mut Vec::new()).unwrap()),
    ("Reader::view", |s| reader(s).view().get("a").unwrap() == Some(b"1")),
    ("Reader::contains_key", |s| reader(s).contains_key("a").unwrap()),
    ("Reader::multi_get", |s| reader(s).multi_get(&["a", "b"]).unwrap().iter().flatten().count() == 1),
    ("Reader::get_many_into", |s| reader(s).get_many_into(&["a"], &mut Vec::new()).is_ok()),
    ("Reader::prefetch", |s| {
        reader(s).prefetch(&["a"]);
        true
    }),
    ("Reader::try_get", |s| reader(s).try_get("a").is_ok()),
    ("Reader::is_ordered", |s| !reader(s).is_ordered()),
    ("Reader::range", |s| unordered(reader(s).range("a"..).next().unwrap())),
    ("Range::seek", |s| {
        let mut range = reader(s).range::<&str>(..);
        range.seek("a");
        unordered(range.next().unwrap())
    }),
    ("Range::seek_back", |s| {
        let mut range = reader(s).range::<&str>(..);
        range.seek_back("a");
        unordered(range.next_back().unwrap())
    }),
    ("Reader::prefix", |s| unordered(reader(s).prefix("a").next().unwrap())),
    ("Reader::first_key_value", |s| unordered(reader(s).first_key_value())),
    ("Reader::last_key_value", |s| unordered(reader(s).last_key_value())),
    ("Reader::get_lt", |s| unordered(reader(s).get_lt("a"))),
    ("Reader::get_le", |s| unordered(reader(s).get_le("a"))),
    ("Reader::get_ge", |s| unordered(reader(s).get_ge("a"))),
    ("Reader::get_gt", |s| unordered(reader(s).get_gt("a"))),
    ("Reader::get_range", |s| unordered(reader(s).get_range("a".., 1))),
    ("Reader::count_range", |s| unordered(reader(s).count_range("a"..))),
    ("Transaction::get", |s| s.begin().get(s, "a").unwrap().unwrap() == "1"),
    ("Transaction::contains_key", |s| s.begin().contains_key(s, "a").unwrap()),
    ("Transaction::peek", |s| s.begin().peek(s, "a").unwrap().unwrap() == "1"),
    ("Transaction::range", |s| unordered(s.begin().range(s, "a"..).next().unwrap())),
    ("Transaction::prefix", |s| unordered(s.begin().prefix(s, "a").next().unwrap())),
    ("Transaction::first_key_value", |s| unordered(s.begin().first_key_value(s))),
    ("Transaction::last_key_value", |s| unordered(s.begin().last_key_value(s))),
    ("Transaction::get_lt", |s| unordered(s.begin().get_lt(s, "a"))),
    ("Transaction::get_le", |s| unordered(s.begin().get_le(s, "a"))),
    ("Transaction::get_ge", |s| unordered(s.begin().get_ge(s, "a"))),
    ("Transaction::get_gt", |s| unordered(s.begin().get_gt(s, "a"))),
    ("Transaction::count_range", |s| unordered(s.begin().count_range(s, "a"..))),
    ("Transaction::snapshot", |s| s.begin().snapshot().contains_key("a").unwrap()),
    ("Transaction as Debug", |s| format!("{:?}", s.begin()).contains("seq")),
    ("Reader::len", |s| reader(s).len() == 1),
    ("Reader::is_empty", |s| !reader(s).is_empty()),
    ("Reader::iter", |s| reader(s).iter().all(|item| item.is_ok())),
    ("Reader::keys", |s| reader(s).keys().all(|item| item.is_ok())),
    ("Reader::values", |s| reader(s).values().all(|item| item.is_ok())),
    ("Reader::keyspace_stats", |s| reader(s).keyspace_stats().unwrap().keys == 1),
    ("Keyspace as Debug", |s| !format!("{:?}", s.keyspace("other")).is_empty()),
    ("TypedKeyspace::raw", |s| typed(s).raw().len() == 1),
    ("TypedReader::raw", |s| typed_reader(s).raw().len() == 1),
    ("TypedReader::len", |s| typed_reader(s).len() == 1),
    ("TypedReader::is_empty", |s| !typed_reader(s).is_empty()),
    ("TypedReader::get", |s| typed_reader(s).get("a").unwrap() == Some(1)),
    ("TypedReader::multi_get", |s| typed_reader(s).multi_get(["a"]).unwrap() == [Some(1)]),
    ("TypedReader::contains_key", |s| typed_reader(s).contains_key("a").unwrap()),
    ("TypedReader::iter", |s| typed_reader(s).iter().all(|item| item.is_ok())),
    ("TypedReader::range", |s| unordered(typed_reader(s).range("a"..).next().unwrap())),
    ("TypedReader::prefix", |s| unordered(typed_reader(s).prefix("a").next().unwrap())),
    ("TypedReader::first_key_value", |s| unordered(typed_reader(s).first_key_value())),
    ("TypedReader::last_key_value", |s| unordered(typed_reader(s).last_key_value())),
    ("TypedReader::get_lt", |s| unordered(typed_reader(s).get_lt("a"))),
    ("TypedReader::get_le", |s| unordered(typed_reader(s).get_le("a"))),
    ("TypedReader::get_ge", |s| unordered(typed_reader(s).get_ge("a"))),
    ("TypedReader::get_gt", |s| unordered(typed_reader(s).get_gt("a"))),
    ("TypedReader::get_range", |s| unordered(typed_reader(s).get_range("a".., 1))),
    ("TypedReader::count_range", |s| unordered(typed_reader(s).count_range("a"..))),
    ("TypedReader::encode_key", |s| typed_reader(s).encode_key("a").unwrap() == b"\x01a"),
    ("TypedReader::decode_key", |s| typed_reader(s).decode_key(b"\x01a").unwrap() == "a"),
    ("TypedReader::decode_value", |s| typed_reader(s).decode_value(&[1]).unwrap() == 1),
    ("TypedRange::seek", |s| {
        let mut range = typed_reader(s).range::<&str>(..);
        range.seek("a").unwrap();
        unordered(range.next().unwrap())
    }),
    ("TypedRange::seek_back", |s| {
        let mut range = typed_reader(s).range::<&str>(..);
        range.seek_back("a").unwrap();
        unordered(range.next().unwrap())
    }),
    ("Transaction::on", |s| s.begin().on(&typed(s)).get("a").unwrap() == Some(1)),
    ("TypedTransaction::get", |s| s.begin().on(&typed(s)).get("b").unwrap().is_none()),
    ("TypedTransaction::contains_key", |s| s.begin().on(&typed(s)).contains_key("a").unwrap()),
    ("TypedTransaction::peek", |s| s.begin().on(&typed(s)).peek("a").unwrap() == Some(1)),
    ("TypedTransaction::range", |s| unordered(s.begin().on(&typed(s)).range("a"..).next().unwrap())),
    ("TypedTransaction::prefix", |s| unordered(s.begin().on(&typed(s)).prefix("a").next().unwrap())),
    ("TypedTransaction::first_key_value", |s| unordered(s.begin().on(&typed(s)).first_key_value())),
    ("TypedTransaction::last_key_value", |s| unordered(s.begin().on(&typed(s)).last_key_value())),
    ("TypedTransaction::get_lt", |s| unordered(s.begin().on(&typed(s)).get_lt("a"))),
    ("TypedTransaction::get_le", |s| unordered(s.begin().on(&typed(s)).get_le("a"))),
    ("TypedTransaction::get_ge", |s| unordered(s.begin().on(&typed(s)).get_ge("a"))),
    ("TypedTransaction::get_gt", |s| unordered(s.begin().on(&typed(s)).get_gt("a"))),
    ("TypedTransaction::count_range", |s| unordered(s.begin().on(&typed(s)).count_range("a"..))),
    ("TypedTransaction as Debug", |s| format!("{:?}", s.begin().on(&typed(s))).contains("typed")),
    ("Reader as Debug", |s| format!("{:?}", reader(s)).contains("len: 1")),
    ("Reader as Clone", |s| reader(s).clone().contains_key("a").unwrap()),
    ("Reader as IntoIterator", |s| (&reader(s)).into_iter().count() == 1),
    ("TypedReader as Debug", |s| format!("{:?}", typed_reader(s)).contains("typed")),
    ("TypedReader as Clone", |s| typed_reader(s).clone().contains_key("a").unwrap()),
    ("TypedKeyspace as Debug", |s| !format!("{:?}", typed(s)).is_empty()),
];

/// A function of a follower, and a check that returns true if it behaves as required.
type FollowerRow = (&'static str, fn(&Follower) -> bool);

/// Calls of a follower, which only reads.
const FOLLOWS: &[FollowerRow] = &[
    ("Follower::refresh", |f| f.refresh().unwrap().records == 0),
    ("Follower::wait", |f| !f.wait(f.last_seq(), Duration::ZERO).unwrap()),
    ("Follower::wait_with", |f| !f.wait_with(f.last_seq(), Wait::Spin, Duration::ZERO).unwrap()),
    ("Follower::wait_durable", |f| f.wait_durable(Seq(1), Duration::ZERO).unwrap()),
    ("Follower::auto_refresh", |f| f.auto_refresh(Wait::Sleep).is_ok()),
    ("Follower::take_over", |f| f.take_over(Options::new().read_only(true), None).is_err()),
    ("AutoRefresh::error", |f| f.auto_refresh(Wait::Sleep).unwrap().error().is_none()),
    ("Follower::keyspace", |f| f.keyspace("other").unwrap().len() == 1 && f.keyspace("new").is_err()),
    ("Follower::typed_keyspace", |f| {
        f.typed_keyspace::<str, u32, _>("typed", Postcard).unwrap().get("a").unwrap() == Some(1)
            && f.typed_keyspace::<str, u32, _>("new", Postcard).is_err()
    }),
    ("Follower::keyspace_names", |f| f.keyspace_names() == ["other", "typed"]),
    ("Follower::snapshot", |f| f.snapshot().get("a").unwrap().as_deref() == Some(b"1")),
    ("Follower::last_seq", |f| f.last_seq().0 > 0),
    ("Follower::durable_seq", |f| f.durable_seq().unwrap() <= f.last_seq()),
    ("Follower::writer_status", |f| f.writer_status().is_ok()),
    ("Follower::stats", |f| f.stats().keys == 3),
    ("Follower::size_on_disk", |f| f.size_on_disk().unwrap() > 0),
    ("Follower::verify", |f| f.verify().unwrap().keys == 3),
    ("Follower::changes", |f| states(&mut f.changes(Since::State).unwrap()) == 3),
    ("Follower::backup_on", |f| f.backup_on(&SimDisk::new()).unwrap().files > 0),
    ("Follower::backup", |f| matches!(f.backup(""), Err(Error::Io { .. }))),
    ("Follower as Debug", |f| format!("{f:?}").contains("keys: 1")),
    ("Follower as Deref", |f| f.get("a").unwrap().as_deref() == Some(b"1")),
    ("Follower as IntoIterator", |f| f.into_iter().count() == 1),
    ("Follower as Clone", |f| f.clone().contains_key("a").unwrap()),
];

/// Calls that depend on the state of the files, or end the store. A test below covers them.
const SETTLES: [&str; 4] = ["Store::flush", "Store::wait_durable", "Store::close", "Store::backup"];

/// Returns true if a function needs no handle of a store, or belongs to a type that only reads.
fn is_elsewhere(name: &str) -> bool {
    let of = ["Options::", "Snapshot", "KeyspaceSnapshot", "View", "Iter", "SnapshotIter"];
    api::WITHOUT_A_HANDLE.contains(&name) || of.iter().any(|of| name.starts_with(of))
}

#[test]
fn table_of_read_only_results_lists_every_public_function() {
    let follows = || FOLLOWS.iter().map(|(name, _)| *name);
    let rows = || REFUSED.iter().chain(WORKS).map(|(name, _)| *name).chain(SETTLES).chain(follows());
    let all = api::public_functions().into_iter().map(|function| function.name);
    let missing: Vec<_> = all.filter(|name| !is_elsewhere(name) && !rows().any(|row| row == name)).collect();
    assert!(missing.is_empty(), "no row for: {missing:?}");
}

fn is_of_a_reader(name: &str) -> bool {
    ["Reader::", "TypedReader::"].iter().any(|of| name.starts_with(of))
}

#[test]
fn readers_are_clone_debug_send_and_sync() {
    fn holds<T: Clone + std::fmt::Debug + Send + Sync>() {}
    holds::<Reader>();
    holds::<Follower>();
    holds::<TypedReader<str, u32, Postcard>>();
}

#[test]
fn no_method_of_a_reader_changes_a_store_open_for_writing() {
    let writes: Vec<_> = REFUSED.iter().map(|(name, _)| *name).filter(|name| is_of_a_reader(name)).collect();
    assert!(writes.is_empty(), "a reader writes: {writes:?}");
    let disk = left(true);
    let store = Options::new().background(false).open_on(&disk).unwrap();
    let (position, seq) = (disk.position(), store.last_seq());
    let rows: Vec<_> = WORKS.iter().filter(|(name, _)| is_of_a_reader(name)).collect();
    let wrong: Vec<_> = rows.iter().filter(|(_, row)| !row(&store)).map(|(name, _)| name).collect();
    assert!(wrong.is_empty() && rows.len() > 20, "{wrong:?} of {} rows", rows.len());
    assert!(disk.position() == position && store.last_seq() == seq);
}

fn waits_to_be_woken(name: &str) -> bool {
    name.starts_with("Follower::wait") || name.contains("auto_refresh") || name.starts_with("AutoRefresh")
}

#[test]
fn no_method_of_a_follower_changes_a_store() {
    for is_open in [true, false] {
        let disk = left(true);
        let store = is_open.then(|| Options::new().background(false).open_on(&disk).unwrap());
        let files = || -> Vec<_> {
            let all = disk.files().into_iter().filter(|name| name != "WAITERS");
            all.map(|name| (disk.read_file(&name).unwrap(), name)).collect()
        };
        let (position, before) = (disk.position(), files());
        let follower = Options::new().follow_on(&disk).unwrap();
        let wrong = |waits: bool| -> Vec<_> {
            let rows = FOLLOWS.iter().filter(|(name, _)| waits_to_be_woken(name) == waits);
            rows.filter(|(_, row)| !row(&follower)).map(|(name, _)| name).collect()
        };
        assert_eq!(wrong(false), Vec::<&&str>::new(), "with a writer: {is_open}");
        assert!(disk.position() == position, "with a writer: {is_open}");
        // These ask to be woken, on the waiters page and nowhere else.
        assert_eq!(wrong(true), Vec::<&&str>::new(), "with a writer: {is_open}");
        drop(follower);
        assert!(files() == before, "with a writer: {is_open}");
        // It takes no lock, so the store can be opened, and stays open.
        let store = store.unwrap_or_else(|| Options::new().background(false).open_on(&disk).unwrap());
        let follower = Options::new().follow_on(&disk).unwrap();
        store.insert("b", "1").unwrap();
        follower.refresh().unwrap();
        assert!(follower.contains_key("b").unwrap());
    }
}

/// Returns a store with a key in each of three keyspaces, closed or killed.
fn left(closed: bool) -> SimDisk {
    let disk = SimDisk::new();
    let store = Options::new().background(false).open_on(&disk).unwrap();
    store.insert("a", "1").unwrap();
    store.keyspace("other").unwrap().insert("a", "1").unwrap();
    typed(&store).insert("a", &1).unwrap();
    if closed {
        store.close().unwrap();
    }
    disk.kill()
}

fn read_only(disk: &SimDisk) -> Store {
    Options::new().read_only(true).open_on(disk).unwrap()
}

#[test]
fn read_only_store_refuses_writes_and_serves_reads() {
    for closed in [true, false] {
        let disk = left(closed);
        let position = disk.position();
        let store = read_only(&disk);
        let wrong: Vec<_> =
            REFUSED.iter().chain(WORKS).filter(|(_, row)| !row(&store)).map(|(name, _)| name).collect();
        assert!(wrong.is_empty(), "closed: {closed}: {wrong:?}");
        store.close().unwrap();
        assert!(disk.position() == position, "closed: {closed}");
    }
}

#[test]
fn read_only_flush_succeeds_only_if_all_is_durable() {
    let store = read_only(&left(true));
    store.flush().unwrap();
    store.wait_durable(store.last_seq()).unwrap();
    let handle = store.clone();
    store.close().unwrap();
    assert!(matches!(handle.get("a"), Err(Error::Closed)));
    assert!(matches!(handle.flush(), Err(Error::Closed)));
    // After a kill, the contents may be in the page cache only.
    let store = read_only(&left(false));
    assert!(store.durable_seq() < store.last_seq());
    assert!(refused(store.flush()));
    assert!(refused(store.wait_durable(store.last_seq())));
    store.wait_durable(store.durable_seq()).unwrap();
    let values = store.get("a").unwrap();
    let (mut iter, snapshot) = (store.iter(), store.snapshot());
    store.close().unwrap();
    assert_eq!(values.as_deref(), Some(b"1".as_slice()));
    assert!(iter.next().unwrap().is_ok() && snapshot.get("a").unwrap().is_some());
}
