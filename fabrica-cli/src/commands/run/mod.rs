//! `fabrica run PLAN`: submits, works and publishes in one process.

mod drive;
mod interrupt;
mod plan_file;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fabrica_cli::assembly::{Assembly, AssemblyArgs, Environment, Role, Settings, assemble};
use fabrica_core::orchestrator::Submission;
use fabrica_core::plan::{Agent, Plan};
use fabrica_core::ports::RuntimeError;

pub(crate) use drive::{Drive, Driven, conclude};
pub(crate) use interrupt::{Interrupts, interrupted};
pub(crate) use plan_file::PlanFile;

use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::Ui;

const EXIT_CODES: &str = "\
Output:
  stdout has the result only: the pull request's address, or the branch where there is no forge.
  stderr tells what happens. Ctrl-C once cancels, and pushes what was committed; twice ends at once.

Exit codes:
  0   the session completed
  1   the session failed
  2   the command line or the plan is wrong
  3   the session was cancelled
  4   the session waits for an answer
  69  the container engine or the database is not available
  78  something is not set up: the runner, the model's key, an enforceable limit

Secrets come from the environment: ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, GITHUB_TOKEN, FABRICA_FORGE_TOKEN,
FABRICA_FORGE_TOKEN_<HOST>; or from files, see --model-key-file and --forge-token-file.";

/// How long a session waits for this process, which asks for it at once.
const HELD: Duration = Duration::from_mins(1);

/// Run a plan on this machine, from its submission to the pull request
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RunArgs {
    /// The plan: markdown with a frontmatter that names the repository; `-` reads it from stdin
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Print every update as a line of JSON, and a last one with the result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    assembly: AssemblyArgs,
}

pub(crate) async fn run(args: RunArgs, ui: Ui) -> Result<Exit, Problem> {
    let json = args.json;
    match submit_and_drive(args, ui).await {
        Err(problem) if json => {
            ui.data(&problem.json().to_string());
            Err(problem)
        }
        other => other,
    }
}

async fn submit_and_drive(args: RunArgs, ui: Ui) -> Result<Exit, Problem> {
    let settings = Settings::resolve(&args.assembly, &Environment::of_process(), Role::Cli)?;
    let file = PlanFile::read(&args.plan)?;
    let plan = Plan::parse(&file.text, &settings.repositories).map_err(|error| file.problem(error))?;
    check_credential(&settings, &plan)?;
    let mut interrupts = Interrupts::new();
    let assembly = tokio::select! {
        assembly = assemble(&settings) => assembly?,
        () = interrupts.next() => return Err(interrupted()),
    };
    let driven = match check_limits(&assembly, &settings) {
        Ok(()) => {
            let submission = Submission {
                submitter: std::env::var("USER").ok(),
                directory: file.directory.clone(),
                // A service on the same database has other settings; this session is for this process.
                held: HELD,
                ..Submission::new(file.text)
            };
            Drive {
                assembly: &assembly,
                ui,
                json: args.json,
            }
            .run(submission, &mut interrupts)
            .await
        }
        Err(problem) => Err(problem),
    };
    assembly.shutdown().await;
    Ok(conclude(&driven?, ui, args.json))
}

/// Without a key the agent could only fail, after all the work of starting it.
fn check_credential(settings: &Settings, plan: &Plan) -> Result<(), Problem> {
    if plan.agent != Agent::Claude || settings.has_model_credential() {
        return Ok(());
    }
    let hint = "set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN), or name a file with --model-key-file; \
                `fabrica demo` needs no key";
    Err(Problem::new(
        Exit::CONFIGURATION,
        "model.no_credential",
        "there is no key for the model",
    )
    .hint(hint))
}

/// A sandbox whose limits do not hold is refused before anything is stored.
pub(crate) fn check_limits(assembly: &Assembly, settings: &Settings) -> Result<(), Problem> {
    let missing = super::doctor::unenforced(&assembly.capabilities);
    if missing.is_empty() || settings.sandbox.allow_unenforced_limits {
        return Ok(());
    }
    let error = RuntimeError::Unsupported {
        engine: assembly.capabilities.engine.clone(),
        capability: format!("limits of {}", missing.join(", ")),
    };
    Err(Problem {
        exit: Exit::CONFIGURATION,
        ..error.into()
    })
}
