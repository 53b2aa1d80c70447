create table titles (
    title integer primary key,
    stocked integer not null,
    free integer not null check (free between 0 and stocked)
);

create table reservations (
    seq integer primary key,  -- the order in which they came
    order_id integer not null,
    customer integer not null,
    title integer not null,
    cds integer not null,
    state text not null default 'held' check (state in ('held', 'released'))
);

create index reservations_by_order on reservations (order_id);

with recursive catalogue(title) as (select 1 union all select title + 1 from catalogue where title < 500)
insert into titles select title, 2000, 2000 from catalogue;
