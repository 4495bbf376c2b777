//! Takes what one attempt reports: every event becomes durable before it is acknowledged.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use crate::ids::Fence;
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::gateway::{SessionSink, SinkError};
use crate::ports::store::{EventRecord, NewArtifact, StoreError};
use crate::protocol::{Acknowledgement, Envelope, Instruction, RunnerEvent};

/// The sink of one attempt.
#[derive(Debug)]
pub(super) struct AttemptSink {
    inner: Arc<Inner>,
    fence: Fence,
    /// The last event of the attempt, once it is stored.
    terminal: watch::Sender<Option<RunnerEvent>>,
    /// Cancelled as soon as the store says that somebody asked for the session's end.
    cancel: CancellationToken,
}

impl AttemptSink {
    pub(super) fn new(
        inner: Arc<Inner>,
        fence: Fence,
        cancel: CancellationToken,
    ) -> (Arc<Self>, watch::Receiver<Option<RunnerEvent>>) {
        let (terminal, ended) = watch::channel(None);
        (
            Arc::new(Self {
                inner,
                fence,
                terminal,
                cancel,
            }),
            ended,
        )
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
                    .with("attempt", self.fence.attempt.get())
                    .with("runner", runner.as_str());
                record.messages.push(self.message(MessageKind::Progress, content));
            }
            RunnerEvent::Progress { step, message } => {
                let content = MessageContent::text(message.as_str()).with("step", step.as_str());
                record.messages.push(self.message(MessageKind::Progress, content));
            }
            RunnerEvent::Agent(entry) => record.transcript = Some((envelope.at, entry.clone())),
            RunnerEvent::Usage(usage) => record.usage = Some(*usage),
            RunnerEvent::Escalation {
                question,
                options,
                context,
            } => {
                let content = MessageContent::text(question.as_str())
                    .with("options", options.clone())
                    .with("context", context.as_str());
                record
                    .messages
                    .push(self.message(MessageKind::Escalation, content));
            }
            RunnerEvent::Completed(result) => record.result = Some(json!(result)),
            // The failure is told when the attempt is ended; an event of a newer runner only takes its number.
            RunnerEvent::Failed { .. } | RunnerEvent::Unknown => {}
        }
        record
    }

    fn message(&self, kind: MessageKind, content: MessageContent) -> NewMessage {
        self.inner.message(kind, content)
    }
}

#[async_trait]
impl SessionSink for AttemptSink {
    #[tracing::instrument(name = "core.sink.deliver", skip_all, fields(session.id = %self.fence.session, events = events.len()))]
    async fn deliver(&self, events: Vec<Envelope>) -> Result<Acknowledgement, SinkError> {
        let records = events.iter().map(|envelope| self.record(envelope)).collect();
        let recorded = self
            .inner
            .store
            .record(self.fence, records)
            .await
            .map_err(refused)?;
        let last = events.into_iter().map(|envelope| envelope.event).find(|event| {
            matches!(
                event,
                RunnerEvent::Completed(_) | RunnerEvent::Failed { .. } | RunnerEvent::Escalation { .. }
            )
        });
        if let Some(event) = last {
            self.terminal
                .send_if_modified(|known| known.is_none() && known.replace(event).is_none());
        }
        let mut instructions = Vec::new();
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
        self.inner
            .store
            .store_artifact(self.fence, artifact)
            .await
            .map_err(refused)
    }
}

fn refused(error: StoreError) -> SinkError {
    match error {
        StoreError::Fenced(_) => SinkError::Fenced,
        StoreError::EventGap { expected, .. } => SinkError::Gap { expected },
        other => SinkError::Unavailable(Box::new(other)),
    }
}

/// Reads back a result that an earlier attempt recorded; `None` if it is of a shape that nobody wrote.
pub(super) fn recorded_result(value: Value) -> Option<crate::protocol::JobResult> {
    serde_json::from_value(value)
        .inspect_err(
            |error| tracing::error!(%error, "a recorded result cannot be read; the attempt is repeated"),
        )
        .ok()
}
