//! `fabrica transcript ID`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use fabrica_cli::assembly::{DataArgs, DatabaseArgs, Directories, Environment, open_store};
use fabrica_cli::redact::Redactor;
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{Notice, StoreError, StoredTranscript};
use fabrica_core::session::{Session, SessionStatus};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::show::find;
use crate::exit::Exit;
use crate::json;
use crate::problem::Problem;
use crate::render::transcript::{Line, Teller};
use crate::ui::Ui;

/// How many entries are in memory at once; one may have 256 KiB.
const PAGE: u32 = 100;
/// The transcript has no notices of its own; this is how long a person waits for an entry at most.
const POLL: Duration = Duration::from_millis(500);

/// Read what the agent of a session said and did, turn by turn
#[derive(Debug, Clone, Args)]
pub(crate) struct TranscriptArgs {
    /// Its id, or as many of its first digits as tell it from others
    id: String,
    /// Go on until the session ends
    #[arg(short, long)]
    follow: bool,
    /// Whole calls of tools, whole results, all output
    #[arg(long, conflicts_with = "json")]
    full: bool,
    /// Print JSON: one object a line, one for each entry
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &TranscriptArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let store = open_store(&args.database, &directories).await?;
    let session = find(&store, &args.id).await?;
    let teller = (!args.json).then(|| Teller::new(session.created_at, args.full));
    let mut reader = Reader {
        store,
        session,
        cursor: 0,
        redactor: Redactor::default(),
        teller,
        ui,
    };
    if args.follow {
        reader.follow().await?;
    } else {
        reader.read().await?;
        reader.end();
    }
    if reader.cursor == 0 {
        let short = reader.session.id.short();
        ui.say(&match reader.session.status {
            status if status.is_terminal() => {
                format!("session {short} has no transcript, or it was removed when its time was over")
            }
            status => format!("session {short} is {status} and has no transcript yet"),
        });
    }
    Ok(Exit::Success)
}

/// Reads a transcript from its cursor on, and tells it.
struct Reader {
    store: Arc<dyn Store>,
    session: Session,
    cursor: u64,
    redactor: Redactor,
    /// What makes lines for people of it; without it, they are for programs.
    teller: Option<Teller>,
    ui: Ui,
}

impl Reader {
    /// Reads until nothing is left.
    async fn read(&mut self) -> Result<(), Problem> {
        loop {
            let page = self.store.transcript(self.session.id, self.cursor, PAGE).await?;
            let full = page.len() == PAGE as usize;
            for entry in page {
                self.cursor = entry.sequence;
                self.tell(entry);
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Reads until the session has ended.
    async fn follow(&mut self) -> Result<(), Problem> {
        // Listen before looking, so that nothing falls in between.
        let mut notices = self.store.subscribe().await?;
        let mut waits = false;
        let short = self.session.id.short();
        loop {
            // The session is read first: whatever its last status says is in the transcript that follows.
            let id = self.session.id;
            let session = self.store.session(id).await?;
            self.session = session.ok_or(StoreError::NoSuchSession(id))?;
            self.read().await?;
            let status = self.session.status;
            if status.is_terminal() {
                self.end();
                self.ui.say(&format!("session {short} is {status}"));
                return Ok(());
            }
            let waited = waits;
            waits = status == SessionStatus::Escalated;
            if waits && !waited {
                self.end();
                self.ui.say(&format!(
                    "session {short} waits for a person; `fabrica answer {short}` shows the question and takes the answer"
                ));
            }
            self.wait(&mut notices).await;
        }
    }

    async fn wait(&self, notices: &mut BoxStream<'static, Notice>) {
        let relevant = async {
            loop {
                match notices.next().await {
                    Some(Notice::Message { session, .. }) if session == self.session.id => return,
                    Some(Notice::Missed) => return,
                    Some(_) => {}
                    // Without notices the poll below is what is left.
                    None => std::future::pending().await,
                }
            }
        };
        // Whichever comes first: then everything is read from the cursor.
        let _ = tokio::time::timeout(POLL, relevant).await;
    }

    fn tell(&mut self, row: StoredTranscript) {
        let row = StoredTranscript {
            entry: self.redactor.entry(row.entry),
            ..row
        };
        match &mut self.teller {
            Some(teller) => {
                let lines = teller.take(&row);
                self.show(&lines);
            }
            None => self.ui.data(&harmless(&json::transcript(&row).to_string())),
        }
    }

    /// Tells what was folded: nothing more comes for now.
    fn end(&mut self) {
        if let Some(teller) = &mut self.teller {
            let lines = teller.finish();
            self.show(&lines);
        }
    }

    fn show(&self, lines: &[Line]) {
        let line = |line: &Line| match line.style {
            Some(style) if self.ui.stdout_is_terminal => self.ui.styled(style, &line.text) + "\n",
            _ => line.text.clone() + "\n",
        };
        self.ui.raw(&lines.iter().map(line).collect::<String>());
    }
}

/// JSON with every control character escaped: JSON itself lets DEL and those beyond ASCII stand, which terminals obey.
fn harmless(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_control() {
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning_and_holds_no_control_character() {
        let said = "\u{9b}2J \u{7f} \u{1b}[2J \n ü 🦀 \\u";
        let line = harmless(&serde_json::json!({ "said": said }).to_string());
        assert!(!line.contains(char::is_control), "{line:?}");
        let again: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(again["said"], said);
    }
}
