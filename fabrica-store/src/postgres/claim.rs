//! Claiming sessions.

use std::collections::HashSet;

use fabrica_core::ids::SessionId;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{ClaimLimits, ClaimRequest, Claimed, Retired, Storable as _};
use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::asking;
use super::write::{After, add_messages, end_attempts, set_status};
use crate::error::database;
use crate::rows::{ClaimedRow, hand_on, readable, session_columns};
use crate::shared::retirement;
use crate::turns::{Running, RunningRow, Waiting, WaitingRow, choose};
use crate::values::{count, microseconds};

/// How many sessions one claim ends at most; the next claim goes on.
const RETIRED_AT_ONCE: i64 = 100;
/// How many more than it wants a claim looks at first, since others may be claiming some of them.
const SPARE: i64 = 16;
/// By how much more it looks at, if that was not enough.
const MORE: i64 = 16;
/// How often it looks.
const LOOKS: usize = 4;
/// The lock that keeps claims with limits apart, so that none counts too few. Any number that nobody else uses.
const TURN: i64 = 0x0066_6162_7269_6361;

/// What is claimed can be run.
macro_rules! has_spec {
    () => {
        "exists (select 1 from specs p where p.session_id = s.id and p.version >= 0)"
    };
}

/// What the worker is told. `claimed s` has the session, `due` and the columns of an attempt.
macro_rules! claimed_columns {
    () => {
        concat!(
            "select ",
            session_columns!(),
            ", s.lease, p.*, s.container, s.branch, s.runner_token_hash, s.agent_token_hash, s.last_event, s.age,
               r.reported, s.checkpoint, s.checkpoint_attempt
             from claimed s
             cross join lateral (
                 select id as spec_id, session_id, version, content, created_at as spec_created_at
                 from specs where session_id = s.id and version >= 0 order by version desc, created_at desc limit 1
             ) p
             left join lateral (
                 select case when a.outcome is null or a.outcome = 'lost' then a.result end as reported
                 from attempts a
                 where a.session_id = s.id and (a.result is not null or a.outcome <> 'lost')
                 order by a.number desc limit 1
             ) r on true
             order by s.due, s.id"
        )
    };
}

/// `$1` worker, `$2` lease, `$3` limit, `$4` only. Whoever else holds a row is skipped, never waited for.
const TAKE_OVER: &str = concat!(
    "with candidate as (
         select s.id, s.run_at from sessions s
         where s.status = 'running' and s.attempt > 0 and s.run_at <= now()
           and ($4::uuid is null or s.id = $4) and ",
    has_spec!(),
    "
           and exists (select 1 from attempts a where a.session_id = s.id and a.number = s.attempt)
         order by s.run_at, s.id limit $3 for update of s skip locked
     ), taken as (
         update sessions s
         set lease = s.lease + 1, worker = $1, run_at = now() + $2::bigint * interval '1 microsecond'
         from candidate c where s.id = c.id
         returning s.*, c.run_at as due
     ), claimed as (
         update attempts a set worker = $1 from taken s
         where a.session_id = s.id and a.number = s.attempt
         returning s.*, a.container, a.branch, a.runner_token_hash, a.agent_token_hash,
                   (extract(epoch from now() - a.started_at) * 1000000)::bigint as age
     ) ",
    claimed_columns!()
);

/// `$1` worker, `$2` lease, `$3` limit, `$4` whose turn it is, in that order, `$5` whether those that are new need not
/// wait. One is locked after the other until there are enough; what somebody else claims at this moment is skipped.
const TAKE: &str = concat!(
    "with candidate as (
         select l.id, t.place from unnest($4::uuid[]) with ordinality t (id, place) cross join lateral (
             select s.id from sessions s
             where s.id = t.id and s.status = 'pending' and not s.cancel_requested
               and (s.run_at <= now() or ($5 and s.attempt = 0)) and ",
    has_spec!(),
    "
             for update of s skip locked
         ) l limit $3
     ), taken as (
         update sessions s
         set status = 'running', attempt = s.attempt + 1, lease = s.lease + 1, worker = $1, completed_at = null,
             last_event = 0, transcript_kept = true, run_at = now() + $2::bigint * interval '1 microsecond'
         from candidate c where s.id = c.id
         returning s.*, c.place as due
     ), lost as (
         update attempts a set outcome = 'lost', ended_at = now()
         from taken s where a.session_id = s.id and a.outcome is null
     ), opened as (
         insert into attempts (session_id, number, worker) select id, attempt, worker from taken
     ), claimed as (
         select s.*, null::text as container, null::text as branch, null::bytea as runner_token_hash,
                null::bytea as agent_token_hash, null::bigint as age
         from taken s
     ) ",
    claimed_columns!()
);

macro_rules! submitter {
    () => {
        "hashtextextended(coalesce(s.submitter, ''), 0)"
    };
}

macro_rules! repository {
    () => {
        "hashtextextended(s.repo_url, 0)"
    };
}

/// The condition of the partial indexes.
macro_rules! pending {
    () => {
        "s.status = 'pending' and not s.cancel_requested"
    };
}

/// The first of those that wait, of every submitter (and repository) and priority: the index leads from the first of
/// each straight to the first of the next. Then those behind them: `$1` of each, together with the first, and `$2` spare
/// ones for all of them together.
macro_rules! waiting {
    ($key:expr, $names:literal, $of_head:literal) => {
        concat!(
            "with recursive heads (",
            $names,
            ", run_at, id, repo_url) as (
                 (select ",
            $key,
            ", s.run_at, s.id, s.repo_url from sessions s where ",
            pending!(),
            " order by ",
            $key,
            ", s.run_at, s.id limit 1)
                 union all
                 select next.* from heads h cross join lateral (
                     select ",
            $key,
            ", s.run_at, s.id, s.repo_url from sessions s where ",
            pending!(),
            " and (",
            $key,
            ") > (",
            $of_head,
            ")
                     order by ",
            $key,
            ", s.run_at, s.id limit 1
                 ) next
             )
             select h.id, h.key::text as submitter, hashtextextended(h.repo_url, 0)::text as repository,
                    - h.urgency as priority, h.run_at
             from heads h where h.run_at <= now()
             union all
             select w.id, h.key::text, hashtextextended(w.repo_url, 0)::text, - h.urgency, w.run_at
             from heads h cross join lateral (
                 select s.id, s.repo_url, s.run_at from sessions s
                 where ",
            pending!(),
            " and (",
            $key,
            ") = (",
            $of_head,
            ") and (s.run_at, s.id) > (h.run_at, h.id) and s.run_at <= now()
                 order by s.run_at, s.id limit $1 - 1 + $2 / (select count(*) from heads)
             ) w
             where h.run_at <= now()"
        )
    };
}

const WAITING: &str = waiting!(
    concat!(submitter!(), ", (- s.priority)"),
    "key, urgency",
    "h.key, h.urgency"
);

const WAITING_BY_REPOSITORY: &str = waiting!(
    concat!(submitter!(), ", ", repository!(), ", (- s.priority)"),
    "key, repository, urgency",
    "h.key, h.repository, h.urgency"
);

/// Grouped by numbers, since texts take much longer to compare.
const RUNNING: &str = concat!(
    "select r.submitter::text, r.repository::text, r.sessions
     from (
         select ",
    submitter!(),
    " as submitter, ",
    repository!(),
    " as repository, count(*) as sessions
         from sessions s where s.status = 'running' and s.attempt > 0
         group by 1, 2
     ) r"
);

const RETIRED: &str = "
    select s.id, s.message_seq from sessions s
    where s.status = 'pending' and s.cancel_requested and s.run_at <= now() and ($2::uuid is null or s.id = $2)
    order by s.run_at, s.id limit $1 for update of s skip locked";

#[tracing::instrument(name = "store.postgres.claim", skip_all, fields(worker.id = %request.worker), err)]
pub(super) async fn claim(pool: &PgPool, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
    let mut transaction = pool.begin().await.map_err(database)?;
    let mut rows = Vec::new();
    if request.takeovers > 0 {
        rows = take_over(&mut transaction, request).await?;
    }
    retire(&mut transaction, request.only).await?;
    match request.only {
        _ if request.limit == 0 => {}
        Some(only) => rows.extend(take(&mut transaction, request, request.limit, &[only]).await?),
        None => rows.extend(take_turns(&mut transaction, request).await?),
    }
    let answered = asking::answered(&mut transaction, &rows).await?;
    transaction.commit().await.map_err(database)?;
    hand_on(&mut rows, answered);
    Ok(readable(rows))
}

async fn take_over(
    connection: &mut PgConnection,
    request: &ClaimRequest,
) -> Result<Vec<ClaimedRow>, StoreError> {
    sqlx::query_as(TAKE_OVER)
        .bind(request.worker.clone().storable().as_str().to_owned())
        .bind(microseconds(request.lease))
        .bind(i64::from(request.takeovers))
        .bind(request.only.map(|only| *only.as_uuid()))
        .fetch_all(connection)
        .await
        .map_err(database)
}

/// Pending sessions, in their order. What others are claiming at this moment is passed over, so it may take several
/// looks, each deeper than the last.
async fn take_turns(
    connection: &mut PgConnection,
    request: &ClaimRequest,
) -> Result<Vec<ClaimedRow>, StoreError> {
    let limited = request.limits != ClaimLimits::default();
    if limited {
        // A statement of its own: the next one sees what was committed before the lock was granted.
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(TURN)
            .execute(&mut *connection)
            .await
            .map_err(database)?;
    }
    let (mut rows, mut tried, mut spare) = (Vec::new(), HashSet::new(), SPARE);
    for _ in 0..LOOKS {
        let left = request.limit.saturating_sub(count(rows.len()));
        if left == 0 {
            break;
        }
        let mut waiting = waiting(connection, request, left, spare).await?;
        // Locked by others a moment ago, or without a plan.
        waiting.retain(|one| !tried.contains(&one.id));
        if waiting.is_empty() {
            break;
        }
        let running = if limited || of_several(&waiting) {
            Running::of(
                sqlx::query_as::<_, RunningRow>(RUNNING)
                    .fetch_all(&mut *connection)
                    .await
                    .map_err(database)?,
            )
        } else {
            Running::default()
        };
        // Without limits it does not matter if the next ones are claimed in place of those that others take.
        let spared = if limited { 0 } else { spare };
        let wanted = i64::from(left).saturating_add(spared);
        let chosen = choose(
            waiting,
            running,
            &request.limits,
            usize::try_from(wanted).unwrap_or(usize::MAX),
        );
        if chosen.is_empty() {
            break;
        }
        rows.extend(take(connection, request, left, &chosen).await?);
        tried.extend(chosen);
        spare = spare.saturating_mul(MORE);
    }
    Ok(rows)
}

fn of_several(waiting: &[Waiting]) -> bool {
    waiting.iter().any(|one| one.submitter != waiting[0].submitter)
}

async fn waiting(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    left: u32,
    spare: i64,
) -> Result<Vec<Waiting>, StoreError> {
    let query = match request.limits.per_repository {
        None => sqlx::query_as(WAITING),
        Some(_) => sqlx::query_as(WAITING_BY_REPOSITORY),
    };
    let rows: Vec<WaitingRow> = query
        .bind(i64::from(left))
        .bind(spare)
        .fetch_all(connection)
        .await
        .map_err(database)?;
    Ok(rows.into_iter().map(Into::into).collect())
}

async fn take(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    limit: u32,
    turns: &[SessionId],
) -> Result<Vec<ClaimedRow>, StoreError> {
    sqlx::query_as(TAKE)
        .bind(request.worker.clone().storable().as_str().to_owned())
        .bind(microseconds(request.lease))
        .bind(i64::from(limit))
        .bind(turns.iter().map(|id| *id.as_uuid()).collect::<Vec<_>>())
        .bind(request.only.is_some())
        .fetch_all(connection)
        .await
        .map_err(database)
}

/// Ends the sessions that are not to be run again.
async fn retire(connection: &mut PgConnection, only: Option<SessionId>) -> Result<(), StoreError> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(RETIRED)
        .bind(RETIRED_AT_ONCE)
        .bind(only.map(|only| *only.as_uuid()))
        .fetch_all(&mut *connection)
        .await
        .map_err(database)?;
    for (id, message_seq) in rows {
        let session = SessionId::from_uuid(id);
        let seq = add_messages(connection, session, message_seq, &[retirement()]).await?;
        set_status(connection, session, Retired::STATUS, After::now(seq)).await?;
        end_attempts(connection, session, "cancelled", None).await?;
    }
    Ok(())
}
