-- What a build needs of its worker, and which workers there are with what they can: a build goes to nobody who can't do
-- it, and one that nobody can do says so.
alter table jobs add column needs_packages boolean not null default false;
create index jobs_waiting_for_packages on jobs (id) where needs_packages and status in (5, 7);

-- `seen_at` is renewed while a worker runs; rows of those that are gone stay for a day.
create table workers (
    agent_id uuid primary key,
    packages boolean not null,
    seen_at timestamptz not null default now()
);
