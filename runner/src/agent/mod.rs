//! Who does the work.

mod claude;
mod command;
mod conversation;
mod entry;
mod failure;
mod patience;
mod stream;

use fabrica_core::failure::Failure;
use fabrica_core::plan::Agent;
use fabrica_core::protocol::{Job, Usage};

use crate::asking::Setup;
use crate::commands::Commands;
use crate::environment::Environment;
use crate::gateway::Gateway;

pub(crate) use claude::Claude;

/// What the agent is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    pub(crate) commands: &'a Commands,
    pub(crate) environment: &'a Environment,
    pub(crate) job: &'a Job,
    pub(crate) gateway: &'a Gateway,
    pub(crate) asking: &'a Setup,
    pub(crate) model_address: &'a str,
    /// Where in the repository the template for a pull request's text is.
    pub(crate) template: Option<&'a str>,
}

/// What the agent was left with at its end.
#[derive(Debug, Default)]
pub(crate) struct Worked {
    /// Its closing words.
    pub(crate) summary: String,
    /// What it has used, as far as it tells.
    pub(crate) usage: Usage,
}

/// Lets the agent work.
pub(crate) async fn work(start: Start<'_>) -> Result<Worked, Failure> {
    start.asking.begin().map_err(|error| unprepared(&error))?;
    let resume = start.job.resume.as_ref();
    match &start.job.agent {
        Agent::Claude => {
            let conversation = conversation::restore(start).await?;
            let message = if conversation {
                "The agent goes on with its conversation"
            } else {
                "The agent starts to work"
            };
            start.commands.reporter.progress("agent", message).await;
            let prompt = match resume {
                // It knows its task.
                Some(resume) if conversation => resume.prompt.clone(),
                Some(resume) => format!("{}\n\n{}\n", start.job.task.trim_end(), resume.prompt.trim()),
                None => start.job.task.clone(),
            };
            patience::work(start, conversation, Usage::default(), prompt).await
        }
        Agent::Command(argv) => command::work(start, argv, resume.map(|resume| resume.prompt.as_str())).await,
    }
}

/// In place of an agent that works no more. Its conversation is put back all the same, so that it can go on one day.
pub(crate) async fn finish(start: Start<'_>) -> Result<Worked, Failure> {
    start.asking.begin().map_err(|error| unprepared(&error))?;
    if start.job.agent == Agent::Claude {
        conversation::restore(start).await?;
    }
    let message = "The agent works no more; what there is becomes the result";
    start.commands.reporter.progress("agent", message).await;
    Ok(Worked {
        summary: UNFINISHED.to_owned(),
        usage: Usage::default(),
    })
}

/// What stands in the place of the agent's closing words.
const UNFINISHED: &str = "**Unfinished.** The session had used up its budget before the agent was done, and was asked to finish \
    with what there was.";

/// Lets the agent go on in the same sandbox, with what it is told now. It has used `spent` before.
pub(crate) async fn go_on(start: Start<'_>, told: String, spent: Usage) -> Result<Worked, Failure> {
    start.asking.begin().map_err(|error| unprepared(&error))?;
    match &start.job.agent {
        Agent::Claude => patience::work(start, true, spent, told).await,
        Agent::Command(argv) => command::work(start, argv, Some(&told)).await,
    }
}

fn claude(start: Start<'_>, goes_on: bool, spent: Usage) -> Claude<'_> {
    Claude {
        commands: start.commands,
        environment: start.environment,
        job: start.job,
        asking: start.asking,
        model_address: start.model_address,
        template: start.template,
        goes_on,
        spent,
    }
}

/// The agent's files cannot be written.
fn unprepared(error: &std::io::Error) -> Failure {
    Failure::new(
        "sandbox.workspace",
        format!("what the agent needs cannot be written: {error}"),
        "The sandbox's volume and home must be writable for its user and have free space.",
    )
}

/// A program that is not there, or may not be started.
fn not_started(program: &str, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            "agent.not_found",
            format!("there is no program {program:?} in the sandbox"),
            "Use an image that has the agent in its PATH (`fabrica image build` makes one), or correct `agent` in the plan.",
        ),
        std::io::ErrorKind::PermissionDenied => Failure::new(
            "agent.not_executable",
            format!("the program {program:?} may not be executed"),
            "Make it executable (`git update-index --chmod=+x` for a file of the repository), or name its interpreter in the plan's `agent`.",
        ),
        _ => Failure::new(
            "agent.not_started",
            format!("the program {program:?} cannot be started: {error}"),
            "The sandbox may be out of memory or processes, or the program is for another machine.",
        ),
    }
}
