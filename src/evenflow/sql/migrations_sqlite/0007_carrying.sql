-- Parked events that were moved to a file: each may come back once, as it was, to the place that it had.
create table evenflow_carried (
    group_name text not null,
    topic text not null,
    lane text not null,
    generation integer not null,
    "offset" integer not null,
    partition integer not null,
    log text not null,                 -- incarnation that its place is in
    digest blob not null,              -- of the envelope, and of the original one
    read_generation integer not null,  -- where the group stood in its partition then: what is of its key from there on
    read_partition integer not null,   --   was not held up by it
    read_to integer not null,
    at real not null,
    primary key (group_name, topic, lane, generation, "offset")
) without rowid;
