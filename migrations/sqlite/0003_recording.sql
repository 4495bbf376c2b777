-- What every delivery of events changes stands in one row, and in no index.

-- Every event of the latest attempt up to this number is stored.
alter table sessions add column last_event integer not null default 0;
-- Whether there may be transcript entries that are not removed yet.
alter table sessions add column transcript_kept integer not null default 1 check (transcript_kept in (0, 1));

update sessions
set last_event = coalesce((select a.last_event from attempts a
                           where a.session_id = sessions.id and a.number = sessions.attempt), 0),
    transcript_kept = transcript_seq > transcript_reaped or completed_at is null;

drop index sessions_completed_transcript_idx;
create index sessions_completed_transcript_idx on sessions (completed_at, id)
    where completed_at is not null and transcript_kept = 1;

alter table attempts drop column last_event;
alter table sessions drop column transcript_reaped;

-- The unique index on (session_id, seq) finds a session's messages; without this one each message writes a page less.
drop index messages_unread_idx;
