//! Recording the events of attempts: those of many sessions in one transaction.

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{EventRecord, Recorded};
use sqlx::{Connection as _, PgPool};

use super::events::{ask, hold, hold_patiently, write, write_next, write_one};
use super::writer::WriterConnection;
use crate::error::database;
use crate::events::Delivery;
use crate::group::{Lane, Settled, Writer};
use crate::settle::settle;

/// What records, on one connection: the server commits one transaction with notices after the other anyway, so a second
/// connection's groups would be smaller, not sooner.
pub(super) struct Recording {
    pool: PgPool,
    lane: Lane<Recorder>,
}

impl Recording {
    pub(super) fn new(pool: &PgPool) -> Self {
        let recorder = pool.clone();
        Self {
            pool: pool.clone(),
            lane: Lane::new(move || Recorder(WriterConnection::new(&recorder))),
        }
    }

    #[tracing::instrument(
        name = "store.postgres.record",
        skip_all,
        fields(session.id = %fence.session, attempt.number = %fence.attempt, events = events.len()),
        err
    )]
    pub(super) async fn record(
        &self,
        fence: Fence,
        events: Vec<EventRecord>,
    ) -> Result<Recorded, StoreError> {
        let delivery = Delivery::new(fence, events)?;
        if delivery.events.is_empty() {
            return ask(&self.pool, fence).await;
        }
        self.lane.write(delivery).await
    }

    /// Records nothing more; what waits is still recorded.
    pub(super) fn close(&self) {
        self.lane.close();
    }
}

/// Writes what one lane brings, on a connection of its own.
struct Recorder(WriterConnection);

impl Recorder {
    async fn try_write(&mut self, deliveries: &[&Delivery]) -> Result<Vec<Settled<Recorded>>, sqlx::Error> {
        let connection = self.0.get().await?;
        if let [delivery] = deliveries
            && let Some(recorded) = write_one(connection, delivery).await?
        {
            return Ok(vec![Some(Ok(recorded))]);
        }
        let mut settled = write_next(connection, deliveries).await?;
        let left: Vec<_> = settled
            .iter()
            .zip(deliveries)
            .filter_map(|(settled, delivery)| settled.is_none().then_some(*delivery))
            .collect();
        if left.is_empty() {
            return Ok(settled);
        }
        let mut transaction = connection.begin().await?;
        let held = hold(&mut transaction, &left).await?;
        let (others, writes) = settle(&left, &held);
        if !writes.is_empty() {
            write(&mut transaction, &writes).await?;
        }
        transaction.commit().await?;
        let open = settled.iter_mut().filter(|settled| settled.is_none());
        for (settled, other) in open.zip(others) {
            *settled = other;
        }
        Ok(settled)
    }
}

impl Writer for Recorder {
    type Item = Delivery;
    type Answer = Recorded;

    async fn write(&mut self, deliveries: &[&Delivery]) -> Result<Vec<Settled<Recorded>>, sqlx::Error> {
        let written = self.try_write(deliveries).await;
        self.0.after(written)
    }

    fn alone(
        &self,
        delivery: Delivery,
    ) -> impl Future<Output = Result<Recorded, StoreError>> + Send + 'static {
        let pool = self.0.pool().clone();
        async move { alone(&pool, &delivery).await }
    }
}

/// Waits for whoever holds the session.
async fn alone(pool: &PgPool, delivery: &Delivery) -> Result<Recorded, StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
    let held = hold_patiently(&mut transaction, delivery)
        .await
        .map_err(database)?;
    let (settled, writes) = settle(&[delivery], &held);
    if !writes.is_empty() {
        write(&mut transaction, &writes).await.map_err(database)?;
    }
    transaction.commit().await.map_err(database)?;
    let fenced = || Err(StoreError::Fenced(delivery.fence));
    settled.into_iter().next().flatten().unwrap_or_else(fenced)
}
