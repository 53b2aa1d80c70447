-- Counters and effects of every group; effects are only ever added to.
create table counters (grp text not null, key text not null, n integer not null, primary key (grp, key));
create table effects (
    id integer primary key autoincrement,
    grp text not null,
    key text not null,
    seq integer not null,      -- the per-key counter of the group, drawn in the same transaction
    uid text not null,         -- the event that did it
    pid integer not null
);

-- Of the service that publishes in transactions: the numbers of its keys, and what it has committed.
create table sequences (key text primary key, n integer not null);
create table placed (id integer primary key autoincrement, key text not null, uid text not null);
