-- What a person has asked for that takes time: a redrive or a discard of many. Carried out by the process of the
-- service that leads (it owns the relay), batch by batch; another goes on where it was when that one ends.
create table evenflow_operation (
    id integer primary key autoincrement,
    kind text not null,                -- redrive | discard
    group_name text not null,
    filter text not null,              -- JSON, as it was asked
    plan text not null,                -- JSON: rate, canary, stop rule, batch
    state text not null,               -- gathering | running | paused | done | stopped | cancelled
    reason text not null default '',   -- why it was asked
    outcome text not null default '',  -- why it has stopped, or is paused
    who text not null,
    at real not null,
    changed real not null,
    total integer not null default 0,  -- lanes that were found when it was asked
    asked integer not null default 0,  -- of them, whose turn has come: places below this one
    passed integer not null default 0,
    failed integer not null default 0,
    gone integer not null default 0,   -- were no dead letters any more when their turn came, or not decided by it
    credit real not null default 1,    -- lanes that its rate allows, at the time `credited`
    credited real not null,
    open integer not null default 1    -- 0: nothing is left to do for it; 2: only to tidy up
);
create index evenflow_operation_left on evenflow_operation (id) where open > 0;

-- The set as it was seen when the operation was asked: what fails later is not in it. `seen` tells whether the dead
-- letter is the same still. Those that have passed or are gone are removed.
create table evenflow_operation_item (
    operation integer not null,
    place integer not null,
    topic text not null,
    lane text not null,
    generation integer not null,
    "offset" integer not null,
    seen text not null,
    state text not null default 'waiting',   -- waiting | asked | failed
    primary key (operation, place)
) without rowid;
create index evenflow_operation_asked on evenflow_operation_item (operation, place) where state = 'asked';

-- Dead letters in the order in which they are gathered and listed.
create index evenflow_parked_letters on evenflow_parked (group_name, topic, lane) where head = 1 and due is null;
