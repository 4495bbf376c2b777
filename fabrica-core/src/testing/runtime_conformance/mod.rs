//! What every [`ContainerRuntime`] must do, as public functions: one promise each, against a real engine.
//!
//! An adapter's test suite calls each function through [`Rig::run`], which removes the containers afterwards whatever
//! happened. The image is any that has a shell and the usual small programs (busybox is enough), a `/workspace` that
//! user 1000 may write to, a `/home` that only root may, and no `/elsewhere`.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a conformance suite fails like a test: by a panic that says what was expected"
)]
#![expect(
    clippy::missing_panics_doc,
    reason = "every case panics if the promise in its name is broken"
)]

pub mod files;
pub mod hardening;
pub mod images;
pub mod lifecycle;
pub mod limits;
pub mod logs;
pub mod stopping;
pub mod watching;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, sleep};

use crate::clock::{Entropy as _, SystemEntropy};
use crate::ports::runtime::{
    ContainerName, ContainerRuntime, ContainerSpec, Ensured, LABEL_OWNER, LABEL_SESSION, Observation,
    ResourceLimits, Tmpfs,
};

/// How long anything may take that an engine does by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a case runs on.
#[derive(Debug)]
pub struct Rig {
    /// The engine.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// An image that it has.
    pub image: String,
    /// The value of [`LABEL_OWNER`] of this case's containers: nobody else's.
    pub owner: String,
    /// An empty directory of the engine's host that every user may enter and write to.
    pub scratch: PathBuf,
    number: AtomicU32,
}

impl Rig {
    /// A rig with an owner of its own.
    pub fn new(
        runtime: Arc<dyn ContainerRuntime>,
        image: impl Into<String>,
        scratch: impl Into<PathBuf>,
    ) -> Self {
        let mut random = [0; 8];
        SystemEntropy.fill(&mut random);
        let random = u64::from_ne_bytes(random);
        Self {
            runtime,
            image: image.into(),
            owner: format!("conformance-{:012x}", random & 0xffff_ffff_ffff),
            scratch: scratch.into(),
            number: AtomicU32::new(0),
        }
    }

    /// Runs a case, and removes its containers even if it failed.
    pub async fn run(self, case: impl AsyncFnOnce(&Self)) {
        let outcome = AssertUnwindSafe(case(&self)).catch_unwind().await;
        let numbers = self.number.load(Ordering::Relaxed);
        let mut left = Ok(());
        for number in 1..=numbers {
            let removed = self.runtime.remove(&self.named(number)).await;
            left = left.and(removed);
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        left.expect("the case's containers can be removed");
    }

    fn named(&self, number: u32) -> ContainerName {
        ContainerName::from_engine(format!("fabrica-{}-{number}", self.owner))
    }

    /// A container of its own name that runs a shell script, without limits.
    pub fn shell(&self, script: &str) -> ContainerSpec {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        ContainerSpec {
            name: self.named(number),
            labels: BTreeMap::from([
                (LABEL_OWNER.to_owned(), self.owner.clone()),
                (LABEL_SESSION.to_owned(), format!("session {number}")),
            ]),
            image: self.image.clone(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            environment: BTreeMap::new(),
            user: (1000, 1000),
            working_directory: "/".to_owned(),
            binds: Vec::new(),
            workspace: "/workspace".to_owned(),
            tmpfs: vec![Tmpfs {
                container: "/tmp".to_owned(),
                size: 1 << 20,
            }],
            limits: ResourceLimits::default(),
            allow_unenforced_limits: false,
        }
    }

    /// A container that runs until it is stopped, and ends at once when it is asked to.
    pub fn idle(&self) -> ContainerSpec {
        self.shell("trap 'exit 0' TERM; while :; do sleep 0.1; done")
    }

    async fn start(&self, spec: &ContainerSpec) {
        let ensured = self.runtime.ensure(spec).await.expect("the container starts");
        assert_eq!(ensured, Ensured::Started, "{} was not there before", spec.name);
    }

    async fn observe(&self, spec: &ContainerSpec) -> Observation {
        self.runtime
            .observe(&spec.name)
            .await
            .expect("the engine answers")
    }

    /// Runs a container to its end; its exit code and what it wrote.
    async fn finish(&self, spec: &ContainerSpec) -> (i64, Vec<String>) {
        self.start(spec).await;
        self.end_of(spec).await
    }

    async fn end_of(&self, spec: &ContainerSpec) -> (i64, Vec<String>) {
        let end = self.until(spec, |seen| {
            !matches!(seen, Observation::Pending { .. } | Observation::Running)
        });
        let Observation::Exited { code, .. } = end.await else {
            panic!("{} went away", spec.name)
        };
        (code, self.log(spec).await)
    }

    async fn log(&self, spec: &ContainerSpec) -> Vec<String> {
        self.runtime
            .log_tail(&spec.name, 200)
            .await
            .expect("the engine tells the log")
    }

    /// What a script wrote that must succeed.
    async fn output(&self, spec: &ContainerSpec) -> Vec<String> {
        let (code, log) = self.finish(spec).await;
        assert_eq!(code, 0, "{log:#?}");
        log
    }

    async fn until(&self, spec: &ContainerSpec, wanted: impl Fn(&Observation) -> bool) -> Observation {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.observe(spec).await;
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{} is still {seen:?}", spec.name);
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_logged(&self, spec: &ContainerSpec, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log(spec).await;
            if log.iter().any(|one| one == line) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} did not write {line:?}: {log:#?}",
                spec.name
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}
