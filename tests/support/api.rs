//! The list of the library's public functions, read from the source.

use std::path::Path;

/// The files that define the methods of types that refer to an open store.
const SOURCES: [&str; 30] = [
    "api/store.rs",
    "api/admin.rs",
    "api/keyspace.rs",
    "api/reader.rs",
    "api/ordered.rs",
    "api/conditional.rs",
    "api/typed/typed_keyspace.rs",
    "api/typed/reader.rs",
    "api/typed/range.rs",
    "api/typed/iter.rs",
    "api/typed/transaction.rs",
    "api/snapshot.rs",
    "api/snapshot_range.rs",
    "api/transact.rs",
    "api/transaction.rs",
    "api/tx_range.rs",
    "engine/read/mod.rs",
    "engine/read/iter.rs",
    "engine/read/range.rs",
    "api/salvage/mod.rs",
    "api/destroy.rs",
    "api/backup/mod.rs",
    "api/backup/restore.rs",
    "api/options.rs",
    "api/opening.rs",
    "api/follower.rs",
    "api/auto_refresh.rs",
    "api/waiting.rs",
    "api/take_over.rs",
    "api/changes.rs",
];

/// Functions that need no handle of a store.
#[allow(dead_code, reason = "each test file uses its part")]
pub(crate) const WITHOUT_A_HANDLE: [&str; 8] = [
    "Store::open",
    "Follower::open",
    "Changes::open",
    "salvage",
    "destroy",
    "destroy_on",
    "restore",
    "restore_on",
];

/// A public function: the name of its type and its own, and its signature.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    #[allow(dead_code, reason = "each test file uses its part")]
    pub(crate) head: String,
}

/// Returns every public function of the types that refer to a store, and of those that open one.
pub(crate) fn public_functions() -> Vec<Function> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: &str| std::fs::read_to_string(source.join(file)).expect("a source file");
    let found: Vec<_> = SOURCES.iter().flat_map(|file| functions_in(&read(file))).collect();
    assert!(
        found.len() > 80,
        "only {} functions were found: is the source read as it should be?",
        found.len()
    );
    found
}

fn functions_in(source: &str) -> Vec<Function> {
    let mut of_type = None;
    let mut found = Vec::new();
    let mut lines = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    while let Some(line) = lines.next() {
        if let Some(head) = line.strip_prefix("impl") {
            // Accepts inherent impls, such as `impl<'s> View<'s> {`, and skips trait impls.
            let head =
                head.strip_prefix('<').and_then(|rest| rest.split_once("> ")).map_or(head, |(_, head)| head);
            let name = head.trim().split(['<', ' ']).next().unwrap_or_default();
            of_type = (!head.contains(" for ")).then(|| name.to_owned());
        } else if line == "}" {
            of_type = None;
        }
        let Some(rest) = line.trim_start().strip_prefix("pub fn ") else { continue };
        let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
        let name = match &of_type {
            Some(of_type) => format!("{of_type}::{name}"),
            None if !line.starts_with(' ') => name,
            None => continue,
        };
        let mut head = line.to_owned();
        while !head.ends_with('{') {
            head += lines.next().expect("a function has a body");
        }
        found.push(Function { name, head });
    }
    found
}
