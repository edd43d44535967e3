//! The acknowledged states of a store, and those of them that a crash may leave.

use mapcask::Seq;

use super::{Outcome, State, Write};

/// The acknowledged states, and the durable part of them.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// The states, in order. The first is the oldest that may come back.
    states: Vec<State>,
    /// The number of the write that led to each state, if the store reported it.
    seqs: Vec<Option<Seq>>,
    /// The index of the newest state that is known to be durable.
    durable: usize,
}

impl History {
    /// Returns the history of an empty store.
    pub(crate) fn new() -> Self {
        Self::from(State::new())
    }

    fn from(state: State) -> Self {
        Self { states: vec![state], seqs: vec![None], durable: 0 }
    }

    /// Returns the newest state.
    pub(crate) fn now(&self) -> &State {
        self.states.last().expect("there is always one")
    }

    /// Adds the state after a write. Returns the expected outcome of the write.
    pub(crate) fn write(&mut self, write: &Write) -> Outcome {
        let mut state = self.now().clone();
        let outcome = write.apply(&mut state);
        self.states.push(state);
        self.seqs.push(None);
        outcome
    }

    /// Records the number that the store reported for its last write, which led to the newest
    /// state.
    pub(crate) fn tell_seq(&mut self, seq: Seq) {
        *self.seqs.last_mut().expect("as many as states") = Some(seq);
    }

    /// Returns the reported numbers, in order.
    pub(crate) fn seqs(&self) -> Vec<Seq> {
        self.seqs.iter().copied().flatten().collect()
    }

    /// Records that the store promised durability for everything up to now.
    pub(crate) fn make_durable(&mut self) {
        self.durable = self.states.len() - 1;
    }

    /// Records that the store promised durability for every write up to this number.
    pub(crate) fn make_durable_up_to(&mut self, seq: Seq) {
        let newest = self.seqs.iter().rposition(|told| told.is_some_and(|told| told <= seq));
        self.durable = self.durable.max(newest.unwrap_or(0));
    }

    /// Forgets the states that can no longer come back.
    pub(crate) fn forget(&mut self) {
        self.states.drain(..self.durable);
        self.seqs.drain(..self.durable);
        self.durable = 0;
    }

    /// Returns this history with writes in progress. All of them may be found, or only the first
    /// ones, or none.
    pub(crate) fn with_pending(&self, writes: &[Write]) -> Self {
        let mut pending = self.clone();
        for write in writes {
            pending.write(write);
        }
        pending
    }

    /// Checks the state after a power cut, which must be the durable one or a later one. Returns
    /// the history that continues from it. The state is durable now, because it was read from the
    /// disk.
    pub(crate) fn check_cut(&self, found: &State) -> Result<Self, String> {
        if self.states[self.durable..].contains(found) {
            return Ok(Self::from(found.clone()));
        }
        let lost = self.states[..self.durable].iter().rposition(|state| state == found);
        let what = match lost {
            Some(at) => {
                format!("durable writes are missing: state {at} is back, {} was durable", self.durable)
            }
            None => "the state is no prefix of the history".to_owned(),
        };
        Err(format!("{what}\nfound   {found:?}\nallowed {}", lines(&self.states[self.durable..])))
    }

    /// Checks the state after the death of the process, which must hold everything acknowledged.
    /// The last `pending` states were not acknowledged. The death changes nothing about durability.
    pub(crate) fn check_kill(&self, found: &State, pending: usize) -> Result<Self, String> {
        let oldest = self.states.len() - 1 - pending;
        match self.states[oldest..].iter().position(|state| state == found) {
            Some(at) => {
                let mut history = self.clone();
                history.states.truncate(oldest + at + 1);
                history.seqs.truncate(oldest + at + 1);
                Ok(history)
            }
            None => Err(format!(
                "acknowledged writes are missing after a kill\nfound   {found:?}\nallowed {}",
                lines(&self.states[oldest..])
            )),
        }
    }
}

/// Returns one state per line.
fn lines(states: &[State]) -> String {
    states.iter().map(|state| format!("{state:?}")).collect::<Vec<_>>().join("\n        ")
}
