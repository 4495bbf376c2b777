//! What an operator decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::ids::WorkerId;
use crate::plan::RepositoryPolicy;
use crate::ports::runtime::ResourceLimits;
use crate::protocol::Identity;

/// What an operator decides about an orchestrator.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The name of this worker, unique among those that share the store.
    pub worker: WorkerId,
    /// The name of this installation: the value of the label that marks its containers.
    pub owner: String,
    /// How many sessions run at once here; at least 1.
    pub concurrency: usize,
    /// How long a lease lasts without renewal; it is renewed three times in that span. At least one second.
    pub lease: Duration,
    /// How often a worker looks for sessions although nothing woke it.
    pub poll: Duration,
    /// How long a sandbox has between being asked to end and being killed. The runner pushes committed work then.
    pub stop_grace: Duration,
    /// How long an engine may not answer before an attempt counts as lost.
    pub engine_patience: Duration,
    /// How many attempts a session has whose plan does not say; at least 1.
    pub attempts: u32,
    /// The pause before a lost attempt is repeated; it doubles with every further one, up to five minutes.
    pub retry_delay: Duration,
    /// Which repositories are accepted.
    pub repositories: RepositoryPolicy,
    /// Who the commits are by.
    pub committer: Identity,
    /// How many commits of history are cloned; `None` is all of it.
    pub clone_depth: Option<u32>,
    /// What sandboxes are like.
    pub sandbox: SandboxOptions,
}

impl Options {
    /// Options with the usual values for a worker of that name and a runner binary at that path.
    pub fn new(worker: WorkerId, runner: impl Into<PathBuf>) -> Self {
        Self {
            worker,
            owner: "fabrica".into(),
            concurrency: 4,
            lease: Duration::from_mins(1),
            poll: Duration::from_secs(5),
            stop_grace: Duration::from_secs(40),
            engine_patience: Duration::from_secs(30),
            attempts: 2,
            retry_delay: Duration::from_secs(5),
            repositories: RepositoryPolicy::default(),
            committer: Identity::default(),
            clone_depth: Some(50),
            sandbox: SandboxOptions::new(runner),
        }
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
