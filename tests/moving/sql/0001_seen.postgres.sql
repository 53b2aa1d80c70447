create table seen (place bigint generated always as identity primary key, reader text not null, key text not null, number bigint not null);
create table sent (key text primary key, number bigint not null);
