create table charges (
    seq integer primary key,  -- the order in which they came
    order_id integer not null,
    customer integer not null,
    cents integer not null,
    state text not null check (state in ('taken', 'declined', 'pending', 'expired', 'waived')),
    charge text not null  -- the provider's name for it; empty where it was not asked
);

create index charges_by_order on charges (order_id);

create table invoices (
    seq integer primary key,
    number text not null,
    order_id integer not null,
    customer integer not null,
    day date not null,
    cents integer not null,
    pdf blob  -- drawn later, and for large invoices only
);

create index invoices_by_order on invoices (order_id);
