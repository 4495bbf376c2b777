-- The same tables as for PostgreSQL. An id is the UUID's 16 bytes; a time is in microseconds since 1970, UTC. Other
-- programs may write too: the defaults and triggers serve them, and use no function that an older SQLite lacks.

create table sessions (
    id           blob    not null primary key default (randomblob(16)) check (length(id) = 16),
    repo_url     text    not null,
    branch_name  text,
    pr_url       text,
    status       text    not null default 'pending',
    created_at   integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    completed_at integer,
    -- Fabrica's own
    title              text,
    submitter          text,
    idempotency_key    text,
    -- The number of the latest attempt: the fencing token.
    attempt            integer not null default 0 check (attempt >= 0),
    max_attempts       integer not null default 2 check (max_attempts >= 1),
    -- The worker that holds the lease.
    worker             text,
    -- Pending: not to be claimed before. Running: when the lease runs out.
    run_at             integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    cancel_requested   integer not null default 0 check (cancel_requested in (0, 1)),
    -- The numbers that were given last, to messages and to transcript entries.
    message_seq        integer not null default 0,
    transcript_seq     integer not null default 0,
    input_tokens       integer not null default 0,
    output_tokens      integer not null default 0,
    cache_read_tokens  integer not null default 0,
    cache_write_tokens integer not null default 0,
    cost_usd           real    not null default 0,
    turns              integer not null default 0
) strict;

create unique index sessions_idempotency_key_idx on sessions (idempotency_key) where idempotency_key is not null;
create index sessions_created_at_id_idx on sessions (created_at, id);
create index sessions_run_at_id_idx on sessions (run_at, id) where status in ('pending', 'running');

create table specs (
    id         blob    not null primary key default (randomblob(16)) check (length(id) = 16),
    session_id blob    not null check (length(session_id) = 16),
    content    text    not null,
    version    integer not null default 1,
    created_at integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000)
) strict;

create index specs_session_id_idx on specs (session_id);

create table messages (
    id         blob    not null primary key default (randomblob(16)) check (length(id) = 16),
    session_id blob    not null references sessions (id),
    type       text    not null,
    content    text    not null check (json_valid(content)),
    created_at integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    read_at    integer,
    -- Fabrica's own: the message's place in its session, from 1, without gaps. The only cursor. Null only until the
    -- trigger below has run.
    seq        integer
) strict;

create index messages_session_id_idx on messages (session_id);
create index messages_unread_idx on messages (session_id, read_at) where read_at is null;
create unique index messages_session_id_seq_idx on messages (session_id, seq);

create table attempts (
    session_id        blob    not null references sessions (id) on delete cascade,
    number            integer not null check (number >= 1),
    worker            text    not null,
    container         text,
    branch            text,
    runner_token_hash blob,
    agent_token_hash  blob,
    -- Every event up to this number is stored.
    last_event        integer not null default 0,
    -- What the runner reported at the end of its work.
    result            text,
    -- completed, failed, cancelled, escalated or lost; null while it runs.
    outcome           text,
    failure           text,
    started_at        integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    ended_at          integer,
    primary key (session_id, number)
) strict, without rowid;

-- What the agent said and did: thousands of rows a session, and no notices.
create table transcript (
    session_id blob    not null references sessions (id) on delete cascade,
    seq        integer not null,
    attempt    integer not null,
    -- By the sandbox's clock.
    at         integer not null,
    kind       text    not null,
    parent     text,
    summary    text    not null,
    detail     text    not null,
    primary key (session_id, seq)
) strict, without rowid;

-- With a rowid: its rows are large.
create table artifacts (
    id         blob    not null unique,
    session_id blob    not null references sessions (id) on delete cascade,
    name       text    not null,
    attempt    integer not null,
    content    blob    not null,
    created_at integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    primary key (session_id, name)
) strict;

-- Hashes of the installation's secrets.
create table tokens (
    name       text    not null primary key,
    hash       blob    not null,
    created_at integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000)
) strict, without rowid;

-- What PostgreSQL does with NOTIFY: the newest notices, for every process that has the file open.
create table notices (
    position   integer not null primary key,
    event      text    not null,
    session_id blob    not null,
    message_id blob,
    type       text
) strict;

create trigger notices_prune after insert on notices when new.position % 1000 = 0 begin
    delete from notices where position <= new.position - 10000;
end;

-- A message from a program that knows nothing of sequences gets the next one.
create trigger messages_number after insert on messages when new.seq is null begin
    update sessions set message_seq = message_seq + 1 where id = new.session_id;
    update messages set seq = (select message_seq from sessions where id = new.session_id) where id = new.id;
end;

create trigger messages_notify after insert on messages begin
    insert into notices (event, session_id, message_id, type) values ('message', new.session_id, new.id, new.type);
end;

create trigger specs_claimable after insert on specs begin
    insert into notices (event, session_id) values ('claimable', new.session_id);
end;

create trigger sessions_inserted_claimable after insert on sessions
when new.status = 'pending' and exists (select 1 from specs where session_id = new.id) begin
    insert into notices (event, session_id) values ('claimable', new.id);
end;

create trigger sessions_claimable after update of status on sessions
when new.status = 'pending' and old.status <> 'pending'
    and new.run_at <= cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000 begin
    insert into notices (event, session_id) values ('claimable', new.id);
end;

create trigger sessions_cancel_requested after update of cancel_requested on sessions
when new.cancel_requested and not old.cancel_requested begin
    insert into notices (event, session_id) values ('cancel_requested', new.id);
end;
