-- The tables specs, sessions and messages are read and written by other programs too: their first columns, with these
-- names, types and defaults, never change. What follows under "Fabrica's own" may grow.

create table sessions (
    id           uuid        primary key default gen_random_uuid(),
    repo_url     text        not null,
    branch_name  text,
    pr_url       text,
    status       text        not null default 'pending',
    created_at   timestamptz not null default now(),
    completed_at timestamptz,
    -- Fabrica's own
    title              text,
    submitter          text,
    idempotency_key    text,
    -- The number of the latest attempt: the fencing token.
    attempt            integer     not null default 0 check (attempt >= 0),
    max_attempts       integer     not null default 2 check (max_attempts >= 1),
    -- The worker that holds the lease.
    worker             text,
    -- Pending: not to be claimed before. Running: when the lease runs out.
    run_at             timestamptz not null default now(),
    cancel_requested   boolean     not null default false,
    -- The numbers that were given last, to messages and to transcript entries.
    message_seq        bigint      not null default 0,
    transcript_seq     bigint      not null default 0,
    input_tokens       bigint      not null default 0,
    output_tokens      bigint      not null default 0,
    cache_read_tokens  bigint      not null default 0,
    cache_write_tokens bigint      not null default 0,
    cost_usd           double precision not null default 0,
    turns              bigint      not null default 0
) with (fillfactor = 70);

create unique index sessions_idempotency_key_idx on sessions (idempotency_key) where idempotency_key is not null;
create index sessions_created_at_id_idx on sessions (created_at, id);
create index sessions_run_at_id_idx on sessions (run_at, id) where status in ('pending', 'running');

create table specs (
    id         uuid        primary key default gen_random_uuid(),
    session_id uuid        not null,
    content    text        not null,
    version    integer     not null default 1,
    created_at timestamptz not null default now()
);

create index specs_session_id_idx on specs (session_id);

create table messages (
    id         uuid        primary key default gen_random_uuid(),
    session_id uuid        not null references sessions (id),
    type       text        not null,
    content    jsonb       not null,
    created_at timestamptz not null default now(),
    read_at    timestamptz,
    -- Fabrica's own: the message's place in its session, from 1, without gaps. The only cursor.
    seq        bigint      not null
);

create index messages_session_id_idx on messages (session_id);
create index messages_unread_idx on messages (session_id, read_at) where read_at is null;
create unique index messages_session_id_seq_idx on messages (session_id, seq);

create table attempts (
    session_id        uuid        not null references sessions (id) on delete cascade,
    number            integer     not null check (number >= 1),
    worker            text        not null,
    container         text,
    branch            text,
    runner_token_hash bytea,
    agent_token_hash  bytea,
    -- Every event up to this number is stored.
    last_event        bigint      not null default 0,
    -- What the runner reported at the end of its work.
    result            jsonb,
    -- completed, failed, cancelled, escalated or lost; null while it runs.
    outcome           text,
    failure           jsonb,
    started_at        timestamptz not null default now(),
    ended_at          timestamptz,
    primary key (session_id, number)
) with (fillfactor = 70);

-- What the agent said and did: thousands of rows a session, and no notices.
create table transcript (
    session_id uuid        not null references sessions (id) on delete cascade,
    seq        bigint      not null,
    attempt    integer     not null,
    -- By the sandbox's clock.
    at         timestamptz not null,
    kind       text        not null,
    parent     text,
    summary    text        not null,
    detail     jsonb       not null,
    primary key (session_id, seq)
);

create table artifacts (
    id         uuid        not null unique,
    session_id uuid        not null references sessions (id) on delete cascade,
    name       text        not null,
    attempt    integer     not null,
    content    bytea       not null,
    created_at timestamptz not null default now(),
    primary key (session_id, name)
);

-- Artifacts arrive compressed.
alter table artifacts alter column content set storage external;

-- Hashes of the installation's secrets.
create table tokens (
    name       text        primary key,
    hash       bytea       not null,
    created_at timestamptz not null default now()
);

-- A message from a program that knows nothing of sequences gets the next one, under the lock of its session's row.
create function fabrica_number_message() returns trigger language plpgsql set search_path from current as $$
begin
    update sessions set message_seq = message_seq + 1 where id = new.session_id returning message_seq into new.seq;
    -- Without such a session the foreign key shall be what complains.
    new.seq := coalesce(new.seq, 0);
    return new;
end
$$;

create trigger messages_number before insert on messages
    for each row when (new.seq is null) execute function fabrica_number_message();

create function fabrica_notify_message() returns trigger language plpgsql as $$
begin
    perform pg_notify('fabrica_messages',
        json_build_object('id', new.id, 'session_id', new.session_id, 'type', new.type)::text);
    return null;
end
$$;

create trigger messages_notify after insert on messages
    for each row execute function fabrica_notify_message();

-- Channel fabrica_sessions: {"event": "claimable" | "cancel_requested", "session_id"}.
create function fabrica_notify_session() returns trigger language plpgsql as $$
begin
    perform pg_notify('fabrica_sessions',
        json_build_object('event', tg_argv[0], 'session_id', to_jsonb(new) ->> tg_argv[1])::text);
    return null;
end
$$;

create trigger specs_claimable after insert on specs
    for each row execute function fabrica_notify_session('claimable', 'session_id');

create trigger sessions_inserted_claimable after insert on sessions
    for each row when (new.status = 'pending') execute function fabrica_notify_session('claimable', 'id');

create trigger sessions_claimable after update of status on sessions
    for each row when (new.status = 'pending' and old.status <> 'pending' and new.run_at <= now())
    execute function fabrica_notify_session('claimable', 'id');

create trigger sessions_cancel_requested after update of cancel_requested on sessions
    for each row when (new.cancel_requested and not old.cancel_requested)
    execute function fabrica_notify_session('cancel_requested', 'id');
