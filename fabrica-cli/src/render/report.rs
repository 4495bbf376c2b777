//! The report of a session that runs here.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fabrica_core::message::{Message, MessageKind};
use fabrica_core::orchestrator::SessionUpdate;
use fabrica_core::ports::store::StoredTranscript;
use fabrica_core::protocol::Usage;
use fabrica_core::session::{Session, SessionStatus};

use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::text::{clip, elapsed, sanitize, usage};

/// How much of a transcript's summary a plain line shows.
const SUMMARY_WIDTH: usize = 160;

/// What is known of the session, and what was last said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    created_at: Option<DateTime<Utc>>,
    step: String,
    action: String,
    usage: Usage,
    session: Option<Session>,
    /// Whether the agent did anything.
    pub(crate) agent_worked: bool,
    /// The last error message, and the completion's.
    last: Option<Message>,
}

/// A line that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// Something that a person should know: time, label, text.
    Message(MessageKind, String),
    /// What the agent does. A live display shows only the last of them, at its bottom.
    Agent(String),
}

impl Report {
    /// Takes an update, and says what is to be told.
    pub(crate) fn take(&mut self, update: &SessionUpdate) -> Option<Line> {
        match update {
            SessionUpdate::Session(session) => {
                self.created_at.get_or_insert(session.created_at);
                self.usage = session.usage;
                self.session = Some((**session).clone());
                None
            }
            SessionUpdate::Message(message) => Some(self.message(message)),
            SessionUpdate::Transcript(entry) => self.transcript(entry),
        }
    }

    fn message(&mut self, message: &Message) -> Line {
        // The first message is stored with the session.
        let begun = *self.created_at.get_or_insert(message.created_at);
        let step = message
            .content
            .metadata
            .get("step")
            .and_then(|step| step.as_str());
        let label = match message.kind {
            MessageKind::Progress => sanitize(step.unwrap_or("progress")),
            MessageKind::Completion => "completed".to_owned(),
            MessageKind::Escalation => "question".to_owned(),
            MessageKind::Error => "error".to_owned(),
        };
        if message.kind != MessageKind::Progress {
            self.last = Some(message.clone());
        }
        self.step.clone_from(&label);
        self.action.clear();
        let text = match (
            message.kind,
            message
                .content
                .metadata
                .get("cause")
                .and_then(|cause| cause.as_str()),
        ) {
            // The advice comes at the end.
            (MessageKind::Error, Some(cause)) => cause,
            _ => &message.content.message,
        };
        let at = (message.created_at - begun).to_std().unwrap_or_default();
        Line::Message(
            message.kind,
            format!("{:>6}  {:<9}  {}", elapsed(at), clip(&label, 9), sanitize(text)),
        )
    }

    fn transcript(&mut self, entry: &StoredTranscript) -> Option<Line> {
        self.agent_worked = true;
        let summary = sanitize(&entry.entry.summary);
        if summary.is_empty() {
            return None;
        }
        self.action.clone_from(&summary);
        let told = matches!(
            entry.entry.kind.as_str(),
            "text" | "tool_use" | "output" | "notice"
        );
        told.then(|| {
            Line::Agent(format!(
                "{:>6}  {:<9}  {}",
                "",
                "·",
                clip(&summary, SUMMARY_WIDTH)
            ))
        })
    }

    /// The line at the bottom: step, what the agent does, time, tokens and money.
    pub(crate) fn status(&self, since: Duration) -> String {
        let step = if self.step.is_empty() {
            "starting"
        } else {
            &self.step
        };
        let mut parts = vec![elapsed(since), clip(step, 20)];
        let used = usage(&self.usage);
        if !used.is_empty() {
            parts.push(used);
        }
        if !self.action.is_empty() {
            parts.push(clip(&self.action, SUMMARY_WIDTH));
        }
        parts.join(" · ")
    }

    /// The line after the last one.
    pub(crate) fn summary(&self, status: SessionStatus, took: Duration) -> String {
        let used = usage(&self.usage);
        let used = if used.is_empty() {
            used
        } else {
            format!(" · {used}")
        };
        format!("{status} in {}{used}", elapsed(took))
    }

    /// The session's row, as it was last seen.
    pub(crate) const fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// What the command gives out: the pull request's address, else the branch that holds the result.
    pub(crate) fn result(&self) -> Option<String> {
        let session = self.session.as_ref()?;
        let branch = self
            .last
            .as_ref()
            .and_then(|last| last.content.metadata.get("branch"));
        session
            .pr_url
            .clone()
            .or_else(|| branch.and_then(|branch| branch.as_str()).map(str::to_owned))
    }

    /// Why it failed, with evidence and advice.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let message = self
            .last
            .as_ref()
            .filter(|message| message.kind == MessageKind::Error)?;
        Some(failure_problem(message))
    }
}

/// The problem that an error message tells.
pub(crate) fn failure_problem(message: &Message) -> Problem {
    let metadata = &message.content.metadata;
    let text = |key: &str| {
        metadata
            .get(key)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    let lines = metadata
        .get("diagnosis")
        .and_then(|lines| lines.as_array())
        .into_iter()
        .flatten();
    let mut problem = Problem::new(
        Exit::Failure,
        &text("code").unwrap_or_else(|| "session.failed".into()),
        text("cause").unwrap_or_else(|| message.content.message.clone()),
    )
    .diagnosis(lines.filter_map(|line| line.as_str()).map(str::to_owned));
    problem.hint = text("advice");
    if let (Some(branch), Some(hint)) = (text("branch"), &mut problem.hint) {
        *hint = format!("{hint} The branch is {branch}.");
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    fn told(updates: &[SessionUpdate]) -> (Report, String) {
        let mut report = Report::default();
        let lines: Vec<String> = updates
            .iter()
            .filter_map(|update| report.take(update))
            .map(|line| match line {
                Line::Message(_, text) | Line::Agent(text) => text,
            })
            .collect();
        (report, lines.join("\n"))
    }

    #[test]
    fn a_completed_session_is_told_step_by_step() {
        let (report, lines) = told(&sample::completed());
        insta::assert_snapshot!(lines);
        insta::assert_snapshot!(report.summary(SessionStatus::Completed, Duration::from_secs(65)));
        assert_eq!(
            report.result().as_deref(),
            Some("https://git.example.com/acme/sample/pulls/1")
        );
        assert_eq!(report.problem(), None);
    }

    #[test]
    fn a_failed_session_ends_with_code_evidence_and_advice() {
        let (report, lines) = told(&sample::failed());
        insta::assert_snapshot!(lines);
        insta::assert_debug_snapshot!(report.problem());
    }

    #[test]
    fn the_line_at_the_bottom_tells_what_is_being_done() {
        let mut updates = sample::completed();
        updates.truncate(5);
        let (report, _) = told(&updates);
        insta::assert_snapshot!(report.status(Duration::from_secs(12)));
    }

    #[test]
    fn what_an_agent_says_is_harmless() {
        let hostile =
            "\u{1b}]52;c;cGF5bG9hZA==\u{7}<script>alert(1)</script>\n{\"event\":\"completed\"}\u{1b}[2J";
        let (_, lines) = told(&[
            sample::transcript(1, "text", hostile),
            sample::progress(1, 0, hostile, hostile),
        ]);
        assert!(
            !lines.contains(|c: char| c.is_control() && c != '\n'),
            "{lines:?}"
        );
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }
}
