//! A sandbox without an engine: it plays the runner's part from a script. It is both ports at once, since what the
//! container does goes through the gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::ids::Fence;
use crate::ports::gateway::{Gateway, GatewayAccess, GatewayEndpoint, GatewayError, SessionSink, SinkError};
use crate::ports::runtime::{
    BuildRequest, Capabilities, ContainerChange, ContainerName, ContainerRuntime, ContainerSpec,
    ContainerSummary, Ensured, ImageInfo, LABEL_OWNER, Observation, ProgressSink, RuntimeError,
};
use crate::protocol::{Envelope, Instruction, Job, JobResult, PROTOCOL_VERSION, Pushed, RunnerEvent};

/// What the runner of one attempt does.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// What it reports, in order.
    pub events: Vec<RunnerEvent>,
    /// What becomes of it then.
    pub end: ScriptEnd,
}

/// What becomes of a scripted runner after its last event.
#[derive(Debug, Clone, PartialEq)]
pub enum ScriptEnd {
    /// It exits with that code.
    Exit(i64),
    /// It works on until it is stopped, or told to cancel; then it reports these events and exits.
    WaitForStop(Vec<RunnerEvent>),
    /// Its container disappears.
    Vanish,
}

impl Script {
    /// A job that succeeds with one commit on its branch.
    pub fn completes(job: &Job) -> Self {
        let pushed = Pushed {
            branch: job.branch.clone(),
            base: job.base.clone().unwrap_or_else(|| "main".into()),
            head: "0123456789abcdef0123456789abcdef01234567".into(),
            commits: 1,
            subjects: vec![job.title.clone()],
        };
        let result = JobResult {
            summary: "Done.".into(),
            pushed: Some(pushed),
            verification: Vec::new(),
            rounds: 1,
            template: None,
            heard: 0,
            unfinished: false,
        };
        Self {
            events: vec![
                RunnerEvent::Started {
                    runner: "fake".into(),
                },
                RunnerEvent::Completed(result),
            ],
            end: ScriptEnd::Exit(0),
        }
    }

    /// A job that fails with that failure.
    pub fn fails(failure: Failure) -> Self {
        Self {
            events: vec![RunnerEvent::Failed {
                failure,
                pushed: None,
            }],
            end: ScriptEnd::Exit(0),
        }
    }
}

type Director = dyn Fn(&Job) -> Script + Send + Sync;

/// A fake of the container engine and of the gateway.
pub struct FakeSandbox {
    director: Box<Director>,
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<(String, ContainerChange)>,
}

#[derive(Debug, Default)]
struct State {
    accesses: BTreeMap<String, GatewayAccess>,
    sinks: Vec<Weak<dyn SessionSink>>,
    containers: BTreeMap<ContainerName, Container>,
    started: Vec<Fence>,
    most_running: usize,
}

#[derive(Debug, Clone)]
struct Container {
    spec: ContainerSpec,
    observation: Observation,
    stop: CancellationToken,
}

impl fmt::Debug for FakeSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSandbox")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl FakeSandbox {
    /// A sandbox whose runners do what the director says of each job.
    pub fn new(director: impl Fn(&Job) -> Script + Send + Sync + 'static) -> Self {
        Self {
            director: Box::new(director),
            state: Arc::default(),
            changes: broadcast::channel(1_024).0,
        }
    }

    /// A sandbox in which every job succeeds at once.
    pub fn that_completes() -> Self {
        Self::new(Script::completes)
    }

    /// How many containers exist.
    pub fn containers(&self) -> usize {
        lock(&self.state).containers.len()
    }

    /// How many attempts may use the gateway.
    pub fn accesses(&self) -> usize {
        lock(&self.state).accesses.len()
    }

    /// How many attempts are still in memory, among those that ever were given to the gateway.
    pub fn attempts_in_memory(&self) -> usize {
        let state = lock(&self.state);
        state.sinks.iter().filter(|sink| sink.strong_count() > 0).count()
    }

    /// Every container that was started, in order.
    pub fn started(&self) -> Vec<Fence> {
        lock(&self.state).started.clone()
    }

    /// The largest number of containers that ran at one time.
    pub fn most_running(&self) -> usize {
        lock(&self.state).most_running
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays one runner.
async fn play(player: Player, script: Script) {
    let mut number = 0;
    let mut told_to_cancel = false;
    for event in script.events {
        told_to_cancel |= player.report(&mut number, event).await;
    }
    let end = match script.end {
        ScriptEnd::Exit(code) => exited(code),
        ScriptEnd::Vanish => Observation::Gone,
        ScriptEnd::WaitForStop(events) => {
            if !told_to_cancel {
                player.stop.cancelled().await;
            }
            for event in events {
                player.report(&mut number, event).await;
            }
            exited(0)
        }
    };
    player.end(end);
}

const fn exited(code: i64) -> Observation {
    Observation::Exited {
        code,
        out_of_memory: false,
        reason: String::new(),
    }
}

struct Player {
    /// Under which the gateway knows its access, whoever opened that.
    key: String,
    name: ContainerName,
    owner: String,
    stop: CancellationToken,
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<(String, ContainerChange)>,
}

impl Player {
    /// Reports an event, and says whether the answer was to cancel.
    async fn report(&self, number: &mut u64, event: RunnerEvent) -> bool {
        *number += 1;
        let envelope = Envelope {
            v: PROTOCOL_VERSION,
            seq: *number,
            at: DateTime::UNIX_EPOCH,
            event,
        };
        loop {
            let access = lock(&self.state).accesses.get(&self.key).cloned();
            let answer = match access {
                Some(access) => access.sink.deliver(vec![envelope.clone()]).await,
                None => Err(SinkError::Unavailable("nobody listens".into())),
            };
            match answer {
                // A process that goes on with the sandbox opens its access again.
                Err(SinkError::Unavailable(_)) if self.exists() => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer => {
                    return answer.is_ok_and(|answer| answer.instructions.contains(&Instruction::Cancel));
                }
            }
        }
    }

    fn exists(&self) -> bool {
        lock(&self.state).containers.contains_key(&self.name)
    }

    fn end(&self, observation: Observation) {
        let mut state = lock(&self.state);
        if observation == Observation::Gone {
            state.containers.remove(&self.name);
        } else if let Some(container) = state.containers.get_mut(&self.name) {
            container.observation = observation.clone();
        }
        drop(state);
        let change = ContainerChange {
            name: self.name.clone(),
            observation,
        };
        // Nobody may be watching.
        let _ = self.changes.send((self.owner.clone(), change));
    }
}

#[async_trait]
impl Gateway for FakeSandbox {
    async fn open(&self, access: GatewayAccess) -> Result<GatewayEndpoint, GatewayError> {
        let key = access.fence.to_string();
        let mut state = lock(&self.state);
        state.sinks.push(Arc::downgrade(&access.sink));
        state.accesses.insert(key.clone(), access);
        drop(state);
        Ok(GatewayEndpoint {
            directory: PathBuf::from("/run/fake").join(key),
        })
    }

    async fn close(&self, fence: Fence) -> Result<(), GatewayError> {
        lock(&self.state).accesses.remove(&fence.to_string());
        Ok(())
    }

    async fn release(&self, fence: Fence) {
        lock(&self.state).accesses.remove(&fence.to_string());
    }
}

#[async_trait]
impl ContainerRuntime for FakeSandbox {
    async fn capabilities(&self) -> Result<Capabilities, RuntimeError> {
        Ok(Capabilities {
            engine: "fake".into(),
            version: "1".into(),
            rootless: true,
            host_user: None,
            memory_limit: true,
            cpu_limit: true,
            pids_limit: true,
        })
    }

    async fn ensure(&self, spec: &ContainerSpec) -> Result<Ensured, RuntimeError> {
        let mut state = lock(&self.state);
        if state.containers.contains_key(&spec.name) {
            return Ok(Ensured::Adopted);
        }
        let access = state
            .accesses
            .values()
            .find(|access| ContainerName::of(access.fence) == spec.name)
            .cloned();
        let access = access.ok_or_else(|| RuntimeError::Denied {
            engine: "fake".into(),
            action: "start".into(),
            message: "the gateway is not open".into(),
            source: None,
        })?;
        let stop = CancellationToken::new();
        state.started.push(access.fence);
        let container = Container {
            spec: spec.clone(),
            observation: Observation::Running,
            stop: stop.clone(),
        };
        state.containers.insert(spec.name.clone(), container);
        let running = state
            .containers
            .values()
            .filter(|known| known.observation == Observation::Running)
            .count();
        state.most_running = state.most_running.max(running);
        drop(state);
        let script = (self.director)(&access.job);
        let owner = spec.labels.get(LABEL_OWNER).cloned().unwrap_or_default();
        let player = Player {
            key: access.fence.to_string(),
            name: spec.name.clone(),
            owner,
            stop,
            state: self.state.clone(),
            changes: self.changes.clone(),
        };
        tokio::spawn(play(player, script));
        Ok(Ensured::Started)
    }

    async fn observe(&self, name: &ContainerName) -> Result<Observation, RuntimeError> {
        let state = lock(&self.state);
        Ok(state
            .containers
            .get(name)
            .map_or(Observation::Gone, |container| container.observation.clone()))
    }

    async fn watch(&self, owner: &str) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
        let owner = owner.to_owned();
        let changes = self.changes.subscribe();
        let changes = stream::unfold((changes, owner), |(mut changes, owner)| async move {
            loop {
                match changes.recv().await {
                    Ok((of, change)) if of == owner => return Some((change, (changes, owner))),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(changes.boxed())
    }

    async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<(), RuntimeError> {
        let Some(container) = lock(&self.state).containers.get(name).cloned() else {
            return Ok(());
        };
        let mut changes = self.changes.subscribe();
        container.stop.cancel();
        let ended = async {
            while self
                .observe(name)
                .await
                .is_ok_and(|seen| seen == Observation::Running)
            {
                if changes.recv().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err()
            && let Some(container) = lock(&self.state).containers.get_mut(name)
        {
            container.observation = exited(137);
        }
        Ok(())
    }

    async fn remove(&self, name: &ContainerName) -> Result<(), RuntimeError> {
        lock(&self.state).containers.remove(name);
        Ok(())
    }

    async fn log_tail(&self, _: &ContainerName, _: usize) -> Result<Vec<String>, RuntimeError> {
        Ok(vec!["the last words of a fake".into()])
    }

    async fn list(&self, owner: &str) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let state = lock(&self.state);
        let ours = state.containers.iter().filter(|(_, container)| {
            container
                .spec
                .labels
                .get(LABEL_OWNER)
                .is_some_and(|label| label == owner)
        });
        Ok(ours
            .map(|(name, container)| ContainerSummary {
                name: name.clone(),
                labels: container.spec.labels.clone(),
                observation: container.observation.clone(),
            })
            .collect())
    }

    async fn image(&self, _: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        Ok(Some(image()))
    }

    async fn pull(&self, _: &str, _: ProgressSink) -> Result<ImageInfo, RuntimeError> {
        Ok(image())
    }

    async fn import(&self, _: &Path, _: &str, _: ProgressSink) -> Result<ImageInfo, RuntimeError> {
        Ok(image())
    }

    async fn build(&self, _: &BuildRequest, _: ProgressSink) -> Result<ImageInfo, RuntimeError> {
        Ok(image())
    }
}

fn image() -> ImageInfo {
    ImageInfo {
        id: "sha256:fake".into(),
        size: 1,
        labels: BTreeMap::new(),
    }
}
