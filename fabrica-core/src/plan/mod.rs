//! The plan: markdown with a YAML frontmatter that names a repository.
//!
//! Everything that a plan says is checked here, once, before it is acknowledged; what comes out is typed.

mod error;
mod escalation;
mod frontmatter;
mod limits;
mod repository;
mod value;

pub use error::{PlanError, PlanProblem};
pub use escalation::EscalationOptions;
pub use limits::Limits;
pub use repository::{Repository, RepositoryError, RepositoryPolicy};

use std::fmt;

use serde::{Deserialize, Serialize};

use frontmatter::{Frontmatter, split};

/// The largest plan that is accepted, in bytes.
pub const MAX_PLAN_BYTES: usize = 256 * 1024;

/// How many submodules a plan may list.
pub const MAX_SUBMODULES: usize = 64;

/// A checked plan.
///
/// ```
/// use fabrica_core::plan::{Plan, RepositoryPolicy};
///
/// let plan = Plan::parse(
///     "---\nrepo: https://github.com/acme/billing.git\n---\n# Add idempotency keys\n\nUse the header.\n",
///     &RepositoryPolicy::default(),
/// )?;
/// assert_eq!(plan.title, "Add idempotency keys");
/// assert_eq!(plan.repository.to_string(), "https://github.com/acme/billing.git");
/// # Ok::<(), fabrica_core::plan::PlanError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The repository to work in.
    pub repository: Repository,
    /// Repositories that may be fetched as submodules of it. All are on its host.
    pub submodules: Vec<Repository>,
    /// Whether files that these keep in Git LFS are fetched; otherwise pointers stand in their place.
    pub large_files: bool,
    /// The title: from the frontmatter, else the first heading, else "Untitled".
    pub title: String,
    /// The branch to start from; `None` is the remote's default branch.
    pub base: Option<String>,
    /// The branch to push; `None` is `fabrica/<first 8 of the session id>`.
    pub branch: Option<String>,
    /// The directory of the repository in which agent, `setup` and `verify` start, such as `services/billing`; `None` is the
    /// repository itself.
    pub path: Option<String>,
    /// Who does the work.
    pub agent: Agent,
    /// The model that the agent uses; `None` leaves it to the agent.
    pub model: Option<String>,
    /// The container image; `None` is the operator's default.
    pub image: Option<String>,
    /// Shell commands that run once before the agent, in order.
    pub setup: Vec<String>,
    /// Shell commands that must pass before a pull request is opened, in order.
    pub verify: Vec<String>,
    /// What the session may use.
    pub limits: Limits,
    /// How much it matters: plans with a higher number are begun first. From -100 to 100; usually 0.
    pub priority: i32,
    /// What becomes of the agent's questions to people.
    pub escalation: EscalationOptions,
    /// Where the sandbox may connect to.
    pub network: Network,
    /// How the pull request is opened.
    pub pull_request: PullRequestOptions,
    /// The task: the markdown below the frontmatter.
    pub task: String,
}

impl Plan {
    /// Reads a plan. Line endings may be CRLF; a byte order mark and a closing fence at the very end are accepted.
    ///
    /// # Errors
    ///
    /// [`PlanError`] names the offending key, its line and column, what was expected, and the nearest known key.
    pub fn parse(source: &str, policy: &RepositoryPolicy) -> Result<Self, PlanError> {
        Self::parse_with_default(source, None, policy)
    }

    /// Reads a plan whose repository may stand outside of it: another program may have inserted a session with a
    /// `repo_url` and a spec that is plain markdown. The frontmatter, where there is one, wins.
    ///
    /// # Errors
    ///
    /// As [`Plan::parse`].
    pub fn parse_with_default(
        source: &str,
        repository: Option<&str>,
        policy: &RepositoryPolicy,
    ) -> Result<Self, PlanError> {
        if source.len() > MAX_PLAN_BYTES {
            return Err(PlanProblem::TooLarge { bytes: source.len() }.into());
        }
        let source = source.strip_prefix('\u{feff}').unwrap_or(source);
        let (frontmatter, task) = match split(source) {
            Ok(parts) => (Frontmatter::parse(&parts)?, parts.body),
            Err(error) if repository.is_some() && error.problem == PlanProblem::NoFrontmatter => {
                (Frontmatter::default(), source)
            }
            Err(error) => return Err(error),
        };
        let named = frontmatter.repo.as_deref().or(repository);
        let Some(named) = named else {
            return Err(PlanProblem::MissingRepository.into());
        };
        let repository = Repository::parse(named, policy)
            .map_err(|error| PlanError::from(PlanProblem::Repository(error)).at_key(source, "repo"))?;
        let submodules = (frontmatter.submodules(&repository, policy))
            .map_err(|problem| PlanError::from(problem).at_key(source, "submodules"))?;
        if task.trim().is_empty() {
            return Err(PlanProblem::EmptyTask.into());
        }
        if frontmatter.branch.is_some() && frontmatter.branch == frontmatter.base {
            let problem =
                "branch: expected another branch than `base`, since the work comes in through a pull request";
            return Err(PlanError::from(PlanProblem::InvalidValue(problem.into())).at_key(source, "branch"));
        }
        let title = frontmatter
            .title
            .clone()
            .or_else(|| first_heading(task))
            .unwrap_or_else(|| "Untitled".into());
        Ok(frontmatter.into_plan((repository, submodules), clip_title(&title), task.to_owned()))
    }
}

/// Who does the work in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Agent {
    /// The Claude Code CLI.
    #[default]
    Claude,
    /// Any other program, started in the repository (or the plan's `path`) with the task in the file that `FABRICA_TASK` names.
    Command(Vec<String>),
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claude => f.write_str("claude"),
            Self::Command(argv) => f.write_str(argv.first().map_or("command", String::as_str)),
        }
    }
}

/// Where the sandbox may connect to, beside its gateway's own services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Host patterns such as `packages.example.com` or `*.example.org:443`, within what the operator permits.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// How the pull request is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PullRequestOptions {
    /// Open it as a draft.
    #[serde(default)]
    pub draft: bool,
    /// Labels to put on it.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Users or teams who are asked to review it.
    #[serde(default)]
    pub reviewers: Vec<String>,
}

/// The text of the first ATX heading outside a fenced code block.
fn first_heading(body: &str) -> Option<String> {
    let mut fenced = false;
    for line in body.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            fenced = !fenced;
        } else if !fenced && let Some(rest) = trimmed.strip_prefix('#') {
            let text = rest.trim_start_matches('#');
            let title = text.trim().trim_end_matches('#').trim();
            if text.starts_with(char::is_whitespace) && !title.is_empty() {
                return Some(title.to_owned());
            }
        }
    }
    None
}

/// A title is one line of at most 200 characters: it becomes the pull request's title.
fn clip_title(title: &str) -> String {
    let line = title
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("Untitled");
    line.chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests;
