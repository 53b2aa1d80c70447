create table charges (order_id text primary key, customer text not null, total double precision not null);
create table totals (customer text primary key, orders integer not null, total double precision not null);
