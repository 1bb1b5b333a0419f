-- Which images hold a popular library, as bits: what pages whose conditions are all common and hardly ever meet are made
-- of (docs/decisions/0016-library-bitmaps.md). Bits may be too many, never too few: each candidate is looked up.

-- Bit n of a row (the lowest bit of the first byte is 0) is the image with the id chunk * 16384 + n. The version '*'
-- stands for any. A missing row of a library and version that has others holds nothing.
create table library_bitmaps (
    library text collate "C" not null,
    version text collate "C" not null,
    chunk bigint not null,
    bits bytea storage plain not null check (octet_length(bits) = 2048),
    primary key (library, version, chunk)
);

-- What was recorded since the bitmaps were last brought up to date. An image of this log is a candidate of every page.
create table library_log (
    id bigint generated always as identity primary key,
    image_id bigint not null,
    libraries text[] not null,
    versions text[] not null
);

-- Where the search for libraries that have become popular stands, and how often it went round.
create table library_survey (
    only_row boolean primary key default true check (only_row),
    after_library text collate "C" not null default '',
    rounds integer not null default 0,
    surveyed_at timestamptz not null default now()
);
insert into library_survey default values;

-- A trigger, and not a part of the statement that records a build: nothing that writes these rows can forget it, not a
-- server of the version before either. As the owner: whose rows these are needn't have rights on the log.
create function log_libraries() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into library_log (image_id, libraries, versions)
    select i.id, array_agg(n.library), array_agg(n.version)
    from new_libraries n join images i on i.name = n.image_name group by i.id;
    return null;
end $$;
create trigger libraries_inserted after insert on image_libraries referencing new table as new_libraries
    for each statement execute function log_libraries();
create trigger libraries_updated after update on image_libraries referencing new table as new_libraries
    for each statement execute function log_libraries();

-- Many ids become names by the index alone.
alter table images drop constraint images_base_image_id_fkey;
alter table images drop constraint images_pkey;
alter table images add constraint images_pkey primary key (id) include (name);
alter table images add constraint images_base_image_id_fkey foreign key (base_image_id) references images;
