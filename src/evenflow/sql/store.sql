-- Statements of the core that every dialect takes as they are, but for SQLite's `indexed by`, which PostgreSQL's store
-- leaves out. Names are the contract between the core and a dialect.

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

-- What was dropped and not finished: so many claims stay counted.
-- name: position_leave
update evenflow_position set owner = null
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6

-- name: position_stopped
update evenflow_position set claims = 0, trying = null
where group_name = $1 and topic = $2 and log = $3 and generation = $4 and partition = $5 and fence = $6

-- name: position_list
select topic, log, generation, partition, next, last_id, fence, owner, claims from evenflow_position
where group_name = $1 order by topic, log, generation, partition

-- Of all groups, and of the relay. Also, last in each row: whether anything is paused, whether an operation is open, the
-- first row of the outbox, when the next event in it falls due, and when the next run of a schedule does.
-- name: owner_list
select p.topic, p.log, p.generation, p.partition, p.next, p.last_id, p.fence, p.owner, p.group_name, g.state,
    exists (select 1 from evenflow_pause), exists (select 1 from evenflow_operation where open > 0),
    (select min(id) from evenflow_outbox), (select min(due) from evenflow_due),
    (select min(next_due) from evenflow_schedule where paused is null)
from evenflow_position as p left join evenflow_group as g on g.group_name = p.group_name and g.topic = p.topic
order by p.group_name, p.topic, p.log, p.generation, p.partition

-- name: position_free
select count(*) from evenflow_position where owner is null

-- name: position_settled
select settled from evenflow_position where group_name = $1

-- name: position_marks
select partition, next, marks from evenflow_position
where group_name = $1 and topic = $2 and log = $3 and generation = $4 order by partition

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

-- name: rename_position
update evenflow_position set group_name = $2, fence = $3, owner = null where group_name = $1

-- name: rename_group
update evenflow_group set group_name = $2 where group_name = $1

-- name: rename_inbox
update evenflow_inbox set group_name = $2 where group_name = $1

-- name: drop_position
delete from evenflow_position where group_name = $1

-- name: drop_group
delete from evenflow_group where group_name = $1

-- name: drop_pause
delete from evenflow_pause where group_name = $1

-- name: rename_limit
update evenflow_limit set group_name = $2 where group_name = $1

-- name: rename_breaker
update evenflow_breaker set group_name = $2 where group_name = $1

-- name: drop_limit
delete from evenflow_limit where group_name = $1

-- name: drop_breaker
delete from evenflow_breaker where group_name = $1

-- name: limit_get
select tat from evenflow_limit where group_name = $1

-- name: breaker_get
select state, since, until, pause, passed, prober, permit, reason, version from evenflow_breaker where group_name = $1

-- name: parked_add
insert into evenflow_parked
    (group_name, topic, lane, generation, "offset", slot, partition, envelope, head, due, attempts, error, error_type,
     first_failed, failed, parked, type, size, fingerprint)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
on conflict (group_name, topic, lane, generation, "offset") do nothing

-- name: parked_due
select lane, error_type from evenflow_parked as p
where group_name = $1 and topic = $2 and slot = $3 and head = 1 and due <= $4 and (p.generation, p."offset") = (
    select generation, "offset" from evenflow_parked as q
    where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
    order by generation, "offset" limit 1)
order by due limit $5

-- name: parked_lane
select generation, "offset", slot, partition, envelope, attempts, wish, error_type, first_failed from evenflow_parked
where group_name = $1 and topic = $2 and lane = $3 order by generation, "offset" limit $4

-- name: parked_failed
update evenflow_parked set head = 1, due = $6, attempts = $7, error = $8, error_type = $9, fingerprint = $10,
    first_failed = coalesce(first_failed, $11), failed = $12, wish = null
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- name: parked_forewarned
update evenflow_parked set due = $6, attempts = $7, error = $8, error_type = $9, fingerprint = $10, wish = null
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- The last one was written when it began, by a process that could not know whether it would live to see its end.
-- name: attempt_told
update evenflow_attempt set at = $6, process = $7, error_type = $8, error = $9, fingerprint = $10
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5 and attempt = (
    select max(attempt) from evenflow_attempt
    where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5)

-- Its last attempt, $6, does not count: nothing has happened to it since that failed, at $7.
-- name: parked_refund
update evenflow_parked set attempts = attempts - 1, due = coalesce(due, $8)
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5
    and head = 1 and attempts = $6 and failed = $7 and wish is null

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

-- name: parked_at
select lane, topic, generation, partition from evenflow_parked where group_name = $1 and "offset" = $2
order by topic, generation, partition

-- name: parked_wish
update evenflow_parked set wish = $4, due = $5
where group_name = $1 and topic = $2 and lane = $3 and head = 1 and due is null

-- name: parked_whole
select generation, "offset", slot, partition, envelope, head, due, attempts, error, error_type, wish, first_failed,
    failed, parked, fingerprint, original
from evenflow_parked where group_name = $1 and topic = $2 and lane = $3 order by generation, "offset" limit $4

-- name: parked_one
select generation, "offset", slot, partition, envelope, head, due, attempts, error, error_type, wish, first_failed,
    failed, parked, fingerprint, original
from evenflow_parked where group_name = $1 and topic = $2 and lane = $3 and "offset" = $4 and partition = $5
order by generation

-- A dead letter at rest, as it was seen.
-- name: parked_edit
update evenflow_parked set envelope = $7, size = $8, original = coalesce(original, envelope)
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5
    and head = 1 and due is null and wish is null and envelope = $6

-- name: parked_restore
update evenflow_parked set envelope = original, size = length(original), original = null
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5
    and head = 1 and due is null and wish is null and envelope = $6 and original is not null

-- name: parked_everything
select distinct topic, lane from evenflow_parked where group_name = $1 order by topic, lane

-- name: parked_put_back
insert into evenflow_parked (group_name, topic, lane, generation, "offset", slot, partition, envelope, head, due,
    attempts, error, error_type, first_failed, failed, parked, type, fingerprint, size, original)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, null, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)

-- name: parked_unhead
update evenflow_parked as p set head = 0, due = null, wish = null
where p.group_name = $1 and p.topic = $2 and p.lane = $3 and p.head = 1 and exists (
    select 1 from evenflow_parked as q where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
    and (q.generation, q."offset") < (p.generation, p."offset"))

-- name: attempt_list
select attempt, at, process, error_type, error, fingerprint from evenflow_attempt
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5 order by attempt

-- name: attempt_put_back
insert into evenflow_attempt (group_name, topic, lane, generation, "offset", attempt, at, process, error_type, error,
    fingerprint)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing

-- name: carried_add
insert into evenflow_carried (group_name, topic, lane, generation, "offset", partition, log, digest, read_generation,
    read_partition, read_to, at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
on conflict (group_name, topic, lane, generation, "offset") do update set partition = excluded.partition,
    log = excluded.log, digest = excluded.digest, read_generation = excluded.read_generation,
    read_partition = excluded.read_partition, read_to = excluded.read_to, at = excluded.at

-- name: carried_list
select topic, lane, generation, "offset", partition, log, digest, read_generation, read_partition, read_to
from evenflow_carried where group_name = $1

-- name: carried_remove
delete from evenflow_carried
where group_name = $1 and topic = $2 and lane = $3 and generation = $4 and "offset" = $5

-- The log brings these again.
-- name: carried_unwind
delete from evenflow_carried
where group_name = $1 and topic = $2 and generation = $3 and partition = $4 and "offset" >= $5

-- name: carried_unwind_later
delete from evenflow_carried where group_name = $1 and topic = $2 and generation > $3

-- name: drop_carried
delete from evenflow_carried where group_name = $1

-- name: rename_carried
update evenflow_carried set group_name = $2 where group_name = $1

-- name: position_hand_on
update evenflow_position set fence = fence + 1, owner = null
where group_name = $1 and topic = $2 and generation = $3 and partition = $4

-- name: position_ends
select topic, generation, partition, next, settled from evenflow_position where group_name = $1

-- name: operations_of
select o.id, o.kind, o.who, o.at, o.state, i.state from evenflow_operation_item as i
join evenflow_operation as o on o.id = i.operation
where o.group_name = $1 and i.topic = $2 and i.lane = $3 and i.generation = $4 and i."offset" = $5
order by o.id desc limit $6

-- name: parked_unwind
delete from evenflow_parked
where group_name = $1 and topic = $2 and generation = $3 and partition = $4 and "offset" >= $5

-- name: parked_unwind_later
delete from evenflow_parked where group_name = $1 and topic = $2 and generation > $3

-- name: parked_rehead
update evenflow_parked as p set head = 1, due = $3
where p.group_name = $1 and p.topic = $2 and p.head = 0 and (p.generation, p."offset") = (
    select generation, "offset" from evenflow_parked as q
    where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
    order by generation, "offset" limit 1)

-- Operations: a redrive or a discard of many dead letters. A dead letter is the first of its lane, has no due time, and
-- is the same as when it was seen. `:filter` stands for the conditions that a person gave.
-- name: letters_gather
insert into evenflow_operation_item (operation, place, topic, lane, generation, "offset", seen)
select $1, $2 + row_number() over (order by topic, lane) - 1, topic, lane, generation, "offset", seen from (
    select p.topic, p.lane, p.generation, p."offset",
        p.attempts || '/' || coalesce(p.failed, 0) || '/' || p.size || '/' || (p.original is not null) as seen
    from evenflow_parked as p indexed by evenflow_parked_letters
    where p.group_name = $3 and p.head = 1 and p.due is null
    and (p.topic, p.lane) > ($4, $5) and coalesce(p.failed, p.parked) <= $6 and :filter
    and (p.generation, p."offset") = (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1)
    order by p.topic, p.lane limit $7) as found

-- How many dead letters there are, and how many of them each open operation has before it.
-- name: letters_count
select count(*) from evenflow_parked as p indexed by evenflow_parked_letters
where p.group_name = $1 and p.head = 1 and p.due is null and :filter and (p.generation, p."offset") = (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1)

-- name: letters_first
select p.topic, p.lane, p.type, p.envelope, p.error from evenflow_parked as p indexed by evenflow_parked_letters
where p.group_name = $1 and p.head = 1 and p.due is null and :filter and (p.generation, p."offset") = (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1)
order by p.topic, p.lane limit $2

-- name: letters_last
select topic, lane from evenflow_operation_item where operation = $1 order by place desc limit 1

-- name: operation_add
insert into evenflow_operation (kind, group_name, filter, plan, state, reason, who, at, changed, credited)
values ($1, $2, $3, $4, 'gathering', $5, $6, $7, $7, $7) returning id

-- name: operation_open
select id, kind, group_name, filter, plan, state, reason, outcome, who, at, changed, total, asked, passed, failed, gone,
    credit, credited, open
from evenflow_operation where open > 0 order by id

-- name: operation_one
select id, kind, group_name, filter, plan, state, reason, outcome, who, at, changed, total, asked, passed, failed, gone,
    credit, credited, open
from evenflow_operation where id = $1

-- name: operation_list
select id, kind, group_name, filter, plan, state, reason, outcome, who, at, changed, total, asked, passed, failed, gone,
    credit, credited, open
from evenflow_operation order by id desc limit $1

-- name: operation_failures
select i.topic, i.lane, p.type, p.envelope, p.error from evenflow_operation_item as i
left join evenflow_parked as p on p.group_name = $2
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
where i.operation = $1 and i.state = 'failed' order by i.place limit $3

-- name: operation_write
update evenflow_operation set state = $2, outcome = $3, changed = $4, total = $5, asked = $6, passed = $7, failed = $8,
    gone = $9, credit = $10, credited = $11, open = $12
where id = $1

-- Those whose turn has come, if they are dead letters still, and the same.
-- name: operation_take
update evenflow_operation_item as i set state = 'asked'
where i.operation = $1 and i.place >= $2 and i.place < $3 and exists (
    select 1 from evenflow_parked as p where p.group_name = $4
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
    and p.head = 1 and p.due is null
    and p.attempts || '/' || coalesce(p.failed, 0) || '/' || p.size || '/' || (p.original is not null) = i.seen
    and (p.generation, p."offset") = (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1))

-- name: operation_absent
delete from evenflow_operation_item where operation = $1 and place >= $2 and place < $3 and state = 'waiting'

-- How many of those asked for are decided.
-- name: operation_look
select count(*) from evenflow_operation_item as i indexed by evenflow_operation_asked
left join evenflow_parked as p on p.group_name = $2
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
where i.operation = $1 and i.state = 'asked' and (p.head is null or p.head = 0
    or p.due is null and (p.wish is null or not exists (
        select 1 from evenflow_attempt as a where a.group_name = p.group_name and a.topic = p.topic
        and a.lane = p.lane and a.generation = p.generation and a."offset" = p."offset" and a.at > $3))
    or (p.generation, p."offset") <> (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1))

-- While its last attempt is made, it has no due time already if that may end its process; `wish` is kept then.
-- name: operation_failed
update evenflow_operation_item as i indexed by evenflow_operation_asked set state = 'failed'
where i.operation = $1 and i.state = 'asked' and exists (
    select 1 from evenflow_parked as p where p.group_name = $2
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
    and p.head = 1 and p.due is null
    and (p.wish is null or not exists (
        select 1 from evenflow_attempt as a where a.group_name = p.group_name and a.topic = p.topic
        and a.lane = p.lane and a.generation = p.generation and a."offset" = p."offset" and a.at > $3)))

-- name: operation_passed
delete from evenflow_operation_item as i indexed by evenflow_operation_asked
where i.operation = $1 and i.state = 'asked' and not exists (
    select 1 from evenflow_parked as p where p.group_name = $2
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset")

-- Others came before them, or they are no heads: whatever becomes of them is not the operation's doing.
-- name: operation_gone
delete from evenflow_operation_item as i indexed by evenflow_operation_asked
where i.operation = $1 and i.state = 'asked' and exists (
    select 1 from evenflow_parked as p where p.group_name = $2
    and p.topic = i.topic and p.lane = i.lane and p.generation = i.generation and p."offset" = i."offset"
    and (p.head = 0 or (p.generation, p."offset") <> (
        select generation, "offset" from evenflow_parked as q
        where q.group_name = p.group_name and q.topic = p.topic and q.lane = p.lane
        order by generation, "offset" limit 1)))

-- name: operation_prune
delete from evenflow_operation_item where operation = $1 and place >= $2 and place < $3 + (
    select min(place) from evenflow_operation_item where operation = $1 and place >= $2)

-- name: rename_operation
update evenflow_operation set group_name = $2 where group_name = $1

-- name: drop_operation_item
delete from evenflow_operation_item where state = 'asked' and operation in (
    select id from evenflow_operation where group_name = $1 and open > 0)

-- name: drop_operation
update evenflow_operation set state = 'cancelled', outcome = 'the group was dropped', gone = asked - passed - failed
where group_name = $1 and open > 0

-- name: outbox_add
insert into evenflow_outbox (topic, count, bytes, created, body) values ($1, $2, $3, $4, $5) returning id

-- name: outbox_next
select id, topic, count, body from evenflow_outbox order by id limit $1

-- name: outbox_cut
update evenflow_outbox set count = $2, bytes = $3, body = $4 where id = $1

-- name: relay_next
select id, topic, body, (select min(due) from evenflow_due) from evenflow_outbox order by id limit $1

-- name: due_add
insert into evenflow_due (due, name, topic, envelope) values ($1, $2, $3, $4)
on conflict (name) do update set due = excluded.due, topic = excluded.topic, envelope = excluded.envelope

-- name: due_cancel
delete from evenflow_due where name = $1

-- name: due_list
select id, due, name, topic, envelope from evenflow_due order by due, id limit $1

-- name: due_next
select min(due) from evenflow_due

-- name: due_named
select id, due, name, topic, envelope from evenflow_due where name = $1

-- name: due_names
select name from evenflow_due where name >= $1 order by name limit $2

-- name: schedule_list
select name, group_name, topic, type, line, tz, seconds, missed, anchor, next_due, process, paused, paused_by,
    paused_why, last_due, last_run, runs
from evenflow_schedule order by name

-- name: schedule_ran
update evenflow_schedule set last_run = $2, runs = runs + 1 where name = $1

-- name: schedule_pause
update evenflow_schedule set paused = $2, paused_by = $3, paused_why = $4 where name = $1 and paused is null

-- name: schedule_resume
update evenflow_schedule set paused = null, paused_by = null, paused_why = null
where name = $1 and paused is not null

-- name: drop_schedule
delete from evenflow_schedule where group_name = $1

-- name: inbox_add
insert into evenflow_inbox (group_name, replay, source, id, seen) values ($1, $2, $3, $4, $5)
on conflict (group_name, replay, source, id) do nothing

-- name: inbox_count
select count(*) from evenflow_inbox where group_name = $1

-- name: inbox_clear
delete from evenflow_inbox where group_name = $1

-- name: inbox_prune
delete from evenflow_inbox where seen < $1

-- name: audit_add
insert into evenflow_audit (at, who, what, subject, detail) values ($1, $2, $3, $4, $5)

-- name: audit_of
select at, who, what, detail from evenflow_audit where subject = $1 and at >= $2 order by id desc limit $3

-- name: store_producer
select producer from evenflow_store

-- name: store_adopt
update evenflow_store set producer = $1
