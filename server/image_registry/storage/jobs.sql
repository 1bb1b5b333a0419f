-- name: get
select *, extract(epoch from coalesce(finished_at, now()) - started_at)::float8 as running_seconds
from jobs where uuid = %(uuid)s and kind = 1

-- name: lock_by_id
select *, extract(epoch from coalesce(finished_at, now()) - started_at)::float8 as running_seconds
from jobs where id = %(id)s for update

-- name: unfinished_build
select *, extract(epoch from now() - started_at)::float8 as running_seconds
from jobs where image_id = %(image_id)s and kind = 1 and status in (1, 2, 5, 7) for update

-- name: insert
insert into jobs (kind, priority, image_id, image_name, repository, definition)
values (%(kind)s, %(priority)s, %(image_id)s, %(image_name)s, %(repository)s, %(definition)s)
returning *, 0.0::float8 as running_seconds

-- The oldest job of the lowest priority number that may run: its repository is free (nobody works on it, nothing
-- older waits for it) and the base of its image is not being built.
-- name: claim
update jobs set status = 1, attempt = attempt + 1, agent_id = %(agent_id)s,
    lease_expires_at = now() + make_interval(secs => %(lease)s)
where id = (
    select j.id from jobs j
    left join images i on i.id = j.image_id and j.kind = 1
    left join images b on b.id = i.base_image_id
    where j.status in (5, 7) and j.run_after <= now() and not j.cancel_requested
        and (b.id is null or b.status not in (1, 2))
        and not exists (
            select from jobs o
            where o.repository = j.repository and o.status in (1, 2, 5, 7) and (o.status in (1, 2) or o.id < j.id)
        )
    order by j.priority, j.id limit 1 for update of j skip locked
)
returning *, extract(epoch from now() - started_at)::float8 as running_seconds

-- Seconds until the first job that only waits for its time; null: none.
-- name: next_due
select extract(epoch from min(run_after) - now())::float8 as seconds
from jobs where status in (5, 7) and run_after > now()

-- name: start
update jobs set status = 2, started_at = coalesce(started_at, now())
where id = %(id)s and attempt = %(attempt)s and status = 1
returning id

-- name: renew
update jobs set lease_expires_at = now() + make_interval(secs => %(lease)s)
where id = %(id)s and attempt = %(attempt)s and status in (1, 2)
returning cancel_requested

-- name: set_progress
update jobs set progress = %(progress)s where id = %(id)s and attempt = %(attempt)s and status in (1, 2)

-- Locks the job of one attempt, if that attempt still owns it.
-- name: lock_attempt
select *, extract(epoch from now() - started_at)::float8 as running_seconds
from jobs where id = %(id)s and attempt = %(attempt)s and status in (1, 2) for update

-- name: finish
update jobs set status = %(status)s, termination_reason = %(reason)s, finished_at = now(), lease_expires_at = null,
    progress = case when %(progress)s::text = '' then progress else %(progress)s::text end
where id = %(id)s and status in (1, 2, 5, 7)

-- Back into the queue; `faults` counts only what was the attempt's own fault, not a drain.
-- name: put_back
update jobs set status = 5, lease_expires_at = null, run_after = now() + make_interval(secs => %(delay)s),
    faults = faults + %(fault)s, progress = %(progress)s
where id = %(id)s

-- name: request_cancel
update jobs set cancel_requested = true where id = %(id)s

-- Jobs whose worker was silent for a whole lease.
-- name: expire_leases
update jobs set status = 7, lease_expires_at = null, faults = faults + 1
where id in (select id from jobs where status in (1, 2) and lease_expires_at < now() for update skip locked)
returning id, faults, cancel_requested

-- Lost jobs that nobody should take over: cancelled meanwhile, or lost too often.
-- name: hopeless
select *, extract(epoch from now() - started_at)::float8 as running_seconds
from jobs where status = 7 and (cancel_requested or (kind = 1 and faults >= %(max_faults)s)) order by id
