-- Who has paused a group, or one partition of it. Kept until it is resumed.
create table evenflow_pause (
    group_name text not null,
    topic text not null,               -- '' with generation 0 and partition -1: the whole group
    generation integer not null,
    partition integer not null,
    at real not null,
    who text not null,
    reason text not null,
    primary key (group_name, topic, generation, partition)
) without rowid;

-- What outlives a name: ids of the events that the group publishes derive from `derives`, as before it was renamed;
-- `fence` is the highest that was given out under the name, so that none comes back with a group of the same name.
create table evenflow_lineage (
    group_name text primary key,
    derives text not null,
    fence integer not null
) without rowid;
