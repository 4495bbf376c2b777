//! `fabrica say ID TEXT`: tells the agent of a session something.

use std::io;

use clap::Args;
use fabrica_cli::assembly::{DataArgs, DatabaseArgs, Directories, Environment, open_store};
use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::orchestrator::{NoteSubmission, Options, submit_note};
use fabrica_core::ports::store::Said;

use super::answer::user;
use super::show::find;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::Ui;

/// Tell the agent of a session something; a session that has ended goes on with it
#[derive(Debug, Clone, Args)]
pub(crate) struct SayArgs {
    /// Its id, or as many of its first digits as tell it from others
    id: String,
    /// What to say; `-` reads it from stdin
    text: String,
    /// Who says it [default: the user's name]
    #[arg(long = "as", value_name = "NAME", env = "FABRICA_ANSWER_AS")]
    name: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &SayArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let store = open_store(&args.database, &directories).await?;
    let session = find(&store, &args.id).await?;
    let text = match args.text.as_str() {
        "-" => io::read_to_string(io::stdin()).map_err(|error| {
            Problem::new(
                Exit::Usage,
                "note.unreadable",
                format!("the note cannot be read: {error}"),
            )
            .hint("give it as an argument, or as UTF-8 text on stdin with `-`")
        })?,
        text => text.to_owned(),
    };
    let note = NoteSubmission {
        session: session.id,
        text,
        by: args.name.clone().unwrap_or_else(user),
    };
    let ids = IdSource::new(&SystemClock, &SystemEntropy);
    let short = session.id.short();
    match submit_note(&*store, ids, Options::ATTEMPTS, note).await? {
        Said::Queued(_) => ui.say(&format!("the agent of session {short} hears it at its next turn")),
        Said::Continued(_) => {
            ui.say(&format!("session {short} goes on with it"));
            ui.say(&format!(
                "hint: a service on this database works on it; without one, `fabrica resume {short}` does"
            ));
        }
    }
    Ok(Exit::Success)
}
