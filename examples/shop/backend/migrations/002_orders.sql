create table orders (
  id serial primary key,
  product_id integer not null references products (id),
  quantity integer not null check (quantity between 1 and 99),
  state text not null default 'new' check (state in ('new', 'done')),
  created timestamptz not null default now()
);
create index orders_new on orders (id) where state = 'new';
