//! The fabrica command: runs a plan on this machine, shows sessions, builds the image, checks the machine.

mod cli;
mod commands;
mod exit;
mod image;
mod json;
mod problem;
mod render;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let ui = ui::Ui::of_process(cli.global.plain);
    cli::init_tracing(cli.global.verbose, ui.rich);
    let code = match cli.run(ui).await {
        Ok(exit) => exit,
        Err(problem) => {
            ui.problem(&problem);
            problem.exit
        }
    };
    ExitCode::from(code.code())
}
