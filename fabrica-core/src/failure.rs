//! Why a session or an attempt ended badly: told once, in one shape, from the runner to the person who reads it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A reported failure. It always says what happened, with what evidence, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code, dotted and lower case, for programs: `repository.not_found`.
    pub code: String,
    /// The cause in one line, for people.
    pub cause: String,
    /// What to do next, in one or two sentences.
    pub advice: String,
    /// The last lines of diagnosis (output of the failed command, the container's log), oldest first; may be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnosis: Vec<String>,
    /// Whether another attempt could succeed without anybody changing anything.
    #[serde(default)]
    pub retryable: bool,
}

impl Failure {
    /// A failure that will repeat until somebody changes something.
    pub fn new(code: impl Into<String>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            cause: one_line(&cause.into()),
            advice: advice.into(),
            diagnosis: Vec::new(),
            retryable: false,
        }
    }

    /// The same failure, marked as one that another attempt may not meet.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same failure with lines of evidence: at most [`MAX_DIAGNOSIS_LINES`], the last ones are kept.
    #[must_use]
    pub fn with_diagnosis<I>(mut self, lines: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.diagnosis
            .extend(lines.into_iter().map(|line| clip(&line.into())));
        let excess = self.diagnosis.len().saturating_sub(MAX_DIAGNOSIS_LINES);
        self.diagnosis.drain(..excess);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cause, self.code)
    }
}

/// How many lines of diagnosis a failure keeps.
pub const MAX_DIAGNOSIS_LINES: usize = 40;
/// How many characters of one line are kept.
const MAX_LINE: usize = 500;

fn clip(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    clip(
        &text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_one_line_and_the_diagnosis_keeps_the_end() {
        let failure = Failure::new("agent.failed", "first\nsecond\n", "Read the transcript.")
            .with_diagnosis((0..100).map(|n| format!("line {n}")));
        assert_eq!(failure.cause, "first second");
        assert_eq!(failure.diagnosis.len(), MAX_DIAGNOSIS_LINES);
        assert_eq!(failure.diagnosis.last().map(String::as_str), Some("line 99"));
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        let failure = Failure::new("x", "é".repeat(2_000), "");
        assert_eq!(failure.cause.chars().count(), MAX_LINE + 1);
    }
}
