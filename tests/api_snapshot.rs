//! Tests that the public interface is the one in `tests/public_api.txt`, so that a review sees each
//! change.
//!
//! The test reads the interface from the source. It lists each item that `src/lib.rs` exports, its
//! public fields or variants, the heads of its public functions, and its hand-written trait
//! implementations. `MAPCASK_UPDATE=1` rewrites the file.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A name that the crate exports.
struct Export {
    /// The condition of the export, or nothing.
    cfg: String,
    file: PathBuf,
    name: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the lines of a file that are code, without its tests.
fn code_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().take_while(|line| *line != "mod tests {");
    lines.filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect()
}

fn exports() -> Vec<Export> {
    let lines = code_of(&root().join("lib.rs"));
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(rest) = lines[at].strip_prefix("pub use ") else {
            at += 1;
            continue;
        };
        let before = at.checked_sub(1).map_or("", |before| &lines[before]);
        let cfg = if before.starts_with("#[cfg") { before.to_owned() } else { String::new() };
        let mut statement = rest.to_owned();
        while !statement.ends_with(';') {
            at += 1;
            statement += lines[at].trim();
        }
        at += 1;
        let statement = statement.trim_end_matches(';');
        let (module, names) = match statement.split_once("::{") {
            Some(parts) => parts,
            None => statement.rsplit_once("::").unwrap_or(("", statement)),
        };
        for name in names.trim_matches(['{', '}']).split(',').map(str::trim).filter(|name| !name.is_empty()) {
            // An item that is exported under another name is looked up by its original name.
            let name = name.split(" as ").next().unwrap_or(name).to_owned();
            found.push(Export { cfg: cfg.clone(), file: file_of(module), name });
        }
    }
    found
}

fn file_of(module: &str) -> PathBuf {
    let path = root().join(module.replace("::", "/"));
    let flat = path.with_extension("rs");
    if flat.exists() { flat } else { path.join("mod.rs") }
}

/// Returns the lines from `at` to the end of its statement or block.
fn item_at(lines: &[String], at: usize) -> Vec<&str> {
    let mut depth = 0_i32;
    let mut found = Vec::new();
    for line in &lines[at..] {
        found.push(line.as_str());
        depth += i32::try_from(line.matches(['{', '(']).count()).unwrap();
        depth -= i32::try_from(line.matches(['}', ')']).count()).unwrap();
        if depth == 0 && line.ends_with([';', '}']) {
            break;
        }
    }
    found
}

/// Returns the head of a function or an implementation, on one line.
fn head_at(lines: &[String], at: usize) -> String {
    let mut head = String::new();
    for line in &lines[at..] {
        head = format!("{head} {}", line.trim());
        if let Some(end) = head.find(['{', ';']) {
            head.truncate(end);
            break;
        }
    }
    head.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(").replace(", )", ")")
}

/// Returns the type that an `impl` line is about, and true if the line implements a trait.
fn subject(line: &str) -> Option<(String, bool)> {
    let rest = line.strip_prefix("impl")?;
    let rest = if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.find(|letter| {
            depth += i32::from(letter == '<') - i32::from(letter == '>');
            depth == 0
        })?;
        &rest[end + 1..]
    } else {
        rest
    };
    let is_trait = rest.contains(" for ");
    let about = rest.split(" for ").last()?.trim().trim_start_matches('&');
    let about =
        about.split_once(' ').map_or(about, |(word, rest)| if word.starts_with('\'') { rest } else { about });
    Some((about.split(['<', ' ', '{']).next()?.to_owned(), is_trait))
}

/// Returns the declaration of an item: public fields, variants, or the head of a function.
fn declaration(export: &Export) -> Vec<String> {
    let lines = code_of(&export.file);
    let is_it = |line: &String| {
        ["struct", "enum", "trait", "type", "const", "fn", "mod"].iter().any(|kind| {
            let rest = line.trim_start_matches("pub ").trim_start_matches("unsafe ").strip_prefix(kind);
            let rest = rest.and_then(|rest| rest.trim_start().strip_prefix(export.name.as_str()));
            line.starts_with("pub ")
                && rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    };
    let Some(at) = lines.iter().position(is_it) else {
        panic!("{} is not defined in {}", export.name, export.file.display())
    };
    if lines[at].starts_with("pub fn") {
        return vec![head_at(&lines, at)];
    }
    let is_struct = lines[at].starts_with("pub struct");
    let text = item_at(&lines, at);
    let (first, rest) = text.split_first().unwrap();
    // A tuple struct shows only its public fields.
    let first = if is_struct && first.ends_with(");") && !first.contains("(pub ") {
        format!("{}(_);", first.split('(').next().unwrap())
    } else {
        (*first).to_owned()
    };
    let shown = rest.iter().filter(|line| {
        let line = line.trim_start();
        !line.starts_with('#') && (!is_struct || line.starts_with("pub ") || line == "}")
    });
    std::iter::once(first).chain(shown.map(|line| (*line).to_owned())).collect()
}

/// Returns every source file of the library.
fn sources() -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root()]);
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && !entry.ends_with("bin") {
                left.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

/// Returns the heads of a type's public functions and of its hand-written trait implementations.
fn implementations(name: &str, files: &[(PathBuf, Vec<String>)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, lines) in files {
        for (at, line) in lines.iter().enumerate() {
            let Some((about, is_trait)) = subject(line).filter(|(about, _)| about == name) else { continue };
            if is_trait {
                found.insert(format!("    {}", head_at(lines, at)));
                continue;
            }
            for (offset, line) in item_at(lines, at).iter().enumerate() {
                let text = line.trim_start();
                let cfg = lines[at + offset - usize::from(offset > 0)].trim();
                let cfg = if cfg.starts_with("#[cfg") { format!("{cfg} ") } else { String::new() };
                if text.starts_with("pub fn")
                    || text.starts_with("pub const")
                    || text.starts_with("pub unsafe fn")
                {
                    found.insert(format!("    {about}: {cfg}{}", head_at(lines, at + offset)));
                }
            }
        }
    }
    found
}

#[test]
fn the_public_interface_is_the_one_that_was_reviewed() {
    let files: Vec<_> = sources().into_iter().map(|file| (file.clone(), code_of(&file))).collect();
    let mut text = String::new();
    let mut exports = exports();
    assert!(exports.len() > 40, "only {} exports were found", exports.len());
    exports.sort_by(|one, other| one.name.cmp(&other.name));
    for export in &exports {
        if export.name == "sim" {
            continue;
        }
        if !export.cfg.is_empty() {
            text += &format!("{}\n", export.cfg);
        }
        for line in declaration(export) {
            text += &format!("{line}\n");
        }
        for line in implementations(&export.name, &files) {
            text += &format!("{line}\n");
        }
        text += "\n";
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public_api.txt");
    if std::env::var_os("MAPCASK_UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let reviewed = fs::read_to_string(&path).unwrap();
    let difference = reviewed.lines().zip(text.lines()).find(|(one, other)| one != other);
    assert!(
        reviewed == text,
        "the public interface differs from tests/public_api.txt, first here: {difference:?}; \
         run this test with MAPCASK_UPDATE=1, and review the difference"
    );
}
