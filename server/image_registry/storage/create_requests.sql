-- name: remember
insert into create_requests (creator, request_id, fingerprint, definition, job_uuid, created_at)
values (%(creator)s, %(request_id)s, %(fingerprint)s, %(definition)s, %(job_uuid)s, %(created_at)s)
on conflict do nothing

-- name: first_answer
select fingerprint, definition, job_uuid, created_at from create_requests
where creator = %(creator)s and request_id = %(request_id)s

-- name: expire
delete from create_requests where (creator, request_id) in (
    select creator, request_id from create_requests
    where created_at < now() - make_interval(secs => %(age)s)
    order by created_at limit %(limit)s
)
