-- Definitions of up to 8 kB stand in their rows as they are. Compressed, as Postgres does above 2 kB by itself, a page of
-- 1,000 images costs half as much again. Rows that are there already change when they are written next.
alter table images alter column definition set storage main;
alter table images set (toast_tuple_target = 8160);
