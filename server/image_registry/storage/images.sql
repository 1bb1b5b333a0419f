-- name: get
select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition
from images i where i.name = %(name)s

-- name: get_with_children
select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition,
    array(select c.name from images c where c.base_image_id = i.id order by c.name) as child_names
from images i where i.name = %(name)s

-- name: lock
select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition
from images i where i.name = %(name)s for update

-- name: lock_by_id
select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition
from images i where i.id = %(id)s for update

-- name: base_of
select b.id, b.name, b.role, b.status, b.python_version, b.platform_tag, b.base_image_id, b.definition
from images i join images b on b.id = i.base_image_id where i.id = %(id)s

-- name: lock_file
select lock from images where id = %(id)s

-- name: children
select c.name from images c where c.base_image_id = %(id)s order by c.name limit %(limit)s

-- Image and first job in one statement; no row: the name is taken.
-- name: create
with image as (
    insert into images (name, role, status, python_version, platform_tag, base_image_id, definition)
    values (%(name)s, %(role)s, 1, %(python_version)s, %(platform_tag)s, %(base_image_id)s, %(definition)s)
    on conflict (name) do nothing
    returning id, name, definition
)
insert into jobs (kind, priority, image_id, image_name, repository, definition)
select 1, %(priority)s, id, name, %(repository)s, definition from image
returning *, 0.0::float8 as running_seconds

-- name: start_rebuild
update images set status = 2, status_before_rebuild = status, updated_at = now() where id = %(id)s

-- name: end_cancelled
update images
set status = coalesce(status_before_rebuild, 4), status_before_rebuild = null, updated_at = now()
where id = %(id)s and status in (1, 2)

-- name: end_failed
update images set status = 4, status_before_rebuild = null, updated_at = now() where id = %(id)s and status in (1, 2)

-- Result and index rows in one statement: READY, its libraries findable, those it no longer has not.
-- name: end_ready
with image as (
    update images
    set status = 3, status_before_rebuild = null, updated_at = now(), platform_tag = %(platform_tag)s,
        definition = %(definition)s, digest = %(digest)s, lock = %(lock)s
    where id = %(id)s and status in (1, 2)
    returning name
), gone as (
    delete from image_libraries l using image
    where l.image_name = image.name and l.library = any (%(old_libraries)s) and not l.library = any (%(libraries)s)
)
insert into image_libraries (library, image_name, version, local)
select new.library, image.name, new.version, new.local
from image, unnest(%(libraries)s::text[], %(versions)s::text[], %(locals)s::text[]) as new (library, version, local)
on conflict (library, image_name) do update set version = excluded.version, local = excluded.local

-- name: mark_outdated_children
update images set status = 5, updated_at = now()
where base_image_id = %(id)s and status = 3 and platform_tag <> %(platform_tag)s

-- name: mark_outdated
update images set status = 5, updated_at = now() where status = 3 and platform_tag <> %(platform_tag)s

-- name: mark_one_outdated
update images set status = 5, updated_at = now() where id = %(id)s and status = 3

-- name: delete
with gone as (
    delete from image_libraries where image_name = %(name)s and library = any (%(libraries)s)
)
delete from images where id = %(id)s

-- name: registry
select id, token_secret, platform_tag from registry

-- name: set_platform_tag
update registry set platform_tag = %(platform_tag)s where platform_tag <> %(platform_tag)s
