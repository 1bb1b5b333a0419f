-- Images, their libraries, jobs, and the rules of both lives.
-- Enum values are the published wire numbers (protos/ri/api/imageregistry).

create table status_transitions (
    machine text not null check (machine in ('image', 'job')),
    from_status smallint not null,
    to_status smallint not null,
    primary key (machine, from_status, to_status)
);

-- Equal to server/image_registry/lifecycle.py; a test compares them.
insert into status_transitions values
    ('image', 1, 3), ('image', 1, 4),
    ('image', 3, 5), ('image', 3, 2), ('image', 5, 2), ('image', 4, 2),
    ('image', 2, 3), ('image', 2, 4), ('image', 2, 5),
    ('job', 5, 1), ('job', 5, 6), ('job', 5, 4), ('job', 5, 3),
    ('job', 1, 2), ('job', 1, 5), ('job', 1, 7), ('job', 1, 4), ('job', 1, 3), ('job', 1, 6),
    ('job', 2, 5), ('job', 2, 7), ('job', 2, 4), ('job', 2, 3), ('job', 2, 6),
    ('job', 7, 1), ('job', 7, 4), ('job', 7, 3), ('job', 7, 6);

create function refuse_forbidden_transition() returns trigger language plpgsql as $$
begin
    perform from status_transitions
        where machine = tg_argv[0] and from_status = old.status and to_status = new.status;
    if not found then
        raise exception '% %: status % can''t follow %', tg_argv[0], old.id, new.status, old.status
            using errcode = 'check_violation', constraint = 'status_transition';
    end if;
    return new;
end $$;

-- What replicas share beside the rows: the secret that signs page tokens, and the platform's newest tag.
create table registry (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    token_secret bytea not null,
    platform_tag text collate "C" not null default ''
);
insert into registry (token_secret)
    values (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'utf8')));

-- `definition` is the encoded message ManagedImage without status and children: written by builds only, read as it is.
-- `next_definition` is what a system image is to become once the build under way, of an older tag, is over.
create table images (
    id bigint generated always as identity primary key,
    name text collate "C" not null unique,
    role smallint not null check (role in (1, 2)),
    status smallint not null check (status between 1 and 5),
    status_before_rebuild smallint check (status_before_rebuild in (3, 4, 5)),
    python_version text not null,
    platform_tag text collate "C" not null,
    base_image_id bigint references images,
    digest text not null default '',
    lock text not null default '',
    definition bytea not null,
    next_definition bytea,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint user_image_has_base check ((role = 2) = (base_image_id is not null)),
    constraint rebuild_knows_where_from check ((status = 2) = (status_before_rebuild is not null)),
    constraint only_system_images_follow_up check (next_definition is null or role = 1)
);
create index images_by_base on images (base_image_id, name) where base_image_id is not null;
create index images_ready_by_tag on images (platform_tag) where status = 3;
create index images_ready_by_base on images (base_image_id, platform_tag) where status = 3;
create trigger image_transition before update of status on images for each row
    when (old.status <> new.status) execute function refuse_forbidden_transition('image');

-- Finds images by library. `version` is the public part, `local` the local part of a PEP 440 version, both normalised.
-- Rows live and die with the recorded libraries in `definition`, in the same statement.
create table image_libraries (
    library text collate "C" not null,
    image_name text collate "C" not null,
    version text collate "C" not null,
    local text collate "C" not null default '',
    primary key (library, image_name) include (version, local)
);
create index image_libraries_by_version on image_libraries (library, version, image_name);

-- One row is one job: its API resource, its place in the queue and its lease at once.
-- `definition` is what a build is to make; it becomes the image's own when the build succeeds.
create table jobs (
    id bigint generated always as identity primary key,
    uuid uuid not null unique default gen_random_uuid(),
    kind smallint not null check (kind in (1, 2)),
    priority smallint not null default 0,
    image_id bigint not null,
    image_name text collate "C" not null,
    repository text not null,
    definition bytea,
    status smallint not null default 5 check (status between 1 and 7),
    termination_reason smallint not null default 1 check (termination_reason between 1 and 5),
    attempt integer not null default 0,
    faults integer not null default 0,
    run_after timestamptz not null default now(),
    cancel_requested boolean not null default false,
    agent_id uuid,
    lease_expires_at timestamptz,
    progress text not null default '',
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    constraint build_has_definition check ((kind = 1) = (definition is not null)),
    constraint finished_has_reason check ((status in (3, 4, 6)) = (termination_reason <> 1)),
    constraint finished_has_time check ((status in (3, 4, 6)) = (finished_at is not null)),
    constraint active_has_lease check ((status in (1, 2)) = (lease_expires_at is not null))
);
create unique index jobs_one_build_per_image on jobs (image_id) where kind = 1 and status in (1, 2, 5, 7);
create unique index jobs_one_active_per_repository on jobs (repository) where status in (1, 2);
create index jobs_unfinished_by_repository on jobs (repository, id) where status in (1, 2, 5, 7);
create index jobs_claimable on jobs (priority, id) where status in (5, 7);
create index jobs_leases on jobs (lease_expires_at) where status in (1, 2);
create index jobs_by_image on jobs (image_name, id);
create index jobs_by_status on jobs (status, id) where kind = 1;
create trigger job_transition before update of status on jobs for each row
    when (old.status <> new.status) execute function refuse_forbidden_transition('job');

-- No image that is being built is without its job, no build is under way for an image that is not being built.
-- Judged when the transaction commits; a deleted image may leave a build that is still to be stopped.
create function check_build_of(life bigint) returns void language plpgsql as $$
declare
    building boolean := (select status in (1, 2) from images where id = life);
    has_build boolean := exists (select from jobs where image_id = life and kind = 1 and status in (1, 2, 5, 7));
begin
    if building <> has_build then
        raise exception 'image %: building is %, an unfinished build is %', life, building, has_build
            using errcode = 'check_violation', constraint = 'building_has_job';
    end if;
end $$;
create function check_image() returns trigger language plpgsql as $$
begin
    perform check_build_of(new.id);
    return null;
end $$;
create function check_job() returns trigger language plpgsql as $$
begin
    perform check_build_of(new.image_id);
    return null;
end $$;
create constraint trigger new_image_has_build after insert on images deferrable initially deferred
    for each row execute function check_image();
create constraint trigger building_has_build after update of status on images deferrable initially deferred
    for each row when ((old.status in (1, 2)) <> (new.status in (1, 2))) execute function check_image();
create constraint trigger new_build_has_image after insert on jobs deferrable initially deferred
    for each row when (new.kind = 1) execute function check_job();
create constraint trigger build_has_image after update of status on jobs deferrable initially deferred
    for each row when (new.kind = 1 and (old.status in (3, 4, 6)) <> (new.status in (3, 4, 6)))
    execute function check_job();

-- Wakes workers when an unfinished job changed hands or ended, so that another may have become claimable, and when a
-- running one is to be cancelled. New jobs are announced by the server (`Database.announce`).
create function notify_workers() returns trigger language plpgsql as $$
begin
    perform pg_notify('image_registry_jobs', case when new.cancel_requested then 'cancel:' || new.id else 'look' end);
    return null;
end $$;
create trigger job_changed after update of status, cancel_requested on jobs for each row
    when ((new.status <> old.status and new.status not in (1, 2)) or (new.cancel_requested and not old.cancel_requested))
    execute function notify_workers();
