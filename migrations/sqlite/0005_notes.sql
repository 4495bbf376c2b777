-- What people say to agents, while these work or afterwards.

create table notes (
    id          blob    not null primary key check (length(id) = 16),
    session_id  blob    not null references sessions (id) on delete cascade,
    -- Its place among the session's notes, from 1, without gaps.
    number      integer not null check (number >= 1),
    author      text    not null,
    text        text    not null,
    created_at  integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000)
) strict;

create unique index notes_session_id_number_idx on notes (session_id, number);
