-- Appends a part if the log has room for it. The row's lock keeps parts in order; who lost the job writes nothing.
-- name: append
with room as (
    select id, log_lost = 0 and log_bytes + %(size)s <= %(limit)s as fits
    from jobs where {owned} for update
), job as (
    update jobs set
        log_parts = log_parts + case when room.fits then 1 else 0 end,
        log_bytes = log_bytes + case when room.fits then %(size)s else 0 end,
        log_lost = log_lost + case when room.fits then 0 else %(size)s end
    from room where jobs.id = room.id
    returning jobs.id, log_parts, room.fits
)
insert into job_logs (job_id, part, text)
select id, log_parts, %(text)s from job where job.fits

-- name: parts
select part, text from job_logs where job_id = %(id)s and part > %(after)s order by part limit 64

-- name: state
select id, status in (3, 4, 6) as finished, log_parts, log_lost from jobs where uuid = %(uuid)s and kind = 1

-- name: expire
with old as (
    select id from jobs where log_parts > 0 and finished_at < now() - make_interval(secs => %(retention)s)
    limit 100 for update skip locked
), gone as (
    delete from job_logs using old where job_id = old.id
)
update jobs set log_parts = 0 from old where jobs.id = old.id
returning jobs.id
