//! The steps on Podman.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{BuildRequest, ContainerName, ImageInfo, LABEL_OWNER, ProgressSink};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use podman_api::opts::{ContainerDeleteOpts, ContainerListFilter, ContainerListOpts, VolumeCreateOpts};
use podman_api::{Error, Podman};
use serde::Deserialize;
use tokio::time::sleep;

use crate::engine::{Creation, Engine, Facts, Inspected, Listed};
use crate::error::EngineName;
use crate::lines::{Demultiplexer, Tail};
use crate::podman::raw::{Failed, Raw};
use crate::podman::{create, inspect};

#[derive(Debug, Clone)]
pub(crate) struct PodmanEngine {
    pub(super) name: EngineName,
    pub(super) client: Podman,
    pub(super) raw: Raw,
    pub(super) socket: PathBuf,
}

/// podman-api's errors in the words of the port.
pub(super) fn translate(name: &EngineName, action: &str, error: Error) -> RuntimeError {
    match error {
        Error::Fault { code, ref message } if (502..=504).contains(&code.as_u16()) => {
            name.unavailable(message.clone(), Some(Box::new(error)))
        }
        Error::Fault { ref message, .. } => name.denied(action, message.clone(), Some(Box::new(error))),
        Error::SerdeJsonError(_) | Error::InvalidResponse(_) => name.garbage(error),
        error => name.unreachable(error),
    }
}

fn is_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::Fault { code, .. } if code.as_u16() == status)
}

/// What Podman 4 says, with status 500, of a container that went away while it looked for it.
const GONE: [&str; 3] = ["no such container", "no container with", "no such volume"];
/// What it says of one that has ended.
const ENDED: [&str; 3] = [
    "can only kill running containers",
    "container state improper",
    "no such process",
];

/// How often Podman is asked the same while a container is ending.
const ATTEMPTS: u32 = 10;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

fn says(error: &Error, words: &[&str]) -> bool {
    matches!(error, Error::Fault { message, .. } if words.iter().any(|word| message.contains(word)))
}

/// The container's process ended while Podman looked at it in `/proc`, or was about to kill it. A moment later Podman
/// knows of the end.
fn is_ending(error: &Error) -> bool {
    says(error, &["/proc/"]) || says(error, &ENDED)
}

fn is_gone(error: &Error) -> bool {
    is_status(error, 404) || says(error, &GONE)
}

impl PodmanEngine {
    fn refused(&self, action: &str) -> impl Fn(Error) -> RuntimeError + use<> {
        let (name, action) = (self.name.clone(), action.to_owned());
        move |error| translate(&name, &action, error)
    }
}

#[async_trait]
impl Engine for PodmanEngine {
    fn name(&self) -> &EngineName {
        &self.name
    }

    async fn facts(&self) -> Result<Facts, RuntimeError> {
        let info = self
            .client
            .info()
            .await
            .map_err(self.refused("describe itself"))?;
        Ok(inspect::facts(info, &self.socket))
    }

    async fn inspect(&self, container: &str) -> Result<Option<Inspected>, RuntimeError> {
        let mut again = ATTEMPTS;
        loop {
            again -= 1;
            match self.client.containers().get(container).inspect().await {
                Ok(found) => return Ok(Some(inspect::inspected(found))),
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) if again > 0 && is_ending(&error) => sleep(BETWEEN_ATTEMPTS).await,
                Err(error) => return Err(self.refused("inspect a container")(error)),
            }
        }
    }

    async fn create(&self, plan: &Creation<'_>) -> Result<String, RuntimeError> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(rename = "Id")]
            id: String,
        }
        let action = format!("create container {}", plan.spec.name);
        let created = self
            .raw
            .post_json::<Created>("/containers/create", &create::body(plan))
            .await;
        Ok(created
            .map_err(|failed| failed.into_error(&self.name, &action))?
            .id)
    }

    async fn prepare_workspace(&self, _: &Creation<'_>) -> Result<(), RuntimeError> {
        // The volume was created as the user's.
        Ok(())
    }

    async fn start(&self, container: &str) -> Result<(), RuntimeError> {
        match self.client.containers().get(container).start(None).await {
            Err(error) if is_status(&error, 304) => Ok(()),
            started => started.map_err(self.refused(&format!("start container {container}"))),
        }
    }

    async fn signal(&self, container: &str, signal: &str) -> Result<(), RuntimeError> {
        match self.client.containers().get(container).send_signal(signal).await {
            Err(error) if is_gone(&error) || is_status(&error, 409) || says(&error, &ENDED) => Ok(()),
            sent => sent.map_err(self.refused(&format!("signal container {container}"))),
        }
    }

    async fn delete_container(&self, container: &str) -> Result<(), RuntimeError> {
        // Without a timeout Podman would first ask the container to end, and wait ten seconds for it.
        let options = ContainerDeleteOpts::builder()
            .force(true)
            .volumes(true)
            .timeout(0)
            .build();
        let mut again = ATTEMPTS;
        loop {
            again -= 1;
            match self.client.containers().get(container).delete(&options).await {
                Ok(()) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) if again > 0 && is_ending(&error) => sleep(BETWEEN_ATTEMPTS).await,
                Err(error) => return Err(self.refused(&format!("remove container {container}"))(error)),
            }
        }
    }

    async fn volume(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, RuntimeError> {
        match self.client.volumes().get(name).inspect().await {
            Ok(volume) => Ok(Some(volume.labels.into_iter().collect())),
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.refused("inspect a volume")(error)),
        }
    }

    async fn create_volume(&self, plan: &Creation<'_>) -> Result<(), RuntimeError> {
        let (user, group) = plan.spec.user;
        // Without an owner of its own, the volume takes the one of the image's directory at that place, which may be
        // root, and the mount's option `U` does not prevent that (4.3.1). Ids are those inside, also without root.
        let options = VolumeCreateOpts::builder()
            .name(plan.spec.name.as_str())
            .labels(plan.labels.clone())
            .options([("o", format!("uid={user},gid={group}"))])
            .build();
        self.client
            .volumes()
            .create(&options)
            .await
            .map(drop)
            .map_err(self.refused("create a volume"))
    }

    async fn delete_volume(&self, name: &str) -> Result<(), RuntimeError> {
        // Not by force: that would take the volume's container with it.
        match self.client.volumes().get(name).delete().await {
            Err(error) if is_gone(&error) => Ok(()),
            removed => removed.map_err(self.refused(&format!("remove volume {name}"))),
        }
    }

    async fn list(&self, owner: &str) -> Result<Vec<Listed>, RuntimeError> {
        let filter = ContainerListFilter::LabelKeyVal(LABEL_OWNER.to_owned(), owner.to_owned());
        let options = ContainerListOpts::builder().all(true).filter([filter]).build();
        let found = self
            .client
            .containers()
            .list(&options)
            .await
            .map_err(self.refused("list containers"))?;
        let listed = found.into_iter().filter_map(|one| {
            let name = one.names?.into_iter().next()?;
            Some(Listed {
                name: ContainerName::from_engine(name),
                labels: one.labels.unwrap_or_default().into_iter().collect(),
                running: matches!(one.state.as_deref(), Some("running" | "paused" | "stopping")),
            })
        });
        Ok(listed.collect())
    }

    fn events(&self, owner: &str) -> BoxStream<'static, Result<ContainerName, RuntimeError>> {
        let filters =
            serde_json::json!({ "type": ["container"], "label": [format!("{LABEL_OWNER}={owner}")] })
                .to_string();
        let engine = self.clone();
        let connected = async move {
            let response = engine
                .raw
                .get("/events", &[("stream", "true"), ("filters", &filters)])
                .await;
            let response = response.map_err(|failed| failed.into_error(&engine.name, "tell events"))?;
            Ok::<_, RuntimeError>(engine.raw.lines::<Event>(response))
        };
        stream::once(connected)
            .try_flatten()
            .try_filter_map(async |event| Ok(event.name()))
            .boxed()
    }

    async fn log_tail(&self, container: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let path = format!("/containers/{container}/logs");
        // Not Podman's `tail`: 4.3.1 mixes up the pieces of lines that were written in more than one. All of the log is
        // at most what `create` allows.
        let query = [("stdout", "true"), ("stderr", "true")];
        let mut response = match self.raw.get(&path, &query).await {
            Ok(response) => response,
            Err(Failed::Refused { status, message })
                if status.as_u16() == 404 || GONE.iter().any(|word| message.contains(word)) =>
            {
                return Ok(Vec::new());
            }
            Err(failed) => return Err(failed.into_error(&self.name, "tell a container's log")),
        };
        let mut tail = Tail::new(lines);
        let mut frames = Demultiplexer::default();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => frames.push(&chunk, &mut tail),
                Ok(None) => return Ok(tail.finish()),
                Err(error) => return Err(self.name.unreachable(error.without_url())),
            }
        }
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        match self.client.images().get(reference).inspect().await {
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

/// An event, as far as it matters.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor")]
    actor: Option<Actor>,
}

#[derive(Debug, Deserialize)]
struct Actor {
    #[serde(rename = "Attributes", default)]
    attributes: BTreeMap<String, String>,
}

impl Event {
    fn name(self) -> Option<ContainerName> {
        let telling = [
            "create", "init", "start", "died", "cleanup", "remove", "kill", "pause", "unpause", "oom",
        ];
        if !telling.contains(&self.action.as_str()) {
            return None;
        }
        Some(ContainerName::from_engine(self.actor?.attributes.remove("name")?))
    }
}
