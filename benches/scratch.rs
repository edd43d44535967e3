//! Provides directories to work in, child processes that die on purpose, and a file system with a
//! journal.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use mapcask::{Options, Store};
use tempfile::TempDir;

use crate::workload::{key, value, value_pool};
use crate::{Lab, Result, counts, feeding, following, opening, space, taking_over};

/// The size of the file that holds the file system with a journal, in bytes.
const IMAGE_BYTES: u64 = 2 << 30;

impl Lab {
    /// Makes a new directory below the one that the caller named; it is removed on drop.
    pub(crate) fn directory(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(&self.directory)?)
    }

    /// Makes a store that holds every key of the workload. The directory must outlive it.
    pub(crate) fn loaded(&self, options: Options) -> Result<(Store, TempDir)> {
        let directory = self.directory()?;
        let store = options.open(directory.path())?;
        for (at, key) in self.workload.keys.iter().enumerate() {
            store.insert(key, self.workload.value(at, 0))?;
        }
        Ok((store, directory))
    }
}

/// Runs this program as a child and returns its output; a child that kills itself is no failure.
pub(crate) fn run_child(arguments: &[&str], directory: &Path) -> Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .arg("--child")
        .args(arguments)
        .arg(directory)
        .stderr(Stdio::inherit())
        .output()?;
    if output.status.code().is_some_and(|code| code != 0) {
        return Err(format!("the child {arguments:?} failed").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// This program as another process, which prints a line once it is ready.
pub(crate) struct Peer {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it, and returns once it is ready.
    pub(crate) fn start(arguments: &[&str], directory: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--child").args(arguments).arg(directory);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().ok_or("the output is piped")?;
        let mut peer = Self { process, output: BufReader::new(output) };
        match peer.line()?.as_str() {
            "ready" => Ok(peer),
            line => Err(format!("the child {arguments:?} printed {line}").into()),
        }
    }

    /// Returns the next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the child has ended".into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Writes a line to it.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let mut input = self.process.stdin.as_ref().ok_or("the input is piped")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended, or a step of the bench failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a child: `fill COUNT DIR` (`fill-alone`: without a worker) and die by SIGKILL, `open COUNT DIR`, `memory CONTENDER COUNT DIR`, or one of those
/// that follow the store of another process.
pub(crate) fn child(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["fill" | "fill-alone", count, directory] => {
            let store = Options::new().background(words[0] == "fill").open(directory)?;
            fill(&store, 0, count.parse()?)?;
            let me = rustix::process::getpid();
            Ok(rustix::process::kill_process(me, rustix::process::Signal::KILL)?)
        }
        ["open", count, directory] => opening::child(Path::new(directory), count.parse()?),
        [way @ ("follow" | "follow-asleep"), directory] => following::child(way, directory),
        [way @ ("consume" | "sleep-durable" | "sleep-records"), directory] => feeding::child(way, directory),
        ["count", name, repetitions, directory] => counts::child(name, repetitions.parse()?, directory),
        ["write", ..] | ["standby", ..] => taking_over::child(&words),
        ["memory", contender, count, directory] => space::memory_child(contender, count.parse()?, directory),
        _ => Err("not a child's arguments".into()),
    }
}

/// Inserts the keys with the numbers from `from` to `to`.
pub(crate) fn fill(store: &Store, from: usize, to: usize) -> Result<()> {
    let pool = value_pool();
    for number in from..to {
        store.insert(key(number as u64), value(&pool, number, 0))?;
    }
    Ok(())
}

/// Copies a flat directory.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// A mounted ext4 with a journal, in a file; it is unmounted and removed on drop.
pub(crate) struct Journalled {
    /// The mount point.
    pub(crate) directory: PathBuf,
    image: PathBuf,
    is_mounted: bool,
}

impl Journalled {
    /// Makes and mounts the file system. It needs root and loop devices: the error names the failed
    /// step.
    pub(crate) fn mount(below: &Path) -> Result<Self> {
        let below = below.canonicalize()?;
        let mut mounted = Self {
            directory: below.join("journalled"),
            image: below.join("journalled.img"),
            is_mounted: false,
        };
        fs::create_dir_all(&mounted.directory)?;
        let image = fs::File::create(&mounted.image)?;
        // The file has its blocks: the file system below must not allocate while the one above is
        // measured.
        rustix::fs::fallocate(&image, rustix::fs::FallocateFlags::empty(), 0, IMAGE_BYTES)?;
        drop(image);
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(&mounted.image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&mounted.image, &mounted.directory]))?;
        mounted.is_mounted = true;
        Ok(mounted)
    }
}

impl Drop for Journalled {
    fn drop(&mut self) {
        if self.is_mounted && run(Command::new("umount").arg(&self.directory)).is_err() {
            // The image must stay as long as it is mounted.
            return;
        }
        let _ = fs::remove_file(&self.image);
        let _ = fs::remove_dir(&self.directory);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
