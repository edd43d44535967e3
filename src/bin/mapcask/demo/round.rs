//! One writer from its start to its end. All but the last are killed in mid-write.

use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::WRITER;
use super::ledger::Ledger;
use super::screen::Screen;
use super::tree::Tree;
use super::wire::{self, Note};

/// The task of a writer.
#[derive(Debug)]
pub(super) struct ReadTask<'t> {
    pub(super) tree: &'t Tree,
    pub(super) store: &'t Path,
    pub(super) writers: usize,
    pub(super) units: Vec<usize>,
    /// The amount of acknowledged work after which to kill the writer; `None` for the last one.
    pub(super) kill_after: Option<u64>,
}

/// The work of a writer, as far as it could report it.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// From the open store to the last note.
    pub(super) time: Duration,
    /// Time in calls of the store, summed over all threads.
    pub(super) in_store: Duration,
}

/// Runs a writer, and enters every write that it acknowledged.
pub(super) fn run(task: &ReadTask<'_>, ledger: &mut Ledger, screen: &Screen) -> Result<Round> {
    let mut child = start(task)?;
    let listened = listen(&mut child, task, ledger, screen);
    if listened.is_err() {
        // The writer may have ended by itself. The first error is the one to report.
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for the writer")?;
    let round = listened?;
    if task.kill_after.is_some() != is_killed(status) {
        bail!("the writer ended by itself: {status}");
    }
    if task.kill_after.is_none() && !status.success() {
        bail!("the writer failed: {status}");
    }
    Ok(round)
}

fn start(task: &ReadTask<'_>) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg(WRITER).arg(task.store).arg(&task.tree.root).arg(task.writers.to_string());
    if task.kill_after.is_some() {
        command.arg("--until-killed");
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the writer, which is this program again")?;
    let mut pipe = child.stdin.take().context("the writer has no standard input")?;
    let told = pipe.write_all(&wire::encode_plan(task.tree, &task.units));
    if let Err(error) = told {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error).context("the writer ended before it knew its task");
    }
    Ok(child)
}

/// Enters notes up to the pipe's end, after the kill: all writes acknowledged by then count.
fn listen(child: &mut Child, task: &ReadTask<'_>, ledger: &mut Ledger, screen: &Screen) -> Result<Round> {
    let mut pipe = BufReader::new(child.stdout.take().context("the writer has no standard output")?);
    let mut round = Round::default();
    let (mut work, mut is_killed) = (0, false);
    let mut start = Instant::now();
    while let Some(note) = wire::next_note(&mut pipe)? {
        if note == Note::Ready {
            start = Instant::now();
        }
        let Some(entered) = ledger.enter(task.tree, note) else {
            bail!("the writer says something about a file that it was not told of");
        };
        work += entered.work;
        round.files += entered.files;
        round.bytes += entered.bytes;
        round.in_store += Duration::from_nanos(entered.nanos);
        round.time = start.elapsed();
        screen.advance(entered.bytes);
        if !is_killed && task.kill_after.is_some_and(|limit| work >= limit) {
            child.kill().context("cannot kill the writer")?;
            is_killed = true;
        }
    }
    Ok(round)
}

#[cfg(unix)]
fn is_killed(status: ExitStatus) -> bool {
    const SIGKILL: i32 = 9;
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(SIGKILL)
}

#[cfg(not(unix))]
fn is_killed(status: ExitStatus) -> bool {
    !status.success()
}
