-- Only one transaction at a time changes bitmaps.
-- name: lock
select pg_try_advisory_xact_lock(%(lock)s) as locked

-- Reading the lists of large libraries takes longer than what callers wait for, and the names of all images.
-- name: take_time
select set_config('statement_timeout', '10min', true), set_config('work_mem', '128MB', true)

-- name: log_is_long
select exists (select from library_log order by id offset %(least)s - 1 limit 1) as long

-- Takes entries out of the log and returns the bits that are not set yet; null: a chunk that is not there yet.
-- `offset 0` keeps a look-up what it is: without it the planner may make a join of whole tables of it.
-- name: take
with taken as (
    delete from library_log where id in (select id from library_log order by id limit %(limit)s)
    returning image_id, libraries, versions
), news as (
    select distinct k.library, v.version, t.image_id / %(chunk)s as chunk, (t.image_id %% %(chunk)s)::integer as place
    from taken t cross join lateral unnest(t.libraries, t.versions) as k (library, version)
        cross join lateral (values (k.version), (%(any)s)) as v (version)
)
select n.library, n.version, n.chunk, array_agg(n.place) as places, b.bits
from news n left join lateral (
    select o.bits from library_bitmaps o where o.library = n.library and o.version = n.version and o.chunk = n.chunk
    offset 0
) b on true
where (b.bits is null or get_bit(b.bits, n.place) = 0)
    and exists (select from library_bitmaps o where o.library = n.library and o.version = n.version offset 0)
group by n.library, n.version, n.chunk, b.bits

-- name: put
insert into library_bitmaps (library, version, chunk, bits)
select * from unnest(%(libraries)s::text[], %(versions)s::text[], %(chunks)s::bigint[], %(bits)b::bytea[])
on conflict (library, version, chunk) do update set bits = excluded.bits

-- Nothing: the last look is not long ago, and all libraries were looked at once.
-- name: survey
select after_library, rounds from library_survey
where rounds = 0 or surveyed_at < now() - make_interval(secs => %(pause)s)

-- name: surveyed
update library_survey set after_library = %(after)s, rounds = rounds + %(round)s, surveyed_at = now()

-- The next libraries in order, read off the index one by one, and whether more images than `least` hold them.
-- name: next_libraries
with recursive found as (
    (
        select l.library, 1 as number from image_libraries l where l.library > %(after)s
        order by l.library limit 1
    )
    union all
    select (
        select l.library from image_libraries l where l.library > found.library order by l.library limit 1
    ), number + 1
    from found where found.library is not null and number < %(slice)s
)
select f.library, exists (
    select from image_libraries l where l.library = f.library order by l.image_name offset %(least)s limit 1
) as popular
from found f where f.library is not null order by f.number

-- Of popular libraries what has no bitmap: the library itself, and its versions that more images than `least` hold.
-- name: unmapped
select k.library, v.version
from unnest(%(libraries)s::text[]) as k (library) cross join lateral (
    with recursive found as (
        (select l.version from image_libraries l where l.library = k.library order by l.version limit 1)
        union all
        select (
            select l.version from image_libraries l
            where l.library = k.library and l.version > found.version order by l.version limit 1
        ) from found where found.version is not null
    )
    select %(any)s as version
    union all
    select f.version from found f where f.version is not null and exists (
        select from image_libraries l where l.library = k.library and l.version = f.version
        order by l.image_name offset %(least)s limit 1
    )
) v
where not exists (select from library_bitmaps b where b.library = k.library and b.version = v.version)

-- name: holders
select l.library, l.version, i.id / %(chunk)s as chunk, array_agg((i.id %% %(chunk)s)::integer) as places
from image_libraries l join images i on i.name = l.image_name
where l.library = any (%(libraries)s::text[]) group by l.library, l.version, i.id / %(chunk)s

-- Bitmaps and the images of the log (under the number 0) as of one moment.
-- name: bitmaps
select k.number, b.chunk, b.bits
from unnest(%(libraries)s::text[], %(versions)s::text[]) with ordinality as k (library, version, number)
    cross join lateral (
        select o.chunk, o.bits from library_bitmaps o where o.library = k.library and o.version = k.version offset 0
    ) b
union all
(select 0, image_id, null from library_log limit %(logged)s)
