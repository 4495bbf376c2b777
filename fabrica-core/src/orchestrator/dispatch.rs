//! The worker: claims sessions, holds their leases, and drives each in a task of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Driven, Signals};
use super::inner::Inner;
use super::lease::Lease;
use super::outcome::{self, Outcome};
use super::recovery;
use super::service::Shutdown;
use crate::ids::{Fence, SessionId};
use crate::ports::store::{ClaimRequest, Claimed, Notice, StoreError};
use crate::session::SessionStatus;

/// How long attempts that are just being settled may take when the worker hands over; all others stop at once.
const HANDOVER: Duration = Duration::from_secs(5);
/// How many sessions without an owner are taken over at once.
const TAKEOVERS: u32 = 100;
/// How long the database may take to hear of the handing over.
const RELEASE: Duration = Duration::from_secs(2);

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
    let stop = CancellationToken::new();
    let helpers = [
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(watch_engine(inner.clone())),
        ),
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(recovery::run(inner.clone())),
        ),
    ];
    let worker = Worker {
        inner: inner.clone(),
        only,
        shutdown: shutdown.clone(),
        running: HashMap::new(),
        tasks: JoinSet::new(),
        surrendered: Vec::new(),
    };
    let ended = worker.run(notices).await;
    stop.cancel();
    for helper in helpers {
        if let Err(error) = helper.await {
            tracing::error!(%error, "a helper of the worker ended badly");
        }
    }
    ended
}

/// An attempt that runs here.
struct Running {
    claimed: Arc<Claimed>,
    lease: Arc<Lease>,
    cancel: CancellationToken,
}

struct Worker {
    inner: Arc<Inner>,
    only: Option<SessionId>,
    shutdown: Shutdown,
    running: HashMap<task::Id, Running>,
    tasks: JoinSet<Driven>,
    /// Leases to give up: what their attempts came to could not be stored.
    surrendered: Vec<Fence>,
}

impl Worker {
    async fn run(mut self, mut notices: BoxStream<'static, Notice>) -> Result<(), StoreError> {
        let Shutdown {
            drain,
            abort,
            handover,
        } = self.shutdown.clone();
        let renewal = self.inner.options.lease / 3;
        let mut next_renewal = Instant::now() + renewal;
        let mut next_poll = Instant::now();
        loop {
            if handover.is_cancelled() {
                self.hand_over().await;
                return Ok(());
            }
            let draining = drain.is_cancelled() || abort.is_cancelled();
            if self.running.is_empty() && (draining || self.settled().await?) {
                self.give_up_surrendered().await;
                return Ok(());
            }
            if !draining && Instant::now() >= next_poll {
                next_poll = Instant::now() + self.claim().await;
            }
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended).await;
                    next_poll = Instant::now();
                }
                () = sleep_until(next_renewal) => {
                    self.renew().await;
                    self.give_up_surrendered().await;
                    next_renewal = Instant::now() + renewal;
                }
                notice = notices.next() => match notice {
                    Some(Notice::Claimable | Notice::Missed) => next_poll = Instant::now(),
                    Some(Notice::CancelRequested(session)) => self.cancel(session),
                    Some(Notice::Message { .. }) => {}
                    // Polling is what is left.
                    None => notices = futures::stream::pending().boxed(),
                },
                () = sleep_until(next_poll), if !draining => {}
                () = drain.cancelled(), if !draining => {}
                () = abort.cancelled(), if !draining => {}
                () = handover.cancelled() => {}
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

    /// Claims what there is room for, and whatever lost its owner; says how long to wait before the next look.
    async fn claim(&mut self) -> Duration {
        let options = &self.inner.options;
        let patience = if self.only.is_some() {
            // A worker on one session waits for its retry, which no notice announces.
            options.poll.min(Duration::from_millis(500))
        } else {
            options.poll
        };
        if self.inner.engine_away.load(Ordering::Relaxed) {
            return patience;
        }
        if self.running.values().any(|running| !running.lease.is_held()) {
            // After an outage of the database: what still runs here is kept rather than taken over from oneself.
            self.renew().await;
        }
        let options = &self.inner.options;
        let free = options.concurrency.max(1).saturating_sub(self.running.len());
        let request = ClaimRequest {
            worker: options.worker.clone(),
            lease: options.lease,
            limit: u32::try_from(free).unwrap_or(u32::MAX),
            takeovers: TAKEOVERS,
            only: self.only,
            limits: options.limits,
        };
        let asked = Instant::now();
        match self.inner.store.claim(&request).await {
            Ok(claimed) => claimed.into_iter().for_each(|claimed| self.drive(claimed, asked)),
            Err(error) => tracing::warn!(%error, "no session could be claimed; trying again"),
        }
        patience
    }

    fn drive(&mut self, claimed: Claimed, asked: Instant) {
        let claimed = Arc::new(claimed);
        let lease = Arc::new(Lease::new(claimed.fence(), asked + self.inner.options.lease));
        let signals = Signals {
            cancel: CancellationToken::new(),
            abort: self.shutdown.abort.clone(),
            handover: self.shutdown.handover.clone(),
        };
        for earlier in self.running.values() {
            if earlier.lease.fence.session == claimed.session.id {
                earlier.lease.lost.cancel();
            }
        }
        let running = Running {
            claimed: claimed.clone(),
            lease: lease.clone(),
            cancel: signals.cancel.clone(),
        };
        if claimed.session.cancel_requested {
            running.cancel.cancel();
        }
        let attempt = Attempt {
            inner: self.inner.clone(),
            claimed,
            lease,
            signals,
        };
        let task = self.tasks.spawn(attempt.drive());
        self.running.insert(task.id(), running);
    }

    async fn ended(&mut self, ended: Result<(task::Id, Driven), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        match ended {
            Ok((_, Driven::Settled | Driven::LeftToNext)) => {}
            Ok((_, Driven::Unsettled)) => self.surrendered.push(running.lease.fence),
            Err(error) if error.is_cancelled() => {
                self.inner.gateway.release(running.lease.fence).await;
            }
            Err(error) => {
                tracing::error!(%error, fence = %running.lease.fence, "an attempt's driver ended badly");
                self.end_panicked(&running).await;
            }
        }
    }

    /// A session that makes its driver panic must not do so for ever. The reconciliation removes its container.
    async fn end_panicked(&mut self, running: &Running) {
        let fence = running.lease.fence;
        let outcome = Outcome::failed(outcome::panicked());
        let (end, messages) = outcome::end(&self.inner, &running.claimed, None, outcome);
        match self.inner.store.finish_attempt(fence, end, messages).await {
            Ok(_) | Err(StoreError::Fenced(_)) => {}
            Err(error) => {
                tracing::error!(%error, %fence, "the panicked attempt's end could not be stored");
                self.surrendered.push(fence);
            }
        }
    }

    fn cancel(&self, session: SessionId) {
        for running in self.running.values() {
            if running.lease.fence.session == session {
                running.cancel.cancel();
            }
        }
    }

    async fn renew(&self) {
        if self.running.is_empty() {
            return;
        }
        let options = &self.inner.options;
        let fences: Vec<Fence> = self.running.values().map(|running| running.lease.fence).collect();
        let asked = Instant::now();
        match self
            .inner
            .store
            .renew_leases(&options.worker, &fences, options.lease)
            .await
        {
            Ok(held) => {
                for Running { lease, .. } in self.running.values() {
                    if held.contains(&lease.fence) {
                        lease.extend(asked + options.lease);
                    } else if fences.contains(&lease.fence) {
                        tracing::warn!(fence = %lease.fence, "the lease is lost");
                        lease.lost.cancel();
                    }
                }
            }
            // Nobody can have taken them over while the database is away; until it is back nothing is let out.
            Err(error) => tracing::warn!(%error, "the leases could not be renewed"),
        }
    }

    async fn give_up_surrendered(&mut self) {
        if self.surrendered.is_empty() {
            return;
        }
        let worker = &self.inner.options.worker;
        let leases = Some(self.surrendered.clone());
        match self.inner.store.release_leases(worker, leases).await {
            Ok(_) => self.surrendered.clear(),
            Err(error) => tracing::warn!(%error, "leases could not be given up yet"),
        }
    }

    /// Stops driving and gives up the leases, but not the sandboxes.
    async fn hand_over(mut self) {
        let settling = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.ended(ended).await;
            }
        };
        if timeout(HANDOVER, settling).await.is_err() {
            tracing::warn!(
                attempts = self.running.len(),
                "what is being settled is left to the next owner"
            );
            self.tasks.abort_all();
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.ended(ended).await;
            }
        }
        let worker = &self.inner.options.worker;
        match timeout(RELEASE, self.inner.store.release_leases(worker, None)).await {
            Ok(Ok(sessions)) => tracing::info!(sessions, "handed over"),
            Ok(Err(error)) => tracing::warn!(%error, "the leases run out by themselves"),
            Err(_) => tracing::warn!("the database does not answer: the leases run out by themselves"),
        }
    }
}

/// Hands what the engine reports to the attempts that run here.
async fn watch_engine(inner: Arc<Inner>) -> Infallible {
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
}
