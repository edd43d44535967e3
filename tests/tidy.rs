//! Tests the house rules that a compiler does not check: layers, sizes, the places of `unsafe`, and
//! forbidden text.
//!
//! The tests read the source as text with comments and literals blanked out; they do not expand
//! macros. Each rule is a function from text to complaints. A test below shows for each rule that
//! it can complain.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

#[path = "support/source_text.rs"]
mod source_text;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use self::source_text::{blank, files, first_word, is_word, words};

/// The folders of `src/`, and the files beside them, from the lowest layer to the highest. A file
/// imports from lower layers and from its own folder. The entries of one row do not import each
/// other.
const LAYERS: [&[&str]; 10] = [
    &["format", "trace"],
    &["error"],
    &["sync"],
    &["mem"],
    &["fs", "config"],
    &["index", "log"],
    &["recovery"],
    &["engine"],
    &["api"],
    &["lib", "bin"],
];

/// The layers inside of a folder. An entry in no row stands above all rows.
const INNER: [(&str, &[&[&str]]); 1] = [("engine", &[&["state"], &["read", "compaction"], &["checkpoint"]])];

/// The files of the library that may hold the keyword.
const UNSAFE_FILES: [&str; 3] = ["src/mem/", "src/sync/epoch/loom_tests.rs", "src/sync/rcu.rs"];
/// The folders outside of the library that may hold the keyword.
const UNSAFE_TESTS: [&str; 2] = ["tests/", "benches/"];

const MAX_FILE_LINES: usize = 800;
const MAX_FILE_LINES_WITHOUT_TESTS: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_TEST_NAME: usize = 60;

#[test]
fn every_file_keeps_the_house_rules() {
    let mut complaints = Vec::new();
    let files = files();
    assert!(files.iter().any(|(path, _)| path == "src/lib.rs"), "the walk finds the library");
    let types = Types::of(files.iter().filter(|(path, _)| path.ends_with(".rs")));
    for (path, text) in &files {
        let found = if path.ends_with(".rs") { check_rust(path, text, &types) } else { Vec::new() };
        complaints.extend(found.into_iter().chain(machine_paths(text)).map(|found| format!("{path}{found}")));
    }
    complaints.extend(repeated_types(&files));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Checks one source file against all rules. Complaints begin with `:line: `.
fn check_rust(path: &str, text: &str, types: &Types) -> Vec<String> {
    let code = blank(text);
    let mut complaints = missing_head(text);
    complaints.extend(file_size(path, text, &code));
    complaints.extend(function_sizes(&code));
    complaints.extend(stray_notes(text));
    complaints.extend(questions(text, &code));
    complaints.extend(long_test_names(&code));
    complaints.extend(unsafe_places(path, text, &code));
    if let Some(module) = module_of(path) {
        complaints.extend(layering(&module, &code));
        complaints.extend(inner_layering(path, &module, &code));
        complaints.extend(stray_impls(&module, &code, types));
    }
    complaints
}

// ---- The text -----------------------------------------------------------------------------------

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Returns the end of the bracket at `open`, closing bracket included.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

// ---- Layers -------------------------------------------------------------------------------------

/// Returns the top-level module that a file of the library belongs to.
fn module_of(path: &str) -> Option<String> {
    let rest = path.strip_prefix("src/")?;
    Some(rest.split_once('/').map_or(rest.trim_end_matches(".rs"), |(folder, _)| folder).to_owned())
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn layering(module: &str, code: &str) -> Vec<String> {
    let Some(layer) = layer_of(module) else {
        return vec![format!(":1: {module} is in no layer; move the file into a folder that LAYERS names")];
    };
    let mut complaints = Vec::new();
    for (at, name) in crate_paths(code) {
        let line = line_of(code, at);
        match layer_of(&name) {
            _ if name == module => {}
            None => {
                complaints.push(format!(":{line}: {name} is no folder of LAYERS; name the defining module"));
            }
            Some(other) if other > layer => complaints.push(format!(
                ":{line}: {module} (layer {layer}) imports upward from {name} (layer {other})"
            )),
            Some(other) if other == layer => {
                complaints.push(format!(":{line}: {module} imports from {name}, which is in the same layer"));
            }
            Some(_) => {}
        }
    }
    complaints
}

/// Checks the layers one level down, for the folders of [`INNER`].
fn inner_layering(path: &str, module: &str, code: &str) -> Vec<String> {
    let Some((_, rows)) = INNER.iter().find(|(folder, _)| *folder == module) else { return Vec::new() };
    let row_of = |name: &str| rows.iter().position(|row| row.contains(&name)).unwrap_or(rows.len());
    let inside = path.strip_prefix("src/").and_then(|rest| rest.strip_prefix(module)).unwrap_or_default();
    let own = first_word(inside.trim_start_matches('/'));
    let mut complaints = Vec::new();
    let head = format!("crate::{module}::");
    for (at, _) in code.match_indices(&head) {
        let name = first_word(&code[at + head.len()..]);
        let (from, to) = (row_of(&own), row_of(&name));
        if name != own && to >= from && from < rows.len() {
            let line = line_of(code, at);
            complaints.push(format!(":{line}: {module}/{own} imports upward from {module}/{name}"));
        }
    }
    complaints
}

/// Returns the first segments of all paths from the crate's root, through groups, with their
/// places.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let Some(rest) = code[at..].strip_prefix("crate::") else { continue };
        if !rest.starts_with('{') {
            found.push((at, first_word(rest)));
            continue;
        }
        let group = &rest[1..closing(rest, 0) - 1];
        let mut depth = 0;
        let parts = group.split(|character| {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            character == ',' && depth == 0
        });
        found.extend(parts.map(|part| (at, first_word(part.trim()))).filter(|(_, name)| !name.is_empty()));
    }
    found
}

/// The folders that define a type of each name.
#[derive(Debug, Default)]
struct Types(BTreeMap<String, BTreeSet<String>>);

impl Types {
    fn of<'f>(files: impl IntoIterator<Item = &'f (String, String)>) -> Self {
        let mut types = Self::default();
        for (path, text) in files {
            let Some(module) = module_of(path) else { continue };
            let code = blank(text);
            for keyword in ["struct", "enum", "union"] {
                for at in words(&code, keyword) {
                    let name = first_word(code[at + keyword.len()..].trim_start());
                    types.0.entry(name).or_default().insert(module.clone());
                }
            }
        }
        types
    }
}

/// Returns the type names that two files define. A twin for other systems (`_portable`) may define
/// the same type.
fn repeated_types(files: &[(String, String)]) -> Vec<String> {
    let mut homes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, text) in files {
        let is_test = path.contains("tests") || path.contains("/model/") || path.ends_with("_portable.rs");
        let is_library = path.starts_with("src/") && !path.starts_with("src/bin/");
        if !path.ends_with(".rs") || is_test || !is_library {
            continue;
        }
        let mut code = blank(text);
        for range in test_modules(&code.clone()).into_iter().rev() {
            code.replace_range(range, "");
        }
        for keyword in ["struct", "enum", "union", "trait", "type"] {
            for at in words(&code, keyword) {
                let head = code[..at].rsplit('\n').next().unwrap_or_default();
                if head.starts_with("pub") {
                    let name = first_word(code[at + keyword.len()..].trim_start());
                    homes.entry(name).or_default().push(path);
                }
            }
        }
    }
    let repeated = homes.into_iter().filter(|(_, homes)| homes.len() > 1);
    repeated.map(|(name, homes)| format!("src: {name} is defined in {}", homes.join(" and "))).collect()
}

/// Finds inherent implementations of types that another folder defines. Their calls would need no
/// import.
fn stray_impls(module: &str, code: &str, types: &Types) -> Vec<String> {
    let mut complaints = Vec::new();
    for at in words(code, "impl") {
        // This is a block of its own, not `impl Trait` in the head of a function.
        let begins = code[..at].trim_end().ends_with(['}', ';', '{', ']']) || code[..at].trim().is_empty();
        let Some(open) = code[at..].find('{').map(|offset| at + offset).filter(|_| begins) else { continue };
        let head = code[at + "impl".len()..open].trim();
        let head = if head.starts_with('<') { &head[angles(head)..] } else { head };
        let name = first_word(head.trim());
        let folders = types.0.get(&name);
        if words(head, "for").next().is_none() && folders.is_some_and(|folders| !folders.contains(module)) {
            let line = line_of(code, at);
            complaints.push(format!(":{line}: `impl {name}` stands outside of the folder that defines it"));
        }
    }
    complaints
}

/// Returns the end of the generic parameters that `head` begins with.
fn angles(head: &str) -> usize {
    let mut depth = 0;
    let mut before = b' ';
    for (at, byte) in head.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if before != b'-' => depth -= 1,
            _ => {}
        }
        before = byte;
        if depth == 0 {
            return at + 1;
        }
    }
    head.len()
}

// ---- Sizes --------------------------------------------------------------------------------------

fn missing_head(text: &str) -> Vec<String> {
    let has_head = text.starts_with("//!") || text.starts_with("#!/");
    if has_head { Vec::new() } else { vec![":1: the file does not open with `//!`".to_owned()] }
}

/// Returns the ranges of the modules that are only compiled for tests.
fn test_modules(code: &str) -> Vec<Range<usize>> {
    let is_test =
        |attribute: &str| words(attribute, "test").next().is_some() && !attribute.contains("feature");
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(") {
        let end = closing(code, at + 1);
        let Some(open) = code[end..].find(['{', ';']).map(|offset| end + offset) else { continue };
        let is_module = words(&code[end..open], "mod").next().is_some() && code.as_bytes()[open] == b'{';
        if is_test(&code[at..end]) && is_module && found.last().is_none_or(|last| last.end <= at) {
            found.push(at..closing(code, open));
        }
    }
    found
}

fn file_size(path: &str, text: &str, code: &str) -> Vec<String> {
    let lines = text.lines().count();
    let tests: usize = test_modules(code).into_iter().map(|range| text[range].lines().count()).sum();
    let mut complaints = Vec::new();
    if lines > MAX_FILE_LINES {
        complaints.push(format!(":1: the file has {lines} lines; {MAX_FILE_LINES} are allowed"));
    }
    // All other folders hold tests, or code that is as good as tests.
    if path.starts_with("src/") && lines - tests > MAX_FILE_LINES_WITHOUT_TESTS {
        complaints.push(format!(
            ":1: the file has {} lines without its tests; {MAX_FILE_LINES_WITHOUT_TESTS} are allowed",
            lines - tests
        ));
    }
    complaints
}

fn function_sizes(code: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for at in words(code, "fn") {
        let name = first_word(code[at + 2..].trim_start());
        let Some(open) = body_of(code, at).filter(|_| !name.is_empty()) else { continue };
        let lines = code[at..closing(code, open)].matches('\n').count() + 1;
        if lines > MAX_FUNCTION_LINES {
            let line = line_of(code, at);
            complaints.push(format!(":{line}: {name} has {lines} lines; {MAX_FUNCTION_LINES} are allowed"));
        }
    }
    complaints
}

/// Returns the place at which the body of the function at `at` opens, if it has one.
fn body_of(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (place, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(place),
            b';' | b'}' if depth <= 0 => return None,
            _ => {}
        }
    }
    None
}

// ---- Forbidden text -----------------------------------------------------------------------------

fn stray_notes(text: &str) -> Vec<String> {
    // The words are in two pieces, so that this file does not complain about itself.
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!"), concat!("XX", "X:")];
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| notes.iter().any(|note| line.contains(note)))
        .map(|(number, _)| {
            format!(":{}: finish it now, or describe it where the limits are listed", number + 1)
        })
        .collect()
}

/// Sentences of comments that begin as a question does, and words of comments and messages that name no actor.
fn questions(text: &str, code: &str) -> Vec<String> {
    // In pieces, so that this file does not complain about itself.
    let openings = [
        concat!("Wh", "at "),
        concat!("Ho", "w "),
        concat!("Whe", "ther "),
        concat!("Wh", "o "),
        concat!("Who", "ever "),
    ];
    let words =
        [concat!("who", "ever"), concat!("some", "body"), concat!("no", "body"), concat!("every", "body")];
    let mut complaints = Vec::new();
    for (number, (line, code)) in text.lines().zip(code.lines()).enumerate() {
        // An identifier may be such a word, as the user of that name is.
        let (lower, code) = (line.to_ascii_lowercase(), code.to_ascii_lowercase());
        let is_prose = |word: &str| self::words(&lower, word).any(|at| !code[at..].starts_with(word));
        if let Some(word) = words.iter().find(|word| is_prose(word)) {
            complaints.push(format!(":{}: {word:?} names no actor", number + 1));
        }
        let Some((_, comment)) = line.split_once("//") else { continue };
        let comment = comment.trim_start_matches(['/', '!', ' ', '-', '*']);
        let begins =
            |opening: &str| comment.starts_with(opening) || comment.contains(&format!(". {opening}"));
        if let Some(opening) = openings.iter().find(|opening| begins(opening)) {
            complaints
                .push(format!(":{}: a sentence begins with {opening:?}; say who does what", number + 1));
        }
    }
    complaints
}

/// Test functions whose name is longer than a line of a report can show.
fn long_test_names(code: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, attribute) in code.match_indices("#[test]") {
        let Some(function) = code[at..].find("fn ").map(|offset| at + offset + 3) else { continue };
        let name = first_word(&code[function..]);
        if name.len() > MAX_TEST_NAME {
            let line = line_of(code, at + attribute.len());
            complaints
                .push(format!(":{line}: {name} has {} letters; {MAX_TEST_NAME} are allowed", name.len()));
        }
    }
    complaints
}

fn machine_paths(text: &str) -> Vec<String> {
    let roots = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let is_path = |line: &str, root: &str| {
        line.match_indices(root).any(|(at, _)| {
            // `https://example.org/work/` and `a/work/` are no paths of a machine.
            at == 0 || !(is_word(line.as_bytes()[at - 1]) || matches!(line.as_bytes()[at - 1], b'.' | b'-'))
        })
    };
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| roots.iter().any(|root| is_path(line, root)))
        .map(|(number, _)| format!(":{}: a path of one machine", number + 1))
        .collect()
}

fn unsafe_places(path: &str, text: &str, code: &str) -> Vec<String> {
    let keyword = concat!("un", "safe");
    let is_allowed = UNSAFE_FILES
        .iter()
        .chain(&UNSAFE_TESTS)
        .any(|allowed| path == *allowed || path.starts_with(*allowed));
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for at in words(code, keyword) {
        let line = line_of(code, at);
        let next = code[at + keyword.len()..].trim_start();
        // A function documents the obligations of its caller; clippy checks that.
        let is_function = next.starts_with("fn") || next.starts_with("extern") && body_of(code, at).is_none();
        if !is_allowed {
            complaints.push(format!(":{line}: {keyword} outside of {UNSAFE_FILES:?}"));
        } else if !is_function && !has_safety_comment(&lines, line) {
            complaints.push(format!(":{line}: {keyword} without a SAFETY comment before it"));
        }
    }
    complaints
}

/// Returns true if a SAFETY comment stands before the statement at `line`, which counts from one.
fn has_safety_comment(lines: &[&str], line: usize) -> bool {
    for before in lines[..line - 1].iter().rev().map(|before| before.trim()) {
        if before.starts_with("//") {
            if before.contains("SAFETY:") {
                return true;
            }
        } else if before.is_empty() || before.ends_with([';', '{', '}', ',']) {
            return false;
        }
    }
    false
}

// ---- Every rule can complain --------------------------------------------------------------------

fn complaints_about(path: &str, text: &str) -> Vec<String> {
    check_rust(path, text, &Types::of([&(path.to_owned(), text.to_owned())]))
}

#[test]
fn comments_and_literals_are_blanked_and_code_is_not() {
    let text = concat!(
        "a // b\n/* c /* d */ e */ f \"g \\\" h\" i r#\"j \" k\"# l 'm' n '\\'' o &'p q b\"r\" s br\"t\" u\n",
        "v 'ä' w r#x '\"' y\n"
    );
    let letters: String = blank(text).chars().filter(|character| character.is_alphabetic()).collect();
    assert_eq!(letters, "afilnopqbsbuvwrxy");
    assert_eq!(blank(text).len(), text.len());
}

#[test]
fn an_upward_import_is_found_in_every_form() {
    for import in [
        "use crate::api::store::Store;",
        "use crate::{error::Error, api::{Store, A}};",
        "fn f() { crate::api::g() }",
        "pub(crate) use crate::api;",
    ] {
        let found = complaints_about("src/fs/real.rs", &format!("//! Head.\n{import}\n"));
        assert_eq!(found, [":2: fs (layer 4) imports upward from api (layer 8)"], "{import}");
    }
    let fine =
        "//! Head.\nuse crate::fs::{self, A};\nuse crate::{error, format::{Seq, b}};\n// use crate::api;\n";
    assert_eq!(complaints_about("src/fs/real.rs", fine), [""; 0]);
}

#[test]
fn an_import_within_a_row_is_found() {
    let found = complaints_about("src/log/writer.rs", "//! Head.\nuse crate::index::A;\n");
    assert_eq!(found, [":2: log imports from index, which is in the same layer"]);
}

#[test]
fn an_upward_import_inside_of_a_folder_is_found() {
    let complaints = |path: &str, import: &str| complaints_about(path, &format!("//! Head.\n{import}\n"));
    let upward = "use crate::engine::write::A;";
    let found = complaints("src/engine/state/mod.rs", upward);
    assert_eq!(found, [":2: engine/state imports upward from engine/write"]);
    assert_eq!(complaints("src/engine/read/mod.rs", "use crate::engine::compaction::A;").len(), 1);
    assert_eq!(complaints("src/engine/write/mod.rs", "use crate::engine::state::A;"), [""; 0]);
    assert_eq!(complaints("src/engine/write/batch.rs", upward), [""; 0]);
    assert_eq!(complaints("src/engine/handle.rs", upward), [""; 0]);
}

#[test]
fn an_import_of_the_root_and_an_unknown_module_are_found() {
    let found = complaints_about("src/api/store.rs", "//! Head.\nuse crate::Error;\n");
    assert!(found.len() == 1 && found[0].contains("name the defining module"), "{found:?}");
    let found = complaints_about("src/novelty.rs", "//! Head.\n");
    assert!(found.len() == 1 && found[0].contains("move the file"), "{found:?}");
}

#[test]
fn an_impl_outside_of_the_folder_of_its_type_is_found() {
    let engine =
        ("src/engine/mod.rs".to_owned(), "//! Head.\nstruct Engine<'a, F: Fn() -> u8>;\n".to_owned());
    let types = Types::of([&engine]);
    let complaints = |path: &str, text: &str| check_rust(path, &format!("//! Head.\n{text}\n"), &types);
    for text in
        ["impl Engine { }", "impl<'a, F: Fn() -> u8> Engine<'a, F> { }", "use a::B;\n\nimpl Engine { }"]
    {
        assert_eq!(complaints("src/engine/read.rs", text), [""; 0], "{text}");
        assert_eq!(complaints("src/api/store.rs", text).len(), 1, "{text}");
    }
    for text in ["impl Drop for Engine { }", "impl Store { }", "fn f(a: impl Engine) { }"] {
        assert_eq!(complaints("src/api/store.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn a_type_name_that_is_defined_twice_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), format!("//! Head.\n{text}\n"));
    let one = file("src/log/a.rs", "pub(crate) struct Entry;");
    let two = |text: &str| repeated_types(&[one.clone(), file("src/index/b.rs", text)]);
    assert_eq!(
        two("pub(super) enum Entry { A }"),
        ["src: Entry is defined in src/log/a.rs and src/index/b.rs"]
    );
    assert_eq!(two("struct Entry;"), [""; 0]);
    assert_eq!(two("#[cfg(test)]\nmod tests { pub(super) struct Entry; }"), [""; 0]);
}

#[test]
fn the_layer_table_names_no_module_twice() {
    let names: Vec<_> = LAYERS.iter().copied().flatten().collect();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn a_file_that_is_too_long_is_found_with_and_without_tests() {
    let lines = |count: usize| "//! Head.\n".to_owned() + &"// line\n".repeat(count - 1);
    let tests = |count: usize| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// line\n".repeat(count - 3));
    let count = |text: String| complaints_about("src/api/store.rs", &text).len();
    assert_eq!(count(lines(500)), 0);
    assert_eq!(count(lines(501)), 1);
    assert_eq!(complaints_about("tests/kill.rs", &lines(800)), [""; 0]);
    assert_eq!(complaints_about("tests/kill.rs", &lines(801)).len(), 1);
    assert_eq!(count(lines(500) + &tests(300)), 0);
    assert_eq!(count(lines(500) + &tests(301)), 1);
    assert_eq!(count(lines(501) + &tests(300)), 2);
    assert_eq!(count(lines(480) + "#[cfg(all(test, not(loom)))]\n#[allow(x)]\n" + &tests(200)[13..]), 0);
}

#[test]
fn a_function_that_is_too_long_is_found() {
    let function = |head: &str, lines: usize| {
        format!("//! Head.\n{head} {{\n{}}}\nfn g() {{}}\n", "    call();\n".repeat(lines - 2))
    };
    let head = "pub fn f(a: [u8; 4], b: fn(u8) -> u8) -> [u8; 4]";
    assert_eq!(complaints_about("src/api/store.rs", &function(head, 70)), [""; 0]);
    let found = complaints_about("src/api/store.rs", &function(head, 71));
    assert_eq!(found, [":2: f has 71 lines; 70 are allowed"]);
    let without_body = format!("//! Head.\ntrait T {{ fn f(&self);\n{} }}\n", "\n".repeat(80));
    assert_eq!(complaints_about("src/api/store.rs", &without_body), [""; 0]);
}

#[test]
fn stray_notes_are_found_in_code_and_comments() {
    for note in [concat!("// TO", "DO: later"), concat!("/* FIX", "ME */"), concat!("fn f() { to", "do!() }")]
    {
        assert_eq!(complaints_about("src/api/store.rs", &format!("//! Head.\n{note}\n")).len(), 1, "{note}");
    }
}

#[test]
fn questions_and_long_test_names_are_found() {
    let count = |text: &str| complaints_about("tests/kill.rs", &format!("//! Head.\n{text}\n")).len();
    assert_eq!(count(concat!("/// Wh", "at a store has.")), 1);
    assert_eq!(count(concat!("// Fine. Whe", "ther it is there.")), 1);
    assert_eq!(count(concat!("// For some", "body else.")), 1);
    assert_eq!(count(concat!("f(\"Tell(no", "body)\")")), 1);
    assert_eq!(
        count("// Which one, and why not another. It says what it has.\nlet a = \"What \"; // Fine."),
        0
    );
    let test = |name: &str| format!("#[test]\nfn {name}() {{}}");
    assert_eq!(count(&test(&"a".repeat(60))), 0);
    assert_eq!(count(&test(&"a".repeat(61))), 1);
}

#[test]
fn the_keyword_is_found_where_it_may_not_stand_and_only_as_code() {
    let keyword = concat!("un", "safe");
    let block = format!("//! Head.\nfn f() {{\n    // SAFETY: none.\n    {keyword} {{ g() }}\n}}\n");
    assert_eq!(complaints_about("src/api/store.rs", &block).len(), 1);
    assert_eq!(complaints_about("examples/store.rs", &block).len(), 1);
    for path in ["src/mem/address_space.rs", "src/sync/epoch/loom_tests.rs", "tests/kill.rs"] {
        assert_eq!(complaints_about(path, &block), [""; 0]);
    }
    let mention = format!("//! No {keyword}.\n#![deny({keyword}_code)]\nconst A: &str = \"{keyword}\";\n");
    assert_eq!(complaints_about("src/api/store.rs", &mention), [""; 0]);
}

#[test]
fn a_block_without_a_safety_comment_is_found() {
    let keyword = concat!("un", "safe");
    let count = |body: &str| {
        let text = format!("//! Head.\n{}", body.replace("KEYWORD", keyword));
        complaints_about("src/sync/epoch/loom_tests.rs", &text).len()
    };
    assert_eq!(count("// SAFETY: a.\n// More.\nKEYWORD impl Send for A {}\n"), 0);
    assert_eq!(count("// SAFETY: a.\nKEYWORD impl Send for A {}\nKEYWORD impl Sync for A {}\n"), 1);
    assert_eq!(count("fn f() {\n    // SAFETY: a.\n    let a =\n        KEYWORD { b() };\n}\n"), 0);
    assert_eq!(count("// SAFETY: a.\nfn f() {\n    KEYWORD { b() };\n}\n"), 1);
    assert_eq!(count("fn f() {\n    // A reason.\n    KEYWORD { b() };\n}\n"), 1);
    assert_eq!(count("/// # Safety\n///\n/// None.\npub(crate) KEYWORD fn f() {}\n"), 0);
}

#[test]
fn a_missing_head_and_a_path_of_one_machine_are_found() {
    assert_eq!(complaints_about("src/api/store.rs", "use std::fmt;\n").len(), 1);
    let path = concat!("/ho", "me/user");
    assert_eq!(machine_paths(&format!("a\nsee `{path}`\n")), [":2: a path of one machine"]);
    assert_eq!(machine_paths(&format!("https://example.org{path}\n")), [""; 0]);
}
