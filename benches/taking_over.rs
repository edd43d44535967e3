//! Measures the change of the writer: from a close, and from a kill, to the first put of a standby.

use std::io::{BufRead as _, stdin};
use std::time::SystemTime;

use mapcask::{Follower, Options, Store};

use crate::rounds::{Table, median, number};
use crate::scratch::{Peer, fill};
use crate::{Lab, Result};

/// Measures a standby that takes over from a writer in another process.
pub(crate) fn take_over(lab: &Lab) -> Result<Vec<Table>> {
    let headers = &[
        "keys",
        "close (ms)",
        "from the close to a put (ms)",
        "kill to the end of the process (ms)",
        "from the end to a put (ms)",
    ];
    let mut table = Table::new("A standby in another process takes over, medians", headers);
    for keys in [lab.keys / 100, lab.keys / 10, lab.keys] {
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..lab.rounds {
            for (times, time) in times.iter_mut().zip(round(lab, keys)?) {
                times.push(time);
            }
        }
        let medians = times.map(|mut times| number(median(&mut times)));
        table.row([keys.to_string()].into_iter().chain(medians));
    }
    Ok(vec![table.note(
        "A put is the standby's first one. The writer has just inserted all keys. The process that is killed is \
         at an end when its parent may reap it: the system has then freed its memory.",
    )])
}

/// Returns the milliseconds of one change after a close, and of one after a kill.
fn round(lab: &Lab, keys: usize) -> Result<[f64; 4]> {
    let directory = lab.directory()?;
    // A standby needs a store to follow.
    Store::open(directory.path())?.close()?;
    let change = |is_killed: bool| -> Result<[f64; 2]> {
        let mut writer = Peer::start(&["write", &keys.to_string()], directory.path())?;
        let mut standby = Peer::start(&["standby"], directory.path())?;
        let [begun, ended] = if is_killed {
            let begun = now();
            writer.kill()?;
            [begun, now()]
        } else {
            writer.tell("close")?;
            [writer.line()?.parse()?, writer.line()?.parse()?]
        };
        let put: f64 = standby.line()?.parse()?;
        Ok([ended - begun, put - ended])
    };
    let ([close, after_close], [kill, after_kill]) = (change(false)?, change(true)?);
    Ok([close, after_close, kill, after_kill])
}

/// Runs a child: `write KEYS DIR` inserts the keys and closes the store when it is told to, `standby
/// DIR` takes over. Each prints the times.
pub(crate) fn child(words: &[&str]) -> Result<()> {
    match words {
        ["write", keys, directory] => {
            let store = Store::open(directory)?;
            fill(&store, 0, keys.parse()?)?;
            println!("ready");
            stdin().lock().read_line(&mut String::new())?;
            println!("{}", now());
            store.close()?;
            println!("{}", now());
        }
        ["standby", directory] => {
            let follower = Follower::open(directory)?;
            println!("ready");
            let store = follower.take_over(Options::new(), None)?;
            store.insert("taken over", "by the standby")?;
            println!("{}", now());
        }
        _ => return Err("not a child's arguments".into()),
    }
    Ok(())
}

/// Returns the time of a clock that all processes share, in milliseconds.
fn now() -> f64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    time.as_secs_f64() * 1e3
}
