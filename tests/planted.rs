//! Tests that the list of planted defects fits the source: each place occurs once, and each suite
//! exists.
//!
//! Planting them takes long and is done by hand, with `tests/planted/run`.

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
            let mut words = suite.split(' ');
            let exists = match words.next() {
                Some("--test") => words.next().is_some_and(|suite| {
                    ["", "/main"].iter().any(|end| root.join(format!("tests/{suite}{end}.rs")).is_file())
                }),
                Some("--lib" | "loom") => words.next().is_some(),
                _ => false,
            };
            if !exists {
                wrong.push(format!("{name}: no suite {suite}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
