//! Drives ONE attempt from its start to its outcome.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use super::outcome::{self, Outcome};
use super::publish;
use super::sandbox::{self, Tokens};
use super::sink::{AttemptSink, recorded_result};
use crate::failure::Failure;
use crate::ids::{AttemptNumber, Fence};
use crate::message::NewMessage;
use crate::plan::{Plan, PlanError, Repository};
use crate::ports::gateway::GatewayAccess;
use crate::ports::runtime::{ContainerChange, ContainerName, Observation, RuntimeError};
use crate::ports::store::{AttemptEnd, AttemptStart, Claimed, StoreError};
use crate::protocol::RunnerEvent;
use crate::secrets::{TokenHash, new_token};

/// What may end an attempt from outside.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    /// Somebody asked for the session's end.
    pub(super) cancel: CancellationToken,
    /// The lease is lost: another worker may own the session.
    pub(super) lost: CancellationToken,
    /// This worker ends now.
    pub(super) abort: CancellationToken,
}

/// How often the engine is asked although it reports changes by itself.
const OBSERVE_EVERY: Duration = Duration::from_secs(15);
/// How many of the container's last lines a failure carries.
const LOG_LINES: usize = 30;

/// Drives an attempt to its end, whatever happens on the way.
#[tracing::instrument(name = "core.attempt.drive", skip_all, fields(session.id = %claimed.session.id, attempt = %claimed.session.attempt))]
pub(super) async fn drive(inner: Arc<Inner>, claimed: Claimed, signals: Signals) {
    tracing::info!("attempt begins");
    let ended = match read_plan(&inner, &claimed) {
        Err(error) => {
            remove_earlier(&inner, claimed.fence()).await;
            let advice = "Mend the plan and submit it again.";
            let failure = Failure::new(error.code(), error.to_string(), advice);
            finish(&inner, &claimed, Outcome::failed(failure)).await
        }
        Ok(plan) => match claimed.unpublished.clone().and_then(recorded_result) {
            Some(result) => {
                remove_earlier(&inner, claimed.fence()).await;
                let end = publish::publish(&inner, &claimed, &plan, result).await;
                end_attempt(&inner, &claimed, end).await
            }
            None => run_and_finish(&inner, &claimed, &plan, &signals).await,
        },
    };
    match ended {
        Ok(()) => tracing::info!("attempt ended"),
        Err(StoreError::Fenced(_)) => tracing::warn!("attempt ended: a later one has taken over"),
        // The lease runs out, and whoever claims the session next finds what was stored.
        Err(error) => {
            tracing::error!(%error, "the attempt's end could not be stored; its lease will run out");
        }
    }
}

/// The sandbox, then publishing beside the clean-up, then the end: when a session is terminal nothing of it is left.
async fn run_and_finish(
    inner: &Arc<Inner>,
    claimed: &Claimed,
    plan: &Plan,
    signals: &Signals,
) -> Result<(), StoreError> {
    let outcome = run(inner, claimed, plan, signals).await;
    let clean = clean_up(inner, claimed.fence());
    match outcome {
        Outcome::Completed(result) => {
            let (end, ()) = tokio::join!(publish::publish(inner, claimed, plan, result), clean);
            end_attempt(inner, claimed, end).await
        }
        other => {
            clean.await;
            finish(inner, claimed, other).await
        }
    }
}

async fn finish(inner: &Inner, claimed: &Claimed, outcome: Outcome) -> Result<(), StoreError> {
    let end = match outcome {
        Outcome::Failed { failure, pushed } => outcome::end_failed(inner, claimed, failure, pushed.as_ref()),
        Outcome::Cancelled { pushed } => outcome::end_cancelled(inner, pushed.as_ref()),
        Outcome::Escalated => (AttemptEnd::Escalated, Vec::new()),
        Outcome::Fenced => return Err(StoreError::Fenced(claimed.fence())),
        Outcome::Released | Outcome::Completed(_) => {
            let failure = Failure::new(
                "worker.stopped",
                "The Fabrica process that ran the session was stopped",
                "Start Fabrica again; the session goes on by itself.",
            );
            outcome::end_failed(inner, claimed, failure.retryable(), None)
        }
    };
    end_attempt(inner, claimed, end).await
}

/// Stores the end; a database that is away for a moment does not lose it.
async fn end_attempt(
    inner: &Inner,
    claimed: &Claimed,
    (end, messages): (AttemptEnd, Vec<NewMessage>),
) -> Result<(), StoreError> {
    let mut delay = Duration::from_millis(100);
    let deadline = Instant::now() + inner.options.lease;
    loop {
        match inner
            .store
            .finish_attempt(claimed.fence(), end.clone(), messages.clone())
            .await
        {
            Ok(status) => {
                tracing::info!(%status, "session settled");
                return Ok(());
            }
            Err(error) if error.retryable() && Instant::now() + delay < deadline => {
                tracing::warn!(%error, "the attempt's end is not stored yet");
                sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(5));
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_plan(inner: &Inner, claimed: &Claimed) -> Result<Plan, PlanError> {
    let policy = &inner.options.repositories;
    let mut plan = Plan::parse_with_default(&claimed.spec.content, Some(&claimed.session.repo_url), policy)?;
    if let Repository::Local(_) = plan.repository {
        // What the plan says may be relative; the session has the absolute path.
        plan.repository = Repository::parse(&claimed.session.repo_url, policy)
            .map_err(|error| PlanError::from(crate::plan::PlanProblem::Repository(error)))?;
    }
    Ok(plan)
}

/// From the written intent to the sandbox's outcome. The caller cleans up.
async fn run(inner: &Arc<Inner>, claimed: &Claimed, plan: &Plan, signals: &Signals) -> Outcome {
    let fence = claimed.fence();
    remove_earlier(inner, fence).await;
    let tokens = Tokens {
        runner: new_token(&*inner.entropy, "runner"),
        agent: new_token(&*inner.entropy, "agent"),
    };
    let (sink, ended) = AttemptSink::new(inner.clone(), fence, signals.cancel.clone());
    let start = AttemptStart {
        container: ContainerName::of(fence).to_string(),
        branch: sandbox::branch(plan, fence),
        title: plan.title.clone(),
        runner_token: TokenHash::of(tokens.runner.expose_secret()),
        agent_token: TokenHash::of(tokens.agent.expose_secret()),
    };
    let access = GatewayAccess {
        fence,
        runner_token: start.runner_token,
        agent_token: start.agent_token,
        job: sandbox::job(&inner.options, plan, fence),
        repository: plan.repository.clone(),
        sink,
    };
    if let Err(error) = inner.store.start_attempt(fence, start).await {
        return store_outcome(&error);
    }
    let endpoint = match inner.gateway.open(access).await {
        Ok(endpoint) => endpoint,
        Err(error) => return Outcome::failed(error.failure()),
    };
    // Listen before the container exists, so that its end cannot fall in between.
    let changes = inner.changes.subscribe();
    let spec = sandbox::container(&inner.options, plan, fence, &tokens, &endpoint.directory);
    if let Err(error) = inner.runtime.ensure(&spec).await {
        return Outcome::failed(error.failure());
    }
    let wall = plan.limits.wall.unwrap_or(inner.options.sandbox.wall);
    Observer {
        inner,
        name: spec.name,
        ended,
        changes,
        signals,
        wall,
    }
    .outcome()
    .await
}

fn store_outcome(error: &StoreError) -> Outcome {
    match error {
        StoreError::Fenced(_) => Outcome::Fenced,
        other => Outcome::failed(
            Failure::new(
                other.code(),
                other.to_string(),
                "Check the database; the session is tried again.",
            )
            .retryable(),
        ),
    }
}

/// An earlier attempt's container must not work beside this one.
async fn remove_earlier(inner: &Inner, fence: Fence) {
    for number in 1..fence.attempt.get() {
        clean_up(
            inner,
            Fence {
                attempt: AttemptNumber::new(number),
                ..fence
            },
        )
        .await;
    }
}

/// Removes container, volume, socket and tokens of an attempt. What cannot be removed now is told to the operator.
async fn clean_up(inner: &Inner, fence: Fence) {
    if let Err(error) = inner.gateway.close(fence).await {
        tracing::error!(%error, %fence, "the gateway's access could not be closed");
    }
    let name = ContainerName::of(fence);
    let mut delay = Duration::from_millis(200);
    for _ in 0..5 {
        match inner.runtime.remove(&name).await {
            Ok(()) => return,
            Err(error) if error.retryable() => {
                tracing::warn!(%error, container = %name, "the container is not removed yet");
                sleep(delay).await;
                delay *= 2;
            }
            Err(error) => {
                tracing::error!(%error, container = %name, "the container could not be removed: remove it by hand");
                return;
            }
        }
    }
    tracing::error!(container = %name, "the engine does not answer: remove the container by hand once it does");
}

/// Why a sandbox is being ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Wall,
    Cancel,
    Abort,
}

/// Watches one sandbox until its outcome is known.
struct Observer<'a> {
    inner: &'a Arc<Inner>,
    name: ContainerName,
    ended: watch::Receiver<Option<RunnerEvent>>,
    changes: broadcast::Receiver<ContainerChange>,
    signals: &'a Signals,
    wall: Duration,
}

impl Observer<'_> {
    async fn outcome(mut self) -> Outcome {
        let deadline = Instant::now() + self.wall;
        let signals = self.signals.clone();
        let stop = tokio::select! {
            biased;
            () = signals.lost.cancelled() => return Outcome::Fenced,
            settled = self.settled() => return self.natural(settled).await,
            () = signals.abort.cancelled() => Stop::Abort,
            () = signals.cancel.cancelled() => Stop::Cancel,
            () = sleep_until(deadline) => Stop::Wall,
        };
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
            },
            Stop::Abort => Outcome::Released,
        }
    }

    async fn natural(&self, settled: Settled) -> Outcome {
        match settled {
            Settled::Reported(RunnerEvent::Completed(result)) => Outcome::Completed(result),
            // A cancelled session's runner may hear of it through its acknowledgement first.
            Settled::Reported(RunnerEvent::Failed { pushed, .. }) if self.signals.cancel.is_cancelled() => {
                Outcome::Cancelled { pushed }
            }
            Settled::Reported(RunnerEvent::Failed { failure, pushed }) => Outcome::Failed { failure, pushed },
            Settled::Reported(_) => Outcome::Escalated,
            Settled::Ended(_) if self.signals.cancel.is_cancelled() => Outcome::Cancelled { pushed: None },
            Settled::Ended(observation) => {
                let log = self
                    .inner
                    .runtime
                    .log_tail(&self.name, LOG_LINES)
                    .await
                    .unwrap_or_default();
                Outcome::failed(outcome::unreported(&observation, log))
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
