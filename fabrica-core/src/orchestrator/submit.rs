//! From a plan's text to a durable session.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::inner::Inner;
use crate::message::{MessageContent, MessageKind};
use crate::plan::{Plan, PlanError, Repository};
use crate::ports::store::{Created, NewSession, StoreError};

/// A plan that is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The markdown with its frontmatter; stored byte for byte.
    pub plan: String,
    /// Who hands it in.
    pub submitter: Option<String>,
    /// The same key with the same plan is one session only.
    pub idempotency_key: Option<String>,
    /// How long the session waits for [`run_session`](super::Orchestrator::run_session) before any worker that shares the
    /// store may claim it; zero is at once.
    pub held: Duration,
    /// What a relative local repository is relative to: the plan's directory.
    pub directory: Option<PathBuf>,
}

impl Submission {
    /// A plan from nobody in particular.
    pub fn new(plan: impl Into<String>) -> Self {
        Self {
            plan: plan.into(),
            submitter: None,
            idempotency_key: None,
            held: Duration::ZERO,
            directory: None,
        }
    }
}

/// Why a plan was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The plan is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan wants connections that the operator does not permit.
    #[error(
        "the plan asks for connections to {0}, and this installation permits none: remove `network`, or put what is needed into the image"
    )]
    NetworkNotPermitted(String),
    /// A local repository is not there.
    #[error("the repository {} cannot be opened: {source}", path.display())]
    LocalRepository {
        /// The path, as far as it was resolved.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A local path is no repository.
    #[error("{} is no git repository: run `git init` and commit something there, or correct `repo` in the plan", .0.display())]
    NotGit(PathBuf),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SubmitError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Plan(error) => error.code(),
            Self::NetworkNotPermitted(_) => "network.not_permitted",
            Self::LocalRepository { .. } => "repository.not_found",
            Self::NotGit(_) => "repository.not_git",
            Self::Store(error) => error.code(),
        }
    }
}

/// Where a local repository is, as its plan says it.
pub(super) fn place(path: &Path, directory: Option<&Path>) -> PathBuf {
    directory.map_or_else(|| path.to_owned(), |directory| directory.join(path))
}

/// Whether git would take a directory for a repository, with a work tree or bare; git itself looks closer later.
fn is_git(directory: &Path) -> bool {
    directory.join(".git").exists()
        || (directory.join("HEAD").is_file() && directory.join("objects").is_dir())
}

#[tracing::instrument(name = "core.orchestrator.submit", skip_all)]
pub(super) async fn submit(inner: &Inner, submission: Submission) -> Result<Created, SubmitError> {
    let plan = Plan::parse(&submission.plan, &inner.options.repositories)?;
    if !plan.network.allow.is_empty() {
        return Err(SubmitError::NetworkNotPermitted(plan.network.allow.join(", ")));
    }
    let repo_url = match &plan.repository {
        Repository::Local(path) => {
            let path = place(path, submission.directory.as_deref());
            let absolute = path
                .canonicalize()
                .map_err(|source| SubmitError::LocalRepository {
                    path: path.clone(),
                    source,
                })?;
            if !is_git(&absolute) {
                return Err(SubmitError::NotGit(absolute));
            }
            absolute.display().to_string()
        }
        remote => remote.to_string(),
    };
    let ids = inner.ids();
    let content = MessageContent::text(format!("Queued: {}", plan.title))
        .with("step", "queued")
        .with("title", plan.title.as_str())
        .with("repoUrl", repo_url.as_str());
    let created = inner
        .store
        .create_session(NewSession {
            id: ids.session(),
            spec: ids.spec(),
            content: submission.plan,
            repo_url,
            title: plan.title,
            max_attempts: plan.limits.attempts.unwrap_or(inner.options.attempts),
            priority: plan.priority,
            submitter: submission.submitter,
            idempotency_key: submission.idempotency_key,
            held: submission.held,
            message: inner.message(MessageKind::Progress, content),
        })
        .await?;
    tracing::info!(session.id = %created.session(), "session accepted");
    Ok(created)
}
