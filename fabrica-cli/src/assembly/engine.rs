//! The container engine, found and connected.

use std::sync::Arc;

use fabrica_core::ports::ContainerRuntime;
use fabrica_core::ports::runtime::Capabilities;
use fabrica_runtime::detect::{self, Connected, EngineAddresses, RuntimeChoice};

use super::args::RuntimeName;
use super::error::AssemblyError;

/// A connected engine.
#[derive(Debug)]
pub struct Engine {
    /// The engine.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What it is and can do.
    pub capabilities: Capabilities,
    connected: Connected,
}

impl Engine {
    /// Where it listens.
    pub fn address(&self) -> String {
        self.connected.address().to_string()
    }

    /// Ends an engine's service that was started for this; an engine that was there stays.
    pub async fn shutdown(self) {
        drop(self.runtime);
        self.connected.shutdown().await;
    }
}

/// Finds and connects an engine.
///
/// # Errors
///
/// [`AssemblyError::Engine`] if none answers.
pub async fn connect_engine(name: RuntimeName) -> Result<Engine, AssemblyError> {
    // Whatever speaks HTTP in this process, be it only to a socket, wants one; an error says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let choice = match name {
        RuntimeName::Auto => RuntimeChoice::Auto,
        RuntimeName::Docker => RuntimeChoice::Docker,
        RuntimeName::Podman => RuntimeChoice::Podman,
    };
    let connected = detect::connect(choice, &EngineAddresses::from_environment()).await?;
    let runtime = connected.runtime();
    match runtime.capabilities().await {
        Ok(capabilities) => Ok(Engine {
            runtime,
            capabilities,
            connected,
        }),
        Err(error) => {
            connected.shutdown().await;
            Err(error.into())
        }
    }
}
