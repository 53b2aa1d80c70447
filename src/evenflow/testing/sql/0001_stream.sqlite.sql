create table taken (place integer primary key autoincrement, key text not null, number integer not null);
create table sent (key text primary key, number integer not null);
