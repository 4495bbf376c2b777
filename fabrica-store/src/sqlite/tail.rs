//! Follows the table of notices for all subscribers of the process: at once after a commit of this process, and every
//! moment for those of others.

use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ids::{MessageId, SessionId};
use fabrica_core::message::MessageKind;
use fabrica_core::ports::store::Notice;
use sqlx::pool::PoolConnection;
use sqlx::types::Uuid;
use sqlx::{Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, Notify, broadcast};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::notices;

/// How often the file is asked whether another process wrote.
const POLL: Duration = Duration::from_millis(100);
/// How many notices are read at once.
const PAGE: usize = 1000;

/// The follower; it starts with the first subscriber and ends with the store.
pub(super) struct Tail {
    sender: Mutex<Option<broadcast::Sender<Notice>>>,
    written: Arc<Notify>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Default for Tail {
    fn default() -> Self {
        let stop = CancellationToken::new();
        Self {
            sender: Mutex::default(),
            written: Arc::default(),
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }
    }
}

impl Tail {
    /// This process committed.
    pub(super) fn wake(&self) {
        self.written.notify_one();
    }

    /// Who is told of every commit of this process.
    pub(super) fn written(&self) -> Arc<Notify> {
        self.written.clone()
    }

    /// What is committed from now on will be noticed.
    #[tracing::instrument(name = "store.sqlite.subscribe", skip_all, err)]
    pub(super) async fn subscribe(
        &self,
        readers: &SqlitePool,
    ) -> Result<broadcast::Receiver<Notice>, sqlx::Error> {
        if self.stop.is_cancelled() {
            return Err(sqlx::Error::PoolClosed);
        }
        let mut sender = self.sender.lock().await;
        if let Some(sender) = &*sender {
            return Ok(sender.subscribe());
        }
        let mut connection = readers.acquire().await?;
        let position = sqlx::query_scalar("select coalesce(max(position), 0) from notices")
            .fetch_one(&mut *connection)
            .await?;
        let new = notices::channel();
        let receiver = new.subscribe();
        let follower = Follower {
            connection,
            position,
            version: 0,
            sender: new.clone(),
        };
        tokio::spawn(follower.run(self.written.clone(), self.stop.clone()));
        *sender = Some(new);
        Ok(receiver)
    }

    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.sender.lock().await.take();
    }
}

struct Follower {
    /// Its own for as long as it lives: `data_version` tells of the changes by all others.
    connection: PoolConnection<Sqlite>,
    position: i64,
    version: i64,
    sender: broadcast::Sender<Notice>,
}

#[derive(sqlx::FromRow)]
struct NoticeRow {
    position: i64,
    event: String,
    session_id: Uuid,
    message_id: Option<Uuid>,
    r#type: Option<String>,
}

impl Follower {
    async fn run(mut self, written: Arc<Notify>, stop: CancellationToken) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let here = tokio::select! {
                () = stop.cancelled() => return,
                () = written.notified() => true,
                _ = poll.tick() => false,
            };
            // The position stays where it is, so the next turn reads what this one could not.
            if let Err(error) = self.turn(here).await {
                tracing::warn!(error = %error, "the notices cannot be read");
                self.version = 0;
            }
        }
    }

    async fn turn(&mut self, here: bool) -> Result<(), sqlx::Error> {
        if !here {
            let version = sqlx::query_scalar("pragma data_version")
                .fetch_one(&mut *self.connection)
                .await?;
            if std::mem::replace(&mut self.version, version) == version {
                return Ok(());
            }
        }
        loop {
            let rows = page(&mut self.connection, self.position).await?;
            let full = rows.len() == PAGE;
            for row in rows {
                if row.position > self.position + 1 {
                    self.send(Notice::Missed);
                }
                self.position = row.position;
                if let Some(notice) = row.notice() {
                    self.send(notice);
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn send(&self, notice: Notice) {
        // Nobody subscribes at the moment: nobody misses it.
        let _ = self.sender.send(notice);
    }
}

async fn page(connection: &mut SqliteConnection, after: i64) -> Result<Vec<NoticeRow>, sqlx::Error> {
    sqlx::query_as(
        "select position, event, session_id, message_id, type from notices where position > ?1 order by position limit ?2",
    )
    .bind(after)
    .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
}

impl NoticeRow {
    fn notice(self) -> Option<Notice> {
        let session = SessionId::from_uuid(self.session_id);
        match (self.event.as_str(), self.message_id) {
            ("message", Some(id)) => Some(Notice::Message {
                id: MessageId::from_uuid(id),
                session,
                kind: self
                    .r#type
                    .and_then(|name| name.parse().ok())
                    .unwrap_or(MessageKind::Progress),
            }),
            ("claimable", _) => Some(Notice::Claimable),
            ("cancel_requested", _) => Some(Notice::CancelRequested(session)),
            _ => None,
        }
    }
}
