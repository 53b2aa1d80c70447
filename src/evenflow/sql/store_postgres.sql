-- Statements of the core on PostgreSQL, under READ COMMITTED, beside those of `store.sql`. Names, arguments and columns are as
-- in `store_sqlite.sql`.
-- The store puts its schema before the name of each table. Where a statement waits for another transaction's row, it goes on
-- with that row as it is then, and looks at its own conditions again: so every compare-and-set is on the row it changes.

-- name: position_guard
select 1 from evenflow_position
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6 and next = $7
for no key update

-- All of a group are this transaction's from here on: what their owners have begun is committed, what they begin waits.
-- name: position_lock
select topic, log, generation, partition, next from evenflow_position
where group_name = $1 order by topic, log, generation, partition for update

-- A fence that was given out once never comes back, also when rows were dropped meanwhile.
-- name: position_create
insert into evenflow_position (group_name, topic, log, generation, partition, next, last_id, marks, settled, fence)
values ($1, $2, $3, $4, $5, $6, null, $7, $8, greatest(
    coalesce((select max(fence) from evenflow_position where group_name = $1 and topic = $2), 0),
    coalesce((select fence from evenflow_lineage where group_name = $1), 0)))
on conflict (group_name, topic, log, generation, partition) do nothing

-- name: lineage_put
insert into evenflow_lineage as l (group_name, derives, fence) values ($1, $2, $3)
on conflict (group_name) do update set derives = excluded.derives, fence = greatest(l.fence, excluded.fence)

-- name: group_fence
select greatest(coalesce((select max(fence) from evenflow_position where group_name = $1), 0),
    coalesce((select fence from evenflow_lineage where group_name = $1), 0))

-- name: rename_parked
with lot as (update evenflow_lot set group_name = $2 where group_name = $1),
    history as (update evenflow_attempt set group_name = $2 where group_name = $1)
update evenflow_parked set group_name = $2 where group_name = $1

-- name: rename_pause
update evenflow_pause as p set group_name = $2 where p.group_name = $1 and not exists (
    select 1 from evenflow_pause as q where q.group_name = $2
    and q.topic = p.topic and q.generation = p.generation and q.partition = p.partition)

-- name: drop_parked
with lot as (delete from evenflow_lot where group_name = $1) delete from evenflow_parked where group_name = $1

-- $3: as it was read, null where there was none.
-- name: limit_put
insert into evenflow_limit as l (group_name, tat) values ($1, $2)
on conflict (group_name) do update set tat = excluded.tat where l.tat = $3

-- $10: the version that was read, 0 where there was none.
-- name: breaker_put
insert into evenflow_breaker as b
    (group_name, state, since, until, pause, passed, prober, permit, reason, version)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::bigint + 1)
on conflict (group_name) do update set state = excluded.state, since = excluded.since, until = excluded.until,
    pause = excluded.pause, passed = excluded.passed, prober = excluded.prober, permit = excluded.permit,
    reason = excluded.reason, version = excluded.version
where b.version = $10

-- The slots that a partition stands for: $4, and every $3th of the 256 from there. Each lane has a head.
-- name: parked_lanes
select p.lane from evenflow_parked as p
where p.group_name = $1 and p.topic = $2 and p.slot in (select generate_series($4::integer, greatest(255, $4), $3::integer))
    and p.head = 1

-- name: parked_lot
select coalesce(sum(events), 0)::bigint, coalesce(sum(bytes), 0)::bigint from evenflow_lot where group_name = $1

-- When the first head of each of these slots is due. Events of a lane may have been parked out of order, each as its
-- head: only the first of them is.
-- name: parked_slots
select s.slot, f.due from generate_series($4::integer, greatest(255, $4), $3::integer) as s (slot) cross join lateral (
    select p.due from evenflow_parked as p
    where p.group_name = $1 and p.topic = $2 and p.slot = s.slot and p.head = 1 and p.due is not null
    and (p.generation, p."offset") = (
        select q.generation, q."offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by q.generation, q."offset" limit 1)
    order by p.due limit 1) as f
order by f.due, s.slot

-- Due times of before the clock was set back: each failed in what is the future now. They keep their delay, from now.
-- name: parked_rebase
update evenflow_parked set due = case when wish is null and failed > $5 then $5 + (due - failed) else $5 end,
    failed = case when failed > $5 then $5 else failed end
where group_name = $1 and topic = $2 and slot in (select generate_series($4::integer, greatest(255, $4), $3::integer)) and head = 1
    and due > $5 and (wish is not null or failed is null or failed > $5)

-- name: attempt_add
insert into evenflow_attempt
    (group_name, topic, lane, generation, "offset", attempt, at, process, error_type, error, fingerprint)
values ($1, $2, $3, $4, $5, 1 + coalesce((
    select max(attempt) from evenflow_attempt
    where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5), 0), $6, $7, $8, $9, $10)

-- The first event of each of these lanes (a JSON array).
-- name: parked_firsts
select p.generation, p."offset", p.slot, p.partition, p.envelope, p.attempts, p.wish, p.error_type, p.first_failed,
    p.lane
from json_array_elements_text($3::json) as l (value) cross join lateral (
    select q.* from evenflow_parked as q where q.group_name = $1 and q.topic = $2 and q.lane = l.value
    order by q.generation, q."offset" limit 1) as p

-- name: parked_size
select coalesce((select sum(events) from evenflow_lot where group_name = $1), 0)::bigint, (
    select count(*) from evenflow_parked where group_name = $1 and head = 1 and due is null)

-- name: parked_spread
select topic, slot, count(*), count(*) filter (where head = 1 and due is null) from evenflow_parked
where group_name = $1 group by topic, slot

-- name: parked_lane_list
with recursive topics (topic) as (
    select min(topic) from evenflow_parked where group_name = $1
    union all select (select min(p.topic) from evenflow_parked as p where p.group_name = $1 and p.topic > t.topic)
    from topics as t where t.topic is not null)
select p.topic, p.lane, p.generation, p.partition, p."offset", p.envelope, p.head, p.due, p.attempts, p.error,
    p.error_type, p.wish, p.first_failed, p.failed, p.parked
from topics as t join evenflow_parked as p on p.topic = t.topic
where p.group_name = $1 and p.lane = $2 order by p.topic, p.generation, p."offset" limit $3

-- name: parked_lane_size
with recursive topics (topic) as (
    select min(topic) from evenflow_parked where group_name = $1
    union all select (select min(p.topic) from evenflow_parked as p where p.group_name = $1 and p.topic > t.topic)
    from topics as t where t.topic is not null)
select count(*) from topics as t join evenflow_parked as p on p.topic = t.topic where p.group_name = $1 and p.lane = $2

-- name: parked_topics
with recursive topics (topic) as (
    select min(topic) from evenflow_parked where group_name = $1
    union all select (select min(p.topic) from evenflow_parked as p where p.group_name = $1 and p.topic > t.topic)
    from topics as t where t.topic is not null)
select t.topic from topics as t
where exists (select 1 from evenflow_parked as p where p.group_name = $1 and p.topic = t.topic and p.lane = $2)
order by t.topic

-- The log that they came from is no more: they stand before everything of the new one, in the order that they had.
-- name: parked_bygone
with shift (by) as (
    select max(generation) - least(min(generation), 1) + 1 from evenflow_parked where group_name = $1 and topic = $2),
history as (
    update evenflow_attempt set lane = case when substr(lane, 1, 1) = '#' then '#' || lane else lane end,
        generation = generation - (select by from shift)
    where group_name = $1 and topic = $2)
update evenflow_parked set lane = case when substr(lane, 1, 1) = '#' then '#' || lane else lane end,
    generation = generation - (select by from shift)
where group_name = $1 and topic = $2

-- name: letters_promised
select i.operation, count(*), count(*) filter (where i.state = 'asked')
from evenflow_operation as o join evenflow_operation_item as i on i.operation = o.id
join evenflow_parked as p on p.group_name = o.group_name
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
where o.open > 0 and o.group_name = $1 and o.state in ('gathering', 'running', 'paused') and i.state <> 'failed'
    and p.head = 1 and :filter
group by i.operation order by i.operation

-- Behind the columns of `parked_list`.
-- name: parked_page
from evenflow_parked as p
where p.group_name = $1 and (p.topic, p.lane, p.generation, p."offset") > ($2, $3, $4, $5) and :filter
order by p.topic, p.lane, p.generation, p."offset" limit $6

-- How many there are of each `:value`: dead letters, retries, behind; since when; one of their errors.
-- name: parked_by
select :value, count(*) filter (where p.head = 1 and p.due is null),
    count(*) filter (where p.head = 1 and p.due is not null), count(*) filter (where p.head = 0),
    min(coalesce(p.first_failed, p.parked)), max(p.error)
from evenflow_parked as p where p.group_name = $1 and :filter
group by 1 order by 2 desc, count(*) desc, 1 nulls first limit $2

-- The open operations are this transaction's from here on. Before they are read to be changed.
-- name: operation_lock
select id from evenflow_operation where open > 0 order by id for update

-- name: operation_wish
update evenflow_parked as p set wish = $5, due = $6 from evenflow_operation_item as i
where i.operation = $1 and i.place >= $2 and i.place < $3 and i.state = 'asked'
    and p.group_name = $4 and p.head = 1 and p.due is null
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"

-- $1: a JSON array of ids. What lies between them may be another's, committed since.
-- name: outbox_remove
delete from evenflow_outbox where id = any (array(select value::bigint from json_array_elements_text($1::json)))

-- $1: a JSON array of ids.
-- name: outbox_there
select id from evenflow_outbox where id = any (array(select value::bigint from json_array_elements_text($1::json)))

-- What the relay moves while it lets these topics and rows (JSON arrays) be.
-- name: relay_others
select id, topic, body, (select min(due) from evenflow_due) from evenflow_outbox
where topic not in (select value from json_array_elements_text($2::json))
    and id <> all (array(select value::bigint from json_array_elements_text($3::json))) order by id limit $1

-- name: outbox_size
select coalesce(sum(count), 0)::bigint, coalesce(sum(bytes), 0)::bigint, min(created), coalesce(min(id), 0)
from evenflow_outbox

-- name: outbox_last
select case when is_called then last_value else 0 end from evenflow_outbox_id_seq

-- $2: a JSON array of [slot, how many]; gives back slots with their last numbers.
-- The last column changes where the server goes on without the last commits (a standby's promotion, a restore to a
-- moment): its timeline does, and numbers may be given out again.
-- name: counters_draw
insert into evenflow_counter as c (topic, slot, number)
select $1, (value ->> 0)::integer, (value ->> 1)::bigint from json_array_elements($2::json)
on conflict (topic, slot) do update set number = c.number + excluded.number returning c.slot, c.number,
    coalesce(nullif('.' || ltrim(substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), '0'), '.1'), '')

-- The same for what speaks PostgreSQL's language and has no timelines.
-- name: counters_draw_alone
insert into evenflow_counter as c (topic, slot, number)
select $1, (value ->> 0)::integer, (value ->> 1)::bigint from json_array_elements($2::json)
on conflict (topic, slot) do update set number = c.number + excluded.number returning c.slot, c.number, ''

-- name: due_size
select count(*), min(due) from evenflow_due

-- name: due_take
delete from evenflow_due where due <= $1
    and id in (select d.id from evenflow_due as d where d.due <= $1 order by d.due, d.id limit $2)
returning due, id, topic, envelope

-- Times are as the code says them; `process` is who said so last. Where they are as before, all goes on as before.
-- name: schedule_declare
insert into evenflow_schedule as s
    (name, group_name, topic, type, line, tz, seconds, missed, anchor, next_due, process)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (name) do update set
    anchor = case when (s.line, s.tz, s.seconds) = (excluded.line, excluded.tz, excluded.seconds)
        then s.anchor else excluded.anchor end,
    next_due = case when (s.line, s.tz, s.seconds) = (excluded.line, excluded.tz, excluded.seconds)
        then s.next_due else excluded.next_due end,
    group_name = excluded.group_name, topic = excluded.topic, type = excluded.type, line = excluded.line,
    tz = excluded.tz, seconds = excluded.seconds, missed = excluded.missed, process = excluded.process

-- name: schedule_move
update evenflow_schedule set next_due = $3, last_due = coalesce($4, last_due),
    last_run = coalesce($5, last_run), runs = runs + $6, anchor = coalesce($7, anchor)
where name = $1 and next_due is not distinct from $2 and paused is null

-- name: rename_schedule
with replaced as (delete from evenflow_schedule where name = $3 and group_name <> $1 returning 1)
update evenflow_schedule set group_name = $2, name = $3, type = $4
where group_name = $1 and (select count(*) from replaced) >= 0

-- $3: a JSON array of [source, id]; gives back those that are remembered.
-- name: inbox_known
select i.source, i.id from json_array_elements($3::json) as wanted
join evenflow_inbox as i on i.group_name = $1 and i.replay = $2
    and i.source = wanted.value ->> 0 and i.id = wanted.value ->> 1

-- name: audit_list
select id, at, who, what, subject, detail from evenflow_audit
where at >= $1 and ($2 = '' or strpos(subject, $2) > 0) order by id desc limit $3
