create table members (
    email text primary key,
    name text not null
) strict;

create table signups_per_day (
    day date primary key,
    total integer not null
) without rowid;
