//! Stores web sessions: a typed keyspace, expiry by a sweep, and changes that never overwrite each
//! other.
//!
//! A session ends some time after its last visit. The sweep removes ended sessions by
//! compare-and-swap, so a visit between the read and the removal keeps its session. Visitors and a
//! sweep race here for every other session.
//!
//! `cargo run --features postcard --example session_store`

use std::error::Error;
use std::io::Write;
use std::sync::Barrier;
use std::thread;

use mapcask::{Postcard, Store, TypedKeyspace};
use serde::{Deserialize, Serialize};

/// The seconds that a session lasts after a visit.
const LIFETIME: u64 = 1800;
const SESSIONS: usize = 1000;
const VISITORS: usize = 4;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Session {
    user: String,
    visits: u32,
    /// The second at which the session ends.
    ends: u64,
}

#[derive(Clone)]
struct Sessions {
    by_token: TypedKeyspace<str, Session, Postcard>,
}

impl Sessions {
    fn new(store: &Store) -> mapcask::Result<Self> {
        Ok(Self { by_token: store.typed_keyspace("sessions", Postcard)? })
    }

    /// Begins a session. Returns false if the token is taken.
    fn begin(&self, token: &str, user: &str, now: u64) -> mapcask::Result<bool> {
        let session = Session { user: user.to_owned(), visits: 0, ends: now + LIFETIME };
        self.by_token.insert_if_absent(token, &session)
    }

    /// Counts a visit and extends the session; `None` if it has ended.
    fn visit(&self, token: &str, now: u64) -> mapcask::Result<Option<Session>> {
        self.by_token.update_and_fetch(token, |session| {
            let session = session.filter(|session| session.ends > now)?;
            Some(Session { visits: session.visits + 1, ends: now + LIFETIME, ..session })
        })
    }

    /// Removes the ended sessions, and returns their number.
    fn sweep(&self, now: u64) -> mapcask::Result<usize> {
        let mut removed = 0;
        for item in self.by_token.iter() {
            let (token, session) = item?;
            if session.ends > now {
                continue;
            }
            // A visit in between has changed the session, and the swap fails.
            removed += usize::from(self.by_token.compare_and_swap(&token, Some(&session), None)?.is_ok());
        }
        Ok(removed)
    }
}

fn token(number: usize) -> String {
    format!("token-{number:04}")
}

/// Lets every visitor visit every other session in its last second, during a sweep one second
/// later. Returns the counted visits of each session, and the number of removed sessions.
fn race(sessions: &Sessions) -> mapcask::Result<(Vec<u32>, usize)> {
    let together = Barrier::new(VISITORS + 1);
    let visitor = || -> mapcask::Result<Vec<u32>> {
        together.wait();
        let visit = |number| {
            let comes = number % 2 == 0 && sessions.visit(&token(number), LIFETIME - 1)?.is_some();
            Ok(u32::from(comes))
        };
        (0..SESSIONS).map(visit).collect()
    };
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..VISITORS).map(|_| scope.spawn(visitor)).collect();
        together.wait();
        let removed = sessions.sweep(LIFETIME)?;
        let mut counted = vec![0; SESSIONS];
        for visitor in visitors {
            let visits = visitor.join().expect("a visitor does not panic")?;
            counted.iter_mut().zip(visits).for_each(|(sum, visit)| *sum += visit);
        }
        Ok((counted, removed))
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let sessions = Sessions::new(&store)?;
    for number in 0..SESSIONS {
        assert!(sessions.begin(&token(number), &format!("user {number}"), 0)?);
    }
    assert!(!sessions.begin(&token(0), "another user", 0)?, "the token is taken");

    let (counted, removed) = race(&sessions)?;
    let left = sessions.by_token.len();
    writeln!(out, "{removed} sessions ended, {left} were visited in time")?;
    assert_eq!(left + removed, SESSIONS);
    assert!(removed >= SESSIONS / 2, "the other sessions had no visit");
    for (number, visits) in counted.into_iter().enumerate() {
        // A visitor that was told of a live session was told the truth, and no visit is lost.
        let session = sessions.by_token.get(&token(number))?;
        assert_eq!(session.map_or(0, |session| session.visits), visits, "session {number}");
    }
    store.close()?;

    // Another run of the program finds them, by the same types.
    let store = Store::open(directory.path())?;
    let sessions = Sessions::new(&store)?;
    assert_eq!(sessions.by_token.len(), left);
    assert_eq!(sessions.sweep(2 * LIFETIME)?, left);
    assert!(sessions.by_token.is_empty());
    store.close()?;
    Ok(())
}
