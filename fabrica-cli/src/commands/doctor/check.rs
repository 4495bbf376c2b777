//! One check, and how all are shown.

use serde_json::{Value, json};

use crate::ui::text::{sanitize, sanitize_lines};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as it should be.
    Ok,
    /// Some plans will not run, or not well.
    Warn,
    /// No plan will run.
    Fail,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was looked at, what was found, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    pub(super) hint: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            detail: detail.into(),
            hint: None,
        }
    }

    pub(super) fn warn(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Warn,
            detail: detail.into(),
            hint: Some(hint.into()),
        }
    }

    pub(super) fn fail(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(name, detail, hint)
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({ "name": self.name, "status": self.verdict.as_str(), "detail": self.detail, "hint": self.hint })
    }
}

/// The checks as lines, each with what to do.
pub(super) fn render(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let detail = sanitize_lines(&check.detail);
        let mut rest = detail.lines().map(str::trim);
        let first = rest.next().unwrap_or_default();
        lines.push(format!(
            "{:<4}  {:<9}  {first}",
            check.verdict.as_str(),
            check.name
        ));
        lines.extend(rest.map(|line| format!("{:17}{line}", "")));
        if let Some(hint) = &check.hint {
            lines.push(format!("{:17}hint: {}", "", sanitize(hint)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_a_line_with_what_to_do() {
        let checks = [
            Check::ok("engine", "docker 20.10.24, with root rights"),
            Check::warn("model", "no key", "set ANTHROPIC_API_KEY"),
            Check::fail(
                "image",
                "fabrica/agent:latest is not there",
                "`fabrica image build` makes it",
            ),
        ];
        insta::assert_snapshot!(render(&checks));
        insta::assert_snapshot!(checks[2].json());
    }
}
