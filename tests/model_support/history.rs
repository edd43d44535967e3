//! The states that were acknowledged, and which of them a crash may leave.

use mapcask::Seq;

use super::{Outcome, State, Write};

/// The states that were acknowledged, and how far they are durable.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// In order; the first is the oldest that may come back.
    states: Vec<State>,
    /// The number of the write that led to each, where somebody told it.
    seqs: Vec<Option<Seq>>,
    /// The newest state that is known to be durable.
    durable: usize,
}

impl History {
    /// The history of an empty store.
    pub(crate) fn new() -> Self {
        Self::from(State::new())
    }

    fn from(state: State) -> Self {
        Self { states: vec![state], seqs: vec![None], durable: 0 }
    }

    /// The newest state.
    pub(crate) fn now(&self) -> &State {
        self.states.last().expect("there is always one")
    }

    /// Adds the state after a write; what that says.
    pub(crate) fn write(&mut self, write: &Write) -> Outcome {
        let mut state = self.now().clone();
        let outcome = write.apply(&mut state);
        self.states.push(state);
        self.seqs.push(None);
        outcome
    }

    /// The store says that its last write, which led to the newest state, has this number.
    pub(crate) fn tell_seq(&mut self, seq: Seq) {
        *self.seqs.last_mut().expect("as many as states") = Some(seq);
    }

    /// The numbers that were told, in order.
    pub(crate) fn seqs(&self) -> Vec<Seq> {
        self.seqs.iter().copied().flatten().collect()
    }

    /// Everything up to now was promised to be durable.
    pub(crate) fn make_durable(&mut self) {
        self.durable = self.states.len() - 1;
    }

    /// Every write up to this number was promised to be durable.
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

    /// This history with writes that were under way: they may be there, or the first of them, or none.
    pub(crate) fn with_pending(&self, writes: &[Write]) -> Self {
        let mut pending = self.clone();
        for write in writes {
            pending.write(write);
        }
        pending
    }

    /// After a power cut the state must be one of those since the durable one; the history goes on from it, and it is
    /// durable now, because nothing but the platter was left to read it from.
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

    /// After the death of the process nothing that was acknowledged may be missing. `pending` is how many of the last
    /// states were not acknowledged. What was durable is, and what was not is as little durable as before.
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

/// One state per line.
fn lines(states: &[State]) -> String {
    states.iter().map(|state| format!("{state:?}")).collect::<Vec<_>>().join("\n        ")
}
