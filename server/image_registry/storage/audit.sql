-- name: insert
insert into audit_log (at, who, role, what, target, result, request_id)
select * from unnest(
    %(at)s::timestamptz[], %(who)s::text[], %(role)s::text[], %(what)s::text[],
    %(target)s::text[], %(result)s::text[], %(request_id)s::text[]
)
