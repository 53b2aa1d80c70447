create table customers (
    customer integer primary key,
    first_order integer not null
);

create table mails (
    seq integer primary key,  -- the order in which the mail server took them
    mail_id text not null,
    order_id integer not null,
    customer integer not null
);
