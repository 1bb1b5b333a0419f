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

-- That `c` meets all but the first `listed`. `offset 0` keeps a look-up what it is: without it the planner may make a
-- join of it.
-- part: meets_the_rest
not exists (
    select from wanted w where w.number > %(listed)s and not exists (
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

-- name: versions
select k.library as key, v.version
from unnest(%(keys)s::text[]) as k (library) cross join lateral ({present_versions}) v

-- name: local_versions
select distinct l.library as key, l.version, l.local from image_libraries l where l.library = any (%(keys)s)

-- How many images meet each of the wanted, counted no further than `enough`.
-- name: holders
with {wanted}
select w.number, (select count(*) from (select from ({holders}) h limit %(enough)s) as counted) as holders
from wanted w

-- How common keys are by the planner's statistics, which know the most common ones alone.
-- name: shares
select v.key, v.share
from pg_stats s
    cross join lateral unnest(s.most_common_vals::text::text[], s.most_common_freqs) as v (key, share)
where s.schemaname = current_schema() and s.tablename = 'image_libraries' and s.attname = 'library'
    and v.key = any (%(keys)s)

-- The best of those `known`: looked up in their order, until there are enough. Here and below what is joined with `images`
-- is materialized, or the planner goes through all images in that order.
-- part: best_known
best as (
    select c.name, c.library_count, c.updated_at from (
        select name, library_count, updated_at from known order by library_count, updated_at desc, name offset 0
    ) c
    where {meets_the_rest}
    {the_best}
)

-- From the list of the rarest, when it is short.
-- name: from_list
with {wanted}, candidates as materialized (
    select h.image_name as name from wanted w cross join lateral ({holders}) h where w.number = 1
), known as materialized (
    select i.name, i.library_count, i.updated_at from candidates c join images i on i.name = c.name where {usable}
), {best_known}
{shown}

-- From what bitmaps let through.
-- name: from_ids
with {wanted}, known as materialized (
    select i.name, i.library_count, i.updated_at from images i where i.id = any (%(ids)s::bigint[]) and {usable}
), {best_known}
{shown}

-- In the order of the best, when all that is wanted is common: the first hits are the answer. The walk is bounded.
-- name: walked
with {wanted}, best as (
    select c.name, c.library_count, c.updated_at from (
        select i.name, i.library_count, i.updated_at from images i
        where {usable} and i.library_count >= %(least)s
        order by i.library_count, i.updated_at desc, i.name limit %(walked)s
    ) c
    where {meets_the_rest}
    {the_best}
)
{shown}

-- The two rarest lists as a whole, when common things are seldom together.
-- name: joined
with {wanted}, candidates as materialized (
    select h.image_name as name from wanted w cross join lateral ({holders}) h where w.number = 1
    intersect
    select h.image_name from wanted w cross join lateral ({holders}) h
    where w.number = least(2, (select count(*) from wanted))
), hits as materialized (
    select c.name from candidates c where {meets_the_rest}
), known as materialized (
    select i.name, i.library_count, i.updated_at from hits c join images i on i.name = c.name where {usable}
), best as (
    select name, library_count, updated_at from known {the_best}
)
{shown}
