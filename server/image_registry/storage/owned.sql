-- The job that one attempt of one worker still owns. The number alone isn't enough: a failover or a restore that loses a
-- claim gives the same number to the next worker.
-- part: owned
id = %(id)s and attempt = %(attempt)s and agent_id = %(agent_id)s and status in (1, 2)
