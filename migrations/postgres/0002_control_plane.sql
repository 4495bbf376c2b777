-- Leases with numbers, priorities, fair and limited claims, retention.

alter table sessions
    -- The number of the lease: it grows with every claim, and is the other half of the fencing token.
    add column lease bigint not null default 0,
    -- Those with a higher number are claimed first.
    add column priority integer not null default 0,
    -- How many attempts were lost without counting; max_attempts has grown by as many.
    add column uncounted integer not null default 0,
    -- The transcript's entries up to this number were removed.
    add column transcript_reaped bigint not null default 0;

-- Who waits, by submitter: a claim walks from one submitter to the next, from one priority to the next, and reads the
-- first few of each, however many wait behind them. Hashes, because a text may be too long for an index, and because
-- they are compared faster.
create index sessions_pending_submitter_idx
    on sessions (hashtextextended(coalesce(submitter, ''), 0), (- priority), run_at, id)
    where status = 'pending' and not cancel_requested;

-- The same by repository too, for claims with a limit for each.
create index sessions_pending_repository_idx
    on sessions (hashtextextended(coalesce(submitter, ''), 0), hashtextextended(repo_url, 0), (- priority), run_at, id)
    where status = 'pending' and not cancel_requested;

-- Who waits only to be ended.
create index sessions_pending_cancelled_idx on sessions (run_at, id) where status = 'pending' and cancel_requested;

-- Who runs: to find the leases that ran out, and to count. What runs without an attempt is none of ours.
create index sessions_running_lease_idx on sessions (run_at, id) where status = 'running' and attempt > 0;
drop index sessions_run_at_id_idx;

-- What is old enough to be removed.
create index sessions_completed_at_id_idx on sessions (completed_at, id) where completed_at is not null;
create index sessions_completed_transcript_idx on sessions (completed_at, id)
    where completed_at is not null and transcript_seq > transcript_reaped;
create index artifacts_created_at_idx on artifacts (created_at);

-- A lease that was released: the session runs, for nobody.
create trigger sessions_released_claimable after update of worker on sessions
    for each row when (new.status = 'running' and old.status = 'running' and old.worker is not null and new.worker is null)
    execute function fabrica_notify_session('claimable', 'id');
