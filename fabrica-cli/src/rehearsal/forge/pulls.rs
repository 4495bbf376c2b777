//! Pull requests, as both APIs see them.

use serde_json::Value;

use super::{ForgeFlavour, StubForge};
use crate::rehearsal::{error::RehearsalError, ledger::locked, repository::BareRepository};

/// When everything happened, so that every rehearsal is the same.
pub(super) const WHEN: &str = "2026-01-01T00:00:00Z";

/// Whether a pull request is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullRequestState {
    /// It waits for a review.
    Open,
    /// It was closed without a merge.
    Closed,
}

impl PullRequestState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A pull request that was opened at the forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// The API that opened it.
    pub flavour: ForgeFlavour,
    /// The repository's owner.
    pub owner: String,
    /// The repository's name.
    pub repository: String,
    /// Its number in the repository.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// Its description.
    pub body: String,
    /// The branch to be merged.
    pub head: String,
    /// That branch's commit when it was opened.
    pub head_sha: String,
    /// The branch to merge into.
    pub base: String,
    /// That branch's commit when it was opened.
    pub base_sha: String,
    /// Whether it is a draft.
    pub draft: bool,
    /// Whether it is open.
    pub state: PullRequestState,
    /// The names of its labels.
    pub labels: Vec<String>,
    /// The users who are asked for a review.
    pub reviewers: Vec<String>,
    /// The teams that are asked for a review.
    pub team_reviewers: Vec<String>,
}

impl PullRequest {
    /// Adds what is not there yet.
    pub(super) fn add_labels(&mut self, labels: impl IntoIterator<Item = String>) {
        extend(&mut self.labels, labels);
    }

    /// Adds the reviewers that a request's body names.
    pub(super) fn add_reviewers(&mut self, body: &Value) {
        extend(&mut self.reviewers, strings(&body["reviewers"]));
        extend(&mut self.team_reviewers, strings(&body["team_reviewers"]));
    }

    /// Changes what the body of a `PATCH` names.
    pub(super) fn edit(&mut self, body: &Value) {
        for (field, key) in [
            (&mut self.title, "title"),
            (&mut self.body, "body"),
            (&mut self.base, "base"),
        ] {
            if let Some(text) = body[key].as_str() {
                text.clone_into(field);
            }
        }
        match body["state"].as_str() {
            Some("open") => self.state = PullRequestState::Open,
            Some("closed") => self.state = PullRequestState::Closed,
            _ => {}
        }
    }
}

/// Which repository, from a path.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(super) struct RepositoryPath {
    pub(super) owner: String,
    pub(super) repo: String,
}

/// Which pull request, from a path.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(super) struct PullPath {
    pub(super) owner: String,
    pub(super) repo: String,
    pub(super) number: u64,
}

/// What somebody wants to open.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    pub(super) flavour: ForgeFlavour,
    pub(super) title: String,
    pub(super) body: String,
    pub(super) head: String,
    pub(super) base: String,
    pub(super) draft: bool,
}

/// Why a proposal is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A field is missing.
    Missing(&'static str),
    /// A field names no branch.
    Invalid(&'static str),
    /// The head has nothing that the base lacks.
    NoCommits,
    /// One is open already.
    Exists(Box<PullRequest>),
    /// Git failed.
    Git(RehearsalError),
}

impl From<RehearsalError> for Refusal {
    fn from(error: RehearsalError) -> Self {
        Self::Git(error)
    }
}

impl StubForge {
    /// Opens a pull request, under the rules that both forges share.
    pub(super) async fn open(
        &self,
        repository: &BareRepository,
        path: RepositoryPath,
        proposal: Proposal,
    ) -> Result<PullRequest, Refusal> {
        for (field, value) in [
            ("title", &proposal.title),
            ("head", &proposal.head),
            ("base", &proposal.base),
        ] {
            if value.is_empty() {
                return Err(Refusal::Missing(field));
            }
        }
        let branch = proposal
            .head
            .strip_prefix(&format!("{}:", path.owner))
            .unwrap_or(&proposal.head);
        let base_sha = repository
            .head(&proposal.base)
            .await?
            .ok_or(Refusal::Invalid("base"))?;
        let head_sha = repository.head(branch).await?.ok_or(Refusal::Invalid("head"))?;
        let ahead = repository.ahead(&base_sha, &head_sha).await?;
        let branch = branch.to_owned();
        let mut pulls = locked(&self.0.pulls);
        let same_repository = |pull: &&PullRequest| pull.owner == path.owner && pull.repository == path.repo;
        let open = pulls.iter().filter(same_repository).find(|pull| {
            pull.state == PullRequestState::Open && pull.head == branch && pull.base == proposal.base
        });
        if let Some(open) = open {
            return Err(Refusal::Exists(Box::new(open.clone())));
        }
        if ahead == 0 {
            return Err(Refusal::NoCommits);
        }
        let number = pulls
            .iter()
            .filter(same_repository)
            .map(|pull| pull.number)
            .max()
            .unwrap_or(0)
            + 1;
        let pull = PullRequest {
            flavour: proposal.flavour,
            owner: path.owner,
            repository: path.repo,
            number,
            title: proposal.title,
            body: proposal.body,
            head: branch,
            head_sha,
            base: proposal.base,
            base_sha,
            draft: proposal.draft,
            state: PullRequestState::Open,
            labels: Vec::new(),
            reviewers: Vec::new(),
            team_reviewers: Vec::new(),
        };
        pulls.push(pull.clone());
        Ok(pull)
    }

    /// The pull requests of a repository in this state (`open`, `closed` or `all`), the latest first.
    pub(super) fn pulls_of(&self, path: &RepositoryPath, state: Option<&str>) -> Vec<PullRequest> {
        let state = state.unwrap_or("open");
        let wanted = |pull: &&PullRequest| {
            pull.owner == path.owner
                && pull.repository == path.repo
                && (state == "all" || state == pull.state.name())
        };
        locked(&self.0.pulls)
            .iter()
            .rev()
            .filter(wanted)
            .cloned()
            .collect()
    }

    /// Changes a pull request, and returns it as it is then; none if it is unknown.
    pub(super) fn change(
        &self,
        path: &PullPath,
        change: impl FnOnce(&mut PullRequest),
    ) -> Option<PullRequest> {
        let mut pulls = locked(&self.0.pulls);
        let pull = pulls.iter_mut().find(|pull| {
            pull.owner == path.owner && pull.repository == path.repo && pull.number == path.number
        })?;
        change(pull);
        Some(pull.clone())
    }

    /// A label's id: its place, counted from 1.
    pub(super) fn label_id(&self, name: &str) -> Option<usize> {
        locked(&self.0.labels)
            .iter()
            .position(|label| label == name)
            .map(|index| index + 1)
    }

    /// The repositories' labels.
    pub(super) fn labels(&self) -> Vec<String> {
        locked(&self.0.labels).clone()
    }

    /// Makes a label, unless it is there.
    pub(super) fn add_label(&self, name: &str) {
        extend(&mut locked(&self.0.labels), [name.to_owned()]);
    }
}

/// The strings of a JSON array.
pub(super) fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().map_or(&[][..], Vec::as_slice);
    values
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// A string field of a JSON object, or nothing.
pub(super) fn text(body: &Value, key: &str) -> String {
    body[key].as_str().unwrap_or_default().to_owned()
}

fn extend(present: &mut Vec<String>, additions: impl IntoIterator<Item = String>) {
    for addition in additions {
        if !present.contains(&addition) {
            present.push(addition);
        }
    }
}
