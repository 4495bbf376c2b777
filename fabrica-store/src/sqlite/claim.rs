//! Claiming sessions. Whoever claims holds the database's write lock, so nobody else does at the same time.

use fabrica_core::ids::SessionId;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{ClaimLimits, ClaimRequest, Claimed, Retired, Storable as _};
use sqlx::SqliteConnection;
use sqlx::types::Uuid;

use super::asking;
use super::write::{After, add_messages, end_attempts, set_status};
use super::{SqliteStore, now};
use crate::error::database;
use crate::rows::{ClaimedRow, hand_on, readable, session_columns};
use crate::shared::retirement;
use crate::turns::{Running, RunningRow, WaitingRow, choose};
use crate::values::microseconds;

/// How many sessions one claim ends at most; the next claim goes on.
const RETIRED_AT_ONCE: i64 = 100;

/// What is claimed can be run.
macro_rules! has_spec {
    () => {
        "exists (select 1 from specs p where p.session_id = s.id and p.version >= 0)"
    };
}

/// The condition of the partial indexes.
macro_rules! pending {
    () => {
        "s.status = 'pending' and s.cancel_requested = 0"
    };
}

/// `?1` limit, `?2` only.
const WITHOUT_LEASE: &str = concat!(
    "select s.id from sessions s
     where s.status = 'running' and s.attempt > 0 and s.run_at <= ",
    now!(),
    " and (?2 is null or s.id = ?2) and ",
    has_spec!(),
    " and exists (select 1 from attempts a where a.session_id = s.id and a.number = s.attempt)
     order by s.run_at, s.id limit ?1"
);

/// `?1` only, which need not wait while it is new.
const ONLY: &str = concat!(
    "select s.id from sessions s where ",
    pending!(),
    " and s.id = ?1 and (s.attempt = 0 or s.run_at <= ",
    now!(),
    ") and ",
    has_spec!()
);

/// The first of each queue: `heads` has the queues, by `$key`.
macro_rules! first_of_each {
    ($heads:literal, $key:literal) => {
        concat!(
            $heads,
            "
             select s.id, coalesce(s.submitter, '') as submitter, s.repo_url as repository, s.priority, s.run_at
             from heads h cross join sessions s on s.id in (
                 select s.id from sessions s
                 where ",
            pending!(),
            " and ",
            $key,
            " and s.run_at <= ",
            now!(),
            " and ",
            has_spec!(),
            " order by s.run_at, s.id limit ?1
             )"
        )
    };
}

/// The first of those that wait, of every submitter and priority: one step through the index from each to the next.
const WAITING: &str = first_of_each!(
    "with recursive submitters (submitter) as (
         select (select coalesce(s.submitter, '') from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 order by coalesce(s.submitter, '') limit 1)
         union all
         select (select coalesce(s.submitter, '') from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') > l.submitter
                 order by coalesce(s.submitter, '') limit 1)
         from submitters l where l.submitter is not null
     ), heads (submitter, priority) as (
         select l.submitter,
                (select - s.priority from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') = l.submitter
                 order by - s.priority limit 1)
         from submitters l where l.submitter is not null
         union all
         select h.submitter,
                (select - s.priority from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') = h.submitter
                   and - s.priority > h.priority
                 order by - s.priority limit 1)
         from heads h where h.priority is not null
     )",
    "coalesce(s.submitter, '') = h.submitter and - s.priority = h.priority"
);

/// The same, of every repository too.
const WAITING_BY_REPOSITORY: &str = first_of_each!(
    "with recursive submitters (submitter) as (
         select (select coalesce(s.submitter, '') from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 order by coalesce(s.submitter, '') limit 1)
         union all
         select (select coalesce(s.submitter, '') from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') > l.submitter
                 order by coalesce(s.submitter, '') limit 1)
         from submitters l where l.submitter is not null
     ), repositories (submitter, repo_url) as (
         select l.submitter,
                (select s.repo_url from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') = l.submitter
                 order by s.repo_url limit 1)
         from submitters l where l.submitter is not null
         union all
         select l.submitter,
                (select s.repo_url from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') = l.submitter
                   and s.repo_url > l.repo_url
                 order by s.repo_url limit 1)
         from repositories l where l.repo_url is not null
     ), heads (submitter, repo_url, priority) as (
         select l.submitter, l.repo_url,
                (select - s.priority from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') = l.submitter
                   and s.repo_url = l.repo_url
                 order by - s.priority limit 1)
         from repositories l where l.repo_url is not null
         union all
         select h.submitter, h.repo_url,
                (select - s.priority from sessions s
                 where s.status = 'pending' and s.cancel_requested = 0 and coalesce(s.submitter, '') = h.submitter
                   and s.repo_url = h.repo_url and - s.priority > h.priority
                 order by - s.priority limit 1)
         from heads h where h.priority is not null
     )",
    "coalesce(s.submitter, '') = h.submitter and s.repo_url = h.repo_url and - s.priority = h.priority"
);

const RUNNING: &str = "
    select coalesce(s.submitter, '') as submitter, s.repo_url as repository, count(*) as sessions
    from sessions s where s.status = 'running' and s.attempt > 0
    group by 1, 2";

/// What the worker is told of `?1`; `?2` whether its attempt was under way.
const CLAIMED: &str = concat!(
    "select ",
    session_columns!(),
    ", s.lease, p.id as spec_id, p.session_id, p.version, p.content, p.created_at as spec_created_at,
            a.container, a.branch, a.runner_token_hash, a.agent_token_hash, s.last_event, ",
    now!(),
    " - a.started_at as age,
            (select case when o.outcome is null or o.outcome = 'lost' then o.result end from attempts o
             where o.session_id = s.id and (o.result is not null or o.outcome <> 'lost')
             order by o.number desc limit 1) as reported,
            s.checkpoint, s.checkpoint_attempt
     from sessions s
     join specs p on p.id = (select n.id from specs n where n.session_id = s.id and n.version >= 0
                             order by n.version desc, n.created_at desc limit 1)
     left join attempts a on ?2 and a.session_id = s.id and a.number = s.attempt
     where s.id = ?1"
);

#[tracing::instrument(name = "store.sqlite.claim", skip_all, fields(worker.id = %request.worker), err)]
pub(super) async fn claim(store: &SqliteStore, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
    let mut transaction = store.write().await?;
    let mut rows = Vec::new();
    for id in without_lease(&mut transaction, request).await? {
        take_over(&mut transaction, id, request).await?;
        rows.push(read(&mut transaction, id, true).await?);
    }
    let retired = retire(&mut transaction, request.only).await?;
    for id in turns(&mut transaction, request).await? {
        take(&mut transaction, *id.as_uuid(), request).await?;
        rows.push(read(&mut transaction, *id.as_uuid(), false).await?);
    }
    let answered = asking::answered(&mut transaction, &rows).await?;
    hand_on(&mut rows, answered);
    // Whoever asks and gets nothing shall cost no write.
    if retired || !rows.is_empty() {
        store.commit(transaction).await?;
    }
    Ok(readable(rows))
}

async fn without_lease(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
) -> Result<Vec<Uuid>, StoreError> {
    sqlx::query_scalar(WITHOUT_LEASE)
        .bind(i64::from(request.takeovers))
        .bind(request.only.map(|only| *only.as_uuid()))
        .fetch_all(connection)
        .await
        .map_err(database)
}

async fn take_over(
    connection: &mut SqliteConnection,
    id: Uuid,
    request: &ClaimRequest,
) -> Result<(), StoreError> {
    let worker = request.worker.clone().storable();
    sqlx::query(concat!(
        "update sessions set lease = lease + 1, worker = ?2, run_at = ",
        now!(),
        " + ?3 where id = ?1"
    ))
    .bind(id)
    .bind(worker.as_str())
    .bind(microseconds(request.lease))
    .execute(&mut *connection)
    .await
    .map_err(database)?;
    sqlx::query(
        "update attempts set worker = ?2
         where session_id = ?1 and number = (select attempt from sessions where id = ?1)",
    )
    .bind(id)
    .bind(worker.as_str())
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

/// Pending sessions, in their order.
async fn turns(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
) -> Result<Vec<SessionId>, StoreError> {
    if request.limit == 0 {
        return Ok(vec![]);
    }
    if let Some(only) = request.only {
        let id: Option<Uuid> = sqlx::query_scalar(ONLY)
            .bind(only.as_uuid())
            .fetch_optional(connection)
            .await
            .map_err(database)?;
        return Ok(id.map(SessionId::from_uuid).into_iter().collect());
    }
    let query = match request.limits.per_repository {
        None => sqlx::query_as(WAITING),
        Some(_) => sqlx::query_as(WAITING_BY_REPOSITORY),
    };
    let waiting: Vec<WaitingRow> = query
        .bind(i64::from(request.limit))
        .fetch_all(&mut *connection)
        .await
        .map_err(database)?;
    let running = if waiting.is_empty() || (waiting.len() == 1 && request.limits == ClaimLimits::default()) {
        Running::default()
    } else {
        let rows: Vec<RunningRow> = sqlx::query_as(RUNNING)
            .fetch_all(connection)
            .await
            .map_err(database)?;
        Running::of(rows)
    };
    let wanted = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let waiting = waiting.into_iter().map(Into::into).collect();
    Ok(choose(waiting, running, &request.limits, wanted))
}

async fn take(connection: &mut SqliteConnection, id: Uuid, request: &ClaimRequest) -> Result<(), StoreError> {
    end_attempts(connection, SessionId::from_uuid(id), "lost", None).await?;
    sqlx::query(concat!(
        "update sessions
         set status = 'running', attempt = attempt + 1, lease = lease + 1, worker = ?2, completed_at = null,
             last_event = 0, transcript_kept = 1, run_at = ",
        now!(),
        " + ?3
         where id = ?1"
    ))
    .bind(id)
    .bind(request.worker.clone().storable().as_str().to_owned())
    .bind(microseconds(request.lease))
    .execute(&mut *connection)
    .await
    .map_err(database)?;
    sqlx::query("insert into attempts (session_id, number, worker) select id, attempt, worker from sessions where id = ?1")
        .bind(id)
        .execute(connection)
        .await
        .map_err(database)?;
    Ok(())
}

async fn read(connection: &mut SqliteConnection, id: Uuid, resumed: bool) -> Result<ClaimedRow, StoreError> {
    sqlx::query_as(CLAIMED)
        .bind(id)
        .bind(resumed)
        .fetch_one(connection)
        .await
        .map_err(database)
}

/// Ends the sessions that are not to be run again; whether there were any.
async fn retire(connection: &mut SqliteConnection, only: Option<SessionId>) -> Result<bool, StoreError> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(concat!(
        "select s.id, s.message_seq from sessions s
         where s.status = 'pending' and s.cancel_requested = 1 and s.run_at <= ",
        now!(),
        " and (?2 is null or s.id = ?2)
         order by s.run_at, s.id limit ?1"
    ))
    .bind(RETIRED_AT_ONCE)
    .bind(only.map(|only| *only.as_uuid()))
    .fetch_all(&mut *connection)
    .await
    .map_err(database)?;
    for (id, message_seq) in &rows {
        let session = SessionId::from_uuid(*id);
        let seq = add_messages(connection, session, *message_seq, &[retirement()]).await?;
        set_status(connection, session, Retired::STATUS, After::now(seq)).await?;
        end_attempts(connection, session, "cancelled", None).await?;
    }
    Ok(!rows.is_empty())
}
