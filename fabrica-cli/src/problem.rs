//! What went wrong, in the one shape in which the command tells it.

use fabrica_cli::assembly::AssemblyError;
use fabrica_cli::rehearsal::RehearsalError;
use fabrica_core::failure::Failure;
use fabrica_core::orchestrator::{AnswerError, NoteError, SubmitError};
use fabrica_core::plan::PlanError;
use fabrica_core::ports::{RuntimeError, StoreError};
use serde_json::{Value, json};

use crate::exit::Exit;

/// What went wrong, how the command ends because of it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Stable, for programs.
    pub(crate) code: String,
    /// The cause in a line.
    pub(crate) message: String,
    /// The last lines of evidence.
    pub(crate) diagnosis: Vec<String>,
    /// What to do.
    pub(crate) hint: Option<String>,
    pub(crate) exit: Exit,
}

impl Problem {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            diagnosis: Vec::new(),
            hint: None,
            exit,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn diagnosis(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.diagnosis.extend(lines);
        self
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "type": "problem",
            "code": self.code,
            "message": self.message,
            "diagnosis": self.diagnosis,
            "hint": self.hint,
            "exitCode": self.exit.code(),
        })
    }

    fn of_failure(exit: Exit, failure: Failure) -> Self {
        Self::new(exit, &failure.code, failure.cause)
            .hint(failure.advice)
            .diagnosis(failure.diagnosis)
    }
}

impl From<AssemblyError> for Problem {
    fn from(error: AssemblyError) -> Self {
        Self::new(Exit::Other(error.exit_code()), error.code(), error.to_string()).hint(error.hint())
    }
}

impl From<AnswerError> for Problem {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Store(error) => error.into(),
            AnswerError::Plan(error) => Self::new(Exit::Usage, error.code(), error.to_string())
                .hint("correct the plan that --plan names"),
            other => Self::new(Exit::Usage, other.code(), other.to_string())
                .hint("nothing was stored; the question is still open"),
        }
    }
}

impl From<NoteError> for Problem {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::Store(error) => error.into(),
            other => Self::new(Exit::Usage, other.code(), other.to_string())
                .hint("nothing was said; correct it and say it again"),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let exit = if error.retryable() {
            Exit::UNAVAILABLE
        } else {
            Exit::Failure
        };
        AssemblyError::Database(error).into_problem(exit)
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        let exit = if matches!(error, RuntimeError::Unavailable { .. }) {
            Exit::UNAVAILABLE
        } else {
            Exit::Failure
        };
        Self::of_failure(exit, error.failure())
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::new(Exit::Usage, error.code(), error.to_string()).hint("mend the plan and run it again")
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Plan(error) => error.into(),
            SubmitError::Store(error) => error.into(),
            other => {
                Self::new(Exit::Usage, other.code(), other.to_string()).hint("mend the plan and run it again")
            }
        }
    }
}

impl From<RehearsalError> for Problem {
    fn from(error: RehearsalError) -> Self {
        let cause = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        Self::new(Exit::Failure, "demo.stand_in", format!("{error}{cause}"))
            .hint("the demonstration needs git and free ports on 127.0.0.1")
    }
}

trait IntoProblem {
    fn into_problem(self, exit: Exit) -> Problem;
}

impl IntoProblem for AssemblyError {
    fn into_problem(self, exit: Exit) -> Problem {
        Problem { exit, ..self.into() }
    }
}
