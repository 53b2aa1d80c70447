create table taken (place bigint generated always as identity primary key, key text not null, number bigint not null);
create table sent (key text primary key, number bigint not null);
