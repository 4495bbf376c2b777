//! Creating, checking, starting and adopting.

use std::collections::BTreeMap;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{
    ContainerName, ContainerSpec, Ensured, LABEL_OWNER, LABEL_SPEC, Observation,
};
use tracing::{instrument, warn};

use super::Lifecycle;
use crate::engine::{Creation, Engine, Inspected};
use crate::{names, verify};

impl<E: Engine> Lifecycle<E> {
    #[instrument(name = "runtime.container.ensure", skip_all, fields(container.name = %spec.name), err(level = "debug"))]
    pub(crate) async fn ensure(&self, spec: &ContainerSpec) -> Result<Ensured, RuntimeError> {
        self.check_spec(spec)?;
        let _turn = self.turn(&spec.name).lock().await;
        if let Some(found) = self.inspect(spec.name.as_str()).await? {
            return self.adopt(spec, &found).await;
        }
        if self.image(&spec.image).await?.is_none() {
            let reason = format!("{} does not have it", self.engine.name());
            return Err(RuntimeError::ImageMissing {
                reference: spec.image.clone(),
                reason,
            });
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
        Err(self
            .engine
            .name()
            .denied(&format!("create container {}", spec.name), wrong, None))
    }

    /// What to create: limits that the engine would not enforce are refused, or left out where that is accepted.
    async fn plan<'a>(&self, spec: &'a ContainerSpec) -> Result<Creation<'a>, RuntimeError> {
        let facts = self
            .facts
            .get_or_try_init(|| self.quick("describe itself", self.engine.facts()))
            .await?;
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
        self.quick("create a volume", self.engine.create_volume(plan))
            .await?;
        match self.heavy("create a container", self.engine.create(plan)).await {
            Ok(id) => Ok(id),
            Err(error) => {
                if self.inspect(name).await?.is_none() {
                    self.quick("remove a volume", self.engine.delete_volume(name))
                        .await?;
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
                self.heavy("remove a volume", self.engine.delete_volume(name))
                    .await
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
        self.heavy("prepare the workspace", self.engine.prepare_workspace(plan))
            .await?;
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
            return Err(RuntimeError::AlreadyExists {
                name: spec.name.clone(),
                difference,
            });
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
            self.heavy("remove a container", self.engine.delete_container(id))
                .await?;
            self.heavy("remove a volume", self.engine.delete_volume(volume))
                .await
        };
        if let Err(error) = cleared.await {
            warn!(container.name = volume, %error, "could not take back a container that was refused");
        }
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
