//! Who does the work.

mod claude;
mod command;
mod entry;
mod failure;
mod stream;

use fabrica_core::failure::Failure;
use fabrica_core::plan::Agent;
use fabrica_core::protocol::Job;

use crate::commands::Commands;
use crate::environment::Environment;

pub(crate) use claude::Claude;

/// Lets the agent work, and returns its closing words.
pub(crate) async fn work(
    commands: &Commands,
    environment: &Environment,
    job: &Job,
    model_address: &str,
) -> Result<String, Failure> {
    match &job.agent {
        Agent::Claude => {
            commands
                .reporter
                .progress("agent", "The agent starts to work")
                .await;
            Claude {
                commands,
                environment,
                job,
                model_address,
            }
            .work()
            .await
        }
        Agent::Command(argv) => command::work(commands, argv).await,
    }
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
