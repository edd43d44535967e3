//! Tests that the files of `src/api` name each other in one direction, so that each can be read
//! before those that use it.
//!
//! The test reads paths that begin with `crate::api`, `self` or `super`, and the modules that a
//! file declares. It does not expand macros, and skips tests.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The code of each module, by its path from `api`, as in `salvage/names`.
type Files = BTreeMap<String, String>;

/// Returns the text of a file without comments and without the tests at its foot.
fn code_of(text: &str) -> String {
    let lines = text.lines().take_while(|line| *line != "mod tests {");
    lines.filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn read(folder: &Path, module: &str, files: &mut Files) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let inner = if module.is_empty() { name.to_owned() } else { format!("{module}/{name}") };
        if name.ends_with("tests") {
            continue;
        } else if path.is_dir() {
            read(&path, &inner, files);
        } else {
            let key = if name == "mod" { module.to_owned() } else { inner };
            files.insert(key, code_of(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Returns each path that `text` begins with, as its names. A group has several.
fn paths(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 0;
        let parts = group.split(|letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth == 0 && letter == ',' || depth < 0
        });
        // The first part that follows the closing bracket is empty or begins another statement.
        return parts.take_while(|part| !part.trim_start().starts_with([';', '}'])).flat_map(paths).collect();
    }
    let name: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    match text[name.len()..].strip_prefix("::") {
        Some(rest) => paths(rest).into_iter().map(|path| [vec![name.clone()], path].concat()).collect(),
        None => vec![vec![name]],
    }
}

/// Returns the module that a path leads into: the longest beginning that is one.
fn module_at(path: &[String], files: &Files) -> Option<String> {
    (0..=path.len()).rev().map(|len| path[..len].join("/")).find(|module| files.contains_key(module))
}

/// Returns the modules that a module names.
fn named_by(module: &str, files: &Files) -> BTreeSet<String> {
    let code = &files[module];
    let own: Vec<String> = module.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let mut found = BTreeSet::new();
    for (root, is_upward) in [("crate::api::", None), ("self::", Some(0)), ("super::", Some(1))] {
        for (at, _) in code.match_indices(root) {
            // The second `super` of a path was followed from the first one.
            if code[..at].ends_with("::") || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let base = is_upward.map_or(&own[..0], |up: usize| &own[..own.len().saturating_sub(up)]);
            for mut path in paths(&code[at + root.len()..]) {
                let ups = path.iter().take_while(|name| *name == "super").count();
                path.drain(..ups);
                let path = [&base[..base.len() - ups], &path[..]].concat();
                found.extend(module_at(&path, files));
            }
        }
    }
    for line in code.lines() {
        let declared = line.strip_suffix(';').and_then(|line| line.split_once("mod "));
        if let Some((_, child)) =
            declared.filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        {
            found.extend(module_at(&[&own[..], &[child.to_owned()]].concat(), files));
        }
    }
    found.remove(module);
    found
}

/// Returns the modules that lead back to themselves.
fn circles(files: &Files) -> Vec<String> {
    let names: BTreeMap<_, _> =
        files.keys().map(|module| (module.clone(), named_by(module, files))).collect();
    let leads_back = |from: &String| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(module) = left.pop() {
            left.extend(names[module].iter().filter(|next| seen.insert(*next)));
        }
        seen.contains(from)
    };
    files.keys().filter(|module| leads_back(module)).cloned().collect()
}

#[test]
fn files_of_the_public_interface_name_no_circle() {
    let mut files = Files::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api"), "", &mut files);
    let edges: usize = files.keys().map(|module| named_by(module, &files).len()).sum();
    assert!(files.len() > 25 && edges > 40, "only {edges} names in {} files were found", files.len());
    assert_eq!(circles(&files), [""; 0]);
}

#[test]
fn a_circle_is_found_through_every_form_of_path() {
    let found = |code: &str| {
        let files = [("", ""), ("a", code), ("b", "use crate::api::a::A;\n"), ("c", ""), ("c/d", "")];
        circles(&files.iter().map(|(name, code)| ((*name).to_owned(), (*code).to_owned())).collect())
    };
    for code in [
        "use crate::api::b::B;\n",
        "use super::b::B;\n",
        "use crate::api::{c, b::{B, D}};\n",
        "use super::{c::d::{self, E}, b};\n",
        "fn f() { super::b::g() }\n",
    ] {
        assert_eq!(found(code), ["a", "b"], "{code}");
    }
    for code in ["use crate::api::c::d::b;\n", "use crate::b::B;\n", "use super::c;\n", "fn b() {}\n"] {
        assert_eq!(found(code), [""; 0], "{code}");
    }
    let parent = [("c", "mod d;\n"), ("c/d", "use super::C;\n")];
    let parent = parent.iter().map(|(name, code)| ((*name).to_owned(), (*code).to_owned())).collect();
    assert_eq!(circles(&parent), ["c", "c/d"]);
}
