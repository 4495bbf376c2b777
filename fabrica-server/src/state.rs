//! What the handlers share.

use std::sync::Arc;

use fabrica_core::clock::{Entropy, SystemEntropy};
use fabrica_core::orchestrator::Orchestrator;
use fabrica_core::secrets::TokenHash;

use tokio::sync::Semaphore;

use crate::guard::HostPolicy;

/// How many transcripts are read and cleaned of credentials at once: a few keep the database and the processors busy, and
/// everybody else has to be answered meanwhile.
const TRANSCRIPTS: usize = 4;

/// What the handlers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) token: TokenHash,
    pub(crate) hosts: Arc<HostPolicy>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// The turns of those who read transcripts.
    pub(crate) transcripts: Arc<Semaphore>,
}

impl AppState {
    /// The API over an orchestrator, for those who have the token with this hash, under the names of the policy.
    pub fn new(orchestrator: Orchestrator, token: TokenHash, hosts: HostPolicy) -> Self {
        Self {
            orchestrator,
            token,
            hosts: Arc::new(hosts),
            entropy: Arc::new(SystemEntropy),
            transcripts: Arc::new(Semaphore::new(TRANSCRIPTS)),
        }
    }

    /// Another source of randomness than the system's, for request ids.
    #[must_use]
    pub fn with_entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }
}
