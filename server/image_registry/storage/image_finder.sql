-- Each wanted key with the versions that fit (null: any); `exact` also binds the local part, `1.0+cu118`. Rarest first.
-- part: wanted
wanted as materialized (
    select w.number, w.key, string_to_array(w.versions, ' ') as versions, string_to_array(w.exact, ' ') as exact
    from unnest(%(keys)s::text[], %(versions)s::text[], %(exact)s::text[])
        with ordinality as w (key, versions, exact, number)
)

-- The names of images that meet the wanted `w`.
-- part: holders
select l.image_name from image_libraries l where w.versions is null and l.library = w.key
union all
select l.image_name from unnest(w.versions) as v (version)
    join image_libraries l on l.library = w.key and l.version = v.version
    where w.exact is null or l.version || '+' || l.local = any (w.exact)

-- `offset 0` keeps a look-up what it is: without it the planner may make a join of it.
-- part: meets_all
not exists (
    select from wanted w where not exists (
        select from image_libraries l
        where l.library = w.key and l.image_name = c.name
            and (w.versions is null or l.version = any (w.versions))
            and (w.exact is null or l.version || '+' || l.local = any (w.exact))
        offset 0
    )
)

-- part: usable
i.status = 3 and (%(python_version)s = '' or i.python_version = %(python_version)s)

-- part: the_best
order by library_count, updated_at desc, name limit %(limit)s

-- part: shown
select i.definition, i.status from best b join images i on i.name = b.name
where i.status = 3 order by b.library_count, b.updated_at desc, b.name

-- The distinct versions of libraries, read off the index one by one: there are few, however many images hold them.
-- name: versions
select k.key, v.version
from unnest(%(keys)s::text[]) as k (key) cross join lateral (
    with recursive found as (
        (select l.version from image_libraries l where l.library = k.key order by l.version limit 1)
        union all
        select (
            select l.version from image_libraries l
            where l.library = k.key and l.version > found.version order by l.version limit 1
        ) from found where found.version is not null
    )
    select version from found where version is not null
) v

-- name: local_versions
select distinct l.library as key, l.version, l.local from image_libraries l where l.library = any (%(keys)s)

-- How many images meet each of the wanted, counted no further than `enough`.
-- name: holders
with {wanted}
select w.number, (select count(*) from (select from ({holders}) h limit %(enough)s) as counted) as holders
from wanted w

-- From the list of the rarest, when it is short.
-- name: from_list
with {wanted}, candidates as materialized (
    select h.image_name as name from wanted w cross join lateral ({holders}) h where w.number = 1
), best as (
    select i.name, i.library_count, i.updated_at from candidates c join images i on i.name = c.name
    where {usable} and {meets_all}
    {the_best}
)
{shown}

-- In the order of the best, when all that is wanted is common: the first hits are the answer. The walk is bounded.
-- name: walked
with {wanted}, best as (
    select c.name, c.library_count, c.updated_at from (
        select i.name, i.library_count, i.updated_at from images i
        where {usable} and i.library_count >= %(least)s
        order by i.library_count, i.updated_at desc, i.name limit %(walked)s
    ) c
    where {meets_all}
    {the_best}
)
{shown}

-- Whole lists, when common things are seldom together.
-- name: joined
with {wanted}, first as materialized (
    select h.image_name as name from wanted w cross join lateral ({holders}) h where w.number = 1
), second as materialized (
    select h.image_name as name from wanted w cross join lateral ({holders}) h
    where w.number = least(2, (select count(*) from wanted))
), best as (
    select i.name, i.library_count, i.updated_at
    from first c join second s on s.name = c.name join images i on i.name = c.name
    where {usable} and {meets_all}
    {the_best}
)
{shown}
