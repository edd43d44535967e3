//! Tests that the documentation has examples, and the search words that users of other stores know.
//!
//! The tests read the source as text: the attributes and documentation above each `pub` item.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The file of the item, the item, and the words that must find it.
const ALIASES: [(&str, &str, &[&str]); 47] = [
    ("api/store.rs", "struct Store", &["Database", "Environment"]),
    ("api/store.rs", "fn keyspace", &["open_tree", "open_table", "open_partition", "create_column_family"]),
    ("api/store.rs", "fn keyspace_names", &["tree_names", "list_tables"]),
    ("api/store.rs", "fn drop_keyspace", &["drop_tree", "delete_table"]),
    ("api/store.rs", "fn flush", &["persist", "sync"]),
    ("api/admin.rs", "fn size_on_disk", &["disk_space"]),
    ("api/admin.rs", "fn verify", &["check_integrity"]),
    ("api/store.rs", "fn snapshot", &["begin_read"]),
    ("api/admin.rs", "fn compact", &["compact_range", "vacuum", "merge"]),
    ("api/keyspace.rs", "struct Keyspace", &["Tree", "Table", "Partition", "ColumnFamily"]),
    ("api/keyspace.rs", "fn insert", &["put", "set"]),
    ("api/keyspace.rs", "fn remove", &["delete"]),
    ("api/keyspace.rs", "fn write", &["apply_batch", "commit", "transaction"]),
    ("api/reader.rs", "fn iter", &["scan"]),
    ("api/ordered.rs", "fn prefix", &["scan_prefix"]),
    ("api/ordered.rs", "fn range", &["scan"]),
    ("api/ordered.rs", "fn first_key_value", &["first", "min"]),
    ("api/keyspace.rs", "fn pop_first", &["pop_min"]),
    ("api/keyspace.rs", "fn clear", &["truncate"]),
    ("api/conditional.rs", "fn compare_and_swap", &["cas"]),
    ("api/conditional.rs", "fn fetch_and_update", &["merge"]),
    ("api/conditional.rs", "fn update_and_fetch", &["merge"]),
    ("api/write_batch.rs", "struct WriteBatch", &["Transaction"]),
    ("api/write_batch.rs", "fn insert", &["put", "set"]),
    ("api/write_batch.rs", "fn remove", &["delete"]),
    ("api/batch_on.rs", "fn insert", &["put", "set"]),
    ("api/batch_on.rs", "fn remove", &["delete"]),
    ("api/transact.rs", "fn begin", &["begin_write", "write_tx", "transaction"]),
    ("api/transact.rs", "fn transact", &["transaction"]),
    ("api/transaction.rs", "struct Transaction", &["WriteTransaction", "RwTxn"]),
    ("api/transaction.rs", "fn insert", &["put", "set"]),
    ("api/transaction.rs", "fn remove", &["delete"]),
    ("api/tx_range.rs", "fn range", &["scan"]),
    ("api/typed/typed_keyspace.rs", "fn insert", &["put", "set"]),
    ("api/typed/typed_keyspace.rs", "fn remove", &["delete"]),
    ("api/typed/typed_keyspace.rs", "fn pop_first", &["pop_min"]),
    ("api/typed/range.rs", "fn range", &["scan"]),
    ("api/typed/range.rs", "fn prefix", &["scan_prefix"]),
    ("api/typed/range.rs", "fn first_key_value", &["first", "min"]),
    ("api/typed/transaction.rs", "fn insert", &["put", "set"]),
    ("api/typed/transaction.rs", "fn range", &["scan"]),
    ("api/salvage/mod.rs", "fn salvage", &["repair"]),
    ("api/backup/mod.rs", "fn backup", &["checkpoint", "hot_backup"]),
    ("api/follower.rs", "struct Follower", &["open_read_only", "secondary"]),
    ("api/take_over.rs", "fn take_over", &["promote", "failover"]),
    ("api/follower.rs", "fn refresh", &["catch_up", "try_catch_up_with_primary"]),
    ("api/follower.rs", "fn size_on_disk", &["disk_space"]),
];

/// The files whose public functions need an example, and the functions that are plain without one.
const EXAMPLES: [(&str, &[&str]); 29] = [
    ("api/store.rs", &[]),
    ("api/admin.rs", &[]),
    ("api/snapshot.rs", &[]),
    ("api/keyspace.rs", &["pop_last", "pop_first_in", "pop_last_in"]),
    ("api/ordered.rs", &["is_ordered", "last_key_value", "get_le", "get_ge", "get_gt"]),
    ("api/reader.rs", &["name", "contains_key", "len", "is_empty", "keys", "values"]),
    ("api/conditional.rs", &[]),
    (
        "api/write_batch.rs",
        &["new", "insert", "remove", "is_empty", "clear", "require", "require_present", "require_absent"],
    ),
    // A part of a batch has the functions of a batch, which has an example.
    ("api/batch_on.rs", &["insert", "remove", "require", "require_present", "require_absent"]),
    ("api/transact.rs", &[]),
    ("api/transaction.rs", &["contains_key", "insert", "remove"]),
    ("api/tx_range.rs", &["prefix", "last_key_value", "get_lt", "get_le", "get_ge", "get_gt", "count_range"]),
    // These act as on a keyspace of bytes, or are in the example of another function.
    (
        "api/typed/typed_keyspace.rs",
        &[
            "with_durability",
            "insert",
            "insert_if_absent",
            "remove",
            "take",
            "fetch_and_update",
            "remove_in",
            "pop_last",
            "pop_first_in",
            "pop_last_in",
        ],
    ),
    ("api/typed/reader.rs", &["len", "is_empty", "get", "contains_key", "decode_key", "decode_value"]),
    ("api/typed/range.rs", &["last_key_value", "get_le", "get_ge", "get_gt", "count_range"]),
    ("api/typed/iter.rs", &["seek_back"]),
    // These act as on keys and values of bytes.
    (
        "api/typed/transaction.rs",
        &[
            "get",
            "contains_key",
            "peek",
            "insert",
            "remove",
            "prefix",
            "first_key_value",
            "last_key_value",
            "get_lt",
            "get_le",
            "get_ge",
            "get_gt",
            "count_range",
        ],
    ),
    ("api/options.rs", &["new"]),
    ("api/opening.rs", &[]),
    // The names and the last number are in the examples of other functions.
    ("api/follower.rs", &["keyspace_names", "last_seq", "follow_on"]),
    ("api/auto_refresh.rs", &[]),
    ("api/waiting.rs", &[]),
    ("api/take_over.rs", &[]),
    ("engine/read/mod.rs", &["range", "prefix"]),
    ("error.rs", &[]),
    ("api/salvage/mod.rs", &["salvage_on"]),
    ("api/destroy.rs", &["destroy_on"]),
    ("api/backup/mod.rs", &["backup_on"]),
    ("api/backup/restore.rs", &["restore_on"]),
];

/// A public item: `fn name` or the like, and the lines of documentation and attributes above it.
#[derive(Debug)]
struct Item {
    name: String,
    head: Vec<String>,
}

impl Item {
    fn has_alias(&self, alias: &str) -> bool {
        self.head.iter().any(|line| *line == format!("#[doc(alias = \"{alias}\")]"))
    }

    fn has_example(&self) -> bool {
        self.head.iter().any(|line| line == "/// ```")
    }
}

fn items(text: &str) -> Vec<Item> {
    let (mut items, mut head) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with("///") || line.starts_with("#[") {
            head.push(line.to_owned());
            continue;
        }
        let head = std::mem::take(&mut head);
        let words = line.strip_prefix("pub ").map(|rest| rest.trim_start_matches("const "));
        if let Some((kind, rest)) = words.and_then(|words| words.split_once(' ')) {
            let end = rest.find(|character: char| !character.is_alphanumeric() && character != '_');
            items.push(Item { name: format!("{kind} {}", &rest[..end.unwrap_or(rest.len())]), head });
        }
    }
    items
}

fn items_of(file: &str) -> Vec<Item> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    items(&fs::read_to_string(path).unwrap())
}

fn missing_aliases(file: &str, items: &[Item], name: &str, aliases: &[&str]) -> Vec<String> {
    let named = || items.iter().filter(|item| item.name == name);
    if named().next().is_none() {
        return vec![format!("{file} has no public `{name}`; say in tests/public_api.rs where it is")];
    }
    let missing = aliases.iter().filter(|alias| !named().any(|item| item.has_alias(alias)));
    missing.map(|alias| format!("`{name}` in {file} is not found by {alias:?}")).collect()
}

fn without_example<'i>(items: &'i [Item], plain: &[&str]) -> Vec<&'i str> {
    let functions = items.iter().filter_map(|item| Some((item.name.strip_prefix("fn ")?, item)));
    let bare = functions.filter(|(name, item)| !item.has_example() && !plain.contains(name));
    bare.map(|(name, _)| name).collect()
}

#[test]
fn the_words_of_other_stores_find_ours() {
    let complaints: Vec<String> = ALIASES
        .iter()
        .flat_map(|(file, name, aliases)| missing_aliases(file, &items_of(file), name, aliases))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_public_function_has_an_example_or_is_plain() {
    for (file, plain) in EXAMPLES {
        let items = items_of(file);
        assert_eq!(without_example(&items, plain), [""; 0], "{file}");
        let names: BTreeSet<&str> = items.iter().filter_map(|item| item.name.strip_prefix("fn ")).collect();
        assert!(plain.iter().all(|name| names.contains(name)), "{file} lists what is not there");
    }
}

#[test]
fn every_kind_of_codec_and_disk_has_an_example() {
    for file in [
        "api/typed/codec.rs",
        "api/typed/postcard.rs",
        "api/typed/bincode.rs",
        "sync/worker.rs",
        "engine/read/bytes.rs",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        assert!(fs::read_to_string(path).unwrap().contains("/// ```\n"), "{file}");
    }
}

#[test]
fn a_missing_alias_and_a_missing_example_are_found() {
    let text = "/// Puts.\n///\n/// ```\n/// put();\n/// ```\n#[doc(alias = \"put\")]\npub fn insert<K>(key: K) {}\n\
                /// Takes.\npub const fn take() {}\n/// Not public.\npub(crate) fn inner() {}\n";
    let items = items(text);
    assert_eq!(items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["fn insert", "fn take"]);
    assert_eq!(missing_aliases("a.rs", &items, "fn insert", &["put"]), [""; 0]);
    assert_eq!(missing_aliases("a.rs", &items, "fn insert", &["put", "set"]).len(), 1);
    assert_eq!(missing_aliases("a.rs", &items, "fn take", &["put"]).len(), 1);
    assert_eq!(missing_aliases("a.rs", &items, "fn gone", &["put"]).len(), 1);
    assert_eq!(without_example(&items, &[]), ["take"]);
    assert_eq!(without_example(&items, &["take"]), [""; 0]);
}
