//! `fabrica completions SHELL`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::ui::Ui;

/// Print a completion script, for example for `~/.local/share/bash-completion/completions/fabrica`
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, ui: Ui) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fabrica", &mut script);
    ui.raw(&String::from_utf8_lossy(&script));
    Exit::Success
}
