//! The judgement of work that the agent calls done.

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{Escalation, Verification};

use crate::repository::{Conflict, Dangling};
use crate::verification::Refuted;

/// What became of work that the agent calls done.
#[derive(Debug)]
pub(crate) enum Checked {
    /// It is what the plan asks for, and fits on top of what others have pushed.
    Passed(Vec<Verification>),
    /// The verification failed.
    Refuted(Refuted),
    /// It does not fit.
    Conflict(Conflict),
    /// Nobody else could check it out.
    Dangling(Dangling),
}

/// What follows.
#[derive(Debug)]
pub(crate) enum Judged {
    /// It is published, with this verification.
    Done(Vec<Verification>),
    /// A person is asked.
    Ask(Escalation),
    /// The agent is told.
    Objection(Checked),
}

impl Checked {
    /// What follows in a round, of so many. Work that is to be finished does not go back to the agent.
    pub(crate) fn judge(self, finish: bool, (round, rounds): (u32, u32)) -> Result<Judged, Failure> {
        match self {
            Self::Passed(verification) => Ok(Judged::Done(verification)),
            Self::Refuted(refuted) if finish => Ok(Judged::Done(vec![refuted.step()])),
            Self::Refuted(refuted) if round >= rounds => Err(refuted.failure(rounds)),
            Self::Dangling(dangling) if finish || round >= rounds => Err(dangling.failure()),
            Self::Conflict(conflict) if finish || round >= rounds => Ok(Judged::Ask(conflict.question())),
            objection => Ok(Judged::Objection(objection)),
        }
    }

    /// The step, what happened for people, and what the agent is told before the given round.
    pub(crate) fn put(&self, round: u32, rounds: u32) -> (&'static str, String, String) {
        match self {
            Self::Passed(_) => ("verify", String::new(), String::new()),
            Self::Refuted(refuted) => ("verify", refuted.cause(), refuted.prompt(round, rounds)),
            Self::Conflict(conflict) => ("rebase", conflict.cause(), conflict.prompt(round, rounds)),
            Self::Dangling(dangling) => ("submodules", dangling.cause(), dangling.prompt(round, rounds)),
        }
    }
}
