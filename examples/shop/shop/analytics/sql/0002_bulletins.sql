create table bulletins (
    seq integer primary key,  -- the order in which they came
    due timestamp not null,
    orders integer not null,
    cents integer not null
);
