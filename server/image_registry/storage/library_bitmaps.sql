-- Only one transaction at a time changes bitmaps.
-- name: lock
select pg_try_advisory_xact_lock(%(lock)s) as locked

-- Reading the lists of large libraries takes longer than what callers wait for, and the names of all images.
-- name: take_time
select set_config('statement_timeout', '10min', true), set_config('work_mem', '128MB', true)

-- name: log_is_long
select exists (select from library_log order by id offset %(least)s - 1 limit 1) as long

-- How many builds the log has, counted no further than `most`; for how long it has been as long as `least`; how often all
-- libraries were looked at.
-- name: lag
select (select count(*) from (select from library_log limit %(most)s) o) as builds,
    coalesce(extract(epoch from now() - (
        select logged_at from library_log order by id offset %(least)s - 1 limit 1
    )), 0)::float8 as overdue,
    rounds
from library_survey

-- Takes entries out of the log and returns the bits that are not set yet.
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
select n.library, n.version, n.chunk, array_agg(n.place) as places
from news n left join lateral (
    select get_bit(b.bits, n.place) as bit from library_bits b
    where b.library = n.library and b.version = n.version and b.chunk = n.chunk offset 0
) known on true
where known.bit is distinct from 1
    and exists (select from library_bits b where b.library = n.library and b.version = n.version offset 0)
group by n.library, n.version, n.chunk

-- Sets bits beside those that are set.
-- name: put
insert into library_bits (library, version, chunk, bits)
select p.library, p.version, p.chunk, ('x' || encode(p.bits, 'hex'))::bit(16384)
from unnest(%(libraries)s::text[], %(versions)s::text[], %(chunks)s::bigint[], %(bits)b::bytea[])
    as p (library, version, chunk, bits)
on conflict (library, version, chunk) do update set bits = library_bits.bits | excluded.bits

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
    select %(any)s as version
    union all
    select p.version from ({present_versions}) p where exists (
        select from image_libraries l where l.library = k.library and l.version = p.version
        order by l.image_name offset %(least)s limit 1
    )
) v
where not exists (select from library_bits b where b.library = k.library and b.version = v.version)

-- name: holders
select l.library, l.version, i.id / %(chunk)s as chunk, array_agg((i.id %% %(chunk)s)::integer) as places
from image_libraries l join images i on i.name = l.image_name
where l.library = any (%(libraries)s::text[]) group by l.library, l.version, i.id / %(chunk)s

-- Of the images of one chunk, how many hold the rarest of what is wanted, and how many all of it; null: can't be told. And
-- how many chunks there are.
-- name: together
select case when count(*) = cardinality(%(libraries)s::text[]) then bit_count(bit_and(b.bits)) end as together,
    min(bit_count(b.bits)) as rarest, max(c.chunks) as chunks
from (select max(id) / 16384 + 1 as chunks from images) c
    cross join unnest(%(libraries)s::text[], %(versions)s::text[]) as w (library, version)
    cross join lateral (
        select b.bits from library_bits b
        where b.library = w.library and b.version = w.version and b.chunk = c.chunks / 2 offset 0
    ) b

-- The images that the bitmaps of what is wanted have in common, by chunk, beside those of the log: as of one moment.
--
-- What stands for each wanted, by `number`, is the bitmaps of its versions if all have one (`exact`), else that of its
-- library (`spare`), which has more bits. How common it is can be seen from its first chunk, and the `most` that are
-- the rarest there will do.
-- name: common
with looked as (
    select w.number, w.library, w.version, w.spare, f.held
    from unnest(%(numbers)s::int8[], %(libraries)s::text[], %(versions)s::text[], %(spare)s::bool[])
        as w (number, library, version, spare)
        left join lateral (
            select bit_count(b.bits) as held from library_bits b
            where b.library = w.library and b.version = w.version order by b.chunk limit 1
        ) f on true
), judged as (
    select l.number, l.library,
        bool_and(l.held is not null) filter (where not l.spare) as exact,
        sum(l.held) filter (where not l.spare) as held,
        array_agg(l.version) filter (where not l.spare) as versions,
        max(l.held) filter (where l.spare) as spare_held
    from looked l group by l.number, l.library
), mapped as materialized (
    select number, library, exact, (case when exact then held else spare_held end)::int8 as held,
        case when exact then versions else array[%(any)s] end as versions
    from judged where exact or spare_held is not null
), rarest as materialized (
    select library, versions from mapped order by held limit %(most)s
)
select null::int8 as number, null::bool as exact, null::int8 as image_id,
    o.chunk, bit_count(bit_and(o.bits)) as held, bit_send(bit_and(o.bits)) as bits
from (
    select b.chunk, b.bits from rarest r cross join lateral (
        select b.chunk, b.bits from library_bits b where b.library = r.library and b.version = r.versions[1] offset 0
    ) b
    where cardinality(r.versions) = 1
    union all
    select b.chunk, b.bits from rarest r cross join lateral (
        select b.chunk, bit_or(b.bits) as bits from unnest(r.versions) as v (version) cross join lateral (
            select b.chunk, b.bits from library_bits b where b.library = r.library and b.version = v.version offset 0
        ) b
        group by b.chunk
    ) b
    where cardinality(r.versions) > 1
) o
group by o.chunk having count(*) = (select count(*) from rarest) and bit_count(bit_and(o.bits)) > 0
union all
select number, exact, null, null, held, null from mapped
union all
(select null, null, image_id, null, null, null from library_log limit %(logged)s)
