//! Any program as the agent: it finds its task in the file that `FABRICA_TASK` names.

use fabrica_core::failure::Failure;

use super::not_started;
use crate::commands::Commands;
use crate::process::describe;

/// Runs the program in the repository until it ends.
pub(super) async fn work(commands: &Commands, argv: &[String]) -> Result<String, Failure> {
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
    let ended = commands
        .run("agent", commands.program(program).args(arguments))
        .await?;
    if ended.status.success() {
        return Ok(ended
            .tail
            .iter()
            .rev()
            .find(|line| !line.trim().is_empty())
            .cloned()
            .unwrap_or_default());
    }
    Err(Failure::new(
        "agent.failed",
        format!("the agent {program:?} {}", describe(ended.status)),
        "Read the last lines of its output. What it committed is on the branch.",
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
