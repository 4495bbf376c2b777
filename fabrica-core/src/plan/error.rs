//! What can be wrong with a plan, said so that its author can mend it.

use std::fmt;

use thiserror::Error;

use super::MAX_PLAN_BYTES;
use super::repository::RepositoryError;

/// What is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanProblem {
    /// Larger than [`MAX_PLAN_BYTES`].
    #[error(
        "the plan has {bytes} bytes, more than the {MAX_PLAN_BYTES} that are accepted; move long material into the repository"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The first line is not `---`.
    #[error(
        "the plan has no frontmatter: begin it with a line `---`, then `repo: https://…`, then a line `---`"
    )]
    NoFrontmatter,
    /// No second `---`.
    #[error("the frontmatter that begins in line 1 is not closed: end it with a line `---`")]
    UnclosedFrontmatter,
    /// Not YAML.
    #[error("the frontmatter is not valid YAML: {0}")]
    Syntax(String),
    /// A key that no plan has.
    #[error("unknown key `{key}`{}", nearest.as_ref().map(|known| format!(", did you mean `{known}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of its range.
    #[error("{0}")]
    InvalidValue(String),
    /// No `repo`.
    #[error("the frontmatter names no repository: add `repo: https://…`")]
    MissingRepository,
    /// The repository is not acceptable.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Nothing below the frontmatter.
    #[error("the plan has no task: write below the frontmatter, in markdown, what is to be done")]
    EmptyTask,
}

/// A plan that cannot be accepted, with the place of the problem.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct PlanError {
    /// What is wrong.
    pub problem: PlanProblem,
    /// The line in the plan, from 1, where it is known.
    pub line: Option<usize>,
    /// The column in that line, from 1, where it is known.
    pub column: Option<usize>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: {}", self.problem),
            (Some(line), None) => write!(f, "line {line}: {}", self.problem),
            _ => self.problem.fmt(f),
        }
    }
}

impl PlanError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match &self.problem {
            PlanProblem::TooLarge { .. } => "plan.too_large",
            PlanProblem::NoFrontmatter => "plan.no_frontmatter",
            PlanProblem::UnclosedFrontmatter => "plan.unclosed_frontmatter",
            PlanProblem::Syntax(_) => "plan.syntax",
            PlanProblem::UnknownKey { .. } => "plan.unknown_key",
            PlanProblem::InvalidValue(_) => "plan.invalid_value",
            PlanProblem::MissingRepository => "plan.missing_repository",
            PlanProblem::Repository(error) => error.code(),
            PlanProblem::EmptyTask => "plan.empty_task",
        }
    }

    /// The same error, placed where the source's frontmatter has the top-level key.
    pub(super) fn at_key(mut self, source: &str, key: &str) -> Self {
        self.line = source
            .lines()
            .position(|line| {
                line.strip_prefix(key)
                    .is_some_and(|rest| rest.trim_start().starts_with(':'))
            })
            .map(|index| index + 1);
        self.column = self.line.map(|_| 1);
        self
    }

    pub(super) const fn at(problem: PlanProblem, line: usize, column: usize) -> Self {
        Self {
            problem,
            line: Some(line),
            column: Some(column),
        }
    }
}

impl From<PlanProblem> for PlanError {
    fn from(problem: PlanProblem) -> Self {
        Self {
            problem,
            line: None,
            column: None,
        }
    }
}
