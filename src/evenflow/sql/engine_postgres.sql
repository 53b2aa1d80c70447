The log in PostgreSQL (docs/adr/0018). A row of `packs_N` is a run of events of one partition of topic N that were
stored together; its body is MessagePack, `offsets` is null while the run has no gaps (compaction makes them). The table
of a topic is partitioned into segments: retention moves `low`, and drops a segment when all of it stands before that.
Nothing here is updated per event, so that a long transaction elsewhere leaves nothing behind that slows us down.

`evenflow_log` stands for the schema, N for a topic's id, and S for a segment. Locks are advisory ones of the class that
`topics` has for an oid: 0 for making topics, -N for a topic (shared by appends), and the serial of a partition.

-- name: format
select version from evenflow_log.format

-- name: lock_making
select pg_advisory_xact_lock(1165782139, hashtext($1))

-- name: schema
select to_regnamespace($1) is not null, to_regclass($1 || '.format') is not null

-- name: create_format
create table evenflow_log.format (version int not null)

-- name: put_format
insert into evenflow_log.format (version) values ($1::int)

-- name: create_topics
create table evenflow_log.topics (
    id int generated always as identity primary key,
    topic text not null unique,
    incarnation text not null,
    generation int not null,                     -- the last one: the one that is appended to
    segment int not null default 1,              -- the last one: the one that is appended to
    segment_made float8 not null,
    retention float8,
    retention_bytes int8,
    compacted bool not null,
    sealed bool not null default false,
    goes_on text not null default ''
)

-- name: create_partitions
create table evenflow_log.partitions (
    serial int generated always as identity primary key,
    topic int not null references evenflow_log.topics on delete cascade,
    generation int not null,
    number int not null,
    low int8 not null default 0,                 -- the first offset that is kept
    base int8 not null default 0,                -- the first offset of the last segment
    base_time float8 not null default 0,         -- when the event before it was appended
    base_total int8 not null default 0,          -- bytes of all bodies before it
    clean_to int8 not null default 0,            -- how far the last compaction went
    clean int8 not null default 0,               -- and how many events it left
    unique (topic, generation, number)
)

-- name: create_groups
create table evenflow_log.groups ("group" text primary key, store text not null)

-- name: create_told
create table evenflow_log.told (
    "group" text not null,
    topic text not null,
    generation int not null,
    number int not null,
    "offset" int8 not null,
    primary key ("group", topic, generation, number)
)

-- name: create_packs
create table evenflow_log."packs_N" (
    segment int not null,
    serial int not null,
    last int8 not null,                          -- the last offset
    count int not null,
    time float8 not null,                        -- when it was appended, by the server's clock; never falls
    oldest float8 not null,                      -- the time of its first event
    total int8 not null,                         -- bytes of all bodies up to and with this one
    offsets bytea,
    body bytea not null
) partition by list (segment)

-- name: choose_compression
do $$
begin
    execute 'alter table evenflow_log."packs_N" alter body set compression lz4';
exception
    when feature_not_supported or syntax_error then -- pglz costs more than it saves
        execute 'alter table evenflow_log."packs_N" alter body set storage external';
end $$

-- name: create_append
create function evenflow_log."append_N"(
    generation int, serials int[], places int[], befores int8[], counts int[], sizes int8[], oldests float8[],
    bodies bytea[]
) returns int8[] language plpgsql set lock_timeout = '10s' set plan_cache_mode = force_generic_plan as $$
-- Answers the first offset for each of the partitions, which must rise. Every statement sees what was committed before
-- it began, so what is looked up under the locks is the end of the log.
declare
    class constant int := 'evenflow_log.topics'::regclass::oid::int;
    topic evenflow_log.topics;
    firsts int8[];
    times float8[];
    totals int8[];
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'an append needs read committed' using errcode = 'EV003';
    end if;
    perform pg_advisory_xact_lock_shared(class, -N);
    select * into topic from evenflow_log.topics as t where t.id = N;
    if topic.sealed then
        raise exception 'sealed' using errcode = 'EV001';
    elsif topic.generation is distinct from append_N.generation then
        raise exception 'another generation' using errcode = 'EV002';
    end if;
    perform pg_advisory_xact_lock(class, each.serial) from unnest(serials) as each (serial);
    select array_agg(coalesce(e.last + 1, p.base) order by s.place),
           array_agg(greatest(extract(epoch from clock_timestamp())::float8, e.time, p.base_time) order by s.place),
           array_agg(coalesce(e.total, p.base_total) order by s.place)
    into firsts, times, totals
    from unnest(serials) with ordinality as s (serial, place)
    join evenflow_log.partitions as p on p.serial = s.serial
    left join lateral (
        select k.last, k.time, k.total from evenflow_log."packs_N" as k
        where k.segment = topic.segment and k.serial = s.serial order by k.last desc limit 1
    ) as e on true;
    insert into evenflow_log."packs_N" (segment, serial, last, count, time, oldest, total, body)
    select topic.segment, serials[x.place], firsts[x.place] + x.before + x.count - 1, x.count, times[x.place], x.oldest,
           totals[x.place] + x.size, x.body
    from unnest(places, befores, counts, sizes, oldests, bodies) as x (place, before, count, size, oldest, body);
    return firsts;
end $$

-- name: create_segment
create table evenflow_log."packs_N_S" (
    like evenflow_log."packs_N" including storage including compression, primary key (serial, last)
)

-- name: attach_segment
alter table evenflow_log."packs_N" attach partition evenflow_log."packs_N_S" for values in (S)

-- name: drop_segment
drop table if exists evenflow_log."packs_N_S"

-- name: lock_topics
select pg_advisory_xact_lock('evenflow_log.topics'::regclass::oid::int, 0)

-- name: lock_topic
select pg_advisory_xact_lock('evenflow_log.topics'::regclass::oid::int, -$1::int)

-- name: topic
select id, incarnation, generation, retention, retention_bytes, compacted, sealed, goes_on
from evenflow_log.topics where topic = $1

-- name: partitions
select p.serial, p.generation, p.number, p.low, p.base
from evenflow_log.partitions as p join evenflow_log.topics as t on t.id = p.topic
where t.topic = $1 order by p.generation, p.number

-- name: topics_to_maintain
select topic from evenflow_log.topics
where retention is not null or retention_bytes is not null or compacted order by topic

-- name: add_topic
insert into evenflow_log.topics (topic, incarnation, generation, segment_made, retention, retention_bytes, compacted)
values ($1, $2, $3::int, extract(epoch from clock_timestamp()), $4::float8, $5::int8, $6::bool) returning id

-- name: put_facts
update evenflow_log.topics set retention = $2::float8, retention_bytes = $3::int8, compacted = $4::bool
where topic = $1

-- name: put_generation
update evenflow_log.topics set generation = $2::int, sealed = false, goes_on = '' where topic = $1

-- name: add_partitions
insert into evenflow_log.partitions (topic, generation, number)
select t.id, $2::int, n from evenflow_log.topics as t, generate_series(0, $3::int - 1) as n where t.topic = $1

-- name: seal
update evenflow_log.topics set sealed = true, goes_on = coalesce($2, goes_on) where topic = $1

-- name: append
select evenflow_log."append_N"(
    $1::int, $2::int[], $3::int[], $4::int8[], $5::int[], $6::int8[], $7::float8[], $8::bytea[]
)

-- name: bounds
select p.serial, p.low, coalesce(e.last + 1, p.base)
from evenflow_log.topics as t
cross join unnest($1::int[]) as s (serial)
join evenflow_log.partitions as p on p.serial = s.serial
left join lateral (
    select k.last from evenflow_log."packs_N" as k
    where k.segment = t.segment and k.serial = s.serial order by k.last desc limit 1
) as e on true
where t.id = N

-- name: packs
select x.place::int, k.segment, k.last, k.count, k.offsets, k.body
from unnest($1::int[], $2::int[], $3::int8[], $4::int[], $5::int[], $6::int8[])
    with ordinality as x (serial, segment, at, packs, events, bytes, place)
cross join lateral (
    select m.*
    from (
        select n.*, sum(n.count) over w - n.count as events, sum(length(n.body)) over w - length(n.body) as bytes
        from (
            select k.segment, k.last, k.count, k.offsets, k.body from evenflow_log."packs_N" as k
            where k.segment >= x.segment and k.serial = x.serial and k.last >= x.at order by k.last limit x.packs
        ) as n
        window w as (order by n.last rows unbounded preceding)
    ) as m
    where m.events < x.events and m.bytes < x.bytes
) as k
order by x.place, k.last

-- name: packs_around
(select last, count, offsets, body from evenflow_log."packs_N" where serial = $1::int and last < $2::int8
 order by last desc limit 1)
union all
(select last, count, offsets, body from evenflow_log."packs_N" where serial = $1::int and last >= $2::int8
 order by last limit 1)

-- name: packs_back
select last, count, offsets, body from evenflow_log."packs_N" where serial = $1::int and last <= $2::int8
order by last desc limit $3::int

-- The first event since a time, $2, or since $3 seconds before now.
-- name: first_since
with recursive halving (low, high, time) as (
    select p.low, coalesce(
        (select k.last + 1 from evenflow_log."packs_N" as k where k.serial = $1::int order by k.last desc limit 1),
        p.base
    ), coalesce($2::float8, extract(epoch from clock_timestamp())::float8 - $3::float8)
    from evenflow_log.partitions as p where p.serial = $1::int
    union all
    select case when k.time < h.time then k.last + 1 else h.low end,
           case when k.time < h.time then h.high else (h.low + h.high) / 2 end, h.time
    from halving as h
    left join lateral (
        select n.last, n.time from evenflow_log."packs_N" as n
        where n.serial = $1::int and n.last >= (h.low + h.high) / 2 order by n.last limit 1
    ) as k on true
    where h.low < h.high
)
select low from halving where low >= high limit 1

-- name: over_bytes
with recursive halving (low, high, last, total) as (
    select p.low, e.last, e.last, e.total
    from evenflow_log.partitions as p
    cross join lateral (
        select k.last, k.total from evenflow_log."packs_N" as k where k.serial = p.serial order by k.last desc limit 1
    ) as e
    where p.serial = $1::int and p.low < e.last
    union all
    select case when k.too_many then k.last + 1 else h.low end,
           case when k.too_many then h.high else (h.low + h.high) / 2 end, h.last, h.total
    from halving as h
    cross join lateral (
        select n.last, h.total - n.total + length(n.body) > $2::int8 and n.last < h.last as too_many
        from evenflow_log."packs_N" as n
        where n.serial = $1::int and n.last >= (h.low + h.high) / 2 order by n.last limit 1
    ) as k
    where h.low < h.high
)
select low from halving where low >= high limit 1

-- name: place_of
select k.last, k.count, k.offsets from evenflow_log."packs_N" as k
where k.serial = $1::int and k.last >= $2::int8 order by k.last limit 1

-- name: backlog
select x.serial, p.low, coalesce(e.last + 1, p.base), p.clean_to > 0, k.last, k.count, k.oldest, k.offsets, k.body,
       case when p.clean_to > 0 then (
           select coalesce(sum(n.count), 0) from evenflow_log."packs_N" as n
           where n.serial = x.serial and n.last > k.last
       )::int8 else 0 end
from evenflow_log.topics as t
cross join unnest($1::int[], $2::int8[]) as x (serial, at)
join evenflow_log.partitions as p on p.serial = x.serial
left join lateral (
    select n.last from evenflow_log."packs_N" as n
    where n.segment = t.segment and n.serial = x.serial order by n.last desc limit 1
) as e on true
left join lateral (
    select n.last, n.count, n.oldest, n.offsets,
           case when n.offsets is not null or n.last - n.count + 1 < greatest(x.at, p.low) then n.body end as body
    from evenflow_log."packs_N" as n
    where n.serial = x.serial and n.last >= greatest(x.at, p.low) order by n.last limit 1
) as k on true
where t.id = N

-- name: move_low
update evenflow_log.partitions set low = greatest(low, $2::int8) where serial = $1::int

-- name: compaction
select p.clean_to, p.clean, coalesce(
    (select k.last + 1 from evenflow_log."packs_N" as k where k.serial = p.serial order by k.last desc limit 1), p.base
)
from evenflow_log.partitions as p where p.serial = $1::int

-- name: rewrite_pack
update evenflow_log."packs_N" set count = $4::int, oldest = $5::float8, offsets = $6::bytea, body = $7::bytea
where serial = $1::int and last = $2::int8 and count = $3::int

-- name: remove_pack
delete from evenflow_log."packs_N" where serial = $1::int and last = $2::int8 and count = $3::int

-- name: compacted
update evenflow_log.partitions set clean_to = $2::int8, clean = $3::int8 where serial = $1::int

-- name: segments
select c.relname::text, pg_total_relation_size(c.oid), t.segment, extract(epoch from clock_timestamp()) - t.segment_made
from evenflow_log.topics as t
cross join pg_inherits as i
join pg_class as c on c.oid = i.inhrelid
where t.id = N and i.inhparent = 'evenflow_log."packs_N"'::regclass

-- name: segment_is_over
select not exists (
    select from evenflow_log.partitions as p
    where p.topic = N and exists (
        select from evenflow_log."packs_N" as k where k.segment = S and k.serial = p.serial and k.last >= p.low
    )
)

-- name: roll_partitions
update evenflow_log.partitions as p set base = e.last + 1, base_time = e.time, base_total = e.total
from evenflow_log.topics as t, evenflow_log.partitions as q
cross join lateral (
    select k.last, k.time, k.total from evenflow_log."packs_N" as k
    where k.serial = q.serial order by k.last desc limit 1
) as e
where t.id = N and q.topic = N and q.serial = p.serial and t.segment = S - 1

-- name: roll_topic
update evenflow_log.topics set segment = S, segment_made = extract(epoch from clock_timestamp())
where id = N and segment = S - 1

-- name: put_group
insert into evenflow_log.groups ("group", store) values ($1, $2)
on conflict ("group") do update set store = excluded.store

-- name: put_told
insert into evenflow_log.told ("group", topic, generation, number, "offset")
select $1, x.* from unnest($2::text[], $3::int[], $4::int[], $5::int8[]) as x
on conflict ("group", topic, generation, number) do update set "offset" = excluded."offset"

-- name: group
select store from evenflow_log.groups where "group" = $1

-- name: told
select topic, generation, number, "offset" from evenflow_log.told where "group" = $1

-- name: topic_names
select topic from evenflow_log.topics order by topic collate "C"

-- name: group_names
select "group" from evenflow_log.groups order by "group" collate "C"

-- name: readers
select t."group", t.generation, t.number, t."offset"
from evenflow_log.told as t join evenflow_log.groups as g using ("group")
where t.topic = $1 and g.store <> ''

-- name: may_make
select has_database_privilege(current_database(), 'create')
    or coalesce(has_schema_privilege(to_regnamespace($1), 'create'), false)

-- name: rights
select has_schema_privilege($1, 'usage'), has_schema_privilege($1, 'create'), (
    select coalesce(string_agg(t.topic, ', ' order by t.topic), '') from evenflow_log.topics as t
    where not has_table_privilege('evenflow_log.packs_' || t.id, 'select')
       or not has_table_privilege('evenflow_log.packs_' || t.id, 'insert')
)

-- name: topics_by_size
select t.id, t.topic, coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::int8, count(i.inhrelid)
from evenflow_log.topics as t
left join pg_inherits as i on i.inhparent = to_regclass('evenflow_log.packs_' || t.id)
group by t.id, t.topic order by 3 desc, 2

-- name: sessions
select application_name, count(*) from pg_stat_activity
where datname = current_database() and application_name like '%listening%' group by 1 order by 1

-- name: long_transactions
select pid, application_name, coalesce(usename, '')::text, coalesce(state, '')::text,
       extract(epoch from clock_timestamp() - xact_start)::float8
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
  and extract(epoch from clock_timestamp() - xact_start) > $1::float8
order by xact_start

-- name: prepared_transactions
select gid, extract(epoch from clock_timestamp() - prepared)::float8 from pg_prepared_xacts
where database = current_database() and prepared < clock_timestamp() - interval '1 minute' order by prepared

-- name: broken
select p.number, k.last from (
    select serial, last, count, offsets, lag(last) over (partition by serial order by last) as before
    from evenflow_log."packs_N"
) as k join evenflow_log.partitions as p on p.serial = k.serial
where p.topic = N and (
    k.last - k.count + 1 <= k.before
    or (k.offsets is null and k.before is not null and k.last - k.count <> k.before and p.clean_to = 0)
)
order by p.generation, p.number, k.last limit 100
