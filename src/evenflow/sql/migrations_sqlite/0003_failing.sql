-- Columns by which a person filters a parking lot of a million.
alter table evenflow_parked add column type text not null default '';
alter table evenflow_parked add column fingerprint text;  -- of its last error: see `evenflow_attempt`
alter table evenflow_parked add column size integer not null default 0;  -- bytes of the packed envelope
alter table evenflow_parked add column original blob;  -- the envelope as it was parked, where it has been edited since
create index evenflow_parked_dead on evenflow_parked (group_name, fingerprint) where head = 1 and due is null;
update evenflow_parked set size = length(envelope);

-- What an owner asks of the heads of its slots, of a million too: which are due, when the next is, which lanes there are.
drop index evenflow_parked_due;
create index evenflow_parked_heads on evenflow_parked (group_name, topic, slot, due) where head = 1;

-- How much each group has parked. Kept by triggers, so that nobody has to count.
create table evenflow_lot (
    group_name text primary key,
    events integer not null,
    bytes integer not null
) without rowid;
insert into evenflow_lot select group_name, count(*), coalesce(sum(size), 0) from evenflow_parked group by group_name;

create trigger evenflow_parked_in after insert on evenflow_parked begin
    insert into evenflow_lot (group_name, events, bytes) values (new.group_name, 1, new.size)
    on conflict (group_name) do update set events = events + 1, bytes = bytes + excluded.bytes;
end;
create trigger evenflow_parked_out after delete on evenflow_parked begin
    update evenflow_lot set events = events - 1, bytes = bytes - old.size where group_name = old.group_name;
end;
create trigger evenflow_parked_size after update of size on evenflow_parked begin
    update evenflow_lot set bytes = bytes + new.size - old.size where group_name = new.group_name;
end;
create trigger evenflow_parked_renamed after update of group_name on evenflow_parked begin
    update evenflow_lot set events = events - 1, bytes = bytes - old.size where group_name = old.group_name;
    insert into evenflow_lot (group_name, events, bytes) values (new.group_name, 1, new.size)
    on conflict (group_name) do update set events = events + 1, bytes = bytes + excluded.bytes;
end;

-- The history of a parked event: one row for each time that it failed, the first five and the last fifteen. `attempt`
-- counts them. It goes with its event, by triggers.
create table evenflow_attempt (
    group_name text not null,
    topic text not null,
    lane text not null,
    generation integer not null,
    "offset" integer not null,
    attempt integer not null,
    at real not null,
    process text not null,             -- host:pid
    error_type text not null,
    error text not null,
    fingerprint text not null,         -- of the error: its type, where it arose, its text without numbers and ids
    primary key (group_name, topic, lane, generation, "offset", attempt)
) without rowid;

create trigger evenflow_attempt_bound after insert on evenflow_attempt when new.attempt > 20 begin
    delete from evenflow_attempt where group_name = new.group_name and topic = new.topic and lane = new.lane
        and generation = new.generation and "offset" = new."offset" and attempt > 5 and attempt <= new.attempt - 15;
end;
create trigger evenflow_attempt_out after delete on evenflow_parked when old.attempts > 0 or old.failed is not null begin
    delete from evenflow_attempt where group_name = old.group_name and topic = old.topic and lane = old.lane
        and generation = old.generation and "offset" = old."offset";
end;
create trigger evenflow_attempt_moved after update of group_name, lane, generation on evenflow_parked
when old.attempts > 0 or old.failed is not null begin
    update evenflow_attempt set group_name = new.group_name, lane = new.lane, generation = new.generation
    where group_name = old.group_name and topic = old.topic and lane = old.lane
        and generation = old.generation and "offset" = old."offset";
end;
