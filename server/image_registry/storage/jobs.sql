-- part: head
j.id, j.uuid, j.kind, j.image_id, j.image_name, j.repository, j.status, j.termination_reason, j.attempt, j.faults,
    j.cancel_requested, j.progress, j.created_at, j.started_at, j.finished_at, j.agent_id, j.log_parts, j.creator,
    j.traceparent,
    coalesce(extract(epoch from coalesce(j.finished_at, now()) - j.started_at), 0)::float8 as running_seconds

-- part: job
{head}, j.definition

-- A build that was lost with its worker for the last time: nobody may take it over.
-- part: given_up
j.status = 7 and j.kind = 1 and j.attempt >= %(max_attempts)s

-- What a worker could take at once, from jobs j, their images i and their bases b: due, its repository free (nobody
-- works on it, nothing older waits for it), and the base of its image not being built.
-- part: may_run
j.status in (5, 7) and j.run_after <= now() and not j.cancel_requested and not ({given_up})
        and (b.id is null or b.status not in (1, 2))
        and not exists (
            select from jobs o
            where o.repository = j.repository and o.status in (1, 2, 5, 7) and (o.status in (1, 2) or o.id < j.id)
        )

-- name: get
select {head} from jobs j where j.uuid = %(uuid)s and j.kind = 1

-- name: lock_by_id
select {job} from jobs j where j.id = %(id)s for update

-- name: unfinished_build
select {job} from jobs j where j.image_id = %(image_id)s and j.kind = 1 and j.status in (1, 2, 5, 7) for update

-- name: insert
insert into jobs as j (
    kind, priority, image_id, image_name, repository, definition, creator, needs_packages, traceparent
)
values (%(kind)s, %(priority)s, %(image_id)s, %(image_name)s, %(repository)s, %(definition)s, %(creator)s,
    %(needs_packages)s, %(traceparent)s)
returning {job}

-- The oldest job of the lowest priority number that may run, and that this worker can do. The base comes from the same
-- snapshot as that judgement, so that it is one that can be built on. Not one of `held`: what this worker still works on
-- has been lost to it, and two attempts of one worker must not meet either.
-- name: claim
with candidate as (
    select j.id, i.lock, i.base_digest, b.id as base_id, b.name as base_name, b.role as base_role, b.status as base_status,
        b.python_version as base_python_version, b.platform_tag as base_platform_tag, b.definition as base_definition
    from jobs j
    left join images i on i.id = j.image_id and j.kind = 1
    left join images b on b.id = i.base_image_id
    where {may_run} and (%(packages)s or not j.needs_packages) and j.id <> all (%(held)s::bigint[])
    order by j.priority, j.id limit 1 for update of j skip locked
)
update jobs j set status = 1, attempt = j.attempt + 1, agent_id = %(agent_id)s,
    lease_expires_at = now() + make_interval(secs => %(lease)s)
from candidate where j.id = candidate.id
returning {job}, candidate.lock, candidate.base_digest, candidate.base_id, candidate.base_name, candidate.base_role, candidate.base_status,
    candidate.base_python_version, candidate.base_platform_tag, candidate.base_definition

-- name: set_definition
update jobs set definition = %(definition)s where {owned}

-- Seconds until the first job that only waits for its time, and that this worker can do; null: none.
-- name: next_due
select extract(epoch from min(run_after) - now())::float8 as seconds
from jobs where status in (5, 7) and run_after > now() and (%(packages)s or not needs_packages)

-- How long the queue is, by priority, and how much of it wants system packages; and what is at work. From the indexes of
-- unfinished jobs alone.
-- name: depth
select 'waiting' as what, priority, count(*) as jobs from jobs where status in (5, 7) group by priority
union all
select 'waiting for packages', null, count(*) from jobs where needs_packages and status in (5, 7)
union all
select 'running', null, count(*) from jobs where status in (1, 2)

-- For how long the oldest job of each priority that may run has waited.
-- name: oldest_claimable
select wanted.priority, extract(epoch from now() - oldest.since)::float8 as seconds
from unnest(%(priorities)s::smallint[]) as wanted (priority) cross join lateral (
    select greatest(j.created_at, j.run_after) as since
    from jobs j
    left join images i on i.id = j.image_id and j.kind = 1
    left join images b on b.id = i.base_image_id
    where {may_run} and j.priority = wanted.priority
    order by j.id limit 1
) oldest

-- name: start
update jobs set status = 2, started_at = coalesce(started_at, now())
where {owned} and status = 1
returning cancel_requested

-- name: renew
update jobs set lease_expires_at = now() + make_interval(secs => %(lease)s)
where {owned}
returning cancel_requested

-- name: set_progress
update jobs set progress = %(progress)s where {owned}

-- Locks the job of one attempt, if that attempt still owns it.
-- name: lock_attempt
select {job} from jobs j where {owned} for update

-- name: finish
update jobs set status = %(status)s, termination_reason = %(reason)s, finished_at = now(), lease_expires_at = null,
    progress = case when %(progress)s::text = '' then progress else %(progress)s::text end
where id = %(id)s and status in (1, 2, 5, 7)

-- Back into the queue; `faults` counts only what was the attempt's own fault, not a drain.
-- name: put_back
update jobs set status = 5, lease_expires_at = null, run_after = now() + make_interval(secs => %(delay)s),
    faults = faults + %(fault)s, progress = %(progress)s
where id = %(id)s and status in (1, 2)

-- name: request_cancel
update jobs set cancel_requested = true where id = %(id)s

-- Jobs whose worker was silent for a whole lease, which is no fault of the jobs.
-- name: expire_leases
update jobs set status = 7, lease_expires_at = null
where id in (select id from jobs where status in (1, 2) and lease_expires_at < now() for update skip locked)
returning id

-- Lost jobs that nobody should take over: cancelled meanwhile, or begun too often.
-- name: hopeless
select {head} from jobs j
where (j.status = 7 and j.cancel_requested) or ({given_up}) order by j.id

-- name: worker_seen
insert into workers (agent_id, packages) values (%(agent_id)s, %(packages)s)
on conflict (agent_id) do update set packages = excluded.packages, seen_at = now()

-- name: forget_workers
delete from workers where seen_at < now() - interval '1 day'

-- Says of builds that wait for a worker with certain capabilities that they do, while there is none.
-- name: show_waiting
update jobs set progress = %(progress)s
where status in (5, 7) and needs_packages and run_after <= now() and progress <> %(progress)s and not exists (
    select from workers where packages and seen_at > now() - make_interval(secs => %(silence)s)
)

-- Builds that no worker there is could do, none having been seen that can for so long.
-- name: without_engine
select {head} from jobs j
where j.status in (5, 7) and j.needs_packages
    and j.run_after < now() - make_interval(secs => %(patience)s) and not exists (
        select from workers where packages and seen_at > now() - make_interval(secs => %(patience)s)
    )
order by j.id

-- Newest first. With statuses each one is read by index and the pieces are merged, so that rare ones cost no more.
-- name: page
select {head} from jobs j
where j.kind = 1 and j.id < coalesce(%(before)s::bigint, 9223372036854775807)
order by j.id desc limit %(limit)s

-- name: page_of_image
select {head} from jobs j
where j.kind = 1 and j.image_name = %(image_name)s and j.id < coalesce(%(before)s::bigint, 9223372036854775807)
    and (%(statuses)s::smallint[] = '{}' or j.status = any (%(statuses)s::smallint[]))
order by j.id desc limit %(limit)s

-- name: page_by_status
select {head}
from unnest(%(statuses)s::smallint[]) as wanted (status) cross join lateral (
    select * from jobs
    where kind = 1 and status = wanted.status and id < coalesce(%(before)s::bigint, 9223372036854775807)
    order by id desc limit %(limit)s
) j
order by j.id desc limit %(limit)s
