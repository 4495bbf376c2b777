//! Reporting: numbered events, kept until the gateway has them for good.
//!
//! Nothing here ever holds up the agent. What is reported goes to the spool on the disk, and while too much waits there,
//! entries of the transcript are left out and counted.

mod sender;
mod spool;
mod thinning;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabrica_core::clock::{Clock, SystemClock};
use fabrica_core::protocol::{MAX_EVENT_BYTES, RunnerEvent, Told, TranscriptEntry};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::environment::Token;
use crate::gateway::Gateway;
use crate::stop::Stop;
use crate::text::{bounded, cut, one_line};
use sender::Sender;
use spool::Spool;
use thinning::{Load, Thinning};

/// How many bytes may wait for the gateway before entries of the transcript are left out. The spool's file is at most
/// about twice as large.
const MAX_WAITING: u64 = if cfg!(test) { 4 } else { 64 } * 1024 * 1024;
/// How many events may wait: the place of each is kept in memory.
const MAX_WAITING_EVENTS: usize = 100_000;
/// How many bytes may wait in memory, if the disk is full.
const MAX_IN_MEMORY: u64 = 4 * 1024 * 1024;
/// How much more of everything else may wait.
const RESERVE: u64 = 4 * 1024 * 1024;
/// What an event may hold beside its detail.
const ENVELOPE_BYTES: usize = 8 * 1024;

/// Takes events; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    spool: Mutex<Spool>,
    /// Locked after the spool.
    thinning: Mutex<Thinning>,
    appended: Notify,
    acknowledged: watch::Sender<u64>,
    secrets: Vec<Token>,
    stop: Stop,
    /// What people said to the agent, in the order in which it came.
    said: watch::Sender<Vec<Told>>,
}

impl Shared {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thinning(&self) -> MutexGuard<'_, Thinning> {
        self.thinning.lock().unwrap_or_else(PoisonError::into_inner)
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
            thinning: Mutex::default(),
            appended: Notify::new(),
            acknowledged: watch::Sender::new(0),
            secrets,
            stop,
            said: watch::Sender::default(),
        });
        let sender = tokio::spawn(Sender::new(Arc::clone(&shared), gateway).run());
        Ok((Self(shared), sender))
    }

    /// Reports one event. Never waits for the gateway.
    pub(crate) async fn report(&self, event: RunnerEvent) {
        self.append(event);
        self.0.appended.notify_one();
        // A flood of events must not keep the only thread from sending them.
        tokio::task::yield_now().await;
    }

    fn append(&self, event: RunnerEvent) {
        let redact = |text: String| {
            self.0
                .secrets
                .iter()
                .fold(text, |text, secret| text.replace(secret.expose(), "[redacted]"))
        };
        let mut spool = self.0.spool();
        let load = load(&spool);
        for event in self.0.thinning().admit(event, load) {
            spool.append(within_limit(event), SystemClock.now(), redact);
        }
    }

    /// Tells people about a step.
    pub(crate) async fn progress(&self, step: &str, message: impl Into<String>) {
        self.report(RunnerEvent::Progress {
            step: step.to_owned(),
            message: one_line(&message.into()),
        })
        .await;
    }

    /// What people said to the agent so far, and news of more.
    pub(crate) fn said(&self) -> watch::Receiver<Vec<Told>> {
        self.0.said.subscribe()
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
}

/// How much waits, by the limit that is nearest.
fn load(spool: &Spool) -> Load {
    let (bytes, memory, events) = (
        spool.waiting_bytes(),
        spool.memory_bytes(),
        spool.waiting_events(),
    );
    if bytes > MAX_WAITING + RESERVE || memory > MAX_IN_MEMORY + RESERVE || events > 2 * MAX_WAITING_EVENTS {
        Load::Overfull
    } else if bytes > MAX_WAITING || memory > MAX_IN_MEMORY || events > MAX_WAITING_EVENTS {
        Load::Full
    } else if bytes > MAX_WAITING / 2 || memory > MAX_IN_MEMORY / 2 || events > MAX_WAITING_EVENTS / 2 {
        Load::High
    } else {
        Load::Low
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
