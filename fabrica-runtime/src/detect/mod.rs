//! Which engine there is, how to reach it, and Podman's service if only its program is there.

mod address;
mod candidates;
mod service;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ports::{ContainerRuntime, RuntimeError};
use thiserror::Error;
use tokio::time::timeout;

use self::candidates::{Candidate, Kind};
use self::service::Service;
use crate::{DockerRuntime, PodmanRuntime};

pub use self::address::{Address, InvalidAddress};

/// How long an engine may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which engine is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// What answers first.
    #[default]
    Auto,
    /// Docker, or an error.
    Docker,
    /// Podman, or an error.
    Podman,
}

/// The text names no engine.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not auto, docker or podman")]
pub struct UnknownRuntime(String);

impl FromStr for RuntimeChoice {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, UnknownRuntime> {
        match text {
            "auto" => Ok(Self::Auto),
            "docker" => Ok(Self::Docker),
            "podman" => Ok(Self::Podman),
            other => Err(UnknownRuntime(other.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for RuntimeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Podman => "podman",
        })
    }
}

/// Where engines are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineAddresses {
    /// The value of `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// Where a Docker daemon listens by itself.
    pub docker_sockets: Vec<PathBuf>,
    /// The value of `CONTAINER_HOST`, Podman's own variable.
    pub container_host: Option<String>,
    /// Where a Podman service listens by itself.
    pub podman_sockets: Vec<PathBuf>,
    /// The `podman` program, if its service may be started.
    pub podman_program: Option<PathBuf>,
    /// Where a service of our own gets its private directory.
    pub runtime_directory: PathBuf,
}

impl EngineAddresses {
    /// The usual places, as this process's environment has them.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The usual places, with the environment's variables asked of the caller.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let user_directory = set("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let mut podman_sockets: Vec<_> = user_directory
            .iter()
            .map(|directory| directory.join("podman/podman.sock"))
            .collect();
        podman_sockets.push("/run/podman/podman.sock".into());
        let path = set("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&path).map(|directory| directory.join("podman"));
        Self {
            docker_host: set("DOCKER_HOST"),
            docker_sockets: vec!["/var/run/docker.sock".into()],
            container_host: set("CONTAINER_HOST"),
            podman_sockets,
            podman_program: programs
                .filter(|path| path.is_absolute())
                .find(|path| path.is_file()),
            runtime_directory: user_directory.unwrap_or_else(std::env::temp_dir),
        }
    }
}

/// An engine that answers, and Podman's service if it was started for it.
#[derive(Debug)]
pub struct Connected {
    runtime: Arc<dyn ContainerRuntime>,
    address: Address,
    service: Option<Service>,
}

impl Connected {
    /// The engine.
    pub fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        Arc::clone(&self.runtime)
    }

    /// Where it listens.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Stops the service, if we started one, and waits until it has ended. Containers go on running. Without this call
    /// the service is killed when the value is dropped.
    pub async fn shutdown(mut self) {
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
    }
}

/// Connects to the engine that is wanted.
///
/// # Errors
///
/// [`RuntimeError::Unavailable`] if none answers: its message lists what was tried, one line each, and what to do.
pub async fn connect(choice: RuntimeChoice, addresses: &EngineAddresses) -> Result<Connected, RuntimeError> {
    let mut tried = Vec::new();
    for candidate in candidates::of(choice, addresses) {
        match attempt(choice, &candidate).await {
            Ok((runtime, address)) => {
                return Ok(Connected {
                    runtime,
                    address,
                    service: None,
                });
            }
            Err(reason) => tried.push(format!("{}: {reason}", candidate.origin)),
        }
    }
    if choice != RuntimeChoice::Docker {
        match start_podman(addresses).await {
            Ok(connected) => return Ok(connected),
            Err(reason) => tried.push(format!("starting Podman's service: {reason}")),
        }
    }
    Err(nothing_answers(choice, &tried))
}

async fn attempt(
    choice: RuntimeChoice,
    candidate: &Candidate,
) -> Result<(Arc<dyn ContainerRuntime>, Address), String> {
    let address = candidate.address.clone()?;
    let found = match timeout(PATIENCE, candidates::ask(&address)).await {
        Ok(found) => found?,
        Err(_) => {
            return Err(format!(
                "{address} does not answer within {} s",
                PATIENCE.as_secs()
            ));
        }
    };
    let connected: Result<Arc<dyn ContainerRuntime>, RuntimeError> = match (found, &address) {
        (Kind::Podman, _) if choice == RuntimeChoice::Docker => {
            return Err(format!("{address} is Podman's; choose podman"));
        }
        (Kind::Docker, _) if choice == RuntimeChoice::Podman => {
            return Err(format!("{address} is not Podman's"));
        }
        (Kind::Podman, Address::Tcp(_)) => {
            return Err(format!("{address}: Podman is used over a Unix socket only"));
        }
        (Kind::Podman, Address::Unix(socket)) => match PodmanRuntime::connect(socket).await {
            Ok(runtime) => Ok(Arc::new(runtime)),
            Err(error) => Err(error),
        },
        (Kind::Docker, address) => match DockerRuntime::connect(address).await {
            Ok(runtime) => Ok(Arc::new(runtime)),
            Err(error) => Err(error),
        },
    };
    connected
        .map(|runtime| (runtime, address))
        .map_err(|error| error.to_string())
}

async fn start_podman(addresses: &EngineAddresses) -> Result<Connected, String> {
    let Some(program) = &addresses.podman_program else {
        return Err("there is no program podman in PATH".to_owned());
    };
    let service = Service::start(program, &addresses.runtime_directory).await?;
    let address = Address::Unix(service.socket().to_owned());
    match PodmanRuntime::connect(service.socket()).await {
        Ok(runtime) => Ok(Connected {
            runtime: Arc::new(runtime),
            address,
            service: Some(service),
        }),
        Err(error) => {
            service.stop().await;
            Err(error.to_string())
        }
    }
}

fn nothing_answers(choice: RuntimeChoice, tried: &[String]) -> RuntimeError {
    let (engine, advice) = match choice {
        RuntimeChoice::Auto => (
            "a container engine",
            "Install Podman, or start Docker and join its group, or name an engine in DOCKER_HOST or CONTAINER_HOST.",
        ),
        RuntimeChoice::Docker => (
            "docker",
            "Start Docker and join its group, or name a daemon in DOCKER_HOST.",
        ),
        RuntimeChoice::Podman => ("podman", "Install Podman, or name its service in CONTAINER_HOST."),
    };
    let lines: String = tried.iter().flat_map(|line| ["\n  ", line]).collect();
    RuntimeError::Unavailable {
        engine: engine.to_owned(),
        message: format!("tried{lines}\n{advice}"),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_back_from_its_text() {
        for choice in [RuntimeChoice::Auto, RuntimeChoice::Docker, RuntimeChoice::Podman] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("kubernetes".parse::<RuntimeChoice>().is_err());
    }

    #[test]
    fn the_environment_says_where_to_look() {
        let variables = |name: &str| match name {
            "DOCKER_HOST" => Some("unix:///d.sock".to_owned()),
            "CONTAINER_HOST" => Some(String::new()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
            _ => None,
        };
        let addresses = EngineAddresses::from_variables(variables);
        assert_eq!(addresses.docker_host.as_deref(), Some("unix:///d.sock"));
        assert_eq!(addresses.container_host, None);
        assert_eq!(addresses.podman_program, None);
        let sockets = ["/run/user/7/podman/podman.sock", "/run/podman/podman.sock"].map(PathBuf::from);
        assert_eq!(addresses.podman_sockets, sockets);
    }
}
