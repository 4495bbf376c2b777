//! The ports: what the orchestration needs from the outside. Their docs are the contract; every adapter passes the
//! conformance suite of its port in `fabrica_core::testing`.

pub mod forge;
pub mod gateway;
pub mod presence;
pub mod runtime;
pub mod store;

pub use forge::{Forge, ForgeError, Publication, PullRequest, PullRequestRequest};
pub use gateway::{Gateway, GatewayAccess, GatewayEndpoint, GatewayError, SessionSink, SinkError};
pub use presence::Presence;
pub use runtime::{ContainerRuntime, RuntimeError};
pub use store::{Store, StoreError};

/// The cause of an adapter's error, kept for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;
