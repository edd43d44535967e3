//! The demo: stores real files, kills the writer in mid-write, and checks the store after each
//! kill.
//!
//! After each kill every acknowledged file must be there, byte for byte, and nothing else. The
//! writer is this program again. It reports each write through a pipe after the store acknowledged
//! it, so the promise is known outside of the store. A kill ends a process, not the machine. The
//! tests on the simulated disk cover power cuts.
//! here but in the tests on the simulated disk.

mod check;
mod ledger;
mod place;
mod report;
mod round;
mod screen;
mod tree;
mod wire;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use mapcask::Options;

use check::Findings;
use ledger::Ledger;
use place::Place;
use report::Summary;
use round::ReadTask;
use screen::Screen;
use tree::Tree;
pub(super) use writer::{WriterArgs, run as run_writer};

/// The hidden command that starts a writer.
pub(super) const WRITER: &str = "demo-writer";

/// The arguments of the demo.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// The directory whose files are stored; default: the package sources in Cargo's registry
    /// folder
    path: Option<PathBuf>,
    /// Number of times to kill the writer
    #[arg(long, value_name = "N", default_value_t = 5)]
    kills: usize,
    /// Number of writing threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    writers: u16,
    /// Stores files of at most this many bytes in total
    #[arg(long, value_name = "BYTES", default_value_t = 512 << 20)]
    limit_bytes: u64,
    /// Keeps the store in this directory, which must be empty or absent
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Keeps the store in the directory that the demo creates
    #[arg(long)]
    keep: bool,
    /// Seeds the choice of the moments of the kills, as far as the machine permits
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Pretends that one more write was acknowledged, so that the demo must fail; used by its test
    #[arg(long, hide = true)]
    pretend: bool,
}

/// Runs the demo, and returns `true` if the store kept its promises.
pub(super) fn run(args: &DemoArgs) -> Result<bool> {
    let root = match &args.path {
        Some(path) => path.clone(),
        None => registry_sources()?,
    };
    let mut screen = Screen::new();
    let place = Place::choose(args.store.as_deref(), args.keep)?;
    for path in &place.removed {
        screen.line(&format!("removed    {}, which an interrupted demo left", path.display()))?;
    }
    screen.line(&format!("files of   {}", root.display()))?;
    screen.begin("listing", None);
    // A path that cannot be stored is refused before anything is created for it.
    let tree = Tree::list(&root, &place.path, args.limit_bytes, &|len| screen.advance(len))?;
    place.make()?;
    screen.line(&format!("go into    {} ({})", place.path.display(), place.fate()))?;
    let outcome = play(args, &tree, &place.path, screen);
    let left = place.leave(matches!(outcome, Ok(true)));
    // The demo's verdict takes precedence over an error of its directory.
    let is_good = outcome?;
    left.map(|()| is_good)
}

fn registry_sources() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    match cargo.map(|cargo| cargo.join("registry").join("src")) {
        Some(sources) if sources.is_dir() => Ok(sources),
        Some(sources) => bail!(
            "there are no package sources at {}; name any directory with files: mapcask demo PATH",
            sources.display()
        ),
        None => bail!("there is no home directory; name any directory with files: mapcask demo PATH"),
    }
}

fn play(args: &DemoArgs, tree: &Tree, store: &Path, screen: Screen) -> Result<bool> {
    let dice = Dice(args.seed.unwrap_or_else(|| RandomState::new().hash_one("seed") >> 32));
    screen.line(&format!(
        "{} files, {}; the writer is killed {} times, --seed {}",
        HumanCount(tree.files.len() as u64),
        HumanBytes(tree.bytes),
        args.kills,
        dice.0,
    ))?;
    let ledger = Ledger::new(tree, args.pretend);
    let mut play = Play { args, store, tree, dice, ledger, summary: Summary::default(), screen };
    for kills_left in (0..=args.kills).rev() {
        play.round(kills_left)?;
    }
    play.close()
}

/// A demo under way.
#[derive(Debug)]
struct Play<'p> {
    args: &'p DemoArgs,
    store: &'p Path,
    tree: &'p Tree,
    dice: Dice,
    ledger: Ledger,
    summary: Summary,
    screen: Screen,
}

impl Play<'_> {
    /// Runs one writer, and the check after its end.
    fn round(&mut self, kills_left: usize) -> Result<()> {
        let tree = self.tree;
        let is_last = kills_left == 0;
        let mut units = self.ledger.open_units(tree);
        if units.is_empty() && !is_last {
            // A small tree with many kills is complete early: write all of it again.
            units = self.ledger.all_units();
        }
        let kill_after = (!is_last).then(|| self.dice.share(ledger::work(tree, &units), kills_left));
        let name = if is_last {
            "last writer".to_owned()
        } else {
            format!("writer {}, to be killed", self.args.kills - kills_left + 1)
        };
        let files = units.iter().flat_map(|&unit| &tree.units[unit].files);
        self.screen.begin(&name, Some(files.map(|&file| tree.files[file].len).sum()));
        let writers = usize::from(self.args.writers);
        let task = ReadTask { tree, store: self.store, writers, units, kill_after };
        let round = round::run(&task, &mut self.ledger, &self.screen)?;
        self.summary.add_round(&round);
        self.summary.kills += usize::from(!is_last);
        self.screen.begin("reopened, checking", Some(tree.bytes));
        let (findings, opened) = self.look(is_last)?;
        self.screen.line(&format!(
            "{} after {:>6} files, {:>10}; reopened in {:>8}: {} lost, {} wrong, {} batches in part",
            if is_last { "closed" } else { "killed" },
            HumanCount(round.files as u64).to_string(),
            HumanBytes(round.bytes).to_string(),
            report::millis(opened),
            findings.lost,
            findings.wrong,
            findings.broken_batches,
        ))?;
        self.summary.add_findings(findings);
        Ok(())
    }

    /// Opens the store, checks it, and closes it; at the end also with its own verification.
    fn look(&mut self, is_last: bool) -> Result<(Findings, Duration)> {
        let start = Instant::now();
        let store = Options::new().create(false).open(self.store);
        let opened = start.elapsed();
        let store = store.context("the store does not open again")?;
        if is_last {
            // Before the bytes are compared, so that the check covers the compacted records.
            self.summary.compaction = store.compact().context("the store does not compact")?;
        }
        let findings = check::check(&store, self.tree, &self.ledger, &self.screen)?;
        if is_last {
            self.summary.clean_open = opened;
            self.summary.records = store.verify().context("the store does not verify")?.records;
            self.summary.keys = store.len();
            self.summary.size_on_disk = store.size_on_disk()?;
        } else {
            self.summary.reopens.push(opened);
        }
        store.close().context("the store does not close")?;
        Ok((findings, opened))
    }

    /// Prints the table, the first findings in words, and the verdict.
    fn close(mut self) -> Result<bool> {
        self.summary.acknowledged = self.ledger.acknowledged_count(self.tree);
        self.summary.left_out = self.ledger.left_out_count();
        self.screen.line(&self.summary.table(self.tree))?;
        let found = &self.summary.found;
        for told in &found.told {
            self.screen.line(told)?;
        }
        self.screen.line(if found.is_good() {
            "Every acknowledged file is there, byte for byte, and nothing else is."
        } else {
            "The store did not keep its promise."
        })?;
        Ok(found.is_good())
    }
}

/// Random numbers that a seed reproduces (splitmix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns about one of `kills_left + 1` equal parts of the work: 0.5 to 1.5 times a part.
    fn share(&mut self, work: u64, kills_left: usize) -> u64 {
        let part = work / (kills_left as u64 + 1);
        part / 2 + self.roll() % part.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_leave_work_for_the_last_writer() {
        for seed in 0..1000 {
            let mut dice = Dice(seed);
            let mut left = 1 << 40;
            for kills_left in (1..=5).rev() {
                let share = dice.share(left, kills_left);
                assert!(share > 0 && share <= left / 4 * 3, "{seed}: {share} of {left}");
                left -= share;
            }
        }
    }
}
