//! What the two engines have in common: the small steps that [`Lifecycle`](crate::lifecycle::Lifecycle) puts together.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use async_trait::async_trait;
use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{
    BuildRequest, Capabilities, ContainerName, ContainerSpec, ImageInfo, Observation, ProgressSink,
    ResourceLimits,
};
use futures::stream::BoxStream;

use crate::error::EngineName;

/// What the engine is, beyond what the port tells.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) capabilities: Capabilities,
    /// Whether containers get a seccomp profile unless they ask for none.
    pub(crate) seccomp: bool,
}

/// A container as an engine describes it.
#[derive(Debug, Clone)]
pub(crate) struct Inspected {
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) observation: Observation,
    pub(crate) terms: Terms,
}

/// What holds a container in: in the same words for both engines, so that one function checks it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact of an inspection, not a state"
)]
pub(crate) struct Terms {
    pub(crate) memory: i64,
    pub(crate) nano_cpus: i64,
    pub(crate) pids: i64,
    pub(crate) read_only_root: bool,
    pub(crate) privileged: bool,
    pub(crate) no_capabilities: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_off: bool,
    pub(crate) network: String,
    pub(crate) user: String,
    /// Namespaces that are the host's: `pid`, `ipc`, ….
    pub(crate) host_namespaces: Vec<&'static str>,
    pub(crate) devices: usize,
    pub(crate) mounts: Vec<MountFact>,
    pub(crate) tmpfs: Vec<String>,
}

/// A mount as an engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFact {
    pub(crate) kind: MountKind,
    /// The volume's name or the host's path.
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) writable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountKind {
    Bind,
    Volume,
    Other,
}

/// A line of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: ContainerName,
    pub(crate) labels: BTreeMap<String, String>,
    /// Known without another question: only for those that run.
    pub(crate) running: bool,
}

/// The steps of an engine. Each is one call or a few, idempotent where the name says so, and none decides anything.
#[async_trait]
pub(crate) trait Engine: Debug + Send + Sync + 'static {
    fn name(&self) -> &EngineName;

    async fn facts(&self) -> Result<Facts, RuntimeError>;

    async fn inspect(&self, container: &str) -> Result<Option<Inspected>, RuntimeError>;

    /// Creates, does not start. The volume is there. Returns the container's id.
    async fn create(&self, plan: &Creation<'_>) -> Result<String, RuntimeError>;

    /// Makes the fresh volume the user's, where the engine does not do so by itself. Before the first start.
    async fn prepare_workspace(&self, plan: &Creation<'_>) -> Result<(), RuntimeError>;

    /// Starts; one that runs is fine.
    async fn start(&self, container: &str) -> Result<(), RuntimeError>;

    /// Sends a signal; one that has ended or is gone is fine.
    async fn signal(&self, container: &str, signal: &str) -> Result<(), RuntimeError>;

    /// Removes by force; one that is gone is fine.
    async fn delete_container(&self, container: &str) -> Result<(), RuntimeError>;

    /// The volume's labels, if it is there.
    async fn volume(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, RuntimeError>;

    /// Creates the workspace's volume, with the container's name.
    async fn create_volume(&self, plan: &Creation<'_>) -> Result<(), RuntimeError>;

    /// Removes a volume; one that is gone is fine.
    async fn delete_volume(&self, name: &str) -> Result<(), RuntimeError>;

    async fn list(&self, owner: &str) -> Result<Vec<Listed>, RuntimeError>;

    /// The names of containers with that owner to which something happens. Connects when first polled; ends with the
    /// connection.
    fn events(&self, owner: &str) -> BoxStream<'static, Result<ContainerName, RuntimeError>>;

    async fn log_tail(&self, container: &str, lines: usize) -> Result<Vec<String>, RuntimeError>;

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError>;

    /// Pulls; what goes wrong is the reason.
    async fn pull(&self, reference: &str, progress: &ProgressSink) -> Result<(), RuntimeError>;

    async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError>;

    async fn build(&self, request: &BuildRequest, progress: &ProgressSink) -> Result<(), RuntimeError>;
}

/// What is to be created: the spec, with all labels, and with the limits that the engine enforces.
#[derive(Debug, Clone)]
pub(crate) struct Creation<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) limits: ResourceLimits,
}

impl Creation<'_> {
    /// `uid:gid`
    pub(crate) fn user(&self) -> String {
        user(self.spec)
    }

    /// Processors in thousand-millionths.
    pub(crate) fn nano_cpus(&self) -> Option<i64> {
        self.limits.cpus.map(nano_cpus)
    }
}

pub(crate) fn user(spec: &ContainerSpec) -> String {
    format!("{}:{}", spec.user.0, spec.user.1)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a number of processors times 10⁹ is far below 2⁶³"
)]
pub(crate) fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

/// The options of a memory file system: executable, and writable for every user, since inside there is only one.
pub(crate) fn tmpfs_options(size: u64) -> Vec<String> {
    let mut options: Vec<String> = ["rw", "exec", "nosuid", "nodev", "mode=1777"]
        .map(str::to_owned)
        .into();
    options.push(format!("size={size}"));
    options
}

pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: Option<i64>) -> u64 {
    u64::try_from(number.unwrap_or(0)).unwrap_or(0)
}
