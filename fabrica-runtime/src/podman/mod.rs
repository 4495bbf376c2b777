//! Podman, over podman-api, with its own requests where that crate or the interface that it pins does not serve:
//!
//! | what | why not podman-api |
//! |---|---|
//! | create | it sends `no_new_privileges` misspelt, so Podman ignores it |
//! | stop | it sends the timeout under a name that Podman ignores: we signal, look, and kill |
//! | logs | its decoder can panic on an unknown stream byte (and `tail` is no use: Podman then mixes up lines) |
//! | events | its stream borrows the client |
//! | import, build | it reads the whole archive into memory |
//! | pull | as for the build: one reader for Podman's progress lines |
//!
//! Those requests go to Podman's own interface (`libpod`), not to the Docker-compatible one, which ignores limits
//! without a warning and files unqualified images under `docker.io`.

mod create;
mod engine;
mod images;
mod inspect;
mod raw;

use std::path::{Path, PathBuf};
use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{
    BuildRequest, Capabilities, ContainerChange, ContainerName, ContainerSpec, ContainerSummary, Ensured,
    ImageInfo, Observation, ProgressSink,
};
use futures::stream::BoxStream;
use podman_api::Podman;
use tokio::time::timeout;

use crate::error::EngineName;
use crate::lifecycle::{Lifecycle, PATIENCE};

use self::engine::{PodmanEngine, translate};
use self::raw::Raw;

/// A Podman API service, rootful or rootless, on a Unix socket.
#[derive(Debug, Clone)]
pub struct PodmanRuntime(Lifecycle<PodmanEngine>);

impl PodmanRuntime {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if no service answers there.
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Self, RuntimeError> {
        let socket = socket.into();
        let name = EngineName {
            kind: "podman",
            address: format!("unix://{}", socket.display()),
        };
        // The crate's own version of the interface: from 5.0 on, its model of an inspection does not fit.
        let client = Podman::unix(&socket);
        match timeout(PATIENCE, client.ping()).await {
            Ok(answer) => answer.map_err(|error| translate(&name, "answer", error))?,
            Err(_) => return Err(name.silent("answer", PATIENCE)),
        };
        let raw = Raw::new(name.clone(), &socket)?;
        Ok(Self(Lifecycle::new(PodmanEngine {
            name,
            client,
            raw,
            socket,
        })))
    }

    /// The same, with another limit for a question's answer (30 seconds unless set).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.0.set_patience(patience);
        self
    }
}

crate::port::implement_port!(PodmanRuntime);
