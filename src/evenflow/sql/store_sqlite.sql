-- Statements of the core on SQLite. Names are the contract between the core and a dialect.

-- name: position_guard
update evenflow_position set fence = fence
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6 and next = $7

-- name: position_move
update evenflow_position set next = $7, last_id = $8, marks = $9, settled = $10, trying = null,
    claims = case next when $7 then claims else 0 end
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6

-- name: position_try
update evenflow_position set trying = $7
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6

-- name: position_claim
update evenflow_position set fence = fence + 1, owner = $7, claims = claims + 1
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6
returning next, last_id, marks, settled, fence, claims, trying

-- name: position_release
update evenflow_position set owner = null, claims = 0
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6

-- name: position_list
select topic, log, generation, partition, next, last_id, fence, owner, claims from evenflow_position
where group_name = $1 order by topic, log, generation, partition

-- Of all groups, and of the relay. Also whether anything is paused, and the first row of the outbox.
-- name: owner_list
select p.topic, p.log, p.generation, p.partition, p.next, p.last_id, p.fence, p.owner, p.group_name, g.state,
    exists (select 1 from evenflow_pause), (select min(id) from evenflow_outbox)
from evenflow_position as p left join evenflow_group as g on g.group_name = p.group_name and g.topic = p.topic
order by p.group_name, p.topic, p.log, p.generation, p.partition

-- name: position_settled
select settled from evenflow_position where group_name = $1

-- name: position_marks
select partition, next, marks from evenflow_position
where group_name = $1 and topic = $2 and log = $3 and generation = $4 order by partition

-- A fence that was given out once never comes back, also when rows were dropped meanwhile.
-- name: position_create
insert into evenflow_position (group_name, topic, log, generation, partition, next, last_id, marks, settled, fence)
values ($1, $2, $3, $4, $5, $6, null, $7, $8, max(
    coalesce((select max(fence) from evenflow_position where group_name = $1 and topic = $2), 0),
    coalesce((select fence from evenflow_lineage where group_name = $1), 0)))
on conflict (group_name, topic, log, generation, partition) do nothing

-- name: position_retire
update evenflow_position set fence = fence + 1, owner = null
where group_name = $1 and topic = $2 and log = $3 and generation = $4

-- name: position_drop_others
delete from evenflow_position where group_name = $1 and topic = $2 and (log <> $3 or generation <> $4)

-- name: position_seek
update evenflow_position set next = $6, last_id = null, marks = $7, settled = $8, owner = null, claims = 0,
    trying = null, fence = 1 + (select max(fence) from evenflow_position where group_name = $1 and topic = $2)
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5

-- name: group_create
insert into evenflow_group (group_name, topic, log, created) values ($1, $2, $3, $4)
on conflict (group_name, topic) do nothing

-- name: group_list
select group_name, topic, log, state, reason from evenflow_group order by group_name, topic

-- name: group_names
select group_name from evenflow_group union select group_name from evenflow_pause order by 1

-- name: group_state
update evenflow_group set state = $3, reason = $4 where group_name = $1 and topic = $2

-- name: group_log
update evenflow_group set log = $3, state = 'running', reason = null where group_name = $1 and topic = $2

-- name: pause_list
select group_name, topic, generation, partition, at, who, reason from evenflow_pause
order by group_name, topic, generation, partition

-- name: pause_put
insert into evenflow_pause (group_name, topic, generation, partition, at, who, reason)
values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing

-- name: pause_remove
delete from evenflow_pause where group_name = $1 and topic = $2 and generation = $3 and partition = $4

-- name: lineage
select derives from evenflow_lineage where group_name = $1

-- name: lineage_list
select group_name, derives, fence from evenflow_lineage order by group_name

-- name: lineage_put
insert into evenflow_lineage (group_name, derives, fence) values ($1, $2, $3)
on conflict (group_name) do update set derives = excluded.derives, fence = max(fence, excluded.fence)

-- name: group_fence
select max(coalesce((select max(fence) from evenflow_position where group_name = $1), 0),
    coalesce((select fence from evenflow_lineage where group_name = $1), 0))

-- name: rename_position
update evenflow_position set group_name = $2, fence = $3, owner = null where group_name = $1

-- name: rename_group
update evenflow_group set group_name = $2 where group_name = $1

-- name: rename_parked
update evenflow_parked set group_name = $2 where group_name = $1

-- name: rename_inbox
update evenflow_inbox set group_name = $2 where group_name = $1

-- name: rename_pause
update or ignore evenflow_pause set group_name = $2 where group_name = $1

-- name: drop_position
delete from evenflow_position where group_name = $1

-- name: drop_group
delete from evenflow_group where group_name = $1

-- name: drop_parked
delete from evenflow_parked where group_name = $1

-- name: drop_pause
delete from evenflow_pause where group_name = $1

-- name: parked_add
insert into evenflow_parked
    (group_name, topic, lane, generation, "offset", slot, partition, envelope, head, due, attempts, error, error_type,
     first_failed, failed, parked)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15)
on conflict (group_name, topic, lane, generation, "offset") do nothing

-- name: parked_lanes
select distinct lane from evenflow_parked where group_name = $1 and topic = $2 and slot % $3 = $4

-- name: parked_count
select count(*) from evenflow_parked where group_name = $1

-- Events of a lane may have been parked out of order, each as its head: only the first of them is.
-- name: parked_due
select lane from evenflow_parked as p
where group_name = $1 and topic = $2 and head = 1 and due <= $5 and slot % $3 = $4 and not exists (
    select 1 from evenflow_parked as q where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
    and (q.generation, q."offset") < (p.generation, p."offset"))
order by due limit $6

-- name: parked_next_due
select min(due) from evenflow_parked as p
where group_name = $1 and topic = $2 and head = 1 and due is not null and slot % $3 = $4 and not exists (
    select 1 from evenflow_parked as q where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
    and (q.generation, q."offset") < (p.generation, p."offset"))

-- name: parked_lane
select generation, "offset", slot, partition, envelope, attempts, wish, error_type from evenflow_parked
where group_name = $1 and topic = $2 and lane = $3 order by generation, "offset" limit $4

-- name: parked_failed
update evenflow_parked set head = 1, due = $6, attempts = $7, error = $8, error_type = $9, wish = null,
    first_failed = coalesce(first_failed, $10), failed = $10
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- name: parked_attempt
update evenflow_parked set due = $6, attempts = $7, error = $8, error_type = $9
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- name: parked_head
update evenflow_parked set head = 1, due = $6
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- name: parked_remove
delete from evenflow_parked
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- name: parked_list
select topic, lane, generation, partition, "offset", envelope, head, due, attempts, error, error_type, wish,
    first_failed, failed, parked
from evenflow_parked where group_name = $1 order by topic, lane, generation, "offset" limit $2

-- name: parked_size
select count(*), coalesce(sum(head = 1 and due is null), 0) from evenflow_parked where group_name = $1

-- name: parked_spread
select topic, slot, count(*), coalesce(sum(head = 1 and due is null), 0) from evenflow_parked
where group_name = $1 group by topic, slot

-- name: parked_lane_list
select topic, lane, generation, partition, "offset", envelope, head, due, attempts, error, error_type, wish,
    first_failed, failed, parked
from evenflow_parked where group_name = $1 and lane = $2 order by topic, generation, "offset" limit $3

-- name: parked_at
select lane, topic, generation, partition from evenflow_parked where group_name = $1 and "offset" = $2
order by topic, generation, partition

-- name: parked_lane_size
select count(*) from evenflow_parked where group_name = $1 and lane = $2

-- name: parked_wish
update evenflow_parked set wish = $4, due = $5
where group_name = $1 and topic = $2 and lane = $3 and head = 1 and due is null

-- name: parked_unwind
delete from evenflow_parked
where group_name = $1 and topic = $2 and generation = $3 and partition = $4 and "offset" >= $5

-- name: parked_unwind_later
delete from evenflow_parked where group_name = $1 and topic = $2 and generation > $3

-- The log that they came from is no more: they stand before everything of the new one, in the order that they had.
-- name: parked_bygone
update evenflow_parked set lane = case when substr(lane, 1, 1) = '#' then '#' || lane else lane end,
    generation = generation - (
        select max(generation) - min(min(generation), 1) + 1 from evenflow_parked where group_name = $1 and topic = $2)
where group_name = $1 and topic = $2

-- name: parked_rehead
update evenflow_parked as p set head = 1, due = $3
where p.group_name = $1 and p.topic = $2 and p.head = 0 and not exists (
    select 1 from evenflow_parked as q where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
    and (q.generation, q."offset") < (p.generation, p."offset"))

-- name: outbox_add
insert into evenflow_outbox (topic, count, bytes, created, body) values ($1, $2, $3, $4, $5) returning id

-- name: outbox_next
select id, topic, count, body from evenflow_outbox order by id limit $1

-- name: relay_next
select id, topic, body, (select min(due) from evenflow_due) from evenflow_outbox order by id limit $1

-- name: outbox_remove
delete from evenflow_outbox where id <= $1

-- name: outbox_size
select coalesce(sum(count), 0), coalesce(sum(bytes), 0), min(created), coalesce(min(id), 0) from evenflow_outbox

-- name: outbox_last
select coalesce((select seq from sqlite_sequence where name = 'evenflow_outbox'), 0)

-- $2: a JSON array of [slot, how many]; gives back slots with their last numbers.
-- name: counters_draw
insert into evenflow_counter (topic, slot, number)
select $1, value ->> 0, value ->> 1 from json_each($2) where true
on conflict (topic, slot) do update set number = number + excluded.number returning slot, number

-- name: due_add
insert into evenflow_due (due, name, topic, envelope) values ($1, $2, $3, $4)
on conflict (name) do update set due = excluded.due, topic = excluded.topic, envelope = excluded.envelope

-- name: due_cancel
delete from evenflow_due where name = $1

-- name: due_list
select id, due, name, topic, envelope from evenflow_due order by due, id limit $1

-- name: due_size
select count(*), min(due) from evenflow_due

-- name: due_ready
select id, topic, envelope from evenflow_due where due <= $1 order by due, id limit $2

-- name: due_remove
delete from evenflow_due where id = $1

-- name: due_next
select min(due) from evenflow_due

-- name: inbox_add
insert into evenflow_inbox (group_name, replay, source, id, seen) values ($1, $2, $3, $4, $5)
on conflict (group_name, replay, source, id) do nothing

-- name: inbox_seen
select 1 from evenflow_inbox where group_name = $1 and replay = $2 and source = $3 and id = $4

-- name: inbox_count
select count(*) from evenflow_inbox where group_name = $1

-- name: inbox_clear
delete from evenflow_inbox where group_name = $1

-- name: inbox_prune
delete from evenflow_inbox where seen < $1

-- name: audit_add
insert into evenflow_audit (at, who, what, subject, detail) values ($1, $2, $3, $4, $5)

-- name: store_producer
select producer from evenflow_store

-- name: store_adopt
update evenflow_store set producer = $1
