//! The child processes of this suite, and the side of the test that started one.
//!
//! A line that begins with `@ ` is a report. The test runner of the child prints the others.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use mapcask::{Follower, Refreshed, Wait};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};

use crate::contents::shown;
use crate::digest;

/// The name of the test that is the child.
const TEST: &str = "child::child_process_does_its_part_of_a_test";
/// The time after which a wait that should have ended has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const PART: &str = "MAPCASK_FOLLOWED_PART";
const STORE: &str = "MAPCASK_FOLLOWED_STORE";

/// A child process. It is killed if the test ends before it.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

/// The answer of a follower that was told to look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) seq: u64,
    pub(crate) jumped: bool,
    pub(crate) digest: u64,
}

/// Returns the program and the arguments of a child.
pub(crate) fn command_line() -> Vec<String> {
    let executable = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let arguments = ["--exact", TEST, "--nocapture", "--test-threads=1"];
    [executable].into_iter().chain(arguments.map(str::to_owned)).collect()
}

/// Returns the command of a child.
pub(crate) fn command() -> Command {
    let line = command_line();
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]);
    command
}

impl Child {
    /// Starts a child that does one part with a store.
    pub(crate) fn start(part: &str, store: &Path) -> Self {
        Self::start_as(command(), part, store)
    }

    /// Starts a child by a command that ends in [`command_line`].
    pub(crate) fn start_as(mut command: Command, part: &str, store: &Path) -> Self {
        command.env(PART, part).env(STORE, store).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, input, output }
    }

    /// Waits for the next report. Returns `None` if the child has ended.
    pub(crate) fn report(&mut self) -> Option<String> {
        let mut lines = self.output.by_ref().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix("@ ").map(str::to_owned))
    }

    /// Gives an order.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.input.as_mut().unwrap(), "{order}").unwrap();
    }

    /// Gives an order, and waits for the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.report().unwrap_or_else(|| panic!("the child ended at {order:?}: {:?}", self.process.wait()))
    }

    /// Tells a follower to refresh once, and returns the result.
    pub(crate) fn look(&mut self) -> Look {
        let answer = self.ask("look");
        let words: Vec<&str> = answer.split(' ').collect();
        let [seq, jumped, digest] = words[..] else { panic!("{answer}") };
        Look { seq: seq.parse().unwrap(), jumped: jumped.parse().unwrap(), digest: digest.parse().unwrap() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Stops the child, and waits until it is stopped.
    pub(crate) fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    pub(crate) fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Kills the child. Returns the reports that were not read yet.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "the child ended by itself: {status}");
        std::iter::from_fn(|| self.report()).collect()
    }

    /// Closes the pipe of the orders, which tells the child to end. Waits for that.
    pub(crate) fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        while self.report().is_some() {}
        self.process.wait().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It still runs only after a failed assertion, or if the test has no further need of it.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

// ---- The child ----------------------------------------------------------------------------------

/// Reports one line, in one system call, so that the pipe never ends in a part of a report.
pub(crate) fn tell(report: &str) {
    std::io::stdout().write_all(format!("@ {report}\n").as_bytes()).unwrap();
}

#[test]
fn child_process_does_its_part_of_a_test() {
    let Ok(part) = std::env::var(PART) else { return };
    let store = PathBuf::from(std::env::var_os(STORE).unwrap());
    // The child ends with the thread that started it.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    // A panic in any thread, caught or not, is a finding, so the parent must learn of it.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        process::exit(3);
    }));
    // The runner of the tests has begun a line.
    std::io::stdout().write_all(b"\n").unwrap();
    match part.as_str() {
        "write" => crate::history::write(&store),
        "follow" => follow(&store),
        "refresh" => refresh(&store),
        "read" => crate::linear::read(&store),
        "stand by" => crate::failover::stand_by(&store),
        "create" => crate::births::create(&store),
        "host" => crate::places::host(&store),
        #[cfg(target_arch = "x86_64")]
        "idle" => crate::calls::idle(&store),
        #[cfg(target_arch = "x86_64")]
        "puts" => crate::calls::puts(&store),
        #[cfg(target_arch = "x86_64")]
        "answers" => crate::waits::answers(&store),
        "open" => crate::options().open(&store).unwrap().insert("key", "value").map(drop).unwrap(),
        other => panic!("no part is called {other:?}"),
    }
}

/// Follows a store by orders.
fn follow(path: &Path) {
    let follower = Follower::open(path).unwrap();
    for order in std::io::stdin().lines().map(Result::unwrap) {
        match order.as_str() {
            "look" => {
                let Refreshed { seq, jumped, .. } = follower.refresh().unwrap();
                tell(&format!("{} {jumped} {}", seq.0, digest(&shown(&follower))));
            }
            "wait" => {
                let is_there = follower.wait(follower.last_seq(), PATIENCE).unwrap();
                tell(&format!("{is_there} {}", follower.last_seq().0));
            }
            "spin-wait" => {
                let is_there = follower.wait_with(follower.last_seq(), Wait::Spin, PATIENCE).unwrap();
                tell(&format!("{is_there} {}", follower.last_seq().0));
            }
            "poll-wait" => {
                let way = Wait::Poll(Duration::from_micros(100));
                let is_there = follower.wait_with(follower.last_seq(), way, PATIENCE).unwrap();
                tell(&format!("{is_there} {}", follower.last_seq().0));
            }
            "durable" => {
                follower.refresh().unwrap();
                let seq = follower.last_seq();
                tell(&format!("{} {}", follower.wait_durable(seq, PATIENCE).unwrap(), seq.0));
            }
            "verify" => tell(&follower.verify().unwrap().keys.to_string()),
            "spin" => {
                let follower = follower.clone();
                thread::spawn(move || {
                    loop {
                        follower.refresh().unwrap();
                    }
                });
                tell("spinning");
            }
            "pid" => tell(&process::id().to_string()),
            "user" => tell(&rustix::process::geteuid().as_raw().to_string()),
            "write" => {
                let error = std::fs::write(path.join("stranger"), "").unwrap_err();
                tell(&format!("{:?}", error.kind()));
            }
            other => panic!("no order is called {other:?}"),
        }
    }
}

/// Opens a follower and refreshes until death.
fn refresh(path: &Path) {
    tell("begun");
    let follower = Follower::open(path).unwrap();
    loop {
        tell(&follower.refresh().unwrap().seq.0.to_string());
    }
}
