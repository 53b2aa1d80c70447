create table charges (
    seq bigint generated always as identity primary key,  -- the order in which they came
    order_id bigint not null,
    customer bigint not null,
    cents bigint not null,
    state text not null check (state in ('taken', 'declined', 'pending', 'expired', 'waived')),
    charge text not null  -- the provider's name for it; empty where it was not asked
);

create index charges_by_order on charges (order_id);

create table invoices (
    seq bigint generated always as identity primary key,
    number text not null,
    order_id bigint not null,
    customer bigint not null,
    day date not null,
    cents bigint not null,
    pdf bytea  -- drawn later, and for large invoices only
);

create index invoices_by_order on invoices (order_id);
