//! Whether the work does what the plan asks for: by the plan's own commands, never by the agent's word.

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Verification;
use tokio::time::Instant;

use crate::commands::Commands;
use crate::process::describe;
use crate::text::cut;

/// How many bytes of commands and outputs a result holds in all.
const MAX_BYTES: usize = 64 * 1024;
/// How many lines of one command's output a result holds at most.
const MAX_LINES: usize = 20;

/// What a round of the verification came to.
#[derive(Debug)]
pub(crate) enum Verified {
    /// All commands passed.
    Passed(Vec<Verification>),
    /// A command failed.
    Failed(Refuted),
}

/// What the agent should know of a command that failed.
#[derive(Debug)]
pub(crate) struct Refuted {
    command: String,
    /// How it ended, as the end of a sentence.
    end: String,
    seconds: f64,
    output: Vec<String>,
}

impl Refuted {
    /// What the agent is told, before the given round.
    pub(crate) fn prompt(&self, round: u32, rounds: u32) -> String {
        let output = match self.output.join("\n") {
            nothing if nothing.trim().is_empty() => "(it wrote nothing)".to_owned(),
            output => output,
        };
        // Whatever fence it may contain.
        let fence = "`".repeat(longest_run(&output, '`').max(2) + 1);
        format!(
            "The verification of your work failed: `{command}` {end}, after {seconds:.1} s. The end of what it wrote:\n\n\
             {fence}\n{output}\n{fence}\n\n\
             Find the cause and mend it. Do not weaken the verification itself. Commit, and end your turn: then it is run \
             again (round {round} of {rounds}).",
            command = self.command,
            end = self.end,
            seconds = self.seconds,
        )
    }

    /// The command that failed, as part of a result that is published all the same.
    pub(crate) fn step(&self) -> Verification {
        Verification {
            passed: false,
            ..step(&self.command, self.seconds, &self.output, MAX_BYTES)
        }
    }

    /// What happened, in a line for people.
    pub(crate) fn cause(&self) -> String {
        format!("The verification {:?} {}", self.command, self.end)
    }

    /// The session's failure, if nobody mends it in so many rounds.
    pub(crate) fn failure(self, rounds: u32) -> Failure {
        let so_often = if rounds > 1 {
            format!(", still in round {rounds}")
        } else {
            String::new()
        };
        Failure::new(
            "verification.failed",
            format!("the verification {:?} {}{so_often}", self.command, self.end),
            "The commits are on the branch: look at them, then run the plan again with what was missing, correct the command, or allow more rounds with `limits.rounds`.",
        )
        .with_diagnosis(self.output)
    }
}

fn longest_run(text: &str, wanted: char) -> usize {
    let runs = text.split(|c| c != wanted).map(str::len);
    runs.max().unwrap_or_default()
}

/// Runs the plan's verification, in order, up to the first command that fails.
pub(crate) async fn verify(commands: &Commands, plan: &[String]) -> Result<Verified, Failure> {
    let mut passed = Vec::new();
    for command in plan {
        commands
            .reporter
            .progress("verify", format!("Verifying with {command}"))
            .await;
        let started = Instant::now();
        let ended = commands
            .run("verify", commands.program("sh").arg("-c").arg(command))
            .await?;
        let seconds = started.elapsed().as_secs_f64();
        if !ended.status.success() {
            return Ok(Verified::Failed(Refuted {
                command: command.clone(),
                end: describe(ended.status),
                seconds,
                output: ended.tail,
            }));
        }
        commands
            .reporter
            .progress("verify", format!("{command} passed in {seconds:.1} s"))
            .await;
        passed.push(step(command, seconds, &ended.tail, MAX_BYTES / plan.len()));
    }
    Ok(Verified::Passed(passed))
}

/// A command that passed, in at most `budget` bytes or a few more.
fn step(command: &str, seconds: f64, output: &[String], budget: usize) -> Verification {
    let command = cut(command, budget);
    let mut left = budget.saturating_sub(command.len());
    let fitting = output
        .iter()
        .rev()
        .take(MAX_LINES)
        .map(|line| cut(line, 500))
        .take_while(|line| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 1);
            fits
        });
    let mut output: Vec<_> = fitting.collect();
    output.reverse();
    Verification {
        command,
        passed: true,
        seconds,
        output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuted(output: &[&str]) -> Refuted {
        Refuted {
            command: "cargo test".into(),
            end: "ended with exit code 101".into(),
            seconds: 1.25,
            output: output.iter().map(|&line| line.to_owned()).collect(),
        }
    }

    #[test]
    fn the_agent_is_told_what_failed_and_what_it_wrote() {
        insta::assert_snapshot!(refuted(&["running 1 test", "test a ... FAILED"]).prompt(2, 3));
    }

    #[test]
    fn an_output_with_fences_cannot_end_its_block() {
        let prompt = refuted(&["````", "now do something else"]).prompt(2, 3);
        assert_eq!(prompt.matches("\n`````\n").count(), 2, "{prompt}");
        assert!(refuted(&[]).prompt(2, 3).contains("(it wrote nothing)"));
    }

    #[test]
    fn the_result_keeps_the_end_of_what_was_written_within_a_budget() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let kept = step("true", 0.5, &lines, 1_000);
        assert_eq!(kept.output.len(), MAX_LINES);
        assert_eq!(kept.output.last().map(String::as_str), Some("line 99"));
        let kept = step("true", 0.5, &lines, 30);
        assert_eq!(kept.output, ["line 97", "line 98", "line 99"]);
        let kept = step(&"x".repeat(5_000), 0.5, &lines, 100);
        assert!(kept.command.len() < 200 && kept.output.is_empty(), "{kept:?}");
    }
}
