//! Publishing: the pull request, then `pr_url`, then the `completion` message with `completed`. Each step can be
//! repeated.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::description::describe;
use super::inner::Inner;
use super::outcome;
use crate::failure::Failure;
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::plan::{Plan, PullRequestOptions};
use crate::ports::forge::{ForgeError, Publication, PullRequest, PullRequestRequest};
use crate::ports::store::{AttemptEnd, Claimed, StoreError};
use crate::protocol::{JobResult, Pushed};

/// How often a forge that does not answer is asked again.
const TRIES: u32 = 4;

/// Publishes the result and says how the attempt ends.
#[tracing::instrument(name = "core.publish.publish", skip_all)]
pub(super) async fn publish(
    inner: &Inner,
    claimed: &Claimed,
    plan: &Plan,
    result: JobResult,
) -> (AttemptEnd, Vec<NewMessage>) {
    let Some(pushed) = result.pushed.clone() else {
        let text = "Completed without a change: the agent changed nothing, so there is no branch and no pull request";
        return completed(
            inner,
            claimed,
            &result,
            completion(claimed, &result, MessageContent::text(text)),
        );
    };
    match open(inner, claimed, plan, &result, &pushed).await {
        Ok(Publication::Branch) => {
            let text = format!(
                "Completed: {} commit(s) on branch {}",
                pushed.commits, pushed.branch
            );
            completed(
                inner,
                claimed,
                &result,
                completion(claimed, &result, MessageContent::text(text)),
            )
        }
        Ok(Publication::PullRequest(request)) => {
            if let Err(error) = inner.store.set_pull_request(claimed.fence(), &request.url).await {
                return unstored(inner, claimed, &error, &pushed);
            }
            let content = MessageContent::text(opened(&request))
                .with("prUrl", request.url.as_str())
                .with("prNumber", request.number)
                .with("warnings", request.warnings);
            completed(inner, claimed, &result, completion(claimed, &result, content))
        }
        Err(error) => outcome::end_failed(inner, claimed, error.failure(), Some(&pushed)),
    }
}

async fn open(
    inner: &Inner,
    claimed: &Claimed,
    plan: &Plan,
    result: &JobResult,
    pushed: &Pushed,
) -> Result<Publication, ForgeError> {
    let link = inner.options.link(claimed.session.id);
    let usage = inner.used(claimed).await;
    let request = PullRequestRequest {
        repository: plan.repository.clone(),
        branch: pushed.branch.clone(),
        base: pushed.base.clone(),
        title: plan.title.clone(),
        body: describe(&claimed.session, link.as_deref(), usage, result, pushed),
        options: PullRequestOptions {
            draft: plan.pull_request.draft || result.unfinished,
            ..plan.pull_request.clone()
        },
    };
    let mut delay = Duration::from_secs(1);
    for _ in 1..TRIES {
        match inner.forge.publish(&request).await {
            Err(error) if error.retryable() => {
                tracing::warn!(%error, "the pull request is not open yet");
                sleep(delay).await;
                delay *= 3;
            }
            settled => return settled,
        }
    }
    inner.forge.publish(&request).await
}

fn opened(request: &PullRequest) -> String {
    let verb = if request.opened { "Opened" } else { "Updated" };
    let mut text = format!("{verb} pull request {}", request.url);
    for warning in &request.warnings {
        let _ = write!(text, ". {}", warning.trim_end_matches('.'));
    }
    text
}

fn completed(
    inner: &Inner,
    claimed: &Claimed,
    result: &JobResult,
    content: MessageContent,
) -> (AttemptEnd, Vec<NewMessage>) {
    let content = content.with("attempt", claimed.session.attempt.get());
    (
        AttemptEnd::Completed { heard: result.heard },
        vec![inner.message(MessageKind::Completion, content)],
    )
}

/// The work is pushed and its result recorded: whoever claims the session next only publishes again.
fn unstored(
    inner: &Inner,
    claimed: &Claimed,
    error: &StoreError,
    pushed: &Pushed,
) -> (AttemptEnd, Vec<NewMessage>) {
    let failure = Failure::new(error.code(), error.to_string(), "Check the database.").retryable();
    outcome::end_failed(inner, claimed, failure, Some(pushed))
}

/// What a program wants to know about a completed session.
fn completion(claimed: &Claimed, result: &JobResult, content: MessageContent) -> MessageContent {
    let content = content
        .with("summary", result.summary.as_str())
        .with("verification", json!(result.verification))
        .with("verificationRounds", result.rounds)
        .with("unfinished", result.unfinished);
    let Some(pushed) = &result.pushed else {
        return content;
    };
    content
        .with("branch", pushed.branch.as_str())
        .with("base", pushed.base.as_str())
        .with("head", pushed.head.as_str())
        .with("commits", pushed.commits)
        .with("subjects", pushed.subjects.clone())
        .with("sessionId", claimed.session.id.to_string())
}
