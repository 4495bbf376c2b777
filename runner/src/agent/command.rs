//! Any program as the agent: it finds its task in the file that `FABRICA_TASK` names.
//!
//! It asks a person with `fabrica-escalate`, which is on its `PATH`, and then ends with the exit code 85. Once there is
//! an answer, when the verification of its work failed, or when it goes on for another reason, it is run again, in its work
//! as it left it, with what it has to know in the file that `FABRICA_ANSWER` names.

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{AGENT_ASKED, Usage};

use super::{Start, Worked, not_started, unprepared};
use crate::commands::Commands;
use crate::process::describe;

/// Runs the program in the repository until it ends.
pub(super) async fn work(start: Start<'_>, argv: &[String], told: Option<&str>) -> Result<Worked, Failure> {
    let commands = start.commands;
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Failure::new(
            "agent.not_found",
            "the plan names no program as its agent",
            "Write `agent: { command: [\"./agent.sh\"] }` in the plan.",
        ));
    };
    findable(commands, program)?;
    commands
        .reporter
        .progress("agent", format!("Running {program}"))
        .await;
    let mut command = commands.program(program);
    command.args(arguments);
    if let Some(told) = told {
        let answer = start.environment.scratch().join("answer.md");
        std::fs::write(&answer, told).map_err(|error| unprepared(&error))?;
        command.env("FABRICA_ANSWER", answer);
    }
    let ended = commands.run("agent", &mut command).await?;
    if ended.status.success() {
        let last = ended.tail.into_iter().rev().find(|line| !line.trim().is_empty());
        return Ok(Worked {
            summary: last.unwrap_or_default(),
            usage: Usage::default(),
        });
    }
    if ended.status.code() == Some(AGENT_ASKED) {
        return Err(Failure::new(
            "agent.asked_nothing",
            format!("the agent {program:?} ended with exit code {AGENT_ASKED}, but has asked nothing"),
            "Let it ask with `fabrica-escalate` before it ends with this code, or end with another one.",
        )
        .with_diagnosis(ended.tail));
    }
    Err(Failure::new(
        "agent.failed",
        format!("the agent {program:?} {}", describe(ended.status)),
        "Read the last lines of its output. If it committed anything, that is on the branch.",
    )
    .with_diagnosis(ended.tail))
}

/// A program that cannot be started is worth a failure of its own.
fn findable(commands: &Commands, program: &str) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = commands
        .variables
        .iter()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.clone());
    let candidates: Vec<_> = if program.contains('/') {
        vec![commands.directory.join(program)]
    } else {
        std::env::split_paths(&path.unwrap_or_default())
            .map(|directory| directory.join(program))
            .collect()
    };
    let modes: Vec<u32> = candidates
        .iter()
        .filter_map(|candidate| std::fs::metadata(candidate).ok())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.permissions().mode())
        .collect();
    match (modes.is_empty(), modes.iter().any(|mode| mode & 0o111 != 0)) {
        (true, _) => Err(not_started(program, &std::io::ErrorKind::NotFound.into())),
        (false, false) => Err(not_started(program, &std::io::ErrorKind::PermissionDenied.into())),
        (false, true) => Ok(()),
    }
}
