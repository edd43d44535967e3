//! Runs contenders in rounds: each once per round, in turn, so that a change in the machine's speed
//! affects all alike.
//!
//! The first round warms up and does not count. A ratio is the median of the rounds' own ratios.
//! All contenders of a table must arrive at the same sum.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::Result;

/// The work of one contender in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// The number of operations, or of the unit's items.
    pub(crate) count: u64,
    /// The time that they took.
    pub(crate) elapsed: Duration,
    /// The sum over the bytes that were read; `None` where nothing comparable is read.
    pub(crate) sum: Option<u64>,
}

impl Measured {
    /// Times some work that returns the sum over the bytes that it read.
    pub(crate) fn time(count: usize, work: impl FnOnce() -> Result<u64>) -> Result<Self> {
        let began = Instant::now();
        let sum = work()?;
        Ok(Self { count: count as u64, elapsed: began.elapsed(), sum: Some(sum) })
    }

    fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }
}

/// The work of one round; takes the round's number.
type Work<'c> = Box<dyn FnMut(usize) -> Result<Measured> + 'c>;

/// The contenders of one table.
pub(crate) struct Race<'c> {
    title: String,
    unit: &'static str,
    /// The divisor of a rate in units per second.
    scale: f64,
    contenders: Vec<(String, Work<'c>)>,
}

impl<'c> Race<'c> {
    /// Makes a race whose rates are shown in thousands of operations per second.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), unit: "thousand/s", scale: 1e3, contenders: Vec::new() }
    }

    /// Shows rates in another unit.
    pub(crate) fn unit(mut self, unit: &'static str, scale: f64) -> Self {
        self.unit = unit;
        self.scale = scale;
        self
    }

    /// Adds a contender. The others are compared with the first one.
    pub(crate) fn add(&mut self, label: impl Into<String>, work: impl FnMut(usize) -> Result<Measured> + 'c) {
        self.contenders.push((label.into(), Box::new(work)));
    }

    /// Runs all rounds.
    pub(crate) fn run(mut self, rounds: usize) -> Result<Table> {
        let count = self.contenders.len();
        let mut rates = vec![Vec::new(); count];
        for round in 0..=rounds {
            let mut sum = None;
            // Each round begins with another contender: being first after a pause must not be an
            // advantage.
            for turn in 0..count {
                let at = (turn + round) % count;
                let (label, work) = &mut self.contenders[at];
                let measured = work(round).map_err(|error| format!("{}: {label}: {error}", self.title))?;
                if let Some(found) = measured.sum {
                    let expected = *sum.get_or_insert(found);
                    if expected != found {
                        return Err(
                            format!("{}: {label} read something else in round {round}", self.title).into()
                        );
                    }
                }
                if round > 0 {
                    rates[at].push(measured.rate() / self.scale);
                }
            }
        }
        let headers = ["", self.unit, "least to greatest", "ratio"].map(str::to_owned).to_vec();
        let mut table = Table { title: self.title, headers, rows: Vec::new(), notes: Vec::new() };
        let reference = rates.first().cloned().unwrap_or_default();
        for ((label, _), mut rates) in self.contenders.into_iter().zip(rates) {
            // The speed of the machine differs less within a round than between rounds.
            let mut ratios: Vec<f64> =
                rates.iter().zip(&reference).map(|(rate, reference)| rate / reference).collect();
            let middle = number(median(&mut rates));
            let spread = format!("{} to {}", number(rates[0]), number(rates[rates.len() - 1]));
            table.row([label, middle, spread, format!("{:.2}", median(&mut ratios))]);
        }
        Ok(table)
    }
}

/// Returns the value in the middle, and sorts the values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Formats a number with about three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A table, printed as Markdown: legible as it is, and input for `benches/record/import.py`.
#[derive(Debug)]
pub(crate) struct Table {
    /// The text above the table.
    pub(crate) title: String,
    /// The first line.
    pub(crate) headers: Vec<String>,
    /// The other lines.
    pub(crate) rows: Vec<Vec<String>>,
    /// The sentences below the table.
    pub(crate) notes: Vec<String>,
}

impl Table {
    /// Makes an empty table.
    pub(crate) fn new(title: impl Into<String>, headers: &[&str]) -> Self {
        let headers = headers.iter().map(|header| (*header).to_owned()).collect();
        Self { title: title.into(), headers, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a sentence below the table.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Returns the table as text.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].len());
                cells.chain([self.headers[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| {
                let dashes = "-".repeat(width.saturating_sub(1).max(2));
                if column == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
            })
            .collect();
        for row in [&self.headers, &rule].into_iter().chain(&self.rows) {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a string does not fail.
                let _ = match column {
                    0 => write!(text, "| {cell:<width$} "),
                    _ => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }
}
