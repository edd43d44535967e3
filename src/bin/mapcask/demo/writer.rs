//! The process that is killed: writes files into the store, and reports each acknowledged write.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use mapcask::{Store, WriteBatch};

use super::tree::path_of;
use super::wire::{Job, Note, decode_plan};

/// The arguments of the writer; the plan arrives through the pipe.
#[derive(Debug, Args)]
pub(crate) struct WriterArgs {
    /// The store's directory
    pub(super) store: PathBuf,
    /// The tree's root
    pub(super) root: PathBuf,
    /// Number of writing threads
    pub(super) writers: usize,
    /// Repeats the plan until killed, so that the kill always hits a writer at work
    #[arg(long)]
    pub(super) until_killed: bool,
}

pub(crate) fn run(args: &WriterArgs) -> Result<()> {
    let mut plan = Vec::new();
    io::stdin().lock().read_to_end(&mut plan).context("cannot read the plan")?;
    let jobs = decode_plan(&plan)?;
    let store = Store::open(&args.store).context("the writer cannot open the store")?;
    say(Note::Ready)?;
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..args.writers).map(|_| scope.spawn(|| write_all(args, &jobs, &next, &store))).collect();
        // All threads are joined before the first failure is reported.
        let results: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        results.into_iter().try_for_each(|result| result.map_err(|_| anyhow!("a writing thread panicked"))?)
    })?;
    store.close().context("the writer cannot close the store")
}

fn write_all(args: &WriterArgs, jobs: &[Job], next: &AtomicUsize, store: &Store) -> Result<()> {
    loop {
        // Relaxed: the counter hands out indices and publishes nothing.
        let turn = next.fetch_add(1, Ordering::Relaxed);
        if jobs.is_empty() || !args.until_killed && turn >= jobs.len() {
            return Ok(());
        }
        write_unit(&args.root, &jobs[turn % jobs.len()], store)?;
    }
}

/// Writes a unit, and reports it only after the store acknowledged it.
fn write_unit(root: &Path, job: &Job, store: &Store) -> Result<()> {
    let mut batch = WriteBatch::new();
    let mut single = None;
    for (index, file) in &job.files {
        match fs::read(path_of(root, &file.key)).ok().filter(|content| file.is(content)) {
            None => say(Note::LeftOut { file: *index })?,
            Some(content) if job.files.len() == 1 => single = Some((&file.key, content)),
            Some(content) => batch.insert(&file.key, content),
        }
    }
    let start = Instant::now();
    match single {
        Some((key, content)) => store.insert(key, content)?,
        None if batch.is_empty() => return Ok(()),
        None => store.write(&batch)?,
    };
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    say(Note::Written { unit: job.unit, nanos })
}

fn say(note: Note) -> Result<()> {
    let mut out = io::stdout().lock();
    // Standard output buffers the bytes after the last one that equals a line break.
    out.write_all(&note.encode()).and_then(|()| out.flush()).context("the writer cannot report")
}
