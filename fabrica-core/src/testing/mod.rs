//! For tests of this crate and of its adapters: mocks of the ports, in-memory fakes, and the conformance suites that
//! every adapter must pass.

pub mod runtime_conformance;
pub mod sandbox_fake;
pub mod store_conformance;
pub mod store_fake;

pub use crate::ports::forge::MockForge;
pub use crate::ports::gateway::MockGateway;
pub use crate::ports::presence::MockPresence;
pub use crate::ports::runtime::MockContainerRuntime;
pub use crate::ports::store::MockStore;
pub use sandbox_fake::{FakeSandbox, Script, ScriptEnd};
pub use store_fake::FakeStore;
