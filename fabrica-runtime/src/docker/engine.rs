//! The steps on Docker.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerSummaryStateEnum, EventMessage, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, EventsOptions, KillContainerOptions, ListContainersOptions, LogsOptions,
    RemoveContainerOptions, RemoveVolumeOptions,
};
use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{BuildRequest, ContainerName, ImageInfo, LABEL_OWNER, ProgressSink};
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;

use crate::docker::errors::{is_status, translate};
use crate::docker::{create, inspect};
use crate::engine::{Creation, Engine, Facts, Inspected, Listed};
use crate::error::EngineName;
use crate::lines::Tail;

#[derive(Debug, Clone)]
pub(crate) struct DockerEngine {
    pub(super) name: EngineName,
    pub(super) client: Docker,
    pub(super) socket: Option<PathBuf>,
}

impl DockerEngine {
    pub(super) fn refused(&self, action: &str) -> impl Fn(Error) -> RuntimeError + use<> {
        let (name, action) = (self.name.clone(), action.to_owned());
        move |error| translate(&name, &action, error)
    }

    /// One of the statuses means that there is nothing to do.
    fn settled(&self, action: &str, result: Result<(), Error>, fine: &[u16]) -> Result<(), RuntimeError> {
        match result {
            Err(error) if fine.iter().any(|status| is_status(&error, *status)) => Ok(()),
            result => result.map_err(self.refused(action)),
        }
    }
}

fn labelled(owner: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{LABEL_OWNER}={owner}")])])
}

#[async_trait]
impl Engine for DockerEngine {
    fn name(&self) -> &EngineName {
        &self.name
    }

    async fn facts(&self) -> Result<Facts, RuntimeError> {
        let info = self
            .client
            .info()
            .await
            .map_err(self.refused("describe itself"))?;
        Ok(inspect::facts(info, self.socket.as_deref()))
    }

    async fn inspect(&self, container: &str) -> Result<Option<Inspected>, RuntimeError> {
        match self.client.inspect_container(container, None).await {
            Ok(found) => Ok(Some(inspect::inspected(found))),
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.refused("inspect a container")(error)),
        }
    }

    async fn create(&self, plan: &Creation<'_>) -> Result<String, RuntimeError> {
        let options = CreateContainerOptions {
            name: Some(plan.spec.name.to_string()),
            ..CreateContainerOptions::default()
        };
        let action = format!("create container {}", plan.spec.name);
        let created = self
            .client
            .create_container(Some(options), create::body(plan))
            .await;
        Ok(created.map_err(self.refused(&action))?.id)
    }

    async fn prepare_workspace(&self, plan: &Creation<'_>) -> Result<(), RuntimeError> {
        self.own_workspace(plan).await
    }

    async fn start(&self, container: &str) -> Result<(), RuntimeError> {
        let started = self.client.start_container(container, None).await;
        self.settled(&format!("start container {container}"), started, &[304])
    }

    async fn signal(&self, container: &str, signal: &str) -> Result<(), RuntimeError> {
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        let sent = self.client.kill_container(container, Some(options)).await;
        // 409: it does not run any more.
        self.settled(&format!("signal container {container}"), sent, &[404, 409])
    }

    async fn delete_container(&self, container: &str) -> Result<(), RuntimeError> {
        // With the anonymous volumes that the image may ask for.
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        let removed = self.client.remove_container(container, Some(options)).await;
        // 409: somebody else is removing it. It has to be gone before its volume can be.
        if removed.as_ref().is_err_and(|error| is_status(error, 409)) {
            return self.wait_gone(container).await;
        }
        self.settled(&format!("remove container {container}"), removed, &[404])
    }

    async fn volume(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, RuntimeError> {
        match self.client.inspect_volume(name).await {
            Ok(volume) => Ok(Some(volume.labels.into_iter().collect())),
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.refused("inspect a volume")(error)),
        }
    }

    async fn create_volume(&self, plan: &Creation<'_>) -> Result<(), RuntimeError> {
        let request = VolumeCreateRequest {
            name: Some(plan.spec.name.to_string()),
            driver: Some("local".to_owned()),
            labels: Some(plan.labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        self.client
            .create_volume(request)
            .await
            .map(drop)
            .map_err(self.refused("create a volume"))
    }

    async fn delete_volume(&self, name: &str) -> Result<(), RuntimeError> {
        let remove = || {
            self.client
                .remove_volume(name, Some(RemoveVolumeOptions { force: false }))
        };
        let mut removed = remove().await;
        if removed.as_ref().is_err_and(|error| is_status(error, 409)) {
            // In use: perhaps by what prepared it, if that was interrupted.
            self.remove_helper(name).await?;
            removed = remove().await;
        }
        self.settled(&format!("remove volume {name}"), removed, &[404])
    }

    async fn list(&self, owner: &str) -> Result<Vec<Listed>, RuntimeError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(labelled(owner)),
            ..ListContainersOptions::default()
        };
        let found = self
            .client
            .list_containers(Some(options))
            .await
            .map_err(self.refused("list containers"))?;
        let listed = found.into_iter().filter_map(|one| {
            let name = one.names?.into_iter().next()?;
            let running = matches!(
                one.state,
                Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED)
            );
            Some(Listed {
                name: ContainerName::from_engine(name.trim_start_matches('/')),
                labels: one.labels.unwrap_or_default().into_iter().collect(),
                running,
            })
        });
        Ok(listed.collect())
    }

    fn events(&self, owner: &str) -> BoxStream<'static, Result<ContainerName, RuntimeError>> {
        let mut filters = labelled(owner);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let options = EventsOptions {
            filters: Some(filters),
            ..EventsOptions::default()
        };
        let refused = self.refused("tell events");
        let events = self.client.events(Some(options)).map_err(refused);
        events
            .try_filter_map(async |event: EventMessage| Ok(name_of(event)))
            .boxed()
    }

    async fn log_tail(&self, container: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: lines.to_string(),
            ..LogsOptions::default()
        };
        let mut frames = self.client.logs(container, Some(options));
        let mut tail = Tail::new(lines);
        loop {
            match frames.next().await {
                None => return Ok(tail.finish()),
                Some(Ok(LogOutput::StdErr { message })) => tail.push(true, &message),
                Some(Ok(frame)) => tail.push(false, &frame.into_bytes()),
                Some(Err(error)) if is_status(&error, 404) => return Ok(Vec::new()),
                Some(Err(error)) => return Err(self.refused("tell a container's log")(error)),
            }
        }
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        match self.client.inspect_image(reference).await {
            Ok(image) => Ok(Some(inspect::image(image))),
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.refused("inspect an image")(error)),
        }
    }

    async fn pull(&self, reference: &str, progress: &ProgressSink) -> Result<(), RuntimeError> {
        self.pull_image(reference, progress).await
    }

    async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError> {
        self.import_image(archive, reference, progress).await
    }

    async fn build(&self, request: &BuildRequest, progress: &ProgressSink) -> Result<(), RuntimeError> {
        self.build_image(request, progress).await
    }
}

fn name_of(event: EventMessage) -> Option<ContainerName> {
    // What happens inside a container (exec, top, …) changes nothing that we tell.
    let telling = ["create", "start", "die", "oom", "destroy", "pause", "unpause"];
    if !event
        .action
        .is_some_and(|action| telling.contains(&action.as_str()))
    {
        return None;
    }
    Some(ContainerName::from_engine(
        event.actor?.attributes?.remove("name")?,
    ))
}
