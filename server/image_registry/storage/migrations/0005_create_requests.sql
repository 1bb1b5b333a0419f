-- First answers to creates that carried an id of their caller's, for a day: who repeats such a create gets the answer
-- again. `fingerprint` is the SHA-256 of what was asked; `definition`, `job_uuid` and `created_at` make up the answer,
-- also after image and job have changed or gone.
create table create_requests (
    creator text collate "C" not null,
    request_id text collate "C" not null,
    fingerprint bytea not null check (length(fingerprint) = 32),
    definition bytea not null,
    job_uuid uuid not null,
    created_at timestamptz not null default now(),
    primary key (creator, request_id)
);
create index create_requests_by_time on create_requests (created_at);
