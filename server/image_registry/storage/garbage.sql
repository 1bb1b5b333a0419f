-- Which of these lives of images there are.
-- name: lives
select id from images where id = any (%(ids)s::bigint[])

-- Which of these repositories an image will be built into, or is to be removed from already.
-- name: awaited
select repository from jobs where repository = any (%(repositories)s::text[]) and status in (1, 2, 5, 7)

-- Which of these names images have.
-- name: names
select name from images where name = any (%(names)s::text[])

-- The wheels that images hold, by their lock: what a rebuild of one of them wants to find in a cache.
-- name: wheels
select distinct library ->> 'sha256' as sha256, i.python_version
from images i cross join lateral json_array_elements(i.lock::json -> 'libraries') as library
where i.lock <> ''

-- Logs of builds that are over, of images that are gone.
-- name: logs
select j.id, j.uuid, j.image_name, j.log_bytes from jobs j
where j.log_parts > 0 and j.status in (3, 4, 6) and j.finished_at < now() - make_interval(secs => %(age)s)
    and not exists (select from images i where i.id = j.image_id)
order by j.id

-- name: remove_log
with gone as (delete from job_logs where job_id = %(id)s)
update jobs set log_parts = 0 where id = %(id)s and status in (3, 4, 6)
