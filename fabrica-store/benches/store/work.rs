//! What is stored: messages of about 280 bytes, as a tool's progress is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::ids::{Fence, WorkerId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{ClaimLimits, ClaimRequest, Claimed, EventRecord, NewSession};

const PLAN: &str =
    "---\nrepo: https://github.com/acme/billing.git\n---\n# Add idempotency keys\n\nTo every POST.\n";

pub(crate) fn ids() -> IdSource<'static> {
    IdSource::new(&SystemClock, &SystemEntropy)
}

pub(crate) fn message() -> NewMessage {
    let content = MessageContent::text(
        "Read fabrica-store/src/postgres/record.rs and changed the order in which the rows are locked, so that two \
         deliveries of one batch do not wait for each other",
    )
    .with("step", "tool_use")
    .with("tool", "Edit")
    .with("path", "/workspace/repository/fabrica-store/src/postgres/record.rs")
    .with("turn", 17);
    NewMessage {
        id: ids().message(),
        kind: MessageKind::Progress,
        content,
    }
}

pub(crate) fn event(number: u64) -> EventRecord {
    EventRecord {
        event: number,
        messages: vec![message()],
        ..EventRecord::default()
    }
}

pub(crate) fn session() -> NewSession {
    NewSession {
        id: ids().session(),
        spec: ids().spec(),
        content: PLAN.into(),
        repo_url: "https://github.com/acme/billing.git".into(),
        title: "Add idempotency keys".into(),
        max_attempts: 2,
        priority: 0,
        submitter: Some("bench".into()),
        idempotency_key: None,
        held: Duration::ZERO,
        message: message(),
    }
}

pub(crate) fn request(worker: &str, limit: u32) -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::new(worker),
        lease: Duration::from_hours(1),
        limit,
        takeovers: 0,
        only: None,
        limits: ClaimLimits::default(),
    }
}

/// Sessions that run.
pub(crate) async fn running(store: &dyn Store, number: usize) -> Result<Vec<Fence>> {
    let mut fences = Vec::new();
    for _ in 0..number {
        let session = session();
        let only = Some(session.id);
        store.create_session(session).await?;
        let request = ClaimRequest {
            only,
            ..request("bench", 1)
        };
        fences.extend(store.claim(&request).await?.iter().map(Claimed::fence));
    }
    ensure!(fences.len() == number, "every session is claimed");
    Ok(fences)
}

/// Events a second, of producers that each record one event after the other.
pub(crate) async fn produce(store: Arc<dyn Store>, fences: &[Fence], from: u64, each: u64) -> Result<f64> {
    let producers = fences.iter().map(|fence| {
        let (store, fence) = (store.clone(), *fence);
        async move {
            for number in from..from + each {
                // Made at the moment, as in life: the ids of those that are recorded together are neighbours.
                store.record(fence, vec![event(number)]).await?;
            }
            anyhow::Ok(())
        }
    });
    race(producers, each).await
}

/// Runs them at the same time. What each of them does so many times, all together do so often a second.
pub(crate) async fn race<F>(runners: impl Iterator<Item = F>, each: u64) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let runners: Vec<_> = runners.collect();
    let number = runners.len();
    let begin = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for runner in runners {
        running.spawn(runner);
    }
    while let Some(outcome) = running.join_next().await {
        outcome??;
    }
    Ok(per_second(number as u64 * each, begin))
}

pub(crate) fn per_second(number: u64, begin: Instant) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX)) / begin.elapsed().as_secs_f64()
}
