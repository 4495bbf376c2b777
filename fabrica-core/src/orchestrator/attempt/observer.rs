//! Watches one sandbox until its outcome is known.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::budget::{Budget, Decision};
use super::super::inner::Inner;
use super::super::lease::Lease;
use super::super::outcome::{self, Outcome};
use super::super::sink::AttemptSink;
use super::super::spending::Spending;
use super::{Attempt, Signals};
use crate::message::{MessageContent, MessageKind};
use crate::plan::Plan;
use crate::ports::runtime::{ContainerChange, ContainerName, Observation, RuntimeError};
use crate::protocol::{HEARTBEAT, RunnerEvent};

/// How often the engine is asked although it reports changes by itself.
const OBSERVE_EVERY: Duration = Duration::from_secs(15);
/// A runner that has nothing to report is heard of this often all the same; a moment is for the way.
const MISSED: Duration = HEARTBEAT.saturating_add(Duration::from_secs(1));
/// A sandbox whose runner has not been heard of for so long is silent as a whole, not only its agent.
const SILENT: Duration = HEARTBEAT.saturating_mul(3);
/// How many of the container's last lines a failure carries.
pub(super) const LOG_LINES: usize = 30;

/// Why a sandbox is being ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Wall,
    Cancel,
    Abort,
}

/// Watches one sandbox.
pub(super) struct Observer {
    inner: Arc<Inner>,
    lease: Arc<Lease>,
    signals: Signals,
    name: ContainerName,
    pub(super) sink: Arc<AttemptSink>,
    ended: watch::Receiver<Option<RunnerEvent>>,
    changes: broadcast::Receiver<ContainerChange>,
    wall: Duration,
    deadline: Instant,
}

impl Observer {
    pub(super) fn new(attempt: &Attempt, plan: &Plan, decision: Decision) -> Self {
        let inner = attempt.inner.clone();
        let limit = match decision {
            Decision::Work(budget) => budget,
            Decision::Finish | Decision::Stop => Budget::default(),
        };
        let before = attempt.claimed.session.usage;
        let spending = Spending::new(inner.options.prices.clone(), limit, before);
        let (sink, ended) = AttemptSink::new(
            inner.clone(),
            attempt.lease.clone(),
            attempt.signals.cancel.clone(),
            spending,
        );
        let wall = plan.limits.wall.unwrap_or(inner.options.sandbox.wall);
        Self {
            lease: attempt.lease.clone(),
            signals: attempt.signals.clone(),
            name: ContainerName::of(attempt.fence()),
            sink,
            ended,
            changes: inner.changes.subscribe(),
            wall,
            deadline: Instant::now() + wall,
            inner,
        }
    }

    /// The attempt has been under way for so long already.
    pub(super) fn after(mut self, age: Duration) -> Self {
        self.deadline = Instant::now() + self.wall.saturating_sub(age);
        self
    }

    /// Hears of the engine's changes from now on.
    pub(super) fn listen(&mut self) {
        self.changes = self.inner.changes.subscribe();
    }

    pub(super) async fn outcome(mut self) -> Outcome {
        let signals = self.signals.clone();
        let (lease, deadline) = (self.lease.clone(), self.deadline);
        let stalls = Stalls {
            inner: self.inner.clone(),
            lease: self.lease.clone(),
            sink: self.sink.clone(),
        };
        let stop = tokio::select! {
            biased;
            () = lease.lost.cancelled() => return Outcome::Fenced,
            settled = self.settled() => return self.natural(settled).await,
            () = signals.handover.cancelled() => return Outcome::HandedOver,
            () = signals.abort.cancelled() => Stop::Abort,
            () = signals.cancel.cancelled() => Stop::Cancel,
            () = sleep_until(deadline) => Stop::Wall,
            never = stalls.report() => match never {},
        };
        // Whoever was frozen until its lease ran out must not kill what is another's by now.
        if !self.inner.confirm(&self.lease).await {
            return Outcome::Fenced;
        }
        tracing::info!(?stop, "the sandbox is asked to end");
        self.stopped(stop).await
    }

    /// Ends the sandbox, and takes what the runner still reports: committed work that it pushed.
    async fn stopped(mut self, stop: Stop) -> Outcome {
        let (inner, name) = (self.inner.clone(), self.name.clone());
        let stopping = inner.runtime.stop(&name, inner.options.stop_grace);
        if let Err(error) = stopping.await {
            tracing::warn!(%error, "the sandbox could not be asked to end");
        }
        let last = self.ended.borrow_and_update().clone();
        let pushed = match last {
            // It was done before it was asked to end.
            Some(RunnerEvent::Completed(result)) if stop != Stop::Cancel => {
                return Outcome::Completed(result);
            }
            Some(RunnerEvent::Completed(result)) => result.pushed,
            Some(RunnerEvent::Failed { pushed, .. }) => pushed,
            _ => None,
        };
        match stop {
            Stop::Cancel => Outcome::Cancelled { pushed },
            Stop::Wall => Outcome::Failed {
                failure: outcome::wall_limit(self.wall),
                pushed,
                counts: true,
            },
            Stop::Abort => Outcome::Released,
        }
    }

    async fn natural(&self, settled: Settled) -> Outcome {
        let cancelled = self.signals.cancel.is_cancelled();
        match settled {
            // A cancelled session's runner may hear of it through its acknowledgement first.
            Settled::Reported(event) => outcome::reported(event, cancelled),
            Settled::Ended(_) if cancelled => Outcome::Cancelled { pushed: None },
            Settled::Ended(observation) => {
                let log = self.inner.runtime.log_tail(&self.name, LOG_LINES).await;
                Outcome::failed(outcome::unreported(&observation, log.unwrap_or_default()))
            }
            Settled::EngineGone(error) => Outcome::failed(error.failure()),
        }
    }

    /// Waits for the runner's last event, else for the container's end. The runner's word comes first.
    async fn settled(&mut self) -> Settled {
        let mut silent_since: Option<Instant> = None;
        let mut next_look = Instant::now();
        loop {
            if let Some(event) = self.ended.borrow_and_update().clone() {
                return Settled::Reported(event);
            }
            let seen = tokio::select! {
                biased;
                changed = self.ended.changed() => match changed {
                    Ok(()) => continue,
                    // The sink is gone: only the engine can tell.
                    Err(_) => self.look_after(Duration::from_secs(1)).await,
                },
                change = self.changes.recv() => match change {
                    Ok(change) if change.name != self.name => continue,
                    Ok(change) => Ok(change.observation),
                    Err(_) => self.look_after(Duration::from_millis(200)).await,
                },
                () = sleep_until(next_look) => self.inner.runtime.observe(&self.name).await,
            };
            next_look = Instant::now() + OBSERVE_EVERY;
            match seen {
                Ok(Observation::Running | Observation::Pending { .. }) => silent_since = None,
                Ok(end) => {
                    // What was acknowledged before the end is in the channel already.
                    return match self.ended.borrow_and_update().clone() {
                        Some(event) => Settled::Reported(event),
                        None => Settled::Ended(end),
                    };
                }
                Err(error) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.inner.options.engine_patience {
                        return Settled::EngineGone(error);
                    }
                    tracing::warn!(%error, "the engine does not answer");
                    next_look =
                        Instant::now() + Duration::from_secs(1).min(self.inner.options.engine_patience / 4);
                }
            }
        }
    }

    async fn look_after(&self, pause: Duration) -> Result<Observation, RuntimeError> {
        sleep(pause).await;
        self.inner.runtime.observe(&self.name).await
    }
}

/// What became known about a sandbox.
enum Settled {
    Reported(RunnerEvent),
    Ended(Observation),
    EngineGone(RuntimeError),
}

/// Tells people of an agent, or of a whole sandbox, that has fallen silent.
struct Stalls {
    inner: Arc<Inner>,
    lease: Arc<Lease>,
    sink: Arc<AttemptSink>,
}

impl Stalls {
    /// One message for every silence that lasts too long.
    async fn report(self) -> Infallible {
        let patience = self.inner.options.stall_after;
        let mut told = None;
        loop {
            let signs = self.sink.signs();
            let due = signs.event + patience;
            if told == Some(signs.event) || !self.lease.is_held() {
                sleep((patience / 4).max(Duration::from_millis(10))).await;
            } else if Instant::now() < due {
                sleep_until(due).await;
            } else if (MISSED..SILENT).contains(&signs.contact.elapsed()) {
                // The runner may be late, or may be silent too: that shows in a moment.
                sleep_until(signs.contact + SILENT).await;
            } else {
                if self.tell(signs.contact).await {
                    told = Some(signs.event);
                }
                sleep((patience / 4).max(Duration::from_millis(10))).await;
            }
        }
    }

    async fn tell(&self, contact: Instant) -> bool {
        let patience = self.inner.options.stall_after;
        let sandbox = contact.elapsed() >= SILENT;
        let (who, hint) = if sandbox {
            (
                "sandbox",
                "The sandbox has not been heard of: it may be paused, frozen or out of memory",
            )
        } else {
            ("agent", "The sandbox lives, but its agent has said nothing")
        };
        let text = format!("{hint} for {}", humantime::format_duration(patience));
        let content = MessageContent::text(text)
            .with("step", "stalled")
            .with("code", "session.stalled")
            .with("silent", who)
            .with("seconds", patience.as_secs());
        let message = self.inner.message(MessageKind::Progress, content);
        match self
            .inner
            .store
            .add_messages(self.lease.fence, vec![message])
            .await
        {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the stall is not told yet");
                false
            }
        }
    }
}
