-- As on SQLite. Of one key and group, whoever writes an effect holds the row of its counter or its group's position.
create table counters (grp text not null, key text not null, n bigint not null, primary key (grp, key));
create table effects (
    id bigint generated always as identity primary key,
    grp text not null,
    key text not null,
    seq bigint not null,
    uid text not null,
    pid bigint not null,
    epoch bigint not null default 0
);

create table sequences (key text primary key, n bigint not null);
create table placed (id bigint generated always as identity primary key, key text not null, uid text not null);

create table runs (
    id bigint generated always as identity primary key,
    name text not null,
    due float8 not null,
    missed bigint not null,
    manual boolean not null,
    epoch bigint not null,
    pid bigint not null
);
