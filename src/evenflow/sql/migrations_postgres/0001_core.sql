-- All tables of a store on PostgreSQL but the three that it needs before any migration. What a column means stands in
-- `migrations_sqlite`; here is what is different. Text is compared by its bytes, as everywhere: collation "C".

-- Where each group stands. Two versions of a row fit beside each other, so that a move touches no index.
create table evenflow_position (
    group_name text collate "C" not null,
    topic text collate "C" not null,
    log text collate "C" not null,
    generation bigint not null,
    partition integer not null,
    next bigint not null,
    last_id text collate "C",
    marks bytea not null,
    settled bytea not null,
    fence bigint not null default 0,
    owner text collate "C",
    claims integer not null default 0,
    trying bigint,
    primary key (group_name, topic, log, generation, partition)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

create table evenflow_group (
    group_name text collate "C" not null,
    topic text collate "C" not null,
    log text collate "C" not null,
    state text collate "C" not null default 'running',
    reason text collate "C",
    created double precision not null,
    primary key (group_name, topic)
);

create table evenflow_pause (
    group_name text collate "C" not null,
    topic text collate "C" not null,
    generation bigint not null,
    partition integer not null,
    at double precision not null,
    who text collate "C" not null,
    reason text collate "C" not null,
    primary key (group_name, topic, generation, partition)
);

create table evenflow_lineage (
    group_name text collate "C" primary key,
    derives text collate "C" not null,
    fence bigint not null
);

-- What is set aside. Of heads that are due, and of dead letters, the indexes hold no others: most of a million wait behind.
create table evenflow_parked (
    group_name text collate "C" not null,
    topic text collate "C" not null,
    lane text collate "C" not null,
    generation bigint not null,
    "offset" bigint not null,
    slot integer not null,
    partition integer not null,
    envelope bytea not null,
    head integer not null,
    due double precision,
    attempts integer not null,
    error text collate "C",
    error_type text collate "C",
    wish text collate "C",
    first_failed double precision,
    failed double precision,
    parked double precision not null,
    type text collate "C" not null default '',
    fingerprint text collate "C",
    size bigint not null default 0,
    original bytea,
    primary key (group_name, topic, lane, generation, "offset")
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
create index evenflow_parked_heads on evenflow_parked (group_name, topic, slot, due) where head = 1;
create index evenflow_parked_dead on evenflow_parked (group_name, fingerprint) where head = 1 and due is null;
create index evenflow_parked_letters on evenflow_parked (group_name, topic, lane) where head = 1 and due is null;

create table evenflow_attempt (
    group_name text collate "C" not null,
    topic text collate "C" not null,
    lane text collate "C" not null,
    generation bigint not null,
    "offset" bigint not null,
    attempt bigint not null,
    at double precision not null,
    process text collate "C" not null,
    error_type text collate "C" not null,
    error text collate "C" not null,
    fingerprint text collate "C" not null,
    primary key (group_name, topic, lane, generation, "offset", attempt)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

-- How much each group has parked, by slot: a slot has one owner, so owners of a group do not wait for each other here.
create table evenflow_lot (
    group_name text collate "C" not null,
    slot integer not null,
    events bigint not null,
    bytes bigint not null,
    primary key (group_name, slot)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- Their tables by full name: a search path of their own would cost each of them more than what they do.
do $do$
begin
execute replace($functions$

create function evenflow_parked_in() returns trigger language plpgsql as $$
begin
    insert into OURS.evenflow_lot as l (group_name, slot, events, bytes) values (new.group_name, new.slot, 1, new.size)
    on conflict (group_name, slot) do update set events = l.events + 1, bytes = l.bytes + excluded.bytes;
    return null;
end $$;
create trigger evenflow_parked_in after insert on evenflow_parked
for each row execute function evenflow_parked_in();

-- Once for a statement, whether it removes one or a million. Its plans are kept from when the tables were small.
create function evenflow_parked_out() returns trigger language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    update OURS.evenflow_lot as l set events = l.events - o.events, bytes = l.bytes - o.bytes
    from (select group_name, slot, count(*) as events, sum(size)::bigint as bytes from gone group by 1, 2) as o
    where l.group_name = o.group_name and l.slot = o.slot;
    delete from OURS.evenflow_attempt as a using gone as o
    where (o.attempts > 0 or o.failed is not null) and a.group_name = o.group_name and a.topic = o.topic
        and a.lane = o.lane and a.generation = o.generation and a."offset" = o."offset";
    return null;
end $$;
create trigger evenflow_parked_out after delete on evenflow_parked referencing old table as gone
for each statement execute function evenflow_parked_out();

create function evenflow_parked_size() returns trigger language plpgsql as $$
begin
    update OURS.evenflow_lot as l set bytes = l.bytes + new.size - old.size
    where l.group_name = new.group_name and l.slot = new.slot;
    return null;
end $$;
create trigger evenflow_parked_size after update of size on evenflow_parked
for each row when (old.size <> new.size) execute function evenflow_parked_size();

-- The first five and the last fifteen.
create function evenflow_attempt_bound() returns trigger language plpgsql set enable_seqscan = off as $$
begin
    delete from OURS.evenflow_attempt as a
    where a.group_name = new.group_name and a.topic = new.topic and a.lane = new.lane
        and a.generation = new.generation and a."offset" = new."offset"
        and a.attempt > 5 and a.attempt <= new.attempt - 15;
    return null;
end $$;
create trigger evenflow_attempt_bound after insert on evenflow_attempt
for each row when (new.attempt > 20) execute function evenflow_attempt_bound();

$functions$, 'OURS', quote_ident(current_schema()));
end $do$;

create table evenflow_carried (
    group_name text collate "C" not null,
    topic text collate "C" not null,
    lane text collate "C" not null,
    generation bigint not null,
    "offset" bigint not null,
    partition integer not null,
    log text collate "C" not null,
    digest bytea not null,
    read_generation bigint not null,
    read_partition integer not null,
    read_to bigint not null,
    at double precision not null,
    primary key (group_name, topic, lane, generation, "offset")
);

-- Ids of one slot rise in commit order, since its counter is drawn before them. Those of others need not.
create table evenflow_outbox (
    id bigint generated always as identity primary key,
    topic text collate "C" not null,
    count bigint not null,
    bytes bigint not null,
    created double precision not null,
    body bytea not null
) with (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

create table evenflow_counter (
    topic text collate "C" not null,
    slot integer not null,
    number bigint not null,
    primary key (topic, slot)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

create table evenflow_due (
    id bigint generated always as identity primary key,
    due double precision not null,
    name text collate "C" unique,
    topic text collate "C" not null,
    envelope bytea not null
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
create index evenflow_due_due on evenflow_due (due, id);

create table evenflow_inbox (
    group_name text collate "C" not null,
    replay text collate "C" not null,
    source text collate "C" not null,
    id text collate "C" not null,
    seen double precision not null,
    primary key (group_name, replay, source, id)
);
create index evenflow_inbox_seen on evenflow_inbox (seen);

create table evenflow_audit (
    id bigint generated always as identity primary key,
    at double precision not null,
    who text collate "C" not null,
    what text collate "C" not null,
    subject text collate "C" not null,
    detail text collate "C" not null
);
create index evenflow_audit_subject on evenflow_audit (subject, id);

create table evenflow_operation (
    id bigint generated always as identity primary key,
    kind text collate "C" not null,
    group_name text collate "C" not null,
    filter text collate "C" not null,
    plan text collate "C" not null,
    state text collate "C" not null,
    reason text collate "C" not null default '',
    outcome text collate "C" not null default '',
    who text collate "C" not null,
    at double precision not null,
    changed double precision not null,
    total bigint not null default 0,
    asked bigint not null default 0,
    passed bigint not null default 0,
    failed bigint not null default 0,
    gone bigint not null default 0,
    credit double precision not null default 1,
    credited double precision not null,
    open integer not null default 1
) with (fillfactor = 50);
create index evenflow_operation_left on evenflow_operation (id) where open > 0;

create table evenflow_operation_item (
    operation bigint not null,
    place bigint not null,
    topic text collate "C" not null,
    lane text collate "C" not null,
    generation bigint not null,
    "offset" bigint not null,
    seen text collate "C" not null,
    state text collate "C" not null default 'waiting',
    primary key (operation, place)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
create index evenflow_operation_asked on evenflow_operation_item (operation, place) where state = 'asked';

create table evenflow_schedule (
    name text collate "C" primary key,
    group_name text collate "C" not null,
    topic text collate "C" not null,
    type text collate "C" not null,
    line text collate "C" not null,
    tz text collate "C" not null,
    seconds double precision not null,
    missed text collate "C" not null,
    anchor double precision not null,
    next_due double precision,
    process text collate "C" not null,
    paused double precision,
    paused_by text collate "C",
    paused_why text collate "C",
    last_due double precision,
    last_run double precision,
    runs bigint not null default 0
) with (fillfactor = 50);

create table evenflow_limit (
    group_name text collate "C" primary key,
    tat double precision not null
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

create table evenflow_breaker (
    group_name text collate "C" primary key,
    state text collate "C" not null,
    since double precision not null,
    until double precision not null,
    pause double precision not null,
    passed integer not null,
    prober text collate "C",
    permit bigint not null,
    reason text collate "C" not null,
    version bigint not null
) with (fillfactor = 50);
