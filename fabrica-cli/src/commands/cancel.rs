//! `fabrica cancel ID`

use clap::Args;
use fabrica_cli::assembly::{DataArgs, DatabaseArgs, Directories, Environment, open_store};
use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::orchestrator::request_cancel;
use fabrica_core::ports::store::CancelOutcome;

use super::show::find;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::Ui;

/// Cancel a session, wherever it runs; what its agent committed is pushed
#[derive(Debug, Clone, Args)]
pub(crate) struct CancelArgs {
    /// Its id, or as many of its first digits as tell it from others
    id: String,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &CancelArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let store = open_store(&args.database, &directories).await?;
    let session = find(&store, &args.id).await?.id;
    let ids = IdSource::new(&SystemClock, &SystemEntropy);
    let short = session.short();
    match request_cancel(&*store, ids, session).await? {
        CancelOutcome::Cancelled => ui.say(&format!("session {short} is cancelled; it had not begun")),
        CancelOutcome::Requested => {
            ui.say(&format!(
                "session {short} is being cancelled by the process that runs it"
            ));
            ui.say(&format!(
                "hint: if that process has ended, `fabrica resume {short}` brings the session to its end"
            ));
        }
        CancelOutcome::AlreadyTerminal(status) => ui.say(&format!("session {short} is {status} already")),
    }
    Ok(Exit::Success)
}
