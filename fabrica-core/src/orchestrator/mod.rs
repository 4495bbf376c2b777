//! The orchestration: from a submitted plan to a published result.
//!
//! An [`Orchestrator`] is a cheap handle over its ports. [`Orchestrator::submit`], [`Orchestrator::watch`] and
//! [`Orchestrator::cancel`] work in any process that shares the store; [`Orchestrator::run`] is the worker, which claims
//! sessions and drives each claimed attempt from its start to its outcome.

mod asking;
mod attempt;
mod budget;
mod description;
mod dispatch;
mod inner;
mod lease;
mod model_trouble;
mod options;
mod outcome;
mod pace;
mod publish;
mod recovery;
mod sandbox;
mod saying;
mod service;
mod sink;
mod spending;
mod submit;
mod watch;

pub use asking::{AnswerError, AnswerSubmission, MAX_ANSWER_BYTES, submit_answer};
pub use options::{Options, SandboxOptions};
pub use saying::{MAX_NOTE_BYTES, NoteError, NoteSubmission, submit_note};
pub use service::{BranchOnly, Builder, Orchestrator, Shutdown, request_cancel};
pub use submit::{Submission, SubmitError};
pub use watch::SessionUpdate;

#[cfg(test)]
mod tests;
