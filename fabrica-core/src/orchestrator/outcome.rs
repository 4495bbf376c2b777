//! How an attempt can end, and what follows from it.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use super::asking;
use super::inner::Inner;
use crate::failure::Failure;
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::plan::Plan;
use crate::ports::runtime::Observation;
use crate::ports::store::{AttemptEnd, Claimed};
use crate::protocol::{Escalation, JobResult, Pushed, RunnerEvent, exit};

/// How the sandbox part of an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// The runner reported success.
    Completed(JobResult),
    /// It failed, by the runner's word or by what the engine showed.
    Failed {
        failure: Failure,
        pushed: Option<Pushed>,
        /// Whether it counts as one of the session's attempts.
        counts: bool,
    },
    /// Somebody cancelled it.
    Cancelled { pushed: Option<Pushed> },
    /// The model answers nobody before that time: the session waits so long, without a sandbox.
    Limited {
        failure: Failure,
        pushed: Option<Pushed>,
        wait: Duration,
        until: DateTime<Utc>,
    },
    /// The agent asks a person.
    Escalated(Escalation),
    /// Another owner has taken over: nothing may be written any more.
    Fenced,
    /// This worker ends, and the sandbox with it; another one starts over.
    Released,
    /// This worker ends before there was a sandbox.
    NotStarted,
    /// This worker ends; the sandbox goes on under the next one.
    HandedOver,
}

impl Outcome {
    pub(super) const fn failed(failure: Failure) -> Self {
        Self::Failed {
            failure,
            pushed: None,
            counts: true,
        }
    }
}

/// What the runner's last event means.
pub(super) fn reported(event: RunnerEvent, cancelled: bool) -> Outcome {
    match event {
        RunnerEvent::Completed(result) => Outcome::Completed(result),
        RunnerEvent::Failed { pushed, .. } if cancelled => Outcome::Cancelled { pushed },
        RunnerEvent::Failed { failure, pushed } => Outcome::Failed {
            failure,
            pushed,
            counts: true,
        },
        RunnerEvent::Escalation(_) if cancelled => Outcome::Cancelled { pushed: None },
        RunnerEvent::Escalation(escalation) => Outcome::Escalated(escalation),
        RunnerEvent::Started { .. }
        | RunnerEvent::Progress { .. }
        | RunnerEvent::Agent(_)
        | RunnerEvent::Usage(_)
        | RunnerEvent::Checkpoint(_)
        | RunnerEvent::Received { .. }
        | RunnerEvent::Unknown => Outcome::failed(no_end()),
    }
}

/// The runner ended its attempt with an event that ends none.
fn no_end() -> Failure {
    Failure::new(
        "runner.protocol",
        "The runner reported an end that is none",
        "The runner and Fabrica are of versions that do not fit: use the runner of this Fabrica.",
    )
}

/// The end of an attempt that has nothing to publish, with its messages.
pub(super) fn end(
    inner: &Inner,
    claimed: &Claimed,
    plan: Option<&Plan>,
    outcome: Outcome,
) -> (AttemptEnd, Vec<NewMessage>) {
    match outcome {
        Outcome::Failed {
            failure,
            pushed,
            counts: true,
        } => end_failed(inner, claimed, failure, pushed.as_ref()),
        Outcome::Failed { failure, .. } => repeat(inner, claimed, failure, false),
        Outcome::Limited {
            failure,
            pushed,
            wait,
            until,
        } => end_limited(inner, claimed, failure, pushed.as_ref(), (wait, until)),
        Outcome::Cancelled { pushed } => end_cancelled(inner, pushed.as_ref()),
        Outcome::Escalated(escalation) => {
            let (question, message) = asking::ask(inner, plan, escalation);
            (AttemptEnd::Escalated(question), vec![message])
        }
        Outcome::NotStarted => repeat(inner, claimed, stopped(), false),
        Outcome::Released | Outcome::Completed(_) | Outcome::Fenced | Outcome::HandedOver => {
            end_failed(inner, claimed, stopped(), None)
        }
    }
}

fn stopped() -> Failure {
    Failure::new(
        "worker.stopped",
        "The Fabrica process that ran the session was stopped",
        "Start Fabrica again; the session goes on by itself.",
    )
    .retryable()
}

/// The worker's own code broke while it drove the attempt.
pub(super) fn panicked() -> Failure {
    Failure::new(
        "worker.panicked",
        "Fabrica itself failed while it ran the session",
        "Report this, with Fabrica's log around this time; then submit the plan again.",
    )
    .retryable()
}

/// What a container's end means when the runner reported none.
pub(super) fn unreported(observation: &Observation, log: Vec<String>) -> Failure {
    let failure = match observation {
        Observation::Exited { code: 137, out_of_memory, .. } => Failure::new(
            "sandbox.killed",
            if *out_of_memory {
                "The sandbox was killed because it ran out of memory"
            } else {
                "The sandbox was killed (exit code 137), possibly because it ran out of memory"
            },
            "Raise `limits.memory` in the plan, or make the work smaller.",
        )
        .retryable(),
        Observation::Exited { code, reason, .. } if [126, 127].contains(code) => Failure::new(
            "sandbox.start_failed",
            format!("The runner could not be started in the image (exit code {code}) {reason}"),
            "Use an image for this machine's architecture that has git; `fabrica image build` makes one.",
        ),
        Observation::Exited { code, .. } if *code == i64::from(exit::ENVIRONMENT) => Failure::new(
            "sandbox.environment",
            "The runner found its sandbox unusable",
            "Read the last lines below; check with `fabrica doctor`.",
        ),
        Observation::Exited { code, reason, .. } => Failure::new(
            "sandbox.died",
            format!("The sandbox ended (exit code {code}) without reporting a result {reason}"),
            "Read the last lines below; if the engine was restarted, run the plan again.",
        )
        .retryable(),
        Observation::Gone | Observation::Pending { .. } | Observation::Running => Failure::new(
            "sandbox.lost",
            "The sandbox's container disappeared before it reported a result",
            "Find out what removed the container (a clean-up job, a person, the engine), and run the plan again.",
        )
        .retryable(),
    };
    failure.with_diagnosis(log)
}

/// The attempt ran longer than its plan or the operator allows.
pub(super) fn wall_limit(wall: Duration) -> Failure {
    Failure::new(
        "limit.wall_time",
        format!(
            "The attempt reached its wall time of {}",
            humantime::format_duration(wall)
        ),
        "Raise `limits.wall` in the plan, or split the task.",
    )
}

/// The end of an attempt that did not succeed, with its messages: another try if that may help, else failure.
pub(super) fn end_failed(
    inner: &Inner,
    claimed: &Claimed,
    failure: Failure,
    pushed: Option<&Pushed>,
) -> (AttemptEnd, Vec<NewMessage>) {
    let attempt = claimed.session.attempt.get();
    if failure.retryable && attempt < claimed.max_attempts {
        return repeat(inner, claimed, failure, true);
    }
    let content = with_pushed(MessageContent::failure(&failure), pushed).with("attempt", attempt);
    let message = inner.message(MessageKind::Error, content);
    (AttemptEnd::Failed(failure), vec![message])
}

/// The session waits for its next attempt. One that did nothing is repeated at once.
fn repeat(inner: &Inner, claimed: &Claimed, failure: Failure, counts: bool) -> (AttemptEnd, Vec<NewMessage>) {
    let attempt = claimed.session.attempt.get();
    let delay = if counts {
        retry_delay(inner, attempt)
    } else {
        Duration::ZERO
    };
    let text = if counts {
        format!(
            "Attempt {attempt} of {} was lost: {}. Trying again in {} s",
            claimed.max_attempts,
            failure.cause,
            delay.as_secs_f64().round()
        )
    } else {
        format!(
            "Attempt {attempt} was lost before it had begun, and does not count: {}. Trying again",
            failure.cause
        )
    };
    let content = MessageContent::text(text)
        .with("step", "retry")
        .with("attempt", attempt)
        .with("counts", counts)
        .with("code", failure.code.as_str())
        .with("diagnosis", failure.diagnosis.clone());
    let message = inner.message(MessageKind::Progress, content);
    let end = AttemptEnd::Lost {
        failure,
        delay,
        counts,
    };
    (end, vec![message])
}

/// The session waits until the model answers again. A moment more is for clocks that differ, and so that those who wait do
/// not all come at once.
fn end_limited(
    inner: &Inner,
    claimed: &Claimed,
    failure: Failure,
    pushed: Option<&Pushed>,
    (wait, until): (Duration, DateTime<Utc>),
) -> (AttemptEnd, Vec<NewMessage>) {
    let mut byte = [0_u8; 1];
    inner.entropy.fill(&mut byte);
    let delay = wait + Duration::from_secs(1) + Duration::from_millis(100 * u64::from(byte[0]));
    let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
    let text = format!(
        "The model's usage limit is reached. The work is safe; the session waits without a sandbox until {until}, and goes on by \
         itself"
    );
    let content = with_pushed(MessageContent::text(text), pushed)
        .with("step", "limited")
        .with("attempt", claimed.session.attempt.get())
        .with("code", failure.code.as_str())
        .with("until", until);
    let message = inner.message(MessageKind::Progress, content);
    let end = AttemptEnd::Lost {
        failure,
        delay,
        counts: false,
    };
    (end, vec![message])
}

/// The store would not have another attempt: the session ends with what is known.
pub(super) fn exhausted(inner: &Inner, claimed: &Claimed, failure: Failure) -> (AttemptEnd, Vec<NewMessage>) {
    let content = MessageContent::failure(&failure).with("attempt", claimed.session.attempt.get());
    let message = inner.message(MessageKind::Error, content);
    (AttemptEnd::Failed(failure), vec![message])
}

/// The end of a cancelled attempt.
fn end_cancelled(inner: &Inner, pushed: Option<&Pushed>) -> (AttemptEnd, Vec<NewMessage>) {
    let content = MessageContent::text("Cancelled").with("code", "session.cancelled");
    let message = inner.message(MessageKind::Progress, with_pushed(content, pushed));
    (AttemptEnd::Cancelled, vec![message])
}

fn with_pushed(mut content: MessageContent, pushed: Option<&Pushed>) -> MessageContent {
    let Some(pushed) = pushed else { return content };
    content.message = format!(
        "{} {} commit(s) are pushed on branch {}.",
        content.message.trim_end_matches('.').to_owned() + ".",
        pushed.commits,
        pushed.branch
    );
    content
        .with("branch", pushed.branch.as_str())
        .with("head", json!(pushed.head))
}

/// Doubles with every attempt, up to five minutes, plus up to a quarter of jitter so that many do not come at once.
fn retry_delay(inner: &Inner, attempt: u32) -> Duration {
    const CAP: Duration = Duration::from_mins(5);
    let exponent = attempt.saturating_sub(1).min(10);
    let delay = inner.options.retry_delay.saturating_mul(1 << exponent).min(CAP);
    let mut byte = [0_u8; 1];
    inner.entropy.fill(&mut byte);
    delay + delay.mul_f64(f64::from(byte[0]) / 1_024.0)
}
