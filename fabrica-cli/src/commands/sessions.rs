//! `fabrica sessions`

use clap::Args;
use fabrica_cli::assembly::{DataArgs, DatabaseArgs, Directories, Environment, open_store};
use fabrica_core::clock::{Clock as _, SystemClock};
use fabrica_core::ports::store::SessionFilter;
use fabrica_core::session::SessionStatus;
use serde_json::Value;

use crate::exit::Exit;
use crate::json;
use crate::problem::Problem;
use crate::render::session::table;
use crate::ui::Ui;

/// List sessions, newest first
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionsArgs {
    /// Only those in this status: pending, running, escalated, completed, failed or cancelled; repeatable
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<SessionStatus>,
    /// How many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print JSON: one array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &SessionsArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let store = open_store(&args.database, &directories).await?;
    let filter = SessionFilter {
        statuses: args.status.clone(),
        ..SessionFilter::default()
    };
    let sessions = store.sessions(&filter, args.limit).await?;
    if args.json {
        ui.data(&sessions.iter().map(json::session).collect::<Value>().to_string());
    } else if sessions.is_empty() {
        ui.say("no sessions; `fabrica run PLAN` makes one");
    } else {
        ui.data(&table(&sessions, SystemClock.now()));
    }
    Ok(Exit::Success)
}
