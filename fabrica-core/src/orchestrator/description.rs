//! The text of a pull request: what was done, how it was checked, what it cost and where it comes from.

use std::fmt::Write as _;

use crate::protocol::{JobResult, Pushed, Usage, Verification};
use crate::session::Session;

/// How many characters a text has at most: forges refuse longer ones.
const MAX_TEXT: usize = 60_000;
/// How many of them the agent's words and the template have at most.
const MAX_WORDS: usize = 40_000;

/// The text. `link` is where people look at the session; `usage` is what all of its attempts used.
pub(super) fn describe(
    session: &Session,
    link: Option<&str>,
    usage: Usage,
    result: &JobResult,
    pushed: &Pushed,
) -> String {
    let mut text = String::new();
    let summary = cut(result.summary.trim(), MAX_WORDS);
    if !summary.is_empty() {
        let _ = writeln!(text, "{summary}\n");
    }
    // An agent that was told of the template has filled it in. For all others it stands here, for people to fill in.
    if let Some(template) = result.template.as_deref().map(str::trim)
        && !follows(&summary, template)
    {
        let _ = writeln!(text, "{}\n", cut(template, MAX_WORDS / 2));
    }
    commits(&mut text, pushed);
    if !result.verification.is_empty() {
        verification(&mut text, result);
    }
    let _ = write!(text, "\n---\nMade by Fabrica, session ");
    let _ = match link {
        Some(link) => write!(text, "[`{}`]({link})", session.id),
        None => write!(text, "`{}`", session.id),
    };
    if let Some(used) = used(usage) {
        let _ = write!(text, ": {used}");
    }
    text.push('\n');
    cut(&text, MAX_TEXT)
}

/// Whether a text has all headings of a template; one without headings is followed by a text that begins like it.
fn follows(text: &str, template: &str) -> bool {
    let mut headings = template.lines().filter(|line| line.starts_with('#')).peekable();
    if headings.peek().is_none() {
        let first = template.lines().next().unwrap_or_default();
        return text.starts_with(first);
    }
    headings.all(|heading| text.lines().any(|line| line.trim_end() == heading.trim_end()))
}

fn commits(text: &mut String, pushed: &Pushed) {
    let _ = writeln!(text, "### Commits\n");
    for subject in &pushed.subjects {
        let _ = writeln!(text, "- {subject}");
    }
    let hidden = (pushed.commits as usize).saturating_sub(pushed.subjects.len());
    if hidden > 0 {
        let _ = writeln!(text, "- … and {hidden} more");
    }
}

fn verification(text: &mut String, result: &JobResult) {
    let _ = writeln!(text, "\n### Verification\n");
    if result.rounds > 1 {
        let _ = writeln!(text, "All passed in round {}.\n", result.rounds);
    }
    for step in &result.verification {
        let verdict = if step.passed { "passed" } else { "FAILED" };
        let command = step.command.replace('`', "'").replace('\n', " ");
        let _ = writeln!(text, "- `{command}` {verdict} in {:.1} s", step.seconds);
        output(text, step);
    }
}

/// The end of what a command wrote, folded.
fn output(text: &mut String, step: &Verification) {
    let fence_length = step.output.iter().map(|line| run(line)).max().unwrap_or_default();
    if step.output.iter().all(|line| line.trim().is_empty()) {
        return;
    }
    let fence = "`".repeat(fence_length.max(2) + 1);
    let _ = writeln!(
        text,
        "  <details><summary>the end of its output</summary>\n\n  {fence}text"
    );
    for line in &step.output {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "  {fence}\n  </details>");
}

/// The longest run of backticks in a line.
fn run(line: &str) -> usize {
    let runs = line.split(|c| c != '`').map(str::len);
    runs.max().unwrap_or_default()
}

/// What was used, where that is known.
fn used(usage: Usage) -> Option<String> {
    if usage == Usage::default() {
        return None;
    }
    let tokens = usage
        .input_tokens
        .saturating_add(usage.cache_read_tokens)
        .saturating_add(usage.cache_write_tokens);
    Some(format!(
        "{} turns, {tokens} tokens read, {} written, ${:.2}",
        usage.turns, usage.output_tokens, usage.cost_usd
    ))
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…\n", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AttemptNumber, SessionId};
    use crate::session::SessionStatus;

    fn session() -> Session {
        Session {
            id: "0198f000-0000-7000-8000-000000000001"
                .parse::<SessionId>()
                .unwrap(),
            status: SessionStatus::Running,
            repo_url: "https://git.example/acme/shop.git".into(),
            title: None,
            branch_name: None,
            pr_url: None,
            attempt: AttemptNumber::new(1),
            worker: None,
            cancel_requested: false,
            usage: Usage::default(),
            submitter: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            completed_at: None,
        }
    }

    fn pushed() -> Pushed {
        Pushed {
            branch: "fabrica/0198f000".into(),
            base: "main".into(),
            head: "abc".into(),
            commits: 2,
            subjects: vec!["Add keys".into(), "Test them".into()],
        }
    }

    fn result(summary: &str, template: Option<&str>) -> JobResult {
        JobResult {
            summary: summary.into(),
            pushed: Some(pushed()),
            verification: vec![Verification {
                command: "cargo test".into(),
                passed: true,
                seconds: 12.34,
                output: vec!["```".into(), "test result: ok. 3 passed".into()],
            }],
            rounds: 2,
            template: template.map(str::to_owned),
            heard: 0,
            unfinished: false,
        }
    }

    #[test]
    fn the_text_tells_everything_that_a_reviewer_wants_to_know() {
        let usage = Usage {
            input_tokens: 1_000,
            output_tokens: 250,
            cache_read_tokens: 9_000,
            cache_write_tokens: 0,
            cost_usd: 0.4217,
            turns: 12,
        };
        let result = result("Keys are idempotent now.", None);
        let link = Some("https://fabrica.example/sessions/1");
        insta::assert_snapshot!(describe(&session(), link, usage, &result, &pushed()));
    }

    #[test]
    fn a_template_that_the_agent_did_not_fill_in_is_there_for_people() {
        let template = "## Why\n\n## Risk\n- [ ] none";
        let describe = |summary: &str| {
            let result = result(summary, Some(template));
            describe(&session(), None, Usage::default(), &result, &pushed())
        };
        let unfilled = describe("Keys are idempotent now.");
        assert!(unfilled.contains("- [ ] none"), "{unfilled}");
        let filled = describe("## Why\nRetries.\n\n## Risk\nLow.");
        assert!(!filled.contains("- [ ] none"), "{filled}");
        assert!(
            describe("## Why\nRetries.").contains("- [ ] none"),
            "one heading is missing"
        );
    }

    #[test]
    fn it_is_never_longer_than_forges_accept() {
        let mut result = result(&"é".repeat(100_000), Some(&"x".repeat(100_000)));
        result.verification = vec![result.verification[0].clone(); 2_000];
        let text = describe(&session(), None, Usage::default(), &result, &pushed());
        assert!(text.chars().count() <= MAX_TEXT + 2);
    }
}
