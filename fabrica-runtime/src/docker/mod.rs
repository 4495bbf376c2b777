//! Docker, over bollard.

mod create;
mod engine;
mod errors;
mod images;
mod inspect;
mod workspace;

use std::path::Path;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{
    BuildRequest, Capabilities, ContainerChange, ContainerName, ContainerSpec, ContainerSummary, Ensured,
    ImageInfo, Observation, ProgressSink,
};
use futures::stream::BoxStream;
use tokio::time::timeout;

use crate::detect::Address;
use crate::error::EngineName;
use crate::lifecycle::{Lifecycle, PATIENCE};

use self::engine::DockerEngine;

/// bollard's own limit, in seconds, for the head of an answer: ours come first. Images take as long as they take.
const CLIENT_TIMEOUT: u64 = 2 * 60 * 60;

/// A Docker daemon.
///
/// Works on a socket as well as over TCP (without TLS: where that is needed, forward the socket over SSH).
#[derive(Debug, Clone)]
pub struct DockerRuntime(Lifecycle<DockerEngine>);

impl DockerRuntime {
    /// Connects, and agrees on a version of the API.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if no daemon answers there.
    pub async fn connect(address: &Address) -> Result<Self, RuntimeError> {
        let name = EngineName {
            kind: "docker",
            address: address.to_string(),
        };
        let client = match address {
            Address::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), CLIENT_TIMEOUT, API_DEFAULT_VERSION)
            }
            Address::Tcp(host) => {
                Docker::connect_with_http(&format!("tcp://{host}"), CLIENT_TIMEOUT, API_DEFAULT_VERSION)
            }
        };
        let client = client.map_err(|error| name.unreachable(error))?;
        let agreed = match timeout(PATIENCE, client.negotiate_version()).await {
            Ok(agreed) => agreed.map_err(|error| errors::translate(&name, "tell its version", error))?,
            Err(_) => return Err(name.silent("tell its version", PATIENCE)),
        };
        let socket = match address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp(_) => None,
        };
        Ok(Self(Lifecycle::new(DockerEngine {
            name,
            client: agreed,
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

crate::port::implement_port!(DockerRuntime);
