//! Drives ONE attempt: from its start, or from where another worker left it, to its outcome.

mod adopt;
mod clean_up;
mod observer;

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::clean_up::Rest;
use self::observer::Observer;
use super::budget::Decision;
use super::inner::Inner;
use super::lease::Lease;
use super::model_trouble;
use super::outcome::{self, Outcome};
use super::publish;
use super::sandbox::{self, Tokens};
use super::sink::{AttemptSink, recorded_end};
use crate::failure::Failure;
use crate::ids::Fence;
use crate::message::NewMessage;
use crate::plan::{Plan, PlanError, Repository};
use crate::ports::gateway::GatewayAccess;
use crate::ports::runtime::ContainerName;
use crate::ports::store::{AttemptEnd, AttemptStart, Claimed, Note, StoreError};
use crate::protocol::RunnerEvent;
use crate::secrets::{TokenHash, new_token};

/// What may end an attempt from outside, beside the loss of its lease.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    /// Somebody asked for the session's end.
    pub(super) cancel: CancellationToken,
    /// This worker ends now, and its sandboxes with it.
    pub(super) abort: CancellationToken,
    /// This worker ends now; its sandboxes go on under the next one.
    pub(super) handover: CancellationToken,
}

/// What became of the session when its driver is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driven {
    /// It has its next status, or another worker.
    Settled,
    /// Its sandbox waits for the next owner.
    LeftToNext,
    /// Its end could not be stored: the lease has to be given up, so that somebody tries again.
    Unsettled,
}

/// One attempt and what belongs to it.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) inner: Arc<Inner>,
    pub(super) claimed: Arc<Claimed>,
    pub(super) lease: Arc<Lease>,
    pub(super) signals: Signals,
}

impl Attempt {
    /// Drives the attempt to its end, whatever happens on the way.
    #[tracing::instrument(name = "core.attempt.drive", skip_all, fields(session.id = %self.claimed.session.id, attempt = %self.claimed.session.attempt))]
    pub(super) async fn drive(self) -> Driven {
        tracing::info!(resumed = self.claimed.resumed.is_some(), "attempt begins");
        match self.work().await {
            Ok(driven) => {
                tracing::info!(?driven, "attempt ended");
                driven
            }
            Err(StoreError::Fenced(_)) => {
                tracing::warn!("attempt ended: another owner has taken over");
                self.inner.gateway.release(self.fence()).await;
                Driven::Settled
            }
            Err(error) => {
                tracing::error!(%error, "the attempt's end could not be stored; somebody tries again");
                Driven::Unsettled
            }
        }
    }

    async fn work(&self) -> Result<Driven, StoreError> {
        let plan = match read_plan(&self.inner, &self.claimed) {
            Ok(plan) => plan,
            Err(error) => {
                let advice = "Mend the plan and submit it again.";
                let failure = Failure::new(error.code(), error.to_string(), advice);
                return self.settle(None, Outcome::failed(failure), false).await;
            }
        };
        if self.shall_stop().await? {
            let outcome = Outcome::failed(model_trouble::stopped());
            return self.settle(Some(&plan), outcome, false).await;
        }
        let decision = self.decision(&plan).await?;
        let (outcome, worked) = match (self.reported(), &self.claimed.resumed) {
            (Some(known), _) => (known, false),
            (None, Some(resumed)) => (self.adopt(&plan, decision, resumed).await, true),
            (None, None) => (self.start(&plan, decision).await, true),
        };
        let outcome = self.wait_instead(outcome);
        let outcome = self.ask_instead(decision, outcome).await;
        self.settle(Some(&plan), outcome, worked).await
    }

    /// What people have decided about the session's budgets. Most have never asked, so most need not look.
    async fn decision(&self, plan: &Plan) -> Result<Decision, StoreError> {
        let claimed = &self.claimed;
        let limited =
            plan.limits.cost_usd.is_some() || plan.limits.turns.is_some() || plan.limits.tokens.is_some();
        if !limited || claimed.session.attempt.get() == 1 {
            return Ok(Decision::of(&plan.limits, &[], &[]));
        }
        let questions = self.inner.store.questions(claimed.session.id).await?;
        let notes = self.notes().await?;
        Ok(Decision::of(&plan.limits, &questions, &notes))
    }

    /// Whether the operator was asked about the model, and ends the session.
    async fn shall_stop(&self) -> Result<bool, StoreError> {
        let answered = self.claimed.answered.as_ref();
        Ok(model_trouble::shall_stop(answered, &[])
            && model_trouble::shall_stop(answered, &self.notes().await?))
    }

    /// A limit that ends at a certain time is waited for.
    fn wait_instead(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failed {
                failure,
                pushed,
                counts: true,
            } => match model_trouble::wait(&failure, self.inner.clock.now()) {
                Some((wait, until)) => Outcome::Limited {
                    failure,
                    pushed,
                    wait,
                    until,
                },
                None => Outcome::Failed {
                    failure,
                    pushed,
                    counts: true,
                },
            },
            other => other,
        }
    }

    /// A budget that is used up is a question, not a failure; and so is a provider that refuses Fabrica.
    async fn ask_instead(&self, decision: Decision, outcome: Outcome) -> Outcome {
        if let Outcome::Failed { failure, .. } = &outcome
            && let Some(question) = model_trouble::question(failure)
        {
            return Outcome::Escalated(question);
        }
        let (Decision::Work(budget), Outcome::Failed { failure, .. }) = (decision, &outcome) else {
            return outcome;
        };
        let used = self.inner.used(&self.claimed).await;
        match budget.question(failure, used) {
            Some(question) => Outcome::Escalated(question),
            None => outcome,
        }
    }

    fn fence(&self) -> Fence {
        self.lease.fence
    }

    /// How the attempt ended before this worker claimed it; or, if an earlier attempt was lost after its success had been
    /// recorded, that success: the work is done and pushed, only the publishing has to be repeated.
    fn reported(&self) -> Option<Outcome> {
        let event = recorded_end(self.claimed.reported.clone()?)?;
        match event {
            RunnerEvent::Completed(result) => Some(Outcome::Completed(result)),
            event if self.claimed.resumed.is_some() => {
                Some(outcome::reported(event, self.claimed.session.cancel_requested))
            }
            _ => None,
        }
    }

    /// From the written intent to the sandbox's outcome.
    async fn start(&self, plan: &Plan, decision: Decision) -> Outcome {
        let (inner, fence) = (&self.inner, self.fence());
        match decision {
            Decision::Stop => return Outcome::failed(stopped_at_budget()),
            Decision::Work(budget) => {
                if let Some(question) = budget.exhausted(self.claimed.session.usage) {
                    return Outcome::Escalated(question);
                }
            }
            Decision::Finish => {}
        }
        self.remove_earlier().await;
        let tokens = Tokens {
            runner: new_token(&*inner.entropy, "runner"),
            agent: new_token(&*inner.entropy, "agent"),
        };
        let start = AttemptStart {
            container: ContainerName::of(fence).to_string(),
            branch: sandbox::branch(plan, fence),
            title: plan.title.clone(),
            runner_token: TokenHash::of(tokens.runner.expose_secret()),
            agent_token: TokenHash::of(tokens.agent.expose_secret()),
        };
        if let Err(error) = inner.store.start_attempt(fence, start.clone()).await {
            return store_outcome(&error);
        }
        let notes = match self.notes().await {
            Ok(notes) => notes,
            Err(error) => return store_outcome(&error),
        };
        let mut observer = Observer::new(self, plan, decision);
        let access = self.access((plan, decision), &start, &observer.sink, &notes);
        let endpoint = match inner.gateway.open(access).await {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::failed(error.failure()),
        };
        inner.pace.turn(inner.options.start_interval).await;
        if self.signals.handover.is_cancelled() || self.signals.abort.is_cancelled() {
            return Outcome::NotStarted;
        }
        if !self.lease.is_held() && !inner.confirm(&self.lease).await {
            return Outcome::Fenced;
        }
        // Listen before the container exists, so that its end cannot fall in between.
        observer.listen();
        let spec = sandbox::container(&inner.options, plan, fence, &tokens, &endpoint.directory);
        if let Err(error) = inner.runtime.ensure(&spec).await {
            return Outcome::failed(error.failure());
        }
        tracing::info!(container = %spec.name, "the sandbox is started");
        observer.outcome().await
    }

    /// What people have said so far.
    async fn notes(&self) -> Result<Vec<Note>, StoreError> {
        self.inner.store.notes(self.fence().session, 0).await
    }

    fn access(
        &self,
        (plan, decision): (&Plan, Decision),
        start: &AttemptStart,
        sink: &Arc<AttemptSink>,
        notes: &[Note],
    ) -> GatewayAccess {
        GatewayAccess {
            fence: self.fence(),
            runner_token: start.runner_token,
            agent_token: start.agent_token,
            job: sandbox::job(&self.inner.options, plan, &self.claimed, notes, decision),
            repository: plan.repository.clone(),
            submodules: plan.submodules.clone(),
            sink: sink.clone(),
        }
    }

    /// Publishing beside the clean-up, then the end: when a session is terminal nothing of it is left. Nothing of this is
    /// done by a worker that is not known to hold the lease.
    async fn settle(
        &self,
        plan: Option<&Plan>,
        outcome: Outcome,
        worked: bool,
    ) -> Result<Driven, StoreError> {
        match outcome {
            Outcome::Fenced => return Err(StoreError::Fenced(self.fence())),
            Outcome::HandedOver => {
                self.inner.gateway.release(self.fence()).await;
                return Ok(Driven::LeftToNext);
            }
            _ => {}
        }
        if !self.inner.confirm(&self.lease).await {
            return Err(StoreError::Fenced(self.fence()));
        }
        let (end, messages) = match (outcome, plan) {
            (Outcome::Completed(result), Some(plan)) => {
                let publishing = publish::publish(&self.inner, &self.claimed, plan, result);
                tokio::join!(publishing, self.clean_up(worked, Rest::Nothing)).0
            }
            (other, _) => {
                let end = outcome::end(&self.inner, &self.claimed, plan, other);
                let keep =
                    matches!(end.0, AttemptEnd::Failed(_)) && !self.inner.options.keep_failed.is_zero();
                let rest = if keep { Rest::Container } else { Rest::Nothing };
                self.clean_up(worked, rest).await;
                end
            }
        };
        self.end(end, messages).await.map(|()| Driven::Settled)
    }

    /// Stores the end; a database that is away for a moment does not lose it.
    async fn end(&self, mut end: AttemptEnd, mut messages: Vec<NewMessage>) -> Result<(), StoreError> {
        let (inner, claimed) = (&self.inner, &self.claimed);
        let mut delay = Duration::from_millis(100);
        let deadline = Instant::now() + inner.options.lease.max(Duration::from_secs(30));
        loop {
            let stored = inner
                .store
                .finish_attempt(self.fence(), end.clone(), messages.clone())
                .await;
            match (stored, &end) {
                (Ok(status), _) => {
                    tracing::info!(%status, "session settled");
                    return Ok(());
                }
                (Err(StoreError::NoAttemptsLeft(_)), AttemptEnd::Lost { failure, .. }) => {
                    (end, messages) = outcome::exhausted(inner, claimed, failure.clone());
                }
                (Err(error), _) if error.retryable() && Instant::now() + delay < deadline => {
                    tracing::warn!(%error, "the attempt's end is not stored yet");
                    sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
                (Err(error), _) => return Err(error),
            }
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

fn stopped_at_budget() -> Failure {
    Failure::new(
        "budget.stopped",
        "The session had used up its budget, and was stopped by whoever was asked",
        "What was committed is on the branch. Say something to the session, or submit the plan again with a higher limit, to go on.",
    )
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
