//! The command line.

use clap::{ArgAction, Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::run::{Interrupts, interrupted};
use crate::commands::{
    answer, cancel, completions, demo, doctor, image, resume, run, say, sessions, show, transcript,
};
use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::Ui;

/// Runs coding agents in sealed containers: a plan goes in, a pull request comes out.
#[derive(Debug, Parser)]
#[command(
    name = "fabrica",
    version,
    propagate_version = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Log to stderr what happens inside; twice for more (`RUST_LOG` goes first)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Plain lines instead of a live display; also `NO_COLOR`, or stderr that is no terminal
    #[arg(long, global = true)]
    pub(crate) plain: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Sessions(sessions::SessionsArgs),
    Show(show::ShowArgs),
    Transcript(transcript::TranscriptArgs),
    Answer(Box<answer::AnswerArgs>),
    Say(say::SayArgs),
    Cancel(cancel::CancelArgs),
    Resume(Box<resume::ResumeArgs>),
    Doctor(Box<doctor::DoctorArgs>),
    #[command(subcommand)]
    Image(image::ImageCommand),
    Demo(Box<demo::DemoArgs>),
    Completions(completions::CompletionsArgs),
}

impl Cli {
    pub(crate) async fn run(self, ui: Ui) -> Result<Exit, Problem> {
        match self.command {
            Command::Run(args) => run::run(*args, ui).await,
            Command::Sessions(args) => sessions::run(&args, ui).await,
            Command::Show(args) => show::run(&args, ui).await,
            Command::Transcript(args) => transcript::run(&args, ui).await,
            Command::Answer(args) => answer::run(&args, ui).await,
            Command::Say(args) => say::run(&args, ui).await,
            Command::Cancel(args) => cancel::run(&args, ui).await,
            Command::Resume(args) => resume::run(*args, ui).await,
            Command::Doctor(args) => unless_interrupted(doctor::run(&args, ui)).await,
            Command::Image(image::ImageCommand::Build(args)) => {
                unless_interrupted(image::run(&args, ui)).await
            }
            Command::Demo(args) => demo::run(*args, ui).await,
            Command::Completions(args) => Ok(completions::run(&args, ui)),
        }
    }
}

/// Ends a command on the first signal by dropping it: what it started and what it made for a while goes with it.
async fn unless_interrupted(command: impl Future<Output = Result<Exit, Problem>>) -> Result<Exit, Problem> {
    let mut interrupts = Interrupts::new();
    tokio::select! {
        ended = command => ended,
        () = interrupts.next() => Err(interrupted()),
    }
}

/// Logs go to stderr, and without being asked for there are none: errors reach the reader as errors.
pub(crate) fn init_tracing(verbose: u8, colours: bool) {
    let default = match verbose {
        0 => "off",
        1 => {
            "warn,fabrica=info,fabrica_cli=info,fabrica_core=info,fabrica_store=info,fabrica_runtime=info,fabrica_gateway=info"
        }
        _ => {
            "info,fabrica=debug,fabrica_cli=debug,fabrica_core=debug,fabrica_store=debug,fabrica_runtime=debug,fabrica_gateway=debug"
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_listed_with_a_line() {
        let help = Cli::command().render_help().to_string();
        insta::assert_snapshot!(help);
    }

    #[test]
    fn a_plan_is_needed_to_run_one() {
        let error = Cli::try_parse_from(["fabrica", "run"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn no_option_takes_a_key_or_a_token() {
        for command in Cli::command()
            .get_subcommands()
            .flat_map(|command| std::iter::once(command.clone()).chain(command.get_subcommands().cloned()))
        {
            for argument in command.get_arguments() {
                let name = argument.get_long().unwrap_or_default();
                let secret = (name.contains("key") || name.contains("token")) && !name.ends_with("-file");
                assert!(!secret, "--{name}");
            }
        }
    }
}
