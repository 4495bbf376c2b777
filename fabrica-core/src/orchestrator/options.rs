//! What an operator decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{SessionId, WorkerId};
use crate::plan::RepositoryPolicy;
use crate::ports::runtime::ResourceLimits;
use crate::ports::store::{ClaimLimits, Deadline, Retention};
use crate::pricing::PriceList;
use crate::protocol::Identity;

/// What an operator decides about an orchestrator.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The name of this worker, unique among those that share the store.
    pub worker: WorkerId,
    /// The name of this installation: the value of the label that marks its containers.
    pub owner: String,
    /// How many sessions this worker starts to run at once; at least 1. Those that it takes over from a worker that has
    /// ended come on top.
    pub concurrency: usize,
    /// How many sessions may run at once over all workers.
    pub limits: ClaimLimits,
    /// How long a lease lasts without renewal; it is renewed three times in that span. At least one second. After that
    /// time another worker takes over from one that does not answer.
    pub lease: Duration,
    /// How often a worker looks for sessions although nothing woke it.
    pub poll: Duration,
    /// How often the engine's containers are compared with the database.
    pub reconcile: Duration,
    /// The least time between the starts of two sandboxes.
    pub start_interval: Duration,
    /// How long an agent may say nothing before a message tells of it. It goes on all the same, up to its wall time.
    pub stall_after: Duration,
    /// How long the containers of failed sessions are kept, stopped, for somebody to look at.
    pub keep_failed: Duration,
    /// How long an agent's question waits for its answer, and what happens then, where the plan does not say; `None` waits
    /// for ever.
    pub question_deadline: Option<Deadline>,
    /// How often what an agent did is made safe outside of its sandbox: what is lost at most when a sandbox is. At least a
    /// second; `None` is only before it asks and when it is stopped.
    pub checkpoint: Option<Duration>,
    /// How long what ended sessions left in the database is kept.
    pub retention: Retention,
    /// How long a sandbox has between being asked to end and being killed. The runner pushes committed work then.
    pub stop_grace: Duration,
    /// How long an engine may not answer before an attempt counts as lost.
    pub engine_patience: Duration,
    /// How many attempts a session has whose plan does not say; at least 1.
    pub attempts: u32,
    /// The pause before a lost attempt is repeated; it doubles with every further one, up to five minutes.
    pub retry_delay: Duration,
    /// How long an agent pauses before it asks a model again that is overloaded or limits the rate, in whole seconds and at
    /// least one; it doubles every time, up to two minutes.
    pub model_pause: Duration,
    /// Where people reach this Fabrica, such as `https://fabrica.example.com`: pull requests link to their session there.
    pub public_url: Option<String>,
    /// What models cost: for plans with a budget in US dollars.
    pub prices: Arc<PriceList>,
    /// Which repositories are accepted.
    pub repositories: RepositoryPolicy,
    /// Who the commits are by.
    pub committer: Identity,
    /// The public half of the key that the gateway signs their commits with, as in `authorized_keys`; `None` leaves them
    /// unsigned.
    pub signing_key: Option<String>,
    /// How many commits of history are cloned; `None` is all of it.
    pub clone_depth: Option<u32>,
    /// What sandboxes are like.
    pub sandbox: SandboxOptions,
}

impl Options {
    /// How many attempts a session has where neither the plan nor the operator says.
    pub const ATTEMPTS: u32 = 2;

    /// Options with the usual values for a worker of that name and a runner binary at that path.
    pub fn new(worker: WorkerId, runner: impl Into<PathBuf>) -> Self {
        Self {
            worker,
            owner: "fabrica".into(),
            concurrency: 4,
            limits: ClaimLimits::default(),
            lease: Duration::from_secs(15),
            poll: Duration::from_secs(5),
            reconcile: Duration::from_secs(5),
            start_interval: Duration::from_millis(100),
            stall_after: Duration::from_mins(5),
            keep_failed: Duration::ZERO,
            question_deadline: None,
            checkpoint: Some(Duration::from_mins(5)),
            retention: Retention::default(),
            stop_grace: Duration::from_secs(40),
            engine_patience: Duration::from_secs(30),
            attempts: Self::ATTEMPTS,
            retry_delay: Duration::from_secs(5),
            model_pause: Duration::from_secs(30),
            public_url: None,
            prices: Arc::new(PriceList::builtin()),
            repositories: RepositoryPolicy::default(),
            committer: Identity::default(),
            signing_key: None,
            clone_depth: Some(50),
            sandbox: SandboxOptions::new(runner),
        }
    }

    /// Where people look at a session, if they can.
    pub fn link(&self, session: SessionId) -> Option<String> {
        let url = self.public_url.as_ref()?;
        Some(format!("{}/sessions/{session}", url.trim_end_matches('/')))
    }
}

/// What an operator decides about sandboxes.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxOptions {
    /// The image of plans that name none.
    pub image: String,
    /// The static runner binary on the engine's host; it is mounted read-only.
    pub runner: PathBuf,
    /// A `claude` binary on the engine's host, mounted read-only for images that have none.
    pub agent: Option<PathBuf>,
    /// User and group ids inside; never 0.
    pub user: (u32, u32),
    /// Wall time of an attempt whose plan does not say.
    pub wall: Duration,
    /// Limits where the plan does not say.
    pub limits: ResourceLimits,
    /// Accept engines that do not enforce limits.
    pub allow_unenforced_limits: bool,
    /// Size of `/tmp` in bytes; it counts as memory.
    pub tmp_bytes: u64,
    /// Size of the agent's home in bytes; it counts as memory.
    pub home_bytes: u64,
    /// More environment for every sandbox. No secrets: the agent can read it.
    pub environment: BTreeMap<String, String>,
}

impl SandboxOptions {
    /// The usual values.
    pub fn new(runner: impl Into<PathBuf>) -> Self {
        const GIB: u64 = 1024 * 1024 * 1024;
        Self {
            image: "fabrica/agent:latest".into(),
            runner: runner.into(),
            agent: None,
            user: (1000, 1000),
            wall: Duration::from_hours(1),
            limits: ResourceLimits {
                memory: Some(4 * GIB),
                cpus: Some(2.0),
                pids: Some(2_048),
            },
            allow_unenforced_limits: false,
            tmp_bytes: GIB,
            home_bytes: GIB,
            environment: BTreeMap::new(),
        }
    }
}
