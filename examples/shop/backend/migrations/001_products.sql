create table products (
  id serial primary key,
  name text not null unique,
  cents integer not null check (cents > 0)
);
insert into products (name, cents) values ('Lantern', 2400), ('Tent peg', 150), ('Enamel mug', 900);
