//! Recording the events of attempts: those of many sessions in one transaction, since each commit waits for the disk.

use std::sync::Arc;

use fabrica_core::ids::Fence;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{EventRecord, Recorded};
use sqlx::SqlitePool;
use tokio::sync::Notify;

use super::events::{any_usage, ask, hold, write};
use crate::error::database;
use crate::events::Delivery;
use crate::group::{Lane, Settled, Writer};
use crate::settle::settle;

/// What records.
pub(super) struct Recording {
    readers: SqlitePool,
    lane: Lane<Recorder>,
}

impl Recording {
    /// `written` is told of every commit.
    pub(super) fn new(writer: &SqlitePool, readers: &SqlitePool, written: Arc<Notify>) -> Self {
        let recorder = Recorder {
            writer: writer.clone(),
            written,
        };
        Self {
            readers: readers.clone(),
            lane: Lane::new(move || recorder.clone()),
        }
    }

    #[tracing::instrument(
        name = "store.sqlite.record",
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
            return ask(&self.readers, fence).await;
        }
        self.lane.write(delivery).await
    }

    /// Records nothing more; what waits is still recorded.
    pub(super) fn close(&self) {
        self.lane.close();
    }
}

/// Writes through the file's one writing connection, in turn with everything else that is written.
#[derive(Clone)]
struct Recorder {
    writer: SqlitePool,
    written: Arc<Notify>,
}

impl Writer for Recorder {
    type Item = Delivery;
    type Answer = Recorded;

    async fn write(&mut self, deliveries: &[&Delivery]) -> Result<Vec<Settled<Recorded>>, sqlx::Error> {
        self.commit(deliveries).await
    }

    /// For the database's words about what it refused.
    fn alone(
        &self,
        delivery: Delivery,
    ) -> impl Future<Output = Result<Recorded, StoreError>> + Send + 'static {
        let recorder = self.clone();
        async move {
            let settled = recorder.commit(&[&delivery]).await.map_err(database)?;
            let fenced = || Err(StoreError::Fenced(delivery.fence));
            settled.into_iter().next().flatten().unwrap_or_else(fenced)
        }
    }
}

impl Recorder {
    async fn commit(&self, deliveries: &[&Delivery]) -> Result<Vec<Settled<Recorded>>, sqlx::Error> {
        let mut transaction = self.writer.begin_with("begin immediate").await?;
        let with_usage = any_usage(deliveries);
        let held = hold(&mut transaction, deliveries, with_usage).await?;
        let (mut settled, writes) = settle(deliveries, &held);
        for (settled, delivery) in settled.iter_mut().zip(deliveries) {
            // Nobody else can have locked it.
            settled.get_or_insert(Err(StoreError::Fenced(delivery.fence)));
        }
        if writes.is_empty() {
            return Ok(settled);
        }
        write(&mut transaction, &writes, with_usage).await?;
        transaction.commit().await?;
        self.written.notify_one();
        Ok(settled)
    }
}
