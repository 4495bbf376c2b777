//! Going on with an attempt that another worker, or this one before it was restarted, left under way.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::budget::Decision;
use super::super::outcome::{self, Outcome};
use super::observer::{LOG_LINES, Observer};
use super::{Attempt, store_outcome};
use crate::failure::Failure;
use crate::message::{MessageContent, MessageKind};
use crate::plan::Plan;
use crate::ports::runtime::{ContainerName, ContainerSummary, LABEL_GATEWAY, Observation, RuntimeError};
use crate::ports::store::{AttemptStart, Resumed, StoreError};

impl Attempt {
    /// Finds the attempt's container by its name. If it runs, the runner hears of its new gateway and goes on where it was;
    /// if not, the attempt is lost.
    pub(super) async fn adopt(&self, plan: &Plan, decision: Decision, resumed: &Resumed) -> Outcome {
        let name = ContainerName::of(self.fence());
        let found = match self.find(&name).await {
            Ok(found) => found,
            Err(error) => return Outcome::failed(error.failure()),
        };
        match (found, &resumed.start) {
            (Some(container), Some(start)) if container.observation == Observation::Running => {
                self.go_on((plan, decision), start, resumed.age, &container).await
            }
            (Some(container), _) if matches!(container.observation, Observation::Exited { .. }) => {
                let log = self.inner.runtime.log_tail(&name, LOG_LINES).await;
                Outcome::failed(outcome::unreported(
                    &container.observation,
                    log.unwrap_or_default(),
                ))
            }
            // A container that was never started did nothing, and one that cannot be found did nothing if its runner never
            // reported: such an attempt is repeated without counting.
            _ => Outcome::Failed {
                failure: lost_with_its_owner(),
                pushed: None,
                counts: resumed.last_event > 0,
            },
        }
    }

    /// Opens the gateway again, in the same place and for the same tokens.
    async fn go_on(
        &self,
        (plan, decision): (&Plan, Decision),
        start: &AttemptStart,
        age: Duration,
        container: &ContainerSummary,
    ) -> Outcome {
        let inner = &self.inner;
        let mut observer = Observer::new(self, plan, decision).after(age);
        // Its end must not fall between the look at it and the listening.
        observer.listen();
        let notes = match self.notes().await {
            Ok(notes) => notes,
            Err(error) => return store_outcome(&error),
        };
        let access = self.access((plan, decision), start, &observer.sink, &notes);
        let endpoint = match inner.gateway.open(access).await {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::failed(error.failure()),
        };
        let mounted = container.labels.get(LABEL_GATEWAY);
        if mounted.is_some_and(|mounted| *mounted != endpoint.directory.display().to_string()) {
            return Outcome::failed(unreachable_sandbox(mounted.map_or("", String::as_str)));
        }
        let content = MessageContent::text(
            "The Fabrica process that ran the session had stopped; the sandbox goes on under another one",
        )
        .with("step", "adopted")
        .with("attempt", self.fence().attempt.get())
        .with("worker", inner.options.worker.as_str());
        let message = inner.message(MessageKind::Progress, content);
        match inner.store.add_messages(self.fence(), vec![message]).await {
            Ok(()) => {}
            Err(StoreError::Fenced(_)) => return Outcome::Fenced,
            Err(error) => tracing::warn!(%error, "the takeover is not told"),
        }
        tracing::info!("the sandbox is adopted");
        observer.outcome().await
    }

    /// The container, if this engine has it. An engine that is away gets time to come back.
    async fn find(&self, name: &ContainerName) -> Result<Option<ContainerSummary>, RuntimeError> {
        let options = &self.inner.options;
        let deadline = Instant::now() + options.engine_patience;
        loop {
            match self.inner.runtime.list(&options.owner).await {
                Ok(all) => return Ok(all.into_iter().find(|container| container.name == *name)),
                Err(error) if error.retryable() && Instant::now() < deadline => {
                    tracing::warn!(%error, "the engine does not answer");
                    sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn lost_with_its_owner() -> Failure {
    Failure::new(
        "sandbox.lost",
        "The Fabrica process that ran the session stopped, and its sandbox is gone",
        "Find out why the process or its machine stopped; if that keeps happening, submit the plan again afterwards.",
    )
    .retryable()
}

fn unreachable_sandbox(mounted: &str) -> Failure {
    Failure::new(
        "sandbox.out_of_reach",
        format!("The sandbox of a Fabrica process that stopped listens in {mounted}, where this one has no place"),
        "Start all Fabrica processes of a machine that share a database with the same data directory and as the same user.",
    )
    .retryable()
}
