//! Tests that the list of planted defects fits the source: each place occurs once, and each suite
//! names a test.
//!
//! Planting them takes long and is done by hand, with `tests/planted/run`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

use std::path::Path;

/// A defect: its keys and their values, in order.
type Defect<'t> = Vec<(&'t str, &'t str)>;

fn defects(list: &str) -> Vec<Defect<'_>> {
    list.split("\n\n")
        .map(|block| {
            let lines = block.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines
                .map(|line| line.split_once(':').expect("a key, a colon, a text"))
                .map(|(key, text)| (key, text.strip_prefix(' ').unwrap_or(text)))
                .collect::<Vec<_>>()
        })
        .filter(|defect| !defect.is_empty())
        .collect()
}

/// Returns the joined lines of a key.
fn text(defect: &Defect<'_>, wanted: &str) -> String {
    let lines = defect.iter().filter(|(key, _)| *key == wanted).map(|(_, text)| *text);
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns true if a test has a name that holds the filter of a suite.
fn exists(root: &Path, suite: &str) -> bool {
    let words: Vec<&str> = suite.split(' ').collect();
    let (folder, filter) = match words[..] {
        ["--lib" | "loom", filter] => ("src".to_owned(), filter),
        ["--test", suite] => (format!("tests/{suite}"), ""),
        ["--test", suite, filter] => (format!("tests/{suite}"), filter),
        _ => return false,
    };
    let mut names = Vec::new();
    let file = root.join(format!("{folder}.rs"));
    if file.is_file() {
        add_names(&file, "", &mut names);
    } else {
        add_folder(&root.join(&folder), "", &mut names);
    }
    names.iter().any(|name| name.contains(filter))
}

/// Adds the functions of every file of a folder, each behind its module.
fn add_folder(folder: &Path, module: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        let stem = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        if entry.is_dir() {
            add_folder(&entry, &format!("{module}{stem}::"), names);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let is_module = !["mod", "main", "lib"].contains(&stem.as_str());
            let module = if is_module { format!("{module}{stem}::") } else { module.to_owned() };
            add_names(&entry, &module, names);
        }
    }
}

/// Adds the functions of a file, each behind its module: those of an inline module are indented.
fn add_names(file: &Path, module: &str, names: &mut Vec<String>) {
    let mut inline = String::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inline = format!("{name}::");
        } else if line == "}" {
            inline.clear();
        }
        if let Some((_, rest)) = line.split_once("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            names.push(format!("{module}{inline}{name}"));
        }
    }
}

#[test]
fn every_place_where_a_defect_is_planted_is_there_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| {
        std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let list = read("tests/planted/list.txt");
    let defects = defects(&list);
    assert!(defects.len() > 20, "only {} defects were read", defects.len());
    let mut wrong = Vec::new();
    for defect in &defects {
        let name = text(defect, "name");
        let (file, old, new) = (text(defect, "file"), text(defect, "old"), text(defect, "new"));
        let count = read(&file).matches(&old).count();
        if old.is_empty() || count != 1 {
            wrong.push(format!("{name}: {file} has its place {count} times"));
        }
        if old == new {
            wrong.push(format!("{name}: nothing is planted"));
        }
        let suites: Vec<_> = defect.iter().filter(|(key, _)| *key == "suite").collect();
        if suites.is_empty() {
            wrong.push(format!("{name}: no suite"));
        }
        for (_, suite) in suites {
            if !exists(root, suite) {
                wrong.push(format!("{name}: no suite {suite}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
