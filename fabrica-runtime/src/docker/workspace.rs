//! A workspace that its user can write to.
//!
//! Docker gives a fresh volume the owner and the mode of the image's directory at that place, and where the image has
//! none, root's. Nobody can change that from outside, and Fabrica need not be root. So the owner is looked at, by the
//! first header of an archive of the directory; if the user could not write there, an archive with nothing but the
//! directory's own entry is unpacked over it. Docker skips that entry when it stands for the root of the archive, and
//! unpacks nothing into a read-only root beside volumes; so it is sent to the parent directory of a second container,
//! with a writable root and the same volume. That container is never started: nothing of the image runs as root.

use std::collections::HashMap;
use std::time::Duration;

use bollard::body_full;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, RemoveContainerOptions, UploadToContainerOptions,
};
use fabrica_core::ports::RuntimeError;
use futures::StreamExt as _;
use tokio::time::sleep;

use crate::docker::create;
use crate::docker::engine::DockerEngine;
use crate::docker::errors::is_status;
use crate::engine::Creation;

const WORLD_WRITABLE: u32 = 0o002;
const OWNER_WRITABLE: u32 = 0o300;
/// The second container has no owner's label, so that no listing shows it; it goes with its volume.
const LABEL_HELPER: &str = "fabrica.workspace-of";

fn helper(workspace: &str) -> String {
    format!("{workspace}-workspace")
}

impl DockerEngine {
    pub(super) async fn own_workspace(&self, plan: &Creation<'_>) -> Result<(), RuntimeError> {
        if self.workspace_writable(plan).await? {
            return Ok(());
        }
        // An attempt that was interrupted may have left one.
        self.remove_helper(plan.spec.name.as_str()).await?;
        let given = self.give(plan).await;
        let removed = self.remove_helper(plan.spec.name.as_str()).await;
        given.and(removed)
    }

    /// Removes the second container of a workspace; one that is not there is fine.
    pub(super) async fn remove_helper(&self, workspace: &str) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptions {
            v: false,
            force: true,
            link: false,
        };
        match self
            .client
            .remove_container(&helper(workspace), Some(options))
            .await
        {
            Err(error) if !is_status(&error, 404) => Err(self.refused("prepare the workspace")(error)),
            _ => Ok(()),
        }
    }

    async fn workspace_writable(&self, plan: &Creation<'_>) -> Result<bool, RuntimeError> {
        let options = DownloadFromContainerOptions {
            path: plan.spec.workspace.clone(),
        };
        let mut archive = self
            .client
            .download_from_container(plan.spec.name.as_str(), Some(options));
        let mut head = Vec::new();
        while head.len() < 512 {
            match archive.next().await {
                Some(chunk) => head.extend_from_slice(&chunk.map_err(self.refused("look at the workspace"))?),
                None => return Ok(false),
            }
        }
        let mut first = tar::Archive::new(&head[..]);
        let entry = first.entries().ok().and_then(|mut entries| entries.next()?.ok());
        let Some(entry) = entry else { return Ok(false) };
        let header = entry.header();
        let mode = header.mode().unwrap_or(0);
        let owned =
            header.uid().ok() == Some(u64::from(plan.spec.user.0)) && mode & OWNER_WRITABLE == OWNER_WRITABLE;
        Ok(owned || mode & WORLD_WRITABLE != 0)
    }

    async fn give(&self, plan: &Creation<'_>) -> Result<(), RuntimeError> {
        let refused = self.refused("prepare the workspace");
        let helper = helper(plan.spec.name.as_str());
        let workspace = plan.spec.workspace.trim_end_matches('/');
        let (parent, name) = workspace.rsplit_once('/').unwrap_or(("", workspace));
        let archive = directory_entry(name, plan.spec.user).map_err(|error| {
            self.name
                .denied("prepare the workspace", error.to_string(), Some(Box::new(error)))
        })?;
        let body = ContainerCreateBody {
            image: Some(plan.spec.image.clone()),
            entrypoint: Some(vec!["never-started".to_owned()]),
            labels: Some(HashMap::from([(
                LABEL_HELPER.to_owned(),
                plan.spec.name.to_string(),
            )])),
            network_disabled: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                mounts: Some(vec![create::workspace(plan)]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions {
            name: Some(helper.clone()),
            ..CreateContainerOptions::default()
        };
        self.client
            .create_container(Some(options), body)
            .await
            .map_err(&refused)?;
        let options = UploadToContainerOptions {
            path: format!("{parent}/"),
            ..UploadToContainerOptions::default()
        };
        self.client
            .upload_to_container(&helper, Some(options), body_full(archive.into()))
            .await
            .map_err(&refused)
    }

    /// Until a container that somebody else is removing is gone; whoever asks has a limit.
    pub(super) async fn wait_gone(&self, container: &str) -> Result<(), RuntimeError> {
        loop {
            match self.client.inspect_container(container, None).await {
                Ok(_) => sleep(Duration::from_millis(50)).await,
                Err(error) if is_status(&error, 404) => return Ok(()),
                Err(error) => return Err(self.refused("remove a container")(error)),
            }
        }
    }
}

fn directory_entry(name: &str, (user, group): (u32, u32)) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_uid(u64::from(user));
    header.set_gid(u64::from(group));
    header.set_size(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, format!("{name}/"), std::io::empty())?;
    builder.into_inner()
}
