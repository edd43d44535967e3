//! Tests that a file of the library is named after a type, a function or another item in it, or
//! stands in the list of those that are named after the job of their functions.
//!
//! The rule reads names as words: a folder may say a part of a file's name, and the singular
//! stands for the plural. Tests and models are exempt.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

#[path = "support/source_text.rs"]
mod source_text;

use self::source_text::{blank, files, first_word, words};

/// The files of `src/` that are named after the job that their functions do.
const JOB_FILES: &[&str] = &[
    "api/admin.rs",
    "api/conditional.rs",
    "api/opening.rs",
    "api/salvage/writing.rs",
    "api/typed/bounded_reader.rs",
    "api/typed/bounded_writer.rs",
    "api/waiting.rs",
    "bin/mapcask/commands.rs",
    "bin/mapcask/demo/report.rs",
    "bin/mapcask/salvage.rs",
    "engine/checkpoint/take.rs",
    "engine/compaction/policy.rs",
    "engine/compaction/tombstone_rule.rs",
    "engine/maintenance.rs",
    "engine/read/bytes.rs",
    "engine/read/copy.rs",
    "engine/scrub.rs",
    "format/control_page.rs",
    "fs/dir_handle.rs",
    "fs/dir_handle_portable.rs",
    "fs/platform.rs",
    "fs/sim/processes.rs",
    "log/segment/errors.rs",
    "log/segment/prefault.rs",
    "log/segment/unbacked.rs",
    "mem/guard_table.rs",
    "mem/sigbus.rs",
    "recovery/decision.rs",
    "recovery/read_only.rs",
];

/// Checks the files of the library, with their paths from the root, against the list.
fn check(files: &[(String, String)], listed: &[&str]) -> Vec<String> {
    let library = files.iter().filter_map(|(path, text)| Some((path.strip_prefix("src/")?, text)));
    let mut missing = listed.to_vec();
    let mut complaints = Vec::new();
    for (path, text) in library {
        missing.retain(|listed| *listed != path);
        let (has_name, is_listed) = (has_its_name(path, text), listed.contains(&path));
        if !has_name && !is_listed {
            complaints.push(format!("src/{path}: nothing in it has its name"));
        } else if has_name && is_listed {
            complaints.push(format!("src/{path}: it has its name, so take it off the list"));
        }
    }
    complaints.extend(missing.iter().map(|path| format!("src/{path}: it is listed and not there")));
    complaints
}

/// Returns true if a file defines an item of its name, or need not. A folder may say a part.
fn has_its_name(path: &str, text: &str) -> bool {
    let Some((folder, stem)) = path.strip_suffix(".rs").and_then(|path| path.rsplit_once('/')) else {
        return true;
    };
    let is_test = stem.ends_with("tests") || folder.contains("tests") || folder.contains("model");
    if is_test || ["mod", "lib", "main"].contains(&stem) {
        return true;
    }
    let (code, wanted, folders) = (blank(text), parts(stem), parts(&folder.replace('/', "_")));
    let fits = |name: String| {
        let found = parts(&name);
        let is_said = |part: &String| found.contains(part) || folders.contains(part);
        found.concat().contains(&wanted.concat())
            || wanted.iter().all(is_said) && wanted.iter().any(|part| found.contains(part))
    };
    let after = |end: usize| first_word(code[end..].trim_start());
    let named = |keyword: &str| words(&code, keyword).any(|at| fits(after(at + keyword.len())));
    ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "mod"].into_iter().any(named)
}

/// Returns the words of a name, in singular.
fn parts(name: &str) -> Vec<String> {
    let split = |c: char| c.is_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]);
    let singular = |part: &str| if part.len() > 3 { part.trim_end_matches('s') } else { part }.to_owned();
    name.chars().flat_map(split).collect::<String>().split('_').map(singular).collect()
}

#[test]
fn every_file_is_named_after_an_item_or_listed() {
    let files = files();
    assert!(files.iter().any(|(path, _)| path == "src/lib.rs"), "the walk finds the library");
    let complaints = check(&files, JOB_FILES);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn complaints(path: &str, text: &str, listed: &[&str]) -> Vec<String> {
    check(&[(path.to_owned(), text.to_owned())], listed)
}

#[test]
fn a_file_that_defines_nothing_of_its_name_is_found() {
    let path = "src/log/group_commit.rs";
    let found = complaints(path, "// struct GroupCommit;\nstruct Other;", &[]);
    assert_eq!(found, ["src/log/group_commit.rs: nothing in it has its name"]);
    for text in ["struct GroupCommit;", "fn group_commits() {}", "const GROUP_COMMIT: u8 = 0;"] {
        assert_eq!(complaints(path, text, &[]), [""; 0], "{text}");
    }
    assert_eq!(complaints("src/log/commit_tests.rs", "struct Other;", &[]), [""; 0]);
}

#[test]
fn a_listed_file_is_exempt_at_its_own_path_only() {
    let listed = ["api/report.rs"];
    assert_eq!(complaints("src/api/report.rs", "struct Other;", &listed), [""; 0]);
    let found = complaints("src/log/report.rs", "struct Other;", &listed);
    assert_eq!(
        found,
        ["src/log/report.rs: nothing in it has its name", "src/api/report.rs: it is listed and not there"]
    );
}

#[test]
fn a_listed_file_that_has_its_name_is_found() {
    let found = complaints("src/api/report.rs", "struct Report;", &["api/report.rs"]);
    assert_eq!(found, ["src/api/report.rs: it has its name, so take it off the list"]);
}
