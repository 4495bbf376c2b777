//! Takes what one attempt reports: every event becomes durable before it is acknowledged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use super::lease::Lease;
use super::spending::Spending;
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::gateway::{ModelRefusal, ModelUse, SessionSink, SinkError};
use crate::ports::store::{EventRecord, NewArtifact, Note, StoreError};
use crate::protocol::{Acknowledgement, Envelope, Instruction, RunnerEvent, Told};
use crate::session::SessionStatus;

/// The sink of one attempt.
#[derive(Debug)]
pub(super) struct AttemptSink {
    inner: Arc<Inner>,
    lease: Arc<Lease>,
    /// The last event of the attempt, once it is stored.
    terminal: watch::Sender<Option<RunnerEvent>>,
    /// Cancelled as soon as the store says that somebody asked for the session's end.
    cancel: CancellationToken,
    signs: Mutex<Signs>,
    hearing: Mutex<Hearing>,
    spending: Spending,
}

/// What people say to the agent: how far the runner knows it.
#[derive(Debug)]
struct Hearing {
    /// The number of the last note that the runner has.
    received: u32,
    /// When the store was asked for more.
    asked: Option<Instant>,
}

/// How often the store is asked what people have said.
const HEARING: Duration = Duration::from_secs(1);

/// When the sandbox was heard of last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// At all: its runner lives.
    pub(super) contact: Instant,
    /// With something to tell: its agent does something.
    pub(super) event: Instant,
}

impl AttemptSink {
    pub(super) fn new(
        inner: Arc<Inner>,
        lease: Arc<Lease>,
        cancel: CancellationToken,
        spending: Spending,
    ) -> (Arc<Self>, watch::Receiver<Option<RunnerEvent>>) {
        let (terminal, ended) = watch::channel(None);
        (
            Arc::new(Self {
                inner,
                lease,
                terminal,
                cancel,
                signs: Mutex::new(Signs {
                    contact: Instant::now(),
                    event: Instant::now(),
                }),
                // Should the runner know some of them, it says so at once.
                hearing: Mutex::new(Hearing {
                    received: 0,
                    asked: None,
                }),
                spending,
            }),
            ended,
        )
    }

    /// When the sandbox was heard of last.
    pub(super) fn signs(&self) -> Signs {
        *self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, events: bool) {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        signs.contact = Instant::now();
        if events {
            signs.event = signs.contact;
        }
    }

    /// What the runner does not know yet of what people have said. If it cannot be read now, it is with the next batch.
    async fn unheard(&self, events: &[RunnerEvent]) -> Vec<Instruction> {
        let after = {
            let mut hearing = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                if let RunnerEvent::Received { number } = event {
                    hearing.received = hearing.received.max(*number);
                }
            }
            if hearing.asked.is_some_and(|asked| asked.elapsed() < HEARING) {
                return Vec::new();
            }
            hearing.asked = Some(Instant::now());
            hearing.received
        };
        match self.inner.store.notes(self.lease.fence.session, after).await {
            Ok(notes) => notes
                .into_iter()
                .map(|note| Instruction::Say(told(note)))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "what people said cannot be read");
                Vec::new()
            }
        }
    }

    /// The runner must stop for good if its attempt is over. If only the lease has moved on, it shall come again: the
    /// attempt's new owner has put a socket of its own in place.
    async fn refused(&self, error: StoreError) -> SinkError {
        match error {
            StoreError::Fenced(fence) => {
                self.lease.lost.cancel();
                match self.inner.store.session_states(&[fence.session]).await {
                    Ok(states)
                        if states.iter().any(|state| {
                            state.status == SessionStatus::Running && state.attempt == fence.attempt
                        }) =>
                    {
                        SinkError::Unavailable("the session has another owner".into())
                    }
                    Ok(_) => SinkError::Fenced,
                    Err(error) => SinkError::Unavailable(Box::new(error)),
                }
            }
            StoreError::EventGap { expected, .. } => SinkError::Gap { expected },
            other => SinkError::Unavailable(Box::new(other)),
        }
    }

    fn record(&self, envelope: &Envelope) -> EventRecord {
        let mut record = EventRecord {
            event: envelope.seq,
            ..EventRecord::default()
        };
        match &envelope.event {
            RunnerEvent::Started { runner } => {
                let content = MessageContent::text("The sandbox is up")
                    .with("step", "started")
                    .with("attempt", self.lease.fence.attempt.get())
                    .with("runner", runner.as_str());
                record.messages.push(self.message(MessageKind::Progress, content));
            }
            RunnerEvent::Progress { step, message } => {
                let content = MessageContent::text(message.as_str()).with("step", step.as_str());
                record.messages.push(self.message(MessageKind::Progress, content));
            }
            RunnerEvent::Agent(entry) => record.transcript = Some((envelope.at, entry.clone())),
            RunnerEvent::Usage(usage) => record.usage = Some(*usage),
            RunnerEvent::Checkpoint(checkpoint) => record.checkpoint = Some(checkpoint.clone()),
            // The end is told when the attempt is ended; an event of a newer runner only takes its number.
            RunnerEvent::Received { .. }
            | RunnerEvent::Completed(_)
            | RunnerEvent::Failed { .. }
            | RunnerEvent::Escalation(_)
            | RunnerEvent::Unknown => {}
        }
        if ends_attempt(&envelope.event) {
            // Should this worker not live to act on it, the next one will.
            record.result = Some(json!(envelope.event));
        }
        record
    }

    fn message(&self, kind: MessageKind, content: MessageContent) -> NewMessage {
        self.inner.message(kind, content)
    }
}

#[async_trait]
impl SessionSink for AttemptSink {
    fn may_ask(&self, model: &str) -> Result<(), ModelRefusal> {
        self.spending.may_ask(model)
    }

    async fn used(&self, used: ModelUse) {
        let Some(told) = self.spending.used(&used) else {
            return;
        };
        let content = MessageContent::text(told).with("step", "budget");
        let message = self.message(MessageKind::Progress, content);
        if let Err(error) = self
            .inner
            .store
            .add_messages(self.lease.fence, vec![message])
            .await
        {
            tracing::warn!(%error, "people are not told of the budget");
        }
    }

    fn holds_lease(&self) -> bool {
        self.lease.is_held()
    }

    async fn authorize(&self) -> Result<(), SinkError> {
        let options = &self.inner.options;
        let asked = Instant::now();
        let renewed = self
            .inner
            .store
            .renew_leases(&options.worker, &[self.lease.fence], options.lease)
            .await;
        match renewed {
            Ok(held) if held.contains(&self.lease.fence) => {
                self.lease.extend(asked + options.lease);
                Ok(())
            }
            Ok(_) => Err(self.refused(StoreError::Fenced(self.lease.fence)).await),
            Err(error) => Err(SinkError::Unavailable(Box::new(error))),
        }
    }

    #[tracing::instrument(name = "core.sink.deliver", skip_all, fields(session.id = %self.lease.fence.session, events = events.len()))]
    async fn deliver(&self, events: Vec<Envelope>) -> Result<Acknowledgement, SinkError> {
        let records = events.iter().map(|envelope| self.record(envelope)).collect();
        let recorded = self.inner.store.record(self.lease.fence, records).await;
        let recorded = match recorded {
            Ok(recorded) => recorded,
            Err(error) => return Err(self.refused(error).await),
        };
        self.heard(!events.is_empty());
        let events: Vec<_> = events.into_iter().map(|envelope| envelope.event).collect();
        let said = self.unheard(&events).await;
        let last = events.into_iter().find(ends_attempt);
        if let Some(event) = last {
            self.terminal
                .send_if_modified(|known| known.is_none() && known.replace(event).is_none());
        }
        let mut instructions = said;
        if recorded.cancel_requested {
            instructions.push(Instruction::Cancel);
            self.cancel.cancel();
        }
        Ok(Acknowledgement {
            acknowledged: recorded.acknowledged,
            instructions,
        })
    }

    async fn store_artifact(&self, name: String, content: Vec<u8>) -> Result<(), SinkError> {
        let artifact = NewArtifact {
            id: self.inner.ids().artifact(),
            name,
            content,
        };
        match self.inner.store.store_artifact(self.lease.fence, artifact).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused(error).await),
        }
    }

    async fn artifact(&self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
        match self.inner.store.artifact(self.lease.fence.session, name).await {
            Ok(artifact) => Ok(artifact),
            Err(error) => Err(SinkError::Unavailable(Box::new(error))),
        }
    }
}

/// What the runner is told of a note.
pub(super) fn told(note: Note) -> Told {
    Told {
        number: note.number,
        by: note.by,
        text: note.text,
    }
}

/// Whether nothing comes after this event.
const fn ends_attempt(event: &RunnerEvent) -> bool {
    matches!(
        event,
        RunnerEvent::Completed(_) | RunnerEvent::Failed { .. } | RunnerEvent::Escalation(_)
    )
}

/// Reads back the end that an attempt recorded; `None` if it is of a shape that nobody wrote.
pub(super) fn recorded_end(value: Value) -> Option<RunnerEvent> {
    // The first versions recorded nothing but the result of a success.
    let result = match value.get("event") {
        Some(_) => serde_json::from_value(value),
        None => serde_json::from_value(value).map(RunnerEvent::Completed),
    };
    result
        .inspect_err(
            |error| tracing::error!(%error, "a recorded end cannot be read; the attempt is repeated"),
        )
        .ok()
        .filter(ends_attempt)
}
