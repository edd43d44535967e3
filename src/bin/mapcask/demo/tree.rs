//! The input of the demo: the files of a directory tree, grouped into writes.
//!
//! It keeps the path, length and checksum of each file, never the content. So the demo's memory
//! grows with the number of files only.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mapcask::{MAX_KEY_LEN, MAX_VALUE_LEN};

/// The size above which a file is a write of its own.
const SMALL_LEN: u64 = 64 << 10;
/// One in this many directories is stored as a batch.
const BATCH_EVERY: usize = 3;
/// The most files in a batch.
const BATCH_COUNT: usize = 256;

/// A file as it was when the tree was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// The path from the root, which is the key in the store.
    pub(super) key: Vec<u8>,
    pub(super) len: u64,
    pub(super) crc: u32,
}

impl File {
    /// Returns `true` if these bytes are the file as it was listed.
    pub(super) fn is(&self, content: &[u8]) -> bool {
        content.len() as u64 == self.len && crc32fast::hash(content) == self.crc
    }
}

/// The files of one write: one by an insert, or several in a batch. Indices into `Tree::files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) files: Vec<usize>,
}

/// The files of a directory tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) files: Vec<File>,
    pub(super) units: Vec<Unit>,
    pub(super) bytes: u64,
    /// True if the tree holds more than the limit permits.
    pub(super) is_cut: bool,
    /// Number of files that cannot be read or are too large for a store.
    pub(super) passed_over: usize,
}

impl Tree {
    /// Lists the regular files below `root`, up to `limit` bytes of content.
    ///
    /// It follows no links, and skips `avoid`. `progress` is called with the length of each file.
    pub(super) fn list(root: &Path, avoid: &Path, limit: u64, progress: &dyn Fn(u64)) -> Result<Self> {
        let root = fs::canonicalize(root).with_context(|| format!("cannot find {}", root.display()))?;
        if !root.is_dir() {
            bail!("{} is no directory; name one with files", root.display());
        }
        let mut tree = Self { root, ..Self::default() };
        let mut directories = vec![tree.root.clone()];
        let mut batch_turn = 0;
        while let Some(directory) = directories.pop() {
            if directory == avoid || tree.is_cut {
                continue;
            }
            let first = tree.files.len();
            let found = tree.directory(&directory, limit, progress)?;
            // The stack returns them in reverse.
            directories.extend(found.into_iter().rev());
            tree.group(first, &mut batch_turn);
        }
        if tree.files.is_empty() {
            bail!("{} holds no file of up to {limit} bytes; name another directory", tree.root.display());
        }
        Ok(tree)
    }

    /// Takes the files of one directory, and returns the directories in it.
    fn directory(&mut self, path: &Path, limit: u64, progress: &dyn Fn(u64)) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) if *path == self.root => {
                return Err(error).with_context(|| format!("cannot list {}", path.display()));
            }
            Err(_) => {
                self.passed_over += 1;
                return Ok(Vec::new());
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut directories = Vec::new();
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let len = entry.metadata().map_or(0, |metadata| metadata.len());
                    if self.bytes + len > limit {
                        self.is_cut = true;
                        break;
                    }
                    self.take(&entry.path());
                    progress(len);
                }
                _ => {}
            }
        }
        Ok(directories)
    }

    fn take(&mut self, path: &Path) {
        let key = path.strip_prefix(&self.root).ok().and_then(key_of);
        let content = fs::read(path).ok().filter(|content| content.len() <= MAX_VALUE_LEN);
        match (key.filter(|key| key.len() <= MAX_KEY_LEN), content) {
            (Some(key), Some(content)) => {
                let len = content.len() as u64;
                self.bytes += len;
                self.files.push(File { key, len, crc: crc32fast::hash(&content) });
            }
            _ => self.passed_over += 1,
        }
    }

    /// Groups the files from `first` on, which are those of one directory, into writes.
    fn group(&mut self, first: usize, batch_turn: &mut usize) {
        let (small, large): (Vec<usize>, Vec<usize>) =
            (first..self.files.len()).partition(|&file| self.files[file].len <= SMALL_LEN);
        *batch_turn += usize::from(small.len() > 1);
        let is_batch = small.len() > 1 && batch_turn.is_multiple_of(BATCH_EVERY);
        let together = if is_batch { BATCH_COUNT } else { 1 };
        self.units.extend(small.chunks(together).map(|files| Unit { files: files.to_vec() }));
        self.units.extend(large.into_iter().map(|file| Unit { files: vec![file] }));
    }

    pub(super) fn batch_count(&self) -> usize {
        self.units.iter().filter(|unit| unit.files.len() > 1).count()
    }
}

/// Returns the key of a relative path.
///
/// `None` if paths of the platform are not bytes and this one is not valid text.
fn key_of(path: &Path) -> Option<Vec<u8>> {
    if cfg!(unix) {
        return Some(path.as_os_str().as_encoded_bytes().to_vec());
    }
    path.to_str().map(|path| path.as_bytes().to_vec())
}

/// Returns the path that has this key.
pub(super) fn path_of(root: &Path, key: &[u8]) -> PathBuf {
    #[cfg(unix)]
    let relative: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(key);
    #[cfg(not(unix))]
    let relative = &*String::from_utf8_lossy(key);
    root.join(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_one_unit_and_some_directories_are_batches() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let tree = Tree::list(&sources, &sources.join("fs"), u64::MAX, &|_| ()).unwrap();
        let mut files: Vec<usize> = tree.units.iter().flat_map(|unit| unit.files.clone()).collect();
        files.sort_unstable();
        assert_eq!(files, (0..tree.files.len()).collect::<Vec<_>>());
        assert!(tree.batch_count() > 0 && tree.batch_count() < tree.units.len());
        assert!(tree.files.iter().all(|file| !file.key.starts_with(b"fs/")), "the avoided one is left out");
        let content = fs::read(path_of(&tree.root, &tree.files[0].key)).unwrap();
        assert!(tree.files[0].is(&content));
    }

    #[test]
    fn the_limit_cuts_the_tree_and_says_so() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let tree = Tree::list(&sources, Path::new(""), 60_000, &|_| ()).unwrap();
        assert!(tree.is_cut && tree.bytes <= 60_000);
        assert!(Tree::list(&sources, Path::new(""), 0, &|_| ()).unwrap_err().to_string().contains("no file"));
    }
}
