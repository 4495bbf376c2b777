-- Questions to people, and what attempts leave for the next one.

-- The newest checkpoint, and the attempt that made it.
alter table sessions add column checkpoint text check (checkpoint is null or json_valid(checkpoint));
alter table sessions add column checkpoint_attempt integer;

-- A question is open until it is answered, or closed because nobody waits for the answer any more.
create table questions (
    id          blob    not null primary key check (length(id) = 16),
    session_id  blob    not null references sessions (id) on delete cascade,
    -- The attempt that ended with it.
    attempt     integer not null check (attempt >= 1),
    question    text    not null,
    -- Answers to choose from: texts.
    options     text    not null check (json_valid(options)),
    context     text    not null,
    -- low, normal or high.
    urgency     text    not null,
    asked_at    integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    deadline    integer,
    -- What happens then: fail or proceed.
    on_deadline text    not null,
    reminded_at integer,
    -- When something has to be done next: the reminder, then what happens at the deadline. Null is never.
    due_at      integer,
    answer      text,
    -- Null if nobody answered before the deadline.
    answered_by text,
    answered_at integer,
    closed_at   integer,
    check ((answer is null) = (answered_at is null)),
    check (answered_at is null or closed_at is null)
) strict;

create unique index questions_session_id_attempt_idx on questions (session_id, attempt);
create unique index questions_open_idx on questions (session_id) where answered_at is null and closed_at is null;
create index questions_due_idx on questions (due_at)
    where due_at is not null and answered_at is null and closed_at is null;
