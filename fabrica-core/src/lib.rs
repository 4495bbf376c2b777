//! The domain and the orchestration of Fabrica.

pub mod clock;
pub mod failure;
pub mod ids;
pub mod message;
pub mod orchestrator;
pub mod plan;
pub mod ports;
pub mod pricing;
pub mod protocol;
pub mod secrets;
pub mod session;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
