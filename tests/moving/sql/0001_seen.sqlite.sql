create table seen (place integer primary key autoincrement, reader text not null, key text not null, number integer not null);
create table sent (key text primary key, number integer not null);
