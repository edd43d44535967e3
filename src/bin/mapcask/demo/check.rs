//! The check after each kill: compares the store with the ledger and the files on the disk.
//!
//! A value is read in two ways, by iteration and by `get`, which must agree. It must equal the file
//! as it was listed. If the file has changed since, its listed length and checksum replace it.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use mapcask::Store;

use super::ledger::Ledger;
use super::screen::Screen;
use super::tree::{File, Tree, path_of};

/// The number of findings that are told in words.
const TOLD_MAX: usize = 5;

/// The findings of a check.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Number of files in the store, acknowledged or not.
    pub(super) present: usize,
    /// Number of acknowledged files that are missing.
    pub(super) lost: u64,
    /// Number of wrong values, unknown keys, and contradictory answers.
    pub(super) wrong: u64,
    /// Number of batches of which only a part is there.
    pub(super) broken_batches: u64,
    /// Number of values compared by length and checksum, because the file has changed since it was
    /// listed.
    pub(super) by_checksum: u64,
    /// The first findings in words.
    pub(super) told: Vec<String>,
}

impl Findings {
    pub(super) fn is_good(&self) -> bool {
        self.lost + self.wrong + self.broken_batches == 0
    }

    fn wrong(&mut self, what: &str, key: &[u8]) {
        self.wrong += 1;
        self.tell(what, key);
    }

    fn tell(&mut self, what: &str, key: &[u8]) {
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{what}: {}", key.escape_ascii()));
        }
    }
}

/// Compares the store with the ledger and with the tree on the disk.
pub(super) fn check(store: &Store, tree: &Tree, ledger: &Ledger, screen: &Screen) -> Result<Findings> {
    let mut findings = Findings::default();
    let is_listed = iterate(store, tree, &mut findings)?;
    for (index, file) in tree.files.iter().enumerate() {
        let value = store.get(&file.key).context("cannot read a file back")?;
        match value {
            Some(value) => {
                compare(tree, file, &value, &mut findings);
                findings.present += 1;
                screen.advance(file.len);
            }
            None if is_listed[index] => findings.wrong("iterated over, but get finds nothing", &file.key),
            None => {}
        }
    }
    units(tree, ledger, &is_listed, &mut findings);
    if store.len() != findings.present {
        findings
            .wrong("the number of keys is not that of the files found", store.len().to_string().as_bytes());
    }
    Ok(findings)
}

/// Returns the files that iteration finds, each once and with its content.
fn iterate(store: &Store, tree: &Tree, findings: &mut Findings) -> Result<Vec<bool>> {
    let keys: HashMap<&[u8], usize> =
        tree.files.iter().enumerate().map(|(index, file)| (file.key.as_slice(), index)).collect();
    let mut is_listed = vec![false; tree.files.len()];
    for item in store.iter() {
        let (key, value) = item.context("cannot iterate over the store")?;
        match keys.get(&*key) {
            None => findings.wrong("a key that was never written", &key),
            Some(&index) if is_listed[index] => findings.wrong("iterated over twice", &key),
            Some(&index) => {
                is_listed[index] = true;
                if !tree.files[index].is(&value) {
                    findings.wrong("iterated over with a wrong value", &key);
                }
            }
        }
    }
    Ok(is_listed)
}

/// Compares a value with its file on the disk.
fn compare(tree: &Tree, file: &File, value: &[u8], findings: &mut Findings) {
    let on_disk = fs::read(path_of(&tree.root, &file.key)).ok().filter(|content| file.is(content));
    let is_equal = match on_disk {
        Some(content) => content == value,
        None => {
            findings.by_checksum += 1;
            file.is(value)
        }
    };
    if !is_equal {
        findings.wrong("the value is not the file's content", &file.key);
    }
}

/// Checks that no acknowledged file is missing, and that no batch is there in part.
///
/// A file that was left out of a write may be there from an earlier one, and is ignored.
fn units(tree: &Tree, ledger: &Ledger, is_listed: &[bool], findings: &mut Findings) {
    for (number, unit) in tree.units.iter().enumerate() {
        let files: Vec<usize> =
            unit.files.iter().copied().filter(|&file| !ledger.is_left_out(file)).collect();
        let missing: Vec<usize> = files.iter().copied().filter(|&file| !is_listed[file]).collect();
        if ledger.is_written(number) {
            findings.lost += missing.len() as u64;
            for file in &missing {
                findings.tell("acknowledged and lost", &tree.files[*file].key);
            }
        }
        if !missing.is_empty() && missing.len() < files.len() {
            findings.broken_batches += 1;
            findings.tell("a part of a batch, without", &tree.files[missing[0]].key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::wire::Note;
    use super::*;

    /// Stores the sources of this tool, all acknowledged, spoils one thing, and returns the
    /// findings.
    fn found_after(spoil: impl FnOnce(&Store, &mut Tree, &mut Ledger)) -> Findings {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut tree = Tree::list(&root.join("src"), Path::new(""), u64::MAX, &|_| ()).unwrap();
        let mut ledger = Ledger::new(&tree, false);
        // Next to the test program: the build directory is on a disk.
        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let store = Store::open(directory.path().join("data")).unwrap();
        for (number, unit) in tree.units.iter().enumerate() {
            for file in unit.files.iter().map(|&file| &tree.files[file]) {
                store.insert(&file.key, fs::read(path_of(&tree.root, &file.key)).unwrap()).unwrap();
            }
            ledger.enter(&tree, Note::Written { unit: number as u64, nanos: 0 }).unwrap();
        }
        spoil(&store, &mut tree, &mut ledger);
        check(&store, &tree, &ledger, &Screen::silent()).unwrap()
    }

    fn batch_of(tree: &Tree) -> usize {
        tree.units.iter().position(|unit| unit.files.len() > 1).unwrap()
    }

    #[test]
    fn a_store_that_holds_every_file_is_good() {
        let findings = found_after(|_, _, _| ());
        assert!(findings.is_good() && findings.present > 0 && findings.by_checksum == 0, "{findings:?}");
    }

    #[test]
    fn a_missing_file_is_lost() {
        let findings = found_after(|store, tree, _| {
            let single = tree.units.iter().find(|unit| unit.files.len() == 1).unwrap();
            assert!(store.remove(&tree.files[single.files[0]].key).unwrap());
        });
        assert_eq!((findings.lost, findings.wrong, findings.broken_batches), (1, 0, 0), "{findings:?}");
    }

    #[test]
    fn check_finds_part_of_an_unacknowledged_batch() {
        let findings = found_after(|store, tree, ledger| {
            let batch = batch_of(tree);
            *ledger = Ledger::new(tree, false);
            assert!(store.remove(&tree.files[tree.units[batch].files[0]].key).unwrap());
        });
        assert_eq!((findings.lost, findings.wrong, findings.broken_batches), (0, 0, 1), "{findings:?}");
    }

    #[test]
    fn a_changed_byte_and_a_foreign_key_are_wrong() {
        let findings = found_after(|store, tree, _| {
            let mut value = store.get(&tree.files[0].key).unwrap().unwrap().to_vec();
            value[0] ^= 1;
            store.insert(&tree.files[0].key, value).unwrap();
        });
        // Once by iteration, and once by `get`.
        assert_eq!((findings.lost, findings.wrong), (0, 2), "{findings:?}");
        let findings = found_after(|store, _, _| {
            store.insert("foreign", "").unwrap();
        });
        // The key, and the number of keys.
        assert_eq!((findings.lost, findings.wrong), (0, 2), "{findings:?}");
    }

    #[test]
    fn a_file_that_changed_on_the_disk_is_compared_by_its_checksum() {
        let findings = found_after(|store, tree, _| {
            let other = b"what was listed".to_vec();
            let file = &mut tree.files[0];
            (file.len, file.crc) = (other.len() as u64, crc32fast::hash(&other));
            store.insert(&file.key, other).unwrap();
        });
        assert!(findings.is_good() && findings.by_checksum == 1, "{findings:?}");
    }
}
