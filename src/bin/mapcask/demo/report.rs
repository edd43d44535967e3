//! The closing table of the demo.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use mapcask::CompactionReport;

use super::check::Findings;
use super::round::Round;
use super::tree::Tree;

/// The totals of all rounds.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) kills: usize,
    /// The duration of each open after a kill.
    pub(super) reopens: Vec<Duration>,
    /// The duration of the open after the orderly end.
    pub(super) clean_open: Duration,
    /// The sum over all writers.
    pub(super) written: Round,
    /// The sum over all checks; `present` is that of the last one.
    pub(super) found: Findings,
    pub(super) acknowledged: usize,
    pub(super) left_out: usize,
    pub(super) keys: usize,
    pub(super) size_on_disk: u64,
    pub(super) records: u64,
    pub(super) compaction: CompactionReport,
}

impl Summary {
    pub(super) fn add_round(&mut self, round: &Round) {
        self.written.files += round.files;
        self.written.bytes += round.bytes;
        self.written.time += round.time;
        self.written.in_store += round.in_store;
    }

    pub(super) fn add_findings(&mut self, findings: Findings) {
        self.found.present = findings.present;
        self.found.lost += findings.lost;
        self.found.wrong += findings.wrong;
        self.found.broken_batches += findings.broken_batches;
        self.found.by_checksum = findings.by_checksum;
        self.found.told.extend(findings.told);
    }

    pub(super) fn table(&self, tree: &Tree) -> String {
        let mut rows = self.input(tree);
        rows.extend(self.outcome(tree));
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        for (name, value) in rows {
            table.add_row([name, &value]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    fn input(&self, tree: &Tree) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("files", count(tree.files.len())),
            ("bytes", HumanBytes(tree.bytes).to_string()),
            ("batches among the writes", count(tree.batch_count())),
        ];
        if tree.is_cut {
            rows.push(("input was cut", "the tree holds more than --limit-bytes".to_owned()));
        }
        if tree.passed_over > 0 {
            rows.push(("passed over", format!("{}, unreadable or too large", count(tree.passed_over))));
        }
        if self.left_out > 0 {
            rows.push(("left out", format!("{}, changed during the demo", count(self.left_out))));
        }
        if self.found.by_checksum > 0 {
            let compared = HumanCount(self.found.by_checksum);
            rows.push(("compared by checksum", format!("{compared}, changed during the demo")));
        }
        rows
    }

    fn outcome(&self, tree: &Tree) -> Vec<(&'static str, String)> {
        vec![
            ("kills survived", count(self.kills)),
            ("acknowledged", format!("{} of {}", count(self.acknowledged), count(tree.files.len()))),
            ("lost", HumanCount(self.found.lost).to_string()),
            ("wrong or invented", HumanCount(self.found.wrong).to_string()),
            ("batches in part", HumanCount(self.found.broken_batches).to_string()),
            ("writers, files read and stored", rate(self.written.bytes, self.written.time)),
            ("per writer thread, inside the store's calls", rate(self.written.bytes, self.written.in_store)),
            ("reopen after a kill, median", self.reopen(|sorted| sorted[sorted.len() / 2])),
            ("reopen after a kill, longest", self.reopen(|sorted| sorted[sorted.len() - 1])),
            ("reopen after a close", millis(self.clean_open)),
            ("keys", count(self.keys)),
            ("records intact", HumanCount(self.records).to_string()),
            ("compaction, moved", HumanBytes(self.compaction.bytes_moved).to_string()),
            ("compaction, given back", HumanBytes(self.compaction.bytes_freed).to_string()),
            ("store on the disk", HumanBytes(self.size_on_disk).to_string()),
        ]
    }

    fn reopen(&self, pick: impl FnOnce(&[Duration]) -> Duration) -> String {
        let mut sorted = self.reopens.clone();
        sorted.sort_unstable();
        if sorted.is_empty() { "no kills".to_owned() } else { millis(pick(&sorted)) }
    }
}

fn count(number: usize) -> String {
    HumanCount(number as u64).to_string()
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn rate(bytes: u64, time: Duration) -> String {
    let nanos = time.as_nanos().max(1);
    // Bytes per nanosecond are thousands of megabytes per second.
    format!("{} MB/s", HumanCount(u64::try_from(u128::from(bytes) * 1000 / nanos).unwrap_or(u64::MAX)))
}
