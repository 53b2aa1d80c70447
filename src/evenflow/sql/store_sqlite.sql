-- Statements of the core on SQLite, beside those of `store.sql`.

-- name: position_guard
update evenflow_position set fence = fence
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6 and next = $7

-- All of a group are this transaction's from here on: what their owners have begun is committed, what they begin waits.
-- name: position_lock
select topic, log, generation, partition, next from evenflow_position
where group_name = $1 order by topic, log, generation, partition

-- A fence that was given out once never comes back, also when rows were dropped meanwhile.
-- name: position_create
insert into evenflow_position (group_name, topic, log, generation, partition, next, last_id, marks, settled, fence)
values ($1, $2, $3, $4, $5, $6, null, $7, $8, max(
    coalesce((select max(fence) from evenflow_position where group_name = $1 and topic = $2), 0),
    coalesce((select fence from evenflow_lineage where group_name = $1), 0)))
on conflict (group_name, topic, log, generation, partition) do nothing

-- name: lineage_put
insert into evenflow_lineage (group_name, derives, fence) values ($1, $2, $3)
on conflict (group_name) do update set derives = excluded.derives, fence = max(fence, excluded.fence)

-- name: group_fence
select max(coalesce((select max(fence) from evenflow_position where group_name = $1), 0),
    coalesce((select fence from evenflow_lineage where group_name = $1), 0))

-- name: rename_parked
update evenflow_parked set group_name = $2 where group_name = $1

-- name: rename_pause
update or ignore evenflow_pause set group_name = $2 where group_name = $1

-- name: drop_parked
delete from evenflow_parked where group_name = $1

-- $3: as it was read, null where there was none.
-- name: limit_put
insert into evenflow_limit (group_name, tat) values ($1, $2)
on conflict (group_name) do update set tat = excluded.tat where tat = $3

-- $10: the version that was read, 0 where there was none.
-- name: breaker_put
insert into evenflow_breaker
    (group_name, state, since, until, pause, passed, prober, permit, reason, version)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10 + 1)
on conflict (group_name) do update set state = excluded.state, since = excluded.since, until = excluded.until,
    pause = excluded.pause, passed = excluded.passed, prober = excluded.prober, permit = excluded.permit,
    reason = excluded.reason, version = excluded.version
where version = $10

-- The slots that a partition stands for: $4, and every $3th of the 256 from there. Each lane has a head.
-- name: parked_lanes
with recursive slots (slot) as (select $4 union all select slot + $3 from slots where slot + $3 < 256)
select p.lane from slots cross join evenflow_parked as p
where p.group_name = $1 and p.topic = $2 and p.slot = slots.slot and p.head = 1

-- name: parked_lot
select coalesce(max(events), 0), coalesce(max(bytes), 0) from evenflow_lot where group_name = $1

-- When the first head of each of these slots is due. Events of a lane may have been parked out of order, each as its
-- head: only the first of them is.
-- name: parked_slots
with recursive slots (slot) as (select $4 union all select slot + $3 from slots where slot + $3 < 256),
firsts (slot, first) as materialized (select slot, (
    select due from evenflow_parked as p
    where group_name = $1 and topic = $2 and p.slot = slots.slot and head = 1 and due is not null and (p.generation, p."offset") = (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1)
    order by due limit 1) from slots)
select slot, first from firsts where first is not null order by first, slot

-- Due times of before the clock was set back: each failed in what is the future now. They keep their delay, from now.
-- name: parked_rebase
with recursive slots (slot) as (select $4 union all select slot + $3 from slots where slot + $3 < 256)
update evenflow_parked indexed by evenflow_parked_heads set due = case when wish is null and failed > $5 then $5 + (due - failed) else $5 end,
    failed = min(failed, $5)
where group_name = $1 and topic = $2 and slot in (select slot from slots) and head = 1 and due > $5
    and (wish is not null or failed is null or failed > $5)

-- name: attempt_add
insert into evenflow_attempt
    (group_name, topic, lane, generation, "offset", attempt, at, process, error_type, error, fingerprint)
select $1, $2, $3, $4, $5, coalesce(max(attempt), 0) + 1, $6, $7, $8, $9, $10 from evenflow_attempt
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- The first event of each of these lanes (a JSON array).
-- name: parked_firsts
select generation, "offset", slot, partition, envelope, attempts, wish, error_type, first_failed, lane
from json_each($3) cross join evenflow_parked as p
where p.group_name = $1 and p.topic = $2 and p.lane = value and (p.generation, p."offset") = (
    select q.generation, q."offset" from evenflow_parked as q
    where q.group_name = $1 and q.topic = $2 and q.lane = value order by q.generation, q."offset" limit 1)

-- name: parked_size
select coalesce((select events from evenflow_lot where group_name = $1), 0), (
    select count(*) from evenflow_parked where group_name = $1 and head = 1 and due is null)

-- name: parked_spread
select topic, slot, count(*), coalesce(sum(head = 1 and due is null), 0) from evenflow_parked
where group_name = $1 group by topic, slot

-- name: parked_lane_list
select topic, lane, generation, partition, "offset", envelope, head, due, attempts, error, error_type, wish,
    first_failed, failed, parked
from evenflow_parked where group_name = $1 and lane = $2 order by topic, generation, "offset" limit $3

-- name: parked_lane_size
select count(*) from evenflow_parked where group_name = $1 and lane = $2

-- name: parked_topics
select distinct topic from evenflow_parked where group_name = $1 and lane = $2 order by topic

-- The log that they came from is no more: they stand before everything of the new one, in the order that they had.
-- name: parked_bygone
update evenflow_parked set lane = case when substr(lane, 1, 1) = '#' then '#' || lane else lane end,
    generation = generation - (
        select max(generation) - min(min(generation), 1) + 1 from evenflow_parked where group_name = $1 and topic = $2)
where group_name = $1 and topic = $2

-- name: letters_promised
select i.operation, count(*), coalesce(sum(i.state = 'asked'), 0)
from evenflow_operation as o cross join evenflow_operation_item as i cross join evenflow_parked as p
where o.open > 0 and o.group_name = $1 and o.state in ('gathering', 'running', 'paused') and i.operation = o.id
    and i.state <> 'failed' and p.group_name = o.group_name
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
    and p.head = 1 and :filter
group by i.operation order by i.operation

-- Behind the columns of `parked_list`.
-- name: parked_page
from evenflow_parked as p :index
where p.group_name = $1 and (p.topic, p.lane, p.generation, p."offset") > ($2, $3, $4, $5) and :filter
order by p.topic, p.lane, p.generation, p."offset" limit $6

-- How many there are of each `:value`: dead letters, retries, behind; since when; one of their errors.
-- name: parked_by
select :value, sum(p.head = 1 and p.due is null), sum(p.head = 1 and p.due is not null), sum(p.head = 0),
    min(coalesce(p.first_failed, p.parked)), max(p.error)
from evenflow_parked as p :index where p.group_name = $1 and :filter
group by 1 order by 2 desc, count(*) desc, 1 limit $2

-- The open operations are this transaction's from here on. Before they are read to be changed.
-- name: operation_lock
select id from evenflow_operation where open > 0 order by id

-- name: operation_wish
update evenflow_parked as p set wish = $5, due = $6 from evenflow_operation_item as i
where i.operation = $1 and i.place >= $2 and i.place < $3 and i.state = 'asked'
    and p.group_name = $4
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"

-- $1: a JSON array of ids. What lies between them may be another's, committed since.
-- name: outbox_remove
delete from evenflow_outbox where id in (select value from json_each($1))

-- $1: a JSON array of ids.
-- name: outbox_there
select id from evenflow_outbox where id in (select value from json_each($1))

-- name: relay_others
select id, topic, body, (select min(due) from evenflow_due) from evenflow_outbox
where topic not in (select value from json_each($2)) and id not in (select value from json_each($3))
order by id limit $1

-- name: outbox_size
select coalesce(sum(count), 0), coalesce(sum(bytes), 0), min(created), coalesce(min(id), 0) from evenflow_outbox

-- name: outbox_last
select coalesce((select seq from sqlite_sequence where name = 'evenflow_outbox'), 0)

-- $2: a JSON array of [slot, how many]; gives back slots with their last numbers.
-- name: counters_draw
insert into evenflow_counter (topic, slot, number)
select $1, value ->> 0, value ->> 1 from json_each($2) where true
on conflict (topic, slot) do update set number = number + excluded.number returning slot, number, ''

-- name: due_size
select (select count(*) from evenflow_due), min(due) from evenflow_due

-- name: due_take
delete from evenflow_due where id in (select id from evenflow_due where due <= $1 order by due, id limit $2)
returning due, id, topic, envelope

-- Times are as the code says them; `process` is who said so last. Where they are as before, all goes on as before.
-- name: schedule_declare
insert into evenflow_schedule (name, group_name, topic, type, line, tz, seconds, missed, anchor, next_due, process)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (name) do update set
    anchor = case when (line, tz, seconds) = (excluded.line, excluded.tz, excluded.seconds)
        then anchor else excluded.anchor end,
    next_due = case when (line, tz, seconds) = (excluded.line, excluded.tz, excluded.seconds)
        then next_due else excluded.next_due end,
    group_name = excluded.group_name, topic = excluded.topic, type = excluded.type, line = excluded.line,
    tz = excluded.tz, seconds = excluded.seconds, missed = excluded.missed, process = excluded.process

-- name: schedule_move
update evenflow_schedule set next_due = $3, last_due = coalesce($4, last_due),
    last_run = coalesce($5, last_run), runs = runs + $6, anchor = coalesce($7, anchor)
where name = $1 and next_due is $2 and paused is null

-- name: rename_schedule
update or replace evenflow_schedule set group_name = $2, name = $3, type = $4 where group_name = $1

-- $3: a JSON array of [source, id]; gives back those that are remembered.
-- name: inbox_known
select i.source, i.id from json_each($3) as wanted cross join evenflow_inbox as i
where i.group_name = $1 and i.replay = $2
    and i.source = json_extract(wanted.value, '$[0]') and i.id = json_extract(wanted.value, '$[1]')

-- name: audit_list
select id, at, who, what, subject, detail from evenflow_audit
where at >= $1 and ($2 = '' or instr(subject, $2) > 0) order by id desc limit $3
