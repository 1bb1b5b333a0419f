-- Who may call: API keys. Who did it: creators of images and jobs, and the audit log.

-- A key itself is never kept: `hash` is SHA-256 of all of it, which is enough for 256 random bits (there is nothing to
-- guess, so nothing that a slow hash would slow down). `change` numbers every change in the order of commits: a
-- replica that asks for changes above the last one it saw misses none.
create table api_keys (
    id bigint generated always as identity primary key,
    prefix text collate "C" not null unique,
    hash bytea not null check (length(hash) = 32),
    role text not null check (role in ('member', 'admin', 'system')),
    name text not null default '',
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    change bigint not null unique
);
create table api_key_changes (
    only_row boolean primary key default true check (only_row),
    newest bigint not null
);
insert into api_key_changes (newest) values (0);

-- The row's lock is held until the commit: that is what makes `change` follow the order of commits.
create function number_key_change() returns trigger language plpgsql as $$
begin
    update api_key_changes set newest = newest + 1 returning newest into new.change;
    return new;
end $$;
create trigger api_key_inserted before insert on api_keys for each row execute function number_key_change();
create trigger api_key_changed before update of revoked_at, expires_at, role, hash, name on api_keys for each row
    execute function number_key_change();

-- '' is the service itself, or a caller of a deployment without keys.
alter table images add column creator text collate "C" not null default '';
alter table jobs add column creator text collate "C" not null default '';
create index images_by_creator on images (creator) where creator <> '';
create index jobs_unfinished_by_creator on jobs (creator) where creator <> '' and kind = 1 and status in (1, 2, 5, 7);

create table audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    who text not null,
    role text not null,
    what text not null,
    target text not null,
    result text not null,
    request_id text not null
);
create index audit_log_by_time on audit_log (at);

create function refuse_audit_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_log_append_only before update or delete or truncate on audit_log
    for each statement execute function refuse_audit_change();
