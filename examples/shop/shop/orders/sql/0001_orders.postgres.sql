create table orders (
    seq bigint generated always as identity primary key,  -- the order in which they came
    order_id bigint not null,
    customer bigint not null,
    day date not null,
    title bigint not null,
    cds bigint not null,
    cents bigint not null,
    state text not null default 'placed' check (state in ('placed', 'paid', 'cancelled')),
    reason text not null default ''
);

create index orders_by_id on orders (order_id);
