create table charges (order_id text primary key, customer text not null, total real not null) without rowid;
create table totals (customer text primary key, orders integer not null, total real not null) without rowid;
