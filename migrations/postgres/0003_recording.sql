-- What every delivery of events changes stands in one row, and in no index.

alter table sessions
    -- Every event of the latest attempt up to this number is stored.
    add column last_event bigint not null default 0,
    -- Whether there may be transcript entries that are not removed yet.
    add column transcript_kept boolean not null default true;

update sessions s
set last_event = coalesce((select a.last_event from attempts a where a.session_id = s.id and a.number = s.attempt), 0),
    transcript_kept = s.transcript_seq > s.transcript_reaped or s.completed_at is null;

drop index sessions_completed_transcript_idx;
create index sessions_completed_transcript_idx on sessions (completed_at, id)
    where completed_at is not null and transcript_kept;

alter table attempts drop column last_event;
alter table sessions drop column transcript_reaped;
