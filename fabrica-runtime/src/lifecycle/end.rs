//! Stopping and removing.

use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{ContainerName, LABEL_OWNER, Observation};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::instrument;

use super::Lifecycle;
use crate::engine::{Engine, Inspected};
use crate::names;

impl<E: Engine> Lifecycle<E> {
    #[instrument(name = "runtime.container.stop", skip_all, fields(container.name = %name), err(level = "debug"))]
    pub(crate) async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<(), RuntimeError> {
        let Some(found) = self.ours(name, "stop").await? else {
            return Ok(());
        };
        if found.observation != Observation::Running {
            return Ok(());
        }
        if !grace.is_zero() {
            self.quick("signal a container", self.engine.signal(&found.id, "SIGTERM"))
                .await?;
            if self.ended_within(&found.id, grace).await? {
                return Ok(());
            }
        }
        self.quick("kill a container", self.engine.signal(&found.id, "SIGKILL"))
            .await?;
        if self.ended_within(&found.id, self.patience).await? {
            return Ok(());
        }
        Err(self.engine.name().silent("kill a container", self.patience))
    }

    /// Asks again and again: Podman's own way to wait polls as well, and neither engine's tells of a container that was
    /// removed meanwhile in the same words.
    async fn ended_within(&self, id: &str, limit: Duration) -> Result<bool, RuntimeError> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(10);
        loop {
            let state = self.inspect(id).await?.map(|found| found.observation);
            if state != Some(Observation::Running) {
                return Ok(true);
            }
            if timeout_at(deadline, sleep(pause)).await.is_err() {
                return Ok(false);
            }
            pause = (pause * 2).min(Duration::from_millis(160));
        }
    }

    /// The container, if it is there. One without our label is not ours to touch.
    async fn ours(&self, name: &ContainerName, action: &str) -> Result<Option<Inspected>, RuntimeError> {
        let found = self.inspect(name.as_str()).await?;
        match found {
            Some(found) if !found.labels.contains_key(LABEL_OWNER) => Err(self.engine.name().denied(
                &format!("{action} container {name}"),
                format!("it has no label {LABEL_OWNER}, so it is not Fabrica's"),
                None,
            )),
            found => Ok(found),
        }
    }

    #[instrument(name = "runtime.container.remove", skip_all, fields(container.name = %name), err(level = "debug"))]
    pub(crate) async fn remove(&self, name: &ContainerName) -> Result<(), RuntimeError> {
        if !names::is_container(name.as_str()) {
            return Ok(());
        }
        if let Some(found) = self.ours(name, "remove").await? {
            self.heavy("remove a container", self.engine.delete_container(&found.id))
                .await?;
            return self
                .heavy("remove a volume", self.engine.delete_volume(name.as_str()))
                .await;
        }
        let volume = self
            .quick("inspect a volume", self.engine.volume(name.as_str()))
            .await?;
        if volume.is_some_and(|labels| labels.contains_key(LABEL_OWNER)) {
            self.heavy("remove a volume", self.engine.delete_volume(name.as_str()))
                .await?;
        }
        Ok(())
    }
}
