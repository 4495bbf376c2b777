//! The stream of changes: the engine's events, and a full listing every few seconds, since events may be missed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{ContainerChange, ContainerName, ContainerSummary, Observation};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::engine::Engine;
use crate::lifecycle::Lifecycle;

/// How often everything is listed.
const LISTING: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

struct Watch<E> {
    runtime: Lifecycle<E>,
    owner: String,
    events: Option<BoxStream<'static, Result<ContainerName, RuntimeError>>>,
    reconnect: Instant,
    pause: Duration,
    listing: Instant,
    known: BTreeMap<ContainerName, Observation>,
    ready: VecDeque<ContainerChange>,
}

enum Wake {
    Event(ContainerName),
    Disconnected(Option<RuntimeError>),
    Reconnect,
    List,
}

pub(crate) async fn watch<E: Engine>(
    runtime: Lifecycle<E>,
    owner: String,
) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
    let first = runtime.list(&owner).await?;
    let now = Instant::now();
    let mut watch = Watch {
        events: Some(runtime.engine.events(&owner)),
        runtime,
        owner,
        reconnect: now,
        pause: FIRST_PAUSE,
        // The events are connected when they are first polled: what happens until then, the next listing tells.
        listing: now + FIRST_PAUSE,
        known: BTreeMap::new(),
        ready: VecDeque::new(),
    };
    watch.take(first);
    Ok(stream::unfold(watch, |mut watch| async move {
        let change = watch.next().await;
        Some((change, watch))
    })
    .boxed())
}

impl<E: Engine> Watch<E> {
    async fn next(&mut self) -> ContainerChange {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return change;
            }
            match self.wake().await {
                Wake::Event(name) => self.ask(name).await,
                Wake::Disconnected(error) => self.disconnected(error.as_ref()),
                Wake::Reconnect => self.events = Some(self.runtime.engine.events(&self.owner)),
                Wake::List => self.list().await,
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let listing = sleep_until(self.listing);
        let Some(events) = &mut self.events else {
            return tokio::select! {
                () = listing => Wake::List,
                () = sleep_until(self.reconnect) => Wake::Reconnect,
            };
        };
        tokio::select! {
            () = listing => Wake::List,
            event = events.next() => match event {
                Some(Ok(name)) => Wake::Event(name),
                Some(Err(error)) => Wake::Disconnected(Some(error)),
                None => Wake::Disconnected(None),
            },
        }
    }

    /// An event says only that something happened; the engine says what is true now.
    async fn ask(&mut self, name: ContainerName) {
        self.pause = FIRST_PAUSE;
        if let Ok(observation) = self.runtime.observe(&name).await {
            self.tell(name, observation);
        }
    }

    fn tell(&mut self, name: ContainerName, observation: Observation) {
        let before = if observation == Observation::Gone {
            self.known.remove(&name)
        } else {
            self.known.insert(name.clone(), observation.clone())
        };
        if before.as_ref() != Some(&observation) {
            self.ready.push_back(ContainerChange { name, observation });
        }
    }

    fn disconnected(&mut self, error: Option<&RuntimeError>) {
        debug!(
            error = error.map(tracing::field::display),
            "the engine's events ended"
        );
        self.events = None;
        self.reconnect = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    async fn list(&mut self) {
        match self.runtime.list(&self.owner).await {
            Ok(all) => self.take(all),
            Err(error) => debug!(%error, "could not list the containers"),
        }
        self.listing = Instant::now() + LISTING;
    }

    /// Everything that is, changed or not, and what is no more.
    fn take(&mut self, all: Vec<ContainerSummary>) {
        let now: BTreeMap<_, _> = all.into_iter().map(|one| (one.name, one.observation)).collect();
        let gone = self.known.keys().filter(|name| !now.contains_key(*name));
        let gone = gone.map(|name| (name.clone(), Observation::Gone));
        let all = gone.chain(
            now.iter()
                .map(|(name, observation)| (name.clone(), observation.clone())),
        );
        self.ready
            .extend(all.map(|(name, observation)| ContainerChange { name, observation }));
        self.known = now;
    }
}
