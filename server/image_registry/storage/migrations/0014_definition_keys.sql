-- compatible from: 13
-- What tells one definition from any other: its SHA-256, and its length (4 bytes). By it a server knows images that it has
-- shown before (docs/decisions/0018-kept-images.md).
-- A trigger, for whatever writes a row: this release, the one before, a copy with triggers off (`always`). So the column
-- holds nothing (rows from before this step, until workers have come to them) or what belongs to the row's definition.
alter table images add column definition_key bytea;
create function set_definition_key() returns trigger language plpgsql as $$
begin
    new.definition_key := sha256(new.definition) || int4send(octet_length(new.definition));
    return new;
end $$;
create trigger definition_written before insert or update of definition, definition_key on images
    for each row execute function set_definition_key();
alter table images enable always trigger definition_written;

-- The rows that have none yet.
create index images_without_key on images (id) where definition_key is null;

-- What a page shows of an image, but for the definition itself, is read off the index. A change of status writes all
-- indexes anyway, since some are for READY images alone.
alter table images drop constraint images_name_key;
alter table images add constraint images_name_key unique (name) include (id, status, definition_key);
