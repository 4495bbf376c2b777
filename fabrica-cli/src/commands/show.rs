//! `fabrica show ID`

use std::sync::Arc;

use clap::Args;
use fabrica_cli::assembly::{DataArgs, DatabaseArgs, Directories, Environment, open_store};
use fabrica_cli::redact::Redactor;
use fabrica_core::ids::SessionId;
use fabrica_core::message::{Message, MessageKind};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{SessionFilter, StoredTranscript};
use fabrica_core::session::{Session, SessionStatus};
use serde_json::Value;

use crate::exit::Exit;
use crate::json;
use crate::problem::Problem;
use crate::render::report::failure_problem;
use crate::render::session::{message, page, question, transcript};
use crate::ui::Ui;
use crate::ui::text::sanitize_lines;

const PAGE: u32 = 500;

/// Show a session
#[derive(Debug, Clone, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct ShowArgs {
    /// Its id, or as many of its first digits as tell it from others
    id: String,
    /// Print JSON: one object
    #[arg(long)]
    json: bool,
    /// Its messages, too
    #[arg(long)]
    messages: bool,
    /// What the agent said and did, too
    #[arg(long)]
    transcript: bool,
    /// Its plan only, byte for byte
    #[arg(long, conflicts_with_all = ["messages", "transcript", "json"])]
    plan: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &ShowArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let store = open_store(&args.database, &directories).await?;
    let session = find(&store, &args.id).await?;
    if args.plan {
        let plan = store.specs(session.id).await?.pop();
        let plan = plan.map(|spec| spec.content).unwrap_or_default();
        // A file gets the bytes; a terminal gets nothing that it would obey.
        let shown = if ui.stdout_is_terminal {
            sanitize_lines(&plan) + "\n"
        } else {
            plan
        };
        ui.raw(&shown);
        return Ok(Exit::Success);
    }
    let messages = all_messages(&store, session.id).await?;
    let entries = if args.transcript {
        all_entries(&store, session.id).await?
    } else {
        Vec::new()
    };
    if args.json {
        let mut object = json::session(&session);
        let messages = args
            .messages
            .then(|| messages.iter().map(json::message).collect());
        let entries = args
            .transcript
            .then(|| entries.iter().map(json::transcript).collect());
        object["messages"] = messages.unwrap_or(Value::Null);
        object["transcript"] = entries.unwrap_or(Value::Null);
        ui.data(&object.to_string());
        return Ok(Exit::Success);
    }
    ui.data(&page(&session));
    let asked = if session.status == SessionStatus::Escalated {
        store.questions(session.id).await?.pop()
    } else {
        None
    };
    if let Some(asked) = asked {
        ui.data(&format!("\n{}", question(&asked)));
        ui.say(&format!(
            "hint: `fabrica answer {}` answers it",
            session.id.short()
        ));
    }
    if args.messages {
        ui.data("\nmessages");
        for row in &messages {
            ui.data(&message(row, session.created_at));
        }
    }
    if args.transcript {
        ui.data("\ntranscript");
        for row in &entries {
            ui.data(&transcript(row, session.created_at));
        }
    }
    let error = messages
        .iter()
        .rfind(|message| message.kind == MessageKind::Error);
    if let Some(error) = error.filter(|_| session.status == SessionStatus::Failed) {
        ui.problem(&failure_problem(error));
    }
    Ok(Exit::Success)
}

/// The session with that id, or the only one whose id begins so.
pub(crate) async fn find(store: &Arc<dyn Store>, id: &str) -> Result<Session, Problem> {
    let unknown = || {
        Problem::new(
            Exit::Usage,
            "session.not_found",
            format!(
                "there is no session {:?}",
                id.chars().take(64).collect::<String>()
            ),
        )
        .hint("`fabrica sessions` lists them")
    };
    if let Ok(id) = id.parse::<SessionId>() {
        return store.session(id).await?.ok_or_else(unknown);
    }
    let prefix = id.to_ascii_lowercase();
    if prefix.is_empty() || !prefix.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Err(unknown());
    }
    let mut found: Vec<Session> = Vec::new();
    let mut filter = SessionFilter::default();
    loop {
        let page = store.sessions(&filter, PAGE).await?;
        filter.before = page.last().map(|session| session.id);
        let full = page.len() == PAGE as usize;
        found.extend(
            page.into_iter()
                .filter(|session| session.id.to_string().starts_with(&prefix)),
        );
        if found.len() > 1 {
            let message = format!("{prefix} is the beginning of {} and {}", found[0].id, found[1].id);
            return Err(Problem::new(Exit::Usage, "session.ambiguous", message).hint("give more digits"));
        }
        if !full {
            return found.pop().ok_or_else(unknown);
        }
    }
}

async fn all_messages(store: &Arc<dyn Store>, session: SessionId) -> Result<Vec<Message>, Problem> {
    let mut all: Vec<Message> = Vec::new();
    loop {
        let after = all.last().map_or(0, |message| message.sequence);
        let page = store.messages(session, after, PAGE).await?;
        let full = page.len() == PAGE as usize;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

async fn all_entries(store: &Arc<dyn Store>, session: SessionId) -> Result<Vec<StoredTranscript>, Problem> {
    let mut all: Vec<StoredTranscript> = Vec::new();
    let mut redactor = Redactor::default();
    loop {
        let after = all.last().map_or(0, |entry| entry.sequence);
        let page = store.transcript(session, after, PAGE).await?;
        let full = page.len() == PAGE as usize;
        all.extend(page.into_iter().map(|entry| StoredTranscript {
            entry: redactor.entry(entry.entry),
            ..entry
        }));
        if !full {
            return Ok(all);
        }
    }
}
