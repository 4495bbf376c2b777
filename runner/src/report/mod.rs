//! Reporting: numbered events, kept until the gateway has them for good.

mod sender;
mod spool;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabrica_core::clock::{Clock, SystemClock};
use fabrica_core::protocol::{MAX_EVENT_BYTES, RunnerEvent, TranscriptEntry};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::environment::Token;
use crate::gateway::Gateway;
use crate::stop::Stop;
use crate::text::{bounded, cut, one_line};
use sender::Sender;
use spool::Spool;

/// How many bytes may wait for the gateway before the agent has to wait.
const MAX_WAITING: u64 = if cfg!(test) { 4 } else { 64 } * 1024 * 1024;
/// What an event may hold beside its detail.
const ENVELOPE_BYTES: usize = 8 * 1024;

/// Takes events; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    spool: Mutex<Spool>,
    appended: Notify,
    acknowledged: watch::Sender<u64>,
    secrets: Vec<Token>,
    stop: Stop,
}

impl Shared {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// Starts to deliver what will be reported. The spool has no name on the disk, so that the agent cannot write to
    /// it; `directory` only says on which disk it is.
    pub(crate) fn start(
        directory: &Path,
        gateway: Gateway,
        secrets: Vec<Token>,
        stop: Stop,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            spool: Mutex::new(Spool::create(directory)?),
            appended: Notify::new(),
            acknowledged: watch::Sender::new(0),
            secrets,
            stop,
        });
        let sender = tokio::spawn(Sender::new(Arc::clone(&shared), gateway).run());
        Ok((Self(shared), sender))
    }

    /// Reports one event. Waits while too much is waiting for the gateway, unless everything is about to end.
    pub(crate) async fn report(&self, event: RunnerEvent) {
        self.room().await;
        let event = within_limit(event);
        let redact = |text: String| {
            self.0
                .secrets
                .iter()
                .fold(text, |text, secret| text.replace(secret.expose(), "[redacted]"))
        };
        self.0.spool().append(event, SystemClock.now(), redact);
        self.0.appended.notify_one();
    }

    /// Tells people about a step.
    pub(crate) async fn progress(&self, step: &str, message: impl Into<String>) {
        self.report(RunnerEvent::Progress {
            step: step.to_owned(),
            message: one_line(&message.into()),
        })
        .await;
    }

    /// Waits until everything that was reported is acknowledged. False if that cannot be hoped for: the gateway
    /// has refused this attempt, or `limit` has passed since a stop was requested.
    pub(crate) async fn delivered(&self, limit: Duration) -> bool {
        let last = self.0.spool().last();
        let mut acknowledged = self.0.acknowledged.subscribe();
        let all = async { acknowledged.wait_for(|number| *number >= last).await.is_ok() };
        tokio::select! {
            biased;
            all = all => all,
            () = self.0.stop.fenced() => false,
            () = async {
                self.0.stop.requested().await;
                tokio::time::sleep(limit).await;
            } => false,
        }
    }

    async fn room(&self) {
        let mut acknowledged = self.0.acknowledged.subscribe();
        while self.0.stop.reason().is_none() && self.0.spool().waiting_bytes() > MAX_WAITING {
            // An acknowledgement or a stop; the limit only guards against both being missed.
            let changed = async {
                tokio::select! {
                    _ = acknowledged.changed() => {}
                    _ = self.0.stop.requested() => {}
                }
            };
            let _ = timeout(Duration::from_secs(1), changed).await;
        }
    }
}

/// The same event within the protocol's limit.
fn within_limit(event: RunnerEvent) -> RunnerEvent {
    match event {
        RunnerEvent::Agent(entry) => RunnerEvent::Agent(TranscriptEntry {
            summary: one_line(&entry.summary),
            detail: bounded(entry.detail, MAX_EVENT_BYTES - ENVELOPE_BYTES),
            ..entry
        }),
        RunnerEvent::Completed(mut result) => {
            result.summary = cut(&result.summary, MAX_EVENT_BYTES / 4).replace('\0', "\u{fffd}");
            RunnerEvent::Completed(result)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
