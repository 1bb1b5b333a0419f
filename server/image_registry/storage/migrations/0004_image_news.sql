-- Tells watchers (`registry/image_watch.py`) which image has another status, or is gone.
create function notify_watchers() returns trigger language plpgsql as $$
begin
    perform pg_notify('image_registry_images', old.name);
    return null;
end $$;
create trigger image_changed after update of status on images for each row
    when (old.status <> new.status) execute function notify_watchers();
create trigger image_deleted after delete on images for each row execute function notify_watchers();
