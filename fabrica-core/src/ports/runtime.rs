//! The container runtime: backends report facts, the orchestration decides what they mean.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Source;
use crate::failure::Failure;
use crate::ids::Fence;

/// The label that every container and volume of Fabrica carries; its value is the installation's name.
pub const LABEL_OWNER: &str = "fabrica.owner";
/// The label with the session id.
pub const LABEL_SESSION: &str = "fabrica.session";
/// The label with the attempt number.
pub const LABEL_ATTEMPT: &str = "fabrica.attempt";
/// The label with the directory of the host through which the container reaches its gateway.
pub const LABEL_GATEWAY: &str = "fabrica.gateway";
/// The label with [`ContainerSpec::fingerprint`].
pub const LABEL_SPEC: &str = "fabrica.spec";

/// The name of a container: deterministic, so that a restarted Fabrica finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerName(String);

impl ContainerName {
    /// The name for an attempt: `fabrica-<session id>-<attempt>`.
    pub fn of(fence: Fence) -> Self {
        Self(format!("fabrica-{}-{}", fence.session, fence.attempt))
    }

    /// Wraps a name that an engine reported.
    pub fn from_engine(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container should be. It always runs without network, without capabilities, with `no-new-privileges`, with a
/// read-only root and with the engine's default seccomp profile: those are not options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name.
    pub name: ContainerName,
    /// Its labels, [`LABEL_OWNER`] among them. Adapters add [`LABEL_SPEC`].
    pub labels: BTreeMap<String, String>,
    /// The image. It must be there: `ensure` never pulls.
    pub image: String,
    /// Program and arguments; the image's entry point is not used.
    pub command: Vec<String>,
    /// The environment, beside the image's own.
    pub environment: BTreeMap<String, String>,
    /// User and group ids inside. Never 0.
    pub user: (u32, u32),
    /// Where the program starts.
    pub working_directory: String,
    /// Directories and files of the host.
    pub binds: Vec<Bind>,
    /// Where a fresh volume is mounted, owned by the user, removed with the container. Its name is the container's.
    pub workspace: String,
    /// Memory file systems, writable and executable for the user.
    pub tmpfs: Vec<Tmpfs>,
    /// Limits.
    pub limits: ResourceLimits,
    /// Accept that the engine does not enforce a limit, instead of [`RuntimeError::Unsupported`].
    pub allow_unenforced_limits: bool,
}

/// A directory or file of the host in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute, on the engine's host.
    pub host: PathBuf,
    /// Absolute, inside.
    pub container: String,
    /// Whether the container may write.
    pub read_only: bool,
}

/// A memory file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute, inside. If the image has that directory, engines take over its permissions: one that is not writable for
    /// everybody does not become so.
    pub container: String,
    /// In bytes.
    pub size: u64,
}

/// What a container may use. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct ResourceLimits {
    /// Bytes; swap counts as memory.
    pub memory: Option<u64>,
    /// Processors, may be a fraction.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// What an engine is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact about an engine, independent of the others"
)]
pub struct Capabilities {
    /// `docker` or `podman`.
    pub engine: String,
    /// The engine's version.
    pub version: String,
    /// Whether the engine runs without root rights.
    pub rootless: bool,
    /// The user id on the host whom the engine's containers belong to, where that is known: the directory with the
    /// sockets must belong to it.
    pub host_user: Option<u32>,
    /// Whether it enforces a memory limit.
    pub memory_limit: bool,
    /// Whether it enforces a limit of processors.
    pub cpu_limit: bool,
    /// Whether it enforces a limit of processes.
    pub pids_limit: bool,
}

/// What became of `ensure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// The container was created and started.
    Started,
    /// A container of the same name, labels and fingerprint was there; it was started if it had not been.
    Adopted,
}

/// What an engine says about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It exists and has not started.
    Pending {
        /// The engine's word for it.
        reason: String,
    },
    /// It runs (or is paused).
    Running,
    /// It ended.
    Exited {
        /// The exit code; 128 plus the signal's number if a signal ended it.
        code: i64,
        /// Whether the engine says that memory ran out. `false` does not prove the contrary.
        out_of_memory: bool,
        /// The engine's error text; empty if it has none.
        reason: String,
    },
    /// There is no such container.
    Gone,
}

/// A change that `watch` saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerChange {
    /// The container.
    pub name: ContainerName,
    /// What is true of it now.
    pub observation: Observation,
}

/// A container of ours in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Its name.
    pub name: ContainerName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is true of it.
    pub observation: Observation,
}

/// An image that an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The engine's id.
    pub id: String,
    /// Size in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A step of a pull, an import or a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageProgress {
    /// A line for people: the engine's own words.
    pub message: String,
    /// Bytes done and in all, where the engine tells.
    pub bytes: Option<(u64, u64)>,
}

/// Where the progress of an image's making is told.
pub type ProgressSink = std::sync::Arc<dyn Fn(ImageProgress) + Send + Sync>;

/// An image to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// A directory with the Dockerfile and all that it copies.
    pub context: PathBuf,
    /// The name and tag to give.
    pub reference: String,
    /// The build's arguments.
    pub arguments: BTreeMap<String, String>,
}

/// A container engine.
///
/// All calls are idempotent where that makes sense, and none assumes that an earlier one came through.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ContainerRuntime: Debug + Send + Sync {
    /// What the engine is and can do.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if it does not answer.
    async fn capabilities(&self) -> Result<Capabilities, RuntimeError>;

    /// Creates and starts a container, with its workspace volume. After the creation, what the engine says about the
    /// container is compared with the spec; a container that is weaker than asked (a limit, a capability, a mount) is
    /// removed and refused. Idempotent by name: an existing container with the same labels and fingerprint is adopted.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ImageMissing`], [`RuntimeError::AlreadyExists`] for a container of that name that is not this
    /// one, [`RuntimeError::Unsupported`] for a limit that would not be enforced, [`RuntimeError::Unavailable`], …
    /// After an error, no half-made container of this spec is left, unless the engine went away.
    async fn ensure(&self, spec: &ContainerSpec) -> Result<Ensured, RuntimeError>;

    /// What is true of a container.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer. A container that is not there is
    /// [`Observation::Gone`], not an error.
    async fn observe(&self, name: &ContainerName) -> Result<Observation, RuntimeError>;

    /// The changes of containers with that value of [`LABEL_OWNER`], as they come. The stream may miss changes while
    /// the engine is away; it reconnects by itself, and every few seconds it reports what is true of each such
    /// container, so that a reader catches up. It ends when it is dropped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer at first.
    async fn watch(&self, owner: &str) -> Result<BoxStream<'static, ContainerChange>, RuntimeError>;

    /// Asks a container to end (TERM), and kills it after the grace. Returns once it has ended. A container that has
    /// ended or is gone is fine.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer.
    async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<(), RuntimeError>;

    /// Removes a container, killing it if it runs, and its workspace volume. Those that are not there are fine.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer.
    async fn remove(&self, name: &ContainerName) -> Result<(), RuntimeError>;

    /// The last lines that a container wrote, oldest first; for diagnosis only, lines may be missing. A container that
    /// is gone has none.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer.
    async fn log_tail(&self, name: &ContainerName, lines: usize) -> Result<Vec<String>, RuntimeError>;

    /// All containers with that value of [`LABEL_OWNER`], also those that have ended.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer.
    async fn list(&self, owner: &str) -> Result<Vec<ContainerSummary>, RuntimeError>;

    /// An image, if the engine has it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unavailable`] if the engine does not answer.
    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError>;

    /// Pulls an image from its registry.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ImageMissing`] with the registry's reason.
    async fn pull(&self, reference: &str, progress: ProgressSink) -> Result<ImageInfo, RuntimeError>;

    /// Makes an image of one layer out of a file system in a tar file.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::BuildFailed`] with the engine's reason.
    async fn import(
        &self,
        archive: &std::path::Path,
        reference: &str,
        progress: ProgressSink,
    ) -> Result<ImageInfo, RuntimeError>;

    /// Builds an image.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::BuildFailed`] with the last lines of the build.
    async fn build(&self, request: &BuildRequest, progress: ProgressSink) -> Result<ImageInfo, RuntimeError>;
}

/// Why an engine did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The container is not there.
    #[error("container {0} is not there")]
    NotFound(ContainerName),
    /// A container of that name is there and is not the one that was asked for.
    #[error("a container named {name} exists and is another one: {difference}")]
    AlreadyExists {
        /// The name.
        name: ContainerName,
        /// What differs.
        difference: String,
    },
    /// The image is not there and was not to be had.
    #[error("image {reference} is not there: {reason}")]
    ImageMissing {
        /// The image.
        reference: String,
        /// The engine's or registry's reason.
        reason: String,
    },
    /// A build or an import failed.
    #[error("image {reference} could not be made: {reason}")]
    BuildFailed {
        /// The image.
        reference: String,
        /// The last lines of the engine's output.
        reason: String,
    },
    /// The engine does not answer.
    #[error("{engine} does not answer: {message}")]
    Unavailable {
        /// `docker` or `podman`, with its address.
        engine: String,
        /// What was seen.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// The engine cannot do that.
    #[error("{engine} cannot enforce {capability} here")]
    Unsupported {
        /// The engine.
        engine: String,
        /// What it cannot do, for example `the memory limit`.
        capability: String,
    },
    /// The engine refused.
    #[error("{engine} refused to {action}: {message}")]
    Denied {
        /// The engine.
        engine: String,
        /// What was asked.
        action: String,
        /// Its words.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
}

impl RuntimeError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "container.not_found",
            Self::AlreadyExists { .. } => "container.already_exists",
            Self::ImageMissing { .. } => "image.missing",
            Self::BuildFailed { .. } => "image.build_failed",
            Self::Unavailable { .. } => "engine.unavailable",
            Self::Unsupported { .. } => "engine.unsupported",
            Self::Denied { .. } => "engine.denied",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NotFound(_))
    }

    /// What a person is told.
    pub fn failure(&self) -> Failure {
        let advice = match self {
            Self::NotFound(_) => "Somebody or something removed the container; run the plan again.",
            Self::AlreadyExists { .. } => {
                "Remove that container, if it is yours to remove, and run the plan again."
            }
            Self::ImageMissing { .. } => {
                "Build the default image with `fabrica image build`, or pull the image that the plan names, and run the plan again."
            }
            Self::BuildFailed { .. } => "Read the last lines of the build, mend their cause and build again.",
            Self::Unavailable { .. } => "Start the container engine and check with `fabrica doctor`.",
            Self::Unsupported { .. } => {
                "Use an engine that enforces the limit (Docker, rootful Podman, or rootless Podman on cgroup v2), or accept the risk with --allow-unenforced-limits."
            }
            Self::Denied { message, .. } if message.contains("rlimit") => {
                "Podman raises limits that may not be raised on this machine: set `default_ulimits` in containers.conf to what is allowed. In a checkout of Fabrica, `source scripts/podman-environment.sh` does it for a shell."
            }
            Self::Denied { .. } => "Read the engine's reason; `fabrica doctor` checks the usual ones.",
        };
        Failure {
            retryable: self.retryable(),
            ..Failure::new(self.code(), self.to_string(), advice)
        }
    }
}

impl ContainerSpec {
    /// A short hash of everything that the spec says, without the environment's values: what [`LABEL_SPEC`] carries.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest as _, Sha256};
        let mut shown = self.clone();
        // Tokens stand in the environment; a label is readable for everybody who may ask the engine.
        for value in shown.environment.values_mut() {
            value.clear();
        }
        shown.labels.remove(LABEL_SPEC);
        let text = serde_json::to_vec(&shown).unwrap_or_default();
        let digest = Sha256::digest(text);
        digest
            .iter()
            .take(8)
            .fold(String::new(), |shown, byte| shown + &format!("{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_nobody_may_raise_have_an_advice_of_their_own() {
        let advice = |message: &str| {
            let refused = RuntimeError::Denied {
                engine: "podman".into(),
                action: "start a container".into(),
                message: message.into(),
                source: None,
            };
            refused.failure().advice
        };
        assert!(advice("error setting rlimit type 7: operation not permitted").contains("default_ulimits"));
        assert!(advice("no such device").contains("fabrica doctor"));
    }
}
