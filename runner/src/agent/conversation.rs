//! The conversation of an earlier attempt, put where the agent looks for it.

use fabrica_core::failure::Failure;

use super::{Start, unprepared};
use crate::transcript;

/// Puts the conversation back. False if there is none, so that the agent starts afresh.
pub(super) async fn restore(start: Start<'_>) -> Result<bool, Failure> {
    let kept = start
        .job
        .resume
        .as_ref()
        .and_then(|resume| resume.checkpoint.as_ref())
        .is_some_and(|checkpoint| checkpoint.conversation);
    if !kept {
        return Ok(false);
    }
    let downloaded = start
        .commands
        .stop
        .or(transcript::download(start.gateway))
        .await?;
    let Some(content) = downloaded.filter(|content| !content.is_empty()) else {
        let message =
            "The agent's conversation is not there any more; it begins anew, with its work as it left it";
        start.commands.reporter.progress("agent", message).await;
        return Ok(false);
    };
    // The agent itself would name the directory like this, so that it goes on in the same file.
    let project: String = start
        .commands
        .directory
        .display()
        .to_string()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let directory = start.environment.agent_config().join("projects").join(project);
    let path = directory.join(format!("{}.jsonl", start.job.session));
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|error| unprepared(&error))?;
    Ok(true)
}
