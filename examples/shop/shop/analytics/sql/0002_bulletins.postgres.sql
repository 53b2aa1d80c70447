create table bulletins (
    seq bigint generated always as identity primary key,  -- the order in which they came
    due timestamptz not null,
    orders bigint not null,
    cents bigint not null
);
