create table orders (
    seq integer primary key,  -- the order in which they came
    order_id integer not null,
    customer integer not null,
    day date not null,
    title integer not null,
    cds integer not null,
    cents integer not null,
    state text not null default 'placed' check (state in ('placed', 'paid', 'cancelled')),
    reason text not null default ''
);

create index orders_by_id on orders (order_id);
