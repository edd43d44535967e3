//! Tests that no public function waits, in a forked child, for a lock that a thread of the parent
//! holds.
//!
//! The child has none of the threads that could release the locks. So each function checks for a
//! fork before it takes a lock, and returns `Forked` or does something harmless, as documented. The
//! rows are compared with the source: a new public function needs one.
#![cfg(all(target_os = "linux", feature = "sim", feature = "serde", feature = "postcard"))]
#![expect(unsafe_code, reason = "fork has no safe form")]
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

#[path = "support/api.rs"]
mod api;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mapcask::sim::{Operation, SimDisk};
use mapcask::{
    AutoRefresh, Changes, Durability, Error, Follower, Iter, Keyspace, KeyspaceSnapshot, Options, Postcard,
    Reader, Result, Since, Snapshot, SnapshotIter, Store, Transaction, TypedKeyspace, TypedReader, View,
    Wait, WriteBatch,
};

/// The time a child may take, in seconds, before the kernel ends it.
const PATIENCE: u32 = 10;

/// The time of a wait that is refused.
const PAUSE: Duration = Duration::from_secs(1);

/// The handles that a child inherits.
struct Inherited<'s> {
    store: Store,
    follower: Follower,
    refreshing: AutoRefresh,
    other: Keyspace,
    reader: Reader,
    typed: TypedKeyspace<str, u32, Postcard>,
    typed_reader: TypedReader<str, u32, Postcard>,
    snapshot: Snapshot,
    part: KeyspaceSnapshot,
    view: View<'s>,
    iter: Iter,
    snapshot_iter: SnapshotIter,
    batch: WriteBatch,
    changes: Changes,
    /// It has read from the other keyspace, and written to it.
    transaction: Transaction,
}

/// Returns true if a call was refused.
fn refused<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Forked))
}

/// A function by its name in the source, and a check that is true if it behaves in the child.
type Row = (&'static str, fn(Inherited<'_>) -> bool);

const STORE: &[Row] = &[
    ("Store::keyspace", |i| refused(i.store.keyspace("new"))),
    ("Store::ordered_keyspace", |i| refused(i.store.ordered_keyspace("new"))),
    ("Store::open_keyspace", |i| refused(i.store.open_keyspace("other"))),
    ("Store::keyspace_names", |i| i.store.keyspace_names().is_empty()),
    ("Store::rename_keyspace", |i| refused(i.store.rename_keyspace("other", "new"))),
    ("Store::drop_keyspace", |i| refused(i.store.drop_keyspace("other"))),
    ("Store::with_durability", |i| refused(i.store.with_durability(Durability::Disk).insert("a", "1"))),
    ("Store::flush", |i| refused(i.store.flush())),
    ("Store::last_seq", |i| i.store.last_seq().0 > 0),
    ("Store::durable_seq", |i| i.store.durable_seq() <= i.store.last_seq()),
    ("Store::wait_durable", |i| refused(i.store.wait_durable(i.store.last_seq()))),
    ("Store::snapshot", |i| {
        let snapshot = i.store.snapshot();
        refused(snapshot.get("a"))
            && refused(snapshot.keyspace("other"))
            && snapshot.keyspace_names().is_empty()
    }),
    ("Store::close", |i| refused(i.store.close())),
    ("Store::step", |i| refused(i.store.step())),
    ("Store::rest_step", |i| refused(i.store.rest_step())),
    ("Store::ordered_typed_keyspace", |i| {
        refused(i.store.ordered_typed_keyspace::<str, u32, _>("new", Postcard))
    }),
    ("Store::typed_keyspace", |i| refused(i.store.typed_keyspace::<str, u32, _>("typed", Postcard))),
    ("Store::stats", |i| i.store.stats() == mapcask::Stats::default()),
    ("Store::size_on_disk", |i| refused(i.store.size_on_disk())),
    ("Store::compact", |i| refused(i.store.compact())),
    ("Store::compact_with", |i| refused(i.store.compact_with(|_| true))),
    ("Store::compact_segments", |i| refused(i.store.compact_segments(&[1], |_| true))),
    ("Store::take_checkpoint", |i| refused(i.store.take_checkpoint())),
    ("Store::index_parts", |i| i.store.index_parts() == (0, 0)),
    ("Store::verify", |i| refused(i.store.verify())),
    ("Store::backup", |i| refused(i.store.backup("nowhere"))),
    ("Store::backup_on", |i| refused(i.store.backup_on(&SimDisk::new()))),
    ("Store::recovery_report", |i| i.store.recovery_report().created),
    ("Store as Debug", |i| !format!("{:?}", i.store).is_empty()),
    ("Store as IntoIterator", |i| (&i.store).into_iter().all(refused)),
    ("Store as Clone", |i| refused(i.store.clone().flush())),
    ("salvage_on", |i| refused(mapcask::salvage_on(&SimDisk::new(), &i.store))),
];

const FOLLOWER: &[Row] = &[
    ("Follower::refresh", |i| refused(i.follower.refresh())),
    ("Follower::wait", |i| refused(i.follower.wait(i.follower.last_seq(), PAUSE))),
    ("Follower::wait_with", |i| refused(i.follower.wait_with(i.follower.last_seq(), Wait::Spin, PAUSE))),
    ("Follower::wait_durable", |i| refused(i.follower.wait_durable(i.follower.last_seq(), PAUSE))),
    ("Follower::auto_refresh", |i| refused(i.follower.auto_refresh(Wait::Sleep))),
    ("Follower::take_over", |i| refused(i.follower.take_over(Options::new(), Some(PAUSE)))),
    ("AutoRefresh::error", |i| matches!(i.refreshing.error(), Some(Error::Forked))),
    ("Follower::keyspace", |i| refused(i.follower.keyspace("other"))),
    ("Follower::typed_keyspace", |i| refused(i.follower.typed_keyspace::<str, u32, _>("typed", Postcard))),
    ("Follower::keyspace_names", |i| i.follower.keyspace_names().is_empty()),
    ("Follower::snapshot", |i| refused(i.follower.snapshot().get("a"))),
    ("Follower::last_seq", |i| i.follower.last_seq().0 > 0),
    ("Follower::durable_seq", |i| refused(i.follower.durable_seq())),
    ("Follower::writer_status", |i| refused(i.follower.writer_status())),
    ("Follower::stats", |i| i.follower.stats() == mapcask::Stats::default()),
    ("Follower::size_on_disk", |i| refused(i.follower.size_on_disk())),
    ("Follower::verify", |i| refused(i.follower.verify())),
    ("Follower::backup", |i| refused(i.follower.backup("nowhere"))),
    ("Follower::backup_on", |i| refused(i.follower.backup_on(&SimDisk::new()))),
    ("Follower as Debug", |i| !format!("{:?}", i.follower).is_empty()),
    ("Follower as Deref", |i| refused(i.follower.get("a"))),
    ("Follower as IntoIterator", |i| (&i.follower).into_iter().all(refused)),
    ("Follower as Clone", |i| refused(i.follower.clone().refresh())),
];

const FEEDS: &[Row] = &[
    ("Store::changes", |i| refused(i.store.changes(Since::State))),
    ("Follower::changes", |i| refused(i.follower.changes(Since::State))),
    ("Changes::next_within", |mut i| refused(i.changes.next_within(PAUSE))),
    ("Changes::next", |mut i| matches!(i.changes.next(), Err(Error::Forked))),
    ("Changes::only", |i| matches!(i.changes.only([""]).next(), Err(Error::Forked))),
    ("Changes::durable", |i| matches!(i.changes.durable().next(), Err(Error::Forked))),
    ("Changes::position", |i| i.changes.position().seq() <= i.store.last_seq()),
    ("Changes as Debug", |i| !format!("{:?}", i.changes).is_empty()),
];

const KEYSPACE: &[Row] = &[
    ("Keyspace::with_durability", |i| refused(i.other.with_durability(Durability::Disk).remove("a"))),
    ("Keyspace::insert", |i| refused(i.other.insert("a", "1"))),
    ("Keyspace::remove", |i| refused(i.other.remove("a"))),
    ("Keyspace::write", |i| refused(i.other.write(&i.batch))),
    ("Keyspace::clear", |i| refused(i.other.clear())),
    ("Keyspace::compare_and_swap", |i| refused(i.other.compare_and_swap("a", None::<&str>, Some("1")))),
    ("Keyspace::insert_if_absent", |i| refused(i.other.insert_if_absent("a", "1"))),
    ("Keyspace::replace", |i| refused(i.other.replace("a", "1"))),
    ("Keyspace::take", |i| refused(i.other.take("a"))),
    ("Keyspace::fetch_and_update", |i| refused(i.other.fetch_and_update("a", |_| Some("1")))),
    ("Keyspace::update_and_fetch", |i| refused(i.other.update_and_fetch("a", |_| Some("1")))),
    ("Keyspace::pop_first", |i| refused(i.other.pop_first())),
    ("Keyspace::pop_last", |i| refused(i.other.pop_last())),
    ("Keyspace::pop_first_in", |i| refused(i.other.pop_first_in("a"..))),
    ("Keyspace::pop_last_in", |i| refused(i.other.pop_last_in("a"..))),
    ("Keyspace as Debug", |i| !format!("{:?}", i.other).is_empty()),
    ("WriteBatch::on", |mut i| {
        i.batch.on(&i.other).insert("a", "1");
        refused(i.store.write(&i.batch))
    }),
];

const READERS: &[Row] = &[
    ("Reader::name", |i| i.reader.name().is_empty()),
    ("Reader::get", |i| refused(i.reader.get("a"))),
    ("Reader::get_into", |i| refused(i.reader.get_into("a", &mut Vec::new()))),
    ("Reader::view", |i| refused(i.reader.view().get("a"))),
    ("Reader::contains_key", |i| refused(i.reader.contains_key("a"))),
    ("Reader::multi_get", |i| refused(i.reader.multi_get(&["a"]))),
    ("Reader::get_many_into", |i| refused(i.reader.get_many_into(&["a"], &mut Vec::new()))),
    ("Reader::prefetch", |i| {
        i.reader.prefetch(&["a"]);
        true
    }),
    ("Reader::try_get", |i| refused(i.reader.try_get("a"))),
    ("Reader::is_ordered", |i| !i.reader.is_ordered()),
    ("Reader::range", |i| refused(i.reader.range("a"..).next().unwrap())),
    ("Range::seek", |i| {
        let mut range = i.reader.range::<&str>(..);
        range.seek("a");
        refused(range.next().unwrap())
    }),
    ("Range::seek_back", |i| {
        let mut range = i.reader.range::<&str>(..);
        range.seek_back("a");
        refused(range.next_back().unwrap())
    }),
    ("View::range", |i| refused(i.reader.view().range("a"..).next().unwrap())),
    ("View::prefix", |i| refused(i.reader.view().prefix("a").next().unwrap())),
    ("ViewRange::seek", |i| {
        let view = i.reader.view();
        let mut range = view.range::<&str>(..);
        range.seek("a");
        refused(range.next().unwrap())
    }),
    ("ViewRange::seek_back", |i| {
        let view = i.reader.view();
        let mut range = view.range::<&str>(..);
        range.seek_back("a");
        refused(range.next_back().unwrap())
    }),
    ("SnapshotRange::seek", |i| {
        let mut range = i.part.range::<&str>(..);
        range.seek("a");
        refused(range.next().unwrap())
    }),
    ("SnapshotRange::seek_back", |i| {
        let mut range = i.part.range::<&str>(..);
        range.seek_back("a");
        refused(range.next_back().unwrap())
    }),
    ("Reader::prefix", |i| refused(i.reader.prefix("a").next_back().unwrap())),
    ("Reader::first_key_value", |i| refused(i.reader.first_key_value())),
    ("Reader::last_key_value", |i| refused(i.reader.last_key_value())),
    ("Reader::get_lt", |i| refused(i.reader.get_lt("a"))),
    ("Reader::get_le", |i| refused(i.reader.get_le("a"))),
    ("Reader::get_ge", |i| refused(i.reader.get_ge("a"))),
    ("Reader::get_gt", |i| refused(i.reader.get_gt("a"))),
    ("Reader::get_range", |i| refused(i.reader.get_range("a".., 1))),
    ("Reader::count_range", |i| refused(i.reader.count_range("a"..))),
    ("Reader::len", |i| i.reader.len() == 1),
    ("Reader::is_empty", |i| !i.reader.is_empty()),
    ("Reader::iter", |i| i.reader.iter().all(refused)),
    ("Reader::keys", |i| i.reader.keys().all(refused)),
    ("Reader::values", |i| i.reader.values().all(refused)),
    ("Reader::keyspace_stats", |i| refused(i.reader.keyspace_stats())),
    ("Reader as Debug", |i| !format!("{:?}", i.reader).is_empty()),
    ("Reader as Clone", |i| refused(i.reader.clone().get("a"))),
    ("Reader as IntoIterator", |i| (&i.reader).into_iter().all(refused)),
    ("Keyspace as Deref", |i| refused(i.other.get("a"))),
    ("Keyspace as IntoIterator", |i| (&i.other).into_iter().all(refused)),
    ("TypedReader::raw", |i| refused(i.typed_reader.raw().get("a"))),
    ("TypedReader::len", |i| i.typed_reader.len() == 1),
    ("TypedReader::is_empty", |i| !i.typed_reader.is_empty()),
    ("TypedReader::get", |i| refused(i.typed_reader.get("a"))),
    ("TypedReader::multi_get", |i| refused(i.typed_reader.multi_get(["a"]))),
    ("TypedReader::contains_key", |i| refused(i.typed_reader.contains_key("a"))),
    ("TypedReader::iter", |i| i.typed_reader.iter().all(refused)),
    ("TypedReader::range", |i| refused(i.typed_reader.range("a"..).next().unwrap())),
    ("TypedReader::prefix", |i| refused(i.typed_reader.prefix("a").next_back().unwrap())),
    ("TypedReader::first_key_value", |i| refused(i.typed_reader.first_key_value())),
    ("TypedReader::last_key_value", |i| refused(i.typed_reader.last_key_value())),
    ("TypedReader::get_lt", |i| refused(i.typed_reader.get_lt("a"))),
    ("TypedReader::get_le", |i| refused(i.typed_reader.get_le("a"))),
    ("TypedReader::get_ge", |i| refused(i.typed_reader.get_ge("a"))),
    ("TypedReader::get_gt", |i| refused(i.typed_reader.get_gt("a"))),
    ("TypedReader::get_range", |i| refused(i.typed_reader.get_range("a".., 1))),
    ("TypedReader::count_range", |i| refused(i.typed_reader.count_range("a"..))),
    ("TypedReader::encode_key", |i| i.typed_reader.encode_key("a").is_ok()),
    ("TypedReader::decode_key", |i| i.typed_reader.decode_key(b"\x01a").unwrap() == "a"),
    ("TypedReader::decode_value", |i| i.typed_reader.decode_value(&[1]).unwrap() == 1),
    ("TypedRange::seek", |i| {
        let mut range = i.typed_reader.range::<&str>(..);
        range.seek("a").is_ok() && refused(range.next().unwrap())
    }),
    ("TypedRange::seek_back", |i| {
        let mut range = i.typed_reader.range::<&str>(..);
        range.seek_back("a").is_ok() && refused(range.next().unwrap())
    }),
    ("TypedReader as Debug", |i| !format!("{:?}", i.typed_reader).is_empty()),
    ("TypedReader as Clone", |i| refused(i.typed_reader.clone().get("a"))),
    ("TypedKeyspace as Deref", |i| refused(i.typed.get("a"))),
];

const TYPED: &[Row] = &[
    ("TypedKeyspace::raw", |i| refused(i.typed.raw().get("a"))),
    ("TypedKeyspace::with_durability", |i| {
        refused(i.typed.with_durability(Durability::Disk).insert("a", &1))
    }),
    ("TypedKeyspace::insert", |i| refused(i.typed.insert("a", &1))),
    ("TypedKeyspace::insert_if_absent", |i| refused(i.typed.insert_if_absent("a", &1))),
    ("TypedKeyspace::replace", |i| refused(i.typed.replace("a", &1))),
    ("TypedKeyspace::remove", |i| refused(i.typed.remove("a"))),
    ("TypedKeyspace::take", |i| refused(i.typed.take("a"))),
    ("TypedKeyspace::fetch_and_update", |i| refused(i.typed.fetch_and_update("a", |_| Some(1)))),
    ("TypedKeyspace::update_and_fetch", |i| refused(i.typed.update_and_fetch("a", |_| Some(1)))),
    ("TypedKeyspace::insert_in", |mut i| i.typed.insert_in(&mut i.batch, "a", &1).is_ok()),
    ("TypedKeyspace::remove_in", |mut i| i.typed.remove_in(&mut i.batch, "a").is_ok()),
    ("TypedKeyspace::compare_and_swap", |i| refused(i.typed.compare_and_swap("a", None, Some(&1)))),
    ("TypedKeyspace::pop_first", |i| refused(i.typed.pop_first())),
    ("TypedKeyspace::pop_last", |i| refused(i.typed.pop_last())),
    ("TypedKeyspace::pop_first_in", |i| refused(i.typed.pop_first_in("a"..))),
    ("TypedKeyspace::pop_last_in", |i| refused(i.typed.pop_last_in("a"..))),
    ("TypedKeyspace as Debug", |i| !format!("{:?}", i.typed).is_empty()),
];

const READS: &[Row] = &[
    ("Snapshot::keyspace", |i| refused(i.snapshot.keyspace("other"))),
    ("Snapshot::keyspace_names", |i| i.snapshot.keyspace_names() == ["other", "typed"]),
    ("Snapshot::seq", |i| i.snapshot.seq().0 > 0),
    ("Snapshot::age", |i| i.snapshot.age().as_secs() == 0),
    ("Snapshot as Debug", |i| !format!("{:?}", i.snapshot).is_empty()),
    ("KeyspaceSnapshot::get", |i| refused(i.part.get("a"))),
    ("KeyspaceSnapshot::contains_key", |i| refused(i.part.contains_key("a"))),
    ("KeyspaceSnapshot::multi_get", |i| refused(i.part.multi_get(&["a"]))),
    ("KeyspaceSnapshot::is_ordered", |i| !i.part.is_ordered()),
    ("KeyspaceSnapshot::range", |i| refused(i.part.range("a"..).next().unwrap())),
    ("KeyspaceSnapshot::prefix", |i| refused(i.part.prefix("a").next().unwrap())),
    ("KeyspaceSnapshot::first_key_value", |i| refused(i.part.first_key_value())),
    ("KeyspaceSnapshot::last_key_value", |i| refused(i.part.last_key_value())),
    ("KeyspaceSnapshot::get_lt", |i| refused(i.part.get_lt("a"))),
    ("KeyspaceSnapshot::get_le", |i| refused(i.part.get_le("a"))),
    ("KeyspaceSnapshot::get_ge", |i| refused(i.part.get_ge("a"))),
    ("KeyspaceSnapshot::get_gt", |i| refused(i.part.get_gt("a"))),
    ("KeyspaceSnapshot::count_range", |i| refused(i.part.count_range("a"..))),
    ("KeyspaceSnapshot::iter", |i| i.part.iter().all(refused)),
    ("KeyspaceSnapshot as Debug", |i| !format!("{:?}", i.part).is_empty()),
    ("View::refresh", |mut i| {
        i.view.refresh();
        true
    }),
    ("View::get", |i| refused(i.view.get("a"))),
    ("View::contains_key", |i| refused(i.view.contains_key("a"))),
    ("View::get_many_into", |i| refused(i.view.get_many_into(&["a"], &mut Vec::new()))),
    ("View::first_key_value", |i| refused(i.view.first_key_value())),
    ("View::last_key_value", |i| refused(i.view.last_key_value())),
    ("View::get_lt", |i| refused(i.view.get_lt("a"))),
    ("View::get_le", |i| refused(i.view.get_le("a"))),
    ("View::get_ge", |i| refused(i.view.get_ge("a"))),
    ("View::get_gt", |i| refused(i.view.get_gt("a"))),
    ("View::get_range", |i| refused(i.view.get_range("a".., 1))),
    ("View::count_range", |i| refused(i.view.count_range("a"..))),
    ("View::iter", |i| i.view.iter().all(refused)),
    ("View as IntoIterator", |i| (&i.view).into_iter().all(refused)),
    ("View as Debug", |i| !format!("{:?}", i.view).is_empty()),
    ("ViewIter as Debug", |i| !format!("{:?}", i.view.iter()).is_empty()),
    ("Iter as Debug", |i| !format!("{:?}", i.iter).is_empty()),
    ("Iter as Iterator", |i| {
        i.iter.filter(|item| !refused(item.as_ref().map_err(Clone::clone))).count() <= 64
    }),
    ("SnapshotIter as Debug", |i| !format!("{:?}", i.snapshot_iter).is_empty()),
    ("SnapshotIter as Iterator", |i| i.snapshot_iter.filter(|item| item.is_ok()).count() <= 64),
    ("Store::begin", |i| refused(i.store.begin().get(&i.other, "a"))),
    ("Store::transact", |i| refused(i.store.transact(|t| t.insert(&i.other, "a", "1")))),
    ("Transaction::get", |mut i| refused(i.transaction.get(&i.other, "a"))),
    ("Transaction::contains_key", |mut i| refused(i.transaction.contains_key(&i.store, "a"))),
    ("Transaction::peek", |i| refused(i.transaction.peek(&i.other, "a"))),
    ("Transaction::range", |mut i| refused(i.transaction.range(&i.other, "a"..).next().unwrap())),
    ("Transaction::prefix", |mut i| refused(i.transaction.prefix(&i.other, "a").next_back().unwrap())),
    ("Transaction::first_key_value", |mut i| refused(i.transaction.first_key_value(&i.other))),
    ("Transaction::last_key_value", |mut i| refused(i.transaction.last_key_value(&i.other))),
    ("Transaction::get_lt", |mut i| refused(i.transaction.get_lt(&i.other, "a"))),
    ("Transaction::get_le", |mut i| refused(i.transaction.get_le(&i.other, "a"))),
    ("Transaction::get_ge", |mut i| refused(i.transaction.get_ge(&i.other, "a"))),
    ("Transaction::get_gt", |mut i| refused(i.transaction.get_gt(&i.other, "a"))),
    ("Transaction::count_range", |mut i| refused(i.transaction.count_range(&i.other, "a"..))),
    ("Transaction::snapshot", |i| refused(i.transaction.snapshot().get("a"))),
    ("Transaction::insert", |mut i| refused(i.transaction.insert(&i.other, "a", "1"))),
    ("Transaction::remove", |mut i| refused(i.transaction.remove(&i.store, "a"))),
    ("Transaction::with_durability", |i| refused(i.transaction.with_durability(Durability::Disk).commit())),
    ("Transaction::commit", |i| refused(i.transaction.commit())),
    ("Transaction::on", |mut i| refused(i.transaction.on(&i.typed).get("a"))),
    ("TypedTransaction::get", |mut i| refused(i.transaction.on(&i.typed).get("a"))),
    ("TypedTransaction::contains_key", |mut i| refused(i.transaction.on(&i.typed).contains_key("a"))),
    ("TypedTransaction::peek", |mut i| refused(i.transaction.on(&i.typed).peek("a"))),
    ("TypedTransaction::insert", |mut i| refused(i.transaction.on(&i.typed).insert("a", &1))),
    ("TypedTransaction::remove", |mut i| refused(i.transaction.on(&i.typed).remove("a"))),
    ("TypedTransaction::first_key_value", |mut i| refused(i.transaction.on(&i.typed).first_key_value())),
    ("TypedTransaction::last_key_value", |mut i| refused(i.transaction.on(&i.typed).last_key_value())),
    ("TypedTransaction::get_lt", |mut i| refused(i.transaction.on(&i.typed).get_lt("a"))),
    ("TypedTransaction::get_le", |mut i| refused(i.transaction.on(&i.typed).get_le("a"))),
    ("TypedTransaction::get_ge", |mut i| refused(i.transaction.on(&i.typed).get_ge("a"))),
    ("TypedTransaction::get_gt", |mut i| refused(i.transaction.on(&i.typed).get_gt("a"))),
    ("TypedTransaction::count_range", |mut i| refused(i.transaction.on(&i.typed).count_range("a"..))),
    ("TypedTransaction::range", |mut i| refused(i.transaction.on(&i.typed).range("a"..).next().unwrap())),
    ("TypedTransaction::prefix", |mut i| refused(i.transaction.on(&i.typed).prefix("a").next().unwrap())),
    ("Transaction as Debug", |i| !format!("{:?}", i.transaction).is_empty()),
    ("every handle dropped", |i| {
        drop(i);
        true
    }),
];

fn rows() -> impl Iterator<Item = &'static Row> {
    STORE.iter().chain(FOLLOWER).chain(FEEDS).chain(KEYSPACE).chain(READERS).chain(TYPED).chain(READS)
}

#[test]
fn every_public_function_has_a_row() {
    let all = api::public_functions().into_iter().map(|function| function.name);
    let refers = |name: &String| !name.starts_with("Options::") && !api::WITHOUT_A_HANDLE.contains(&&**name);
    let missing: Vec<_> = all.filter(refers).filter(|name| !rows().any(|(row, _)| row == name)).collect();
    assert!(missing.is_empty(), "no row for: {missing:?}");
}

/// Runs a row in a forked child. Returns the defect, if there is one.
fn in_child(row: fn(Inherited<'_>) -> bool, inherited: Inherited<'_>) -> Result<(), &'static str> {
    // SAFETY: the child calls only the row and `_exit`. The test is that no row takes a lock which
    // another thread may hold; the alarm ends a child that does.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        // SAFETY: sets a timer of this process.
        unsafe { libc::alarm(PATIENCE) };
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| row(inherited)));
        let code = i32::from(!passed.unwrap_or(false));
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    match () {
        () if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGALRM => Err("waits for a lock"),
        () if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 => Ok(()),
        () => Err("neither refused nor harmless"),
    }
}

#[test]
fn no_public_function_waits_for_a_lock_of_the_parent() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).segment_bytes(16 << 10).open_on(&disk).unwrap();
    let other = store.keyspace("other").unwrap();
    let typed: TypedKeyspace<str, u32, Postcard> = store.typed_keyspace("typed", Postcard).unwrap();
    for n in 0..20_u8 {
        store.insert([n], [n]).unwrap();
    }
    other.insert("a", "1").unwrap();
    typed.insert("a", &1).unwrap();
    let snapshot = store.snapshot();
    // The handles are made before the locks are taken, because making them needs some of the locks.
    let inherited = |store: &Store| {
        (
            store.clone(),
            other.clone(),
            typed.clone(),
            snapshot.clone(),
            snapshot.keyspace("other").unwrap(),
            store.iter(),
            part_iter(&snapshot),
            store.changes(Since::State).unwrap(),
            transaction(store, &other),
        )
    };
    let made: Vec<_> = rows().map(|_| inherited(&store)).collect();
    let (_followed, follower) = follower();
    let ended = AtomicBool::new(false);
    // One thread stands in the middle of a pass. Another makes a segment under the writer mutex. A
    // third one takes the follower's locks again and again, so that most forks find them held.
    let pass = disk.hold_nth(Operation::SyncRange, 1);
    let roll = disk.hold_nth(Operation::Sync, 1);
    let mut wrong = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| store.compact().unwrap());
        pass.wait();
        scope.spawn(|| store.insert("large", vec![7; 64 << 10]).unwrap());
        roll.wait();
        scope.spawn(|| refresh_until(&ended, &follower));
        for ((name, row), made) in rows().zip(made) {
            let (own, other, typed, snapshot, part, iter, snapshot_iter, changes, transaction) = made;
            let view = store.view();
            let inherited = Inherited {
                store: own,
                follower: follower.clone(),
                refreshing: follower.auto_refresh(Wait::Poll(PAUSE)).unwrap(),
                reader: Reader::clone(&other),
                other,
                typed_reader: TypedReader::clone(&typed),
                typed,
                snapshot,
                part,
                view,
                iter,
                snapshot_iter,
                batch: one_write(),
                changes,
                transaction,
            };
            if let Err(why) = in_child(*row, inherited) {
                wrong.push(format!("{name}: {why}"));
            }
        }
        ended.store(true, Ordering::Relaxed);
        roll.open();
        pass.open();
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    check(&store);
}

fn one_write() -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.insert("a", "1");
    batch
}

fn transaction(store: &Store, other: &Keyspace) -> Transaction {
    let mut transaction = store.begin();
    transaction.get(other, "a").unwrap();
    transaction.insert(other, "b", "2").unwrap();
    transaction
}

/// Checks that the store works on in the parent.
fn check(store: &Store) {
    store.verify().unwrap();
    assert_eq!(store.get("large").unwrap().map(|value| value.len()), Some(64 << 10));
}

/// Returns a follower of a store on a disk of its own. A child cannot wait for a lock of that disk,
/// because only the follower uses it.
fn follower() -> (Store, Follower) {
    let disk = SimDisk::new();
    let store = Options::new().background(false).open_on(&disk).unwrap();
    store.insert("a", "1").unwrap();
    store.keyspace("other").unwrap().insert("a", "1").unwrap();
    store.typed_keyspace::<str, u32, _>("typed", Postcard).unwrap().insert("a", &1).unwrap();
    let follower = Options::new().follow_on(&disk).unwrap();
    (store, follower)
}

fn refresh_until(ended: &AtomicBool, follower: &Follower) {
    while !ended.load(Ordering::Relaxed) {
        follower.refresh().unwrap();
    }
}

fn part_iter(snapshot: &Snapshot) -> SnapshotIter {
    let mut iter = snapshot.iter();
    iter.next();
    iter
}
