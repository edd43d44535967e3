//! The repository as text: its hand-written files, and Rust code without comments and literals.

use std::fs;
use std::path::Path;

/// The folders that are read, along with the files beside them.
const FOLDERS: [&str; 9] =
    ["src", "tests", "benches", "examples", "fuzz", "docs", ".ci", ".github", "testutil"];
/// Folders of built or found files.
const SKIPPED: [&str; 4] = ["target", "corpus", "artifacts", "fixtures"];

/// Returns every hand-written file of the repository, with its path from the root.
pub(crate) fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if FOLDERS.contains(&name.as_str()) {
                walk(&entry.path(), &name, &mut found);
            }
        } else if ![".git", "Cargo.lock"].contains(&name.as_str()) {
            found.extend(fs::read_to_string(entry.path()).ok().map(|text| (name, text)));
        }
    }
    found.sort();
    found
}

fn walk(folder: &Path, name: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let file_name = entry.file_name().into_string().unwrap();
        let path = format!("{name}/{file_name}");
        if !entry.file_type().unwrap().is_dir() {
            found.extend(fs::read_to_string(entry.path()).ok().map(|text| (path, text)));
        } else if !SKIPPED.contains(&file_name.as_str()) {
            walk(&entry.path(), &path, found);
        }
    }
}

/// Blanks out comments and the insides of literals; all other text keeps its place.
pub(crate) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        for byte in &mut code[at..end.max(at)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).unwrap()
}

/// Returns the end of the comment or literal that begins at `at`, or `at` if none does.
fn literal_or_comment(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + escaped(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !after_word || matches!(bytes[at - 1], b'b' | b'c') => at + raw(rest),
        // A lifetime is a quote with no quote after the first character.
        [b'\'', b'\\', ..] => at + escaped(rest, b'\''),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn escaped(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = [b'"'].into_iter().chain([b'#'].repeat(hashes)).collect();
    let body = &rest[2 + hashes..];
    let len = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len());
    (2 + hashes + len + end.len()).min(rest.len())
}

fn character(rest: &[u8]) -> usize {
    let len = match rest.get(1) {
        Some(byte) if *byte >= 0xf0 => 4,
        Some(byte) if *byte >= 0xe0 => 3,
        Some(byte) if *byte >= 0xc0 => 2,
        _ => 1,
    };
    if rest.get(1 + len) == Some(&b'\'') { len + 2 } else { 0 }
}

/// Returns true for a byte of an identifier.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns the places at which `word` stands alone.
pub(crate) fn words<'t>(code: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        (at == 0 || !is_word(bytes[at - 1])) && bytes.get(at + word.len()).is_none_or(|&byte| !is_word(byte))
    })
}

/// Returns the word that a text begins with; empty if none.
pub(crate) fn first_word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}
