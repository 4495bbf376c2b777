//! The port over the steps of an engine: the decisions that are the same for both.

mod end;
mod ensure;
mod images;

use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{
    Capabilities, ContainerChange, ContainerName, ContainerSummary, Observation,
};
use futures::future::try_join_all;
use futures::stream::BoxStream;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::timeout;

use crate::engine::{Engine, Facts, Inspected};
use crate::names;
use crate::watch;

/// How long an engine may take over one question.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Creating and removing touch the disk: an engine may take so many times as long.
const HEAVY: u32 = 4;

/// One engine, with all that the port promises.
#[derive(Debug)]
pub(crate) struct Lifecycle<E> {
    pub(crate) engine: Arc<E>,
    patience: Duration,
    facts: Arc<OnceCell<Facts>>,
    turns: Arc<Turns>,
}

/// Two `ensure` of one container take turns: otherwise one could discard the volume that the other has just made. Names
/// share a few locks; that two processes do not do this at once, the store's leases see to.
type Turns = [Mutex<()>; 64];

// Not derived: an engine behind an `Arc` need not be `Clone`.
impl<E> Clone for Lifecycle<E> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            patience: self.patience,
            facts: Arc::clone(&self.facts),
            turns: Arc::clone(&self.turns),
        }
    }
}

impl<E: Engine> Lifecycle<E> {
    pub(crate) fn new(engine: E) -> Self {
        Self {
            engine: Arc::new(engine),
            patience: PATIENCE,
            facts: Arc::default(),
            turns: Arc::new(std::array::from_fn(|_| Mutex::new(()))),
        }
    }

    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// No engine hangs us: one that does not answer in time is not available.
    async fn within<T>(
        &self,
        action: &str,
        patience: Duration,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        match timeout(patience, call).await {
            Ok(result) => result,
            Err(_) => Err(self.engine.name().silent(action, patience)),
        }
    }

    async fn quick<T>(
        &self,
        action: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.within(action, self.patience, call).await
    }

    async fn heavy<T>(
        &self,
        action: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.within(action, self.patience * HEAVY, call).await
    }

    pub(crate) async fn capabilities(&self) -> Result<Capabilities, RuntimeError> {
        let facts = self.quick("describe itself", self.engine.facts()).await?;
        let capabilities = facts.capabilities.clone();
        // Podman takes half a second to describe itself: the first container need not wait for it again.
        let _ = self.facts.set(facts);
        Ok(capabilities)
    }

    fn turn(&self, name: &ContainerName) -> &Mutex<()> {
        let sum: usize = name.as_str().bytes().map(usize::from).sum();
        &self.turns[sum % self.turns.len()]
    }

    async fn inspect(&self, name: &str) -> Result<Option<Inspected>, RuntimeError> {
        if !names::is_container(name) {
            return Ok(None);
        }
        self.quick("inspect a container", self.engine.inspect(name)).await
    }

    pub(crate) async fn observe(&self, name: &ContainerName) -> Result<Observation, RuntimeError> {
        Ok(self
            .inspect(name.as_str())
            .await?
            .map_or(Observation::Gone, |found| found.observation))
    }

    pub(crate) async fn list(&self, owner: &str) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let listed = self.quick("list containers", self.engine.list(owner)).await?;
        let observed = listed.into_iter().map(|line| async move {
            let observation = if line.running {
                Observation::Running
            } else {
                self.observe(&line.name).await?
            };
            Ok::<_, RuntimeError>(ContainerSummary {
                name: line.name,
                labels: line.labels,
                observation,
            })
        });
        let mut summaries = try_join_all(observed).await?;
        // Between the listing and the question, it went.
        summaries.retain(|summary| summary.observation != Observation::Gone);
        Ok(summaries)
    }

    pub(crate) async fn watch(
        &self,
        owner: &str,
    ) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
        watch::watch(self.clone(), owner.to_owned()).await
    }

    pub(crate) async fn log_tail(
        &self,
        name: &ContainerName,
        lines: usize,
    ) -> Result<Vec<String>, RuntimeError> {
        if lines == 0 || !names::is_container(name.as_str()) {
            return Ok(Vec::new());
        }
        self.quick(
            "tell a container's log",
            self.engine.log_tail(name.as_str(), lines),
        )
        .await
    }
}
