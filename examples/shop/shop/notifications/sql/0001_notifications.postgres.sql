create table customers (
    customer bigint primary key,
    first_order bigint not null
);

create table mails (
    seq bigint generated always as identity primary key,  -- the order in which the mail server took them
    mail_id text not null,
    order_id bigint not null,
    customer bigint not null
);
