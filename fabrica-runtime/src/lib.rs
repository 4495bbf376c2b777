//! Fabrica's container engines: the [`ContainerRuntime`](fabrica_core::ports::ContainerRuntime) port over Docker and
//! over Podman.
//!
//! [`connect`] finds an engine, and starts Podman's service if only the program is there:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use fabrica_runtime::{EngineAddresses, RuntimeChoice, connect};
//!
//! // Usually `EngineAddresses::from_environment()`.
//! let addresses = EngineAddresses {
//!     docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
//!     ..EngineAddresses::default()
//! };
//! match connect(RuntimeChoice::Docker, &addresses).await {
//!     Ok(connected) => {
//!         let runtime = connected.runtime();
//!         println!("{:?}", runtime.capabilities().await);
//!         connected.shutdown().await;
//!     }
//!     Err(error) => assert!(error.to_string().contains("DOCKER_HOST: unix:///nonexistent/docker.sock")),
//! }
//! # }
//! ```
//!
//! # How it is put together
//!
//! An engine is a handful of small steps (`engine::Engine`), implemented for Docker over bollard and for Podman over
//! podman-api. All decisions are made once, over those steps (`lifecycle`): adopting or refusing a container that is
//! there, comparing what the engine says of a new one with what was asked (`verify`), taking back what is weaker,
//! TERM and KILL, limits of time. What becomes of the engine's events is in `watch`.
//!
//! # The workspace
//!
//! A volume of the container's name, which is made for it and removed with it, and which its user owns whatever the
//! image has at that place. Podman takes the owner when it creates the volume. Docker does not: it copies the image's
//! directory or makes one that is root's, so a volume that the user could not write to is given to them through a
//! second container that is never started (`docker::workspace`).
//!
//! # What is refused
//!
//! A container that would be weaker than its spec is never started: without the limits that were asked (unless the
//! spec accepts that), with capabilities, without `no-new-privileges` or seccomp, with a network, a writable root, a
//! namespace or a device of the host, or mounts that nobody asked for. And what does not carry
//! [`LABEL_OWNER`](fabrica_core::ports::runtime::LABEL_OWNER) is neither stopped nor removed.

pub mod detect;

mod archive;
mod client;
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

pub use detect::{Address, Connected, EngineAddresses, RuntimeChoice, connect};
pub use docker::DockerRuntime;
pub use podman::PodmanRuntime;
