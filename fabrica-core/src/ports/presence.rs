//! Presence: which workers are known to be dead, so that nobody has to wait for their leases to run out.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::ids::WorkerId;

/// Knows which workers have died.
///
/// A worker that only does not answer is not dead: it may be frozen and come back. What counts as proof is that its
/// process is gone, for example because the operating system gave up its lock on a file.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Presence: Debug + Send + Sync {
    /// The workers whose processes are proven to be gone and that were not buried yet.
    async fn dead(&self) -> Vec<WorkerId>;

    /// Forgets a dead worker: its leases are released.
    async fn bury(&self, worker: &WorkerId);
}
