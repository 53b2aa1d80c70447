create table revenue_by_month (
    month text primary key,  -- as 1997-01
    orders integer not null,
    cents integer not null
) without rowid;

create table revenue_by_customer (
    customer integer primary key,
    orders integer not null,
    cents integer not null
);
