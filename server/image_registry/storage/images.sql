-- part: image
i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition

-- part: job
j.id, j.uuid, j.kind, j.image_id, j.image_name, j.repository, j.definition, j.status, j.termination_reason, j.attempt,
    j.faults, j.cancel_requested, j.progress, j.created_at, j.started_at, j.finished_at, j.agent_id, j.log_parts,
    j.creator, j.traceparent,
    0.0::float8 as running_seconds

-- name: get
select {image} from images i where i.name = %(name)s

-- name: get_with_children
select {image}, array(
    select c.name from images c where c.base_image_id = i.id order by c.name limit %(children)s
) as child_names
from images i where i.name = %(name)s

-- The key lock of a new child (foreign key) passes this lock: images can be created while their base is rebuilt.
-- name: lock
select {image} from images i where i.name = %(name)s for no key update

-- name: lock_by_id
select {image} from images i where i.id = %(id)s for no key update

-- name: lock_to_delete
select {image} from images i where i.name = %(name)s for update

-- name: children
select c.name from images c where c.base_image_id = %(id)s order by c.name limit %(limit)s

-- Image and first job in one statement. No row: the name is taken.
-- name: create
with image as (
    insert into images (name, role, status, python_version, platform_tag, base_image_id, definition, creator)
    values (%(name)s, %(role)s, 1, %(python_version)s, %(platform_tag)s, %(base_image_id)s, %(definition)s, %(creator)s)
    on conflict (name) do nothing
    returning id, name, definition, creator
)
insert into jobs as j (kind, priority, image_id, image_name, repository, definition, creator, needs_packages, traceparent)
select 1, %(priority)s, id, name, %(repository)s, definition, creator, %(needs_packages)s, %(traceparent)s from image
returning {job}

-- part: new_on_base
base as (
    select id from images where name = %(base)s and platform_tag = %(platform_tag)s and status <> 4
), image as (
    insert into images (name, role, status, python_version, platform_tag, base_image_id, definition, creator)
    select %(name)s, 2, 1, %(python_version)s, %(platform_tag)s, base.id, %(definition)s, %(creator)s from base
    on conflict (name) do nothing
    returning id, name, definition, creator
), j as (
    insert into jobs (kind, priority, image_id, image_name, repository, definition, creator, needs_packages, traceparent)
    select 1, %(priority)s, id, name, %(repository)s, definition, creator, %(needs_packages)s, %(traceparent)s from image
    returning *
)

-- part: base_and_job
select (select id from base) as base_id, {job} from (values (1)) as always left join j on true

-- The same for a user's image whose base is there at the current tag: all of a create in one round trip.
-- base_id null: it is not; id null: the name is taken.
-- name: create_on_current_base
with {new_on_base}
{base_and_job}

-- The same, remembered under the caller's id of the request. A known id is a unique violation: nothing is written.
-- name: create_once_on_current_base
with {new_on_base}, remembered as (
    insert into create_requests (creator, request_id, fingerprint, definition, job_uuid, created_at)
    select creator, %(request_id)s, %(fingerprint)s, definition, uuid, created_at from j
)
{base_and_job}

-- Many of them, with ids ('': none) or without; each name once, and each id of a caller's. First names are inserted in
-- order, then ids (the sort is after all names): two such statements never wait for each other.
-- name: create_several
with new as (
    select * from unnest(
        %(names)s::text[], %(python_versions)s::text[], %(bases)s::text[], %(repositories)s::text[],
        %(creators)s::text[], %(needs_packages)s::boolean[], %(traceparents)s::text[], %(definitions)b::bytea[],
        %(request_ids)s::text[], %(fingerprints)b::bytea[]
    ) as new (
        name, python_version, base, repository, creator, needs_packages, traceparent, definition, request_id, fingerprint
    )
), base as (
    select id, name from images
    where name = any (%(bases)s::text[]) and platform_tag = %(platform_tag)s and status <> 4
), image as (
    insert into images (name, role, status, python_version, platform_tag, base_image_id, definition, creator)
    select new.name, 2, 1, new.python_version, %(platform_tag)s, base.id, new.definition, new.creator
    from new join base on base.name = new.base order by new.name collate "C"
    on conflict (name) do nothing
    returning id, name, definition, creator
), j as (
    insert into jobs (kind, priority, image_id, image_name, repository, definition, creator, needs_packages, traceparent)
    select 1, %(priority)s, image.id, image.name, new.repository, image.definition, image.creator,
        new.needs_packages, new.traceparent
    from image join new on new.name = image.name
    returning image_name, uuid, created_at
), remembered as (
    insert into create_requests (creator, request_id, fingerprint, definition, job_uuid, created_at)
    select new.creator, new.request_id, new.fingerprint, new.definition, j.uuid, j.created_at
    from j join new on new.name = j.image_name
    where new.request_id <> '' order by new.creator collate "C", new.request_id collate "C"
)
select new.name, base.id is not null as has_base, j.uuid, j.created_at
from new left join base on base.name = new.base left join j on j.image_name = new.name

-- name: build_lock
select digest, lock, base_digest from images where name = %(name)s

-- name: start_rebuild
update images set status = 2, status_before_rebuild = status, next_definition = null, updated_at = now()
where id = %(id)s and status in (3, 4, 5)
returning id

-- What a system image is to become once the build under way is over.
-- name: set_next_definition
update images set next_definition = %(definition)s where id = %(id)s and status in (1, 2)

-- name: next_definition
select next_definition from images where id = %(id)s

-- name: end_cancelled
update images set status = coalesce(status_before_rebuild, 4), status_before_rebuild = null, updated_at = now()
where id = %(id)s and status in (1, 2)

-- name: end_failed
update images set status = 4, status_before_rebuild = null, updated_at = now() where id = %(id)s and status in (1, 2)

-- Result and index rows in one statement: READY, its libraries findable, those it no longer has not.
-- name: end_ready
with image as (
    update images
    set status = 3, status_before_rebuild = null, updated_at = now(), platform_tag = %(platform_tag)s,
        definition = %(definition)s, digest = %(digest)s, lock = %(lock)s,
        base_digest = %(base_digest)s, library_count = %(library_count)s
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

-- An image is behind when it is READY at a tag that is not the newest deployment's, or not its READY base's.
-- The first of these statements looks at one image, the others find some at a time by index.
-- name: outdate_one
update images i set status = 5, updated_at = now()
where i.id = %(id)s and i.status = 3 and (
    exists (select from registry r where r.platform_tag <> '' and r.platform_tag <> i.platform_tag)
    or exists (
        select from images b where b.id = i.base_image_id and b.status = 3 and b.platform_tag <> i.platform_tag
    )
)

-- name: outdate_by_tag
update images set status = 5, updated_at = now()
where id in (
    select i.id from registry r join images i on i.platform_tag < r.platform_tag or i.platform_tag > r.platform_tag
    where i.status = 3 and r.platform_tag <> ''
    order by i.id limit %(limit)s for no key update of i
)
returning id

-- name: outdate_children
update images set status = 5, updated_at = now()
where id in (
    select c.id from images b join images c on c.base_image_id = b.id
    where b.role = 1 and b.status = 3
        and c.status = 3 and (c.platform_tag < b.platform_tag or c.platform_tag > b.platform_tag)
    order by c.id limit %(limit)s for no key update of c
)
returning id

-- name: delete
with gone as (
    delete from image_libraries where image_name = %(name)s and library = any (%(libraries)s)
)
delete from images where id = %(id)s

-- Rows from before there were keys (migration 0014): a trigger sets them.
-- name: set_definition_keys
update images set definition = definition
where id in (
    select id from images where definition_key is null order by id limit %(limit)s for no key update skip locked
)

-- What system images were built on last.
-- name: built_on
select name, definition, base_digest from images where role = 1 and base_digest <> '' order by name

-- name: registry
select id, token_secret from registry

-- Until the transaction ends no deployment becomes the newest: whoever ends a build either sees its tag, or is seen.
-- name: hold_platform_tag
select platform_tag from registry for share

-- name: set_platform_tag
update registry set platform_tag = %(platform_tag)s where platform_tag <> %(platform_tag)s
