//! Moves a sled 0.34 database to mapcask, each tree to the keyspace of its name, and then compares
//! everything.
//!
//! `cargo run --release --manifest-path examples/from_sled/Cargo.toml [SLED_DIR NEW_DIR]` moves a
//! database. Without directories it makes one, moves it, and removes both.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use mapcask::{Keyspace, Options, Store, WriteBatch};

/// The tree that always exists; it becomes the default keyspace.
const DEFAULT_TREE: &[u8] = b"__sled__default";
/// The size of one batch, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Returns the keyspace for a tree. sled's names are bytes, those of keyspaces are text.
fn keyspace_for(store: &Store, tree: &[u8]) -> Result<Keyspace, Box<dyn Error>> {
    if tree == DEFAULT_TREE {
        return Ok(store.keyspace("")?);
    }
    Ok(store.keyspace(std::str::from_utf8(tree)?)?)
}

/// Copies every tree. After a crash the store holds a prefix of the copy, batch by batch.
fn migrate(from: &sled::Db, into: &Store) -> Result<(), Box<dyn Error>> {
    let mut batch = WriteBatch::new();
    let mut len = 0;
    for name in from.tree_names() {
        let tree = from.open_tree(&name)?;
        let keyspace = keyspace_for(into, &name)?;
        for item in &tree {
            let (key, value) = item?;
            batch.on(&keyspace).insert(&key, &value);
            len += key.len() + value.len();
            if len >= BATCH_BYTES {
                into.write(&batch)?;
                batch.clear();
                len = 0;
            }
        }
    }
    into.write(&batch)?;
    into.flush()?;
    Ok(())
}

/// Checks that each keyspace holds exactly the items of its tree. Returns the number of keys.
fn compare(from: &sled::Db, with: &Store) -> Result<usize, Box<dyn Error>> {
    let (mut keys, mut names) = (0, Vec::new());
    for name in from.tree_names() {
        let tree = from.open_tree(&name)?;
        let keyspace = keyspace_for(with, &name)?;
        assert_eq!(keyspace.len(), tree.len(), "tree {}", name.escape_ascii());
        for item in &tree {
            let (key, value) = item?;
            assert_eq!(keyspace.get(&key)?.as_deref(), Some(&*value), "key {}", key.escape_ascii());
        }
        for item in &keyspace {
            let (key, value) = item?;
            assert_eq!(tree.get(&key)?.as_deref(), Some(&*value), "key {}", key.escape_ascii());
        }
        keys += keyspace.len();
        names.extend(Some(keyspace.name()).filter(|name| !name.is_empty()));
    }
    names.sort();
    assert_eq!(with.keyspace_names(), names);
    Ok(keys)
}

/// Makes a database with three trees beside the default one: small values, large values, and none.
fn make_database(path: &Path) -> sled::Result<()> {
    let db = sled::open(path)?;
    db.insert("version", "7")?;
    let (users, orders) = (db.open_tree("users")?, db.open_tree("orders")?);
    db.open_tree("empty")?;
    for number in 0_u32..5000 {
        users.insert(format!("user {number}"), number.to_be_bytes().to_vec())?;
        orders.insert(number.to_be_bytes(), vec![7; number as usize % 3000])?;
    }
    for number in (0_u32..5000).step_by(3) {
        users.remove(format!("user {number}"))?;
    }
    db.flush()?;
    Ok(())
}

fn run(from: &Path, into: &Path) -> Result<(), Box<dyn Error>> {
    let db = sled::open(from)?;
    let store = Store::open(into)?;
    migrate(&db, &store)?;
    store.close()?;
    // The next run of the program would open it like this.
    let store = Options::new().create(false).open(into)?;
    let keys = compare(&db, &store)?;
    let (trees, records) = (db.tree_names().len(), store.verify()?.records);
    store.close()?;
    writeln!(
        std::io::stdout(),
        "{keys} keys of {trees} trees moved and compared, {records} records verified"
    )?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, from, into] = &std::env::args_os().collect::<Vec<_>>()[..] {
        return run(from.as_ref(), into.as_ref());
    }
    let directory = tempfile::tempdir()?;
    let (from, into) = (directory.path().join("sled"), directory.path().join("mapcask"));
    make_database(&from)?;
    run(&from, &into)
}
