//! Drives one session in this process, and tells what happens.

use std::time::Duration;

use fabrica_cli::assembly::Assembly;
use fabrica_cli::redact::Redactor;
use fabrica_core::ids::SessionId;
use fabrica_core::message::MessageKind;
use fabrica_core::orchestrator::{AnswerSubmission, SessionUpdate, Shutdown, Submission};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::StoredTranscript;
use fabrica_core::session::SessionStatus;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::super::answer;
use super::interrupt::Interrupts;
use crate::exit::Exit;
use crate::json;
use crate::problem::Problem;
use crate::render::report::{Line, Report};
use crate::ui::text::sanitize;
use crate::ui::{Live, Style, Ui};

/// How long the last updates may take after the work has ended.
const LAST_UPDATES: Duration = Duration::from_secs(2);
/// How long an interrupted end may take.
const LAST_WORK: Duration = Duration::from_secs(30);

/// What a session is driven with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drive<'a> {
    pub(crate) assembly: &'a Assembly,
    pub(crate) ui: Ui,
    pub(crate) json: bool,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) session: SessionId,
    pub(crate) status: SessionStatus,
    pub(crate) report: Report,
    took: Duration,
    seen: Seen,
}

/// How far a session has been shown.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    messages: u64,
    transcript: u64,
}

impl Seen {
    /// Whether it is new; then it counts as seen.
    fn takes(&mut self, update: &SessionUpdate) -> bool {
        let (last, sequence) = match update {
            SessionUpdate::Session(_) => return true,
            SessionUpdate::Message(message) => (&mut self.messages, message.sequence),
            SessionUpdate::Transcript(entry) => (&mut self.transcript, entry.sequence),
        };
        let new = sequence > *last;
        *last = sequence.max(*last);
        new
    }
}

type Updates = BoxStream<'static, Result<SessionUpdate, StoreError>>;

impl Drive<'_> {
    /// Submits a plan and works on it until it is settled.
    pub(crate) async fn run(
        self,
        submission: Submission,
        interrupts: &mut Interrupts,
    ) -> Result<Driven, Problem> {
        let session = self.assembly.orchestrator.submit(submission).await?.session();
        self.follow(session, interrupts).await
    }

    /// Works on a session until it is settled. Whenever its agent asks something, whoever sits at the terminal is asked.
    pub(crate) async fn follow(
        self,
        session: SessionId,
        interrupts: &mut Interrupts,
    ) -> Result<Driven, Problem> {
        if !self.json {
            self.ui
                .say(&self.ui.styled(Style::Bold, &format!("session {session}")));
        }
        let mut driven = self
            .follow_on(session, Report::default(), Seen::default(), interrupts)
            .await?;
        let mut took = driven.took;
        while driven.status == SessionStatus::Escalated
            && !self.json
            && self.answer(session, interrupts).await?
        {
            let (report, seen) = (driven.report, driven.seen);
            driven = self.follow_on(session, report, seen, interrupts).await?;
            took += driven.took;
        }
        driven.took = took;
        Ok(driven)
    }

    /// Asks the person at the terminal; whether there is an answer now.
    async fn answer(self, session: SessionId, interrupts: &mut Interrupts) -> Result<bool, Problem> {
        let store = self.assembly.orchestrator.store();
        let row = store.session(session).await?;
        let row = row.ok_or(StoreError::NoSuchSession(session))?;
        let open = answer::open_question(store, &row).await?;
        let ui = self.ui;
        // A thread of its own: one that waits for a person must keep neither the signals nor the end of the process waiting.
        let (asked, (give, given)) = (open.clone(), oneshot::channel());
        std::thread::spawn(move || give.send(answer::ask(&asked, ui)));
        let answered = tokio::select! {
            given = given => given,
            () = interrupts.next() => return Ok(false),
        };
        // Without a thread there is no answer.
        let Some(text) = answered.unwrap_or(Ok(None))? else {
            return Ok(false);
        };
        let submission = AnswerSubmission {
            session,
            question: Some(open.id),
            text,
            by: answer::user(),
            plan: None,
            directory: None,
        };
        self.assembly.orchestrator.answer(submission).await?;
        Ok(true)
    }

    async fn follow_on(
        self,
        session: SessionId,
        report: Report,
        seen: Seen,
        interrupts: &mut Interrupts,
    ) -> Result<Driven, Problem> {
        let begun = Instant::now();
        let orchestrator = &self.assembly.orchestrator;
        let shutdown = Shutdown::default();
        let updates = orchestrator.watch(session).await?;
        let work = {
            let (orchestrator, shutdown) = (orchestrator.clone(), shutdown.clone());
            tokio::spawn(async move { orchestrator.run_session(session, shutdown).await })
        };
        let following = Following {
            drive: self,
            session,
            shutdown,
            live: (!self.json).then(|| Live::new(self.ui)),
            report,
            seen,
            redactor: Redactor::default(),
            begun,
            interrupted: 0,
        };
        following.until_settled(updates, work, interrupts).await
    }
}

/// A session while it runs here.
struct Following<'a> {
    drive: Drive<'a>,
    session: SessionId,
    shutdown: Shutdown,
    live: Option<Live>,
    report: Report,
    seen: Seen,
    redactor: Redactor,
    begun: Instant,
    interrupted: u32,
}

impl Following<'_> {
    async fn until_settled(
        mut self,
        mut updates: Updates,
        work: JoinHandle<Result<SessionStatus, StoreError>>,
        interrupts: &mut Interrupts,
    ) -> Result<Driven, Problem> {
        let mut work = work.fuse();
        let mut worked = None;
        let mut following = true;
        let mut tick = interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        while following || worked.is_none() {
            let patience = deadline.unwrap_or_else(|| Instant::now() + Duration::from_hours(24));
            tokio::select! {
                biased;
                update = updates.next(), if following => match update {
                    Some(Ok(update)) => self.show(update),
                    Some(Err(error)) => self.warn(&format!("progress cannot be shown any more: {error}")),
                    None => following = false,
                },
                ended = &mut work, if worked.is_none() => {
                    worked = Some(ended);
                    deadline = Some(Instant::now() + LAST_UPDATES);
                }
                () = interrupts.next() => {
                    self.interrupt().await;
                    if self.interrupted > 1 {
                        deadline.get_or_insert(Instant::now() + LAST_WORK);
                    }
                }
                _ = tick.tick() => self.tell_status(),
                () = sleep_until(patience), if deadline.is_some() => break,
            }
            if self.interrupted > 2 {
                break;
            }
        }
        let status = match worked {
            Some(Ok(Ok(status))) => status,
            Some(Ok(Err(error))) => return Err(error.into()),
            Some(Err(error)) => {
                let message = format!("the worker ended badly: {error}");
                return Err(Problem::new(Exit::Failure, "worker.died", message));
            }
            // Given up on: whoever claims the session next finds what is stored.
            None => SessionStatus::Running,
        };
        Ok(Driven {
            session: self.session,
            status,
            report: self.report,
            took: self.begun.elapsed(),
            seen: self.seen,
        })
    }

    fn show(&mut self, update: SessionUpdate) {
        if !self.seen.takes(&update) {
            return;
        }
        let update = match update {
            SessionUpdate::Transcript(entry) => SessionUpdate::Transcript(StoredTranscript {
                entry: self.redactor.entry(entry.entry),
                ..entry
            }),
            other => other,
        };
        let update = &update;
        if self.drive.json {
            self.drive.ui.data(&json::update(update).to_string());
        }
        let line = self.report.take(update);
        let Some(display) = &self.live else { return };
        match line {
            Some(Line::Message(kind, text)) => {
                let style = match kind {
                    MessageKind::Progress => None,
                    MessageKind::Completion => Some(Style::Green),
                    MessageKind::Escalation => Some(Style::Yellow),
                    MessageKind::Error => Some(Style::Red),
                };
                display.line(&style.map_or_else(|| text.clone(), |style| display.styled(style, &text)));
            }
            // A terminal shows it in the line at the bottom.
            Some(Line::Agent(text)) if !display.is_rich() => display.line(&text),
            Some(Line::Agent(_)) | None => {}
        }
        self.tell_status();
    }

    fn tell_status(&self) {
        if let Some(live) = &self.live {
            live.status(&self.report.status(self.begun.elapsed()));
        }
    }

    fn warn(&self, text: &str) {
        let text = format!(
            "{} {}",
            self.drive.ui.styled(Style::Yellow, "warning:"),
            sanitize(text)
        );
        match &self.live {
            Some(live) => live.line(&text),
            None => self.drive.ui.say(&text),
        }
    }

    /// The first one cancels, the second one does not wait for the sandbox, the third one waits for nothing.
    async fn interrupt(&mut self) {
        self.interrupted += 1;
        match self.interrupted {
            1 => {
                self.warn("cancelling; what was committed is pushed. Once more ends at once");
                if let Err(error) = self.drive.assembly.orchestrator.cancel(self.session).await {
                    self.warn(&format!("the cancellation could not be stored: {error}"));
                    self.shutdown.abort.cancel();
                }
            }
            2 => {
                self.warn("ending at once");
                self.shutdown.abort.cancel();
            }
            _ => self.warn("giving up; a container may be left"),
        }
    }
}

/// Tells how it ended: the result on stdout, the rest on stderr.
pub(crate) fn conclude(driven: &Driven, ui: Ui, json: bool) -> Exit {
    let exit = Exit::of_session(driven.status);
    let problem = driven
        .report
        .problem()
        .filter(|_| driven.status == SessionStatus::Failed);
    let result = driven
        .report
        .result()
        .filter(|_| driven.status == SessionStatus::Completed);
    if json {
        let row = driven.report.session();
        let line = json!({
            "type": "result",
            "sessionId": driven.session.to_string(),
            "status": driven.status.as_str(),
            "exitCode": exit.code(),
            "result": result,
            "session": row.map(json::session),
            "problem": problem.as_ref().map(Problem::json),
            "elapsedSeconds": driven.took.as_secs_f64(),
        });
        ui.data(&line.to_string());
        return exit;
    }
    let style = if exit == Exit::Success {
        Style::Green
    } else {
        Style::Yellow
    };
    ui.say(&ui.styled(style, &driven.report.summary(driven.status, driven.took)));
    if let Some(problem) = problem {
        ui.problem(&problem);
    }
    if exit == Exit::Escalated {
        ui.say(&format!(
            "hint: `fabrica answer {id}` shows the question and takes the answer; then `fabrica resume {id}` goes on",
            id = driven.session.short()
        ));
    }
    if exit == Exit::Failure && driven.report.agent_worked {
        ui.say(&format!(
            "hint: `fabrica show {} --transcript` tells what the agent did",
            driven.session.short()
        ));
    }
    if let Some(result) = result {
        ui.data(&sanitize(&result));
    }
    exit
}
