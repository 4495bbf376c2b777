//! The worker: claims sessions, holds their leases, and drives each in a task of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Signals};
use super::inner::Inner;
use super::service::Shutdown;
use crate::ids::{Fence, SessionId};
use crate::ports::store::{ClaimRequest, Notice, StoreError};
use crate::session::SessionStatus;

/// Works until the shutdown, or, for one session, until that is settled.
pub(super) async fn run(
    inner: &Arc<Inner>,
    only: Option<SessionId>,
    shutdown: &Shutdown,
) -> Result<(), StoreError> {
    // Listen before looking.
    let notices = inner.store.subscribe().await?;
    if let Some(id) = only {
        inner
            .store
            .session(id)
            .await?
            .ok_or(StoreError::NoSuchSession(id))?;
    }
    let stop_watching = CancellationToken::new();
    let watcher = tokio::spawn(watch_engine(inner.clone(), stop_watching.clone()));
    let worker = Worker {
        inner: inner.clone(),
        only,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        renewed: Instant::now(),
    };
    let ended = worker.run(notices, shutdown).await;
    stop_watching.cancel();
    if let Err(error) = watcher.await {
        tracing::error!(%error, "the engine's watcher ended badly");
    }
    ended
}

struct Worker {
    inner: Arc<Inner>,
    only: Option<SessionId>,
    running: HashMap<task::Id, (Fence, Signals)>,
    tasks: JoinSet<()>,
    /// When the leases were last known to be held.
    renewed: Instant,
}

impl Worker {
    async fn run(
        mut self,
        mut notices: BoxStream<'static, Notice>,
        shutdown: &Shutdown,
    ) -> Result<(), StoreError> {
        let renewal = self.inner.options.lease / 3;
        let mut next_renewal = Instant::now() + renewal;
        let mut next_poll = Instant::now();
        loop {
            let draining = shutdown.drain.is_cancelled() || shutdown.abort.is_cancelled();
            if self.running.is_empty() && (draining || self.settled().await?) {
                return Ok(());
            }
            if !draining && Instant::now() >= next_poll {
                next_poll = Instant::now() + self.claim(&shutdown.abort).await;
            }
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.forget(ended);
                    next_poll = Instant::now();
                }
                () = tokio::time::sleep_until(next_renewal) => {
                    self.renew().await;
                    next_renewal = Instant::now() + renewal;
                }
                notice = notices.next() => match notice {
                    Some(Notice::Claimable | Notice::Missed) => next_poll = Instant::now(),
                    Some(Notice::CancelRequested(session)) => self.cancel(session),
                    Some(Notice::Message { .. }) => {}
                    // Polling is what is left.
                    None => notices = futures::stream::pending().boxed(),
                },
                () = tokio::time::sleep_until(next_poll), if !draining => {}
                () = shutdown.drain.cancelled(), if !draining => {}
                () = shutdown.abort.cancelled(), if !draining => {}
            }
        }
    }

    /// For a worker on one session: whether there is nothing more to do.
    async fn settled(&self) -> Result<bool, StoreError> {
        let Some(id) = self.only else { return Ok(false) };
        let status = self.inner.store.session(id).await?.map(|session| session.status);
        Ok(!matches!(
            status,
            Some(SessionStatus::Pending | SessionStatus::Running)
        ))
    }

    /// Claims what there is room for, and says how long to wait before the next look.
    async fn claim(&mut self, abort: &CancellationToken) -> Duration {
        let options = &self.inner.options;
        let free = options.concurrency.max(1).saturating_sub(self.running.len());
        if free == 0 {
            return options.poll;
        }
        let request = ClaimRequest {
            worker: options.worker.clone(),
            lease: options.lease,
            limit: u32::try_from(free).unwrap_or(u32::MAX),
            only: self.only,
        };
        match self.inner.store.claim(&request).await {
            Ok(claimed) => {
                for session in claimed {
                    let fence = session.fence();
                    let signals = Signals {
                        abort: abort.clone(),
                        ..Signals::default()
                    };
                    if session.session.cancel_requested {
                        signals.cancel.cancel();
                    }
                    let driver = attempt::drive(self.inner.clone(), session, signals.clone());
                    let task = self.tasks.spawn(driver);
                    self.running.insert(task.id(), (fence, signals));
                }
            }
            Err(error) => tracing::warn!(%error, "no session could be claimed; trying again"),
        }
        // A worker on one session waits for its retry, which no notice announces.
        if self.only.is_some() {
            self.inner.options.poll.min(Duration::from_millis(500))
        } else {
            self.inner.options.poll
        }
    }

    fn forget(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                // Its lease is not renewed from now on, so the session is claimed anew.
                tracing::error!(%error, "an attempt's driver ended badly");
                error.id()
            }
        };
        self.running.remove(&id);
    }

    fn cancel(&self, session: SessionId) {
        for (fence, signals) in self.running.values() {
            if fence.session == session {
                signals.cancel.cancel();
            }
        }
    }

    async fn renew(&mut self) {
        if self.running.is_empty() {
            self.renewed = Instant::now();
            return;
        }
        let options = &self.inner.options;
        let fences: Vec<Fence> = self.running.values().map(|(fence, _)| *fence).collect();
        let asked = Instant::now();
        match self
            .inner
            .store
            .renew_leases(&options.worker, &fences, options.lease)
            .await
        {
            Ok(held) => {
                self.renewed = asked;
                for (fence, signals) in self.running.values() {
                    if !held.contains(fence) {
                        tracing::warn!(%fence, "the lease is lost");
                        signals.lost.cancel();
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the leases could not be renewed");
                if self.renewed.elapsed() >= options.lease {
                    self.running
                        .values()
                        .for_each(|(_, signals)| signals.lost.cancel());
                }
            }
        }
    }
}

/// Hands what the engine reports to the attempts that run here.
async fn watch_engine(inner: Arc<Inner>, stop: CancellationToken) {
    let follow = async {
        loop {
            match inner.runtime.watch(&inner.options.owner).await {
                Ok(mut changes) => {
                    while let Some(change) = changes.next().await {
                        // Nobody listens while no attempt runs: that is fine.
                        let _ = inner.changes.send(change);
                    }
                }
                Err(error) => tracing::debug!(%error, "the engine's changes cannot be followed"),
            }
            // Attempts look for themselves every few seconds meanwhile.
            sleep(Duration::from_secs(2)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow => {}
    }
}
