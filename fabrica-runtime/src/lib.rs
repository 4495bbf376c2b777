//! Fabrica's container engines: the [`ContainerRuntime`](fabrica_core::ports::ContainerRuntime) port over Docker and
//! over Podman.
pub mod detect;

mod archive;
mod docker;
mod engine;
mod error;
mod lifecycle;
mod lines;
mod names;
mod podman;
mod port;
mod verify;
mod watch;

pub use detect::Address;
pub use docker::DockerRuntime;
pub use podman::PodmanRuntime;
