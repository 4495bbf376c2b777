//! Delivers what waits in the spool, in order, until it is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use fabrica_core::clock::{Clock as _, Entropy as _, SystemClock, SystemEntropy};
use fabrica_core::protocol::{
    Acknowledgement, HEARTBEAT, Instruction, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, RunnerEvent,
};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::spool::Batch;
use super::{Reporter, Shared};
use crate::gateway::{Gateway, GatewayError};
use crate::socket::Replaced;
use crate::stop::Reason;

/// Events that come together are sent together.
const COALESCE: Duration = Duration::from_millis(10);
/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a gateway that is back hears of its session within about a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long it is silent if there is nothing to say.
const SILENCE: Duration = if cfg!(test) {
    Duration::from_millis(200)
} else {
    HEARTBEAT
};

/// The one task that posts events.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
    gateway: Gateway,
    /// How many events a batch holds; fewer after one was refused, to find the event at fault.
    limit: usize,
    /// Another process that takes over is told at once who is there.
    changes: Replaced,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, gateway: Gateway) -> Self {
        Self {
            shared,
            changes: gateway.changes(),
            gateway,
            limit: MAX_BATCH_EVENTS,
        }
    }

    /// Runs until the gateway refuses this attempt.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let batch = self.shared.spool().batch(self.limit, MAX_BATCH_BYTES);
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    warn!(%error, "the spool cannot be read");
                    sleep(LONGEST_PAUSE).await;
                    continue;
                }
            };
            match self.deliver(batch).await {
                Progress::Made => pause = FIRST_PAUSE,
                Progress::None => {
                    tokio::select! {
                        () = sleep(jittered(pause)) => {}
                        () = self.changes.wait() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Progress::Over => return self.shared.stop.request(Reason::Fenced),
            }
            self.wait_for_more().await;
        }
    }

    async fn deliver(&mut self, batch: Batch) -> Progress {
        let (first, count) = (batch.first, batch.count);
        match self.gateway.events(batch.lines).await {
            Ok(answer) => self.acknowledged(&answer, first, count),
            Err(error) if error.fenced() => {
                warn!(%error, "this attempt is over");
                Progress::Over
            }
            Err(error) if error.malformed() && count > 0 => self.refused(&error, count),
            Err(error) => {
                if matches!(error, GatewayError::Late(_)) {
                    // Perhaps it was too much at once.
                    self.limit = (count / 2).max(1);
                }
                debug!(%error, first, count, "events are not delivered yet");
                Progress::None
            }
        }
    }

    fn acknowledged(&mut self, answer: &Acknowledgement, first: u64, count: usize) -> Progress {
        let mut said = Vec::new();
        for instruction in &answer.instructions {
            match instruction {
                Instruction::Cancel => self.shared.stop.request(Reason::Cancelled),
                Instruction::Say(told) => said.push(told.clone()),
                other => debug!(?other, "an instruction of a newer orchestrator"),
            }
        }
        if let Some(number) = said.iter().map(|told| told.number).max() {
            self.shared.said.send_modify(|known| known.extend(said));
            // Also if it was known before: another process may have taken over, and does not know that.
            Reporter(Arc::clone(&self.shared)).append(RunnerEvent::Received { number });
        }
        // Nobody can have stored what was never sent.
        let number = answer.acknowledged.min(first + count as u64 - 1);
        let advanced = self.shared.spool().acknowledge(number);
        if advanced {
            self.limit = (self.limit * 2).min(MAX_BATCH_EVENTS);
            self.shared.acknowledged.send_if_modified(|current| {
                let higher = number > *current;
                *current = (*current).max(number);
                higher
            });
        }
        if advanced || count == 0 {
            Progress::Made
        } else {
            Progress::None
        }
    }

    /// One bad event must not hold up all others: the batch is halved until it is alone, then a note replaces it.
    fn refused(&mut self, error: &GatewayError, count: usize) -> Progress {
        warn!(%error, count, "the gateway does not take the batch");
        if count > 1 {
            self.limit = (count / 2).max(1);
            return Progress::Made;
        }
        let note = "an event was refused by the gateway and is left out";
        self.shared.spool().replace_first(SystemClock.now(), note);
        Progress::None
    }

    async fn wait_for_more(&mut self) {
        if self.shared.spool().waiting_bytes() > 0 {
            return;
        }
        tokio::select! {
            () = self.shared.appended.notified() => sleep(COALESCE).await,
            () = self.changes.wait() => {}
            () = sleep(SILENCE) => {}
        }
    }
}

/// What came of a delivery.
enum Progress {
    /// It went on.
    Made,
    /// Try again later.
    None,
    /// Never again.
    Over,
}

/// Between half and all of a pause, so that many sandboxes do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    SystemEntropy.fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 512
}
