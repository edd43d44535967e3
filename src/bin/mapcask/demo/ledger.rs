//! The acknowledged writes, as known outside of the store.

use super::tree::Tree;
use super::wire::Note;

/// The writes that were acknowledged, and the files that have changed since they were listed.
#[derive(Debug)]
pub(super) struct Ledger {
    written: Vec<bool>,
    left_out: Vec<bool>,
    /// The unit that counts as written although no writer is told of it.
    pretended: Option<usize>,
}

impl Ledger {
    /// Returns an empty ledger, or one that lies about the last unit, to see the check fail.
    pub(super) fn new(tree: &Tree, pretend: bool) -> Self {
        let mut written = vec![false; tree.units.len()];
        let pretended = pretend.then(|| written.len().saturating_sub(1));
        if let Some(unit) = pretended {
            written[unit] = true;
        }
        Self { written, left_out: vec![false; tree.files.len()], pretended }
    }

    /// Enters a note, and returns its contribution: work in the measure of [`work`], and
    /// acknowledged bytes.
    ///
    /// Returns `None` for a note about an unknown file or unit.
    pub(super) fn enter(&mut self, tree: &Tree, note: Note) -> Option<Entered> {
        match note {
            Note::Ready => Some(Entered::default()),
            Note::Written { unit, nanos } => {
                let index = usize::try_from(unit).ok()?;
                let unit = tree.units.get(index)?;
                self.written[index] = true;
                let bytes = unit.files.iter().map(|&file| self.bytes_of(tree, file)).sum();
                let files = unit.files.iter().filter(|&&file| !self.left_out[file]).count();
                Some(Entered { work: work_of(tree, &unit.files), files, bytes, nanos })
            }
            Note::LeftOut { file } => {
                let file = usize::try_from(file).ok()?;
                *self.left_out.get_mut(file)? = true;
                Some(Entered { work: work_of(tree, &[file]), ..Entered::default() })
            }
        }
    }

    fn bytes_of(&self, tree: &Tree, file: usize) -> u64 {
        if self.left_out[file] { 0 } else { tree.files[file].len }
    }

    pub(super) fn is_written(&self, unit: usize) -> bool {
        self.written[unit]
    }

    pub(super) fn is_left_out(&self, file: usize) -> bool {
        self.left_out[file]
    }

    pub(super) fn left_out_count(&self) -> usize {
        self.left_out.iter().filter(|&&is_out| is_out).count()
    }

    /// Returns the number of files in acknowledged writes.
    pub(super) fn acknowledged_count(&self, tree: &Tree) -> usize {
        let units = tree.units.iter().zip(&self.written).filter(|(_, written)| **written);
        units.flat_map(|(unit, _)| &unit.files).filter(|file| !self.left_out[**file]).count()
    }

    /// Returns the units that are still to be written.
    pub(super) fn open_units(&self, tree: &Tree) -> Vec<usize> {
        let is_open = |unit: &usize| {
            !self.written[*unit] && tree.units[*unit].files.iter().any(|&file| !self.left_out[file])
        };
        (0..tree.units.len()).filter(is_open).collect()
    }

    /// Returns all units that a writer may be told of.
    pub(super) fn all_units(&self) -> Vec<usize> {
        (0..self.written.len()).filter(|unit| Some(*unit) != self.pretended).collect()
    }
}

/// The contribution of a note.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entered {
    pub(super) work: u64,
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) nanos: u64,
}

/// Returns the work of files: their bytes, and a constant for each, so that small files count too.
fn work_of(tree: &Tree, files: &[usize]) -> u64 {
    const PER_FILE: u64 = 4096;
    files.iter().map(|&file| tree.files[file].len + PER_FILE).sum()
}

/// Returns the work of units.
pub(super) fn work(tree: &Tree, units: &[usize]) -> u64 {
    units.iter().map(|&unit| work_of(tree, &tree.units[unit].files)).sum()
}
