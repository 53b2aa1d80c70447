-- Counters and effects of every group; effects are only ever added to.
create table counters (grp text not null, key text not null, n integer not null, primary key (grp, key));
create table effects (
    id integer primary key autoincrement,
    grp text not null,
    key text not null,
    seq integer not null,      -- the per-key counter of the group, drawn in the same transaction
    uid text not null,         -- the event that did it
    pid integer not null,
    epoch integer not null default 0   -- of the wall clock: what is in order is so within one
);

-- Of the service that publishes in transactions: the numbers of its keys, and what it has committed.
create table sequences (key text primary key, n integer not null);
create table placed (id integer primary key autoincrement, key text not null, uid text not null);

-- What schedules have run: for which time, for how many more before it, and whether a person has asked for it.
create table runs (
    id integer primary key autoincrement,
    name text not null,
    due real not null,
    missed integer not null,
    manual integer not null,
    epoch integer not null,            -- of the wall clock
    pid integer not null
);
