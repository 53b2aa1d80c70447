create table revenue_by_month (
    month text primary key,  -- as 1997-01
    orders bigint not null,
    cents bigint not null
);

create table revenue_by_customer (
    customer bigint primary key,
    orders bigint not null,
    cents bigint not null
);
