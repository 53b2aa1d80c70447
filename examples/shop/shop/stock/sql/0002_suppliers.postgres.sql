-- What is sold of some titles is ordered again from their supplier at once.
alter table titles add column supplier text;
update titles set supplier = 'Sunset Imports' where title % 25 = 0;

create table restocks (
    seq bigint generated always as identity primary key,  -- the order in which they came
    order_id bigint not null,  -- the customer's order that took the CDs
    title bigint not null,
    cds bigint not null,
    delivery text not null  -- the supplier's name for it
);
