//! Creating sessions: those of many submitters in one transaction.

use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{Created, NewSession};
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::create::create_session;
use super::writer::WriterConnection;
use crate::events::json_text;
use crate::group::{Item, Lane, Settled, Writer};
use crate::values::{integer, microseconds};

/// Those whose id or key is taken are left out, also where the same key comes twice.
const CREATE: &str = "
    with wanted as (
        select * from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[], $6::text[], $7::text[], $8::bigint[],
                             $9::uuid[], $10::text[], $11::uuid[], $12::text[], $13::text[])
             as w (id, repo_url, title, max_attempts, priority, submitter, idempotency_key, held, spec, content, message,
                   type, message_content)
    ), created as (
        insert into sessions (id, repo_url, title, max_attempts, priority, submitter, idempotency_key, message_seq, run_at)
        select id, repo_url, title, max_attempts, priority, submitter, idempotency_key, 1,
               now() + held * interval '1 microsecond'
        from wanted
        on conflict do nothing
        returning id
    ), spec as (
        insert into specs (id, session_id, content) select w.spec, w.id, w.content from wanted w join created using (id)
    ), message as (
        insert into messages (id, session_id, type, content, seq)
        select w.message, w.id, w.type, w.message_content::jsonb, 1 from wanted w join created using (id)
    )
    select id from created";

/// What creates sessions.
pub(super) struct Submitting(Lane<Submitter>);

impl Submitting {
    pub(super) fn new(pool: &PgPool) -> Self {
        let pool = pool.clone();
        Self(Lane::new(move || Submitter(WriterConnection::new(&pool))))
    }

    pub(super) async fn create_session(&self, session: NewSession) -> Result<Created, StoreError> {
        let message = json_text(&session.message.content)?;
        self.0.write(Submission { session, message }).await
    }

    /// Takes in nothing more; what waits is still created.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

struct Submission {
    session: NewSession,
    /// The content of its first message.
    message: String,
}

impl Item for Submission {
    fn key(&self) -> Uuid {
        *self.session.id.as_uuid()
    }

    fn bytes(&self) -> usize {
        let session = &self.session;
        let key = session.idempotency_key.as_ref().map_or(0, String::len);
        session.content.len() + session.repo_url.len() + session.title.len() + key + self.message.len()
    }
}

struct Submitter(WriterConnection);

impl Writer for Submitter {
    type Item = Submission;
    type Answer = Created;

    async fn write(&mut self, submissions: &[&Submission]) -> Result<Vec<Settled<Created>>, sqlx::Error> {
        let created = match self.0.get().await {
            Ok(connection) => create(connection, submissions).await,
            Err(error) => Err(error),
        };
        let created = self.0.after(created)?;
        // Whoever was there before is found alone.
        let settled = |submission: &&Submission| {
            let id = submission.session.id;
            created.contains(id.as_uuid()).then_some(Ok(Created::New(id)))
        };
        Ok(submissions.iter().map(settled).collect())
    }

    fn alone(
        &self,
        submission: Submission,
    ) -> impl Future<Output = Result<Created, StoreError>> + Send + 'static {
        let pool = self.0.pool().clone();
        async move { create_session(&pool, submission.session).await }
    }
}

/// Returns the ids of those that are new.
async fn create(
    connection: &mut PgConnection,
    submissions: &[&Submission],
) -> Result<Vec<Uuid>, sqlx::Error> {
    fn column<'a, T>(submissions: &[&'a Submission], value: impl Fn(&'a Submission) -> T) -> Vec<T> {
        submissions.iter().map(|submission| value(submission)).collect()
    }
    sqlx::query_scalar(CREATE)
        .bind(column(submissions, |new| *new.session.id.as_uuid()))
        .bind(column(submissions, |new| new.session.repo_url.as_str()))
        .bind(column(submissions, |new| new.session.title.as_str()))
        .bind(column(submissions, |new| integer(new.session.max_attempts)))
        .bind(column(submissions, |new| new.session.priority))
        .bind(column(submissions, |new| new.session.submitter.as_deref()))
        .bind(column(submissions, |new| new.session.idempotency_key.as_deref()))
        .bind(column(submissions, |new| microseconds(new.session.held)))
        .bind(column(submissions, |new| *new.session.spec.as_uuid()))
        .bind(column(submissions, |new| new.session.content.as_str()))
        .bind(column(submissions, |new| *new.session.message.id.as_uuid()))
        .bind(column(submissions, |new| new.session.message.kind.as_str()))
        .bind(column(submissions, |new| new.message.as_str()))
        .fetch_all(connection)
        .await
}
