The embedded engine's log. A row of evenflow_packs is a run of events of one partition that were stored together:
its id is (partition serial << 40 | first offset), so that reading on is a range scan; its body is a MessagePack array
of envelopes; `offsets` is null while the run has no gaps (compaction makes them). Small columns stand before the body,
so that looking at them reads no overflow pages.

-- name: create_topics
create table evenflow_topics (
    topic text primary key,
    incarnation text not null,
    retention real,
    retention_bytes integer,
    compacted integer not null
) strict, without rowid

-- name: add_goes_on
alter table evenflow_topics add column goes_on text;  -- null: open; else sealed, and where it goes on

-- name: create_partitions
create table evenflow_partitions (
    serial integer primary key,
    topic text not null,
    generation integer not null,
    number integer not null,
    low integer not null default 0,      -- the first offset that is kept
    next integer not null default 0,     -- the offset that the next event gets
    time real not null default 0,        -- when the last event was appended
    bytes integer not null default 0,    -- of all bodies
    clean_to integer not null default 0, -- how far the last compaction went
    clean integer not null default 0,    -- and how many events it left
    unique (topic, generation, number)
) strict

-- name: create_packs
create table evenflow_packs (
    id integer primary key,
    last integer not null,    -- the last offset; "last + 1" of one run is where the next begins
    count integer not null,
    time real not null,       -- when it was appended
    oldest real not null,     -- the time of its first event
    offsets blob,
    body blob not null
) strict

-- name: create_groups
create table evenflow_groups (
    "group" text primary key,
    store text not null
) strict, without rowid

-- name: create_told
create table evenflow_told (
    "group" text not null,
    topic text not null,
    generation integer not null,
    number integer not null,
    "offset" integer not null,
    primary key ("group", topic, generation, number)
) strict, without rowid

-- name: topic
select incarnation, retention, retention_bytes, compacted, goes_on from evenflow_topics where topic = ?1

-- name: topic_names
select topic from evenflow_topics order by topic

-- name: topics_to_maintain
select topic from evenflow_topics
where retention is not null or retention_bytes is not null or compacted order by topic

-- name: put_topic
insert into evenflow_topics (topic, incarnation, retention, retention_bytes, compacted) values (?1, ?2, ?3, ?4, ?5)
on conflict (topic) do update
set retention = excluded.retention, retention_bytes = excluded.retention_bytes, compacted = excluded.compacted

-- name: seal_topic
update evenflow_topics set goes_on = coalesce(?2, goes_on, '') where topic = ?1

-- name: unseal_topic
update evenflow_topics set goes_on = null where topic = ?1

-- name: partitions
select serial, generation, number, low, next, time, clean_to from evenflow_partitions
where topic = ?1 order by generation, number

-- name: add_partition
insert into evenflow_partitions (topic, generation, number) values (?1, ?2, ?3)

-- name: appended
update evenflow_partitions set next = ?2, time = ?3, bytes = bytes + ?4 where serial = ?1

-- name: add_pack
insert into evenflow_packs (id, last, count, time, oldest, offsets, body) values (?1, ?2, ?3, ?4, ?5, null, ?6)

-- name: packs_from
select id, last, offsets, body from evenflow_packs where id between ?1 and ?2 order by id

-- name: pack_before
select id, last, offsets, body from evenflow_packs where id between ?1 and ?2 order by id desc limit 1

-- name: packs_back
select id, last, offsets, body from evenflow_packs where id between ?1 and ?2 order by id desc

-- name: place_before
select id, last from evenflow_packs where id between ?1 and ?2 order by id desc limit 1

-- name: facts_from
select id, last, time, oldest, offsets from evenflow_packs where id between ?1 and ?2 order by id limit 1

-- name: count_from
select coalesce(sum(count), 0) from evenflow_packs where id between ?1 and ?2

-- name: state
select low, next, bytes, clean_to, clean from evenflow_partitions where serial = ?1

-- name: sizes_from
select id, last, length(body) from evenflow_packs where id between ?1 and ?2 order by id

-- name: size_between
select coalesce(sum(length(body)), 0) from evenflow_packs where id between ?1 and ?2

-- name: remove_between
delete from evenflow_packs where id between ?1 and ?2

-- name: removed
update evenflow_partitions set low = max(low, ?2), bytes = bytes - ?3 where serial = ?1

-- name: some_between
select id from evenflow_packs where id between ?1 and ?2 order by id limit 1 offset ?3

-- name: rewrite_pack
update evenflow_packs set count = ?3, oldest = ?4, offsets = ?5, body = ?6 where id = ?1 and count = ?2 returning id

-- name: remove_pack
delete from evenflow_packs where id = ?1 and count = ?2 returning id

-- name: shrunk
update evenflow_partitions set bytes = bytes - ?2 where serial = ?1

-- name: compacted
update evenflow_partitions set clean_to = ?2, clean = ?3 where serial = ?1

-- name: put_group
insert into evenflow_groups ("group", store) values (?1, ?2) on conflict ("group") do update set store = excluded.store

-- name: put_told
insert into evenflow_told ("group", topic, generation, number, "offset") values (?1, ?2, ?3, ?4, ?5)
on conflict ("group", topic, generation, number) do update set "offset" = excluded."offset"

-- name: group
select store from evenflow_groups where "group" = ?1

-- name: told
select topic, generation, number, "offset" from evenflow_told where "group" = ?1

-- name: group_names
select "group" from evenflow_groups order by "group"

-- name: readers
select t."group", t.generation, t.number, t."offset" from evenflow_told as t join evenflow_groups as g using ("group")
where t.topic = ?1 and g.store <> ''
