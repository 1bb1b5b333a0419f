-- part: key
prefix, hash, role, name, created_at, expires_at, revoked_at, last_used_at, change

-- name: insert
insert into api_keys (prefix, hash, role, name, expires_at)
values (%(prefix)s, %(hash)s, %(role)s, %(name)s, %(expires_at)s)
on conflict (prefix) do nothing
returning {key}

-- name: list
select {key} from api_keys order by id

-- A key that is revoked already keeps its time.
-- name: revoke
update api_keys set revoked_at = now() where prefix = %(prefix)s and revoked_at is null

-- name: get
select {key} from api_keys where prefix = %(prefix)s

-- name: changed
select {key} from api_keys where change >= %(change)s order by change

-- Replicas note uses independently; a minute's worth of them is one write.
-- name: note_use
update api_keys set last_used_at = now()
where prefix = %(prefix)s and (last_used_at is null or last_used_at < now() - interval '55 seconds')
