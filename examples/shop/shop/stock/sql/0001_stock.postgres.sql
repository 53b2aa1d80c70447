create table titles (
    title bigint primary key,
    stocked bigint not null,
    free bigint not null check (free between 0 and stocked)
);

create table reservations (
    seq bigint generated always as identity primary key,  -- the order in which they came
    order_id bigint not null,
    customer bigint not null,
    title bigint not null,
    cds bigint not null,
    state text not null default 'held' check (state in ('held', 'released'))
);

create index reservations_by_order on reservations (order_id);

with recursive catalogue(title) as (select 1 union all select title + 1 from catalogue where title < 500)
insert into titles select title, 2000, 2000 from catalogue;
