-- Where each group stands. Belongs to one log (its incarnation); `fence` is issued by a claim and rises for ever.
create table evenflow_position (
    group_name text not null,
    topic text not null,
    log text not null,
    generation integer not null,
    partition integer not null,
    next integer not null,             -- the first offset that is not covered
    last_id text,                      -- id of the last event covered: read back at a claim
    marks blob not null,               -- per producer and slot: the highest number taken, the few missing
    settled blob not null,             -- offsets beyond `next` that a waiting handler has done already
    fence integer not null default 0,
    owner text,                        -- process; null when released
    claims integer not null default 0, -- claims since the last progress
    trying integer,                    -- the offset that is being tried alone
    primary key (group_name, topic, log, generation, partition)
) without rowid;

create table evenflow_group (
    group_name text not null,
    topic text not null,
    log text not null,
    state text not null default 'running',   -- running | stopped
    reason text,
    created real not null,
    primary key (group_name, topic)
) without rowid;

-- What is set aside, in log order per lane. A lane is a key, or a single event without one.
-- The head of a lane (due, or a dead letter with due null) holds up all behind it.
create table evenflow_parked (
    group_name text not null,
    topic text not null,
    lane text not null,
    generation integer not null,
    "offset" integer not null,
    slot integer not null,
    partition integer not null,
    envelope blob not null,
    head integer not null,             -- 1: the first of its lane
    due real,                          -- head: when it is tried again; null: a dead letter
    attempts integer not null,
    error text,
    error_type text,
    wish text,                         -- what a person asks of the owner: redrive | discard
    first_failed real,
    failed real,
    parked real not null,
    primary key (group_name, topic, lane, generation, "offset")
) without rowid;
create index evenflow_parked_due on evenflow_parked (group_name, topic, due) where head = 1;

create table evenflow_outbox (
    id integer primary key autoincrement,
    topic text not null,
    count integer not null,
    bytes integer not null,
    created real not null,
    body blob not null                 -- packed envelopes, in publish order
);

create table evenflow_counter (
    topic text not null,
    slot integer not null,
    number integer not null,           -- the last number drawn
    primary key (topic, slot)
) without rowid;

create table evenflow_due (
    id integer primary key autoincrement,
    due real not null,
    name text unique,
    topic text not null,
    envelope blob not null             -- packed, without a number: it is drawn when it is due
);
create index evenflow_due_due on evenflow_due (due, id);

-- Ids of strangers' records, which carry no numbers of ours. `replay` is '' in ordinary running.
create table evenflow_inbox (
    group_name text not null,
    replay text not null,
    source text not null,
    id text not null,
    seen real not null,
    primary key (group_name, replay, source, id)
) without rowid;
create index evenflow_inbox_seen on evenflow_inbox (seen);

create table evenflow_audit (
    id integer primary key autoincrement,
    at real not null,
    who text not null,
    what text not null,
    subject text not null,
    detail text not null
);
