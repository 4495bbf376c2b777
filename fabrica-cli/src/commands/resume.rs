//! `fabrica resume ID`: goes on with a session whose process ended.

use clap::Args;
use fabrica_cli::assembly::{Assembly, AssemblyArgs, Environment, Role, Settings, assemble};

use super::run::{Drive, Driven, Interrupts, check_limits, conclude, interrupted};
use super::show::find;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::Ui;

/// Go on with a session whose process has ended; its sandbox may have worked on meanwhile
#[derive(Debug, Clone, Args)]
pub(crate) struct ResumeArgs {
    /// Its id, or as many of its first digits as tell it from others
    id: String,
    /// Print every update as a line of JSON, and a last one with the result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    assembly: AssemblyArgs,
}

pub(crate) async fn run(args: ResumeArgs, ui: Ui) -> Result<Exit, Problem> {
    match resume(&args, ui).await {
        Ok(driven) => Ok(conclude(&driven, ui, args.json)),
        Err(problem) => {
            if args.json {
                ui.data(&problem.json().to_string());
            }
            Err(problem)
        }
    }
}

async fn resume(args: &ResumeArgs, ui: Ui) -> Result<Driven, Problem> {
    let settings = Settings::resolve(&args.assembly, &Environment::of_process(), Role::Cli)?;
    let mut interrupts = Interrupts::new();
    let assembly = tokio::select! {
        assembly = assemble(&settings) => assembly?,
        () = interrupts.next() => return Err(interrupted()),
    };
    let driven = match check_limits(&assembly, &settings) {
        Ok(()) => drive(args, &assembly, ui, &mut interrupts).await,
        Err(problem) => Err(problem),
    };
    assembly.shutdown().await;
    driven
}

async fn drive(
    args: &ResumeArgs,
    assembly: &Assembly,
    ui: Ui,
    interrupts: &mut Interrupts,
) -> Result<Driven, Problem> {
    let session = find(&assembly.store, &args.id).await?;
    if session.status.is_terminal() {
        let message = format!("session {} is {} already", session.id, session.status);
        let hint = format!("`fabrica show {}` tells what came of it", session.id.short());
        return Err(Problem::new(Exit::Usage, "session.ended", message).hint(hint));
    }
    Drive {
        assembly,
        ui,
        json: args.json,
    }
    .follow(session.id, interrupts)
    .await
}
