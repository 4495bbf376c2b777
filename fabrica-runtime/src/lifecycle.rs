//! The port over the steps of an engine: the decisions that are the same for both.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{
    BuildRequest, Capabilities, ContainerChange, ContainerName, ContainerSpec, ContainerSummary, Ensured,
    ImageInfo, LABEL_OWNER, LABEL_SPEC, Observation, ProgressSink,
};
use futures::future::try_join_all;
use futures::stream::BoxStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{instrument, warn};

use crate::engine::{Creation, Engine, Facts, Inspected};
use crate::names;
use crate::verify;
use crate::watch;

/// How long an engine may take over one question.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Creating and removing touch the disk: an engine may take so many times as long.
const HEAVY: u32 = 4;
/// How long an image may take.
const IMAGE_PATIENCE: Duration = Duration::from_hours(2);

/// One engine, with all that the port promises.
#[derive(Debug)]
pub(crate) struct Lifecycle<E> {
    pub(crate) engine: Arc<E>,
    patience: Duration,
    facts: Arc<OnceCell<Facts>>,
}

// Not derived: an engine behind an `Arc` need not be `Clone`.
impl<E> Clone for Lifecycle<E> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), patience: self.patience, facts: Arc::clone(&self.facts) }
    }
}

impl<E: Engine> Lifecycle<E> {
    pub(crate) fn new(engine: E) -> Self {
        Self { engine: Arc::new(engine), patience: PATIENCE, facts: Arc::default() }
    }

    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// No engine hangs us: one that does not answer in time is not available.
    async fn within<T>(
        &self,
        action: &str,
        patience: Duration,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        match timeout(patience, call).await {
            Ok(result) => result,
            Err(_) => Err(self.engine.name().silent(action, patience)),
        }
    }

    async fn quick<T>(
        &self,
        action: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.within(action, self.patience, call).await
    }

    async fn heavy<T>(
        &self,
        action: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.within(action, self.patience * HEAVY, call).await
    }

    pub(crate) async fn capabilities(&self) -> Result<Capabilities, RuntimeError> {
        Ok(self.quick("describe itself", self.engine.facts()).await?.capabilities)
    }

    async fn inspect(&self, name: &str) -> Result<Option<Inspected>, RuntimeError> {
        if !names::is_container(name) {
            return Ok(None);
        }
        self.quick("inspect a container", self.engine.inspect(name)).await
    }

    pub(crate) async fn observe(&self, name: &ContainerName) -> Result<Observation, RuntimeError> {
        Ok(self.inspect(name.as_str()).await?.map_or(Observation::Gone, |found| found.observation))
    }

    #[instrument(name = "runtime.container.ensure", skip_all, fields(container.name = %spec.name), err(level = "debug"))]
    pub(crate) async fn ensure(&self, spec: &ContainerSpec) -> Result<Ensured, RuntimeError> {
        self.check_spec(spec)?;
        if let Some(found) = self.inspect(spec.name.as_str()).await? {
            return self.adopt(spec, &found).await;
        }
        if self.image(&spec.image).await?.is_none() {
            let reason = format!("{} does not have it", self.engine.name());
            return Err(RuntimeError::ImageMissing { reference: spec.image.clone(), reason });
        }
        let plan = self.plan(spec).await?;
        match self.make(&plan).await {
            Ok(id) => {
                let begun = self.begin(&plan, &id).await;
                if begun.is_err() {
                    self.clear(&id, spec.name.as_str()).await;
                }
                begun.map(|()| Ensured::Started)
            }
            // Somebody else may have been quicker; engines tell that in many ways, an inspection in one.
            Err(error @ RuntimeError::Unavailable { .. }) => Err(error),
            Err(error) => match self.inspect(spec.name.as_str()).await? {
                Some(found) => self.adopt(spec, &found).await,
                None => Err(error),
            },
        }
    }

    fn check_spec(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let wrong = if !names::is_container(spec.name.as_str()) {
            "its name is not one that engines take"
        } else if spec.user.0 == 0 || spec.user.1 == 0 {
            "it would run as root"
        } else if spec.command.is_empty() {
            "it has no command"
        } else {
            return Ok(());
        };
        Err(self.engine.name().denied(&format!("create container {}", spec.name), wrong, None))
    }

    /// What to create: limits that the engine would not enforce are refused, or left out where that is accepted.
    async fn plan<'a>(&self, spec: &'a ContainerSpec) -> Result<Creation<'a>, RuntimeError> {
        let facts = self.facts.get_or_try_init(|| self.quick("describe itself", self.engine.facts())).await?;
        if !facts.seccomp {
            return Err(self.engine.name().unsupported("the seccomp profile"));
        }
        let (limits, missing) = verify::enforceable(spec.limits, &facts.capabilities);
        if let Some(missing) = missing.filter(|_| !spec.allow_unenforced_limits) {
            return Err(self.engine.name().unsupported(missing));
        }
        let mut labels = spec.labels.clone();
        labels.insert(LABEL_SPEC.to_owned(), spec.fingerprint());
        Ok(Creation { spec, labels, limits })
    }

    /// A fresh volume and a container that has not started. After an error neither is left, unless somebody else's
    /// container has come to use the volume: then the engine refuses to remove it.
    async fn make(&self, plan: &Creation<'_>) -> Result<String, RuntimeError> {
        let name = plan.spec.name.as_str();
        self.discard_volume(name).await?;
        self.quick("create a volume", self.engine.create_volume(name, &plan.labels)).await?;
        match self.heavy("create a container", self.engine.create(plan)).await {
            Ok(id) => Ok(id),
            Err(error) => {
                if self.inspect(name).await?.is_none() {
                    self.quick("remove a volume", self.engine.delete_volume(name)).await?;
                }
                Err(error)
            }
        }
    }

    /// Removes what an earlier attempt may have left, but nobody else's volume.
    async fn discard_volume(&self, name: &str) -> Result<(), RuntimeError> {
        match self.quick("inspect a volume", self.engine.volume(name)).await? {
            None => Ok(()),
            Some(labels) if labels.contains_key(LABEL_OWNER) => {
                self.heavy("remove a volume", self.engine.delete_volume(name)).await
            }
            Some(_) => Err(RuntimeError::AlreadyExists {
                name: ContainerName::from_engine(name),
                difference: format!("a volume of that name has no label {LABEL_OWNER}"),
            }),
        }
    }

    /// Starts a container that has not started, once it is known to be as tight as asked.
    async fn begin(&self, plan: &Creation<'_>, id: &str) -> Result<(), RuntimeError> {
        let Some(found) = self.inspect(id).await? else {
            return Err(RuntimeError::NotFound(plan.spec.name.clone()));
        };
        self.verify(plan.spec, &found)?;
        self.heavy("prepare the workspace", self.engine.prepare_workspace(plan)).await?;
        self.heavy("start a container", self.engine.start(id)).await
    }

    fn verify(&self, spec: &ContainerSpec, found: &Inspected) -> Result<(), RuntimeError> {
        match verify::weakness(spec, &found.terms) {
            None => Ok(()),
            Some(weakness) => Err(self.engine.name().unsupported(weakness)),
        }
    }

    async fn adopt(&self, spec: &ContainerSpec, found: &Inspected) -> Result<Ensured, RuntimeError> {
        if let Some(difference) = difference(spec, &found.labels) {
            return Err(RuntimeError::AlreadyExists { name: spec.name.clone(), difference });
        }
        let begun = match found.observation {
            // Whoever created it may have gone before looking at it.
            Observation::Pending { .. } => self.begin(&self.plan(spec).await?, &found.id).await,
            Observation::Running => self.verify(spec, found),
            Observation::Exited { .. } | Observation::Gone => Ok(()),
        };
        if matches!(begun, Err(RuntimeError::Unsupported { .. })) {
            self.clear(&found.id, spec.name.as_str()).await;
        }
        begun.map(|()| Ensured::Adopted)
    }

    /// Takes back a container that must not be. The error that led here is the one that is told.
    async fn clear(&self, id: &str, volume: &str) {
        let cleared = async {
            self.heavy("remove a container", self.engine.delete_container(id)).await?;
            self.heavy("remove a volume", self.engine.delete_volume(volume)).await
        };
        if let Err(error) = cleared.await {
            warn!(container.name = volume, %error, "could not take back a container that was refused");
        }
    }

    #[instrument(name = "runtime.container.stop", skip_all, fields(container.name = %name), err(level = "debug"))]
    pub(crate) async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<(), RuntimeError> {
        let Some(found) = self.ours(name, "stop").await? else { return Ok(()) };
        if found.observation != Observation::Running {
            return Ok(());
        }
        if !grace.is_zero() {
            self.quick("signal a container", self.engine.signal(&found.id, "SIGTERM")).await?;
            if self.ended_within(&found.id, grace).await? {
                return Ok(());
            }
        }
        self.quick("kill a container", self.engine.signal(&found.id, "SIGKILL")).await?;
        if self.ended_within(&found.id, self.patience).await? {
            return Ok(());
        }
        Err(self.engine.name().silent("kill a container", self.patience))
    }

    /// Asks again and again: Podman's own way to wait polls as well, and neither engine's tells of a container that was
    /// removed meanwhile in the same words.
    async fn ended_within(&self, id: &str, limit: Duration) -> Result<bool, RuntimeError> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(10);
        loop {
            let state = self.inspect(id).await?.map(|found| found.observation);
            if state != Some(Observation::Running) {
                return Ok(true);
            }
            if timeout_at(deadline, sleep(pause)).await.is_err() {
                return Ok(false);
            }
            pause = (pause * 2).min(Duration::from_millis(160));
        }
    }

    /// The container, if it is there. One without our label is not ours to touch.
    async fn ours(&self, name: &ContainerName, action: &str) -> Result<Option<Inspected>, RuntimeError> {
        let found = self.inspect(name.as_str()).await?;
        match found {
            Some(found) if !found.labels.contains_key(LABEL_OWNER) => Err(self.engine.name().denied(
                &format!("{action} container {name}"),
                format!("it has no label {LABEL_OWNER}, so it is not Fabrica's"),
                None,
            )),
            found => Ok(found),
        }
    }

    #[instrument(name = "runtime.container.remove", skip_all, fields(container.name = %name), err(level = "debug"))]
    pub(crate) async fn remove(&self, name: &ContainerName) -> Result<(), RuntimeError> {
        if !names::is_container(name.as_str()) {
            return Ok(());
        }
        if let Some(found) = self.ours(name, "remove").await? {
            self.heavy("remove a container", self.engine.delete_container(&found.id)).await?;
            return self.heavy("remove a volume", self.engine.delete_volume(name.as_str())).await;
        }
        let volume = self.quick("inspect a volume", self.engine.volume(name.as_str())).await?;
        if volume.is_some_and(|labels| labels.contains_key(LABEL_OWNER)) {
            self.heavy("remove a volume", self.engine.delete_volume(name.as_str())).await?;
        }
        Ok(())
    }

    pub(crate) async fn list(&self, owner: &str) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let listed = self.quick("list containers", self.engine.list(owner)).await?;
        let observed = listed.into_iter().map(|line| async move {
            let observation = if line.running { Observation::Running } else { self.observe(&line.name).await? };
            Ok::<_, RuntimeError>(ContainerSummary { name: line.name, labels: line.labels, observation })
        });
        let mut summaries = try_join_all(observed).await?;
        // Between the listing and the question, it went.
        summaries.retain(|summary| summary.observation != Observation::Gone);
        Ok(summaries)
    }

    pub(crate) async fn watch(&self, owner: &str) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
        watch::watch(self.clone(), owner.to_owned()).await
    }

    pub(crate) async fn log_tail(&self, name: &ContainerName, lines: usize) -> Result<Vec<String>, RuntimeError> {
        if lines == 0 || !names::is_container(name.as_str()) {
            return Ok(Vec::new());
        }
        self.quick("tell a container's log", self.engine.log_tail(name.as_str(), lines)).await
    }

    pub(crate) async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        if !names::is_image(reference) {
            return Ok(None);
        }
        self.quick("inspect an image", self.engine.image(reference)).await
    }

    pub(crate) async fn pull(&self, reference: &str, progress: &ProgressSink) -> Result<ImageInfo, RuntimeError> {
        let missing =
            |reason: &str| RuntimeError::ImageMissing { reference: reference.to_owned(), reason: reason.to_owned() };
        if !names::is_image(reference) {
            return Err(missing("that is not the name of an image"));
        }
        self.within("pull an image", IMAGE_PATIENCE, self.engine.pull(reference, progress)).await?;
        self.image(reference).await?.ok_or_else(|| missing("the engine pulled it and does not have it"))
    }

    pub(crate) async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<ImageInfo, RuntimeError> {
        self.check_reference(reference)?;
        self.within("import an image", IMAGE_PATIENCE, self.engine.import(archive, reference, progress)).await?;
        self.made(reference).await
    }

    pub(crate) async fn build(&self, request: &BuildRequest, progress: &ProgressSink) -> Result<ImageInfo, RuntimeError> {
        self.check_reference(&request.reference)?;
        self.within("build an image", IMAGE_PATIENCE, self.engine.build(request, progress)).await?;
        self.made(&request.reference).await
    }

    fn check_reference(&self, reference: &str) -> Result<(), RuntimeError> {
        if names::is_image(reference) && !reference.contains('@') {
            return Ok(());
        }
        let reason = format!("{} takes no image of that name", self.engine.name());
        Err(RuntimeError::BuildFailed { reference: reference.to_owned(), reason })
    }

    async fn made(&self, reference: &str) -> Result<ImageInfo, RuntimeError> {
        self.image(reference).await?.ok_or_else(|| RuntimeError::BuildFailed {
            reference: reference.to_owned(),
            reason: "the engine reported no error and does not have the image".to_owned(),
        })
    }
}

/// What distinguishes a container from the one that the spec asks for. Its image may have given it further labels.
fn difference(spec: &ContainerSpec, labels: &BTreeMap<String, String>) -> Option<String> {
    for (key, value) in spec.labels.iter().filter(|(key, _)| *key != LABEL_SPEC) {
        match labels.get(key) {
            Some(found) if found == value => {}
            Some(found) => return Some(format!("its label {key} is {found:?}, not {value:?}")),
            None => return Some(format!("it has no label {key}")),
        }
    }
    match labels.get(LABEL_SPEC) {
        Some(found) if *found == spec.fingerprint() => None,
        Some(_) => Some("it was created from another spec".to_owned()),
        None => Some(format!("it has no label {LABEL_SPEC}")),
    }
}
