//! Questions to people: asked, answered, and what becomes of those that nobody answers.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::budget::is_about_budget;
use super::inner::Inner;
use super::model_trouble::is_about_model;
use super::submit::place;
use crate::clock::IdSource;
use crate::failure::Failure;
use crate::ids::{QuestionId, SessionId};
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::plan::{Plan, PlanError, Repository, RepositoryPolicy};
use crate::ports::store::{
    Answered, Claimed, Deadline, Due, NewAnswer, NewQuestion, Note, OnDeadline, Question, Store, StoreError,
};
use crate::protocol::{Escalation, Resume};

/// The longest answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The longest name of who answers, in characters.
const MAX_NAME: usize = 200;
/// How many questions are looked after at once.
const BATCH: u32 = 100;

/// An answer that is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerSubmission {
    /// The session that waits.
    pub session: SessionId,
    /// The question that is meant; `None` is the one that is open.
    pub question: Option<QuestionId>,
    /// The answer, in words.
    pub text: String,
    /// Who answers.
    pub by: String,
    /// A new version of the whole plan, for the same repository; earlier versions stay.
    pub plan: Option<String>,
    /// What a relative local repository in it is relative to: the plan's directory.
    pub directory: Option<PathBuf>,
}

/// Why an answer was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// There is nothing in it.
    #[error("the answer is empty: write what the agent should know or do")]
    Empty,
    /// It is too long.
    #[error(
        "the answer has {bytes} bytes, and {MAX_ANSWER_BYTES} are accepted: put long material into the repository"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Nobody is named who answers.
    #[error("the name of who answers is empty, longer than 200 characters, or has control characters")]
    Name,
    /// The new plan is wrong.
    #[error("the new version of the plan is not accepted: {0}")]
    Plan(#[from] PlanError),
    /// The new plan is for another repository.
    #[error(
        "the new version of the plan names the repository {new}, and the session works on {old}: submit it as a plan of its own"
    )]
    OtherRepository {
        /// The session's.
        old: String,
        /// The new plan's.
        new: String,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AnswerError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "answer.empty",
            Self::TooLong { .. } => "answer.too_long",
            Self::Name => "answer.name_invalid",
            Self::Plan(error) => error.code(),
            Self::OtherRepository { .. } => "answer.other_repository",
            Self::Store(error) => error.code(),
        }
    }
}

/// Answers a session's question, from a process that has nothing but the store;
/// [`Orchestrator::answer`](super::Orchestrator::answer) for all others.
///
/// # Errors
///
/// [`AnswerError`]; nothing is stored then.
#[tracing::instrument(name = "core.orchestrator.answer", skip_all, fields(session.id = %submission.session))]
pub async fn submit_answer(
    store: &dyn Store,
    ids: IdSource<'_>,
    policy: &RepositoryPolicy,
    submission: AnswerSubmission,
) -> Result<Answered, AnswerError> {
    let AnswerSubmission {
        session,
        question,
        text,
        by,
        plan,
        directory,
    } = submission;
    if text.trim().is_empty() {
        return Err(AnswerError::Empty);
    }
    if text.len() > MAX_ANSWER_BYTES {
        return Err(AnswerError::TooLong { bytes: text.len() });
    }
    let by = by.trim().to_owned();
    if by.is_empty() || by.chars().count() > MAX_NAME || by.contains(char::is_control) {
        return Err(AnswerError::Name);
    }
    if let Some(plan) = &plan {
        check_plan(store, policy, session, (plan, directory.as_deref())).await?;
    }
    let content = MessageContent::text(format!("{by} answered: {text}"))
        .with("step", "answered")
        .with("answer", text.as_str())
        .with("answeredBy", by.as_str())
        .with("planChanged", plan.is_some());
    let answer = NewAnswer {
        session,
        question,
        text,
        by: Some(by),
        plan: plan.map(|plan| (ids.spec(), plan)),
        message: message(ids, MessageKind::Progress, content),
    };
    Ok(store.answer(answer).await?)
}

async fn check_plan(
    store: &dyn Store,
    policy: &RepositoryPolicy,
    session: SessionId,
    (plan, directory): (&str, Option<&Path>),
) -> Result<(), AnswerError> {
    let row = store
        .session(session)
        .await?
        .ok_or(StoreError::NoSuchSession(session))?;
    let plan = Plan::parse_with_default(plan, Some(&row.repo_url), policy)?;
    let same = match &plan.repository {
        Repository::Local(path) => {
            let place = place(path, directory);
            // Where it cannot be looked at, as on another machine, it has to be the same word for word.
            place.canonicalize().unwrap_or(place) == Path::new(&row.repo_url)
        }
        remote => remote.to_string() == row.repo_url,
    };
    if same {
        Ok(())
    } else {
        Err(AnswerError::OtherRepository {
            old: row.repo_url,
            new: plan.repository.to_string(),
        })
    }
}

fn message(ids: IdSource<'_>, kind: MessageKind, content: MessageContent) -> NewMessage {
    NewMessage {
        id: ids.message(),
        kind,
        content,
    }
}

/// The question as it is stored, and the message that asks it. Without a plan that can be read the operator's deadline counts.
pub(super) fn ask(inner: &Inner, plan: Option<&Plan>, escalation: Escalation) -> (NewQuestion, NewMessage) {
    let id = inner.ids().question();
    let options = plan.map(|plan| plan.escalation).unwrap_or_default();
    let default = inner.options.question_deadline;
    let deadline = options
        .deadline
        .or(default.map(|deadline| deadline.after))
        .map(|after| Deadline {
            after,
            then: options
                .then
                .or(default.map(|deadline| deadline.then))
                .unwrap_or_default(),
        });
    let mut content = MessageContent::text(escalation.question.as_str())
        .with("questionId", id.to_string())
        .with("options", escalation.options.clone())
        .with("context", escalation.context.as_str())
        .with("urgency", escalation.urgency.as_str());
    if is_about_model(&escalation) {
        content = content.with("audience", "operator");
    }
    if let Some(deadline) = deadline {
        content = content
            .with("deadlineSeconds", deadline.after.as_secs())
            .with("onDeadline", deadline.then.as_str());
    }
    let question = NewQuestion {
        id,
        escalation,
        deadline,
    };
    (question, inner.message(MessageKind::Escalation, content))
}

/// What a new attempt goes on with, and what people have said to it; `None` begins from the base.
pub(super) fn resume(claimed: &Claimed, plan: &Plan, notes: &[Note]) -> Option<Resume> {
    let checkpoint = claimed.checkpoint.as_ref();
    // A conversation that was made safe after the answer holds it.
    let told = |question: &Question| {
        checkpoint.is_some_and(|(attempt, checkpoint)| checkpoint.conversation && *attempt > question.attempt)
    };
    let known = checkpoint
        .filter(|(_, checkpoint)| checkpoint.conversation)
        .map_or(0, |(_, checkpoint)| checkpoint.heard);
    let mut said = notes.iter().filter(|note| note.number > known).peekable();
    let mut parts = Vec::new();
    match (&claimed.answered, checkpoint) {
        (Some(question), _) if !told(question) => parts.push(answer_prompt(question, claimed, plan)),
        // It was done; whoever goes on wants something more.
        (_, Some((_, checkpoint))) if checkpoint.is_of_branch() && said.peek().is_some() => {}
        (_, Some(_)) => parts.push(LOST_PROMPT.to_owned()),
        (_, None) => {}
    }
    let words: Vec<_> = said
        .map(|note| format!("{} says:\n\n{}", note.by, note.text))
        .collect();
    if !words.is_empty() {
        parts.extend(words);
        parts.push(SAID_PROMPT.to_owned());
    }
    let checkpoint = checkpoint.map(|(_, checkpoint)| checkpoint.clone());
    (checkpoint.is_some() || !parts.is_empty()).then(|| Resume {
        checkpoint,
        prompt: parts.join("\n\n"),
    })
}

const LOST_PROMPT: &str = "You were interrupted, and the sandbox that you worked in is gone. You are in a new one: the \
     repository is as it was at the last checkpoint, at most a few minutes before, and whatever ran is gone. Look at `git \
     status` and `git log`, and go on with the task.";

const BUDGET_PROMPT: &str = "You were stopped because the budget for this task was used up. It was raised. You are in a new \
     sandbox; the repository is as you left it. Go on with the task.";

const SAID_PROMPT: &str = "Do what is said. You may be in a new sandbox, in which nothing runs that you started; the repository \
     is at the head of your branch, to which others may have pushed since: look at `git log`.";

fn answer_prompt(question: &Question, claimed: &Claimed, plan: &Plan) -> String {
    if is_about_budget(&question.escalation) {
        return BUDGET_PROMPT.to_owned();
    }
    let asked = &question.escalation.question;
    let mut prompt = match &question.answer {
        _ if is_about_model(&question.escalation) => format!("{LOST_PROMPT}\n"),
        Some(answer) => match &answer.by {
            Some(by) => format!("You asked: {asked}\n\n{by} answers:\n\n{}\n", answer.text),
            None => format!(
                "You asked: {asked}\n\nNobody answered in time. Decide by your own judgement, choose what is safe and can be \
                 undone, and say in your last message what you decided and why.\n"
            ),
        },
        None => String::new(),
    };
    if claimed.spec.version > 1 && claimed.spec.created_at > question.asked_at {
        prompt.push_str("\nTogether with the answer the task was changed. It now reads:\n\n");
        prompt.push_str(&plan.task);
        prompt.push('\n');
    }
    if !is_about_model(&question.escalation) {
        prompt.push_str("\nYou are in a new sandbox; the repository is as you left it. Go on with the task.");
    }
    prompt
}

/// Reminds people of questions that wait, and ends the waiting at the deadline.
pub(super) async fn look_after(inner: &Inner) {
    let due = match inner.store.due_questions(BATCH).await {
        Ok(due) => due,
        Err(error) => return tracing::warn!(%error, "the questions that wait cannot be read"),
    };
    for (question, due) in due {
        let session = question.session;
        if let Err(error) = settle(inner, question, due).await {
            tracing::warn!(%error, session.id = %session, "a question that waits is looked after later");
        }
    }
}

async fn settle(inner: &Inner, question: Question, due: Due) -> Result<(), StoreError> {
    let asked = question.escalation.question.as_str();
    let content = |text: String, step: &str| {
        MessageContent::text(text)
            .with("step", step)
            .with("questionId", question.id.to_string())
    };
    match (due, question.then) {
        (Due::Reminder, then) => {
            let deadline = question.deadline.map(|at| at.to_rfc3339()).unwrap_or_default();
            let consequence = match then {
                OnDeadline::Fail => "the session fails",
                OnDeadline::Proceed => "the agent decides by itself",
            };
            let text =
                format!("Still waiting for an answer, until {deadline}; after that {consequence}: {asked}");
            let content = content(text, "reminder")
                .with("options", question.escalation.options.clone())
                .with("deadline", deadline)
                .with("onDeadline", then.as_str());
            let message = inner.message(MessageKind::Escalation, content);
            inner.store.remind(question.id, message).await.map(drop)
        }
        (Due::Deadline, OnDeadline::Fail) => {
            let failure = Failure::new(
                "question.unanswered",
                format!("Nobody answered the agent's question in time: {asked}"),
                "The work is kept at the session's checkpoint. Submit the plan again with the answer in it, or with a longer `escalation.deadline`.",
            );
            let content = MessageContent::failure(&failure).with("questionId", question.id.to_string());
            let message = inner.message(MessageKind::Error, content);
            inner.store.give_up(question.id, message).await.map(drop)
        }
        (Due::Deadline, OnDeadline::Proceed) => {
            let text = format!("Nobody answered in time; the agent decides by itself: {asked}");
            let answer = NewAnswer {
                session: question.session,
                question: Some(question.id),
                text: String::new(),
                by: None,
                plan: None,
                message: inner.message(MessageKind::Progress, content(text, "deadline")),
            };
            match inner.store.answer(answer).await {
                Ok(_) | Err(StoreError::NotWaiting { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}
