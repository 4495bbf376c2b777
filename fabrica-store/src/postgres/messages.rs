//! Reading messages: what many watchers want to read meanwhile is read in one round trip, since a notice of one message
//! wakes all who watch its session, and a busy service sends thousands a second.

use std::sync::atomic::{AtomicU64, Ordering};

use fabrica_core::ids::SessionId;
use fabrica_core::message::Message;
use fabrica_core::ports::StoreError;
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::writer::WriterConnection;
use crate::error::database;
use crate::group::{Item, Lane, Settled, Writer};
use crate::rows::{MessageRow, all};
use crate::values::bigint;

/// What a message takes, roughly: it decides how many reads share a round trip.
const MESSAGE_BYTES: usize = 512;

/// `$1` sessions, `$2` after which message of each, `$3` how many of each.
const READ: &str = "
    select r.place - 1 as place, m.id, m.session_id, m.seq, m.type, m.content, m.created_at, m.read_at
    from unnest($1::uuid[], $2::bigint[], $3::bigint[]) with ordinality as r (session_id, after, most, place)
    cross join lateral (
        select m.* from messages m where m.session_id = r.session_id and m.seq > r.after order by m.seq limit r.most
    ) m
    order by r.place, m.seq";

/// What reads messages.
pub(super) struct Reading {
    lane: Lane<Reader>,
    next: AtomicU64,
}

impl Reading {
    pub(super) fn new(pool: &PgPool) -> Self {
        let pool = pool.clone();
        Self {
            lane: Lane::new(move || Reader(WriterConnection::new(&pool))),
            next: AtomicU64::new(0),
        }
    }

    #[tracing::instrument(name = "store.postgres.messages", skip_all, fields(session.id = %session), err)]
    pub(super) async fn messages(
        &self,
        session: SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Message>, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lane
            .write(Question {
                number,
                session: *session.as_uuid(),
                after: bigint(after),
                limit,
            })
            .await
    }

    /// Reads nothing more.
    pub(super) fn close(&self) {
        self.lane.close();
    }
}

struct Question {
    number: u64,
    session: Uuid,
    after: i64,
    limit: u32,
}

impl Item for Question {
    /// No two need to wait for each other.
    fn key(&self) -> Uuid {
        Uuid::from_u64_pair(0, self.number)
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.limit).map_or(usize::MAX, |limit| limit.saturating_mul(MESSAGE_BYTES))
    }
}

#[derive(sqlx::FromRow)]
struct AnswerRow {
    /// Of the question that it answers.
    place: i64,
    #[sqlx(flatten)]
    message: MessageRow,
}

struct Reader(WriterConnection);

impl Writer for Reader {
    type Item = Question;
    type Answer = Vec<Message>;

    const TOGETHER: bool = true;

    async fn write(&mut self, questions: &[&Question]) -> Result<Vec<Settled<Vec<Message>>>, sqlx::Error> {
        let read = async { read(self.0.get().await?, questions).await }.await;
        let rows = self.0.after(read)?;
        let mut answers: Vec<Vec<MessageRow>> = questions.iter().map(|_| vec![]).collect();
        for row in rows {
            if let Some(answer) = usize::try_from(row.place)
                .ok()
                .and_then(|place| answers.get_mut(place))
            {
                answer.push(row.message);
            }
        }
        Ok(answers.into_iter().map(|rows| Some(all(rows))).collect())
    }

    fn alone(
        &self,
        question: Question,
    ) -> impl Future<Output = Result<Vec<Message>, StoreError>> + Send + 'static {
        let pool = self.0.pool().clone();
        async move {
            let mut connection = pool.acquire().await.map_err(database)?;
            let rows = read(&mut connection, &[&question]).await.map_err(database)?;
            all(rows.into_iter().map(|row| row.message).collect())
        }
    }
}

async fn read(connection: &mut PgConnection, questions: &[&Question]) -> Result<Vec<AnswerRow>, sqlx::Error> {
    sqlx::query_as(READ)
        .bind(
            questions
                .iter()
                .map(|question| question.session)
                .collect::<Vec<_>>(),
        )
        .bind(
            questions
                .iter()
                .map(|question| question.after)
                .collect::<Vec<_>>(),
        )
        .bind(
            questions
                .iter()
                .map(|question| i64::from(question.limit))
                .collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await
}
