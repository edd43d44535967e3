//! The output of the demo while it runs: lines, and a progress bar on a terminal.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Lines on standard output, with a bar below them on a terminal.
#[derive(Debug)]
pub(super) struct Screen {
    bar: Option<ProgressBar>,
}

impl Screen {
    pub(super) fn new() -> Self {
        // The bar is drawn on standard error. It would disturb lines that are redirected.
        let is_terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        Self { bar: is_terminal.then(ProgressBar::hidden) }
    }

    /// Returns a screen that shows nothing.
    #[cfg(test)]
    pub(super) fn silent() -> Self {
        Self { bar: None }
    }

    /// Begins an activity of so many bytes, if the number is known.
    pub(super) fn begin(&mut self, what: &str, bytes: Option<u64>) {
        let Some(bar) = &mut self.bar else { return };
        bar.finish_and_clear();
        let (fresh, template) = match bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{msg:24} [{bar:40}] {binary_bytes:>11} of {binary_total_bytes} {binary_bytes_per_sec:>14}",
            ),
            None => (ProgressBar::new_spinner(), "{msg:24} {spinner} {binary_bytes:>11}"),
        };
        // An invalid template falls back to the default one.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        fresh.set_style(style.progress_chars("=> "));
        fresh.set_message(what.to_owned());
        *bar = fresh;
    }

    pub(super) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Ends the current activity, and prints a line about it.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        writeln!(io::stdout().lock(), "{text}")?;
        Ok(())
    }
}
