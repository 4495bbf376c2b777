//! `fabrica demo`: everything real but the model, the forge and the repository's host.

mod stage;

use clap::Args;
use fabrica_cli::assembly::{
    Assembly, DataArgs, Engine, RuntimeArgs, SandboxArgs, WorkerArgs, assemble_on, connect_engine, secret,
};
use fabrica_cli::rehearsal::{PullRequest, Rehearsal, RehearsalOptions, scripts};
use fabrica_core::clock::SystemEntropy;
use fabrica_core::orchestrator::Submission;
use fabrica_core::protocol::WORKSPACE;
use fabrica_core::secrets::new_token;
use fabrica_core::session::SessionStatus;
use secrecy::SecretString;

use self::stage::Secrets;
use super::doctor::unenforced;
use super::run::{Drive, Interrupts, conclude, interrupted};
use crate::exit::Exit;
use crate::image::{DEFAULT_BASE, ImageRequest, Made, Narrator, make};
use crate::problem::Problem;
use crate::render::diff;
use crate::ui::text::{sanitize, sanitize_lines};
use crate::ui::{Style, Ui};

const BEFORE: &str = "\
This is a demonstration: the MODEL IS SCRIPTED, and the forge and the git server are stand-ins on this machine.
The Claude Code CLI, the container that it works in, the gateway, the database and git are real. It needs no key and
costs nothing; the dollars that it shows are what a real model would have cost. The stand-in forge ends with it.";

const AFTER: &str = "\
The model was scripted. To run a plan of your own with a real one:

  export ANTHROPIC_API_KEY=…        # your key; it never enters a sandbox
  export GITHUB_TOKEN=…             # may read the repository and write pull requests
  fabrica run plan.md

where plan.md is

  ---
  repo: https://github.com/you/your-repository.git
  verify: [\"make test\"]
  ---
  # What is to be done
  …in any markdown…";

/// See it work: from a plan to a pull request with a scripted model, without a key
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Keep the session in this database instead of a temporary one
    #[arg(long, value_name = "URL", value_parser = secret)]
    database: Option<SecretString>,
    /// Fail if the image is missing, instead of building it
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    worker: WorkerArgs,
}

pub(crate) async fn run(mut args: DemoArgs, ui: Ui) -> Result<Exit, Problem> {
    ui.say(BEFORE);
    ui.say("");
    let mut interrupts = Interrupts::new();
    let engine = tokio::select! {
        engine = connect_engine(args.runtime.runtime) => engine?,
        () = interrupts.next() => return Err(interrupted()),
    };
    let missing = unenforced(&engine.capabilities);
    if !missing.is_empty() && !args.sandbox.allow_unenforced_limits {
        args.sandbox.allow_unenforced_limits = true;
        let text = format!(
            "{} does not enforce limits of {} here",
            engine.capabilities.engine,
            missing.join(", ")
        );
        ui.say(&format!(
            "{} {text}; the demonstration goes on without them",
            ui.styled(Style::Yellow, "warning:")
        ));
    }
    let prepared = tokio::select! {
        prepared = ensure_image(&args, &engine, ui) => prepared,
        () = interrupts.next() => Err(Problem::new(Exit::Cancelled, "demo.interrupted", "interrupted")),
    };
    if let Err(problem) = prepared {
        engine.shutdown().await;
        return Err(problem);
    }
    play(&args, engine, ui, &mut interrupts).await
}

async fn ensure_image(args: &DemoArgs, engine: &Engine, ui: Ui) -> Result<(), Problem> {
    let tag = &args.sandbox.image;
    if engine.runtime.image(tag).await?.is_some() {
        return Ok(());
    }
    let build = "`fabrica image build` makes it";
    if args.no_build {
        let message = format!("image {tag} is not there");
        return Err(Problem::new(Exit::CONFIGURATION, "image.missing", message).hint(build));
    }
    ui.say(&format!(
        "image {tag} is not there; building it as `fabrica image build` does, which takes some minutes"
    ));
    let request = ImageRequest {
        base: DEFAULT_BASE.into(),
        tag: tag.clone(),
        claude: None,
        certificates: Vec::new(),
        if_missing: false,
    };
    let narrator = Narrator::new(ui);
    let directories = stage::directories(&args.data);
    let made: Made = make(&request, &engine.runtime, &directories, &narrator).await?;
    drop(narrator);
    ui.say(&format!(
        "image {tag} is built ({} MB)",
        made.info().size / 1_000_000
    ));
    ui.say("");
    Ok(())
}

/// Sets the stage, runs the session, and takes everything down again.
async fn play(args: &DemoArgs, engine: Engine, ui: Ui, interrupts: &mut Interrupts) -> Result<Exit, Problem> {
    let directory = match tempfile::Builder::new().prefix("fabrica-demo-").tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            engine.shutdown().await;
            return Err(Problem::new(
                Exit::Failure,
                "directory.unusable",
                format!("cannot make a directory: {error}"),
            ));
        }
    };
    let secrets = Secrets {
        model_key: new_token(&SystemEntropy, "demo-model"),
        forge_token: new_token(&SystemEntropy, "demo-forge"),
    };
    let script = scripts::sample_job(&format!("{WORKSPACE}/repository"));
    let options = RehearsalOptions::new(directory.path().join("repositories"), script)
        .model_key(secrets.model_key.clone())
        .forge_token(secrets.forge_token.clone());
    let rehearsal = match Rehearsal::start(options).await {
        Ok(rehearsal) => rehearsal,
        Err(error) => {
            engine.shutdown().await;
            return Err(error.into());
        }
    };
    let exit = match stage::settings(args, &rehearsal, &secrets, directory.path()) {
        Ok(settings) => match assemble_on(&settings, engine).await {
            Ok(assembly) => {
                let exit = perform(&assembly, &rehearsal, ui, interrupts).await;
                assembly.shutdown().await;
                exit
            }
            Err(error) => Err(error.into()),
        },
        Err(problem) => {
            engine.shutdown().await;
            Err(problem)
        }
    };
    rehearsal.shutdown().await;
    exit
}

async fn perform(
    assembly: &Assembly,
    rehearsal: &Rehearsal,
    ui: Ui,
    interrupts: &mut Interrupts,
) -> Result<Exit, Problem> {
    let plan = scripts::sample_plan(&rehearsal.repository_url());
    ui.say(&ui.styled(Style::Bold, "The plan"));
    plan.lines()
        .for_each(|line| ui.say(&format!("  {}", sanitize_lines(line))));
    ui.say("");
    let engine = &assembly.capabilities;
    ui.say(&format!(
        "sandbox: a container of {} {} without network",
        engine.engine, engine.version
    ));
    let drive = Drive {
        assembly,
        ui,
        json: false,
    };
    let driven = drive.run(Submission::new(plan), interrupts).await?;
    let exit = conclude(&driven, ui, false);
    if driven.status != SessionStatus::Completed {
        return Ok(exit);
    }
    let Some(request) = rehearsal.pull_requests().pop() else {
        return Err(Problem::new(
            Exit::Failure,
            "demo.no_pull_request",
            "the forge has no pull request",
        ));
    };
    let diff = rehearsal.sample().diff(&request.head).await?;
    tell_pull_request(&request, &diff, ui);
    ui.say("");
    ui.say(AFTER);
    Ok(exit)
}

fn tell_pull_request(request: &PullRequest, diff: &str, ui: Ui) {
    ui.say("");
    ui.say(&ui.styled(Style::Bold, "The pull request, as the forge has it"));
    ui.data(&format!(
        "\n#{} {} ({} into {})\n",
        request.number,
        sanitize(&request.title),
        sanitize(&request.head),
        sanitize(&request.base)
    ));
    sanitize_lines(&request.body)
        .lines()
        .for_each(|line| ui.data(&format!("  {line}")));
    ui.data("");
    for line in diff::lines(diff, ui) {
        ui.data(&line);
    }
}
