//! The live view of a store that another process writes to.
//!
//! It follows the store and writes nothing in its directory. On a terminal it draws a frame in place;
//! elsewhere it prints a line of JSON for each interval. Every number is one that a follower knows: it
//! counts what it applies, and looks at the files.

mod frame;
mod sample;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use mapcask::{Error, Follower};

use self::sample::{Sample, Watch};
use super::commands::explained_for;
use super::seconds::parse_seconds;

/// The longest time between two refreshes. A follower that falls behind compaction must read the store
/// anew.
const SLICE: Duration = Duration::from_millis(100);
/// The lines of a terminal that does not tell its size.
const ROWS: u16 = 24;
/// The number of keyspaces in a line of JSON.
const LARGEST: usize = 10;

/// The arguments of the live view.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// The store's directory
    #[arg(value_name = "DIR", default_value = "data")]
    store: PathBuf,
    /// The seconds between two views
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    interval: Duration,
    /// Ends after this many views
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Prints lines of JSON on a terminal, too
    #[arg(long)]
    json: bool,
    /// Waits for the store if there is none yet
    #[arg(long)]
    wait: bool,
}

/// Shows the store until it is interrupted, or until all views are shown.
pub(super) fn top(args: &TopArgs) -> Result<bool> {
    let mut watch = Watch::begin(follow(args)?)?;
    let mut screen = (!args.json && io::stdout().is_terminal()).then(Screen::default);
    let mut out = io::stdout().lock();
    let path = args.store.display().to_string();
    if let Some(screen) = &mut screen {
        // A view without rates, so that a terminal is not empty for an interval.
        let first = Sample { time: Duration::ZERO, ..watch.sample()? };
        screen.draw(&mut out, &first.frame(&path, screen.rows()))?;
    }
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        let end = Instant::now() + args.interval;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::sleep(left.min(SLICE));
            watch.refresh()?;
        }
        let sample = watch.sample()?;
        match &mut screen {
            Some(screen) => {
                let frame = sample.frame(&path, screen.rows());
                screen.draw(&mut out, &frame)?;
            }
            None => writeln!(out, "{}", sample.line(LARGEST))?,
        }
        out.flush()?;
        shown += 1;
    }
    Ok(true)
}

/// Opens a follower, and waits for the store if that was asked for.
fn follow(args: &TopArgs) -> Result<Follower> {
    let mut is_told = false;
    loop {
        match Follower::open(&args.store) {
            Err(Error::NotFound { .. }) if args.wait => {
                if !is_told {
                    eprintln!("mapcask: waiting for a store at {}", args.store.display());
                    is_told = true;
                }
                thread::sleep(SLICE);
            }
            opened => {
                return explained_for(
                    opened,
                    &args.store,
                    "mapcask top DIR names another; --wait waits for one",
                );
            }
        }
    }
}

/// Draws frames in place, below what the terminal shows already.
#[derive(Debug, Default)]
struct Screen {
    /// The number of lines of the last frame.
    lines: usize,
}

impl Screen {
    /// Returns the number of lines of the terminal.
    #[expect(clippy::unused_self, reason = "it is a question about the screen")]
    fn rows(&self) -> usize {
        #[cfg(unix)]
        let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row);
        #[cfg(not(unix))]
        let rows = 0;
        usize::from(if rows == 0 { ROWS } else { rows })
    }

    /// Replaces the last frame by another one.
    ///
    /// Both are one write, which an interrupt does not divide: at the end the terminal is as before,
    /// with the cursor below the frame. Meanwhile long lines are cut and not wrapped, because a wrapped
    /// one would take two lines.
    fn draw(&mut self, out: &mut impl Write, frame: &[String]) -> Result<()> {
        let mut text = String::from("\x1b[?7l");
        if self.lines > 0 {
            text += &format!("\x1b[{}A", self.lines);
        }
        for line in frame {
            text += &format!("\r{line}\x1b[K\n");
        }
        text += "\x1b[J\x1b[?7h";
        self.lines = frame.len();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_goes_back_over_the_lines_of_the_last_frame() {
        let (mut screen, mut out) = (Screen::default(), Vec::new());
        screen.draw(&mut out, &["one".to_owned(), "two".to_owned()]).unwrap();
        assert_eq!(out, b"\x1b[?7l\rone\x1b[K\n\rtwo\x1b[K\n\x1b[J\x1b[?7h");
        out.clear();
        screen.draw(&mut out, &["three".to_owned()]).unwrap();
        assert_eq!(out, b"\x1b[?7l\x1b[2A\rthree\x1b[K\n\x1b[J\x1b[?7h");
    }
}
