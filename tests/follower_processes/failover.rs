//! Standbys in real processes: the active one is killed again and again, and one of the others goes
//! on.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Follower, Options};

use crate::child::{Child, tell};
use crate::scratch;

/// The time after which a take-over that should have come has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const COUNTER: &str = "counter";

fn number_in(value: Option<mapcask::Value>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes((*value).try_into().unwrap()))
}

/// Waits for the store, then counts up in it and reports each number that was accepted. A part of a
/// child.
pub(crate) fn stand_by(path: &Path) {
    let follower = Follower::open(path).unwrap();
    tell("waits");
    let options = Options::new().segment_bytes(64 << 10).checkpoint_bytes(1 << 20);
    let store = follower.take_over(options, None).unwrap();
    let mut number = number_in(store.get(COUNTER).unwrap());
    tell(&format!("took {number}"));
    loop {
        number += 1;
        store.insert(COUNTER, number.to_le_bytes()).unwrap();
        store.insert((number % 1000).to_le_bytes(), vec![7; 200]).unwrap();
        tell(&format!("put {number}"));
    }
}

/// A child whose reports a thread collects.
struct Standby {
    pid: rustix::process::Pid,
    name: u64,
    waiter: thread::JoinHandle<()>,
}

/// Starts a standby, and sends its reports with its name; an empty one once it has died.
fn start(path: &Path, name: u64, reports: &Sender<(u64, String)>) -> Standby {
    let mut child = Child::start("stand by", path);
    assert_eq!(child.report().as_deref(), Some("waits"));
    let pid = child.pid();
    let reports = reports.clone();
    let waiter = thread::spawn(move || {
        while let Some(report) = child.report() {
            // The test is over once its side is gone.
            if reports.send((name, report)).is_err() {
                return;
            }
        }
        drop(reports.send((name, String::new())));
    });
    Standby { pid, name, waiter }
}

/// The reports of all standbys, in the order in which they came.
struct Reports {
    early: VecDeque<(u64, String)>,
    receiver: Receiver<(u64, String)>,
}

impl Reports {
    fn next(&mut self) -> (u64, String) {
        let early = self.early.pop_front();
        early.unwrap_or_else(|| self.receive())
    }

    fn receive(&mut self) -> (u64, String) {
        self.receiver.recv_timeout(PATIENCE).expect("one of the standbys goes on")
    }

    /// Reads the rest of the reports of a standby that dies. Its successor may be quicker.
    fn rest_of(&mut self, dying: u64) -> Vec<String> {
        // Those of one standby alone were early: that of the next writer, which dies now.
        let mut rest: Vec<String> = std::mem::take(&mut self.early)
            .into_iter()
            .map(|(name, report)| {
                assert_eq!(name, dying, "one writer at a time, but: {report}");
                report
            })
            .collect();
        if rest.pop_if(|report| report.is_empty()).is_some() {
            return rest;
        }
        loop {
            match self.receive() {
                (name, report) if name != dying => self.early.push_back((name, report)),
                (_, report) if report.is_empty() => return rest,
                (_, report) => rest.push(report),
            }
        }
    }
}

#[test]
fn one_standby_goes_on_after_each_kill_and_nothing_is_lost() {
    let rounds: u64 = std::env::var("MAPCASK_FAILOVERS").map_or(25, |text| text.parse().unwrap());
    let scratch = scratch();
    let path = scratch.path().join("store");
    Options::new().open(&path).unwrap().close().unwrap();
    let reader = Follower::open(&path).unwrap();
    let (sender, receiver) = channel();
    let mut reports = Reports { early: VecDeque::new(), receiver };
    let mut standbys: Vec<Standby> = (0..3).map(|name| start(&path, name, &sender)).collect();
    let (mut accepted, mut names) = (0, 3);
    let mut times = Vec::new();
    let mut killed = Instant::now();
    for round in 0..rounds {
        // The reports of the dead one were read to their end, so the next one is of its successor.
        let (active, report) = reports.next();
        let number: u64 =
            report.strip_prefix("took ").unwrap_or_else(|| panic!("{report:?}")).parse().unwrap();
        times.push(killed.elapsed());
        assert!(number >= accepted, "round {round}: {number} was taken over, {accepted} was accepted");
        for _ in 0..20 + round * 37 % 400 {
            let (name, report) = reports.next();
            assert_eq!(name, active, "round {round}: one writer at a time, but: {report}");
            accepted = report.strip_prefix("put ").unwrap_or_else(|| panic!("{report:?}")).parse().unwrap();
        }
        // A reader in another process notices nothing of the changes.
        let before = number_in(reader.get(COUNTER).unwrap());
        reader.refresh().unwrap();
        let shown = number_in(reader.get(COUNTER).unwrap());
        assert!(shown >= accepted && shown >= before, "round {round}: {shown} after {before}");
        let at = standbys.iter().position(|standby| standby.name == active).unwrap();
        let dying = standbys.swap_remove(at);
        standbys.push(start(&path, names, &sender));
        names += 1;
        rustix::process::kill_process(dying.pid, rustix::process::Signal::KILL).unwrap();
        killed = Instant::now();
        for report in reports.rest_of(active) {
            let number: u64 = report.strip_prefix("put ").unwrap().parse().unwrap();
            assert!(number > accepted);
            accepted = number;
        }
        dying.waiter.join().unwrap();
    }
    times.remove(0);
    times.sort_unstable();
    println!(
        "from kill to take-over: median {:?}, longest {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    for standby in standbys {
        rustix::process::kill_process(standby.pid, rustix::process::Signal::KILL).unwrap();
        standby.waiter.join().unwrap();
    }
    let store = Options::new().open(&path).unwrap();
    assert!(number_in(store.get(COUNTER).unwrap()) >= accepted);
    store.verify().unwrap();
}
