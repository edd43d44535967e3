//! Tests the commands of the tool that go on beside other processes: `top` and `standby`.
//!
//! A child is this test binary, started again for one test, by itself or as the command of a standby. It
//! reports through its standard output and takes orders through its standard input, so no result
//! depends on time.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::process::{self, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Follower, Options, Store};
use serde_json::Value;

/// The time after which a state that should have come has failed to come.
const PATIENCE: Duration = Duration::from_secs(60);
const TEST: &str = "child_process_does_its_part_of_a_test";
const PART: &str = "MAPCASK_TOOL_PART";
const STORE: &str = "MAPCASK_TOOL_STORE";
/// The exit code of a command that is told to end.
const CODE: i32 = 7;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mapcask"))
}

/// Returns the program and the arguments of a child.
fn child_line() -> Vec<String> {
    let program = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let arguments = ["--exact", TEST, "--nocapture", "--test-threads=1"];
    [program].into_iter().chain(arguments.map(str::to_owned)).collect()
}

/// A process with pipes. It is killed if the test ends before it.
struct Running {
    process: process::Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, input, output }
    }

    /// Starts a child that does one part.
    fn child(part: &str, store: &Path) -> Self {
        let line = child_line();
        Self::start(Command::new(&line[0]).args(&line[1..]).env(PART, part).env(STORE, store))
    }

    /// Starts a standby whose command is a child that serves.
    fn standby(store: &Path) -> Self {
        let mut command = tool();
        command.arg("standby").arg(store).arg("--").args(child_line()).env(PART, "serve");
        Self::start(&mut command)
    }

    /// Waits for the next report. Returns `None` if the process has ended.
    fn report(&mut self) -> Option<String> {
        let mut lines = self.output.by_ref().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix("@ ").map(str::to_owned))
    }

    fn order(&mut self, order: &str) {
        writeln!(self.input.as_mut().unwrap(), "{order}").unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

// ---- The children -------------------------------------------------------------------------------

/// Reports one line, in one system call.
fn tell(report: &str) {
    std::io::stdout().write_all(format!("@ {report}\n").as_bytes()).unwrap();
}

#[test]
fn child_process_does_its_part_of_a_test() {
    let Ok(part) = std::env::var(PART) else { return };
    // The runner of the tests has begun a line.
    std::io::stdout().write_all(b"\n").unwrap();
    match part.as_str() {
        "write" => write(Path::new(&std::env::var_os(STORE).unwrap())),
        "serve" => serve(),
        other => panic!("no part is called {other:?}"),
    }
}

/// Writes until death, and reports each number that was accepted.
fn write(path: &Path) {
    let store = Store::open(path).unwrap();
    for number in 0_u64.. {
        store.insert(number.to_le_bytes(), vec![7; 100]).unwrap();
        tell(&number.to_string());
    }
}

/// Serves the store that a standby hands over, by orders.
fn serve() {
    tell(&format!("begun {}", process::id()));
    let path = std::env::var_os("MAPCASK_DIR").unwrap();
    let mut store = None;
    for order in std::io::stdin().lines().map(Result::unwrap) {
        match order.as_str() {
            "open" => match Options::new().create(false).open(&path) {
                Ok(opened) => {
                    tell(&format!("serves {} {}", opened.len(), opened.recovery_report().clean));
                    store = Some(opened);
                }
                Err(error) => tell(&format!("refused: {error}")),
            },
            "end" => {
                store.take().unwrap().close().unwrap();
                process::exit(CODE);
            }
            other => panic!("no order is called {other:?}"),
        }
    }
}

// ---- standby ------------------------------------------------------------------------------------

#[test]
fn standby_becomes_its_command_once_the_writer_is_killed() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let mut writer = Running::child("write", &path);
    for number in 0..100 {
        assert_eq!(writer.report().unwrap(), number.to_string());
    }
    let mut standby = Running::standby(&path);
    writer.kill();
    let accepted = std::iter::from_fn(|| writer.report()).last().map_or(99, |last| last.parse().unwrap());
    let pid = standby.process.id();
    assert_eq!(standby.report().unwrap(), format!("begun {pid}"), "the command is the same process");
    standby.order("open");
    let report = standby.report().unwrap();
    let (count, is_clean) = report.strip_prefix("serves ").unwrap().split_once(' ').unwrap();
    assert_eq!(is_clean, "true", "the standby has recovered and closed the store");
    let count: u64 = count.parse().unwrap();
    // The last write may have been accepted and not reported.
    assert!(count > accepted && count <= accepted + 2, "{count} keys, {accepted} was accepted last");
    let follower = Follower::open(&path).unwrap();
    assert!((0..=accepted).all(|number| follower.contains_key(number.to_le_bytes()).unwrap()));
    standby.order("end");
    assert_eq!(standby.report(), None, "it begins once");
    assert_eq!(standby.process.wait().unwrap().code(), Some(CODE), "the exit code is the command's");
}

/// Returns the processes that wait for a record lock, as the system lists them.
fn waiting() -> Vec<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let waiting = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let waiting = waiting.filter(|words| words.get(1) == Some(&"->") && words.get(2) == Some(&"POSIX"));
    waiting.map(|words| words[5].parse().unwrap()).collect()
}

/// Sends the reports of a standby with its number. Returns its pipe for orders.
fn forward(mut standby: Running, number: usize, reports: &Sender<(usize, String)>) -> (u32, ChildStdin) {
    let parts = (standby.process.id(), standby.input.take().unwrap());
    let reports = reports.clone();
    thread::spawn(move || {
        while let Some(report) = standby.report() {
            if reports.send((number, report)).is_err() {
                return;
            }
        }
    });
    parts
}

#[test]
fn standbys_become_their_commands_one_after_another() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    Store::open(&path).unwrap().close().unwrap();
    let (sender, reports) = channel();
    let mut standbys: Vec<_> =
        (0..3).map(|number| Some(forward(Running::standby(&path), number, &sender))).collect();
    for left in (0..3).rev() {
        let (number, report) = reports.recv_timeout(PATIENCE).unwrap();
        let (pid, mut orders) = standbys[number].take().unwrap();
        assert_eq!(report, format!("begun {pid}"));
        // The store is free now, and none of the others may take it.
        let others: Vec<u32> = standbys.iter().flatten().map(|(pid, _)| *pid).collect();
        assert_eq!(others.len(), left);
        let began = Instant::now();
        while !others.iter().all(|pid| waiting().contains(pid)) {
            assert!(began.elapsed() < PATIENCE, "{others:?} do not wait, but {:?}", waiting());
            thread::yield_now();
        }
        writeln!(orders, "open").unwrap();
        assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), (number, "serves 0 true".to_owned()));
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// Runs a standby that does not become its command, and returns its error.
fn refused(arguments: &[&str]) -> String {
    let output = tool().arg("standby").args(arguments).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    message
}

#[test]
fn standby_gives_up_after_its_time() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let text = path.to_str().unwrap();
    let store = Store::open(&path).unwrap();
    let arguments = ["--timeout", "0.05", text, "--", "echo", "begun"];
    assert!(refused(&arguments).contains("is open for writing in process"));
    store.close().unwrap();
    let mut other = Running::standby(&path);
    assert!(other.report().unwrap().starts_with("begun "));
    let message = refused(&arguments);
    assert!(message.contains("another standby had its turn") && message.contains("--timeout"), "{message}");
    other.kill();
    let output = tool().arg("standby").args(arguments).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"begun\n".as_slice()));
}

#[test]
fn standby_refuses_what_it_cannot_serve_and_makes_no_file() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let text = path.to_str().unwrap();
    assert!(refused(&[text, "--", "echo"]).contains("cannot open the store at"));
    assert!(!path.exists());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    assert!(refused(&[text, "--", "echo"]).contains("cannot open the store at"));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    fs::remove_file(path.join("notes.txt")).unwrap();
    Store::open(&path).unwrap().close().unwrap();
    assert!(refused(&[text]).contains("COMMAND"));
    assert!(refused(&[text, "--", "./no-such-program"]).contains("cannot run ./no-such-program"));
}

#[test]
fn standby_touches_no_file_that_another_program_put_in_place() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let text = path.to_str().unwrap();
    Store::open(&path).unwrap().close().unwrap();
    let (turn, outside) = (path.join(".standby"), scratch.path().join("outside"));
    symlink(&outside, &turn).unwrap();
    assert!(refused(&[text, "--", "echo"]).contains("cannot open"));
    assert!(!outside.exists(), "a link was followed");
    fs::remove_file(&turn).unwrap();
    fs::write(&turn, "mine").unwrap();
    assert!(refused(&[text, "--", "echo"]).contains("no standby made it"));
    fs::remove_file(&turn).unwrap();
    assert!(Command::new("mkfifo").arg(&turn).status().unwrap().success());
    assert!(refused(&[text, "--", "echo"]).contains("no standby made it"));
}

#[test]
fn standby_run_by_root_leaves_its_file_to_the_owner() {
    const OWNER: u32 = 12_345;
    if !rustix::process::geteuid().is_root() {
        let text = "\n## standby_run_by_root_leaves_its_file_to_the_owner SKIPPED: not root\n";
        return std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    let scratch = scratch();
    let path = scratch.path().join("store");
    Store::open(&path).unwrap().close().unwrap();
    chown(&path, Some(OWNER), Some(OWNER)).unwrap();
    let output = tool().arg("standby").arg(&path).args(["--", "echo", "begun"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found = path.join(".standby").metadata().unwrap();
    assert_eq!((found.uid(), found.gid()), (OWNER, OWNER));
}

// ---- top ----------------------------------------------------------------------------------------

/// Starts a view that prints many lines.
fn top(store: &Path) -> Running {
    Running::start(tool().args(["top", "--interval", "0.01"]).arg(store))
}

/// Reads lines until one fits, and returns all of them.
fn lines_until(top: &mut Running, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut lines = Vec::new();
    let began = Instant::now();
    while !fits(&lines) {
        assert!(began.elapsed() < PATIENCE, "none fits: {:?}", lines.last());
        let line = top.output.next().expect("it goes on").unwrap();
        lines.push(serde_json::from_str(&line).unwrap());
    }
    lines
}

fn sum(lines: &[Value], field: &str) -> u64 {
    lines.iter().map(|line| line[field].as_u64().unwrap()).sum()
}

#[test]
fn top_counts_what_is_written_and_what_compaction_frees() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = Options::new().segment_bytes(64 << 10).background(false).open(&path).unwrap();
    store.insert("before", "1").unwrap();
    store.keyspace("users").unwrap();
    let mut top = top(&path);
    let first = lines_until(&mut top, |lines| !lines.is_empty()).remove(0);
    assert_eq!((&first["writer"], first["keys"].as_u64()), (&Value::from("open"), Some(1)));
    assert_eq!((first["writes"].as_u64(), first["keyspaces"].as_u64()), (Some(0), Some(2)));
    assert_eq!(first["last_seq"].as_u64(), Some(store.last_seq().0));
    let log_bytes = |stats: mapcask::Stats| stats.live_bytes + stats.dead_bytes;
    let before = log_bytes(store.stats());
    for number in 0..1000_u64 {
        store.keyspace("users").unwrap().insert((number % 10).to_le_bytes(), vec![7; 500]).unwrap();
    }
    store.remove("before").unwrap();
    let written = log_bytes(store.stats()) - before;
    let lines = lines_until(&mut top, |lines| sum(lines, "writes") >= 1001);
    assert_eq!((sum(&lines, "writes"), sum(&lines, "written_bytes")), (1001, written));
    let last = lines.last().unwrap();
    assert_eq!(
        (last["keys"].as_u64(), last["dead_bytes"].as_u64()),
        (Some(10), Some(store.stats().dead_bytes))
    );
    assert_eq!(last["largest"][0]["name"], "users");
    assert_eq!(last["largest"][0]["live_bytes"].as_u64(), Some(store.stats().live_bytes));
    store.compact().unwrap();
    // The log's own records come on top.
    let after = log_bytes(store.stats());
    let shows_it =
        |line: &Value| line["live_bytes"].as_u64().unwrap() + line["dead_bytes"].as_u64().unwrap() == after;
    let lines = lines_until(&mut top, |lines| lines.last().is_some_and(shows_it));
    let last = lines.last().unwrap();
    assert_eq!(last["segment_bytes"].as_u64(), Some(store.stats().segment_bytes));
    assert!(sum(&lines, "freed_bytes") > 0);
    assert_eq!(before + written + sum(&lines, "written_bytes") - sum(&lines, "freed_bytes"), after);
    assert!(lines.iter().all(|line| line["jumped"] == false));
}

#[test]
fn top_shows_how_far_the_last_write_is_from_durable() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = Options::new().background(false).open(&path).unwrap();
    store.insert("a", "1").unwrap();
    let mut top = top(&path);
    let not_durable = |lines: &[Value]| lines.last().and_then(|line| line["not_durable"].as_u64());
    let behind = |store: &Store| Some(store.last_seq().0 - store.durable_seq().0);
    // Also of a write that was there before.
    let lines = lines_until(&mut top, |lines| !lines.is_empty());
    assert_eq!((not_durable(&lines), sum(&lines, "writes")), (behind(&store), 0));
    store.insert("a", "2").unwrap();
    lines_until(&mut top, |lines| not_durable(lines) == behind(&store));
    store.flush().unwrap();
    // The watermark of the flush is no write.
    let lines = lines_until(&mut top, |lines| not_durable(lines) == Some(0));
    let last = lines.last().unwrap();
    assert_eq!(last["durable_seq"].as_u64(), Some(store.durable_seq().0));
    assert_eq!(last["not_durable_seconds"].as_f64(), Some(0.0));
}

#[test]
fn top_goes_on_when_the_writer_closes_and_comes_back() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let store = Store::open(&path).unwrap();
    let mut top = top(&path);
    let is =
        |word: &'static str| move |lines: &[Value]| lines.last().is_some_and(|line| line["writer"] == word);
    lines_until(&mut top, is("open"));
    store.close().unwrap();
    lines_until(&mut top, is("closed"));
    let mut writer = Running::child("write", &path);
    writer.report().unwrap();
    lines_until(&mut top, is("open"));
    writer.kill();
    let store = Store::open(&path).unwrap();
    store.insert("a", "1").unwrap();
    lines_until(&mut top, |lines| {
        lines.last().is_some_and(|line| line["keys"].as_u64() == Some(store.len() as u64))
    });
}

#[test]
fn top_ends_with_its_count_and_with_its_reader() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    Store::open(&path).unwrap().close().unwrap();
    let arguments = ["top", "--interval", "0.001", "--count", "3"];
    let Output { status, stdout, .. } = tool().args(arguments).arg(&path).output().unwrap();
    assert!(status.success());
    assert_eq!(String::from_utf8(stdout).unwrap().lines().count(), 3);
    let Running { process, output, .. } = &mut top(&path);
    output.next().unwrap().unwrap();
    // Its reader is gone: `mapcask top | head -1`.
    *output = BufReader::new(
        process::Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.take().unwrap(),
    )
    .lines();
    assert!(process.wait().unwrap().success());
}

#[test]
fn top_waits_for_a_store_only_if_it_is_told_to() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    let arguments = ["top", "--interval", "0.001", "--count", "1"];
    let output = tool().args(arguments).arg(&path).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("cannot open the store at") && message.contains("--wait"), "{message}");
    let mut waiting = tool();
    waiting.args(arguments).arg("--wait").arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut waiting = waiting.spawn().unwrap();
    let mut messages = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert!(messages.next().unwrap().unwrap().contains("waiting for a store at"));
    let store = Store::open(&path).unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"{\"writer\":"));
    drop(store);
}
