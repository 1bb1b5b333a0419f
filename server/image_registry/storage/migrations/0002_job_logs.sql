-- What builds wrote, in parts as the worker sent them. `log_lost` counts the bytes left out when a log was full.
-- An expired log has no parts any more.

create table job_logs (
    job_id bigint not null references jobs,
    part integer not null,
    text text not null,
    primary key (job_id, part)
);

alter table jobs
    add column log_parts integer not null default 0,
    add column log_bytes integer not null default 0,
    add column log_lost bigint not null default 0;
create index jobs_with_log on jobs (finished_at) where log_parts > 0;
