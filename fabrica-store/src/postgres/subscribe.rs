//! One connection that listens, for all subscribers of the process.

use std::time::Duration;

use fabrica_core::ids::{MessageId, SessionId};
use fabrica_core::message::MessageKind;
use fabrica_core::ports::store::Notice;
use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification};
use sqlx::types::Uuid;
use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::notices;

const MESSAGES: &str = "fabrica_messages";
const SESSIONS: &str = "fabrica_sessions";
/// How long the listener waits before it tries to connect again.
const PAUSE: Duration = Duration::from_secs(1);

/// The listener; it starts with the first subscriber and ends with the store.
pub(super) struct Listening {
    sender: Mutex<Option<broadcast::Sender<Notice>>>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Default for Listening {
    fn default() -> Self {
        let stop = CancellationToken::new();
        Self {
            sender: Mutex::default(),
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }
    }
}

impl Listening {
    /// The server notes what is stored from now on.
    #[tracing::instrument(name = "store.postgres.subscribe", skip_all, err)]
    pub(super) async fn subscribe(&self, pool: &PgPool) -> Result<broadcast::Receiver<Notice>, sqlx::Error> {
        if self.stop.is_cancelled() {
            return Err(sqlx::Error::PoolClosed);
        }
        let mut sender = self.sender.lock().await;
        if let Some(sender) = &*sender {
            return Ok(sender.subscribe());
        }
        let listener = listen(pool).await?;
        let new = notices::channel();
        let receiver = new.subscribe();
        tokio::spawn(forward(pool.clone(), listener, new.clone(), self.stop.clone()));
        *sender = Some(new);
        Ok(receiver)
    }

    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.sender.lock().await.take();
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all([MESSAGES, SESSIONS]).await?;
    Ok(listener)
}

async fn forward(
    pool: PgPool,
    mut listener: PgListener,
    sender: broadcast::Sender<Notice>,
    stop: CancellationToken,
) {
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = listener.try_recv() => heard,
        };
        let notice = match heard {
            Ok(Some(notification)) => notice(&notification),
            Ok(None) => Some(Notice::Missed),
            Err(error) => {
                tracing::warn!(error = %error, "lost the connection that listens to the database");
                listener = tokio::select! {
                    () = stop.cancelled() => return,
                    listener = listen_again(&pool) => listener,
                };
                Some(Notice::Missed)
            }
        };
        if let Some(notice) = notice {
            // Nobody subscribes at the moment: nobody misses it.
            let _ = sender.send(notice);
        }
    }
}

async fn listen_again(pool: &PgPool) -> PgListener {
    loop {
        match listen(pool).await {
            Ok(listener) => return listener,
            Err(error) => tracing::warn!(error = %error, "the database cannot be listened to; trying again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(Deserialize)]
struct MessagePayload {
    id: Uuid,
    session_id: Uuid,
    r#type: String,
}

#[derive(Deserialize)]
struct SessionPayload {
    event: String,
    session_id: Uuid,
}

/// Any program may notify: what is not understood is none of ours.
fn notice(notification: &PgNotification) -> Option<Notice> {
    if notification.channel() == MESSAGES {
        let payload: MessagePayload = serde_json::from_str(notification.payload()).ok()?;
        return Some(Notice::Message {
            id: MessageId::from_uuid(payload.id),
            session: SessionId::from_uuid(payload.session_id),
            kind: payload.r#type.parse().unwrap_or(MessageKind::Progress),
        });
    }
    let payload: SessionPayload = serde_json::from_str(notification.payload()).ok()?;
    match payload.event.as_str() {
        "claimable" => Some(Notice::Claimable),
        "cancel_requested" => Some(Notice::CancelRequested(SessionId::from_uuid(payload.session_id))),
        _ => None,
    }
}
