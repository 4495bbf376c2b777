-- What people say to agents, while these work or afterwards.

create table notes (
    id          uuid        primary key,
    session_id  uuid        not null references sessions (id) on delete cascade,
    -- Its place among the session's notes, from 1, without gaps.
    number      integer     not null check (number >= 1),
    author      text        not null,
    text        text        not null,
    created_at  timestamptz not null default now()
);

create unique index notes_session_id_number_idx on notes (session_id, number);
