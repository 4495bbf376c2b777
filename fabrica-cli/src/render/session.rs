//! Sessions as tables and pages.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use fabrica_core::message::{Message, MessageKind};
use fabrica_core::ports::store::{OnDeadline, Question, StoredTranscript};
use fabrica_core::session::Session;

use crate::ui::text::{clip, elapsed, sanitize, sanitize_lines, usage};

/// A table of sessions.
pub(crate) fn table(sessions: &[Session], now: DateTime<Utc>) -> String {
    let mut lines = vec![format!(
        "{:<8}  {:<9}  {:>5}  {:>9}  TITLE",
        "ID", "STATUS", "AGE", "COST"
    )];
    for session in sessions {
        let age = (now - session.created_at).to_std().unwrap_or_default();
        let title = session.title.as_deref().unwrap_or("-");
        let line = format!(
            "{:<8}  {:<9}  {:>5}  {:>9}  {}",
            session.id.short(),
            session.status.as_str(),
            rough(age),
            format!("${:.4}", session.usage.cost_usd),
            clip(
                &format!("{} ({})", sanitize(title), sanitize(&session.repo_url)),
                120
            ),
        );
        lines.push(line);
    }
    lines.join("\n")
}

/// `45s`, `12m`, `3h`, `9d`.
fn rough(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// All about one session but its messages.
pub(crate) fn page(session: &Session) -> String {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut fields = vec![("session", session.id.to_string())];
    let mut field = |name, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            fields.push((name, value));
        }
    };
    field("title", session.title.as_deref().map(sanitize));
    let cancelling = if session.cancel_requested && !session.status.is_terminal() {
        " (to be cancelled)"
    } else {
        ""
    };
    field("status", Some(format!("{}{cancelling}", session.status)));
    field("repository", Some(sanitize(&session.repo_url)));
    field("branch", session.branch_name.as_deref().map(sanitize));
    field("pull request", session.pr_url.as_deref().map(sanitize));
    field(
        "attempts",
        (session.attempt.get() > 0).then(|| session.attempt.to_string()),
    );
    field(
        "worker",
        session.worker.as_ref().map(|worker| sanitize(worker.as_str())),
    );
    field("submitter", session.submitter.as_deref().map(sanitize));
    field("created", Some(time(session.created_at)));
    field(
        "ended",
        session.completed_at.map(|at| {
            let took = (at - session.created_at).to_std().unwrap_or_default();
            format!("{} (after {})", time(at), elapsed(took))
        }),
    );
    field("usage", Some(usage(&session.usage)));
    fields
        .iter()
        .map(|(name, value)| format!("{name:<13} {value}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A message with the time since the session began.
pub(crate) fn message(message: &Message, begun: DateTime<Utc>) -> String {
    let at = (message.created_at - begun).to_std().unwrap_or_default();
    let step = message
        .content
        .metadata
        .get("step")
        .and_then(|step| step.as_str());
    let label = match (message.kind, step) {
        (MessageKind::Progress, Some(step)) => sanitize(step),
        (kind, _) => kind.to_string(),
    };
    format!(
        "{:>6}  {:<10}  {}",
        elapsed(at),
        clip(&label, 10),
        sanitize(&message.content.message)
    )
}

/// A question with its options, for a person who is to answer it.
pub(crate) fn question(question: &Question) -> String {
    let escalation = &question.escalation;
    let mut lines = vec![sanitize_lines(&escalation.question)];
    if !escalation.context.trim().is_empty() {
        lines.push(sanitize_lines(&escalation.context));
    }
    for (number, option) in (1..).zip(&escalation.options) {
        lines.push(format!("  {number}. {}", sanitize(option)));
    }
    if let Some(deadline) = question.deadline {
        let then = match question.then {
            OnDeadline::Fail => "then the session fails",
            OnDeadline::Proceed => "then the agent decides by itself",
        };
        let deadline = deadline.to_rfc3339_opts(SecondsFormat::Secs, true);
        lines.push(format!("Until {deadline}; {then}."));
    }
    lines.join("\n")
}

/// A transcript entry.
pub(crate) fn transcript(entry: &StoredTranscript, begun: DateTime<Utc>) -> String {
    let at = (entry.at - begun).to_std().unwrap_or_default();
    let nested = if entry.entry.parent.is_some() { "  " } else { "" };
    format!(
        "{:>6}  {nested}{:<11}  {}",
        elapsed(at),
        clip(&sanitize(&entry.entry.kind), 11),
        sanitize(&entry.entry.summary)
    )
}

#[cfg(test)]
mod tests {
    use fabrica_core::session::SessionStatus;

    use super::*;
    use crate::render::sample;

    #[test]
    fn sessions_fit_a_table() {
        let mut hostile = sample::session(SessionStatus::Failed);
        hostile.title = Some("\u{1b}[2Jgone\nforged line".into());
        let sessions = [sample::session(SessionStatus::Completed), hostile];
        insta::assert_snapshot!(table(
            &sessions,
            sample::begun() + chrono::TimeDelta::minutes(200)
        ));
    }

    #[test]
    fn a_page_tells_what_is_known() {
        insta::assert_snapshot!(page(&sample::session(SessionStatus::Completed)));
    }

    #[test]
    fn a_page_leaves_out_what_is_not_known() {
        let mut session = sample::session(SessionStatus::Pending);
        session.attempt = fabrica_core::ids::AttemptNumber::new(0);
        session.usage = fabrica_core::protocol::Usage::default();
        session.branch_name = None;
        insta::assert_snapshot!(page(&session));
    }

    #[test]
    fn a_message_is_a_line() {
        insta::assert_snapshot!(message(&sample::failure(), sample::begun()));
    }
}
